"""Ctrl-C at any point where CPython can deliver it to a loop in the main thread: afterwards nothing is held, and what was said to be stored is.

As ``core/test_interrupts`` for the awaitable face, in :func:`asyncio.run`, which then cancels all tasks; the points are drawn, as there are hundreds.
For a process of its own: coroutines never awaited, and callbacks that asyncio lost, are part of it, and it makes CPython miscount recursion.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable

import parkit
import parkit_async as pa
from parkit_async._core.namespace import Namespace
from parkit_async._core.ownership import contexts
from parkit_async._core.registry import open_namespace
from tests.core.test_interrupts import Interrupter, is_free

PATIENCE = 10.0
"""Seconds that the writer thread, which goes on, has to give up what it holds."""

Said = dict[str, int]


async def setting(number: int, said: Said) -> None:
    await pa.Dict[str, int]("i/d").set("set", number)
    said["set"] = number


async def transacting(number: int, said: Said) -> None:
    d: pa.Dict[str, int] = pa.Dict("i/d")
    async with pa.transaction(d):
        await d.set("one", number)
        await d.set("two", number)
    said["one"] = said["two"] = number


async def queueing(number: int, said: Said) -> None:
    q: pa.Queue[int] = pa.Queue("i/q")
    await q.put(number)
    await q.get()


def interrupted(operation: Callable[[int, Said], Awaitable[None]], number: int, point: int, said: Said) -> Interrupter:
    """Run the operation, and interrupt it at a point. What then comes out of :func:`asyncio.run` is asyncio's affair: at its end it swallows some."""

    async def main() -> None:
        await operation(number, said)

    interrupter = Interrupter(point)
    sys.settrace(interrupter.trace)
    try:
        asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        assert interrupter.where is not None
    except RuntimeError as error:
        if "Event loop stopped before Future completed" not in str(error):
            raise
    finally:
        sys.settrace(None)
        interrupter.forget()
    return interrupter


def left_behind(namespace: Namespace) -> list[str]:
    """Return what is still held."""
    left = [f"the turn is held by {namespace.turns.holder!r}"] if namespace.turns.holder is not None else []
    left += ["somebody stands in line"] if len(namespace.turns) else []
    left += [f"contexts are open: {contexts}"] if contexts else []
    left += ["a waiter is registered"] if any(namespace.table._occupancy) else []
    left += ["a snapshot is open"] if namespace.pinned() else []
    left += ["the gate is not free"] if not is_free(str(namespace.directory / "gate")) else []
    return left


OPERATIONS = {operation.__name__: operation for operation in (setting, transacting, queueing)}


def main(name: str, seed: str, seconds: str) -> None:
    """Go on interrupting an operation for so many seconds; raise AssertionError if that leaves something behind."""
    logging.getLogger("asyncio").disabled = True  # it tells of each callback that was interrupted
    rng = random.Random(int(seed))
    d: parkit.Dict[str, int] = parkit.Dict("i/d")
    namespace = open_namespace("i")
    said: Said = {}
    points, tried = 500, 0
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        tried += 1
        point = rng.randint(1, points)
        interrupter = interrupted(OPERATIONS[name], tried, point, said)
        if interrupter.where is None:
            points = min(points, point)  # it has fewer
        patience = time.monotonic() + PATIENCE
        while left := left_behind(namespace):
            assert time.monotonic() < patience, f"interrupted at {interrupter.where}, the {point}th point: {left}"
        for key, number in said.items():
            assert d[key] >= number, f"interrupted at {interrupter.where}: {key} was said to be stored"
    print(f"{name}: {tried} interrupts at about {points} points")
