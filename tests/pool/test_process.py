"""Process as users of multiprocessing.Process know it, and as the Dict that it is."""

# ruff: noqa: PT012 - a block that fails has a body before it fails

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import pickle
import select
import signal
from typing import Any

import psutil
import pytest

import parkit
import parkit_async
from tests.faces.face import Face, calls

from . import targets
from .conftest import PATIENCE, Pool

pytestmark = pytest.mark.processes

READY = "ns/held"
"""Where ``targets.hold`` says that it runs, and waits."""


def started(face: Face, path: str | None = None, **options: Any) -> Any:
    process = face.Process(path, **options)
    process.start()
    return process


def held(face: Face, target: Any = targets.hold, path: str | None = None) -> Any:
    """Return a process that is running, until :func:`let_go`."""
    process = started(face, path, target=target, args=(READY,))
    face.Queue(f"{READY}-running").get(timeout=PATIENCE)
    return process


def let_go(face: Face) -> None:
    face.Queue(f"{READY}-gate").put(None)


def waiting(face: Face) -> Any:
    """Return a process that is submitted, and stays so while the two that are held do."""
    held(face)
    held(face)
    return started(face, target=targets.nothing)


def in_state(face: Face, status: str) -> Any:
    process = {
        "created": lambda: face.Process(target=targets.nothing),
        "submitted": lambda: waiting(face),
        "running": lambda: held(face),
        "finished": lambda: started(face, target=targets.nothing),
        "failed": lambda: started(face, target=targets.fail),
        "crashed": lambda: started(face, target=targets.signal_itself, args=(signal.SIGKILL,)),
    }[status]()
    if status in ("finished", "failed", "crashed"):
        assert process.join(PATIENCE)
    assert process.status == status
    return process


EVERY = pytest.mark.parametrize("status", ["created", "submitted", "running", "finished", "failed", "crashed"])


# Names.


def test_without_a_path_a_name_is_made_up_in_the_default_namespace(face: Face) -> None:
    one, other = face.Process(), face.Process()
    assert one.name != other.name and one.name.startswith("process-") and len(one.name) == len("process-") + 36
    assert (one.name, one.namespace) == (one.path, "default")


def test_None_is_no_path(face: Face) -> None:
    assert face.Process(None).name.startswith("process-")


@pytest.mark.parametrize("path", ["mine", "ns/mine", "a/b/c/mine"])
def test_a_name_is_the_whole_path(face: Face, path: str) -> None:
    process = started(face, path, target=targets.add, args=(1, 2))
    assert process.name == process.path == path
    assert process.get_result(PATIENCE) == 3
    assert [found.name for found in face.processes()] == [path]


def test_the_path_is_positional_only(face: Face) -> None:
    with pytest.raises(TypeError):
        face.Process(path="ns/p")


# What cannot be constructed.


@pytest.mark.parametrize("target", [3, "function", [abs]])
def test_a_target_that_cannot_be_called_is_a_TypeError(face: Face, target: Any) -> None:
    with pytest.raises(TypeError, match="target must be callable"):
        face.Process(target=target)


@pytest.mark.parametrize("args", ["text", b"bytes"])
def test_a_string_for_args_is_a_TypeError_that_shows_how(face: Face, args: Any) -> None:
    with pytest.raises(TypeError, match=r"for one argument write args=\("):
        face.Process(target=targets.echo, args=args)


@pytest.mark.parametrize("options", [{"args": 3}, {"kwargs": 3}, {"unknown": 1}])
def test_wrong_arguments_are_TypeErrors(face: Face, options: Any) -> None:
    with pytest.raises(TypeError):
        face.Process(target=targets.echo, **options)


@pytest.mark.parametrize("path", ["", "/", "a//b"])
def test_a_path_that_is_none_is_a_ValueError(face: Face, path: str) -> None:
    with pytest.raises(ValueError):
        face.Process(path)


