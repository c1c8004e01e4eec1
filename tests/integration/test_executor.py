"""``ProcessPoolExecutor`` is what the users of concurrent.futures know: its futures, its ends, its errors; and what parkit makes of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import parkit
import parkit_async
from parkit import Dict, Log, Process, ProcessCrashedError, ProcessPoolExecutor, Queue, transaction
from parkit_async._core import codecs, dispatch, executor_ops, process_ops, supervision
from parkit_async._core.dispatch import end_all
from parkit_async._core.layout import OUTCOMES, OWNERS, process_key
from parkit_async._core.registry import close_all, open_namespace
from parkit_async._core.waiting import counters
from parkit_async.testing import InlinePool
from tests.conftest import RunScript, Spawn
from tests.integration import targets
from tests.pool.conftest import Pool
from tests.pool.standin import Supervisor
from tests.pool.targets import Unloadable, add, double, echo, fail_custom, hold, pid, say_and_crash

pytestmark = pytest.mark.processes

PATIENCE = 30.0


@pytest.fixture
def executor(pool: Pool) -> Iterator[ProcessPoolExecutor]:
    """An executor over the module's pool of two workers, of which nothing is left when it was shut down."""
    with ProcessPoolExecutor() as executor:
        yield executor
    assert not list(parkit.processes())
    assert not kept()


@pytest.fixture
def still(parkit_inline: InlinePool) -> Iterator[ExitStack]:
    """A store in which nothing runs, unless the test leaves this context."""
    with ExitStack() as stack:
        stack.enter_context(parkit_inline.paused())
        yield stack


def kept(name: str = "executor") -> list[bytes]:
    """Return the keys of what a namespace keeps of executors."""

    def look(reading: Any) -> list[bytes]:
        keys = reading.transaction.cursor().iternext(keys=True, values=False)
        return [bytes(key) for key in keys if key.startswith((OWNERS, OUTCOMES))]

    found: list[bytes] = open_namespace(name).read(look)
    return found


def outputs() -> list[Path]:
    """Return the outputs that are kept; a worker keeps an empty file for its next run."""
    return [file for file in Path(parkit.get_storage_path(), "output").glob("*") if file.stat().st_size]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something has happened in the store that rings nobody here."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.005)


@contextmanager
def brief(namespace: str = "executor") -> Iterator[ProcessPoolExecutor]:
    """An executor that waits for nothing that was not claimed when the test fails, or has seen enough."""
    executor = ProcessPoolExecutor(namespace=namespace)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def claim(name: str = "executor") -> process_ops.Claim:
    """Take what was submitted first, as a worker does."""
    found: process_ops.Claim | None = open_namespace(name).write_apart(process_ops.claim, ("worker", os.getpid()))
    assert found is not None
    return found


def finish(process: process_ops.Claim, status: str, frame: bytes) -> None:
    """Store an outcome, as a worker does."""
    assert open_namespace("executor").write_apart(process_ops.finish, (process.process, "worker", status, 0, frame))


def held(executor: ProcessPoolExecutor, path: str) -> tuple[Future[int], Callable[[], None]]:
    """Submit a call that runs until it is told to go on, and wait until it runs; return its future, and what tells it."""
    future = executor.submit(hold, path)
    Queue[int](f"{path}-running").get(timeout=PATIENCE)
    return future, lambda: Queue[None](f"{path}-gate").put(None)


# What concurrent.futures promises.


