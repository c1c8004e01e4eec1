"""Anybody is killed at any moment, for as long as one likes: every process that was submitted ends exactly once, and none runs twice.

``PARKIT_CHAOS_SECONDS`` says for how long (15 by default), ``PARKIT_CHAOS_SEED`` has the victims chosen as in a run before, whose seed was printed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lmdb.verify import verify

from parkit import Log, Process, killall
from parkit_async._core import process_ops
from parkit_async._core.identity import identity_of, signal_exactly
from parkit_async._core.paths import POOL_NAMESPACE, SYSLOG_NAMESPACE
from parkit_async._core.registry import close_all, open_namespace
from parkit_async._core.supervision import ensure
from tests.conftest import Script, Spawn
from tests.pool.crashes import PATIENCE, MistreatedPool, mistreated

pytestmark = [pytest.mark.processes, pytest.mark.slow]

SECONDS = float(os.environ.get("PARKIT_CHAOS_SECONDS") or 15)
SIZE = 3
CLIENTS = 3

CLIENT = """
import random, sys
from parkit import Process
from tests.pool.test_chaos import fail, leave, linger, work

me, seed = sys.argv[1], int(sys.argv[2])
random.seed(seed)
number = 0
while True:
    number += 1
    target = random.choice([work, work, work, work, linger, linger, fail, leave])
    process = Process(f"chaos/{me}-{number}", target=target, args=(f"{me}-{number}",))
    process.start()
    if number % random.randrange(3, 12) == 0:
        process.join(60)  # so that the queue does not grow without end
    if number == 1:
        print("works", flush=True)
