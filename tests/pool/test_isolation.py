"""What one process does to the interpreter that it runs in does not reach the next one. The pool has one worker, so the next is in the same place."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faces.face import Face

from . import targets
from .conftest import PATIENCE, Pool

pytestmark = pytest.mark.processes

POOL_SIZE = 1


def run(face: Face, target: Any, *args: Any) -> Any:
    process = face.Process(target=target, args=args)
    process.start()
    return process.get_result(PATIENCE)


def test_folder_environment_handlers_streams_search_path_and_mask_are_put_back(face: Face, tmp_path: Path) -> None:
    before = run(face, targets.state)
    assert run(face, targets.spoil, str(tmp_path)) == before["pid"]
    process = face.Process(target=targets.state)
    process.start()
    assert process.get_result(PATIENCE) == before
    assert process.output.text() == "printed\n"


def test_a_worker_whose_priority_was_lowered_is_replaced(face: Face) -> None:
    before = run(face, targets.state)
    assert run(face, targets.lower_priority) == 10
    assert run(face, targets.state)["niceness"] == before["niceness"]


def test_set_process_priority_of_both_faces(face: Face) -> None:
    assert run(face, targets.lower_priority if face.name == "blocking" else targets.lower_priority_async) == 10


@pytest.mark.parametrize("target", [targets.leave_transaction, targets.leave_transaction_async])
def test_a_transaction_that_is_left_open_is_rolled_back(face: Face, target: Any) -> None:
    counter = face.Dict("ns/counter")
    process = face.Process("ns/leaves", target=target, args=("ns/counter",))
    process.start()
    process.get_result(PATIENCE)
    assert dict(counter.items()) == {}
    assert run(face, targets.increment, "ns/counter") == 1
    assert counter["n"] == 1


def test_a_thread_that_keeps_the_turn_makes_its_process_crash_and_no_other(own_pool: Pool, face: Face) -> None:
    face.set_pool_options(grace=1)
    counter = face.Dict("ns/counter")
    process = face.Process("ns/leaves", target=targets.leave_thread_in_transaction, args=("ns/counter",))
    process.start()
    assert process.join(PATIENCE)
    assert (process.status, process.exitcode) == ("crashed", 1)
    assert "leave_thread_in_transaction" in process.output.text() or "hold_on" in process.output.text()
    assert run(face, targets.increment, "ns/counter") == 1
    assert counter["n"] == 1


def test_how_a_target_configures_logging_ends_with_it(face: Face) -> None:
    worker = run(face, targets.configure_logging)
    process = face.Process(target=targets.log_all_levels)
    process.start()
    process.get_result(PATIENCE)
    assert run(face, targets.pid) == worker
    assert "an info record" in process.output.text()


def test_a_snapshot_that_is_left_open_is_ended(face: Face) -> None:
    face.Dict("ns/d")["k"] = "old"
    worker = run(face, targets.leave_snapshot, "ns/d")
    face.Dict("ns/d")["k"] = "new"
    assert run(face, targets.read, "ns/d", "k") == "new"
    assert run(face, targets.pid) == worker


def test_an_exception_or_exit_leaves_the_worker_in_place(face: Face) -> None:
    worker = run(face, targets.pid)
    for target, args in ((targets.fail, ()), (targets.leave, (3,)), (targets.interrupt, ()), (targets.lock, ())):
        process = face.Process(target=target, args=args)
        process.start()
        assert process.join(PATIENCE) and process.status == "failed"
    assert run(face, targets.pid) == worker


def test_module_state_survives_as_long_as_the_interpreter(face: Face) -> None:
    calls, worker = run(face, targets.remember)
    assert run(face, targets.remember) == (calls + 1, worker)


def test_processes_run_in_the_order_of_their_submission(face: Face) -> None:
    log = face.Log("ns/log")
    holding = face.Process(target=targets.hold, args=("ns/x",))
    holding.start()
    face.Queue("ns/x-running").get(timeout=PATIENCE)
    target = targets.append if face.name == "blocking" else targets.append_async
    waiting = [face.Process(target=target, args=(face.raw(log), number)) for number in range(5)]
    for process in waiting[::-1]:
        process.start()
    assert [process.status for process in waiting] == ["submitted"] * 5
    face.Queue("ns/x-gate").put(None)
    for process in waiting:
        assert process.join(PATIENCE)
    assert list(log) == [4, 3, 2, 1, 0]


def test_no_namespace_has_to_wait_for_another_to_be_empty(face: Face) -> None:
    log = face.Log("ns/log")
    target = targets.append if face.name == "blocking" else targets.append_async
    holding = face.Process(target=targets.hold, args=("ns/x",))
    holding.start()
    face.Queue("ns/x-running").get(timeout=PATIENCE)
    processes = [face.Process(f"{namespace}/{number}", target=target, args=(face.raw(log), namespace)) for namespace in "ab" for number in range(10)]
    for process in processes:
        process.start()
    face.Queue("ns/x-gate").put(None)
    for process in processes:
        assert process.join(PATIENCE)
    assert list(log).index("b") < 3


def test_terminating_one_interrupts_nobody_else(face: Face, pool: Pool) -> None:
    first, second = (face.Process(f"ns/{name}", target=targets.hold, args=(f"ns/{name}",)) for name in ("first", "second"))
    first.start()
    second.start()
    face.Queue("ns/first-running").get(timeout=PATIENCE)
    first.terminate()
    face.Queue("ns/second-running").get(timeout=PATIENCE)
    face.Queue("ns/second-gate").put(None)
    assert second.get_result(PATIENCE)
    assert (first.status, first.exitcode) == ("crashed", -signal.SIGTERM)
