"""Waiting in an event loop: nobody wakes without a reason, an item wakes few, and no wake is lost with whoever gave up. Counted, not timed."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import parkit
import parkit_async as pa
from parkit_async import runtime as runtimes
from parkit_async._core import queue_ops
from parkit_async._core.doorbell import EVENT_ALL
from parkit_async._core.objects import Handle
from parkit_async._core.registry import open_namespace
from parkit_async._core.shared import SLOTS, SharedTable, TableFullError
from parkit_async._core.waiting import counters
from tests.conftest import Spawn
from tests.loops.harness import PATIENCE, spin, until


@pytest.fixture(autouse=True)
def _off(off: None) -> None:
    """Waiting does not depend on the level; most of these tests are about counts."""


def identity(obj: Handle) -> int:
    """Return the id of an object in its namespace."""
    assert obj._binding is not None
    object_id: int = obj._binding.object_id
    return object_id


def waiting(obj: Handle) -> int:
    """Return how many tasks of the running loop wait for something of an object."""
    runtime = runtimes._runtimes.get(asyncio.get_running_loop())
    if runtime is None:
        return 0
    return sum(len(waiters.line) for (_, object_id, _), waiters in runtime._waiters.items() if object_id == identity(obj))


@contextmanager
def looks() -> Iterator[list[int]]:
    """Count how often a getter looks whether there is something for it."""
    count = [0]
    ready = queue_ops.ready

    def counted(*arguments: Any) -> Any:
        count[0] += 1
        return ready(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_ops, "ready", counted)
        yield count


async def cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def test_idle_waiters_make_no_wakeups() -> None:
    q: pa.Queue[int] = await pa.Queue("ns/q")
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    log: pa.Log[int] = await pa.Log("ns/log")
    tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(q.get()) for _ in range(100)]
    tasks += [asyncio.ensure_future(d.wait_changed(d.version)) for _ in range(100)]
    tasks += [asyncio.ensure_future(log.wait(0)) for _ in range(100)]
    await until(lambda: waiting(q) == waiting(d) == waiting(log) == 100)
    wakeups, rechecks = counters.wakeups, counters.rechecks
    other: pa.Dict[int, int] = await pa.Dict("ns/other")
    unheard: pa.Queue[int] = await pa.Queue("ns/unheard")
    with looks() as count:
        for number in range(200):
            # What does not concern them does not wake them, in the same namespace either.
            await other.set(number, number)
            await unheard.put(number)
        await spin(20)
    assert count == [0]
    assert (counters.wakeups, counters.rechecks) == (wakeups, rechecks)
    assert not any(task.done() for task in tasks)
    await cancel(tasks)
    assert not open_namespace("ns").table.waiters(dict.fromkeys(map(identity, (q, d, log)), EVENT_ALL))


async def test_a_loop_that_has_waited_shortly_looks_before_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "LOOK", 10.0)  # however slow the machine is
    q: pa.Queue[int] = await pa.Queue("ns/q")

    async def wait_for_one() -> int:
        """Return in how many waits the loop began by looking."""
        looks = counters.looks
        task = asyncio.ensure_future(q.get())
        await until(lambda: waiting(q) == 1)
        await q.put(1)
        assert await task == 1
        return counters.looks - looks

    assert await wait_for_one() == 0, "nothing is known of the first wait"
    assert await wait_for_one() == 1
    monkeypatch.setattr(runtimes, "LOOK", 0.001)
    with pytest.raises(queue.Empty):
        await q.get(timeout=0.01)
    looks = counters.looks
    with pytest.raises(queue.Empty):
        await q.get(timeout=0.01)
    assert counters.looks == looks, "who has waited in vain sleeps at once"


async def test_hundreds_of_tasks_on_one_queue() -> None:
    q: pa.Queue[int] = await pa.Queue("ns/q")
    tasks: list[asyncio.Task[int]] = []
    for number in range(300):
        # One after the other: a task that gives way before it waits comes after those that do not.
        tasks.append(asyncio.ensure_future(q.get()))
        await until(lambda number=number: waiting(q) == number + 1)  # type: ignore[misc]
    wakeups = counters.wakeups
    with looks() as count:
        for number in range(300):
            await q.put(number)
            await until(lambda number=number: sum(task.done() for task in tasks) == number + 1)  # type: ignore[misc]
    assert counters.wakeups - wakeups <= 3 * 300, "an item wakes the one who gets it, and the next"
    assert count[0] <= 3 * 300
    assert [task.result() for task in tasks] == list(range(300)), "first come, first served"


async def test_a_burst_reaches_everybody() -> None:
    q: pa.Queue[int] = await pa.Queue("ns/q")
    tasks = [asyncio.ensure_future(q.get()) for _ in range(300)]
    await until(lambda: waiting(q) == 300)
    wakeups = counters.wakeups
    # One commit, one ring: the rest is passed on.
    await q.put_many(range(300))
    found = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    assert sorted(found) == list(range(300))
    assert counters.wakeups - wakeups <= 3 * 300


async def test_hundreds_of_queues_in_one_loop() -> None:
    queues: list[pa.Queue[int]] = [await pa.Queue(f"ns/q{number}") for number in range(300)]
    tasks = [asyncio.ensure_future(q.get()) for q in queues for _ in range(2)]
    await until(lambda: sum(map(waiting, queues)) == 600)
    wakeups = counters.wakeups
    with looks() as count:
        for number, q in enumerate(queues):
            await q.put(number)
            await until(tasks[2 * number].done)
    assert [task.result() for task in tasks[::2]] == list(range(300))
    assert not any(task.done() for task in tasks[1::2])
    assert counters.wakeups - wakeups <= 3 * 300
    assert count[0] <= 3 * 300
    await cancel(tasks[1::2])


async def test_room_in_a_full_queue_is_for_everybody() -> None:
    q: pa.Queue[int] = await pa.Queue("ns/q", maxsize=2)
    await q.put_many([0, 1])
    tasks = [asyncio.ensure_future(q.put(number)) for number in range(2, 50)]
    await until(lambda: waiting(q) == 48)
    taken = [await asyncio.wait_for(q.get(), PATIENCE) for _ in range(50)]
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    assert sorted(taken) == list(range(50))


@pytest.mark.parametrize("seed", range(5))
async def test_the_baton_passes_whoever_gives_up(seed: int) -> None:
    chance = random.Random(seed)
    q: pa.Queue[int] = await pa.Queue("ns/q")
    taken: list[int] = []

    async def get(timeout: float | None) -> None:
        try:
            taken.append(await q.get(timeout=timeout))
        except pa.QueueEmpty:
            assert timeout is not None

    tasks: list[asyncio.Task[None]] = []
    items = 0
    for _ in range(150):
        tasks.append(asyncio.ensure_future(get(chance.choice([None, 0.0001, 0.002]))))
        if chance.random() < 0.5:
            await q.put(items)
            items += 1
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
        await spin(chance.randrange(3))
    # However many gave up between being woken and looking: nobody sleeps while there is something to get.
    last = [asyncio.ensure_future(get(None)) for _ in range(items)]
    await until(lambda: len(taken) == items)
    await cancel([task for task in tasks + last if not task.done()])
    for task in tasks + last:
        assert task.cancelled() or task.exception() is None
    assert sorted(taken) == list(range(items))
    assert await q.qsize() == 0


async def test_many_followers_and_watchers() -> None:
    log: pa.Log[int] = await pa.Log("ns/log")
    d: pa.Dict[str, int] = await pa.Dict("ns/d")

    async def follow() -> list[int]:
        seen = []
        async for entry in log.follow():
            seen.append(entry)
            if len(seen) == 50:
                break
        return seen

    async def watch() -> int:
        version = changes = 0
        while version < 20:
            assert await d.wait_changed(version)
            version = d.version
            changes += 1
        return changes

    followers = [asyncio.ensure_future(follow()) for _ in range(100)]
    watchers = [asyncio.ensure_future(watch()) for _ in range(100)]
    await until(lambda: waiting(log) == waiting(d) == 100)
    wakeups = counters.wakeups
    for number in range(50):
        await log.append(number)
        if number < 20:
            await d.set("n", number)
        await spin(1)
    assert await asyncio.wait_for(asyncio.gather(*followers), PATIENCE) == [list(range(50))] * 100
    changes = await asyncio.wait_for(asyncio.gather(*watchers), PATIENCE)
    assert all(1 <= count <= 20 for count in changes)
    assert counters.wakeups - wakeups <= 100 * (50 + 20) + 200


async def test_a_timeout_of_nothing_does_not_wait() -> None:
    q: pa.Queue[int] = await pa.Queue("ns/q")
    wakeups = counters.wakeups
    for call in (q.get(timeout=0), q.get(block=False), q.get_nowait()):
        with pytest.raises(pa.QueueEmpty):
            await call
    assert counters.wakeups == wakeups
    assert not open_namespace("ns").table.waiters({identity(q): EVENT_ALL})


async def test_a_full_table_falls_back_to_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    # One who waits already has a slot, and a slow re-check; those who come after it need a quick one.
    q: pa.Queue[int] = await pa.Queue("ns/q")
    registered: pa.Queue[int] = await pa.Queue("ns/registered")
    first = asyncio.ensure_future(registered.get())
    await until(lambda: waiting(registered) == 1)

    def full(self: SharedTable, *arguments: Any) -> int:
        raise TableFullError("all slots are taken")

    with monkeypatch.context() as patch:
        patch.setattr(SharedTable, "register", full)
        second = asyncio.ensure_future(q.get())
        await until(lambda: waiting(q) == 1)
    rechecks = counters.rechecks
    parkit.Queue[int]("ns/q").put(1)
    assert await asyncio.wait_for(second, PATIENCE) == 1
    assert counters.rechecks > rechecks
    parkit.Queue[int]("ns/registered").put(2)
    assert await asyncio.wait_for(first, PATIENCE) == 2
    third = asyncio.ensure_future(q.get())
    await until(lambda: waiting(q) == 1)
    await q.put(3)
    assert await third == 3


async def test_a_table_that_is_really_full() -> None:
    namespace = open_namespace("ns")
    q: pa.Queue[int] = await pa.Queue("ns/q")
    slots = [namespace.table.register(1 << 40, 1, 1) for _ in range(SLOTS)]
    with pytest.raises(TableFullError):
        namespace.table.register(1 << 40, 1, 1)
    tasks = [asyncio.ensure_future(q.get()) for _ in range(20)]
    await until(lambda: waiting(q) == 20)
    await q.put_many(range(20))
    assert sorted(await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)) == list(range(20))
    for slot in slots:
        namespace.table.unregister(slot)


_MIXED = """
    import asyncio, sys, threading
    import parkit, parkit_async as pa

    taken = []

    def blocking():
        q = parkit.Queue("ns/q")
        while True:
            try:
                taken.append(q.get())
            except Exception as error:
                assert type(error).__name__ == "ShutDown", error
                return

    async def task(q):
        while True:
            try:
                taken.append(await q.get())
            except pa.QueueShutDown:
                return

    async def main():
        q = await pa.Queue("ns/q")
        await asyncio.gather(*(task(q) for _ in range(5)))

    threads = [threading.Thread(target=blocking) for _ in range(2)]
    threads += [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    print(len(taken), sum(taken), flush=True)
"""


@pytest.mark.processes
async def test_threads_loops_and_processes_wait_for_one_queue(spawn: Spawn) -> None:
    q: pa.Queue[int] = await pa.Queue("ns/q")
    scripts = [spawn(_MIXED) for _ in range(2)]
    for script in scripts:
        assert script.read_line() == "ready"
    taken: list[int] = []
    blocking: parkit.Queue[int] = parkit.Queue("ns/q")

    async def get() -> None:
        while True:
            try:
                taken.append(await q.get())
            except pa.QueueShutDown:
                return

    def get_blocking() -> None:
        while True:
            try:
                taken.append(blocking.get())
            except pa.ShutDown:
                return

    tasks = [asyncio.ensure_future(get()) for _ in range(10)]
    threads = [threading.Thread(target=get_blocking) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(600):
        await q.put(number)
        if number % 50 == 0:
            await spin(10)
    await until(lambda: blocking.qsize() == 0)
    await q.shutdown()
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
    count, total = len(taken), sum(taken)
    for script in scripts:
        found = await asyncio.to_thread(script.read_line)
        count, total = count + int(found.split()[0]), total + int(found.split()[1])
        script.finish()
    assert (count, total) == (600, sum(range(600)))
