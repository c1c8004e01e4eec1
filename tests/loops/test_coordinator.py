"""The coordinator: durable writes share their commits, each has an outcome of its own, and the event loop waits for nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import lmdb
import pytest

import parkit
import parkit_async as pa
from parkit_async._core import dict_ops
from parkit_async._core.engine import Engine
from parkit_async._core.errors import NamespaceFullError, TransactionError
from parkit_async._core.namespace import Namespace
from parkit_async._core.registry import open_namespace
from parkit_async._core.transactions import Recording, Writing
from parkit_async._core.turns import Operation
from parkit_async.coordinator import settle
from parkit_async.runtime import current_runtime
from tests.conftest import Spawn
from tests.loops.harness import PATIENCE, free, holding_process, holding_thread, spin, until


class Watched:
    """A stand-in for LMDB's write transaction that notes which thread commits it, and can be made to fail."""

    failure: Exception | None = None

    def __init__(self, inner: Any, commits: list[int]) -> None:
        self.inner = inner
        self._commits = commits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def commit(self) -> None:
        self._commits.append(threading.get_ident())
        if Watched.failure is not None:
            raise Watched.failure
        self.inner.commit()


Watch = Callable[[str], list[int]]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch an open namespace: return the identifiers of the threads that make its commits, filled as they do."""

    def start(name: str) -> list[int]:
        namespace = open_namespace(name)
        begin, begin_child = namespace.begin, Engine.begin_child
        found: list[int] = []

        def begin_watched(*arguments: Any, **options: Any) -> Any:
            transaction = begin(*arguments, **options)
            return Watched(transaction, found) if options.get("write") else transaction

        monkeypatch.setattr(namespace, "begin", begin_watched)
        monkeypatch.setattr(Engine, "begin_child", lambda self, parent: begin_child(self, getattr(parent, "inner", parent)))
        return found

    return start


async def in_one_go(name: str, calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Make calls while another thread has the turn, so that all of them wait for it together; return the results, and exceptions, in order."""
    namespace = open_namespace(name)
    coordinator = current_runtime().coordinator(namespace)
    with holding_thread(name) as let_go:
        before = coordinator.operations
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: coordinator.operations == before + len(tasks))
        let_go()
        return await asyncio.gather(*tasks, return_exceptions=True)


def counted(name: str) -> Callable[[], dict[str, int]]:
    """Return a function that tells what a namespace has done since this call."""
    statistics = open_namespace(name).statistics
    lane = open_namespace(name).lane
    before, hops = statistics.copy(lane.hops), lane.hops

    def since() -> dict[str, int]:
        found = {field: getattr(statistics, field) - getattr(before, field) for field in type(before).__slots__}
        found["hops"] = lane.hops - hops
        return found

    return since


# Group commit.


@pytest.mark.usefixtures("full")
async def test_a_hundred_tasks_share_their_commits(watch: Watch) -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    since, commits = counted("ns"), watch("ns")
    for turn in range(5):
        await asyncio.gather(*(d.set(key, key + turn) for key in range(100)))
    found = since()
    assert found["operations"] == 500
    assert found["commits"] <= 25, "those that were asked for together are committed together"
    assert found["commits"] == len(commits)
    assert found["fsyncs"] == 2 * found["commits"]
    assert found["hops"] <= found["commits"] + 5
    assert {k: v async for k, v in d.items()} == {key: key + 4 for key in range(100)}


@pytest.mark.usefixtures("full")
async def test_one_batch_is_one_commit() -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    await d.set(-1, -1)
    since = counted("ns")
    assert await in_one_go("ns", [d.set(key, key) for key in range(400)]) == [None] * 400
    assert since()["commits"] == 1
    assert since()["operations"] == 400
    assert since()["fsyncs"] == 2
    assert since()["hops"] == 1
    assert d.version == 401, "each is a change of its own: what shares a commit is not seen"


