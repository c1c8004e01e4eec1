"""Watching a store: who is told of what, what it costs while nothing happens, and what is left when it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parkit import Dict, Queue
from parkit_async import aclose
from parkit_async._core.errors import StoragePathError
from parkit_async._core.filewatch import FileWatch
from parkit_async._core.registry import close_all, open_namespace
from parkit_async._core.waiting import counters
from parkit_async.dashboard import state, streams
from parkit_async.dashboard.watch import Hub, encode
from tests.conftest import Script, Spawn

DEADLINE = 20.0

OTHER = """
import sys
import parkit
from parkit import Dict, Log, Process, Queue, transaction
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@pytest.fixture
def other(spawn: Spawn) -> Script:
    """Another process, which does what it is told."""
    return spawn(OTHER, env={"PARKIT_SYNCHRONOUS": "off"})


def tell(other: Script, line: str) -> None:
    other.send(line)
    assert other.read_line() == "done"


@asynccontextmanager
async def watching() -> AsyncIterator[Hub]:
    hub = Hub()
    await hub.begin()
    try:
        yield hub
    finally:
        await hub.close()
        await aclose()


class Page:
    """A page that is open, as far as the hub knows it: the latest state of every topic."""

    def __init__(self, hub: Hub, changed: asyncio.Event) -> None:
        self._hub = hub
        self._changed = changed

    async def until(self, topic: str, condition: Callable[[Any], Any]) -> Any:
        """Return what ``condition`` returns of a topic as soon as that is true."""
        async with asyncio.timeout(DEADLINE):
            while True:
                self._changed.clear()
                found = self._hub.topics.get(topic)
                if found is not None and (value := condition(found.document)):
                    return value
                await self._changed.wait()


@asynccontextmanager
async def page() -> AsyncIterator[tuple[Hub, Page]]:
    async with watching() as hub:
        with hub.client() as changed:
            yield hub, Page(hub, changed)


def depth_is(depth: int) -> Callable[[Any], Any]:
    """Return a condition on a namespace's state: that its first queue has a depth."""
    return lambda shop: shop["queues"] and shop["queues"][0]["depth"] == depth


pytestmark = pytest.mark.processes


async def test_what_another_process_does_is_seen(other: Script) -> None:
    async with page() as (_, seen):
        tell(other, "orders = Queue('shop/orders')")
        await seen.until("store", lambda store: store["namespaces"] == ["shop"])
        await seen.until("namespace:shop", lambda shop: [queue["depth"] for queue in shop["queues"]] == [0])
        tell(other, "orders.put_many([1, 2, 3])")
        await seen.until("namespace:shop", lambda shop: shop["queues"][0]["depth"] == 3)
        tell(other, "log = Log('shop/sales'); log.append(1)")
        await seen.until("namespace:shop", lambda shop: shop["logs"] == [{"path": "shop/sales", "length": 1}])
        tell(other, "parkit.set_namespace_size('shop', 1 << 22)")
        await seen.until("namespace:shop", lambda shop: shop["limit"] == 1 << 22)
        tell(other, "orders.drop()")
        await seen.until("namespace:shop", lambda shop: shop["queues"] == [])
        tell(other, "parkit.set_pool_size(7)")
        await seen.until("pool", lambda pool: pool["size"] == 7)


async def test_a_change_in_every_state_of_a_watcher_is_seen(other: Script) -> None:
    """It may come while the watcher looks, rests or sleeps."""
    tell(other, "orders = Queue('shop/orders')")
    async with page() as (_, seen):
        for number in range(1, 7):
            tell(other, "orders.put(1)")
            await seen.until("namespace:shop", depth_is(number))
            await asyncio.sleep(0.02 * number)


async def test_nobody_looks_while_nothing_happens(other: Script) -> None:
    tell(other, "Queue('shop/orders').put(1); Log('other/sales').append(1); parkit.set_pool_size(2)")
    async with page() as (hub, seen):
        await seen.until("namespace:__process__", bool)
        await hub.settled()
        await asyncio.sleep(0.3)  # the last rest is over
        looks, wakeups = hub.looks, counters.wakeups
        await asyncio.sleep(0.6)
        assert (hub.looks, counters.wakeups) == (looks, wakeups)
        tell(other, "Queue('shop/orders').put(1)")
        await seen.until("namespace:shop", lambda shop: shop["queues"][0]["depth"] == 2)
        await asyncio.sleep(0.5)
        assert hub.looks <= looks + 4


async def test_a_busy_store_is_looked_at_ten_times_a_second_at_most(other: Script) -> None:
    tell(other, "orders = Queue('shop/orders')")
    async with page() as (hub, seen):
        await seen.until("namespace:shop", bool)
        await hub.settled()
        looks, version = hub.looks, hub.topics["namespace:shop"].version
        loop = asyncio.get_running_loop()
        begun = loop.time()
        tell(other, "import time; until = time.monotonic() + 0.7")
        other.send("exec('while time.monotonic() < until: orders.put(1)')")
        await asyncio.to_thread(other.read_line)
        seconds = loop.time() - begun
        assert 2 <= hub.topics["namespace:shop"].version - version <= 10 * seconds + 2
        assert hub.looks - looks <= 10 * seconds + 3
        depth = Queue[int]("shop/orders").qsize()
        assert depth > 100
        await seen.until("namespace:shop", lambda shop: shop["queues"][0]["depth"] == depth)