def test_what_cannot_be_pickled_is_refused_and_nothing_is_stored(face: Face) -> None:
    with pytest.raises(TypeError, match="pickle"):
        face.Process("ns/p", target=targets.echo, args=(targets.lock(),))
    assert not list(face.processes()) and not face.Dict("ns/other").get("x")
    with pytest.raises(parkit.ObjectNotFoundError):
        face.Process("ns/p", create=False)


def test_create_and_bind(face: Face) -> None:
    with pytest.raises(parkit.ObjectNotFoundError):
        face.Process("ns/p", create=False, target=targets.nothing)
    process = face.Process("ns/p", target=targets.add, args=(1, 2))
    with pytest.raises(parkit.ObjectExistsError):
        face.Process("ns/p", bind=False, target=targets.nothing)
    bound = face.Process("ns/p", target=targets.fail)  # what exists keeps its own target
    assert bound == process
    bound.start()
    assert process.get_result(PATIENCE) == 3


def test_a_path_holds_one_kind_of_object(face: Face) -> None:
    face.Dict("ns/d")
    with pytest.raises(TypeError, match=r"holds a parkit\.Dict"):
        face.Process("ns/d", target=targets.nothing)
    face.Process("ns/p", target=targets.nothing)
    with pytest.raises(TypeError, match=r"holds a parkit\.Process"):
        face.Dict("ns/p")


def test_a_namespace_without_pickles_has_no_processes(face: Face) -> None:
    face.set_namespace_codecs("plain", ["json"])
    with pytest.raises(parkit.CodecError, match="keep processes in another namespace"):
        face.Process("plain/p", target=targets.nothing)
    assert not list(face.processes())


# A Dict.


def test_a_process_is_a_Dict(face: Face) -> None:
    process = face.Process("ns/p", target=targets.read, args=("ns/p", "k"))
    process["k"] = 1
    process.update({"l": 2})
    assert dict(process.items()) == {"k": 1, "l": 2} and "k" in process and len(process) == 2
    del process["k"]
    assert process.pop("l") == 2 and not list(process)
    assert isinstance(face.raw(process), (parkit.Dict, face.module.Dict))


def test_the_process_and_whoever_started_it_share_its_entries(face: Face) -> None:
    process = face.open(targets.Adder if face.name == "blocking" else targets.AwaitableAdder, "ns/adder")
    process["left"], process["right"] = 40, 2
    process.start()
    assert process.get_result(PATIENCE) == 42
    assert process["from"] == "run" and len(process) == 3


def test_an_object_is_shared_by_assignment(face: Face) -> None:
    log = face.Log("ns/log")
    target = targets.append_to_results if face.name == "blocking" else targets.append_to_results_async
    processes = []
    for number in range(10):
        process = face.Process(f"ns/worker-{number}", target=target, args=(f"ns/worker-{number}", number))
        process["results"] = log
        processes.append(process)
        process.start()
    for process in processes:
        assert process.get_result(PATIENCE) is None
    assert sorted(log) == list(range(10))
    assert processes[0]["results"] == log


def test_an_object_is_shared_as_an_argument(face: Face) -> None:
    log = face.Log("ns/log")
    target = targets.append if face.name == "blocking" else targets.append_async
    assert started(face, target=target, args=(face.raw(log), "by args")).get_result(PATIENCE) == 1
    assert started(face, target=target, kwargs={"log": face.raw(log), "value": "by kwargs"}).get_result(PATIENCE) == 2
    assert list(log) == ["by args", "by kwargs"]


def test_a_handle_is_of_the_face_that_it_was_sent_by(face: Face) -> None:
    process = started(face, target=targets.type_name, args=(face.raw(face.Dict("ns/d")),))
    assert process.get_result(PATIENCE).startswith("parkit." if face.name == "blocking" else "parkit_async.")


def test_persistent_attributes(face: Face) -> None:
    process = face.Process("ns/p", target=targets.nothing)
    process.colour = "blue"
    assert face.Process("ns/p").colour == "blue"