@pytest.mark.usefixtures("full")
async def test_a_batch_is_bounded() -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    since = counted("ns")
    await in_one_go("ns", [d.set(key, key) for key in range(1500)])
    assert 3 <= since()["commits"] <= 6
    assert since()["operations"] == 1500
    assert await d.len() == 1500


@pytest.mark.usefixtures("full")
async def test_threads_and_tasks_batch_together() -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    twin: parkit.Dict[str, int] = parkit.Dict("ns/d")
    namespace = open_namespace("ns")
    coordinator = current_runtime().coordinator(namespace)
    before = coordinator.operations
    threads = [threading.Thread(target=twin.__setitem__, args=(f"thread {number}", number)) for number in range(20)]
    with holding_thread("ns") as let_go:
        since = counted("ns")
        for thread in threads[:10]:
            thread.start()
        await until(lambda: len(namespace.turns) == 10)
        tasks = [asyncio.ensure_future(d.set(f"task {number}", number)) for number in range(50)]
        await until(lambda: coordinator.operations == before + 50)
        in_line = len(namespace.turns)
        for thread in threads[10:]:
            thread.start()
        await until(lambda: len(namespace.turns) == in_line + 10)
        let_go()
        await asyncio.gather(*tasks)
        for thread in threads:
            await asyncio.to_thread(thread.join, PATIENCE)
    assert since()["operations"] == 70
    assert since()["commits"] == 1, "whoever has the turn runs what stands behind it, whichever face asked for it"
    assert since()["fsyncs"] == 2
    assert len(twin) == 70
    free("ns")


# Failures.


def fail_untouched(writing: Writing, *arguments: Any) -> None:
    raise KeyError("nothing was touched")


class Halfway(Exception):
    """Comes out of an operation that has changed something."""


@pytest.mark.usefixtures("full")
async def test_an_operation_that_fails_fails_alone() -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    await d.set("there", 0)
    since = counted("ns")
    calls: list[Coroutine[Any, Any, Any]] = [d.set(f"k{number}", number) for number in range(20)]
    calls[5:5] = [d.delete("missing")]
    calls[9:9] = [d.pop("there")]
    calls[15:15] = [d.pop("there")]
    answers = await in_one_go("ns", calls)
    assert isinstance(answers[5], KeyError)
    assert answers[9] == 0
    assert isinstance(answers[15], KeyError)
    assert [answer for position, answer in enumerate(answers) if position not in (5, 9, 15)] == [None] * 20
    assert since()["commits"] == 1
    assert {k: v async for k, v in d.items()} == {f"k{number}": number for number in range(20)}


@pytest.mark.usefixtures("full")
async def test_an_operation_that_does_not_fit_fails_alone() -> None:
    await pa.set_namespace_size("ns", 4 << 20)
    d: pa.Dict[str, bytes] = await pa.Dict("ns/d")
    since = counted("ns")
    calls = [d.set(f"k{number}", bytes(100)) for number in range(10)]
    calls[4:4] = [d.set("big", bytes(16 << 20))]
    answers = await in_one_go("ns", calls)
    assert isinstance(answers[4], NamespaceFullError)
    assert sorted([k async for k in d]) == [f"k{number}" for number in range(10)]
    assert since()["commits"] == 1


@pytest.mark.usefixtures("full")
async def test_an_operation_that_fails_halfway_leaves_nothing_and_the_others_happen_once() -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    q: pa.Queue[int] = await pa.Queue("ns/q")
    binding, namespace = d._binding, open_namespace("ns")
    assert binding is not None

    def halfway(writing: Writing) -> None:
        tail, frame, keyed = binding.encode_entry("half", 1)
        dict_ops.put(writing, binding, tail, frame, keyed)
        raise Halfway

    coordinator = current_runtime().coordinator(namespace)
    before = d.version, q.version
    runs = asyncio.gather(
        *(q.put(number) for number in range(10)),
        settle(coordinator.write(Operation(halfway, ()))),
        settle(coordinator.write(Operation(fail_untouched, ()))),
        d.set("whole", 2),
        *(q.put(number) for number in range(10, 20)),
        return_exceptions=True,
    )
    answers = await runs
    assert isinstance(answers[10], Halfway)
    assert isinstance(answers[11], KeyError)
    assert [answer for answer in answers if answer is not None] == answers[10:12]
    assert {k: v async for k, v in d.items()} == {"whole": 2}
    assert await q.qsize() == 20
    assert sorted([await q.get() for _ in range(20)]) == list(range(20)), "each exactly once"
    assert d.version == before[0] + 1
    free("ns")


