"""That each rival does what is timed: three operations on every adapter, at every level, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .comparison import Run, arena, failure_of
from .rivals import Level, Rival
from .rivals.aio import AWAITED_MAPPINGS, AWAITED_QUEUES, AwaitedMapping, AwaitedQueue
from .rivals.mappings import MAPPINGS, MappingRival
from .rivals.pools import POOLS, PoolRival
from .rivals.queues import QUEUES, QueueRival

__all__ = ["faults"]


def faults(run: Run) -> Iterator[tuple[str, str]]:
    """Try all rivals that are there; yield the name of each with what is wrong, or with nothing."""
    roles: list[tuple[str, tuple[type[Any], ...], Any]] = [
        ("mapping", MAPPINGS, _mapping),
        ("queue", QUEUES, _queue),
        ("awaited mapping", AWAITED_MAPPINGS, _mapping),
        ("awaited queue", AWAITED_QUEUES, _queue),
        ("pool", POOLS, _pool),
    ]
    for role, kinds, check in roles:
        for kind in kinds:
            with arena(run, f"check-{role}", [kind], list(Level)) as found:
                for (_, level), taken in found.failures.items():
                    yield f"{role} {kind.name}, {level.name}", taken.failure
                for (_, level), rival in found.rivals.items():
                    yield f"{role} {kind.name}, {level.name}", _outcome(check, rival)


def _outcome(check: Any, rival: Rival) -> str:
    try:
        check(rival)
    except Exception as error:
        return failure_of(error)
    return ""


def _expect(found: object, due: object) -> None:
    if found != due:
        raise AssertionError(f"{found!r} where {due!r} was due")


def _mapping(rival: MappingRival) -> None:
    rival.set("a", "one")
    rival.set("a", "two")
    _expect(rival.get("a"), "two")
    rival.update({"b": "three", "c": "four"})
    _expect([rival.get(name) for name in "abc"], ["two", "three", "four"])
    rival.sets(["a", "b"], "five")
    rival.gets(["a", "b"])
    _expect([rival.get(name) for name in "abc"], ["five", "five", "four"])
    if isinstance(rival, AwaitedMapping):
        rival.spread(lambda number: rival.aset("abc"[number], str(number)), 2, 3)
        _expect([rival.get(name) for name in "abc"], ["0", "1", "2"])


def _queue(rival: QueueRival) -> None:
    for item in ("one", "two", "three"):
        rival.put(item)
    _expect([rival.take(5) for _ in range(3)], ["one", "two", "three"])
    rival.pairs(3, "x")
    rival.produce(["a", "b", "c"])
    _expect(rival.consume(3, 5), ["a", "b", "c"])
    _expect(rival.consume(1, 0.05), [])
    if rival.batches:
        rival.put_many(["a", "b", "c"])
        _expect([*rival.get_many(2), *rival.get_many(2)], ["a", "b", "c"])
    if isinstance(rival, AwaitedQueue):
        rival.spread(lambda number: rival.aput(str(number)), 2, 3)
        _expect(sorted(rival.consume(3, 5)), ["0", "1", "2"])


def _pool(rival: PoolRival) -> None:
    _expect([rival.call(-number) for number in range(3)], [0, 1, 2])
    _expect(rival.call_all(range(-3, 0)), [3, 2, 1])
    rival.pause()
    rival.resume()
    _expect(rival.call(-4), 4)
