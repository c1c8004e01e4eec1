"""The death of a process is seen at once, through a descriptor, whoever's child it is; and of no other process."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from parkit_async._core import deaths, identity
from parkit_async._core.deaths import DeathWatch, open_death_watch
from parkit_async._core.errors import ProcessError
from parkit_async._core.identity import Identity, Liveness, current, identity_of, liveness, signal_exactly
from tests.conftest import Spawn

PATIENCE = 30

pytestmark = pytest.mark.processes


@pytest.fixture(params=[pytest.param("pidfd", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux's")), "thread"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Watch in each of the ways there are."""
    if request.param == "thread":
        monkeypatch.setattr(identity, "_HAS_PIDFD", False)
    return str(request.param)


class Child:
    """A process that ends with the exit code that it reads from its input, or when it is killed."""

    def __init__(self) -> None:
        code = "import sys; sys.exit(int(sys.stdin.readline() or 0))"
        self.process = subprocess.Popen([sys.executable, "-S", "-E", "-c", code], stdin=subprocess.PIPE)
        found = identity_of(self.process.pid)
        assert found is not None
        self.identity = found

    def leave(self, code: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % code)
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def child(source: str) -> Iterator[Child]:
    started = Child()
    yield started
    started.close()


@pytest.fixture
def watch(child: Child) -> Iterator[DeathWatch]:
    opened = open_death_watch(child.identity)
    yield opened
    opened.close()


def readable(watch: DeathWatch, timeout: float = 0) -> bool:
    """Ask both calls that there are."""
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    polled = poll.poll(timeout * 1000)
    return bool(select.select([watch], [], [], 0)[0]) and bool(polled and polled[0][1] & select.POLLIN)


# -- seen ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_a_child_that_leaves(code: int, child: Child, watch: DeathWatch) -> None:
    assert not readable(watch)
    assert watch.reap() is None
    child.leave(code)
    assert readable(watch, PATIENCE)
    assert readable(watch)  # and stays so
    assert watch.reap() == code
    assert watch.reap() == code
    assert readable(watch)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_is_killed(number: signal.Signals, child: Child, watch: DeathWatch) -> None:
    assert signal_exactly(child.identity, number)
    assert readable(watch, PATIENCE)
    assert watch.reap() == -number
    with pytest.raises(ChildProcessError):
        os.waitpid(child.process.pid, os.WNOHANG)


def test_watching_takes_nothing_away(child: Child, watch: DeathWatch) -> None:
    child.leave(7)
    assert readable(watch, PATIENCE)
    assert child.process.wait(PATIENCE) == 7
    assert watch.reap() is None


