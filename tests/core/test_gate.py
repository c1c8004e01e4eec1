"""The gate between processes: one at a time, in turns, and free as soon as its holder is gone, however it went."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import parkit
from parkit_async._core import gate as gate_module
from parkit_async._core.gate import Gate
from parkit_async._core.registry import close_all, open_namespace
from tests.conftest import RunScript, Script, Spawn

pytestmark = pytest.mark.processes

DEADLINE = 30.0

PUPPET = """
import os, sys
from pathlib import Path
from parkit_async._core import gate as module
from parkit_async._core.gate import Gate

module.STREAK_NS = int(sys.argv[2])
gate = Gate(Path(sys.argv[1]))
print("ready")
for line in sys.stdin:
    command = line.strip()
    if command == "fork":
        # The child stays until its input ends, with whatever it got from its parent, and nobody to wait for it.
        if os.fork():
            os.write(1, b"forked\\n")  # in one piece, as the child writes at the same time; print() makes two writes of a line
            continue
        os.write(1, f"child {os.getpid()}\\n".encode())
        sys.stdin.read()
        os._exit(0)
    print(f"{command} {getattr(gate, command)()}")
"""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    opened = Gate(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def puppet(spawn: Spawn, tmp_path: Path) -> Callable[..., Script]:
    """Start a process with a gate of its own, which calls its methods when told to."""

    def start(streak: int = 0) -> Script:
        script = spawn(PUPPET, tmp_path, streak)
        assert script.read_line() == "ready"
        return script

    return start


def tell(script: Script, command: str) -> str:
    script.send(command)
    answer = script.read_line()
    assert answer.startswith(command), answer
    return answer.removeprefix(command).strip()


def waiting(script: Script) -> bool:
    """Return whether a process is blocked in flock(), as the kernel tells."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f" {script.pid} " in line for line in lines)


def until_waiting(script: Script) -> None:
    deadline = time.monotonic() + DEADLINE
    while not waiting(script):
        assert time.monotonic() < deadline, "it does not wait"
        os.sched_yield()


def test_one_at_a_time(gate: Gate, puppet: Callable[..., Script]) -> None:
    other = puppet()
    assert gate.try_enter()
    assert tell(other, "try_enter") == "False"
    gate.leave()
    assert tell(other, "try_enter") == "True"
    assert not gate.try_enter()
    tell(other, "leave")
    assert gate.try_enter()
    gate.leave()


def test_waits_until_the_holder_leaves(gate: Gate, puppet: Callable[..., Script]) -> None:
    other = puppet()
    assert gate.try_enter()
    other.send("enter")
    until_waiting(other)
    gate.leave()
    assert other.read_line() == "enter None"
    assert not gate.try_enter()


def test_failing_to_enter_does_not_keep_the_turnstile(gate: Gate, puppet: Callable[..., Script]) -> None:
    first, second = puppet(), puppet()
    tell(first, "enter")
    assert not gate.try_enter()
    assert tell(second, "try_enter") == "False"
    second.send("enter")
    until_waiting(second)  # at the gate, not at the turnstile, which only one can pass
    tell(first, "leave")
    assert second.read_line() == "enter None"


def test_who_was_there_first_goes_first(gate: Gate, puppet: Callable[..., Script], monkeypatch: pytest.MonkeyPatch) -> None:
    # With no streak at all, whoever leaves the gate queues behind those who are at the turnstile, however fast it comes back.
    monkeypatch.setattr(gate_module, "STREAK_NS", 0)
    other = puppet()
    for _ in range(200):
        gate.enter()
        other.send("enter")
        until_waiting(other)
        gate.leave()
        assert not gate.try_enter()
        assert other.read_line() == "enter None"
        tell(other, "leave")


def test_within_its_streak_the_holder_need_not_pass_the_turnstile(gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gate_module, "STREAK_NS", 3600 * 10**9)
    turnstile = os.open(tmp_path / "turnstile", os.O_RDWR)
    gate.enter()
    gate.leave()
    fcntl.flock(turnstile, fcntl.LOCK_EX)
    assert gate.try_enter()
    gate.leave()
    gate._streak_end = 0
    assert not gate.try_enter(), "its streak is over, and somebody stands in line"
    os.close(turnstile)
    assert gate.try_enter()
    gate.leave()


