"""The supervisor as a service: in the foreground, under a service manager, and at rest."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import parkit_async
from parkit import Process, pool_status, set_pool_size
from parkit_async._core.identity import Liveness, liveness
from parkit_async._core.supervision import running_supervisor
from tests.conftest import RunScript, Script, Spawn
from tests.pool.crashes import PATIENCE, MistreatedPool, hold, mistreated, record

pytestmark = pytest.mark.processes

FOREGROUND = "import sys; from parkit_async.service import run_foreground; sys.exit(run_foreground())"

Serve = Callable[..., Script]


@pytest.fixture
def pool(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MistreatedPool]:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    monkeypatch.setenv("PARKIT_PROCESS_POOL_SIZE", "2")
    monkeypatch.setenv("PARKIT_PROCESS_GRACE", "0.5")
    with mistreated(store) as pool:
        yield pool


class Manager:
    """What systemd is to a service that notifies it: a datagram socket.

    Args:
        address: As the environment has it: a path, or a name in the abstract namespace behind an ``@``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def hear(self, message: str) -> None:
        """Wait for a message; whatever comes before it is heard as well."""
        before = len(self.heard)
        while message not in self.heard[before:]:
            assert select.select([self._socket], [], [], PATIENCE)[0], f"{message} was not heard, only {self.heard}"
            self.heard.append(self._socket.recv(1024).decode())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def serve(pool: MistreatedPool, manager: Manager, spawn: Spawn) -> Serve:
    """Start a supervisor in the foreground, and wait until it is ready: ``serve(**environment)``."""

    def start(**environment: str) -> Script:
        service = spawn(FOREGROUND, env={"NOTIFY_SOCKET": manager.address, **environment})
        manager.hear("READY=1")
        assert running_supervisor(pool.path) == service.pid
        return service

    return start


def started(pool: MistreatedPool, key: str) -> Process[object]:
    """Start a process that holds, and wait until it runs."""
    process = Process[object](target=hold, args=(key,))
    process.start()
    assert pool.begun.get(timeout=PATIENCE) == key
    return process


# Stopping.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(pool: MistreatedPool, manager: Manager, serve: Serve, number: int) -> None:
    service = serve()
    running = [started(pool, "one"), started(pool, "two")]
    waiting = Process[object](target=record, args=("waits",))
    waiting.start()
    os.kill(service.pid, number)
    manager.hear("STOPPING=1")
    pool.eventually(lambda: [worker["state"] for worker in pool_status()["workers"]] == ["retiring"] * 2, "the workers are not told to retire")
    assert [process.status for process in running] == ["running", "running"]
    for _ in running:
        pool.go.put("on")
    finished = service.finish()
    assert finished.exitcode == 0
    assert [process.get_result(0) for process in running] == ["one", "two"]
    assert waiting.status == "submitted"
    assert pool.programs() == []
    assert "Traceback" not in finished.stderr
    assert finished.stderr.splitlines()[-1].endswith(f"the pool of {pool.path} has ended")
    assert not Path(pool.path, "supervisor.log").exists()


def test_what_takes_too_long_is_terminated(pool: MistreatedPool, serve: Serve) -> None:
    service = serve(PARKIT_PROCESS_DRAIN="0.2")
    process = started(pool, "slow")
    os.kill(service.pid, signal.SIGTERM)
    finished = service.finish()
    assert finished.exitcode == 0
    assert (process.status, process.exitcode) == ("crashed", -signal.SIGTERM)
    assert re.search(r"still there 0.2 s after the pool was asked to stop, and terminated: \S+", finished.stderr)
    assert pool.programs() == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(pool: MistreatedPool, manager: Manager, serve: Serve, second: int) -> None:
    service = serve(PARKIT_PROCESS_DRAIN="1000")
    process = started(pool, "slow")
    os.kill(service.pid, signal.SIGTERM)
    manager.hear("STOPPING=1")
    assert process.status == "running"
    os.kill(service.pid, second)
    finished = service.finish()
    assert finished.exitcode == 0
    assert (process.status, process.exitcode) == ("crashed", -signal.SIGTERM)
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_during_the_start_leaves_nobody(pool: MistreatedPool, run_script: RunScript, signals: int) -> None:
    finished = run_script(
        """
        import os, signal, sys
        from parkit_async.service import run_foreground
        from parkit_async.supervisor import Supervisor

        perform = Supervisor._spawn

        async def spawn(self, worker):
            for _ in range(int(sys.argv[1])):
                os.kill(os.getpid(), signal.SIGTERM)
            await perform(self, worker)

        Supervisor._spawn = spawn
        sys.exit(run_foreground())
        """,
        signals,
    )
    assert finished.exitcode == 0
    assert "Traceback" not in finished.stderr
    assert pool.programs() == []
    assert pool.records() == {}


