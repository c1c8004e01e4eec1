"""A web application opens what it needs, serves its queues beside the requests, and stops without losing an item; whatever the framework is."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import parkit
from parkit_async import Dict, Queue, lifespan
from parkit_async._core.registry import all_open

PATIENCE = 20.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


async def test_it_opens_before_and_closes_behind(store: Any) -> None:
    stock: Dict[str, int] = Dict("shop/stock")
    events: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        events.append(f"own begins with {app}, {list(parkit.namespaces())}")
        yield {"answer": 42}
        events.append("own ends")

    async def beside() -> None:
        events.append("task begins")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("task ends")

    async with lifespan(stock, tasks=[beside], within=own)("the app") as state:
        assert state == {"answer": 42}
        await stock.set("tea", 1)
        await until(lambda: "task begins" in events)
    assert events == ["own begins with the app, ['shop']", "task begins", "task ends", "own ends"]
    async with lifespan(stock)(None) as state:  # once more, in the same loop
        assert state is None
        assert await stock["tea"] == 1
    assert not [bell for namespace in all_open() for bell in namespace.sockets._bells]


async def test_a_store_that_cannot_be_used_stops_the_start(store: Any) -> None:
    store.rmdir()
    store.write_text("")
    begun = False

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        nonlocal begun
        begun = True
        yield

    with pytest.raises(parkit.StoragePathError):
        async with lifespan(Dict[str, int]("shop/stock"), within=own)(None):
            pass
    assert not begun


async def test_consumers_handle_what_comes_and_log_what_fails(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    orders: Queue[Any] = Queue("shop/orders")
    handled: list[Any] = []

    async def handle(item: Any) -> None:
        if item == "bad":
            raise ValueError("not this one")
        handled.append(item)

    async with lifespan(consume=[(orders, handle), (orders, handle)])(None):
        await orders.put_many([1, "bad", 2])
        assert await orders.join(timeout=PATIENCE)
        await orders.put(3)
        assert await orders.join(timeout=PATIENCE)
    assert sorted(handled) == [1, 2, 3]
    [record] = [record for record in caplog.records if record.name == "parkit.lifespan"]
    assert record.getMessage() == "the handler of 'shop/orders' failed for 'bad'" and record.exc_info


async def test_a_stop_finishes_what_was_taken_and_takes_nothing_more(store: Any) -> None:
    orders: Queue[int] = Queue("shop/orders")
    begun, go = asyncio.Event(), asyncio.Event()
    handled: list[int] = []

    async def handle(item: int) -> None:
        begun.set()
        await go.wait()
        handled.append(item)

    context = lifespan(consume=[(orders, handle)])(None)
    await context.__aenter__()
    await orders.put_many([1, 2, 3])
    await begun.wait()
    stopping = asyncio.ensure_future(context.__aexit__(None, None, None))
    await asyncio.sleep(0.01)
    assert not stopping.done()
    go.set()
    await stopping
    assert handled == [1]
    assert parkit.Queue("shop/orders").get_many(5) == [2, 3]


async def test_stopped_at_any_moment_no_item_is_lost(store: Any) -> None:
    orders: Queue[int] = Queue("shop/orders")
    handled: list[int] = []
    put = 0

    async def handle(item: int) -> None:
        await asyncio.sleep(0)
        handled.append(item)

    for steps in range(40):
        async with lifespan(consume=[(orders, handle), (orders, handle)])(None):
            for _ in range(3):
                await orders.put(put)
                put += 1
            for _ in range(steps % 20):
                await asyncio.sleep(0)
    left = [await orders.get_nowait() for _ in range(await orders.qsize())]
    assert sorted(handled + left) == list(range(put))
    assert handled, "nothing was handled, so this has shown nothing"
    from parkit_async import aclose

    await aclose()


async def test_a_handler_that_does_not_end_is_cancelled_after_the_grace_period(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    orders: Queue[int] = Queue("shop/orders")
    begun = asyncio.Event()
    ends: list[str] = []

    async def handle(item: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async with lifespan(consume=[(orders, handle)], grace=0.01)(None):
        await orders.put(1)
        await begun.wait()
    assert ends == ["cancelled"]
    assert "did not end within 0.01 seconds" in caplog.text
    with pytest.raises(ValueError, match="grace"):
        lifespan(grace=-1)


async def test_a_task_that_fails_ends_the_application(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))  # as servers do

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    try:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with lifespan(tasks=[fail])(None):
                await asyncio.Event().wait()
        assert caught.group_contains(ZeroDivisionError)
        assert received == [signal.SIGTERM]
        assert [record.levelno for record in caplog.records if record.name == "parkit.lifespan"] == [logging.CRITICAL]
        # Where nobody handles the signal (a test client), the process goes on.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(BaseExceptionGroup):
            async with lifespan(tasks=[fail])(None):
                await asyncio.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_queue_that_is_shut_down_ends_its_consumer(store: Any) -> None:
    orders: Queue[int] = Queue("shop/orders")
    handled: list[int] = []

    async def handle(item: int) -> None:
        handled.append(item)

    async with lifespan(consume=[(orders, handle)])(None):
        await orders.put(1)
        await orders.shutdown()
        await until(lambda: handled)
    assert handled == [1]


@pytest.mark.filterwarnings("ignore:Using .httpx. with")
@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_in_a_framework(store: Any, framework: str) -> None:
    from fastapi import FastAPI
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    hits: Dict[str, int] = Dict("web/hits")

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"greeting": "hello"}

    async def count(request: Any) -> JSONResponse:
        await hits.set("n", await hits.get("n", 0) + 1)
        return JSONResponse([request.state.greeting, await hits["n"]])

    chosen = lifespan(hits, within=own)
    app: Any = Starlette(routes=[Route("/", count)], lifespan=chosen) if framework == "starlette" else FastAPI(lifespan=chosen)
    if framework == "fastapi":
        app.add_route("/", count)
    with TestClient(app) as client:
        assert client.get("/").json() == ["hello", 1]
        assert client.get("/").json() == ["hello", 2]
