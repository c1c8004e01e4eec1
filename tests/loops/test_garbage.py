"""What an awaited operation has used is freed when it is over, with its last reference.

What refers to itself is left to the garbage collector, and a collection stops all that runs, for ten milliseconds in a program of some size: nothing
else has made an event loop as late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import lmdb
import pytest

import parkit_async as pa
from parkit_async._core.namespace import Namespace
from parkit_async._core.registry import open_namespace
from parkit_async._core.transactions import Writing
from parkit_async._core.turns import Operation
from tests.garbage import ROUNDS, garbage_counted, of_each_round

pytestmark = pytest.mark.anyio


async def setting(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    await stock.set("tea", 1)


async def setting_ten_at_once(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    await asyncio.gather(*(stock.set(str(number), number) for number in range(10)))


async def deleting_what_is_missing(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    with suppress(KeyError):
        await stock.delete("missing")


async def putting_and_getting(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    await jobs.put(1)
    await jobs.get()


async def getting_in_vain(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    with suppress(pa.QueueEmpty):
        await jobs.get(timeout=0.001)


async def getting_until_cancelled(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    getting = asyncio.ensure_future(jobs.get())
    await asyncio.sleep(0)
    getting.cancel()
    with suppress(asyncio.CancelledError):
        await getting


async def getting_what_is_put_later(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    getting = asyncio.ensure_future(jobs.get())
    await asyncio.sleep(0)
    await jobs.put(1)
    await getting


async def two_transactions_at_once(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    async def transact() -> None:
        async with pa.transaction(stock):
            await stock.set("tea", await stock.get("tea", 0) + 1)

    await asyncio.gather(transact(), transact())


async def a_transaction_that_fails(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    with suppress(ZeroDivisionError):
        async with pa.transaction(stock):
            await stock.set("tea", 1 // 0)


async def iterating(stock: pa.Dict[str, int], jobs: pa.Queue[int]) -> None:
    async for _key in stock.keys():
        pass


@pytest.mark.parametrize(
    "operation",
    [
        setting,
        setting_ten_at_once,
        deleting_what_is_missing,
        putting_and_getting,
        getting_in_vain,
        getting_until_cancelled,
        getting_what_is_put_later,
        two_transactions_at_once,
        a_transaction_that_fails,
        iterating,
    ],
    ids=lambda operation: operation.__name__,
)
async def test_an_awaited_operation_leaves_nothing_to_the_garbage_collector(
    level: str, operation: Callable[[pa.Dict[str, int], pa.Queue[int]], Awaitable[None]]
) -> None:
    stock: pa.Dict[str, int] = pa.Dict("garbage/stock")
    jobs: pa.Queue[int] = pa.Queue("garbage/jobs")
    await operation(stock, jobs)
    with garbage_counted() as counts:
        for _ in range(ROUNDS):
            await operation(stock, jobs)
    assert of_each_round(counts) == {}


async def test_nor_does_a_transaction_whose_commit_fails(full: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(namespace: Namespace, writing: Writing) -> None:
        raise lmdb.DiskError("the disk went away")

    stock: pa.Dict[str, int] = pa.Dict("garbage/stock")
    await stock.set("tea", 1)
    with monkeypatch.context() as patch, garbage_counted() as counts:
        patch.setattr(Namespace, "commit_recording", refuse)
        for _ in range(ROUNDS):
            with suppress(pa.TransactionError):
                async with pa.transaction(stock):
                    await stock.set("tea", 2)
    assert of_each_round(counts) == {}
    assert await stock.get("tea") == 1


def test_nor_does_a_blocking_operation_that_fails_after_it_stood_in_line() -> None:
    def fail(writing: Writing) -> None:
        raise KeyError("missing")

    namespace = open_namespace("garbage")
    with garbage_counted() as counts:
        for _ in range(ROUNDS):
            with suppress(KeyError):
                namespace._write_in_line(Operation(fail, ()))
    assert of_each_round(counts) == {}