def test_a_child_reaped_by_another_thread_meanwhile(child: Child, watch: DeathWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    child.leave(7)
    assert readable(watch, PATIENCE)
    assert child.process.wait(PATIENCE) == 7
    monkeypatch.setattr(deaths, "is_unreaped_child", lambda identity: True)
    assert watch.reap() is None


def test_a_child_that_only_seems_to_be_over(child: Child, watch: DeathWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux shows a process as a zombie whose first thread has ended, while others still run."""
    monkeypatch.setattr(deaths, "is_unreaped_child", lambda identity: True)
    assert watch.reap() is None
    child.leave(7)
    assert readable(watch, PATIENCE)
    assert watch.reap() == 7


def test_a_stopped_child_is_not_dead(child: Child, watch: DeathWatch) -> None:
    child.process.send_signal(signal.SIGSTOP)
    os.waitpid(child.process.pid, os.WUNTRACED)
    assert not readable(watch)
    assert watch.reap() is None


def test_several_watches_of_one_process(child: Child, watch: DeathWatch) -> None:
    second = open_death_watch(child.identity)
    child.leave(5)
    assert readable(watch, PATIENCE)
    assert readable(second, PATIENCE)
    assert second.reap() == 5
    assert watch.reap() is None
    second.close()


def test_a_process_that_is_not_a_child(source: str, spawn: Spawn) -> None:
    script = spawn("""
        import subprocess, sys
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        print(child.pid, flush=True)
        sys.stdin.readline()
        child.kill()
        print(child.wait(), flush=True)
        sys.stdin.readline()
    """)
    found = identity_of(int(script.read_line()))
    assert found is not None
    watch = open_death_watch(found)
    assert not readable(watch)
    script.send("kill it")
    assert readable(watch, PATIENCE)
    assert watch.reap() is None
    assert script.read_line() == "-9"
    watch.close()


async def test_an_event_loop_sees_it(anyio_backend: Any, child: Child, watch: DeathWatch) -> None:
    loop, died = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(watch.fileno(), died.set)
    try:
        child.leave(9)
        async with asyncio.timeout(PATIENCE):
            await died.wait()
    finally:
        loop.remove_reader(watch.fileno())
    assert watch.reap() == 9


# -- dead before ---------------------------------------------------------------------------------------------------------------------------


def test_a_zombie(child: Child) -> None:
    child.leave(4)
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    watch = open_death_watch(child.identity)
    assert readable(watch)
    assert watch.reap() == 4
    watch.close()


def test_a_process_that_is_gone(child: Child) -> None:
    child.close()
    watch = open_death_watch(child.identity)
    assert readable(watch)
    assert watch.reap() is None
    watch.close()


def test_a_pid_that_was_given_out_again(child: Child) -> None:
    watch = open_death_watch(child.identity._replace(started="1"))
    assert readable(watch)
    child.leave(3)
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    assert watch.reap() is None  # the stranger is this process's child, and is left to whoever asks for it
    assert child.process.wait(PATIENCE) == 3
    watch.close()


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**80])
def test_a_number_that_no_process_has(pid: int, source: str) -> None:
    watch = open_death_watch(current()._replace(pid=pid))
    assert readable(watch)
    assert watch.reap() is None
    watch.close()


@pytest.mark.parametrize("moment", ["before the look", "after the look"])
def test_a_death_while_the_watch_is_opened(moment: str, child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(identity: Identity) -> Liveness:
        if moment == "before the look":
            child.close()
            return liveness(identity)
        found = liveness(identity)
        child.close()
        return found

    monkeypatch.setattr(deaths, "liveness", die)
    watch = open_death_watch(child.identity)
    monkeypatch.undo()
    assert readable(watch, PATIENCE)
    watch.close()


def test_what_cannot_be_seen_cannot_be_watched(child: Child) -> None:
    there = child.identity._replace(boot=child.identity.boot.partition("/")[0] + "/1" if child.identity.boot != "clock" else "boot/1")
    with pytest.raises(ProcessError, match=rf"{child.process.pid} cannot be watched.*another container"):
        open_death_watch(there)


# -- the descriptor ------------------------------------------------------------------------------------------------------------------------


def test_closing(child: Child) -> None:
    watch = open_death_watch(child.identity)
    assert not os.get_inheritable(watch.fileno())
    assert repr(watch) == f"<DeathWatch of process {child.process.pid}>"
    watch.close()
    watch.close()
    assert watch.fileno() == -1
    assert repr(watch) == f"<DeathWatch of process {child.process.pid}, closed>"
    child.leave(6)
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    assert watch.reap() == 6


def test_a_watch_that_is_forgotten_is_closed_with_a_warning(child: Child) -> None:
    with pytest.warns(ResourceWarning, match=rf"unclosed <DeathWatch of process {child.process.pid}>"):
        open_death_watch(child.identity).fileno()


# -- by a thread ---------------------------------------------------------------------------------------------------------------------------


def test_the_thread_ends_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_HAS_PIDFD", False)
    child = Child()
    watch = open_death_watch(child.identity)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == f"parkit-death-{child.process.pid}")
    assert thread.daemon
    watch.close()
    child.leave(2)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert watch.reap() == 2
    child.close()


def test_without_waitid_the_status_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS before Python 3.13: psutil reaps the child that it waits for."""
    monkeypatch.setattr(identity, "_HAS_PIDFD", False)
    monkeypatch.delattr(os, "waitid")
    for expected in (8, -signal.SIGKILL):
        child = Child()
        watch = open_death_watch(child.identity)
        if expected == 8:
            child.leave(8)
        else:
            child.process.kill()
        assert readable(watch, PATIENCE)
        status = watch.reap()
        assert (status, type(status)) == (expected, int)
        watch.close()
        child.close()


@pytest.mark.parametrize("waitid", [True, False])
def test_a_death_before_the_thread_looks(waitid: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not waitid:
        monkeypatch.delattr(os, "waitid")
    child = Child()
    child.close()
    assert deaths._outlive(child.identity) is None
    assert deaths._outlive(current()._replace(started="1")) is None


def test_a_fork_does_not_hide_the_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that was forked meanwhile has a copy of the other end, which keeps a socket that is merely closed open."""
    copies: list[socket.socket] = []
    pair = socket.socketpair

    def copied() -> tuple[socket.socket, socket.socket]:
        ours, others = pair()
        copies.append(others.dup())
        return ours, others

    monkeypatch.setattr(identity, "_HAS_PIDFD", False)
    monkeypatch.setattr(socket, "socketpair", copied)
    child = Child()
    watch = open_death_watch(child.identity)
    child.leave(0)
    assert readable(watch, PATIENCE)
    watch.close()
    child.close()
    copies[0].close()


def test_a_thread_that_cannot_be_started_leaves_no_descriptors(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(identity, "_HAS_PIDFD", False)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        open_death_watch(child.identity)
