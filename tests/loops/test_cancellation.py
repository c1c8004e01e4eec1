"""A call that raises CancelledError has not happened, and one that returns has: at every await point, at every level, alone and in line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import parkit
import parkit_async as pa
from parkit_async._core.errors import ContextError
from parkit_async._core.registry import open_namespace
from tests.conftest import Spawn
from tests.loops.harness import PATIENCE, Outcome, cancelled_at, free, holding_process, holding_thread, spin, until

MOST = 40
"""Suspensions that no call here comes near."""


class Place:
    """A namespace with one object of each kind, and handles of the blocking face to look at what is stored."""

    def __init__(self) -> None:
        self.d: pa.Dict[str, int] = pa.Dict("ns/d")
        self.q: pa.Queue[int] = pa.Queue("ns/q")
        self.small: pa.Queue[int] = pa.Queue("ns/small", maxsize=1)
        self.log: pa.Log[int] = pa.Log("ns/log")
        self.o: Any = pa.Object("ns/o")
        self.dict: parkit.Dict[str, int] = parkit.Dict("ns/d")
        self.queue: parkit.Queue[int] = parkit.Queue("ns/q")
        self.small_queue: parkit.Queue[int] = parkit.Queue("ns/small", maxsize=1)
        self.stored_log: parkit.Log[int] = parkit.Log("ns/log")
        self.object = parkit.Object("ns/o")

    def reset(self) -> None:
        self.dict.clear()
        self.dict["old"] = 0
        for queue in (self.queue, self.small_queue):
            queue.clear()
        self.stored_log.clear()
        for name in self.object.attributes():
            delattr(self.object, name)


async def _transact(place: Place) -> None:
    async with pa.transaction(place.d):
        await place.d.set("new", 1)
        await asyncio.sleep(0)
        await place.q.put(1)
        await asyncio.sleep(0)


async def _transact_with_savepoint(place: Place) -> None:
    async with pa.transaction("ns"):
        await place.d.set("new", 1)
        async with pa.transaction(place.d, isolated=True):
            await place.q.put(1)
            await asyncio.sleep(0)


async def _follow(place: Place) -> list[int]:
    return [entry async for entry in place.log.follow(timeout=0)]


class Case:
    """A call to be cancelled.

    Args:
        call: Makes it.
        happened: Whether it is seen to have happened. None for a call that only looks.
        before: What is stored before.
    """

    def __init__(
        self,
        call: Callable[[Place], Awaitable[Any]],
        happened: Callable[[Place], bool] | None,
        before: Callable[[Place], Any] = lambda place: None,
    ) -> None:
        self.call = call
        self.happened = happened
        self.before = before


WRITES = {
    "set": Case(lambda p: p.d.set("new", 1), lambda p: dict(p.dict) == {"old": 0, "new": 1}),
    "delete": Case(lambda p: p.d.delete("old"), lambda p: dict(p.dict) == {}),
    "pop": Case(lambda p: p.d.pop("old"), lambda p: dict(p.dict) == {}),
    "update": Case(lambda p: p.d.update({"a": 1, "b": 2}), lambda p: dict(p.dict) == {"old": 0, "a": 1, "b": 2}),
    "clear": Case(lambda p: p.d.clear(), lambda p: dict(p.dict) == {}),
    "put": Case(lambda p: p.q.put(1), lambda p: p.queue.qsize() == 1),
    "put with a limit": Case(lambda p: p.small.put(1), lambda p: p.small_queue.qsize() == 1),
    "put_many": Case(lambda p: p.q.put_many([1, 2, 3]), lambda p: p.queue.qsize() == 3),
    "get": Case(lambda p: p.q.get(), lambda p: p.queue.qsize() == 1, lambda p: p.queue.put_many([5, 6])),
    "get with a timeout": Case(lambda p: p.q.get(timeout=PATIENCE), lambda p: p.queue.qsize() == 1, lambda p: p.queue.put_many([5, 6])),
    "get_many": Case(lambda p: p.q.get_many(2), lambda p: p.queue.qsize() == 1, lambda p: p.queue.put_many([5, 6, 7])),
    "append": Case(lambda p: p.log.append(1), lambda p: list(p.stored_log) == [1]),
    "extend": Case(lambda p: p.log.extend([1, 2]), lambda p: list(p.stored_log) == [1, 2]),
    "set_attribute": Case(lambda p: p.o.set_attribute("x", 1), lambda p: p.object.attributes() == ["x"]),
    "transaction": Case(_transact, lambda p: dict(p.dict) == {"old": 0, "new": 1} and p.queue.qsize() == 1),
    "transaction with a savepoint": Case(_transact_with_savepoint, lambda p: dict(p.dict) == {"old": 0, "new": 1} and p.queue.qsize() == 1),
}

NOTHING: dict[str, Callable[[Place], bool]] = {
    "get": lambda p: p.queue.qsize() == 2,
    "get with a timeout": lambda p: p.queue.qsize() == 2,
    "get_many": lambda p: p.queue.qsize() == 3,
}
"""How it is seen that nothing has happened, where that is not the state of a namespace that was reset."""


def untouched(place: Place) -> bool:
    sizes = [place.queue.qsize(), place.small_queue.qsize(), len(place.stored_log), len(place.object.attributes())]
    return dict(place.dict) == {"old": 0} and not any(sizes)


def check(name: str, place: Place, outcome: Outcome) -> None:
    """Compare what a call claims with what is stored."""
    happened = WRITES[name].happened
    assert happened is not None
    if outcome.happened:
        assert happened(place), f"{name} returned after a cancellation at suspension {outcome.suspensions}, and is not stored"
        assert outcome.later == outcome.reached, "the cancellation was lost"
    else:
        assert isinstance(outcome.error, asyncio.CancelledError), outcome.error
        nothing = NOTHING.get(name, untouched)
        assert nothing(place), f"{name} raised CancelledError at suspension {outcome.suspensions}, and is stored"


@pytest.mark.parametrize("name", WRITES)
async def test_a_call_that_is_alone(name: str, level: str) -> None:
    place, case = Place(), WRITES[name]
    reached = 0
    for k in range(MOST):
        place.reset()
        case.before(place)
        outcome = await cancelled_at(k, lambda: case.call(place))
        await asyncio.to_thread(free, "ns")
        check(name, place, outcome)
        reached += outcome.reached
        if k and not outcome.reached:
            break
    else:
        pytest.fail("the call never came to its end")
    if level != "off":
        assert reached, "at least the wait for the disk"


@pytest.mark.parametrize("name", WRITES)
async def test_a_call_that_waits_for_a_thread(name: str, level: str) -> None:
    place, case = Place(), WRITES[name]
    for k in range(1, MOST):
        place.reset()
        case.before(place)
        with holding_thread("ns") as let_go:
            task = asyncio.ensure_future(cancelled_at(k, lambda: case.call(place), let_go))
            await spin(10)
            let_go()
            outcome = await task
        await asyncio.to_thread(free, "ns")
        check(name, place, outcome)
        if not outcome.reached:
            break
    else:
        pytest.fail("the call never came to its end")
    assert k > 1, "it waited"


@pytest.mark.processes
@pytest.mark.parametrize("name", ["set", "get", "put_many", "transaction"])
async def test_a_call_that_waits_for_a_process(name: str, level: str, spawn: Spawn) -> None:
    place, case = Place(), WRITES[name]
    other = holding_process(spawn)
    for k in range(1, MOST):
        place.reset()
        case.before(place)
        other.hold("ns")
        task = asyncio.ensure_future(cancelled_at(k, lambda: case.call(place)))
        await spin(10)
        other.let_go()
        outcome = await task
        await asyncio.to_thread(free, "ns")
        check(name, place, outcome)
        if not outcome.reached:
            break
    else:
        pytest.fail("the call never came to its end")
    assert k > 1, "it waited"


@pytest.mark.parametrize("rounds", range(8))
async def test_a_batch_of_which_some_are_cancelled(level: str, rounds: int) -> None:
    # Whatever the moment: nobody else's outcome depends on it.
    place = Place()
    place.reset()
    with holding_thread("ns") as let_go:
        tasks = [asyncio.ensure_future(place.d.set(str(number), number)) for number in range(60)]
        await spin(10)
        for task in tasks[::3]:
            task.cancel()
        await spin(3)  # until they have heard of it
        let_go()
        await spin(rounds)
        for task in tasks[1::3]:
            task.cancel()
        await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks[::3])
    expected = {"old": 0, **{str(number): number for number, task in enumerate(tasks) if not task.cancelled()}}
    assert not any(task.cancelled() for task in tasks[2::3])
    assert dict(place.dict) == expected
    await asyncio.to_thread(free, "ns")


# Waiting calls: nothing has happened when they are cancelled, and the next one is not affected.

WAITS: dict[str, tuple[Callable[[Place], Awaitable[Any]], Callable[[Place], Any]]] = {
    "get": (lambda p: p.q.get(), lambda p: p.queue.put(1)),
    "get_many": (lambda p: p.q.get_many(3), lambda p: p.queue.put(1)),
    "put": (lambda p: p.small.put(2), lambda p: p.small_queue.get()),
    "join": (lambda p: p.small.join(), lambda p: p.small_queue.task_done()),
    "log.wait": (lambda p: p.log.wait(0), lambda p: p.stored_log.append(1)),
    "follow": (lambda p: anext(p.log.follow()), lambda p: p.stored_log.append(1)),
    "wait_changed": (lambda p: p.d.wait_changed(p.dict.version), lambda p: p.dict.update({"changed": 1})),
}


@pytest.mark.parametrize("name", WAITS)
async def test_a_call_that_waits_for_something(name: str, level: str) -> None:
    place = Place()
    call, happen = WAITS[name]
    for k in range(1, MOST):
        place.reset()
        place.small_queue.put(1)
        version = place.dict.version
        task = asyncio.ensure_future(cancelled_at(k, lambda: call(place)))
        await spin(10)
        if not task.done():
            # It was cancelled later than where it waits, or not at all.
            happen(place)
        outcome = await task
        await asyncio.to_thread(free, "ns")
        if outcome.happened:
            assert outcome.later == outcome.reached
        else:
            assert isinstance(outcome.error, asyncio.CancelledError)
        if name in ("get", "get_many"):
            assert place.queue.qsize() == (1 if not outcome.happened and task.done() and place.queue.qsize() else 0)
        elif name == "put":
            assert outcome.happened == (place.small_queue.qsize() == 1 and place.small_queue.get(timeout=0) == 2)
        else:
            assert place.dict.version - version <= 1
        assert not open_namespace("ns").table.waiters({place.dict._binding.object_id: 15}), "no registration is left"
        if not outcome.reached:
            break
    else:
        pytest.fail("the call never came to its end")
    assert k > 1, "it waited"


async def test_an_item_that_a_cancelled_get_was_woken_for_wakes_the_next() -> None:
    place = Place()
    place.reset()
    for rounds in range(8):
        first, second = asyncio.ensure_future(place.q.get()), asyncio.ensure_future(place.q.get())
        await spin(10)
        place.queue.put(rounds)
        await spin(rounds)
        first.cancel()
        await asyncio.wait([first])
        if first.cancelled():
            assert await asyncio.wait_for(second, PATIENCE) == rounds
        else:
            assert first.result() == rounds
            second.cancel()
            await asyncio.wait([second])
    assert place.queue.qsize() == 0


@pytest.mark.parametrize("call", ["await", "set", "transaction", "exists"])
async def test_opening(call: str, level: str) -> None:
    for k in range(1, MOST):
        name = f"ns{k}"

        async def use(name: str = name) -> None:
            d: pa.Dict[str, int] = pa.Dict(f"{name}/d")
            if call == "await":
                await d
            elif call == "set":
                await d.set("a", 1)
            elif call == "exists":
                await d.contains("a")
            else:
                async with pa.transaction(name):
                    await d.set("a", 1)

        outcome = await cancelled_at(k, use)
        await asyncio.to_thread(free, name)
        if outcome.happened:
            assert outcome.later == outcome.reached
            stored: parkit.Dict[str, int] = parkit.Dict(f"{name}/d", create=False)
            assert dict(stored) == ({"a": 1} if call in ("set", "transaction") else {})
        else:
            assert isinstance(outcome.error, asyncio.CancelledError)
            assert dict(parkit.Dict(f"{name}/d")) == {}
        if not outcome.reached:
            break
    else:
        pytest.fail("the call never came to its end")


async def test_dropping(level: str) -> None:
    for k in range(1, MOST):
        d: pa.Dict[str, int] = await pa.Dict("ns/d")
        outcome = await cancelled_at(k, d.drop)
        assert d.exists is not outcome.happened
        assert outcome.later == (outcome.reached and outcome.happened)
        if not outcome.reached:
            break
    assert k > 1 or level == "off"


# The ways of asyncio and anyio to cancel.


class Blocked:
    """A durable write that is claimed, and whose commit goes on when the test says so."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        namespace = type(open_namespace(name))
        self.begun, self.go_on = threading.Event(), threading.Event()
        committed = namespace.committed

        def commit_slowly(self_: Any, *arguments: Any) -> None:
            if threading.current_thread() is not threading.main_thread():
                self.begun.set()
                self.go_on.wait(PATIENCE)
            committed(self_, *arguments)

        monkeypatch.setattr(namespace, "committed", commit_slowly)


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "full")
    place = Place()
    place.reset()
    return place


