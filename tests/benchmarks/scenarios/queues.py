"""Queues: in one process, from one process to another, there and back, among many, and when nothing comes."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty
from typing import Any, Final

from tests.benchmarks.comparison import Cell, Run, arena, cell, failure_of, take, timed
from tests.benchmarks.crew import Crew, Report, duties
from tests.benchmarks.measure import quantile
from tests.benchmarks.rivals import Level, Place
from tests.benchmarks.rivals.aio import AWAITED_QUEUES, PersistQueueAsync
from tests.benchmarks.rivals.queues import QUEUES, QueueRival

__all__ = ["batches", "between", "crowd", "idle", "one_process", "ping_pong"]

KINDS: Final[tuple[type[QueueRival], ...]] = (*QUEUES, *AWAITED_QUEUES)
ITEM: Final = "i" * 100
BATCH: Final = 1_000
CROWD: Final = 4
_PATIENCE: Final = 10.0

Key = tuple[type[QueueRival], Level]
Duty = Callable[..., Any]


def one_process(run: Run) -> Iterator[Cell]:
    """Put an item of 100 bytes and take it again, in one process, at each level."""

    def work(rival: QueueRival, count: int) -> float:
        return timed(lambda: rival.pairs(count, ITEM))

    with arena(run, "pairs", KINDS, list(Level)) as open_rivals:
        for level in Level:
            taken = take(run, f"pairs {level}", {key: partial(work, rival) for key, rival in open_rivals.at(level).items()})
            yield from (cell("put and get", *key, found) for key, found in taken.items())
        yield from (cell("put and get", *key, found) for key, found in open_rivals.failures.items())


def batches(run: Run) -> Iterator[Cell]:
    """Put 1,000 items in one transaction, and take them again in one."""
    items = [ITEM] * BATCH

    def work(rival: QueueRival, count: int) -> float:
        def act() -> None:
            for _ in range(count):
                rival.put_many(items)
                if len(rival.get_many(BATCH)) != BATCH:
                    raise RuntimeError("items were lost")

        return timed(act)

    kinds = [kind for kind in KINDS if kind.batches]
    levels = (Level.POWER, Level.PROCESS, Level.MEMORY)
    with arena(run, "many", kinds, levels) as open_rivals:
        for level in levels:
            taken = take(run, f"many {level}", {key: partial(work, rival) for key, rival in open_rivals.at(level).items()}, per=BATCH)
            yield from (cell("put_many and get_many", *key, found) for key, found in taken.items())


def between(run: Run) -> Iterator[Cell]:
    """Move items from one process to another, one by one: from the first put until the last get."""
    with _stage(run, "between", (Level.POWER, Level.PROCESS, Level.MEMORY), 2) as (crew, keys):

        def work(key: Key, count: int) -> float:
            reports = _checked(crew, "transfer", _name(key), count)
            return max(report.seconds for report in reports)

        for level in Level:
            works = {key: partial(work, key) for key in keys if key[1] is level}
            taken = take(run, f"between {level}", works, seconds=0.03 if run.settings.quick else 0.15, rounds=run.settings.either(5, 2))
            yield from (cell("producer and consumer", *key, found) for key, found in taken.items())


def ping_pong(run: Run) -> Iterator[Cell]:
    """Send an item to another process through one queue, and await its answer through another."""
    with _stage(run, "ping", (Level.POWER, Level.PROCESS, Level.MEMORY), 2, pair=True) as (crew, keys):

        def work(key: Key, count: int) -> tuple[float, ...]:
            times = _checked(crew, "ping", _name(key), count)[0].result
            return (sum(times), quantile(times, 0.5), quantile(times, 0.99))

        for level in Level:
            works = {key: partial(work, key) for key in keys if key[1] is level}
            rounds = run.settings.either(5, 2)
            taken = take(run, f"ping {level}", works, seconds=0.04 if run.settings.quick else 0.2, rounds=rounds, most=1_000)
            for key, found in taken.items():
                note = "" if key[0].waits else "looks every millisecond"
                yield cell("ping-pong, p50", *key, found, measure=1, note=note)
                yield cell("ping-pong, p99", *key, found, measure=2, note=note)


def crowd(run: Run) -> Iterator[Cell]:
    """Have four processes put and four others take, each item exactly once."""
    total = run.settings.either(2_000, 200)
    levels = (Level.PROCESS, Level.POWER, Level.MEMORY)
    with _stage(run, "crowd", levels, 2 * CROWD) as (crew, keys):

        def work(key: Key, count: int) -> float:
            reports = _checked(crew, "crowd", _name(key), total)
            delivered = Counter(item for report in reports for item in report.result or ())
            twice, lost = sum(number > 1 for number in delivered.values()), total - len(delivered)
            if twice or lost:
                raise RuntimeError(f"of {total} items, {twice} were delivered twice and {lost} not at all")
            return max(report.seconds for report in reports) / total

        for level in Level:
            works = {key: partial(work, key) for key in keys if key[1] is level}
            taken = take(run, f"crowd {level}", works, operations=1, rounds=run.settings.either(3, 1))
            yield from (cell("4 producers and 4 consumers", *key, found) for key, found in taken.items())


def idle(run: Run) -> Iterator[Cell]:
    """Wait for an item that does not come, in a process where nothing else happens: processor time, and how often the kernel had to run it."""
    seconds = run.settings.either(1_000, 300) / 1_000
    with _stage(run, "idle", (Level.PROCESS, Level.POWER, Level.MEMORY), 1) as (crew, keys):
        chosen = {key[0].name: key for key in reversed(keys)}  # the level makes no difference: one of each rival, the least durable

        def work(key: Key, count: int) -> tuple[float, ...]:
            used, switches = _checked(crew, "idle", _name(key), seconds)[0].result
            return (seconds, used / seconds, switches / seconds)

        works = {key: partial(work, key) for key in keys if key in chosen.values()}
        taken = take(run, "idle", works, operations=1, rounds=run.settings.either(3, 1))
        for key, found in taken.items():
            yield cell("idle wait: processor time in a second", *key, found, measure=1)
            yield cell("idle wait: wake-ups in a second", *key, found, measure=2, unit="")


def _name(key: Key) -> str:
    return f"{key[0].name} {key[1].name}"


def _checked(crew: Crew, duty: str, *arguments: Any) -> list[Report]:
    reports = crew.work(duty, *arguments)
    for report in reports:
        if isinstance(report.result, str):
            raise RuntimeError(report.result)
    return reports


@contextmanager
def _stage(run: Run, name: str, levels: tuple[Level, ...], members: int, *, pair: bool = False) -> Iterator[tuple[Crew, list[Key]]]:
    """Have all queues that processes can share, and a crew that knows them, for the time of a block."""
    kinds = [kind for kind in KINDS if kind.across_processes and kind is not PersistQueueAsync]
    with arena(run, name, kinds, levels) as there, arena(run, f"{name}-back", kinds if pair else [], levels) as back:
        places = {
            _name(key): (key[0], rival.place, back.rivals[key].place if pair else None)
            for key, rival in there.rivals.items()
            if not pair or key in back.rivals
        }
        with Crew(*[(_member, number, members, places) for number in range(members)]) as crew:
            for rival in places:  # so that no slice contains an opening; one that fails will fail again when it is timed
                crew.work("opening", rival)
            yield crew, [key for key in there.rivals if _name(key) in places]


def _member(connection: Connection, position: int, members: int, places: dict[str, tuple[type[QueueRival], Place, Place | None]]) -> None:
    opened: dict[Path, QueueRival] = {}

    def queue(kind: type[QueueRival], place: Place) -> QueueRival:
        if place.folder not in opened:
            opened[place.folder] = kind(place)
        return opened[place.folder]

    def guarded(act: Callable[..., Any]) -> Callable[..., Any]:
        def duty(name: str, *arguments: Any) -> Any:
            kind, place, other = places[name]
            try:
                return act(queue(kind, place), *([queue(kind, other)] if other else []), *arguments)
            except Exception as error:
                return failure_of(error)

        return duty

    def opening(*rivals: QueueRival) -> None:
        pass

    def transfer(rival: QueueRival, count: int) -> None:
        if position == 0:
            rival.produce([ITEM] * count)
        elif len(rival.consume(count, _PATIENCE)) < count:
            raise RuntimeError("items were lost")

    def ping(there: QueueRival, back: QueueRival, turns: int) -> list[float] | None:
        if position == 0:
            return there.serve(back, turns, _PATIENCE)
        there.answer(back, turns, _PATIENCE)
        return None

    def crowd(rival: QueueRival, total: int) -> list[Any] | None:
        producers = members // 2
        if position < producers:
            rival.produce([f"{number} {ITEM}" for number in range(position, total, producers)])
            return None
        return rival.consume(total // producers, _PATIENCE / 4)

    def idle(rival: QueueRival, seconds: float) -> tuple[float, float]:
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        try:
            rival.take(seconds)
        except Empty:
            pass
        after = resource.getrusage(resource.RUSAGE_SELF)
        if time.monotonic() - begun < seconds / 2:
            raise RuntimeError("it did not wait")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, float(after.ru_nvcsw - before.ru_nvcsw)

    try:
        duties(connection, {act.__name__: guarded(act) for act in (opening, transfer, ping, crowd, idle)})
    finally:
        for rival in opened.values():
            rival.close()