def test_changes_of_status_are_versions(face: Face) -> None:
    process = face.Process("ns/p", target=targets.nothing)
    assert process.version == 0
    process.start()
    assert process.join(PATIENCE)
    assert process.version == 3


def test_an_unversioned_process_works_too(face: Face) -> None:
    process = started(face, "ns/p", versioned=False, target=targets.add, args=(1, 2))
    assert process.get_result(PATIENCE) == 3


# The states.


def test_created(face: Face) -> None:
    process = in_state(face, "created")
    assert (process.status, process.exitcode, process.pid, process.is_alive()) == ("created", None, None, False)
    assert process.result is process.error is None
    for call in calls(process.join, process.get_result, process.terminate, process.kill):
        with pytest.raises(parkit.ProcessError, match="was not started"):
            call()


def test_submitted(face: Face) -> None:
    process = in_state(face, "submitted")
    assert (process.status, process.exitcode, process.pid, process.is_alive()) == ("submitted", None, None, True)
    assert process.result is process.error is None
    assert process.join(0) is process.join(0.01) is False


def test_running(face: Face) -> None:
    process = in_state(face, "running")
    assert (process.status, process.exitcode, process.is_alive()) == ("running", None, True)
    assert process.result is process.error is None
    pid = process.pid
    let_go(face)
    assert process.get_result(PATIENCE) == pid != os.getpid()
    assert (process.status, process.exitcode, process.pid, process.is_alive()) == ("finished", 0, pid, False)


def test_a_process_is_a_daemon_of_whoever_started_it(face: Face) -> None:
    assert face.Process().daemon is True


@pytest.mark.parametrize("status", ["submitted", "running", "finished", "failed", "crashed"])
def test_a_process_starts_once(face: Face, status: str) -> None:
    process = in_state(face, status)
    with pytest.raises(parkit.ProcessError, match=f"was started already .it is {status}."):
        process.start()
    assert process.status == status


def test_results_and_errors_are_kept(face: Face) -> None:
    started(face, "ns/p", target=targets.add, args=(1, 2)).join(PATIENCE)
    again = face.Process("ns/p", create=False)
    assert [again.get_result(), again.get_result(0), again.result, again.join(), again.join(0)] == [3, 3, 3, True, True]


# Waiting.


def test_get_result_gives_up_after_its_timeout_and_the_process_goes_on(face: Face) -> None:
    process = held(face)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError, match="it is running"):
            process.get_result(timeout)
    assert process.join(0) is process.join(timeout=0.01) is False
    let_go(face)
    assert process.get_result(timeout=PATIENCE) == process.pid


@pytest.mark.parametrize("call", ["join", "get_result", "follow"])
def test_a_negative_timeout_is_a_ValueError(face: Face, call: str) -> None:
    process = in_state(face, "finished")
    with pytest.raises(ValueError, match="non-negative"):
        found = getattr(process, call)(-1)
        list(found)


def test_many_wait_for_one(face: Face) -> None:
    process = held(face)
    jobs = [face.start(process.get_result, PATIENCE) for _ in range(3)] + [face.start(process.join)]
    assert not any(job.done() for job in jobs)
    let_go(face)
    assert [job.result() for job in jobs] == [process.pid] * 3 + [True]


@pytest.mark.parametrize("call", ["join", "get_result"])
def test_who_waits_for_a_process_that_is_dropped_is_told(face: Face, call: str) -> None:
    process = waiting(face)
    job = face.start(getattr(process, call))
    face.until_waiting(process)
    face.clone(process).drop()
    with pytest.raises(parkit.ObjectNotFoundError):
        job.result()


@pytest.mark.parametrize("call", ["join", "get_result"])
def test_waiting_in_a_transaction_is_refused(face: Face, call: str) -> None:
    process = held(face)
    for context in (face.transaction, face.snapshot):
        with pytest.raises(parkit.ContextError), context(face.Dict("ns/d")):
            getattr(process, call)()
    let_go(face)
    assert process.join(PATIENCE)
    with face.transaction(face.Dict("ns/d")):
        getattr(process, call)()  # there is nothing to wait for