def test_many_signals_do_no_harm(pool: MistreatedPool, manager: Manager, serve: Serve) -> None:
    service = serve()
    pool.staff(2)
    for _ in range(50):
        os.kill(service.pid, signal.SIGTERM)
        os.kill(service.pid, signal.SIGHUP)
    finished = service.finish(check=False)
    # Those that come when all is over find a process on its way out; Python's own way there is not ours to guard.
    assert finished.exitcode in (0, -signal.SIGTERM, -signal.SIGHUP)
    assert "Traceback" not in finished.stderr
    assert pool.programs() == []


# Settings.


def test_sighup_has_the_settings_read_again(pool: MistreatedPool, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    service = serve()
    before = pool.staff(2)
    with monkeypatch.context() as patch:
        patch.setattr("parkit_async._core.namespace.ring", lambda *_: 0)  # nobody tells the supervisor
        set_pool_size(3)
    os.kill(service.pid, signal.SIGHUP)
    after = pool.staff(3)
    assert before.items() <= after.items()
    os.kill(service.pid, signal.SIGTERM)
    assert service.finish().exitcode == 0


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PARKIT_PROCESS_POOL_SIZE", "many", "PARKIT_PROCESS_POOL_SIZE is 'many', which is not a whole number"),
        ("PARKIT_PROCESS_POOL_SIZE", "-1", "PARKIT_PROCESS_POOL_SIZE is -1, and a pool has between 0 and 1024 workers"),
        ("PARKIT_PROCESS_GRACE", "soon", "PARKIT_PROCESS_GRACE is 'soon', which is not a number"),
        ("PARKIT_PROCESS_DRAIN", "-3", "PARKIT_PROCESS_DRAIN is -3.0, and cannot be negative or endless"),
        ("PARKIT_LOG_LEVEL", "LOUD", "PARKIT_LOG_LEVEL is 'LOUD', which is no log level"),
        ("PARKIT_SYNCHRONOUS", "maybe", "PARKIT_SYNCHRONOUS is 'maybe', which is not a durability level"),
    ],
)
def test_a_wrong_setting_ends_it_with_a_message(store: Path, run_script: RunScript, variable: str, value: str, message: str) -> None:
    finished = run_script(FOREGROUND, env={variable: value}, check=False)
    assert finished.exitcode == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_wrong_setting_is_an_error_of_whoever_starts_the_pool(pool: MistreatedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process[object](target=record, args=("in the end",))
    with monkeypatch.context() as patch:
        patch.setenv("PARKIT_PROCESS_POOL_SIZE", "many")
        with pytest.raises(ValueError, match="PARKIT_PROCESS_POOL_SIZE is 'many'"):
            process.start()
        with pytest.raises(ValueError, match="PARKIT_PROCESS_POOL_SIZE is 'many'"):
            asyncio.run(start_awaited(process.path))
    assert process.status == "created", "nothing is half done"
    process.start()
    assert process.get_result(PATIENCE) == "in the end"


async def start_awaited(path: str) -> None:
    process = await parkit_async.Process[object](path, create=False)
    await process.start()


def test_a_second_one_is_refused(pool: MistreatedPool, serve: Serve, run_script: RunScript) -> None:
    service = serve()
    refused = run_script(FOREGROUND, check=False)
    assert refused.exitcode == 1
    assert f"process {service.pid} supervises {pool.path} already" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert running_supervisor(pool.path) == service.pid
    pool.staff(2)
    assert pool.epoch() == 1
    os.kill(service.pid, signal.SIGTERM)
    service.finish()


def test_a_foreground_one_takes_over_from_a_detached_one(pool: MistreatedPool, serve: Serve) -> None:
    detached = pool.restart()
    process = started(pool, "busy")
    workers = pool.staff(2)
    service = serve()
    assert running_supervisor(pool.path) == service.pid != detached
    assert pool.records() == workers, "the workers stay"
    assert process.status == "running"
    pool.go.put("on")
    assert process.get_result(PATIENCE) == "busy"
    os.kill(service.pid, signal.SIGTERM)
    assert "taking the pool over" in service.finish().stderr
    assert {liveness(identity) for identity in workers.values()} == {Liveness.DEAD}


def test_nobody_starts_another_supervisor_while_a_service_manager_is_about_to(pool: MistreatedPool, serve: Serve) -> None:
    first = serve()
    pool.staff(2)
    first.process.kill()
    first.process.wait(PATIENCE)
    process = Process[object](target=record, args=("served",))
    process.start()
    assert running_supervisor(pool.path) is None
    assert not Path(pool.path, "supervisor.log").exists()
    second = serve()
    assert process.get_result(PATIENCE) == "served"
    os.kill(second.pid, signal.SIGTERM)
    second.finish()


# sd_notify.


@pytest.mark.parametrize("kind", ["path", pytest.param("abstract", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux has them"))])
def test_systemd_is_told(pool: MistreatedPool, tmp_path: Path, spawn: Spawn, kind: str) -> None:
    manager = Manager(f"@parkit-{secrets.token_hex(8)}" if kind == "abstract" else str(tmp_path / "systemd"))
    try:
        service = spawn(FOREGROUND, env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"})
        manager.hear("READY=1")
        for _ in range(3):
            manager.hear("WATCHDOG=1")
        os.kill(service.pid, signal.SIGTERM)
        manager.hear("STOPPING=1")
        assert service.finish().exitcode == 0
        assert manager.heard[0] == "READY=1"
        assert set(manager.heard) == {"READY=1", "WATCHDOG=1", "STOPPING=1"}
    finally:
        manager.close()


def test_systemd_does_not_watch_somebody_else(pool: MistreatedPool, manager: Manager, serve: Serve) -> None:
    service = serve(WATCHDOG_USEC="1000", WATCHDOG_PID=str(os.getpid()))
    pool.staff(2)
    os.kill(service.pid, signal.SIGTERM)
    manager.hear("STOPPING=1")
    service.finish()
    assert manager.heard == ["READY=1", "STOPPING=1"]


def test_a_manager_that_is_gone_does_no_harm(pool: MistreatedPool, manager: Manager, serve: Serve) -> None:
    service = serve(WATCHDOG_USEC="1000")
    manager.close()
    os.unlink(manager.address)
    process = Process[object](target=record, args=("served",))
    process.start()
    assert process.get_result(PATIENCE) == "served"
    os.kill(service.pid, signal.SIGTERM)
    assert "Traceback" not in service.finish().stderr


def test_a_manager_that_does_not_listen_holds_nobody_up(pool: MistreatedPool, manager: Manager, serve: Serve) -> None:
    service = serve(WATCHDOG_USEC="200")  # its queue is full in no time
    process = Process[object](target=record, args=("served",))
    process.start()
    assert process.get_result(PATIENCE) == "served"
    os.kill(service.pid, signal.SIGTERM)
    assert service.finish().exitcode == 0


# Its death.


def test_the_next_foreground_one_adopts_the_workers_of_a_killed_one(pool: MistreatedPool, serve: Serve) -> None:
    first = serve()
    process = started(pool, "busy")
    workers = pool.staff(2)
    first.process.kill()
    first.process.wait(PATIENCE)
    assert running_supervisor(pool.path) is None
    second = serve()
    assert pool.records() == workers
    assert process.status == "running"
    pool.go.put("on")
    assert process.get_result(PATIENCE) == "busy"
    assert {program.pid for program in pool.programs()} == {identity.pid for identity in workers.values()}
    assert not Path(pool.path, "supervisor.log").exists()
    os.kill(second.pid, signal.SIGTERM)
    assert second.finish().exitcode == 0
    assert {liveness(identity) for identity in workers.values()} == {Liveness.DEAD}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_workers_of_a_killed_foreground_one_leave_when_nobody_adopts_them(pool: MistreatedPool, serve: Serve) -> None:
    service = serve()
    process = started(pool, "busy")
    workers = pool.staff(2)
    waiting = Process[object](target=record, args=("waits",))
    service.process.kill()
    service.process.wait(PATIENCE)
    (idle,) = [identity for identity in workers.values() if identity.pid != process.pid]
    (busy,) = [identity for identity in workers.values() if identity.pid == process.pid]
    pool.outlive(idle)
    assert process.status == "running"
    assert running_supervisor(pool.path) is None  # nobody has started a detached one
    pool.go.put("on")
    pool.outlive(busy)
    assert process.get_result(0) == "busy"
    assert waiting.status == "created"
    assert pool.programs() == []
    assert not Path(pool.path, "supervisor.log").exists()


# At rest.


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_service_sleeps_and_is_small(pool: MistreatedPool, capsys: pytest.CaptureFixture[str]) -> None:
    process = Process[object](target=record, args=("warm",))
    process.start()
    process.get_result(PATIENCE)
    supervisor = pool.supervisor()
    pool.staff(2)
    pool.eventually(lambda: pool.asleep(supervisor), "the supervisor does not rest")
    switches, cpu = pool.switches(supervisor), pool.cpu(supervisor)
    pool.watched(supervisor, 10.0)
    switches, cpu = pool.switches(supervisor) - switches, pool.cpu(supervisor) - cpu
    status = Path(f"/proc/{supervisor}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
    with capsys.disabled():
        print(f"\nidle supervisor: {switches} sleeps and {1000 * cpu:g} ms of processor time in 10 s, {resident:.1f} MB resident")
    assert switches <= 12, "something wakes the supervisor besides its slow timer"
    assert cpu <= 0.05
    assert resident < 60
