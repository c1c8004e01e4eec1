"""Every way in which a process can end, as its handle tells of it: status, exit code, result, error, and what ``get_result`` does."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

import parkit
from tests.faces.face import Face
from tests.garbage import ROUNDS, garbage_counted, of_each_round

from . import targets
from .conftest import PATIENCE, Pool

pytestmark = pytest.mark.processes


def ended(face: Any, target: Any, *args: Any, cls: str = "Process", **options: Any) -> Any:
    """Return a process that has ended."""
    process = getattr(face, cls)(target=target, args=args, **options)
    process.start()
    assert process.join(PATIENCE)
    assert not process.is_alive()
    return process


def raised(process: Any) -> BaseException:
    """Return what ``get_result`` raises; ``error`` is the same."""
    with pytest.raises(Exception) as caught:
        process.get_result(PATIENCE)
    assert type(process.error) is type(caught.value) and str(process.error) == str(caught.value)
    assert process.result is None
    return caught.value


def outcome(process: Any) -> tuple[str, int | None]:
    return process.status, process.exitcode


def test_who_reads_an_outcome_leaves_nothing_to_the_garbage_collector(pool: Pool) -> None:
    processes = [ended(parkit, targets.nothing), ended(parkit, targets.fail)]
    with garbage_counted() as counts:
        for _ in range(ROUNDS):
            for process in processes:
                with suppress(ValueError):
                    process.get_result(PATIENCE)
    assert of_each_round(counts) == {}


# Finished.


@pytest.mark.parametrize("result", [3, None, "text", [1, {"two": (3,)}], b"x" * 100_000, float("inf")], ids=lambda value: type(value).__name__)
def test_a_result_is_what_the_target_returned(face: Face, result: Any) -> None:
    process = ended(face, targets.echo, result)
    assert outcome(process) == ("finished", 0)
    assert process.get_result() == process.result == ((result,), {})
    assert process.error is None


def test_positional_and_keyword_arguments_arrive(face: Face) -> None:
    process = ended(face, targets.echo, 1, "two", kwargs={"three": 3})
    assert process.get_result() == ((1, "two"), {"three": 3})


def test_a_result_that_is_an_exception_is_returned(face: Face) -> None:
    process = ended(face, ValueError, "not raised")
    assert outcome(process) == ("finished", 0) and process.error is None
    assert repr(process.get_result()) == repr(process.result) == "ValueError('not raised')"


def test_a_process_without_a_target_finishes_with_None(face: Face) -> None:
    process = face.Process()
    process.start()
    assert process.get_result(PATIENCE) is None
    assert outcome(process) == ("finished", 0)


@pytest.mark.parametrize("code", [None, 0, False, 256])
def test_sys_exit_with_0_is_success(face: Face, code: Any) -> None:
    process = ended(face, targets.leave, code)
    assert outcome(process) == ("finished", 0)
    assert process.get_result() is process.result is process.error is None


# Failed.


def test_an_exception_arrives_with_its_remote_traceback_as_the_cause(face: Face) -> None:
    process = ended(face, targets.fail)
    assert outcome(process) == ("failed", 1)
    error = raised(process)
    assert type(error) is ValueError and error.args == ("oops",)
    shown = "".join(traceback.format_exception(error))
    assert "targets.py" in shown and "in fail\n" in shown and "direct cause" in shown
    assert "targets.py" in str(error.__cause__)


def test_each_caller_gets_an_exception_of_its_own(face: Face) -> None:
    process = ended(face, targets.fail)
    assert raised(process) is not raised(process)


def test_the_causes_of_an_exception_are_told(face: Face) -> None:
    error = raised(ended(face, targets.fail_with_cause))
    assert type(error) is RuntimeError
    assert "KeyError: 'the cause'" in str(error.__cause__) and "direct cause" in str(error.__cause__)


def test_a_group_of_exceptions_arrives_as_one(face: Face) -> None:
    error = raised(ended(face, targets.fail_group))
    assert isinstance(error, ExceptionGroup) and [type(one) for one in error.exceptions] == [ValueError, TypeError]
    assert "the cause of the group" in str(error.__cause__) and "ValueError: one" in str(error.__cause__)


def test_an_exception_of_ones_own_arrives_with_its_attributes(face: Face) -> None:
    error = raised(ended(face, targets.fail_custom))
    assert isinstance(error, targets.Custom) and (error.code, error.note) == (7, "kept")


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [(targets.fail_awkward, "Awkward", "code 3"), (targets.fail_unpicklable, "Unpicklable", "locked in")],
    ids=["does not unpickle", "does not pickle"],
)
def test_an_exception_that_cannot_travel_arrives_as_a_RemoteError(face: Face, target: Any, name: str, message: str) -> None:
    process = ended(face, target)
    assert outcome(process) == ("failed", 1)
    error = raised(process)
    assert isinstance(error, parkit.RemoteError)
    assert (error.type, error.message) == (f"tests.pool.targets.{name}", message)
    assert "targets.py" in error.traceback and error.reason


@pytest.mark.parametrize(
    ("code", "exitcode", "printed"),
    [(3, 3, ""), (1, 1, ""), ("text", 1, "text\n"), (-1, 255, ""), (True, 1, ""), (2.5, 1, "2.5\n")],
)
def test_sys_exit_fails_with_multiprocessings_exit_codes(face: Face, code: Any, exitcode: int, printed: str) -> None:
    process = ended(face, targets.leave, code)
    assert outcome(process) == ("failed", exitcode)
    error = raised(process)
    assert isinstance(error, parkit.RemoteError) and error.type == "builtins.SystemExit"
    assert process.output.text() == printed


@pytest.mark.parametrize(
    ("target", "args", "name"),
    [
        (targets.interrupt, (), "builtins.KeyboardInterrupt"),
        (targets.raise_, (GeneratorExit("it"),), "builtins.GeneratorExit"),
        (targets.cancel_itself, (), "asyncio.exceptions.CancelledError"),
    ],
    ids=["KeyboardInterrupt", "GeneratorExit", "CancelledError"],
)
def test_what_would_end_the_caller_arrives_as_a_RemoteError(face: Face, target: Any, args: Any, name: str) -> None:
    process = ended(face, target, *args)
    assert outcome(process) == ("failed", 1)
    error = raised(process)
    assert isinstance(error, parkit.RemoteError) and error.type == name


@pytest.mark.parametrize(("target", "kind"), [(targets.exhaust, MemoryError), (targets.recurse, RecursionError)])
def test_running_out_of_memory_or_stack_is_an_exception_like_others(face: Face, target: Any, kind: type[Exception]) -> None:
    process = ended(face, target)
    assert outcome(process) == ("failed", 1)
    assert type(raised(process)) is kind


def test_a_result_that_cannot_be_pickled_fails_and_says_why(face: Face) -> None:
    process = ended(face, targets.lock)
    assert outcome(process) == ("failed", 1)
    error = raised(process)
    assert type(error) is TypeError
    assert f"the result of process {process.path!r}, of type lock, cannot be pickled" in str(error)


def test_a_result_that_does_not_fit_in_the_namespace_fails_and_says_why(face: Face) -> None:
    process = face.Process("narrow/process", target=bytes, args=(8 << 20,))
    face.set_namespace_size("narrow", 4 << 20)
    process.start()
    assert process.join(PATIENCE)
    assert outcome(process) == ("failed", 1)
    assert isinstance(raised(process), parkit.NamespaceFullError)


def test_a_target_that_cannot_be_imported_fails(face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vanishing.py").write_text("def work():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import vanishing  # type: ignore[import-not-found]

    monkeypatch.delitem(sys.modules, "vanishing")
    monkeypatch.setitem(sys.modules, "vanishing", vanishing)
    process = face.Process(target=vanishing.work)
    (tmp_path / "vanishing.py").unlink()
    process.start()
    assert process.join(PATIENCE)
    assert outcome(process) == ("failed", 1)
    error = raised(process)
    assert type(error) is ModuleNotFoundError and "vanishing" in str(error)


def test_a_call_that_cannot_be_loaded_fails_with_what_loading_raised(face: Face) -> None:
    process = ended(face, targets.echo, targets.Unloadable())
    assert outcome(process) == ("failed", 1)
    error = raised(process)
    assert type(error) is ValueError and str(error) == "cannot be loaded"


# Crashed.


@pytest.mark.parametrize(
    ("target", "args", "exitcode", "cause"),
    [
        pytest.param(targets.leave_at_once, (0,), 0, "exit code 0", id="os._exit(0)"),
        pytest.param(targets.leave_at_once, (7,), 7, "exit code 7", id="os._exit(7)"),
        pytest.param(targets.crash_natively, (), -signal.SIGSEGV, "SIGSEGV", id="segfault"),
        pytest.param(targets.signal_itself, (signal.SIGKILL,), -signal.SIGKILL, "SIGKILL", id="SIGKILL"),
        pytest.param(targets.signal_itself, (signal.SIGTERM,), -signal.SIGTERM, "SIGTERM", id="SIGTERM"),
        pytest.param(targets.signal_itself, (signal.SIGABRT,), -signal.SIGABRT, "SIGABRT", id="SIGABRT"),
        pytest.param(targets.signal_itself, (signal.SIGINT,), -signal.SIGINT, "SIGINT", id="SIGINT"),
        pytest.param(targets.echo, (targets.Deadly(),), 5, "exit code 5", id="dies while loading"),
        pytest.param(targets.close_everything, (), 70, "exit code 70", id="closes all descriptors"),
    ],
)
def test_the_death_of_the_worker_is_a_crash(face: Face, pool: Pool, target: Any, args: Any, exitcode: int, cause: str) -> None:
    process = ended(face, target, *args)
    assert outcome(process) == ("crashed", exitcode)
    error = raised(process)
    assert isinstance(error, parkit.ProcessCrashedError)
    assert (error.path, error.exitcode) == (process.path, exitcode)
    assert cause in str(error) and error.__cause__ is None
    assert ended(face, targets.add, 1, 2).get_result() == 3


def test_the_stack_of_a_segfault_is_in_the_output(face: Face) -> None:
    process = ended(face, targets.crash_natively)
    assert "Segmentation fault" in process.output.text() and "in crash_natively" in process.output.text()


def test_the_pool_keeps_its_size_whatever_happens(face: Face, pool: Pool) -> None:
    before = pool.until_size(2)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (targets.signal_itself, (signal.SIGKILL,)),
        (targets.close_everything, ()),
        (targets.leave_daemon_thread, ()),
        (targets.leave_subprocess, ()),
        (targets.echo, (targets.Deadly(),)),
        (targets.fail, ()),
    ]
    for target, args in calls:
        ended(face, target, *args)
    pool.until(lambda: len(pool.workers()) == 2 and all(psutil.pid_exists(pid) for pid in pool.workers()) and not pool.workers() & before)
    assert ended(face, targets.add, 1, 2).get_result() == 3


# Threads and children of the target.


def test_a_daemon_thread_that_is_left_ends_with_its_worker(face: Face, pool: Pool) -> None:
    process = ended(face, targets.leave_daemon_thread)
    assert outcome(process) == ("finished", 0)
    worker = process.get_result()
    pool.until(lambda: worker not in pool.workers() and len(pool.workers()) == 2)


@pytest.mark.parametrize(("target", "who"), [(targets.leave_thread, "thread"), (targets.leave_executor, "executor"), (targets.leave_child, "child")])
def test_threads_and_children_that_are_no_daemons_are_waited_for(face: Face, target: Any, who: str) -> None:
    process = face.Process(target=target, args=("ns/x",))
    process.start()
    face.Queue("ns/x-running").get(timeout=PATIENCE)
    assert not process.join(0.1)
    face.Queue("ns/x-gate").put(None)
    assert process.get_result(PATIENCE) == "main"
    assert list(face.Log("ns/x-log")) == [who]
    assert outcome(process) == ("finished", 0)


def test_a_process_uses_multiprocessing(face: Face) -> None:
    assert ended(face, targets.use_process_pool).get_result() == [1, 2, 3]


def test_a_process_spawns_children_that_use_the_store(face: Face) -> None:
    assert ended(face, targets.use_spawned_child, "ns/q").get_result() == 0
    assert face.Queue("ns/q").get_nowait() == "spawned"


@pytest.mark.parametrize("target", [targets.leave_subprocess, targets.leave_daemon_child])
def test_children_that_are_left_end(face: Face, target: Any) -> None:
    process = ended(face, target)
    assert outcome(process) == ("finished", 0)
    try:
        psutil.Process(process.get_result()).wait(PATIENCE)
    except psutil.NoSuchProcess:
        pass


@pytest.mark.parametrize("target", [targets.fork_and_return, targets.fork_and_fail])
def test_a_child_that_was_forked_and_comes_back_is_no_second_worker(face: Face, pool: Pool, target: Any) -> None:
    process = ended(face, target)
    assert process.get_result() == "parent" and outcome(process) == ("finished", 0)
    assert ended(face, targets.add, 1, 2).get_result() == 3
    pool.until_size(2)


# async def.


def test_an_async_def_is_awaited(face: Face) -> None:
    process = ended(face, targets.double, 21)
    assert process.get_result() == 42 and outcome(process) == ("finished", 0)


def test_what_a_target_returns_is_awaited(face: Face) -> None:
    assert ended(face, targets.returns_coroutine).get_result() == 8


def test_an_async_def_runs_on_uvloop(face: Face) -> None:
    assert ended(face, targets.loop_name).get_result().startswith("uvloop")


def test_an_async_def_fails_like_others(face: Face) -> None:
    process = ended(face, targets.fail_async)
    assert outcome(process) == ("failed", 1)
    error = raised(process)
    assert type(error) is ValueError and "fail_async" in str(error.__cause__)


def test_a_task_that_is_left_is_cancelled(face: Face) -> None:
    assert ended(face, targets.leave_task).get_result() == "left"


# Overriding run().


def test_run_can_be_overridden(face: Face) -> None:
    process = face.open(targets.Adder if face.name == "blocking" else targets.AwaitableAdder)
    process.update({"left": 1, "right": 2})
    process.start()
    assert process.get_result(PATIENCE) == 3
    assert process["from"] == "run" and outcome(process) == ("finished", 0)


def test_an_overriding_run_can_call_the_one_that_it_overrides(face: Face) -> None:
    process = face.open(targets.Wrapper if face.name == "blocking" else targets.AwaitableWrapper, target=targets.add, args=(1, 2))
    process.start()
    assert process.get_result(PATIENCE) == ["wrapped", 3]


def test_the_awaitable_run_awaits_an_async_target(pool: Pool) -> None:
    async def main() -> Any:
        process = await targets.AwaitableWrapper(target=targets.double, args=(2,))
        await process.start()
        return await process.get_result(PATIENCE)

    assert asyncio.run(main()) == ["wrapped", 4]


def test_an_async_run_of_the_blocking_class_is_awaited(pool: Pool) -> None:
    process = targets.AsyncAdder("ns/adder")
    process.update(left=20, right=22)
    process.start()
    assert process.get_result(PATIENCE) == 42


def test_what_is_told_of_a_run_is_consistent(face: Face) -> None:
    before = time.time()
    process = ended(face, targets.pid)
    info = process.info()
    assert (info["name"], info["status"], info["exitcode"]) == (process.name, "finished", 0)
    assert info["pid"] == process.pid == process.ident == process.get_result()
    times = [datetime.fromisoformat(info[name]).timestamp() for name in ("submitted", "started", "ended")]
    assert times == sorted(times) and before - 0.001 <= times[0]