def test_one_process_waits_for_another(face: Face) -> None:
    first = held(face)
    second = started(face, target=targets.wait_for if face.name == "blocking" else targets.wait_for_async, args=(face.raw(first),))
    let_go(face)
    assert second.get_result(PATIENCE) == first.get_result(PATIENCE) == first.pid


# start() and transactions.


def test_start_takes_effect_with_the_commit(face: Face, pool: Pool) -> None:
    process, d = face.Process("ns/p", target=targets.read, args=("ns/d", "k")), face.Dict("ns/d")
    started(face, target=targets.nothing).join(PATIENCE)
    with face.transaction(d):
        d["k"] = "committed"
        process.start()
        assert process.status == "submitted"
        assert face.elsewhere(lambda: process.status) == "created"
    assert process.get_result(PATIENCE) == "committed"


def test_start_has_no_effect_if_the_transaction_rolls_back(face: Face) -> None:
    process, d = face.Process("ns/p", target=targets.put, args=("ns/q", 1)), face.Dict("ns/d")
    with pytest.raises(ZeroDivisionError), face.transaction(d):
        process.start()
        raise ZeroDivisionError
    assert process.status == "created" and face.Queue("ns/q").empty()
    process.start()
    assert process.join(PATIENCE)
    assert face.Queue("ns/q").qsize() == 1


def test_start_has_no_effect_if_the_savepoint_rolls_back(face: Face) -> None:
    kept, undone = (face.Process(f"ns/{name}", target=targets.put, args=("ns/q", name)) for name in ("kept", "undone"))
    with face.transaction("ns"):
        kept.start()
        with pytest.raises(ZeroDivisionError), face.transaction("ns", isolated=True):
            undone.start()
            raise ZeroDivisionError
        assert (kept.status, undone.status) == ("submitted", "created")
    assert kept.join(PATIENCE)
    assert undone.status == "created" and face.Queue("ns/q").get_many(5) == ["kept"]


def test_creation_in_a_transaction_that_rolls_back_leaves_no_process(face: Face) -> None:
    with pytest.raises(ZeroDivisionError), face.transaction("ns"):
        face.Process("ns/p", target=targets.nothing).start()
        raise ZeroDivisionError
    assert not list(face.processes())
    assert started(face, "ns/p", target=targets.add, args=(1, 2)).get_result(PATIENCE) == 3


def test_many_are_started_in_one_transaction(face: Face) -> None:
    processes = [face.Process(f"ns/{number}", target=targets.add, args=(number, 1)) for number in range(20)]
    with face.transaction("ns"):
        for process in processes:
            process.start()
    assert [process.get_result(PATIENCE) for process in processes] == list(range(1, 21))


def test_terminate_in_a_transaction_that_rolls_back_does_not_happen(face: Face) -> None:
    process = held(face, path="ns/p")
    with pytest.raises(ZeroDivisionError), face.transaction("ns"):
        process.terminate()
        raise ZeroDivisionError
    let_go(face)
    assert process.get_result(PATIENCE) == process.pid


# terminate() and kill().