@pytest.mark.parametrize("waits", [False, True])
def test_killed_holder_frees_the_gate(gate: Gate, puppet: Callable[..., Script], waits: bool) -> None:
    for _ in range(5):
        holder, waiter = puppet(), puppet()
        tell(holder, "enter")
        if waits:
            waiter.send("enter")
            until_waiting(waiter)
        holder.kill()
        if waits:
            assert waiter.read_line() == "enter None"
            tell(waiter, "leave")
        gate.enter()
        gate.leave()


def test_killed_waiters_are_forgotten(gate: Gate, puppet: Callable[..., Script]) -> None:
    waiters = [puppet() for _ in range(3)]
    survivor = puppet()
    gate.enter()
    for waiter in waiters:  # the first waits for the gate, the others at the turnstile
        waiter.send("enter")
        until_waiting(waiter)
    survivor.send("enter")
    until_waiting(survivor)
    for waiter in waiters:
        waiter.kill()
    gate.leave()
    assert survivor.read_line() == "enter None"
    tell(survivor, "leave")
    assert gate.try_enter()


def test_forked_child_does_not_keep_the_gate_of_its_killed_parent(gate: Gate, puppet: Callable[..., Script]) -> None:
    parent = puppet()
    tell(parent, "enter")
    parent.send("fork")
    answers = [parent.read_line(), parent.read_line()]
    child = next(int(answer.split()[1]) for answer in answers if answer.startswith("child"))
    assert not gate.try_enter()
    os.kill(parent.pid, signal.SIGKILL)
    parent.process.wait(DEADLINE)
    os.kill(child, 0)
    assert gate.try_enter(), "the child holds what was its parent's"
    gate.leave()


def test_forked_child_can_open_the_gate_again(tmp_path: Path, run_script: RunScript, puppet: Callable[..., Script]) -> None:
    other = puppet()
    finished = run_script(
        """
        import os, sys
        from pathlib import Path
        from parkit_async._core.gate import Gate

        gate = Gate(Path(sys.argv[1]))
        gate.enter()
        child = os.fork()
        if not child:
            gate.open()
            os._exit(gate.try_enter())
        _, status = os.waitpid(child, 0)
        assert status == 0, "the child shares its parent's gate"
        third = Gate(Path(sys.argv[1]))
        assert not third.try_enter(), "the child gave up its parent's gate"
        """,
        tmp_path,
    )
    assert not finished.stderr
    assert tell(other, "try_enter") == "True"


class Interrupted(Exception):
    """What the signal handler raises."""


def test_interrupted_wait_leaves_nothing_held(gate: Gate, puppet: Callable[..., Script]) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    holder, other = puppet(), puppet()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(20):
            tell(holder, "enter")
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            with pytest.raises(Interrupted):
                gate.enter()
            tell(holder, "leave")
            assert tell(other, "try_enter") == "True"
            tell(other, "leave")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_close_gives_up_what_is_held_and_is_idempotent(gate: Gate, puppet: Callable[..., Script]) -> None:
    other = puppet()
    gate.enter()
    gate.close()
    gate.close()
    assert tell(other, "try_enter") == "True"


def test_files_are_private_and_not_inherited(gate: Gate, tmp_path: Path) -> None:
    for name in ("gate", "turnstile"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    for descriptor in (gate._gate, gate._turnstile):
        assert not os.get_inheritable(descriptor)


def test_a_write_behind_the_end_is_refused_and_takes_nothing_along() -> None:
    stock: parkit.Dict[str, int] = parkit.Dict("closed/stock")
    stock["tea"] = 1
    namespace = open_namespace("closed")
    close_all()
    for _ in range(2):
        with pytest.raises(parkit.TransactionError, match="is closed in this process"):
            stock["tea"] = 2
        with pytest.raises(parkit.TransactionError, match="is closed in this process"), parkit.transaction(stock):
            pass
    assert namespace.turns.holder is None
