"""A task that works inline in a tight loop gives way: others run every so many operations. Counted; no clock is read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import parkit_async as pa
from parkit_async.budget import meter

OPERATIONS = 20_000
LEAST = 5
"""How often others run meanwhile, at the very least. At half a millisecond each, a machine ten times as fast as a good one passes it."""


class Ticker:
    """A task that counts how often it runs."""

    def __init__(self) -> None:
        self.ticks = 0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            self.ticks += 1
            await asyncio.sleep(0)

    async def stop(self) -> int:
        self._task.cancel()
        await asyncio.wait([self._task])
        return self.ticks


Step = Callable[[int], Awaitable[Any]]


async def _steps(name: str) -> Step:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    q: pa.Queue[int] = await pa.Queue("ns/q")
    log: pa.Log[int] = await pa.Log("ns/log")
    o = await pa.Object("ns/o")
    await d.update({number: number for number in range(100)})
    await log.extend(range(100))
    await q.put_many(range(OPERATIONS))
    await o.set_attribute("x", 1)
    steps: dict[str, Step] = {
        "get": lambda number: d.get(number % 100),
        "contains": lambda number: d.contains(number % 100),
        "len": lambda number: d.len(),
        "set": lambda number: d.set(number % 100, number),
        "put": lambda number: q.put(number),
        "take": lambda number: q.get(),
        "qsize": lambda number: q.qsize(),
        "append": lambda number: log.append(number),
        "index": lambda number: log.get(number % 100),
        "attribute": lambda number: o.get_attribute("x"),
        "wait": lambda number: log.wait(0),
        "wait_changed": lambda number: d.wait_changed(0),
        "snapshot": lambda number: _snapshot(d),
        "transaction": lambda number: _transaction(d, number),
    }
    return steps[name]


async def _snapshot(d: pa.Dict[int, int]) -> None:
    async with pa.snapshot(d):
        pass


async def _transaction(d: pa.Dict[int, int], number: int) -> None:
    async with pa.transaction(d):
        pass


@pytest.mark.usefixtures("off")
@pytest.mark.parametrize(
    "name",
    ["get", "contains", "len", "set", "put", "take", "qsize", "append", "index", "attribute", "wait", "wait_changed", "snapshot", "transaction"],
)
async def test_a_tight_loop_gives_way(name: str) -> None:
    step = await _steps(name)
    ticker = Ticker()
    await asyncio.sleep(0)
    for number in range(OPERATIONS):
        await step(number)
    ticks = await ticker.stop()
    assert ticks >= LEAST, f"{OPERATIONS} operations in a row, and others ran {ticks} times"
    assert ticks <= OPERATIONS, "giving way at each operation would cost more than the operations"


@pytest.mark.usefixtures("off")
async def test_iterating_gives_way() -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    log: pa.Log[int] = await pa.Log("ns/log")
    await d.update({number: number for number in range(OPERATIONS)})
    await log.extend(range(OPERATIONS))
    for iterator in (aiter(d), aiter(d.items()), aiter(log), log.follow(timeout=0)):
        ticker = Ticker()
        await asyncio.sleep(0)
        count = 0
        async for _ in iterator:
            count += 1
        assert count == OPERATIONS
        assert await ticker.stop() >= LEAST


@pytest.mark.usefixtures("off")
async def test_inside_a_transaction_too() -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    ticker = Ticker()
    await asyncio.sleep(0)
    async with pa.transaction(d):
        for number in range(OPERATIONS):
            await d.set(number, number)
    assert await ticker.stop() >= LEAST
    assert await d.len() == OPERATIONS


@pytest.mark.usefixtures("off")
async def test_one_operation_does_not_give_way() -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    await d.set("a", 1)
    ticker = Ticker()
    await asyncio.sleep(0)
    before = ticker.ticks
    meter.left = 10
    for _ in range(5):
        await d.get("a")
    assert ticker.ticks == before, "what can be done at once is done at once"
    await ticker.stop()


@pytest.mark.usefixtures("off")
async def test_two_tight_loops_share_the_loop() -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    turns: list[int] = []

    async def work(who: int) -> None:
        for number in range(OPERATIONS // 2):
            await d.get(number)
            if not turns or turns[-1] != who:
                turns.append(who)

    await asyncio.gather(work(1), work(2), work(3))
    assert len(turns) >= LEAST
    assert set(turns[:6]) == {1, 2, 3}