ENDS = pytest.mark.parametrize(("call", "number"), [("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)])


@ENDS
def test_ending_one_that_runs(face: Face, pool: Pool, call: str, number: int) -> None:
    process = held(face)
    job = face.start(process.join)
    getattr(process, call)()
    assert job.result() is True
    assert (process.status, process.exitcode, process.is_alive(), process.result) == ("crashed", -number, False, None)
    error = process.error
    assert isinstance(error, parkit.ProcessCrashedError) and (error.path, error.exitcode) == (process.path, -number)
    with pytest.raises(parkit.ProcessCrashedError, match=signal.Signals(number).name):
        process.get_result()
    pool.until(lambda: process.pid not in pool.workers() and len(pool.workers()) == 2)


@ENDS
def test_ending_an_async_def(face: Face, call: str, number: int) -> None:
    process = held(face, targets.hold_async)
    getattr(process, call)()
    assert process.join(PATIENCE)
    assert (process.status, process.exitcode) == ("crashed", -number)


@ENDS
def test_ending_one_that_is_submitted_takes_it_off_the_queue(face: Face, call: str, number: int) -> None:
    process = waiting(face)
    job = face.start(process.join)
    getattr(process, call)()
    assert job.result() is True
    assert (process.status, process.exitcode, process.pid) == ("crashed", -number, None)
    assert isinstance(process.error, parkit.ProcessCrashedError)


@ENDS
@pytest.mark.parametrize("status", ["finished", "failed", "crashed"])
def test_ending_one_that_has_ended_leaves_it_as_it_is(face: Face, status: str, call: str, number: int) -> None:
    process = in_state(face, status)
    before = (process.status, process.exitcode, process.version)
    getattr(process, call)()
    assert (process.status, process.exitcode, process.version) == before


def test_a_target_may_leave_in_its_own_way_when_it_is_terminated(face: Face) -> None:
    process = held(face, targets.hold_politely)
    process.terminate()
    assert process.join(PATIENCE)
    assert (process.status, process.exitcode) == ("failed", 4)


def test_kill_ends_what_ignores_SIGTERM(face: Face) -> None:
    process = held(face, targets.hold_stubbornly)
    process.terminate()
    process.kill()
    assert process.join(PATIENCE)
    assert (process.status, process.exitcode) == ("crashed", -signal.SIGKILL)


@ENDS
def test_the_children_of_a_process_end_with_it(face: Face, call: str, number: int) -> None:
    process = started(face, target=targets.hold_with_children, args=(READY,))
    children = face.Queue(f"{READY}-children").get(timeout=PATIENCE)
    group = [psutil.Process(pid) for child in children for pid in (child, *(found.pid for found in psutil.Process(child).children(recursive=True)))]
    assert len(group) >= 3
    getattr(process, call)()
    assert process.join(PATIENCE)
    assert (process.status, process.exitcode) == ("crashed", -number)
    _, alive = psutil.wait_procs(group, PATIENCE)
    assert not [found for found in alive if found.status() != psutil.STATUS_ZOMBIE]


# The sentinel, and close().


def test_a_sentinel_becomes_ready_with_the_end(face: Face) -> None:
    process = held(face)
    sentinel = process.sentinel
    assert process.sentinel == sentinel
    assert multiprocessing.connection.wait([sentinel], timeout=0) == []
    let_go(face)
    assert multiprocessing.connection.wait([sentinel], timeout=PATIENCE) == [sentinel]
    assert process.join(PATIENCE) and process.status == "finished"
    assert select.select([sentinel], [], [], 0)[0] == [sentinel]  # it stays ready
    process.close()


@pytest.mark.parametrize("status", ["finished", "failed", "crashed"])
def test_the_sentinel_of_what_has_ended_is_ready(face: Face, status: str) -> None:
    process = in_state(face, status)
    assert multiprocessing.connection.wait([process.sentinel], timeout=0) == [process.sentinel]
    process.close()


def test_the_first_of_several_to_end_is_told(face: Face) -> None:
    slow, quick = held(face), started(face, target=targets.nothing)
    ready = multiprocessing.connection.wait([slow.sentinel, quick.sentinel], timeout=PATIENCE)
    assert ready == [quick.sentinel]
    quick.close()
    slow.kill()
    assert slow.join(PATIENCE)
    slow.close()


def test_close_refuses_what_runs_and_is_final(face: Face) -> None:
    process = held(face)
    with pytest.raises(ValueError, match="still running"):
        process.close()
    let_go(face)
    assert process.join(PATIENCE)
    process.close()
    process.close()
    for call in calls(process.start, process.join, process.get_result, process.terminate, process.is_alive, lambda: process.status):
        with pytest.raises(ValueError, match="was closed"):
            call()
    assert face.Process(process.path, create=False).status == "finished"


# Handles elsewhere.


def test_a_handle_can_be_pickled(face: Face) -> None:
    process = held(face)
    other = face.clone(process)
    assert other == process and (other.status, other.pid) == ("running", process.pid)
    job = face.start(other.get_result)
    let_go(face)
    assert job.result() == process.pid


def test_a_pickled_handle_does_not_carry_the_call(face: Face) -> None:
    process = face.Process("ns/p", target=targets.echo, args=("secret",))
    assert b"secret" not in pickle.dumps(face.raw(process))
    clone = face.clone(process)
    clone.start()
    assert clone.get_result(PATIENCE) == (("secret",), {})


def test_a_pickled_handle_of_a_subclass_runs_the_subclass(face: Face) -> None:
    process = face.open(targets.Adder if face.name == "blocking" else targets.AwaitableAdder, "ns/adder")
    process.update({"left": 1, "right": 2})
    clone = face.clone(process)
    clone.start()
    assert clone.get_result(PATIENCE) == 3


# drop().


@EVERY
def test_what_is_dropped_does_not_exist(face: Face, status: str) -> None:
    process = in_state(face, status)
    clone = face.clone(process)
    assert process.exists and clone.exists
    process.drop()
    assert not process.exists and not clone.exists
    assert process.path not in [found.path for found in face.processes()]
    for handle in (process, clone):
        for call in calls(handle.start, handle.join, handle.get_result, handle.terminate, handle.drop, lambda handle=handle: handle.status):
            with pytest.raises(parkit.ObjectNotFoundError):
                call()


def test_dropping_one_that_runs_terminates_it(face: Face, pool: Pool) -> None:
    process = held(face)
    worker = psutil.Process(process.pid)
    process.drop()
    assert not worker.is_running() or worker.wait(PATIENCE) is None


def test_dropping_removes_the_output(face: Face) -> None:
    process = started(face, target=targets.say, args=("something",))
    assert process.join(PATIENCE) and process.output.text() == "something\n"
    output = process.output
    process.drop()
    assert output.text() == "" and not os.path.exists(output.path)


def test_dropping_what_runs_in_a_transaction_is_refused(face: Face) -> None:
    process = held(face, path="ns/p")
    with pytest.raises(parkit.ContextError), face.transaction("ns"):
        process.drop()
    let_go(face)
    assert process.get_result(PATIENCE)


def test_a_dropped_submission_does_not_run(face: Face) -> None:
    busy = [held(face), held(face)]
    dropped, after = (face.Process(target=targets.put, args=("ns/q", name)) for name in ("dropped", "after"))
    dropped.start()
    after.start()
    dropped.drop()
    let_go(face)
    let_go(face)
    for process in (*busy, after):
        assert process.join(PATIENCE)
    assert face.Queue("ns/q").get_many(5) == ["after"]


def test_a_path_can_be_used_again_after_a_drop(face: Face) -> None:
    first = started(face, "ns/p", target=targets.add, args=(1, 2))
    assert first.get_result(PATIENCE) == 3
    first.drop()
    second = started(face, "ns/p", target=targets.add, args=(3, 4))
    assert second.get_result(PATIENCE) == 7
    assert second.exists and not first.exists


# Lists.


def test_processes_are_listed_in_the_order_of_creation(face: Face) -> None:
    for path in ("ns/c", "ns/a", "b", "ns/b", "a/a/a"):
        face.Process(path, target=targets.nothing)
    face.Dict("ns/d")
    assert [found.path for found in face.processes()] == ["a/a/a", "b", "ns/c", "ns/a", "ns/b"]


def test_processes_by_status(face: Face) -> None:
    expected: dict[str, str] = {}
    for status in ("crashed", "failed", "finished", "created", "submitted"):
        expected[in_state(face, status).path] = status
    running = {found.path for found in face.processes("running")}
    assert len(running) == 2
    for status in ("created", "submitted", "finished", "failed", "crashed"):
        assert [found.path for found in face.processes(status)] == [path for path, of in expected.items() if of == status]
    assert {found.path for found in face.processes(["failed", "crashed"])} == {path for path, of in expected.items() if of in ("failed", "crashed")}
    assert {found.path for found in face.processes()} == running | expected.keys()
    assert {found.path for found in face.processes(status_filter=())} == set()


def test_a_listed_handle_is_like_any_other(face: Face) -> None:
    process = in_state(face, "created")
    [found] = face.processes()
    assert found == process and found.name == process.name
    found["k"] = 1
    found.start()
    assert process.join(PATIENCE) and found.status == "finished" and process["k"] == 1


def test_a_subclass_that_cannot_be_imported_here_is_listed(face: Face) -> None:
    process = face.open(targets.Adder if face.name == "blocking" else targets.AwaitableAdder, "ns/adder")
    process.update({"left": 1, "right": 2})
    [found] = face.processes()
    found.start()
    assert found.get_result(PATIENCE) == 3


@pytest.mark.parametrize("status", ["dead", "", ["running", "dead"]])
def test_a_wrong_status_is_a_ValueError(face: Face, status: Any) -> None:
    face.Process()
    with pytest.raises(ValueError, match="is not a status"):
        list(face.processes(status))
    with pytest.raises(ValueError, match="is not a status"):
        face.clean(status)
    assert len(list(face.processes())) == 1


def test_clean_drops_what_has_ended(face: Face) -> None:
    statuses = ("crashed", "failed", "finished", "created", "submitted")
    handles = {status: in_state(face, status) for status in statuses}
    assert face.clean() == 3
    assert {status: handle.exists for status, handle in handles.items()} == {
        "created": True, "submitted": True, "finished": False, "failed": False, "crashed": False,
    }  # fmt: skip
    assert face.clean() == 0


@pytest.mark.parametrize("statuses", ["failed", ["failed"], ["created", "failed"], ("finished", "submitted")])
def test_clean_by_status(face: Face, statuses: Any) -> None:
    handles = {status: in_state(face, status) for status in ("finished", "failed", "created", "submitted")}
    wanted = {statuses} if isinstance(statuses, str) else set(statuses)
    assert face.clean(statuses) == len(wanted)
    assert {status for status, handle in handles.items() if not handle.exists} == wanted


def test_cleaning_what_runs_terminates_it(face: Face, pool: Pool) -> None:
    process = held(face)
    assert face.clean("running") == 1
    assert not process.exists
    pool.until_size(2)


# In between.


def test_a_cancelled_wait_does_nothing_to_the_process(pool: Pool) -> None:
    async def main() -> Any:
        process = await parkit_async.Process(target=targets.hold, args=(READY,))
        await process.start()
        await (await parkit_async.Queue[int](f"{READY}-running")).get(timeout=PATIENCE)
        waiting = asyncio.ensure_future(process.get_result())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await (await parkit_async.Queue[None](f"{READY}-gate")).put(None)
        return await process.get_result(PATIENCE), process.pid

    result, pid = asyncio.run(main())
    assert result == pid


def test_the_two_faces_share_a_process(pool: Pool) -> None:
    process = parkit.Process("ns/p", target=targets.add, args=(1, 2))

    async def main() -> Any:
        other = await parkit_async.Process[int]("ns/p", create=False)
        await other.start()
        return await other.get_result(PATIENCE)

    assert asyncio.run(main()) == 3 == process.get_result(PATIENCE)


def test_an_unawaited_process_is_made_when_it_is_started(pool: Pool) -> None:
    async def main() -> Any:
        process = parkit_async.Process("ns/p", target=targets.add, args=(1, 2))
        await process.start()
        return await process.get_result(PATIENCE)

    assert asyncio.run(main()) == 3
