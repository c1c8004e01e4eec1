"""A pool that is mistreated: who belongs to it, how to hit one of them, and how to see that nothing is left in the end.

What can be waited for is waited for: deaths by a descriptor, runs by a queue that their targets write to. The rest (what the operating system shows
of processes it has just started) is looked at again whenever the pool changes, and every tenth of a second.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from parkit import Log, Process, Queue, killall, transaction
from parkit_async._core import pool_state, process_ops, supervision
from parkit_async._core.deaths import open_death_watch
from parkit_async._core.doorbell import EVENT_ALL
from parkit_async._core.identity import Identity, identity_of
from parkit_async._core.registry import close_all, open_namespace
from parkit_async._core.waiting import AGAIN, block
from tests.processes.crowd import bury

__all__ = ["BREAKER", "PATIENCE", "MistreatedPool", "hold", "mistreated", "record", "stranger", "with_children"]

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds in which anything that is to happen must have happened."""

BREAKER = """
import os, sys

if "parkit_async.worker" in " ".join(sys.orig_argv):
    folder = os.path.dirname(os.path.abspath(__file__))
    if os.path.exists(os.path.join(folder, "broken")):
        os._exit(3)
    if os.path.exists(os.path.join(folder, "held")):
        with open(os.path.join(folder, "gate")) as gate:
            gate.read()
"""
"""A ``sitecustomize`` for PYTHONPATH: breaks the workers, and no other program, while the file ``broken`` is beside it, and has them wait at their
beginning for a writer of the FIFO ``gate`` while ``held`` is."""


# Targets.


def record(key: object) -> object:
    """Leave a trace of this run, in a transaction, and return the key."""
    runs = Log[object]("crashes/runs")
    with transaction(runs):
        runs.append(key)
    return key


def hold(key: object) -> object:
    """Leave a trace of this run, say that it has begun, and go on when told to."""
    record(key)
    Queue[object]("crashes/begun").put(key)
    Queue[object]("crashes/go").get(timeout=2 * PATIENCE)
    return key


