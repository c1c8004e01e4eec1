"""Dict and Log in one process: single operations, many in one transaction, iteration, and what a million entries change."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pickle import dumps, loads
from time import perf_counter

import lmdb

from parkit import Dict, Log, Queue, set_namespace_synchronous, statistics, transaction

from . import bare
from .measure import Budget, Result, Settings, absolute, compare, interleave, microseconds, quantile

__all__ = ["durable_set", "explicit", "gets", "growth", "iteration", "sets", "update"]

ENTRIES = 1_000


def key_names(count: int) -> list[str]:
    """Return the keys that all benchmarks use."""
    return [f"key{number:07}" for number in range(count)]


def per_operation(work: Callable[[], object], operations: int) -> float:
    """Return the seconds that each of the operations that ``work`` makes has taken."""
    start = perf_counter()
    work()
    return (perf_counter() - start) / operations


def bare_puts(environment: lmdb.Environment, names: Sequence[str]) -> None:
    """Overwrite entries of the bare reference, each in a transaction of its own."""
    for name in names:
        bare.put(environment, name, 1)


def gets(settings: Settings) -> Iterator[Result]:
    """Read a Dict of 1,000 entries, in an order of no help."""
    names = key_names(ENTRIES)
    prices: Dict[str, int] = Dict("single/gets")
    prices.update({name: number for number, name in enumerate(names)})
    random.Random(1).shuffle(names)
    with bare.opened(settings.folder / "bare-gets") as environment:
        bare.update(environment, prices.items())

        def own() -> None:
            for name in names:
                prices.get(name)

        def reference() -> None:
            for name in names:
                bare.get(environment, name)

        passes = settings.either(101, 31)
        mine, other = interleave(passes, partial(per_operation, own, ENTRIES), partial(per_operation, reference, ENTRIES))
    yield compare("Dict get, blocking", Budget("<=", 1.7), mine, other)


def sets(settings: Settings) -> Iterator[Result]:
    """Overwrite the entries of a Dict of 1,000, and append to a Log, each in a transaction of its own."""
    names = key_names(ENTRIES)
    prices: Dict[str, int] = Dict("single/sets")
    prices.update(dict.fromkeys(names, 0))
    events: Log[int] = Log("appends/log")
    random.Random(2).shuffle(names)
    with bare.opened(settings.folder / "bare-sets") as environment, bare.opened(settings.folder / "bare-appends") as appended:
        bare.update(environment, prices.items())
        length = 0

        def own() -> None:
            for number, name in enumerate(names):
                prices[name] = number

        def reference() -> None:
            for number, name in enumerate(names):
                bare.put(environment, name, number)

        def own_appends() -> None:
            for number in range(ENTRIES):
                events.append(number)

        def reference_appends() -> None:
            nonlocal length
            for number in range(ENTRIES):
                bare.append(appended, length, number)
                length += 1

        rounds = settings.either(51, 15)
        slices = [partial(per_operation, work, ENTRIES) for work in (own, reference, own_appends, reference_appends)]
        mine, other, my_appends, other_appends = interleave(rounds, *slices)
    yield compare("Dict set, implicit", Budget("<=", 2), mine, other)
    yield compare("Log append, implicit", Budget("<=", 2), my_appends, other_appends)


def update(settings: Settings) -> Iterator[Result]:
    """Store 100,000 new entries at once: a fresh namespace, and a fresh bare environment, each time."""
    count = settings.either(100_000, 20_000)
    entries = {name: number for number, name in enumerate(key_names(count))}
    fresh = iter(range(1_000))

    def own() -> float:
        prices: Dict[str, int] = Dict(f"update{next(fresh)}/dict")
        return per_operation(lambda: prices.update(entries), count)

    def reference() -> float:
        with bare.opened(settings.folder / f"bare-update{next(fresh)}") as environment:
            return per_operation(lambda: bare.update(environment, entries.items()), count)

    mine, other = interleave(settings.either(9, 5), own, reference)
    yield compare(f"Dict update of {count:,}, per entry", Budget("<=", 1.5), mine, other, "bare: one putmulti")


def explicit(settings: Settings) -> Iterator[Result]:
    """Make 100,000 assignments of new keys in one explicit transaction."""
    count = settings.either(100_000, 20_000)
    names = key_names(count)
    fresh = iter(range(1_000))

    def own() -> float:
        prices: Dict[str, int] = Dict(f"explicit{next(fresh)}/dict")

        def work() -> None:
            with transaction(prices):
                for number, name in enumerate(names):
                    prices[name] = number

        return per_operation(work, count)

    def reference() -> float:
        with bare.opened(settings.folder / f"bare-explicit{next(fresh)}") as environment:

            def work() -> None:
                with environment.begin(write=True) as open_transaction:
                    for number, name in enumerate(names):
                        open_transaction.put(name.encode(), dumps(number, 5))

            return per_operation(work, count)

    mine, other = interleave(settings.either(9, 5), own, reference)
    yield compare(f"{count:,} assignments in a transaction, per entry", Budget("<=", 2.2), mine, other, "bare: a loop of put")


def iteration(settings: Settings) -> Iterator[Result]:
    """Iterate over the items of a Dict."""
    count = settings.either(100_000, 20_000)
    prices: Dict[str, int] = Dict("iteration/dict")
    prices.update({name: number for number, name in enumerate(key_names(count))})
    with bare.opened(settings.folder / "bare-iteration") as environment:
        bare.update(environment, prices.items())

        def own() -> None:
            for _name, _price in prices.items():
                pass

        def reference() -> None:
            for _name, _price in bare.items(environment):
                pass

        def in_line() -> None:
            with environment.begin() as open_transaction:
                for key, raw in open_transaction.cursor():
                    key.decode(), loads(raw)

        slices = [partial(per_operation, work, count) for work in (own, reference, in_line)]
        mine, other, unpacked = interleave(settings.either(15, 15), *slices)
    note = f"bare: a generator of pairs; as a loop without one {microseconds(unpacked)}"
    yield compare(f"iterate {count:,} items, per item", Budget("<=", 1.2), mine, other, note)


def durable_set(settings: Settings) -> Iterator[Result]:
    """Set one entry at ``full``, and count the synchronous writes."""
    set_namespace_synchronous("durable", "full")
    prices: Dict[str, int] = Dict("durable/dict")
    names = key_names(ENTRIES)
    prices.update(dict.fromkeys(names, 0))
    portion = 20
    fsyncs: list[float] = []
    with bare.opened(settings.folder / "bare-durable", "full") as environment:
        bare.update(environment, prices.items())

        def own() -> float:
            before = statistics("durable").fsyncs
            start = perf_counter()
            for name in names[:portion]:
                prices[name] = 1
            seconds = perf_counter() - start
            fsyncs.append((statistics("durable").fsyncs - before) / portion)
            return seconds / portion

        mine, other = interleave(settings.either(61, 25), own, partial(per_operation, partial(bare_puts, environment, names[:portion]), portion))
    yield compare("one blocking set at full", Budget("<=", 1.1), mine, other)
    yield absolute("fsyncs of a blocking set at full", Budget("=", 2, "each"), max(fsyncs), f"fewest {min(fsyncs):g}; LMDB's own are 2")


def growth(settings: Settings) -> Iterator[Result]:
    """Compare a Dict, and a backlog in a Queue, of a million with those of a thousand; bare LMDB beside it, for what is the tree's own."""
    many = settings.either(1_000_000, 200_000)
    chunk = 100_000
    small: Dict[str, int] = Dict("small/dict")
    large: Dict[str, int] = Dict("large/dict")
    short: Queue[int] = Queue("short/queue")
    long: Queue[int] = Queue("long/queue")
    with bare.opened(settings.folder / "bare-small") as few, bare.opened(settings.folder / "bare-large") as lots:
        for own, reference, backlog, count in ((small, few, short, ENTRIES), (large, lots, long, many)):
            names = key_names(count)
            for start in range(0, count, chunk):
                entries = dict.fromkeys(names[start : start + chunk], start)
                own.update(entries)
                bare.update(reference, entries.items())
                backlog.put_many(range(min(chunk, count - start)))
        few_names, many_names = _sample(ENTRIES), _sample(many)

        def get(prices: Dict[str, int], names: Sequence[str]) -> None:
            for name in names:
                prices.get(name)

        def overwrite(prices: Dict[str, int], names: Sequence[str]) -> None:
            for name in names:
                prices[name] = 1

        def put_and_get(backlog: Queue[int]) -> None:
            for number in range(ENTRIES):
                backlog.put(number)
                backlog.get()

        def bare_get(environment: lmdb.Environment, names: Sequence[str]) -> None:
            for name in names:
                bare.get(environment, name)

        works = [
            partial(get, large, many_names),
            partial(get, small, few_names),
            partial(overwrite, large, many_names),
            partial(overwrite, small, few_names),
            partial(put_and_get, long),
            partial(put_and_get, short),
            partial(bare_get, lots, many_names),
            partial(bare_get, few, few_names),
            partial(bare_puts, lots, many_names),
            partial(bare_puts, few, few_names),
        ]
        taken = interleave(settings.either(31, 11), *(partial(per_operation, work, ENTRIES) for work in works))
    scale = f"{many:,} entries against {ENTRIES:,}"
    yield compare(f"{scale}: Dict get", Budget("<=", 2), taken[0], taken[1], f"bare alike: {_ratio(taken[6], taken[7])}")
    yield compare(f"{scale}: Dict set", Budget("<=", 3), taken[2], taken[3], f"bare alike: {_ratio(taken[8], taken[9])}")
    yield compare(f"{scale}: Queue put + get", Budget("<=", 1.3), taken[4], taken[5])


def _sample(count: int) -> list[str]:
    chosen = random.Random(3)
    return [f"key{chosen.randrange(count):07}" for _ in range(ENTRIES)]


def _ratio(own: Sequence[float], reference: Sequence[float]) -> str:
    return f"{quantile([mine / other for mine, other in zip(own, reference, strict=True)], 0.5):.2f} ×"
