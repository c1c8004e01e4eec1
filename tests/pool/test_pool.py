"""The pool as a whole: its size, its options, its end. Whoever changes them has a pool of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest

import parkit
import parkit_async
from tests.faces.face import Face, opened

from . import targets
from .conftest import PATIENCE, Pool

pytestmark = pytest.mark.processes


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest, own_pool: Pool) -> Any:
    """A face on a pool of its own. The functions here run alike on every event loop."""
    with opened(request.param) as face:
        yield face


def run(face: Face, target: Any, *args: Any, path: str | None = None) -> Any:
    process = face.Process(path, target=target, args=args)
    process.start()
    return process.get_result(PATIENCE)


def held(face: Face, count: int = 1, target: Any = targets.hold) -> list[Any]:
    processes = []
    for number in range(count):
        process = face.Process(target=target, args=(f"ns/{number}",))
        process.start()
        processes.append(process)
    for number in range(count):
        face.Queue(f"ns/{number}-running").get(timeout=PATIENCE)
    return processes


# Size.


def test_the_size_is_what_was_set_else_what_the_environment_says_else_one_for_each_processor(
    face: Face, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert face.get_pool_size() == 2  # set by the fixture
    parkit.set_storage_path(store.parent / "other")
    assert face.get_pool_size() == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    monkeypatch.setenv("PARKIT_PROCESS_POOL_SIZE", "5")
    assert face.get_pool_size() == 5
    assert not (store.parent / "other").exists()
    monkeypatch.setenv("PARKIT_PROCESS_POOL_SIZE", "many")
    with pytest.raises(ValueError, match="PARKIT_PROCESS_POOL_SIZE is 'many'"):
        face.get_pool_size()
    parkit.set_storage_path(store)
    face.set_pool_size(3)
    assert face.get_pool_size() == 3


@pytest.mark.parametrize(
    ("size", "error"), [(-1, ValueError), (100_000, ValueError), (2.0, TypeError), ("2", TypeError), (True, TypeError), (None, TypeError)]
)
def test_a_wrong_size_is_refused(face: Face, size: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        face.set_pool_size(size)
    assert face.get_pool_size() == 2


def test_resizing_takes_effect_at_once_and_interrupts_nobody(face: Face, own_pool: Pool) -> None:
    processes = held(face, 2)
    face.set_pool_size(4)
    own_pool.until_size(4)
    more = [face.Process(target=targets.hold, args=(f"ns/{number}",)) for number in (2, 3)]
    for number, process in enumerate(more, 2):
        process.start()
        face.Queue(f"ns/{number}-running").get(timeout=PATIENCE)
    processes += more
    face.set_pool_size(1)
    late = face.Process(target=targets.pid)
    late.start()
    assert [process.status for process in processes] == ["running"] * 4 and late.status == "submitted"
    for number, process in enumerate(processes):
        face.Queue(f"ns/{number}-gate").put(None)
        assert process.get_result(PATIENCE) == process.pid
    assert late.get_result(PATIENCE)
    own_pool.until_size(1)


def test_idle_workers_come_and_go(face: Face, own_pool: Pool) -> None:
    run(face, targets.nothing)
    own_pool.until_size(2)
    face.set_pool_size(4)
    four = own_pool.until_size(4)
    face.set_pool_size(1)
    assert own_pool.until_size(1) < four
    assert len({run(face, targets.pid) for _ in range(5)}) == 1


def test_a_pool_of_size_0_keeps_everything_waiting(face: Face, own_pool: Pool) -> None:
    run(face, targets.nothing)
    face.set_pool_size(0)
    own_pool.until_size(0)
    process = face.Process(target=targets.add, args=(1, 2))
    process.start()
    assert not process.join(0.1) and process.status == "submitted"
    face.set_pool_size(1)
    assert process.get_result(PATIENCE) == 3


# Options.


def test_options_are_those_set_else_those_of_the_environment_else_the_defaults(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {
        "grace": 5.0, "drain": 10.0, "max_tasks": 0, "max_age": 0.0, "max_growth": 0, "output_limit": 16 << 20, "log_level": "INFO",
    }  # fmt: skip
    assert face.get_pool_options() == defaults
    monkeypatch.setenv("PARKIT_PROCESS_MAX_TASKS", "7")
    monkeypatch.setenv("PARKIT_LOG_LEVEL", "debug")
    assert face.get_pool_options() == {**defaults, "max_tasks": 7, "log_level": "DEBUG"}
    face.set_pool_options(grace=0.5, max_tasks=9)
    face.set_pool_options(log_level="error")
    assert face.get_pool_options() == {**defaults, "grace": 0.5, "max_tasks": 9, "log_level": "ERROR"}
    face.set_pool_options(max_tasks=None, grace=None)
    assert face.get_pool_options() == {**defaults, "max_tasks": 7, "log_level": "ERROR"}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"grace": -1}, ValueError), ({"grace": float("inf")}, ValueError), ({"grace": "1"}, TypeError), ({"max_tasks": 1.5}, TypeError),
        ({"output_limit": 10}, ValueError), ({"log_level": "LOUD"}, ValueError), ({"colour": 1}, TypeError), ({"max_age": True}, TypeError),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_name(face: Face, options: dict[str, Any], error: type[Exception]) -> None:
    before = face.get_pool_options()
    with pytest.raises(error, match=next(iter(options))):
        face.set_pool_options(**options)
    assert face.get_pool_options() == before


def test_SIGKILL_follows_SIGTERM_after_the_grace_period(face: Face) -> None:
    face.set_pool_options(grace=0.3)
    [process] = held(face, target=targets.hold_stubbornly)
    process.terminate()
    assert process.join(PATIENCE)
    assert (process.status, process.exitcode) == ("crashed", -signal.SIGKILL)


def test_a_worker_is_replaced_after_so_many_processes(face: Face, own_pool: Pool) -> None:
    face.set_pool_options(max_tasks=2)
    face.set_pool_size(1)
    pids = [run(face, targets.pid) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    own_pool.until_size(1)


def test_a_worker_is_replaced_when_it_has_grown(face: Face) -> None:
    face.set_pool_options(max_growth=32 << 20)
    face.set_pool_size(1)
    pids = [run(face, targets.grow, size) for size in (1000, 64 << 20, 1000)]
    assert pids[0] == pids[1] != pids[2]


def test_a_worker_is_replaced_when_it_is_old(face: Face) -> None:
    face.set_pool_options(max_age=0.000_1)
    face.set_pool_size(1)
    assert len({run(face, targets.pid) for _ in range(3)}) == 3


@pytest.mark.parametrize("exitcode", [None, 3])
def test_the_output_of_a_short_run_is_bounded(face: Face, exitcode: int | None) -> None:
    face.set_pool_options(output_limit=4000)
    process = face.Process(target=targets.say_much_at_once, args=(1 << 20, exitcode))
    process.start()
    assert process.join(PATIENCE)
    assert process.output.text() == "x" * 4000 + "\n[parkit: the output is longer than 4000 bytes; what came later was dropped]\n"


@pytest.mark.slow
def test_the_output_of_a_long_run_is_bounded_while_it_runs(face: Face) -> None:
    face.set_pool_options(output_limit=4000)
    process = face.Process(target=targets.say_much, args=("ns/x", 10_000))
    process.start()
    face.Queue("ns/x-running").get(timeout=PATIENCE)
    notice = "[parkit: the output is longer than 4000 bytes; what came later was dropped]"
    for line in process.follow():
        if line == notice:
            break
    assert process.output.size() < 5000 and process.output.text().startswith("0000000\n0000001\n")
    face.Queue("ns/x-gate").put(None)
    assert process.join(PATIENCE)
    assert "0000499\n" in process.output.text() and notice in process.output.text()


def test_the_log_level_is_that_of_the_workers(face: Face) -> None:
    face.set_pool_options(log_level="ERROR")
    process = face.Process("ns/logs", target=targets.log_all_levels)
    process.start()
    assert process.join(PATIENCE)
    assert [line.split(": ")[1] for line in process.output.lines()] == ["an error record"]
    assert [record["message"] for record in face.syslog if record["process"] == "ns/logs"] == ["an error record"]


# The end.


def test_killall_ends_the_pool_and_leaves_what_is_submitted_for_the_next(face: Face, own_pool: Pool) -> None:
    processes = held(face, 2)
    created, submitted = face.Process(target=targets.nothing), face.Process(target=targets.add, args=(1, 2))
    submitted.start()
    job = face.start(processes[0].join)
    face.killall(PATIENCE)
    assert job.result() is True
    assert [(process.status, process.exitcode) for process in processes] == [("crashed", -signal.SIGTERM)] * 2
    assert (created.status, submitted.status) == ("created", "submitted")
    assert not own_pool.members()
    assert own_pool.status()["running"] is False and own_pool.status()["workers"] == []
    assert not submitted.join(0.1) and not own_pool.members()  # waiting alone starts no pool that was ended
    created.start()
    assert submitted.get_result(PATIENCE) == 3 and created.join(PATIENCE)
    assert own_pool.status()["epoch"] == 2


def test_killall_without_a_pool_returns(face: Face, own_pool: Pool) -> None:
    face.killall()
    face.killall(0)
    run(face, targets.nothing)
    face.killall(timeout=PATIENCE)
    face.killall()
    assert not own_pool.members()


def test_killall_of_a_store_that_does_not_exist_makes_none(face: Face, store: Any) -> None:
    parkit.set_storage_path(store.parent / "none")
    face.killall()
    assert list(face.processes()) == [] and face.clean() == 0
    assert face.pool_status()["running"] is False
    assert not (store.parent / "none").exists()
    parkit.set_storage_path(store)


def test_killall_takes_children_and_what_ignores_SIGTERM_along(face: Face, own_pool: Pool) -> None:
    face.set_pool_options(grace=0.3)
    stubborn = held(face, target=targets.hold_stubbornly)
    parent = face.Process(target=targets.hold_with_children, args=("ns/parent",))
    parent.start()
    children = face.Queue("ns/parent-children").get(timeout=PATIENCE)
    face.killall(PATIENCE)
    assert not own_pool.members() and not any(map(_runs, children))
    assert (stubborn[0].exitcode, parent.exitcode) == (-signal.SIGKILL, -signal.SIGTERM)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_killall_says_when_somebody_is_still_there(face: Face) -> None:
    face.set_pool_options(grace=0.5)
    held(face, target=targets.hold_stubbornly)
    with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"):
        face.killall(0.01)


def test_what_waits_for_others_is_refused_in_a_transaction(face: Face) -> None:
    for call in (face.killall, lambda: face.set_pool_size(1), lambda: face.set_pool_options(grace=1)):
        with pytest.raises(parkit.ContextError), face.transaction("ns"):
            call()


# Looking.


def test_pool_status(face: Face, own_pool: Pool) -> None:
    assert face.pool_status() == {"running": False, "pid": None, "epoch": 0, "size": 2, "workers": []}
    [process] = held(face)
    own_pool.until_size(2)
    status = face.pool_status()
    assert (status["running"], status["epoch"], status["size"]) == (True, 1, 2)
    assert psutil.pid_exists(status["pid"]) and status["pid"] != os.getpid()
    busy, idle = sorted(status["workers"], key=lambda worker: str(worker["state"]))
    assert (busy["state"], busy["process"], busy["pid"]) == ("busy", process.name, process.pid)
    assert busy["started"] == process.info()["started"]
    assert (idle["state"], idle["process"], idle["started"]) == ("idle", None, None)
    face.set_pool_size(0)
    own_pool.until_size(1)
    [retiring] = face.pool_status()["workers"]
    assert (retiring["state"], retiring["pid"]) == ("retiring", process.pid)


def test_two_stores_have_two_pools(face: Face, own_pool: Pool, store: Any) -> None:
    other = Pool(store.parent / "other")
    assert run(face, targets.pid) in own_pool.workers()
    parkit.set_storage_path(other.store)
    try:
        face.set_pool_size(1)
        assert run(face, targets.pid, path="ns/p") in other.workers()
        assert [process.path for process in face.processes()] == ["ns/p"]
        face.killall(PATIENCE)
        assert not other.members() and own_pool.members()
    finally:
        other.end()
        parkit.set_storage_path(own_pool.store)
    assert len(list(face.processes())) == 1
    assert run(face, targets.pid) in own_pool.workers()


# Priority.


def test_set_process_priority_of_the_calling_process() -> None:
    for name in ("parkit", "parkit_async"):
        call = "parkit.set_process_priority(p)" if name == "parkit" else "asyncio.run(parkit_async.set_process_priority(p))"
        code = f"import asyncio, os, {name}; before = os.nice(0); p = {name}.ProcessPriority.Low; {call}; print(before, os.nice(0))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.split() == [str(os.nice(0)), "10"]


@pytest.mark.parametrize(
    "change", [parkit.set_process_priority, lambda priority: asyncio.run(parkit_async.set_process_priority(priority))], ids=["blocking", "asyncio"]
)
def test_a_priority_that_the_system_does_not_allow(change: Callable[[parkit.ProcessPriority], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: psutil.Process, value: int) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "nice", refuse)
    with pytest.raises(PermissionError, match="does not let this process become high; raising a priority takes privileges") as caught:
        change(parkit.ProcessPriority.High)
    assert caught.value.errno == errno.EACCES


def test_a_wrong_priority_is_a_TypeError(face: Face) -> None:
    for wrong in ("low", 10, None):
        with pytest.raises(TypeError, match="Low, Normal or High"):
            face.set_process_priority(wrong)
    assert [priority.name for priority in face.ProcessPriority] == ["Low", "Normal", "High"]
