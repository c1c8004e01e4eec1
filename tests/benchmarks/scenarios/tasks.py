"""Many tasks of one event loop that store durably: what they gain by waiting at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from tests.benchmarks.comparison import Cell, Run, arena, cell, take, timed
from tests.benchmarks.rivals import Level
from tests.benchmarks.rivals.aio import AWAITED_MAPPINGS, AWAITED_QUEUES, AwaitedMapping, AwaitedQueue
from tests.benchmarks.single import key_names

__all__ = ["durable_puts", "durable_sets"]

TASKS: Final = [1, 10, 100, 1_000]
QUICK_TASKS: Final = [1, 100]
VALUE: Final = "v" * 100


def durable_sets(run: Run) -> Iterator[Cell]:
    """Have from 1 to 1,000 tasks set entries, each acknowledged as safe from power loss, one after another in each task."""
    names = key_names(1_000)
    with arena(run, "sets", AWAITED_MAPPINGS, (Level.POWER,)) as open_rivals:

        def work(rival: AwaitedMapping, tasks: int, count: int) -> float:
            # At least one each, however few operations the slice is meant to have.
            made = max(count, tasks)
            return timed(lambda: rival.spread(lambda number: rival.aset(names[number % len(names)], VALUE), tasks, made)) * count / made

        for tasks in QUICK_TASKS if run.settings.quick else TASKS:
            seconds = 0.03 if run.settings.quick else 0.15
            works = {key: partial(work, rival, tasks) for key, rival in open_rivals.rivals.items()}
            taken = take(run, f"durable sets {tasks}", works, rounds=run.settings.either(5, 2), seconds=seconds)
            yield from (cell("set by tasks", *key, found, size=tasks) for key, found in taken.items())


def durable_puts(run: Run) -> Iterator[Cell]:
    """Have from 1 to 1,000 tasks put items into one queue, each acknowledged as safe from power loss."""
    with arena(run, "puts", AWAITED_QUEUES, (Level.POWER,)) as open_rivals:

        def work(rival: AwaitedQueue, tasks: int, count: int) -> float:
            made = max(count, tasks)
            return timed(lambda: rival.spread(lambda number: rival.aput(VALUE), tasks, made)) * count / made

        for tasks in QUICK_TASKS if run.settings.quick else TASKS:
            seconds = 0.03 if run.settings.quick else 0.15
            works = {key: partial(work, rival, tasks) for key, rival in open_rivals.rivals.items()}
            taken = take(run, f"durable puts {tasks}", works, rounds=run.settings.either(5, 2), seconds=seconds)
            yield from (cell("put by tasks", *key, found, size=tasks) for key, found in taken.items())