async def test_a_timeout_in_the_middle_of_a_commit_does_not_expire(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.d
    blocked = Blocked("ns", monkeypatch)
    async with asyncio.timeout(None) as timeout:
        write = place.d.set("new", 1)
        asyncio.get_running_loop().call_soon(_expire_when, blocked, timeout)
        await write
        # It has returned, so it has happened, and the block ends before the next await.
    await spin(5)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    assert dict(place.dict) == {"old": 0, "new": 1}


def _expire_when(blocked: Blocked, timeout: asyncio.Timeout) -> None:
    loop = asyncio.get_running_loop()
    if not blocked.begun.is_set():
        loop.call_soon(_expire_when, blocked, timeout)
        return
    timeout.reschedule(loop.time())
    loop.call_soon(_go_on_when, blocked, timeout)


def _go_on_when(blocked: Blocked, timeout: asyncio.Timeout) -> None:
    if timeout.expired() or "expiring" in repr(timeout):
        blocked.go_on.set()
    else:
        asyncio.get_running_loop().call_soon(_go_on_when, blocked, timeout)


async def test_a_timeout_in_the_middle_of_a_commit_comes_at_the_next_await(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.d
    blocked = Blocked("ns", monkeypatch)
    steps = []
    with pytest.raises(TimeoutError):  # noqa: PT012 - it comes out of the block's end
        async with asyncio.timeout(None) as timeout:
            asyncio.get_running_loop().call_soon(_expire_when, blocked, timeout)
            await place.d.set("new", 1)
            steps.append("written")
            await asyncio.get_running_loop().create_future()
    assert steps == ["written"]
    assert dict(place.dict) == {"old": 0, "new": 1}
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("explicit", [False, True], ids=["implicit", "explicit"])
async def test_wait_for_returns_what_has_happened(place: Place, monkeypatch: pytest.MonkeyPatch, explicit: bool) -> None:
    await place.d
    await place.q
    blocked = Blocked("ns", monkeypatch)
    inner = asyncio.ensure_future(_transact(place) if explicit else place.d.set("new", 1))
    await until(blocked.begun.is_set)
    inner.cancel()
    await spin(5)
    inner.cancel()
    await spin(5)
    assert not inner.done()
    blocked.go_on.set()
    await asyncio.wait_for(inner, PATIENCE)
    assert not inner.cancelled()
    assert place.dict["new"] == 1


async def test_a_task_group_waits_for_the_commit_and_cancels_the_rest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.d
    await place.q
    blocked = Blocked("ns", monkeypatch)
    reached = []

    async def write() -> None:
        await place.d.set("new", 1)
        reached.append("written")
        await place.d.set("never", 1)
        await asyncio.get_running_loop().create_future()
        reached.append("never")

    async def fail() -> None:
        await until(blocked.begun.is_set)
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, blocked.go_on.set)
        raise ValueError("the group ends")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - it comes out of the block's end
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            group.create_task(place.q.get())
            group.create_task(fail())
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert reached == ["written"]
    assert dict(place.dict) == {"old": 0, "new": 1}
    await asyncio.to_thread(free, "ns")


async def test_anyios_scopes_swallow_their_own_cancellation(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.d
    blocked = Blocked("ns", monkeypatch)
    steps = []

    def cancel(scope: anyio.CancelScope) -> None:
        if blocked.begun.is_set():
            scope.cancel()
            loop.call_soon(loop.call_soon, blocked.go_on.set)
        else:
            loop.call_soon(cancel, scope)

    loop = asyncio.get_running_loop()
    with anyio.move_on_after(None) as scope:
        loop.call_soon(cancel, scope)
        await place.d.set("new", 1)
        steps.append("written")
        await asyncio.get_running_loop().create_future()
        steps.append("never")
    assert scope.cancelled_caught
    assert steps == ["written"]
    await spin(5)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    assert dict(place.dict) == {"old": 0, "new": 1}


async def test_a_scope_that_is_left_before_the_next_await(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.d
    blocked = Blocked("ns", monkeypatch)
    loop = asyncio.get_running_loop()

    def cancel(scope: anyio.CancelScope) -> None:
        if blocked.begun.is_set():
            scope.cancel()
            loop.call_soon(loop.call_soon, blocked.go_on.set)
        else:
            loop.call_soon(cancel, scope)

    with anyio.CancelScope() as scope:
        loop.call_soon(cancel, scope)
        await place.d.set("new", 1)
    await spin(5)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    assert dict(place.dict) == {"old": 0, "new": 1}


# NEEDS 3: inside a transaction, await something that itself needs the namespace.


async def test_a_transaction_and_the_same_task(level: str) -> None:
    place = Place()
    place.reset()
    async with asyncio.timeout(PATIENCE), pa.transaction(place.d):
        await place.d.set("a", 1)
        await place.q.put(1)
        assert await place.q.get() == 1
        async with pa.transaction("ns"):
            await place.d.set("b", 2)
        with pytest.raises(ContextError, match=r"get\(\)"):
            await place.q.get()
        with pytest.raises(ContextError, match=r"follow\(\)"):
            await anext(place.log.follow())
        with pytest.raises(ContextError, match=r"wait_changed\(\)"):
            await place.o.wait_changed(place.o.version)
        with pytest.raises(pa.QueueEmpty):
            await place.q.get(timeout=0)
        other: pa.Dict[str, int] = pa.Dict("other/d")
        with pytest.raises(ContextError):
            await other.set("a", 1)
    assert dict(place.dict) == {"old": 0, "a": 1, "b": 2}


async def test_a_transaction_and_another_task_that_gives_up(level: str) -> None:
    place = Place()
    place.reset()
    async with pa.transaction(place.d):
        await place.d.set("a", 1)
        other = asyncio.ensure_future(place.d.set("b", 2))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other, 0.02)
        second = asyncio.ensure_future(_transact(place))
        await spin(10)
        second.cancel()
        await asyncio.wait([second])
        third = asyncio.ensure_future(place.d.set("c", 3))
        await spin(10)
        assert await asyncio.ensure_future(place.d.get("a")) is None, "a task does not see another one's transaction"
    await third
    assert dict(place.dict) == {"old": 0, "a": 1, "c": 3}
    await asyncio.to_thread(free, "ns")


async def test_a_transaction_and_the_blocking_face_in_the_same_thread(level: str) -> None:
    place = Place()
    place.reset()
    waits = []

    async def blocking() -> None:
        with pytest.raises(ContextError, match="must end itself"):
            place.dict["b"] = 2
        with pytest.raises(ContextError, match="must end itself"), parkit.transaction("ns"):
            pass
        waits.append("refused")

    for contended in (False, True):
        waits.clear()
        if contended:
            # The transaction has stood in line, so that it holds the turn in another form.
            with holding_thread("ns") as let_go:
                entered = asyncio.ensure_future(_transact_and(place, blocking))
                await spin(5)
                let_go()
                await entered
        else:
            await _transact_and(place, blocking)
        assert waits == ["refused"]
        assert dict(place.dict) == {"old": 0, "a": 1}
    free("ns")


async def _transact_and(place: Place, call: Callable[[], Awaitable[None]]) -> None:
    async with pa.transaction(place.d):
        await place.d.set("a", 1)
        await asyncio.ensure_future(call())


async def test_the_blocking_face_behind_a_task_that_stands_in_line(level: str) -> None:
    # The thread would block behind its own loop's task, which then could never end its transaction.
    place = Place()
    place.reset()
    with holding_thread("ns") as let_go:
        task = asyncio.ensure_future(_transact(place))
        await spin(5)
        with pytest.raises(ContextError, match="must end itself"):
            place.dict["b"] = 2
        let_go()
        await task
    place.dict["b"] = 2
    assert dict(place.dict) == {"old": 0, "new": 1, "b": 2}


@pytest.mark.processes
async def test_a_transaction_and_another_process(level: str, spawn: Spawn) -> None:
    place = Place()
    place.reset()
    other = spawn("""
        import parkit
        d = parkit.Dict("ns/d")
        print(sorted(d), flush=True)
        input()
        print("asking", flush=True)
        d["theirs"] = 1
        print(sorted(d), flush=True)
    """)
    assert other.read_line() == "['old']"
    async with pa.transaction(place.d):
        await place.d.set("ours", 1)
        other.send("")
        assert other.read_line() == "asking"
        await spin(100)
    assert other.read_line() == "['old', 'ours', 'theirs']"
    other.finish()


# NEEDS 4: no item is lost or doubled, whatever is cancelled.

_PRODUCER = """
    import sys
    import parkit
    q = parkit.Queue("ns/q")
    number, total = 0, int(sys.argv[1])
    while number < total:
        if number % 3:
            q.put(number)
            number += 1
        else:
            portion = range(number, min(total, number + 7))
            q.put_many(portion)
            number = portion.stop
    for _ in range(int(sys.argv[2])):
        q.put(None)
"""

_CONSUMER = """
    import asyncio, random, sys
    import parkit_async as pa

    chance = random.Random(int(sys.argv[1]))
    taken = []
    ended = False

    async def consume(q):
        global ended
        while not ended:
            kind = chance.randrange(4)
            try:
                if kind == 0:
                    items = [await q.get(timeout=chance.random() / 50)]
                elif kind == 1:
                    async with asyncio.timeout(chance.random() / 50):
                        items = [await q.get()]
                elif kind == 2:
                    items = await q.get_many(3, timeout=chance.random() / 50)
                else:
                    items = []
                    task = asyncio.ensure_future(q.get())
                    for _ in range(chance.randrange(20)):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                    if not task.cancelled():
                        items = [task.result()]
            except (pa.QueueEmpty, TimeoutError):
                continue
            for item in items:
                if item is None:
                    ended = True
                else:
                    taken.append(item)
            if ended and len([item for item in items if item is None]) > 1:
                for _ in range(len([item for item in items if item is None]) - 1):
                    await q.put(None)

    async def main():
        q = await pa.Queue("ns/q")
        print("ready", flush=True)
        await asyncio.gather(*(consume(q) for _ in range(4)))

    if sys.argv[2] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
    print(len(taken), flush=True)
    for start in range(0, len(taken), 1000):
        print(*taken[start : start + 1000], flush=True)
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("durability", "total"), [("off", 20_000), ("full", 4_000)])
def test_every_item_is_delivered_once(spawn: Spawn, monkeypatch: pytest.MonkeyPatch, durability: str, total: int) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", durability)
    queue: parkit.Queue[int | None] = parkit.Queue("ns/q")
    consumers = [spawn(_CONSUMER, number, "uvloop" if number == 1 else "asyncio") for number in range(3)]
    for consumer in consumers:
        assert consumer.read_line() == "ready"
    producer = spawn(_PRODUCER, total, 12)
    producer.finish(90)
    taken = []
    for consumer in consumers:
        count = int(consumer.read_line(90))
        found: list[int] = []
        while len(found) < count:
            found += map(int, consumer.read_line().split())
        # Within one consumer's process several tasks take items; each sees the queue's order.
        taken += found
        consumer.finish()
    left = queue.get_many(1000, timeout=0) if queue.qsize() else []
    taken += [item for item in left if item is not None]
    assert sorted(taken) == list(range(total))