def test_results_and_arguments(executor: ProcessPoolExecutor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    assert executor.submit(pow, 2, 5).result(PATIENCE) == 32
    assert executor.submit(echo, 1, fn=2, self=3).result(PATIENCE) == ((1,), {"fn": 2, "self": 3})
    assert executor.submit(pid).result(PATIENCE) != os.getpid()
    number = 41
    assert executor.submit(lambda: number + 1).result(PATIENCE) == 42  # cloudpickle's
    awaited: Future[Any] = executor.submit(double, 21)
    assert awaited.result(PATIENCE) == 42  # a coroutine function


def test_errors_are_the_calls_own_with_the_remote_traceback(executor: ProcessPoolExecutor) -> None:
    future = executor.submit(fail_custom)
    error = future.exception(PATIENCE)
    assert type(error).__name__ == "Custom" and getattr(error, "code", 0) == 7
    assert error is not None and "in fail_custom" in str(error.__cause__)
    with pytest.raises(TypeError, match="cannot be pickled; return plain data"):
        executor.submit(threading.Lock).result(PATIENCE)
    lock = threading.Lock()
    unsent = executor.submit(echo, lock)
    with pytest.raises(TypeError, match="lock"):  # of the future, as the standard library has it
        unsent.result(0)
    with pytest.raises(TypeError, match="lock"):
        list(executor.map(echo, [lock]))


def test_map_gives_results_in_order_by_single_calls_and_by_chunks(executor: ProcessPoolExecutor) -> None:
    for chunksize in (1, 3, 100):
        assert list(executor.map(add, range(10), range(10, 20), chunksize=chunksize)) == list(range(10, 30, 2))
    assert list(executor.map(add, [], [])) == []
    assert list(executor.map(add, range(3), count())) == [0, 2, 4]  # as long as the shortest
    assert list(executor.map(pow, range(600), [2] * 600)) == [number**2 for number in range(600)]  # more than one transaction takes
    with pytest.raises(ZeroDivisionError):
        list(executor.map(targets.invert, [1, 0, 2]))
    for wrong in ({"chunksize": 0}, {"buffersize": 0}):
        with pytest.raises(ValueError, match="size"):
            executor.map(abs, [1], **wrong)
    for kind in (True, "3"):
        with pytest.raises(TypeError, match="buffersize must be an integer or None"):
            executor.map(abs, [1], buffersize=kind)  # type: ignore[arg-type]


def test_map_with_a_buffer_takes_arguments_as_results_are_taken(executor: ProcessPoolExecutor) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    results = executor.map(abs, numbers(), buffersize=3)
    assert taken == [0, 1, 2]
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 8


def test_map_that_takes_too_long_raises_and_cancels_the_rest(still: ExitStack) -> None:
    with ProcessPoolExecutor() as executor:
        results = executor.map(abs, range(300), timeout=0.05)
        with pytest.raises(TimeoutError):
            next(results)
        assert not list(parkit.processes())


def test_wait_and_as_completed(executor: ProcessPoolExecutor) -> None:
    slow, release = held(executor, "jobs/slow")
    quick = executor.submit(abs, -1)
    done, pending = wait([slow, quick], PATIENCE, FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    with pytest.raises(TimeoutError):
        slow.result(0.01)
    release()
    assert set(as_completed([slow, quick], PATIENCE)) == {slow, quick}


def test_a_call_that_nobody_has_claimed_can_be_cancelled(still: ExitStack) -> None:
    with ProcessPoolExecutor() as executor:
        futures = [executor.submit(abs, number) for number in range(3)]
        eventually(lambda: len(list(parkit.processes())) == 3)
        assert not futures[0].running()
        assert futures[1].cancel() and futures[1].cancelled() and futures[1].cancel()
        assert len(list(parkit.processes())) == 2
        assert wait(futures, 0)[0] == {futures[1]}
        with pytest.raises(CancelledError):
            futures[1].result(0)
        still.close()
        assert futures[2].result(PATIENCE) == 2
        assert futures[0].result(0) == 0
        assert not futures[0].cancel()


def test_a_call_that_runs_cannot_be_cancelled(executor: ProcessPoolExecutor) -> None:
    future, release = held(executor, "jobs/running")
    assert future.running() and not future.done()
    assert not future.cancel() and not future.cancelled()
    release()
    future.result(PATIENCE)
    assert not future.running()


def test_cancelled_from_many_threads_while_workers_claim(executor: ProcessPoolExecutor) -> None:
    """Each call is cancelled, or runs; never both, and never neither."""
    ran: Log[int] = Log("jobs/ran")
    futures = [executor.submit(ran.append, number) for number in range(120)]
    verdicts: list[list[bool]] = [[False] * len(futures) for _ in range(4)]

    def cancel(mine: list[bool]) -> None:
        for number in reversed(range(len(futures))):
            mine[number] = futures[number].cancel()

    threads = [threading.Thread(target=cancel, args=(mine,)) for mine in verdicts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    wait(futures, PATIENCE)
    cancelled = {number for number, future in enumerate(futures) if future.cancelled()}
    assert cancelled, "nothing was cancelled, so this has shown nothing"
    assert {number for mine in verdicts for number, said in enumerate(mine) if said} == cancelled
    assert sorted(ran) == sorted(set(range(len(futures))) - cancelled)


def test_no_more_calls_at_once_than_max_workers(still: ExitStack) -> None:
    with ProcessPoolExecutor(max_workers=2) as executor:
        futures = [executor.submit(abs, -number) for number in range(6)]
        eventually(lambda: len(list(parkit.processes())) == 2)
        assert not futures[5].running()
        assert futures[5].cancel()  # one that waits in this program
        assert futures[0].cancel()  # makes room for another one
        eventually(lambda: len(list(parkit.processes())) == 2)
        still.close()
        assert [future.result(PATIENCE) for future in futures[1:5]] == [1, 2, 3, 4]


def test_arguments_that_cannot_be_are_refused(store: Path) -> None:
    for wrong, error in (
        ({"max_workers": 0}, ValueError),
        ({"max_workers": "2"}, TypeError),
        ({"mp_context": multiprocessing.get_context("fork")}, ValueError),
        ({"max_tasks_per_child": 3}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"namespace": "../x"}, ValueError),
    ):
        with pytest.raises(error):
            ProcessPoolExecutor(**wrong)
    parkit.set_namespace_codecs("plain", ["json"])
    with pytest.raises(parkit.CodecError, match="another namespace"):
        ProcessPoolExecutor(namespace="plain")
    ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
    assert parkit_async.ProcessPoolExecutor is ProcessPoolExecutor


def test_the_initializer_is_called_once_in_each_worker(executor: ProcessPoolExecutor) -> None:
    calls: Log[int] = Log("jobs/initialized")
    with ProcessPoolExecutor(initializer=targets.note_worker, initargs=(calls,)) as initialized:
        workers = {future.result(PATIENCE) for future in [initialized.submit(pid) for _ in range(20)]}
    assert sorted(calls) == sorted(workers)
    with ProcessPoolExecutor(initializer=targets.invert, initargs=(0,)) as broken:
        with pytest.raises(BrokenProcessPool, match=r"initializer .* ZeroDivisionError") as caught:
            broken.submit(pid).result(PATIENCE)
        assert "in invert" in str(caught.value.__cause__)


def test_an_initializer_that_fails_is_called_again_for_the_next_call(parkit_inline: InlinePool) -> None:
    calls: Log[int] = Log("jobs/initialized")
    with ProcessPoolExecutor(initializer=targets.stumble, initargs=(calls,)) as executor:
        with pytest.raises(BrokenProcessPool, match="initializer of the executor failed in a worker: ValueError: stumbled") as caught:
            executor.submit(abs, -1).result(PATIENCE)
        assert "in stumble" in str(caught.value.__cause__)
        assert [executor.submit(abs, -number).result(PATIENCE) for number in (2, 3)] == [2, 3]
    assert len(calls) == 2


def test_what_cannot_be_loaded_is_an_error_of_its_own_future(still: ExitStack) -> None:
    with brief() as executor:
        damaged = executor.submit(abs, -1)
        eventually(lambda: len(list(parkit.processes())) == 1)
        finish(claim(), process_ops.FAILED, codecs.encode("no record of an exception"))
        with pytest.raises(parkit.CodecError, match="what the call raised cannot be loaded here") as caught:
            damaged.result(PATIENCE)
        assert "is damaged" in str(caught.value.__cause__)
        still.close()
        with pytest.raises(parkit.CodecError, match="what the call returned, or raised, cannot be loaded here") as caught:
            executor.submit(Unloadable).result(PATIENCE)
        assert str(caught.value.__cause__) == "cannot be loaded"
        assert executor.submit(abs, -2).result(PATIENCE) == 2


def test_who_cancels_or_asks_waits_for_the_submit_under_way(still: ExitStack) -> None:
    """Before its process is known a future can be neither taken off the queue nor looked for there."""
    said: dict[str, bool] = {}
    with brief() as executor:
        executor.submit(abs, 0)
        eventually(lambda: len(list(parkit.processes())) == 1)
        dispatcher = executor._dispatcher
        with transaction(Dict("executor/board")):  # nobody else writes
            with dispatcher._lock:  # for the thread to take both
                first, second = executor.submit(abs, -1), executor.submit(abs, -2)
            eventually(lambda: dispatcher._moving)
            threads = [
                threading.Thread(target=lambda: said.update(running=first.running())),
                threading.Thread(target=lambda: said.update(cancelled=second.cancel())),
            ]
            for thread in threads:
                thread.start()
            eventually(lambda: len(dispatcher._moved._waiters) == 2)  # type: ignore[attr-defined]
            assert not said
        for thread in threads:
            thread.join(PATIENCE)
        assert said == {"running": False, "cancelled": True} and second.cancelled()
        assert len(list(parkit.processes())) == 2
        still.close()
        assert first.result(PATIENCE) == 1
    Dict[Any, Any]("executor/board").drop()


# Ends.


def test_shutdown_waits_and_refuses_more(pool: Pool) -> None:
    executor = ProcessPoolExecutor()
    future, release = held(executor, "jobs/last")
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(abs, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(abs, [1])
    release()
    executor.shutdown()
    assert future.done()
    executor.shutdown()
    assert not kept()


def test_shutdown_cancels_what_has_not_begun(still: ExitStack) -> None:
    executor = ProcessPoolExecutor(max_workers=3)
    futures = [executor.submit(abs, number) for number in range(5)]
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    assert not list(parkit.processes())


def test_shut_down_from_a_callback(pool: Pool) -> None:
    executor, done = ProcessPoolExecutor(), threading.Event()

    def end(_: Future[int]) -> None:
        executor.shutdown()
        done.set()

    executor.submit(abs, -1).add_done_callback(end)
    assert done.wait(PATIENCE)
    executor.shutdown()


def test_a_forgotten_executor_ends_its_thread_when_all_is_done(pool: Pool) -> None:
    executor = ProcessPoolExecutor()
    future, release = held(executor, "jobs/forgotten")
    thread = executor._dispatcher.thread
    assert thread is not None
    del executor
    gc.collect()
    assert not future.done()
    release()
    assert future.result(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_the_interpreter_waits_for_what_is_outstanding(pool: Pool, run_script: RunScript) -> None:
    finished = run_script(
        """
        import atexit
        from parkit import ProcessPoolExecutor

        executor = ProcessPoolExecutor(max_workers=1)
        for number in range(3):
            executor.submit(abs, -number).add_done_callback(lambda future: print(future.result()))

        @atexit.register
        def come_late():
            try:
                executor.submit(abs, -3)
            except RuntimeError as error:
                print(error)
        """
    )
    assert finished.stdout.splitlines() == ["0", "1", "2", "cannot schedule new futures after interpreter shutdown"]
    assert not kept()


def test_an_executor_stays_in_its_process(executor: ProcessPoolExecutor, run_script: RunScript) -> None:
    with pytest.raises(TypeError, match="cannot be pickled; make one where it is needed"):
        pickle.dumps(executor)
    finished = run_script(
        """
        import os
        from parkit import ProcessPoolExecutor

        executor = ProcessPoolExecutor()
        assert executor.submit(abs, -3).result(30) == 3
        pid = os.fork()
        if not pid:
            try:
                executor.submit(abs, 1)
            except RuntimeError as error:
                print(error, flush=True)
            executor.shutdown()
            with ProcessPoolExecutor() as own:
                print(own.submit(abs, -4).result(30), flush=True)
            raise SystemExit
        os.waitpid(pid, 0)
        print(executor.submit(abs, -5).result(30))
        """
    )
    lines = finished.stdout.splitlines()
    assert "was forked; make another one here" in lines[0]
    assert lines[1:] == ["4", "5"]


def test_the_executors_of_a_store_can_be_ended_within_a_time(still: ExitStack, store: Path) -> None:
    """What the pytest plugin does behind a test: what has not begun is cancelled, what runs is told of."""
    executor = ProcessPoolExecutor()
    running = executor.submit(abs, -1)
    eventually(lambda: len(list(parkit.processes())) == 1)
    claimed = claim()
    waiting = executor.submit(abs, -2)
    assert end_all(str(store), 0.0) == ["executor"]
    eventually(waiting.cancelled)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -3)
    finish(claimed, process_ops.FINISHED, codecs.encode(1))
    assert running.result(PATIENCE) == 1
    assert end_all(str(store), PATIENCE) == []
    assert not kept()


# Deaths.


def test_a_dead_worker_breaks_its_own_future_alone(executor: ProcessPoolExecutor) -> None:
    doomed, _ = held(executor, "jobs/doomed")
    others = [executor.submit(abs, -number) for number in range(5)]
    worker = next(process.pid for process in parkit.processes("running") if process.name.startswith("executor/hold-"))
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(BrokenProcessPool, match=r"process 'executor/hold-\w+' was ended by SIGKILL; probable cause") as caught:
        doomed.result(PATIENCE)
    assert isinstance(caught.value, ProcessCrashedError) and caught.value.exitcode == -9
    assert isinstance(caught.value, concurrent.futures.BrokenExecutor)
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2, 3, 4]
    error = executor.submit(say_and_crash).exception(PATIENCE)
    assert isinstance(error, ProcessCrashedError) and error.exitcode == 9
    assert "before the end" in error.__notes__[0]
    assert not outputs()


def test_every_future_ends_while_workers_are_killed(own_pool: Pool) -> None:
    ran: Log[int] = Log("jobs/ran")
    killed: set[int] = set()
    with ProcessPoolExecutor() as executor:
        futures = [executor.submit(targets.append_slowly, ran, number) for number in range(150)]
        for number in (10, 40, 70, 100):
            ran.wait(number, timeout=PATIENCE)
            victim = min(own_pool.until(lambda: own_pool.workers() - killed))
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
        errors = [future.exception(PATIENCE) for future in futures]
    broken = [error for error in errors if error is not None]
    assert len(killed) == 4 and len(broken) <= 4 and all(isinstance(error, BrokenProcessPool) for error in broken)
    assert len(set(ran)) == len(ran) >= len(futures) - len(broken)
    assert not kept() and not list(parkit.processes())


def test_what_others_end_breaks_the_future(still: ExitStack) -> None:
    with ProcessPoolExecutor() as executor:
        futures = [executor.submit(abs, number) for number in range(2)]
        eventually(lambda: len(list(parkit.processes())) == 2)
        first, second = list(parkit.processes())
        first.terminate()
        second.drop()
        for future in futures:
            with pytest.raises(ProcessCrashedError, match="SIGTERM"):
                future.result(PATIENCE)


def test_everybody_of_the_pool_is_killed(own_pool: Pool) -> None:
    with ProcessPoolExecutor() as executor:
        doomed = [held(executor, f"jobs/doomed{number}")[0] for number in range(2)]  # both workers are busy, so that none dies with one of the others
        waiting = [executor.submit(abs, -number) for number in range(3)]
        supervisor = supervision.running_supervisor(str(own_pool.store))
        assert supervisor is not None
        os.kill(supervisor, signal.SIGSTOP)  # it starts nobody from now on
        for member in own_pool.members():
            if member.pid != supervisor:
                member.kill()
        os.kill(supervisor, signal.SIGKILL)
        for future in doomed:
            with pytest.raises(BrokenProcessPool):
                future.result(PATIENCE)
        assert [future.result(PATIENCE) for future in waiting] == [0, 1, 2]


def test_a_pool_that_was_ended_keeps_no_program_from_ending(own_pool: Pool) -> None:
    parkit.set_pool_size(0)
    executor = ProcessPoolExecutor()
    future = executor.submit(abs, -1)
    eventually(lambda: len(list(parkit.processes("submitted"))) == 1)
    parkit.killall(PATIENCE)
    assert not future.done()
    executor.shutdown()  # which would wait for ever
    with pytest.raises(BrokenProcessPool, match=r"ended by killall\(\)"):
        future.result(0)
    assert len(list(parkit.processes("submitted"))) == 1
    with pytest.raises(BrokenProcessPool):
        executor.submit(abs, -1)


def test_a_store_that_is_closed_under_an_executor_breaks_it(own_pool: Pool) -> None:
    parkit.set_pool_size(0)
    executor = ProcessPoolExecutor()
    future = executor.submit(abs, -1)
    eventually(lambda: len(list(parkit.processes("submitted"))) == 1)
    close_all()
    with pytest.raises(BrokenProcessPool, match="nobody can tell"):
        future.result(PATIENCE)
    with pytest.raises(BrokenProcessPool, match="make another executor"):
        executor.submit(abs, -1)
    executor.shutdown()
    assert [process.status for process in parkit.processes()] == ["submitted"]


def test_a_store_that_was_closed_before_the_first_call(store: Path) -> None:
    executor = ProcessPoolExecutor()
    close_all()
    with pytest.raises(BrokenProcessPool, match="namespace 'executor' was closed in this process; make another executor"):
        executor.submit(abs, -1)


def test_an_executor_that_fails_leaves_no_future_waiting(still: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no more of it")

    monkeypatch.setattr(executor_ops, "submit", fail)
    with brief() as executor:
        results = executor.map(abs, [-1])
        with pytest.raises(BrokenProcessPool, match="nobody can tell any more what became of this call: no more of it") as caught:
            next(results)
        assert isinstance(caught.value.__cause__, MemoryError)
        with pytest.raises(BrokenProcessPool, match="make another executor"):
            executor.submit(abs, -1)


def test_a_damaged_list_of_executors_is_told_to_whoever_waits(still: ExitStack) -> None:
    with brief() as executor:

        def spoil(writing: Any) -> None:
            writing.touched += 1
            writing.transaction.put(process_key(OWNERS, 1 << 40), b"[1]")

        assert open_namespace("executor").read(executor_ops.owners) == []
        open_namespace("executor").write_apart(spoil, ())
        future = executor.submit(abs, -1)
        with pytest.raises(BrokenProcessPool, match=r"nobody can tell.*an entry in the list of executors"):
            future.result(PATIENCE)


def test_an_interrupt_in_the_middle_of_a_submit_breaks_nothing(still: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with brief() as executor:
        dispatcher = executor._dispatcher
        first = executor.submit(abs, -1)
        eventually(lambda: bool(dispatcher._stored) and not dispatcher._moving)
        with monkeypatch.context() as patched:
            patched.setattr(dispatcher, "_store_futures", interrupt)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(abs, -2)
        assert len(list(parkit.processes())) == 2  # the second runs, and nobody waits for it
        still.close()
        assert first.result(PATIENCE) == 1
        assert executor.submit(abs, -3).result(PATIENCE) == 3
    assert not list(parkit.processes()) and not kept()


def test_who_submits_has_a_supervisor_started_where_there_is_none(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(supervision, "ensure", lambda path, restart: started.append(restart))
    with brief() as executor:
        for number in range(2):  # the second one is not written by the thread
            executor.submit(abs, number)
            eventually(lambda: True in started)
            started.clear()


def test_who_waits_sees_the_supervisor_die(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(supervision, "ensure", lambda path, restart: started.append(restart))
    with Supervisor(store) as supervisor, brief() as executor:
        dispatcher = executor._dispatcher
        dispatcher._step = 0.001  # else it is a second before it looks whom to watch
        executor.submit(abs, -1)
        eventually(lambda: dispatcher._lookout is not None)
        lookout = dispatcher._lookout
        assert lookout is not None and lookout.fileno() >= 0
        started.clear()
        supervisor.kill()
        eventually(lambda: bool(started))
        assert not started[0]
        eventually(lambda: dispatcher._lookout is not lookout)
        assert lookout.fileno() == -1


def test_the_safety_recheck_is_counted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(supervision, "ensure", lambda path, restart: started.append(restart))
    monkeypatch.setattr(dispatch, "SAFETY", 0.001)
    before = counters.rechecks
    with Supervisor(store), brief() as executor:
        executor._dispatcher._step = 0.001
        executor.submit(abs, -1)
        eventually(lambda: counters.rechecks > before)
        assert started[-1] is False


def test_what_a_killed_program_leaves_is_removed_by_the_next_executor(own_pool: Pool, spawn: Spawn) -> None:
    script = spawn(
        """
        import time
        from parkit import ProcessPoolExecutor, Queue
        from tests.pool.targets import hold, say

        executor = ProcessPoolExecutor()
        running = executor.submit(hold, "jobs/left")
        Queue("jobs/left-running").get(timeout=30)
        ended = [executor.submit(say, "some output"), executor.submit(abs, -1)]
        executor._dispatcher._tidy = lambda: None  # it is killed before
        [future.result(30) for future in ended]
        executor.submit(abs, -1)
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    assert script.read_line() == "ready"
    script.process.kill()
    script.process.wait(PATIENCE)
    eventually(lambda: len(list(parkit.processes())) == 1)
    assert len(kept()) >= 2
    with ProcessPoolExecutor() as executor:
        assert executor.submit(abs, -2).result(PATIENCE) == 2
        assert [process.status for process in parkit.processes()] == ["running"]  # it was started, so it ends once
        Queue[None]("jobs/left-gate").put(None)
        eventually(lambda: not list(parkit.processes()))
    with ProcessPoolExecutor() as executor:
        assert executor.submit(abs, -2).result(PATIENCE) == 2
    assert not kept()
    assert not outputs()


# With transactions, and beside them.


def test_a_submit_waits_for_nobody_who_writes(executor: ProcessPoolExecutor) -> None:
    board: Dict[str, int] = Dict("executor/board")
    entered, leave = threading.Event(), threading.Event()

    def write() -> None:
        with transaction(board):
            entered.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=write)
    thread.start()
    assert entered.wait(PATIENCE)
    future = executor.submit(abs, -1)
    assert not future.done()
    leave.set()
    assert future.result(PATIENCE) == 1
    thread.join(PATIENCE)


def test_a_submit_inside_a_transaction_has_no_part_in_it(executor: ProcessPoolExecutor) -> None:
    board: Dict[str, int] = Dict("executor/board")
    futures = []

    def fail() -> None:
        with transaction(board):
            board["n"] = 1
            futures.append(executor.submit(abs, -1))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert futures[0].result(PATIENCE) == 1
    assert not board
    board.drop()


def test_what_does_not_fit_fails_alone(executor: ProcessPoolExecutor) -> None:
    parkit.set_namespace_size("small", 1 << 20)
    with ProcessPoolExecutor(namespace="small") as small:
        big = small.submit(len, bytes(3 << 20))
        assert small.submit(len, b"123").result(PATIENCE) == 3
        with pytest.raises(parkit.NamespaceFullError):
            big.result(PATIENCE)
        with pytest.raises(parkit.NamespaceFullError):  # the result
            small.submit(bytes, 3 << 20).result(PATIENCE)
        sizes = small.map(len, [b"1", bytes(3 << 20), b"22"])
        assert next(sizes) == 1
        with pytest.raises(parkit.NamespaceFullError):
            next(sizes)


def test_what_does_not_fit_fails_alone_when_nobody_writes(still: ExitStack) -> None:
    parkit.set_namespace_size("small", 1 << 20)
    parkit.set_namespace_synchronous("small", "off")
    with brief("small") as small:
        fitting = small.submit(abs, -1)
        dispatcher = small._dispatcher
        eventually(lambda: bool(dispatcher._stored) and not dispatcher._moving)
        big = small.submit(len, bytes(3 << 20))  # the future has the error, as everybody else's
        with pytest.raises(parkit.NamespaceFullError):
            big.result(PATIENCE)
        still.close()
        assert fitting.result(PATIENCE) == 1


def test_a_durable_namespace(pool: Pool) -> None:
    parkit.set_namespace_synchronous("durable", "full")
    with ProcessPoolExecutor(namespace="durable") as executor:
        assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        assert parkit.statistics("durable").fsyncs
    assert not kept("durable")


def test_the_default_namespace_is_made_without_fsyncs(store: Path) -> None:
    ProcessPoolExecutor()
    assert parkit.get_namespace_synchronous("executor") == "off"
    parkit.set_namespace_synchronous("executor", "normal")
    assert repr(ProcessPoolExecutor()) == f"<parkit.ProcessPoolExecutor of namespace 'executor' in {str(store)!r}>"
    assert parkit.get_namespace_synchronous("executor") == "normal"
    ProcessPoolExecutor(namespace="mine")
    assert parkit.get_namespace_synchronous("mine") == "full"


def test_from_many_threads(executor: ProcessPoolExecutor) -> None:
    results: list[list[int]] = [[] for _ in range(6)]

    def work(mine: list[int], base: int) -> None:
        mine += [future.result(PATIENCE) for future in [executor.submit(add, base, number) for number in range(40)]]

    threads = [threading.Thread(target=work, args=(mine, 1000 * place)) for place, mine in enumerate(results)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [[1000 * place + number for number in range(40)] for place in range(6)]


# Idle.


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_executor_that_waits_does_not_wake(still: ExitStack) -> None:
    with ProcessPoolExecutor() as executor:
        futures = [executor.submit(abs, number) for number in range(200)]
        eventually(lambda: len(list(parkit.processes())) == 200)
        thread = executor._dispatcher.thread
        assert thread is not None
        status = Path(f"/proc/self/task/{thread.native_id}/status")

        def switches() -> int:
            return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))

        def watches() -> bool:
            lookout = executor._dispatcher._lookout  # made when the first second is over
            return lookout is not None and lookout.fileno() >= 0

        stat = Path(f"/proc/self/task/{thread.native_id}/stat")
        eventually(lambda: watches() and stat.read_text().rpartition(")")[2].split()[0] == "S")
        before, rechecks = switches(), counters.rechecks
        threading.Event().wait(1.0)
        assert (switches(), counters.rechecks) == (before, rechecks)
        executor.shutdown(wait=False, cancel_futures=True)
        wait(futures, PATIENCE)


def test_a_wake_up_reads_what_is_new_and_no_more(executor: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = executor_ops.outcomes

    def count_outcomes(*arguments: Any) -> Any:
        found = original(*arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(executor_ops, "outcomes", count_outcomes)
    assert len(list(executor.map(abs, range(500)))) == 500
    assert sum(read) == 500


# On event loops.


async def test_run_in_executor(pool: Pool) -> None:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor() as executor:
        assert await loop.run_in_executor(executor, add, 1, 2) == 3
        assert await asyncio.gather(*(loop.run_in_executor(executor, abs, -number) for number in range(20))) == list(range(20))
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, targets.invert, 0)
        slow = loop.run_in_executor(executor, hold, "jobs/awaited")
        await (await parkit_async.Queue[int]("jobs/awaited-running")).get(timeout=PATIENCE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow, 0.01)
        # What runs goes on; the program that waits for it no more has only let go of it.
        await (await parkit_async.Queue[None]("jobs/awaited-gate")).put(None)
        await loop.run_in_executor(None, executor.shutdown)
    await parkit_async.aclose()


async def test_a_cancelled_task_takes_its_call_off_the_queue(still: ExitStack) -> None:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor() as executor:
        task = asyncio.ensure_future(loop.run_in_executor(executor, abs, -1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)  # asyncio passes it on behind the cancelled future
        assert not [process async for process in parkit_async.processes()]
    await parkit_async.aclose()


def test_processes_are_listed_by_the_name_of_what_they_call(still: ExitStack) -> None:
    with ProcessPoolExecutor() as executor:
        executor.submit(fail_custom)
        executor.submit(lambda: None)
        eventually(lambda: len(list(parkit.processes())) == 2)
        names = [process.name for process in parkit.processes()]
        assert [name.rpartition("-")[0] for name in names] == ["executor/fail_custom", "executor/lambda"]
        assert isinstance(Process[Any](names[0], create=False), Process)
        executor.shutdown(wait=False, cancel_futures=True)


def test_a_store_that_many_threads_ask_at_once_is_asked_by_one_descriptor(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that asked at the same time, each for the first time, left descriptors behind."""
    together = threading.Barrier(4)

    class Slow(supervision._Inquiry):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            together.wait(PATIENCE)

    monkeypatch.setattr(supervision, "_Inquiry", Slow)
    Dict("jobs/board")
    threads = [threading.Thread(target=supervision.running_supervisor, args=(str(store),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len([link for link in Path("/dev/fd").iterdir() if os.path.realpath(link) == str(store / "supervisor")]) == 1
