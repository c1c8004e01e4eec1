"""Pools of two workers: one call there and back, a thousand at once, and the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter

from tests.benchmarks.comparison import Cell, Run, arena, cell, take
from tests.benchmarks.rivals import Absent, Level, Place
from tests.benchmarks.rivals.pools import POOLS, PoolRival

__all__ = ["calls", "start"]

AT_ONCE = 1_000


def calls(run: Run) -> Iterator[Cell]:
    """Have ``abs`` called by a worker: one call after another, and 1,000 handed over at once."""

    def one(rival: PoolRival, count: int) -> float:
        times = []
        for number in range(count):
            start = perf_counter()
            if rival.call(-number) != number:
                raise RuntimeError("a wrong result")
            times.append(perf_counter() - start)
        return median(times) * count

    def many(rival: PoolRival, count: int) -> float:
        start = perf_counter()
        results = rival.call_all(range(-count, 0))
        seconds = perf_counter() - start
        if results != list(range(count, 0, -1)):
            raise RuntimeError("wrong results")
        return seconds

    with arena(run, "calls", POOLS, list(Level)) as open_rivals:
        for rival in open_rivals.rivals.values():
            rival.pause()
        rounds = run.settings.either(5, 2)
        works = {key: _awake(rival, partial(one, rival)) for key, rival in open_rivals.rivals.items()}
        taken = take(run, "call", works, seconds=0.03 if run.settings.quick else 0.15, rounds=rounds)
        yield from (cell("call, p50", *key, found) for key, found in taken.items())
        works = {key: _awake(rival, partial(many, rival)) for key, rival in open_rivals.rivals.items()}
        taken = take(run, "1,000 calls", works, operations=run.settings.either(AT_ONCE, 200), rounds=rounds)
        yield from (cell("calls handed over at once", *key, found) for key, found in taken.items())
        yield from (cell(name, *key, found) for name in ("call, p50", "calls handed over at once") for key, found in open_rivals.failures.items())


def _awake(rival: PoolRival, work: Callable[[int], float]) -> Callable[[int], float]:
    def awake(count: int) -> float:
        rival.resume()
        try:
            return work(count)
        finally:
            rival.pause()

    return awake


def start(run: Run) -> Iterator[Cell]:
    """Start a pool of two, from nothing to the first results."""
    fresh = iter(range(10_000))

    def begin(kind: type[PoolRival], level: Level, count: int) -> float:
        folder = run.settings.folder / f"start{next(fresh)}"
        folder.mkdir()
        begun = perf_counter()
        with kind.hosted(Place(folder, level)) as place:
            rival = kind(place)
            seconds = perf_counter() - begun
            rival.close()
        return seconds

    works: dict[tuple[type[PoolRival], Level], Callable[[int], float]] = {}
    for kind in POOLS:
        try:
            kind.check()
        except Absent as error:
            run.absent[kind.name] = str(error)
        else:
            works[kind, kind.levels[-1]] = partial(begin, kind, kind.levels[-1])
    taken = take(run, "start", works, operations=1, rounds=run.settings.either(5, 1))
    yield from (cell("start of a pool", *key, found) for key, found in taken.items())