def with_children(key: object) -> None:
    """Start a child that ignores SIGTERM and one that does not, then hold."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(1000)"
    import sys

    children = [subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE), subprocess.Popen(["sleep", "1000"])]
    assert children[0].stdout is not None
    children[0].stdout.readline()
    Queue[object]("crashes/children").put([child.pid for child in children])
    hold(key)


# The pool.


class MistreatedPool:
    """Whoever works for a store, from outside. For the test's thread.

    Args:
        store: Path of the store.
    """

    def __init__(self, store: Path) -> None:
        self.path = str(store)
        self.begun: Queue[Any] = Queue("crashes/begun")
        self.go: Queue[Any] = Queue("crashes/go")
        self.runs: Log[Any] = Log("crashes/runs")

    # Looking.

    @property
    def shelf(self) -> Any:
        return pool_state.shelf(self.path, pool_state.POOL)

    def epoch(self) -> int:
        return int(pool_state.get(self.shelf, "epoch", 0))

    def records(self) -> dict[str, Identity]:
        """Return the workers that have said hello, by name."""
        return {name: Identity(*record["identity"]) for name, record in pool_state.prefixed(self.shelf, "worker:").items()}

    def supervisor(self, besides: int | None = None) -> int:
        """Return the pid of the supervisor, as soon as there is one, and it is not ``besides``."""

        def look() -> int | None:
            pid = supervision.running_supervisor(self.path)
            return None if pid == besides else pid

        return self.eventually(look, "there is no supervisor")

    def staff(self, count: int, besides: set[int] | frozenset[int] = frozenset()) -> dict[str, Identity]:
        """Return the workers that have said hello as soon as there are so many of them, and none is of ``besides``."""

        def look() -> dict[str, Identity] | None:
            found = self.records()
            return found if len(found) == count and not besides & {identity.pid for identity in found.values()} else None

        return self.eventually(look, f"there are never {count} workers")

    def programs(self) -> list[psutil.Process]:
        """Return the programs of parkit's that serve this store and live, whoever knows of them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if "--store" in command and self.path in command and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def log(self) -> str:
        """Return what the detached supervisors and their workers have printed."""
        path = Path(self.path, "supervisor.log")
        return path.read_text() if path.exists() else ""

    def asleep(self, pid: int) -> bool:
        """Return whether all threads of a process sleep."""
        return all(_fields(stat)[0] == "S" for stat in Path(f"/proc/{pid}/task").glob("*/stat"))

    def switches(self, pid: int) -> int:
        """Return how often the threads of a process have gone to sleep, all in all: a process that nothing wakes does not do it again."""
        found = 0
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            found += sum(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))
        return found

    def cpu(self, pid: int) -> float:
        """Return the seconds of processor time that a process has used."""
        fields = _fields(Path(f"/proc/{pid}/stat"))
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def watched(self, pid: int, seconds: float) -> None:
        """Let a process live for a time; fail if it ends in it."""
        identity = identity_of(pid)
        assert identity is not None
        watch = open_death_watch(identity)
        try:
            assert not select.select([watch], [], [], seconds)[0], f"process {pid} has ended:\n{self.log()}"
        finally:
            watch.close()

    def eventually(self, condition: Callable[[], T | None], what: str) -> T:
        """Return what ``condition`` returns as soon as that is something else than None and False; fail if it never is."""

        def attempt() -> Any:
            found = condition()
            return AGAIN if found is None or found is False else found

        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = block(self.shelf, EVENT_ALL, attempt, time.monotonic() + 0.1)
            if found is not AGAIN:
                return found  # type: ignore[no-any-return]
        pytest.fail(f"{what}; the supervisor's log:\n{self.log()}")

    # Hitting.

    def kill(self, *pids: int, number: int = signal.SIGKILL) -> None:
        """Send a signal that ends processes to them all, and wait until they have ended."""
        identities = [identity_of(pid) for pid in pids]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        for identity in identities:
            if identity is not None:
                self.outlive(identity)

    def stop(self, *pids: int) -> None:
        """Stop processes, and wait until each of their threads has stopped: a signal that arrives before is heard."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))
            self.eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, f"process {pid} does not stop")  # noqa: B023
            for thread in threads:
                self.eventually(lambda: _fields(thread)[0] == "T", f"a thread of process {pid} does not stop")  # noqa: B023

    def outlive(self, identity: Identity) -> None:
        """Wait until a process has ended."""
        watch = open_death_watch(identity)
        try:
            poll = select.poll()
            poll.register(watch.fileno(), select.POLLIN)
            if not poll.poll(PATIENCE * 1000):
                pytest.fail(f"process {identity.pid} does not end; the supervisor's log:\n{self.log()}")
        finally:
            watch.close()

    def kill_all_at_once(self) -> None:
        """Kill the supervisor and every worker, so that none of them sees the death of another."""
        supervisor = self.supervisor()
        self.stop(supervisor)  # it starts nobody from now on
        victims = [process.pid for process in self.programs() if process.pid != supervisor]
        self.stop(*victims)
        self.kill(supervisor, *victims)

    def edit(self, worker: str, identity: Identity) -> None:
        """Have the store say that a worker is somebody else."""
        pool_state.change(self.shelf, {f"worker:{worker}": {"identity": list(identity), "worn": False}})

    def restart(self) -> int:
        """See that there is a supervisor, as a start() would; return its pid."""
        supervision.ensure(self.path, restart=True)
        return self.supervisor()

    # The end.

    def end(self) -> None:
        """End the pool, and fail if it leaves anybody."""
        try:
            for process in self.programs():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
            killall(PATIENCE)
            left = self.programs()
            assert not left, f"killall() left {left}"
        finally:
            for process in self.programs():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            print(self.log())  # shown by pytest if the test fails
        close_all()  # this thread's own bell
        bury("crashes")


def _fields(stat: Path) -> list[str]:
    return stat.read_text().rpartition(")")[2].split()


@contextlib.contextmanager
def mistreated(store: Path) -> Iterator[MistreatedPool]:
    """Give a test a pool, and see that nothing is left of it; for a fixture."""
    pool = MistreatedPool(store)
    try:
        yield pool
    finally:
        pool.end()


@contextlib.contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that has nothing to do with the pool and leads its own group, as a worker would. It must be alive in the end."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        yield process
        assert process.poll() is None, f"a stranger was ended: {process.returncode}"
    finally:
        process.kill()
        process.wait(PATIENCE)


def occupy(name: str, worker: str, pid: int, processes: list[Process[Any]]) -> None:
    """Submit processes without telling anybody, and have a worker claim all of them, in one transaction."""
    namespace = open_namespace(name)

    def operation(writing: Any) -> None:
        for process in processes:
            call, *arguments = process._start(process._open_binding())
            call(writing, *arguments)
        for _ in processes:
            assert process_ops.claim(writing, worker, pid) is not None

    namespace.write(operation)