async def test_a_slow_page_gets_the_latest_state_and_nothing_is_kept_for_it() -> None:
    orders: Queue[int] = Queue("shop/orders")
    async with watching() as hub:
        events = streams.states(hub)
        assert b"event: state" in await anext(events)
        while b'"depth":0' not in await anext(events):
            pass
        for number in range(5):
            orders.put(number)
            await hub.settled()
        assert hub.clients == 1
        async with asyncio.timeout(DEADLINE):
            first = await anext(events)
        assert b'"depth":5' in first, "the states in between are gone"
        await events.aclose()  # type: ignore[attr-defined]
        assert hub.clients == 0


async def test_the_end_leaves_no_waiters_behind(other: Script) -> None:
    tell(other, "[Queue(f'shop/q{n}') for n in range(40)]; parkit.set_pool_size(2)")
    async with page() as (_, seen):
        await seen.until("namespace:shop", lambda shop: len(shop["queues"]) == 40)
        tell(other, "Queue('shop/q0').put(1)")
        await seen.until("namespace:shop", lambda shop: shop["queues"][0]["depth"] == 1)
        tables = [open_namespace(name).table for name in ("shop", "__process__")]
        async with asyncio.timeout(DEADLINE):
            while len(tables[0]._active) < 40:
                await asyncio.sleep(0.01)
    assert not any(table._active for table in tables)
    assert not any(any(table._occupancy) for table in tables)


def test_depths_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("parkit_async.dashboard.watch.time.time", lambda: now)
    hub = Hub()
    for depth in (1, 1, 2, 5, 3):
        hub.note_depths("shop", [{"path": "q", "depth": depth}])
        now += 0.3
    hub.note_depths("lab", [{"path": "r", "depth": 0}])
    assert hub.history() == {"q": [(1000.0, 1), (1000.9, 5), (1001.2, 3)], "r": [(1001.5, 0)]}
    for second in range(1000):
        now += 1.5
        hub.note_depths("shop", [{"path": "q", "depth": second}])
    assert len(hub.history()["q"]) == 300
    hub.note_depths("shop", [])
    assert hub.history() == {"r": [(1001.5, 0)]}, "what was dropped is forgotten"


async def test_a_namespace_that_cannot_be_opened_is_told(store: Any) -> None:
    Dict[str, int]("shop/stock")
    Queue[int]("fine/orders").put(1)
    directory = open_namespace("shop").directory
    close_all()
    (directory / "data.mdb").write_bytes(b"x" * 8192)
    async with page() as (hub, seen):
        error = await seen.until("namespace:shop", lambda shop: shop.get("error"))
        assert str(directory) in error
        await seen.until("namespace:fine", lambda fine: fine["queues"])
        await hub.settled()


async def test_what_fails_unforeseen_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    Queue[int]("shop/orders").put(1)
    real = state.namespace_document
    failing = True

    def fail(namespace: Any) -> Any:
        if failing:
            raise RuntimeError("no idea")
        return real(namespace)

    monkeypatch.setattr(state, "namespace_document", fail)
    async with page() as (hub, seen):
        assert await seen.until("namespace:shop", lambda shop: shop.get("error")) == "no idea"
        failing = False
        hub.refresh()
        await seen.until("namespace:shop", lambda shop: shop.get("queues"))
    assert "failed to look at the store" in caplog.text


async def test_what_fails_is_not_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    Queue[int]("shop/orders")
    real = state.namespace_document
    looks = 0

    def look(namespace: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise StoragePathError("the disk is gone")
        return real(namespace)._replace(objects=frozenset(), behind=True)

    async with page() as (hub, seen):
        await seen.until("namespace:shop", bool)  # the namespace is open, and nothing was too early
        watcher = hub._watchers["namespace:shop"]
        await hub.settled()
        monkeypatch.setattr(state, "namespace_document", look)
        hub.refresh()
        assert await seen.until("namespace:shop", lambda shop: shop.get("error")) == "the disk is gone"
        assert watcher._early == 0, "or it would look ten times a second"


def test_json_carries_any_text() -> None:
    assert encode("no\ud800 tea") == b'"no\\ud800 tea"' and json.loads(encode("no\ud800 tea")) == "no\ud800 tea"


async def test_a_commit_that_readers_do_not_see_yet_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: Queue[int] = Queue("shop/orders")
    real = state.namespace_document
    early = 3

    def look(namespace: Any) -> Any:
        nonlocal early
        found = real(namespace)
        early -= 1
        return found._replace(behind=early >= 0)

    async with page() as (hub, seen):
        await seen.until("namespace:shop", bool)
        await hub.settled()
        monkeypatch.setattr(state, "namespace_document", look)
        orders.put(1)
        async with asyncio.timeout(DEADLINE):
            while early >= 0:  # more looks than one commit rings for
                await asyncio.sleep(0.01)


async def test_a_folder_tells_of_what_comes_and_goes(tmp_path: Any) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    watched = FileWatch(folder)
    assert watched.fileno() >= 0
    rung = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(watched.fileno(), rung.set)
    try:
        for happen in (
            (folder / "made").mkdir,
            lambda: (folder / "made").rename(tmp_path / "moved"),
            lambda: (tmp_path / "moved").rename(folder / "back"),
            (folder / "back").rmdir,
        ):
            watched.drain()
            await asyncio.sleep(0)
            rung.clear()
            happen()
            async with asyncio.timeout(DEADLINE):
                await rung.wait()
    finally:
        loop.remove_reader(watched.fileno())
        watched.close()