"""


def work(me: str) -> str:
    """Note this run, and nothing else."""
    Log[str]("crashes/runs").append(me)
    return me


def linger(me: str) -> str:
    """Note this run somewhere in the middle of it."""
    log = Log[str]("crashes/runs")
    for _ in range(random.randrange(2000)):
        hash(me)
    log.append(me)
    for _ in range(random.randrange(2000)):
        hash(me)
    return me


def fail(me: str) -> None:
    """Note this run, and fail."""
    work(me)
    raise ValueError(me)


def leave(me: str) -> None:
    """Note this run, and take the worker along."""
    work(me)
    os._exit(7)


@pytest.fixture
def pool(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MistreatedPool]:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    monkeypatch.setenv("PARKIT_PROCESS_POOL_SIZE", str(SIZE))
    monkeypatch.setenv("PARKIT_PROCESS_GRACE", "0.5")
    with mistreated(store) as pool:
        yield pool


class Crowd:
    """The clients: always so many, whoever is killed.

    Args:
        spawn: Starts a script.
        dice: What chooses.
    """

    def __init__(self, spawn: Spawn, dice: random.Random) -> None:
        self._spawn = spawn
        self._dice = dice
        self._born = 0
        self.killed = 0
        self._clients: list[Script] = []
        while len(self._clients) < CLIENTS:
            self._add()

    def _add(self) -> None:
        self._born += 1
        self._clients.append(self._spawn(CLIENT, f"c{self._born}", self._dice.randrange(1 << 30)))

    def kill_one(self) -> None:
        client = self._clients.pop(self._dice.randrange(len(self._clients)))
        finished = client.kill()
        assert finished.exitcode == -signal.SIGKILL, f"a client has ended by itself: {finished.stderr}"
        assert not finished.stderr
        self.killed += 1
        self._add()

    def end(self) -> None:
        while self._clients:
            self.kill_one()
            self._clients.pop().kill()  # who took its place


def listed() -> list[process_ops.Listed]:
    found: list[process_ops.Listed] = open_namespace("chaos").read(process_ops.processes)
    return found


@pytest.mark.timeout(int(4 * SECONDS) + 180)
def test_chaos(pool: MistreatedPool, spawn: Spawn, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("PARKIT_CHAOS_SEED") or random.randrange(1 << 30))
    with capsys.disabled():
        print(f"\nPARKIT_CHAOS_SEED={seed}", end=" ", flush=True)
    dice = random.Random(seed)
    Log[str]("crashes/runs")
    open_namespace("chaos")
    crowd = Crowd(spawn, dice)
    killed: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        # By what was run, not by the clock: so a kill falls into whatever they are doing.
        target = len(pool.runs) + dice.randrange(1, 40)
        pool.eventually(lambda target=target: len(pool.runs) >= target, "nothing is run any more")  # type: ignore[misc]
        match dice.choice(["worker", "worker", "worker", "supervisor", "anybody", "client", "all"]):
            case "client":
                crowd.kill_one()
                killed["clients"] += 1
            case "supervisor":
                killed["supervisors"] += kill(pool, [pool.supervisor()])
            case "worker":
                workers = sorted(pool.records().values())
                killed["workers"] += kill(pool, [workers[dice.randrange(len(workers))].pid] if workers else [])
            case "anybody":  # those who are just starting as well
                programs = sorted(program.pid for program in pool.programs())
                killed["programs"] += kill(pool, [dice.choice(programs)] if programs else [])
            case _:
                killed["programs"] += kill(pool, [program.pid for program in pool.programs()])
        ensure(pool.path, restart=True)  # as any client would that comes now; those here may all be waiting
    crowd.end()
    deadline = time.monotonic() + PATIENCE

    def over() -> bool:
        ensure(pool.path, restart=True)
        return not {process.run.status for process in listed()} & {process_ops.SUBMITTED_STATUS, process_ops.RUNNING_STATUS}

    while time.monotonic() < deadline and not over():
        pool.eventually(lambda: over() or time.monotonic() > deadline, "it does not end")
    check(pool, killed, crowd, capsys)

    # The pool is whole again, and works.
    pool.staff(SIZE)
    pool.eventually(lambda: len(pool.programs()) == 1 + SIZE, "the pool does not come back to its size")
    last = Process[str]("chaos/last", target=work, args=("last",))
    last.start()
    assert last.get_result(PATIENCE) == "last"

    # And nothing of all this is left.
    killall(PATIENCE)
    pool.eventually(lambda: not pool.programs(), "somebody is left")
    assert pool.records() == {}
    names = ["chaos", "crashes", POOL_NAMESPACE, SYSLOG_NAMESPACE]
    for name in names:
        engine = open_namespace(name).engine
        engine.check_readers()
        assert {reader.pid for reader in engine.readers()} <= {os.getpid()}
    paths = [open_namespace(name).directory / "data.mdb" for name in names]
    close_all()
    for path in paths:
        problems = verify(str(path))  # type: ignore[no-untyped-call]
        assert not problems, f"{path}: {problems}"


def kill(pool: MistreatedPool, pids: list[int]) -> int:
    """Kill whoever has these pids, wait until all are dead, and return how many lived."""
    identities = [identity for pid in pids if (identity := identity_of(pid)) is not None]
    killed = [identity for identity in identities if signal_exactly(identity, signal.SIGKILL)]
    for identity in killed:
        pool.outlive(identity)
    return len(killed)


def check(pool: MistreatedPool, killed: Counter[str], crowd: Crowd, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed()
    runs: Counter[Any] = Counter(pool.runs)
    statuses = Counter(process.run.status for process in found)
    with capsys.disabled():
        print(f"{len(found)} processes: {dict(statuses)}; killed: {dict(killed)}; {pool.epoch()} supervisors began", flush=True)
    assert not [name for name, count in runs.items() if count > 1], "something has run twice"
    stuck = [(process.name, process.run) for process in found if process.run.status in (process_ops.SUBMITTED_STATUS, process_ops.RUNNING_STATUS)]
    assert not stuck, f"{len(stuck)} are stuck: {stuck[:10]}\n{pool.log()[-20000:]}"
    # Of a client that is killed between the two, one is created and never submitted.
    assert statuses[process_ops.CREATED] <= crowd.killed + 2 * CLIENTS
    for process in found:
        status, count = process.run.status, runs[process.name]
        if status in (process_ops.FINISHED, process_ops.FAILED):
            assert count == 1, f"{process.name} is {status} and has run {count} times"
        elif status == process_ops.CREATED:
            assert count == 0, f"{process.name} has run and was never submitted"
    assert set(runs) <= {process.name for process in found}
    namespace = open_namespace("chaos")
    assert namespace.read(process_ops.running) == []
    assert not namespace.read(process_ops.anything_submitted)
    assert statuses[process_ops.FINISHED] > 0