@pytest.mark.usefixtures("full")
async def test_a_commit_that_fails_is_told_to_everybody(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    watch("ns")
    with monkeypatch.context() as patch:
        patch.setattr(Watched, "failure", lmdb.DiskError("the disk went away"))
        answers = await asyncio.gather(*(d.set(str(number), number) for number in range(5)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [TransactionError] * 5
        with pytest.raises(TransactionError, match="went away"):
            async with pa.transaction(d):
                await d.set("explicit", 1)
    assert await d.len() == 0
    await d.set("after", 1)
    async with pa.transaction(d):
        await d.set("after too", 1)
    assert await d.len() == 2
    free("ns")


# Hops.


@pytest.mark.usefixtures("off")
async def test_uncontended_writes_without_fsync_never_hop(watch: Watch) -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    q: pa.Queue[int] = await pa.Queue("ns/q")
    since, commits = counted("ns"), watch("ns")
    threads = threading.active_count()
    for number in range(50):
        await d.set(number, number)
        await q.put(number)
        await q.get()
        async with pa.transaction(d):
            await d.set(number, -number)
    assert since()["hops"] == 0
    assert since()["waits"] == since()["gate_waits"] == since()["fsyncs"] == 0
    assert set(commits) == {threading.get_ident()}
    assert threading.active_count() <= threads


# The loop is never blocked: no commit that syncs is made in its thread, and nobody's turn holds it up.


@pytest.mark.parametrize("name", ["normal", "full"])
async def test_no_commit_that_syncs_is_made_in_the_loops_thread(name: str, monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", name)
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    q: pa.Queue[int] = await pa.Queue("ns/q", maxsize=5)
    log: pa.Log[int] = await pa.Log("ns/log")
    o: Any = await pa.Object("ns/o")
    commits = watch("ns")
    await d.set("a", 1)
    await d.update({"b": 2, "c": 3})
    await d.pop("a")
    await d.setdefault("z", 1)
    await d.delete("b")
    await q.put_many([1, 2, 3])
    await q.get_many(2)
    await q.get()
    await q.task_done()
    await log.extend(range(5))
    await log.clear()
    await o.set_attribute("x", 1)
    async with pa.transaction(d):
        await d.set("t", 1)
        async with pa.transaction(d, isolated=True):
            await d.set("u", 1)
    async with pa.transaction(d):
        await d.get("t")
    await d.clear()
    await o.drop()
    assert commits, "the commits were watched"
    assert threading.get_ident() not in commits
    assert len(set(commits)) == 1, "there is one writer thread"


async def test_another_threads_turn_does_not_hold_up_the_loop(level: str) -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    with holding_thread("ns") as let_go:
        write = asyncio.ensure_future(d.set("a", 1))
        await _runs_while_waiting(d, [write])
        let_go()
        await write
    assert await d.get("a") == 1
    free("ns")


async def _transact(d: pa.Dict[str, int], key: str) -> None:
    async with pa.transaction(d):
        await d.set(key, 1)


async def _runs_while_waiting(d: pa.Dict[str, int], waiting: list[asyncio.Task[Any]]) -> None:
    """See that the loop goes round, and reads, while every one of ``waiting`` waits; then have others wait, give up, and be cancelled."""
    await spin(100)
    assert not any(task.done() for task in waiting)
    assert await d.get("a") is None
    transaction = asyncio.ensure_future(_transact(d, "t"))
    second = asyncio.ensure_future(d.set("s", 1))
    await spin(20)
    for task in (transaction, second):
        assert not task.done()
        task.cancel()
    await asyncio.wait([transaction, second])
    assert transaction.cancelled()
    assert second.cancelled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await d.set("late", 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await _transact(d, "late too")
    assert not any(task.done() for task in waiting)


@pytest.mark.processes
async def test_another_processs_turn_does_not_hold_up_the_loop(level: str, spawn: Spawn) -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    other = holding_process(spawn)
    for round_ in range(3):
        await d.clear()
        other.hold("ns")
        first = asyncio.ensure_future(d.set("a", 1) if round_ != 1 else _transact(d, "a"))
        await _runs_while_waiting(d, [first])
        if round_ == 2:
            # Nobody who waits is left: what is already waiting for the gate finds nothing to do.
            first.cancel()
            await asyncio.wait([first])
            assert first.cancelled()
        other.release()
        if round_ != 2:
            await first
        await d.set("b", 2)
        assert {k: v async for k, v in d.items()} == ({"a": 1, "b": 2} if round_ != 2 else {"b": 2})
        await asyncio.to_thread(free, "ns")


# Explicit transactions where the commit syncs: recorded, and written again by the writer thread.


async def test_a_transaction_is_committed_as_one(level: str) -> None:
    d: pa.Dict[Any, Any] = await pa.Dict("ns/d")
    q: pa.Queue[int] = await pa.Queue("ns/q")
    log: pa.Log[int] = await pa.Log("ns/log")
    await d.update({"gone": 1, "replaced": 1, "popped": 1})
    versions = [d.version, q.version, log.version]
    since = counted("ns")
    async with pa.transaction(d):
        await d.set("new", [1])
        await d.set("replaced", 2)
        await d.delete("gone")
        assert await d.pop("popped") == 1
        await d.set("brief", 1)
        await d.delete("brief")
        await d.update({number: bytes(number) for number in range(1000)})
        await q.put_many(range(10))
        assert await q.get() == 0
        await log.extend(range(5))
        assert await d.len() == 1002
    fsyncs = {"off": 0, "normal": 1, "full": 2}[level]
    assert since()["commits"] == since()["operations"] == 1
    assert since()["fsyncs"] == fsyncs
    assert since()["hops"] == (0 if level == "off" else 1)
    assert [d.version, q.version, log.version] == [version + 1 for version in versions]
    expected: dict[Any, Any] = {"new": [1], "replaced": 2}
    assert {k: v async for k, v in d.items()} == expected | {number: bytes(number) for number in range(1000)}
    assert await q.get_many(20) == list(range(1, 10))
    assert [e async for e in log] == list(range(5))


async def test_a_rollback_leaves_nothing(level: str) -> None:
    d: pa.Dict[Any, Any] = await pa.Dict("ns/d")
    await d.set("a", 1)
    version = d.version
    since = counted("ns")
    error = KeyError("from the block")
    with pytest.raises(KeyError) as caught:  # noqa: PT012 - it goes through the block's end
        async with pa.transaction(d):
            await d.set("a", 2)
            await d.update({number: number for number in range(5000)})
            made: pa.Dict[str, int] = await pa.Dict("ns/made")
            await made.set("x", 1)
            raise error
    assert caught.value is error
    assert since()["commits"] == since()["fsyncs"] == 0
    assert d.version == version
    assert {k: v async for k, v in d.items()} == {"a": 1}
    with pytest.raises(pa.ObjectNotFoundError):
        await made.get("x")
    free("ns")


async def test_savepoints_are_undone_alone(level: str) -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    q: pa.Queue[int] = await pa.Queue("ns/q")
    await d.set("a", 1)
    version = d.version
    async with pa.transaction(d):
        await d.set("b", 2)
        with pytest.raises(ValueError, match="undone"):  # noqa: PT012 - it goes through the block's end
            async with pa.transaction(d, isolated=True):
                await d.set("b", -2)
                await d.delete("a")
                await q.put(1)
                async with pa.transaction(d, isolated=True):
                    await d.set("inner", 1)
                raise ValueError("undone")
        async with pa.transaction(d, isolated=True):
            await d.set("c", 3)
            with pytest.raises(ValueError, match="undone too"):  # noqa: PT012 - it goes through the block's end
                async with pa.transaction(d, isolated=True):
                    await d.set("c", -3)
                    await d.update({str(number): number for number in range(100)})
                    raise ValueError("undone too")
            assert await d.get("c") == 3
        async with pa.transaction(d):
            await d.set("d", 4)
    assert {k: v async for k, v in d.items()} == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert d.version == version + 1
    assert await q.qsize() == 0
    assert q.version == 0


async def test_a_big_transaction(level: str) -> None:
    d: pa.Dict[int, bytes] = await pa.Dict("ns/d")
    async with pa.transaction(d):
        await d.update({number: bytes(200) for number in range(20_000)})
        for number in range(0, 20_000, 2):
            await d.delete(number)
        await d.set(-1, bytes(1 << 20))
    assert await d.len() == 10_001
    assert len(await d[-1]) == 1 << 20
    assert d.version == 1


async def test_a_transaction_that_changes_nothing_commits_nothing(level: str) -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    await d.set("a", 1)
    version, since = d.version, counted("ns")
    async with pa.transaction(d):
        assert await d.get("a") == 1
    assert since()["commits"] == since()["hops"] == 0
    assert d.version == version
    free("ns")


@pytest.mark.usefixtures("full")
async def test_a_transaction_is_refused_if_a_stranger_wrote_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    abort, engine = Recording.abort, open_namespace("ns").engine

    def abort_and_write(self: Recording) -> None:
        abort(self)
        with engine.begin_write() as transaction:
            transaction.put(b"\xff stranger", b"")

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "abort", abort_and_write)
        with pytest.raises(TransactionError, match="does not use parkit"):
            async with pa.transaction(d):
                await d.set("a", 1)
    assert await d.len() == 0
    free("ns")
    await d.set("a", 2)
    assert await d["a"] == 2


@pytest.mark.usefixtures("full")
async def test_others_write_between_the_transactions_of_a_task() -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    await d.set("n", 0)

    async def add(times: int) -> None:
        for _ in range(times):
            async with pa.transaction(d):
                await d.set("n", await d["n"] + 1)
                await asyncio.sleep(0)

    twin: parkit.Dict[str, int] = parkit.Dict("ns/d")

    def add_in_thread() -> None:
        for _ in range(20):
            with parkit.transaction(twin):
                twin["n"] += 1

    await asyncio.gather(*(add(10) for _ in range(5)), *(asyncio.to_thread(add_in_thread) for _ in range(2)))
    assert await d["n"] == 90
    free("ns")


@pytest.mark.usefixtures("full")
async def test_statistics_tell_what_was_done() -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    before = await pa.statistics("ns")
    await in_one_go("ns", [d.set(number, number) for number in range(10)])
    after = await pa.statistics("ns")
    assert after.operations - before.operations == 10
    assert after.commits - before.commits == 1
    assert after.fsyncs - before.fsyncs == 2
    assert after.hops - before.hops == 1


@pytest.mark.usefixtures("full")
async def test_what_was_cleared_is_reclaimed_while_others_write() -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    namespace: Namespace = open_namespace("ns")
    await d.update({number: number for number in range(5000)})
    await d.clear()

    async def write() -> None:
        while namespace.statistics.reclaimed < 5000:
            await d.set(1, 1)

    async with asyncio.timeout(PATIENCE):
        await write()
    assert await d.len() == 1


@pytest.mark.anyio
async def test_tasks_that_write_again_and_again_share_each_commit(full: None) -> None:
    prices: pa.Dict[str, int] = pa.Dict("ns/prices")
    await prices.set("first", 0)
    statistics = open_namespace("ns").statistics
    before = statistics.commits

    async def setting(name: str) -> None:
        for number in range(10):
            await prices.set(name, number)

    await asyncio.gather(*(setting(str(number)) for number in range(100)))
    assert 10 <= statistics.commits - before <= 12, "all 100 are answered together, so that they write together the next time"
