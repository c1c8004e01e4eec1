"""A runtime lives as long as its loop: whatever is pending when that ends, the end comes in bounded time and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

import parkit
import parkit_async as pa
from parkit_async import runtime
from parkit_async._core.doorbell import EVENT_ALL
from parkit_async._core.errors import ContextError
from parkit_async._core.registry import open_namespace
from parkit_async.actor import ActorStoppedError
from tests.conftest import RunScript, Spawn
from tests.loops.harness import PATIENCE, free, holding_process, holding_thread, spin, until

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


_PENDING = """
    import asyncio, os, sys, threading
    import parkit, parkit_async as pa
    from parkit_async._core.registry import open_namespace

    async def pending():
        q = await pa.Queue("ns/q")
        d = await pa.Dict("ns/d")
        log = await pa.Log("ns/log")
        async def follow():
            async for entry in log.follow():
                pass
        async def hold():
            async with pa.transaction("held"):
                await asyncio.get_running_loop().create_future()
        async def stand_in_line():
            async with pa.transaction("held"):
                pass
        waiting = [q.get(), q.get(timeout=1000), follow(), d.wait_changed(d.version), log.wait(0)]
        waiting += [hold(), stand_in_line(), pa.Dict("held/d").set(1, 1)]
        tasks = [asyncio.ensure_future(call) for call in waiting]
        while len([task for task in tasks if not task.done()]) < len(tasks) or not open_namespace("ns").table.waiters({log._binding.object_id: 15}):
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        return tasks

    for _ in range(2):
        if sys.argv[1] == "uvloop":
            import uvloop
            tasks = uvloop.run(pending())
        else:
            tasks = asyncio.run(pending())
        assert all(task.cancelled() for task in tasks), tasks
    namespace = open_namespace("ns")
    for thread in threading.enumerate():
        assert thread is threading.main_thread() or not thread.join(5) and not thread.is_alive(), thread
    assert not os.listdir(namespace.sockets.path), os.listdir(namespace.sockets.path)
    assert not [reader for reader in namespace.engine.readers() if reader.transaction is not None]
    parkit.Dict("ns/d")["after"] = 1
    with parkit.transaction("held"):
        pass
    print("ended", flush=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize("loop", LOOPS)
def test_run_ends_with_waiters_pending(run_script: RunScript, loop: str) -> None:
    finished = run_script(_PENDING, loop, env={"PYTHONWARNINGS": "error", "PYTHONASYNCIODEBUG": "1" if loop == "asyncio" else ""})
    assert finished.stdout == "ended\n"
    assert "never retrieved" not in finished.stderr
    assert "was destroyed" not in finished.stderr
    assert "Traceback" not in finished.stderr


_BEHIND_ANOTHER = """
    import asyncio, sys
    import parkit_async as pa

    async def main():
        d = await pa.Dict("ns/d")
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        tasks = [asyncio.ensure_future(d.set(number, number)) for number in range(3)]
        async def transact():
            async with pa.transaction(d):
                await d.set("t", 1)
        tasks.append(asyncio.ensure_future(transact()))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)

    if sys.argv[1] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
    print("ended", flush=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize("loop", LOOPS)
def test_a_process_ends_although_another_has_the_turn(spawn: Spawn, loop: str, level: str) -> None:
    d: parkit.Dict[Any, int] = parkit.Dict("ns/d")
    script, other = spawn(_BEHIND_ANOTHER, loop), holding_process(spawn)
    assert script.read_line() == "ready"
    other.hold("ns")
    script.send("go")
    assert script.read_line() == "ended"
    script.finish()
    other.let_go()
    assert dict(d) == {}
    d["after"] = 1


# Many loops.


async def work(path: str, times: int) -> None:
    d: pa.Dict[Any, int] = pa.Dict(path)
    q: pa.Queue[int] = pa.Queue("ns/q")
    for number in range(times):
        await d.set(number, number)
        async with pa.transaction(d):
            await q.put(number)
            await d.set("last", number)
        await q.get()
    assert await d.len() >= times


def test_many_loops_one_after_another(level: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    d: pa.Dict[Any, int] = pa.Dict("ns/d")
    q: pa.Queue[int] = pa.Queue("ns/q")

    async def use(number: int) -> None:
        await d.set(number, number)
        getting = asyncio.ensure_future(q.get())
        await spin(3)
        await q.put(number)
        assert await getting == number

    for number in range(30):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(use(number))
        assert not runtime._runtimes
        assert open_namespace("ns").lane._users == 0
    assert len(parkit.Dict("ns/d")) == 30


def test_many_loops_side_by_side(level: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    d: pa.Dict[int, int] = pa.Dict("ns/d")
    counter: pa.Dict[str, int] = pa.Dict("ns/counter")
    stored: parkit.Dict[str, int] = parkit.Dict("ns/counter")
    stored["n"] = 0
    failures: list[BaseException] = []

    async def add(worker: int) -> None:
        for number in range(20):
            await d.set(worker * 100 + number, number)
            async with pa.transaction(counter):
                await counter.set("n", await counter["n"] + 1)

    def run(worker: int) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(add(worker))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not failures
    assert stored["n"] == 120
    assert len(parkit.Dict("ns/d")) == 120
    assert open_namespace("ns").lane._users == 0
    free("ns")


@pytest.mark.usefixtures("full")
def test_a_loop_that_was_closed_without_its_runtime(store: Any) -> None:
    async def start() -> None:
        q: pa.Queue[int] = await pa.Queue("ns/q")
        await q.put(1)
        await q.get()
        assert q._binding is not None
        object_id = q._binding.object_id
        kept.append(asyncio.ensure_future(q.get()))
        await until(lambda: open_namespace("ns").table.waiters({object_id: EVENT_ALL}))

    kept: list[asyncio.Task[int]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    loop.close()
    namespace = open_namespace("ns")
    assert os.listdir(namespace.sockets.path)
    with pytest.warns(ResourceWarning, match=r"closed while parkit was open on it; .* parkit_async.aclose"):
        asyncio.run(work("ns/d", 1))
    assert not os.listdir(namespace.sockets.path)
    assert not runtime._runtimes
    assert namespace.lane._users == 0
    # It was left pending on purpose: asyncio would complain.
    kept[0]._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.usefixtures("full")
def test_a_closed_loop_is_swept_where_warnings_are_errors() -> None:
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for loop in loops:
        loop.run_until_complete(work("ns/d", 1))
    for loop in loops:
        loop.close()
    # The warning is raised, as everywhere in these tests; the cleaning up is done all the same, for every loop of the past.
    with pytest.raises(ResourceWarning):
        asyncio.run(work("ns/d", 1))
    assert open_namespace("ns").lane._users == 0
    asyncio.run(work("ns/d", 1))


# Closing by hand.


async def test_aclose_is_idempotent_and_parkit_goes_on_afterwards(level: str) -> None:
    for _ in range(3):
        await work("ns/d", 3)
        await asyncio.gather(*(pa.aclose() for _ in range(5)))
        await pa.aclose()
        assert asyncio.get_running_loop() not in runtime._runtimes
        assert open_namespace("ns").lane._users == 0
        assert not os.listdir(open_namespace("ns").sockets.path)


async def test_aclose_without_a_runtime_does_nothing() -> None:
    await pa.aclose()
    assert not runtime._runtimes


@pytest.mark.usefixtures("full")
async def test_aclose_is_shielded() -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    writes = [asyncio.ensure_future(d.set(str(number), number)) for number in range(20)]
    await spin(1)
    closing = [asyncio.ensure_future(pa.aclose()) for _ in range(3)]
    await spin(1)
    closing[0].cancel()
    await asyncio.wait([closing[0]])
    assert closing[0].cancelled()
    await asyncio.gather(*closing[1:])
    await asyncio.gather(*writes)
    assert await d.len() == 20


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("rounds", range(6))
async def test_writes_under_way_are_finished_and_those_that_come_meanwhile_succeed(rounds: int) -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    before = [asyncio.ensure_future(d.set(f"before {number}", number)) for number in range(20)]
    await spin(rounds)
    closing = asyncio.ensure_future(pa.aclose())
    after = []
    for number in range(10):
        after.append(asyncio.ensure_future(d.set(f"after {number}", number)))
        await spin(1)
    await closing
    answers = await asyncio.gather(*before, *after, return_exceptions=True)
    failed = [answer for answer in answers if answer is not None]
    assert all(isinstance(answer, ActorStoppedError) for answer in failed), failed
    assert await d.len() == 30 - len(failed), "an error means that it has not happened"
    await pa.aclose()
    assert open_namespace("ns").lane._users == 0


@pytest.mark.usefixtures("full")
async def test_a_transaction_that_ends_after_aclose() -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    async with pa.transaction(d):
        await d.set("a", 1)
        await pa.aclose()
        await d.set("b", 1)
    assert await d.len() == 2
    await pa.aclose()
    assert open_namespace("ns").lane._users == 0


async def test_who_waits_is_told() -> None:
    q: pa.Queue[int] = await pa.Queue("ns/q")
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    waiting = [asyncio.ensure_future(q.get()), asyncio.ensure_future(q.get(timeout=1000)), asyncio.ensure_future(d.wait_changed(d.version))]
    await spin(5)
    await pa.aclose()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ActorStoppedError] * 3
    await q.put(1)
    assert await q.get() == 1


@pytest.mark.processes
@pytest.mark.usefixtures("full")
async def test_aclose_does_not_wait_for_another_process(spawn: Spawn) -> None:
    d: pa.Dict[str, int] = await pa.Dict("ns/d")
    other = holding_process(spawn)
    other.hold("ns")
    write = asyncio.ensure_future(d.set("a", 1))
    await spin(10)
    write.cancel()
    await asyncio.wait([write])
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await pa.aclose()
    assert rounds > 2
    counting.cancel()
    await asyncio.wait([counting])
    other.let_go()
    await asyncio.to_thread(free, "ns")
    assert await d.len() == 0


@pytest.mark.usefixtures("full")
def test_a_generator_that_writes_when_the_loop_ends(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    kept: list[Any] = []

    async def generate() -> Any:
        d: pa.Dict[str, int] = await pa.Dict("ns/d")
        try:
            yield
        finally:
            await d.set("end", 1)
            async with pa.transaction(d):
                await d.set("end too", 1)

    async def main() -> None:
        for _ in range(3):
            kept.append(generate())
            await anext(kept[-1])

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert dict(parkit.Dict("ns/d")) == {"end": 1, "end too": 1}
    assert open_namespace("ns").lane._users == 0
    assert not runtime._runtimes


@pytest.mark.parametrize("rounds", range(3))
def test_a_loop_that_ends_while_it_is_closing(level: str, rounds: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        await work("ns/d", 2)
        closing = asyncio.ensure_future(pa.aclose())
        await spin(rounds)
        closing.add_done_callback(lambda _: None)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert not runtime._runtimes
    assert open_namespace("ns").lane._users == 0


# Signals.

_INTERRUPTED = """
    import asyncio, signal, sys
    import parkit_async as pa

    acknowledged = 0

    async def write(d, key):
        global acknowledged
        number = 0
        while True:
            try:
                await d.set(key, number + 1)
            except asyncio.CancelledError:
                print("ended", key, number, flush=True)
                raise
            number += 1
            if number == 20:
                print("busy", flush=True)

    async def main():
        d = pa.Dict("ns/d")
        loop = asyncio.get_running_loop()
        if sys.argv[2] == "SIGTERM":
            me = asyncio.current_task()
            loop.add_signal_handler(signal.SIGTERM, me.cancel)
        async with asyncio.TaskGroup() as group:
            for key in range(3):
                group.create_task(write(d, key))

    try:
        if sys.argv[1] == "uvloop":
            import uvloop
            uvloop.run(main())
        else:
            asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        print("out", type(error).__name__, flush=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_signal_in_the_middle_of_durable_writes(spawn: Spawn, loop: str, name: str, level: str) -> None:
    script = spawn(_INTERRUPTED, loop, name)
    for _ in range(3):
        assert script.read_line() == "busy"
    os.kill(script.pid, getattr(signal, name))
    if name == "SIGTERM":
        os.kill(script.pid, signal.SIGTERM)
    told = {}
    for _ in range(3):
        word, key, number = script.read_line().split()
        assert word == "ended"
        told[int(key)] = int(number)
    assert script.read_line() == ("out KeyboardInterrupt" if name == "SIGINT" else "out CancelledError")
    script.finish()
    assert dict(parkit.Dict("ns/d")) == told, "what returned is stored, what was cancelled is not"


# A second interrupt raises KeyboardInterrupt wherever the loop is. Between taking a callback from its queue and calling it, asyncio forgets that
# callback: a task's step, or a task group's notice that a task is done, and then asyncio.run() waits for ever, with parkit or without. So a
# program that hangs is asked for whom it waits: a task that awaits a Reply would be parkit's fault.
_WATCHED = """
    import gc, os, threading, time

    def watch():
        import asyncio
        from parkit_async.coordinator import Reply

        threading.Event().wait(10)
        waiters = [task._fut_waiter for task in gc.get_objects() if isinstance(task, asyncio.Task) and not task.done()]
        owed = [waiter for waiter in waiters if isinstance(waiter, Reply)]
        print("parkit owes", owed or "nothing", flush=True)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
"""


@pytest.mark.processes
@pytest.mark.timeout(120)
@pytest.mark.parametrize("loop", LOOPS)
def test_two_interrupts_at_once_end_it_and_the_next_one_goes_on(spawn: Spawn, loop: str) -> None:
    for _ in range(5):
        script = spawn(_WATCHED + _INTERRUPTED, loop, "SIGINT")
        for _ in range(3):
            script.read_line()
        os.kill(script.pid, signal.SIGINT)
        os.kill(script.pid, signal.SIGINT)
        finished = script.finish(check=False)
        assert "parkit owes [" not in finished.stdout, finished
        d: parkit.Dict[int, int] = parkit.Dict("ns/d")
        assert sorted(d) == [0, 1, 2]
        d.clear()


# Fork.


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("first", ["blocking", "awaitable"])
def test_a_fork_in_the_middle_of_a_loop(run_script: RunScript, loop: str, first: str, level: str) -> None:
    finished = run_script(
        """
        import asyncio, os, sys, traceback
        import parkit, parkit_async as pa
        from parkit_async._core.ownership import contexts

        def run(main):
            if sys.argv[1] == "uvloop":
                import uvloop
                uvloop.run(main)
            else:
                asyncio.run(main)

        async def use(d, q, who):
            await d.set(who, 1)
            async with pa.transaction(d):
                await d.set(who + " too", 1)
            getting = asyncio.ensure_future(q.get())
            for _ in range(5):
                await asyncio.sleep(0)
            await q.put(who)
            assert await getting == who

        def child(d, q):
            status = 1
            try:
                if sys.argv[2] == "blocking":
                    parkit.Dict("ns/d")["child, blocking"] = 1
                run(use(d, q, "child"))
                parkit.Dict("ns/d")["child, blocking"] = 1
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

        async def main():
            d = await pa.Dict("ns/d")
            q = await pa.Queue("ns/q")
            own = await pa.Queue("ns/own")
            waiting = asyncio.ensure_future(own.get())
            await d.set("parent", 1)
            async with pa.transaction("other"):
                inside = await pa.Dict("other/d")
                await inside.set("a", 1)
                pid = os.fork()
                if pid == 0:
                    child(d, q)
                _, status = await asyncio.to_thread(os.waitpid, pid, 0)
                assert os.waitstatus_to_exitcode(status) == 0
            assert await inside["a"] == 1
            await use(d, q, "parent")
            await own.put("mine")
            assert await waiting == "mine"
            expected = {"parent", "parent too", "child, blocking", "child", "child too"}
            assert {k async for k in d} == expected, [k async for k in d]

        run(main())
        print("ended")
        """,
        loop,
        first,
    )
    assert finished.stdout == "ended\n"
    assert finished.stderr == ""


# One thread, two faces.


@pytest.mark.processes
def test_importing_starts_nothing(run_script: RunScript) -> None:
    finished = run_script(
        """
        import os, threading
        import parkit_async
        for name in parkit_async.__all__:
            getattr(parkit_async, name)
        print(threading.active_count(), os.path.exists(os.environ["PARKIT_STORAGE_PATH"] + "/default"))
        """
    )
    assert finished.stdout == "1 False\n"


@contextlib.contextmanager
def blocking_transaction(contended: bool) -> Iterator[None]:
    """Open a transaction of the blocking face; one that has stood in line holds the turn in another form."""
    if not contended:
        with parkit.transaction("ns"):
            yield
        return
    with holding_thread("ns") as let_go:
        waits = open_namespace("ns").statistics.waits

        def let_go_when_in_line() -> None:
            while open_namespace("ns").statistics.waits == waits:
                os.sched_yield()
            let_go()

        thread = threading.Thread(target=let_go_when_in_line)
        thread.start()
        with parkit.transaction("ns"):
            yield
        thread.join(PATIENCE)


@pytest.mark.parametrize("contended", [False, True], ids=["free", "after a wait"])
def test_a_loop_inside_a_blocking_transaction(level: str, contended: bool, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    d: pa.Dict[str, int] = pa.Dict("ns/d")
    stored: parkit.Dict[str, int] = parkit.Dict("ns/d")
    stored["a"] = 1

    async def main() -> None:
        assert await d.get("a") == 1
        with pytest.raises(ContextError, match="open around this event loop"):
            await d.set("b", 2)
        with pytest.raises(ContextError, match="open around this event loop"):
            async with pa.transaction(d):
                pass
        other: pa.Dict[str, int] = await pa.Dict("other/d")
        await other.set("a", 1)

    with blocking_transaction(contended), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
        stored["c"] = 3
    assert dict(stored) == {"a": 1, "c": 3}
    asyncio.run(d.set("b", 2))
    free("ns")


async def test_reader_slots_are_given_back(level: str) -> None:
    d: pa.Dict[int, int] = await pa.Dict("ns/d")
    await d.update({number: number for number in range(10)})
    namespace = open_namespace("ns")

    def reading() -> int:
        return len([reader for reader in namespace.engine.readers() if reader.transaction is not None])

    iterator = aiter(d)
    await anext(iterator)
    task = asyncio.ensure_future(_snapshot(d))
    await spin(3)
    assert reading() >= 1
    task.cancel()
    await asyncio.wait([task])
    del iterator
    gc.collect()
    assert reading() == 0
    await until(lambda: not namespace.pinned())


async def _snapshot(d: pa.Dict[int, int]) -> None:
    async with pa.snapshot(d):
        await asyncio.get_running_loop().create_future()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["off", "full"])
def test_a_program_ends_while_a_stopped_process_holds_the_turn(
    level: str, spawn: Spawn, run_script: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NEEDS: the peer hangs but is not dead. The writer thread waits for its gate, and nothing can interrupt that; the program ends all the same.
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", level)
    d: parkit.Dict[str, int] = parkit.Dict("ns/d")
    holder = holding_process(spawn)
    holder.hold("ns")
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        out = run_script(
            """
            import asyncio
            from parkit_async import Dict, transaction

            async def main():
                d = await Dict("ns/d")
                tasks = [asyncio.ensure_future(d.set(str(number), number)) for number in range(3)]

                async def together():
                    async with transaction(d):
                        await d.set("together", 1)

                tasks.append(asyncio.ensure_future(together()))
                done, _ = await asyncio.wait(tasks, timeout=0.2)
                assert not done
                print("waiting", await d.get("before", "read"))

            asyncio.run(main())
            print("ended")
            """,
            timeout=30,
        )
        assert out.stdout.split() == ["waiting", "read", "ended"]
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    holder.let_go()
    assert dict(d) == {}
    free("ns")


def test_what_a_callback_opens_is_its_threads_and_no_tasks(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    d = parkit.Dict[str, int]("ns/d")
    opened, seen = contextlib.ExitStack(), list[object]()

    def begin() -> None:
        opened.enter_context(parkit.transaction(d))
        d["k"] = 1
        seen.append(d["k"])

    async def look() -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon(begin)
        asyncio.get_running_loop().call_soon(done.set)
        await done.wait()
        seen.append(d.get("k"))

    with contextlib.closing(loop_factory()) as loop, opened:
        loop.run_until_complete(look())
        seen.append(d.get("k"))
    assert seen == [1, None, 1]


def test_a_handle_that_was_not_awaited_yet_creates_nothing_by_itself_and_says_so() -> None:
    """It said that create=True would create it, which was so already."""

    async def look() -> None:
        d = pa.Dict[str, int]("ns/d")
        assert not d.exists
        with pytest.raises(pa.ObjectNotFoundError, match="await the handle, which creates it"):
            _ = d.version
        await d
        assert d.version == 0

    asyncio.run(look())
