"""Dicts: one entry at a time, a thousand at once, at growing sizes, and by several processes at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, Final

from tests.benchmarks.comparison import Cell, Run, Taken, arena, cell, failure_of, take, timed
from tests.benchmarks.crew import Crew, duties
from tests.benchmarks.rivals import Level, Place
from tests.benchmarks.rivals.aio import AWAITED_MAPPINGS
from tests.benchmarks.rivals.mappings import MAPPINGS, MappingRival
from tests.benchmarks.single import key_names

__all__ = ["batches", "contention", "entries", "operations", "values"]

KINDS: Final[tuple[type[MappingRival], ...]] = (*MAPPINGS, *AWAITED_MAPPINGS)
VALUE: Final = "v" * 100
HELD: Final = 1_000
BATCH: Final = 1_000
KEYS_FOR_VALUES: Final = 32
CROWD: Final = 4


def cycle(names: Sequence[str], count: int) -> list[str]:
    """Return ``count`` names, over and over the same."""
    return [*names] * (count // len(names)) + [*names[: count % len(names)]]


def _gets(rival: MappingRival, names: Sequence[str], count: int) -> float:
    wanted = cycle(names, count)
    return timed(lambda: rival.gets(wanted))


def _sets(rival: MappingRival, names: Sequence[str], value: str, count: int) -> float:
    wanted = cycle(names, count)
    return timed(lambda: rival.sets(wanted, value))


def operations(run: Run) -> Iterator[Cell]:
    """Get and set entries of 100 bytes in a dict of 1,000, one after another, at each level."""
    names = key_names(HELD)
    with arena(run, "operations", KINDS, list(Level)) as open_rivals:
        for rival in open_rivals.rivals.values():
            rival.update(dict.fromkeys(names, VALUE))
        random.Random(run.seed).shuffle(names)
        for level in Level:
            here = open_rivals.at(level)
            for scenario, works in (
                ("get", {key: partial(_gets, rival, names) for key, rival in here.items()}),
                ("set", {key: partial(_sets, rival, names, VALUE) for key, rival in here.items()}),
            ):
                taken = take(run, f"{scenario} {level}", works)
                yield from (cell(scenario, *key, found) for key, found in taken.items())
        yield from (cell(scenario, *key, found) for scenario in ("get", "set") for key, found in open_rivals.failures.items())


def batches(run: Run) -> Iterator[Cell]:
    """Store 1,000 entries of 100 bytes in one transaction."""
    batch = dict.fromkeys(key_names(BATCH), VALUE)

    def work(rival: MappingRival, count: int) -> float:
        return sum(timed(lambda: rival.update(batch)) for _ in range(count))

    with arena(run, "batches", KINDS, list(Level)) as open_rivals:
        for level in Level:
            taken = take(run, f"batch {level}", {key: partial(work, rival) for key, rival in open_rivals.at(level).items()}, per=BATCH)
            yield from (cell("batch", *key, found) for key, found in taken.items())
        yield from (cell("batch", *key, found) for key, found in open_rivals.failures.items())


def values(run: Run) -> Iterator[Cell]:
    """Get and set values from 10 bytes to a megabyte, where a process may die; set them where the machine may."""
    sizes = [10, 1_000, 100_000] if run.settings.quick else [10, 100, 1_000, 10_000, 100_000, 1_000_000]
    names = key_names(KEYS_FOR_VALUES)
    levels = {Level.PROCESS: ("get", "set"), Level.POWER: ("set",), Level.MEMORY: ("get", "set")}
    with arena(run, "values", KINDS, list(levels)) as open_rivals:
        for size in sizes:
            value = "v" * size
            for rival in open_rivals.rivals.values():
                rival.sets(names, value)
            for level, scenarios in levels.items():
                here = open_rivals.at(level)
                for scenario in scenarios:
                    works: dict[Any, Callable[[int], float]] = {
                        key: partial(_gets, rival, names) if scenario == "get" else partial(_sets, rival, names, value) for key, rival in here.items()
                    }
                    taken = take(run, f"value {scenario} {level} {size}", works, rounds=run.settings.either(5, 3), seconds=_part(run))
                    yield from (cell(f"{scenario} by value", kind, at, found, size=size) for (kind, at), found in taken.items())


def entries(run: Run) -> Iterator[Cell]:
    """Get and set entries of 100 bytes where there are from a thousand to a million of them; a process may die."""
    sizes = [1_000, 10_000, 100_000, 1_000_000][: run.settings.either(4, 2)]
    levels = (Level.PROCESS, Level.MEMORY)
    patience = run.settings.either(15, 2)
    with arena(run, "entries", KINDS, levels) as open_rivals:
        remaining = dict(open_rivals.rivals)
        for before, size in zip([0, *sizes], sizes, strict=False):
            names = key_names(size)
            for key, rival in list(remaining.items()):
                failure = _fill(rival, names[before:], patience)
                if failure:
                    del remaining[key]
                    for scenario in ("get", "set"):
                        yield cell(f"{scenario} by entries", *key, Taken(failure=failure), size=size)
            chosen = random.Random(f"{run.seed} {size}").choices(names, k=HELD)
            for scenario in ("get", "set"):
                works: dict[Any, Callable[[int], float]] = {
                    key: partial(_gets, rival, chosen) if scenario == "get" else partial(_sets, rival, chosen, VALUE)
                    for key, rival in remaining.items()
                }
                taken = take(run, f"entries {scenario} {size}", works, rounds=run.settings.either(5, 3), seconds=_part(run))
                yield from (cell(f"{scenario} by entries", kind, at, found, size=size) for (kind, at), found in taken.items())


def _part(run: Run) -> float:
    return 0.008 if run.settings.quick else 0.04


def _fill(rival: MappingRival, names: Sequence[str], patience: float) -> str:
    """Store entries; return why not, if it would take too long: judged by the first of them."""
    chunk = 2_000
    begun = time.monotonic()
    for first in range(0, len(names), chunk):
        rival.update(dict.fromkeys(names[first : first + chunk], VALUE))
        used = time.monotonic() - begun
        share = min(1.0, (first + chunk) / len(names))
        if used > 0.5 and used / share > patience:
            return f"not measured: to fill it would take {used / share:.0f} s"
        chunk = 20_000 if used < 0.5 else chunk
    return ""


def contention(run: Run) -> Iterator[Cell]:
    """Have four processes set and four others get entries of one dict, as often as they can for a while."""
    seconds = run.settings.either(500, 100) / 1_000
    names = key_names(HELD)
    levels = (Level.PROCESS, Level.MEMORY)
    kinds = [kind for kind in MAPPINGS if kind.shared_by_processes]
    with arena(run, "contention", kinds, levels) as open_rivals:
        for rival in open_rivals.rivals.values():
            rival.update(dict.fromkeys(names, VALUE))
        places = {f"{kind.name} {level.name}": (kind, rival.place) for (kind, level), rival in open_rivals.rivals.items()}
        with Crew(*[(_contender, number < CROWD, places) for number in range(2 * CROWD)]) as crew:
            for name in places:  # so that no slice contains an opening
                crew.work(name, 0.0)

            def work(name: str, count: int) -> tuple[float, ...]:
                results = [report.result for report in crew.work(name, seconds)]
                for failure in results:
                    if isinstance(failure, str):
                        raise RuntimeError(failure)
                done = [sum(operations for operations, _ in part) for part in (results[:CROWD], results[CROWD:])]
                longest = max(longest for _, longest in results[:CROWD])
                return (seconds / max(1, done[0]), seconds / max(1, done[1]), longest)

            works = {key: partial(work, f"{key[0].name} {key[1].name}") for key in open_rivals.rivals}
            taken = take(run, "contention", works, rounds=run.settings.either(5, 2), operations=1)
        for key, found in taken.items():
            for measure, scenario in enumerate(("contention: set", "contention: get", "contention: longest set")):
                yield cell(scenario, *key, found, measure=measure)


def _contender(connection: Connection, writes: bool, places: dict[str, tuple[type[MappingRival], Place]]) -> None:
    names = key_names(HELD)
    opened: dict[str, MappingRival] = {}

    def work(name: str, seconds: float) -> Any:
        try:
            if name not in opened:
                kind, place = places[name]
                opened[name] = kind(place)
            return act(opened[name], seconds)
        except Exception as error:
            return failure_of(error)

    def act(rival: MappingRival, seconds: float) -> tuple[int, float]:
        chosen = random.Random().choices(names, k=HELD)
        operations, longest = 0, 0.0
        end = perf_counter() + seconds
        while True:
            for name in chosen:
                start = perf_counter()
                if start > end:
                    return operations, longest
                if writes:
                    rival.set(name, VALUE)
                else:
                    rival.get(name)
                longest = max(longest, perf_counter() - start)
                operations += 1

    try:
        duties(connection, {name: partial(work, name) for name in places})
    finally:
        for rival in opened.values():
            rival.close()
