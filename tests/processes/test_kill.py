"""kill -9 at random moments: the next one goes on, what was acknowledged is there, nothing is damaged, nothing of the dead stays."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from parkit import Dict, Log, Queue, set_namespace_synchronous
from parkit_async._core.registry import open_namespace
from tests.conftest import RunScript
from tests.processes.conftest import Verify
from tests.processes.crowd import bury

pytestmark = pytest.mark.processes

SCRIPT = """
import os, random, sys
from parkit import Dict, Log, Queue, snapshot, transaction
from tests.processes.crowd import Member, linger

level, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)


def transactor(report, me):
    counters, log = Dict("kill/counters"), Log("kill/log")
    for number in range(1, 1_000_000):
        with transaction(counters):
            counters[me] = number
            log.append((me, number))
            counters["total"] = counters.get("total", 0) + 1
        report(number)


def setter(report, me):
    counters = Dict("kill/counters")
    for number in range(1, 1_000_000):
        counters[me] = number
        report(number)


def putter(report, me):
    q = Queue("kill/items")
    for number in range(1, 1_000_000):
        q.put((me, number, bytes(random.randrange(3000))))
        report(number)


def getter(report, me):
    q = Queue("kill/items")
    while True:
        source, number, _ = q.get()
        report((source, number))


def waiter(report, me):
    q = Queue("kill/never")
    report("waits")
    q.get()


def reader(report, me):
    counters, log = Dict("kill/counters"), Log("kill/log")
    while True:
        with snapshot(counters):
            total = counters.get("total", 0)
            assert len(log) == total, "a snapshot saw half a transaction"
            if total:
                me, number = log[-1]
                assert counters[me] == number
            report(total)


KINDS = [transactor, transactor, setter, putter, getter, waiter, reader]
names = iter(range(10_000))


def start(kind):
    name = f"{kind.__name__}-{next(names)}"
    return name, Member(kind, name)


crowd = [(kind, *start(kind)) for kind in KINDS]
dead = []
for round in range(rounds):
    at = random.randrange(len(crowd))
    kind, name, member = crowd[at]
    member.read()  # it is at work
    linger(0.002)
    dead.append((name, member.kill()))
    # The others go on at once, whatever the dead one held.
    for other_kind, _, other in crowd:
        if other_kind in (transactor, setter) and other is not member:
            other.read()
    crowd[at] = (kind, *start(kind))
dead += [(name, member.kill()) for _, name, member in crowd]
for name, reports in dead:
    print(repr((name, reports)))
"""


def scenario(run_script: RunScript, level: str, rounds: int) -> dict[str, list[Any]]:
    """Kill at random, ``rounds`` times and then everybody; return what each process had acknowledged."""
    Dict[str, int]("kill/counters")
    Log[tuple[str, int]]("kill/log")
    Queue[Any]("kill/items")
    Queue[Any]("kill/never")
    set_namespace_synchronous("kill", level)  # type: ignore[arg-type]
    finished = run_script(SCRIPT, level, rounds, random.randrange(1 << 30), timeout=100)
    assert not finished.stderr
    return dict(map(eval, finished.stdout.splitlines()))


def check(reports: dict[str, list[Any]]) -> None:
    counters, log, items = Dict[str, int]("kill/counters"), Log[tuple[str, int]]("kill/log"), Queue[Any]("kill/items")
    logged: dict[str, int] = {}
    for name, number in log:
        assert number == logged.get(name, 0) + 1, "a transaction is there twice, or out of order"
        logged[name] = number
    assert counters["total"] == sum(logged.values()) == len(log)
    left: dict[str, list[int]] = {}
    for source, number, _ in items.get_many(10_000_000, block=False) if items.qsize() else []:
        left.setdefault(source, []).append(number)
    taken: dict[str, list[int]] = {}
    for name, acknowledged in reports.items():
        if name.startswith("getter"):
            for source, number in acknowledged:
                taken.setdefault(source, []).append(number)
    getters = sum(name.startswith("getter") for name in reports)
    lost = 0
    for name, acknowledged in reports.items():
        last = acknowledged[-1] if acknowledged else 0
        kind = name.split("-")[0]
        if kind in ("transactor", "setter"):
            assert last <= counters.get(name, 0) <= last + 1, f"{name}: {last} acknowledged"
        if kind == "transactor":
            assert logged.get(name, 0) == counters.get(name, 0)
        if kind == "putter":
            seen = taken.get(name, []) + left.get(name, [])
            assert sorted(seen) == sorted(set(seen)), "an item was delivered twice"
            assert left.get(name, []) == sorted(left.get(name, [])), "items are out of order"
            assert set(seen) <= set(range(1, last + 2))
            lost += len(set(range(1, last + 1)) - set(seen))
    # An item may be gone with the process that took it, between its commit and its report: one for each that was killed.
    assert lost <= getters


def check_nothing_is_left_of_the_dead() -> None:
    namespace = open_namespace("kill")
    namespace.engine.check_readers()
    assert {reader.pid for reader in namespace.engine.readers()} <= {os.getpid()}
    never = Queue[int]("kill/never")
    never.put(1)  # rings whoever stands in the table, and evicts those that are dead
    assert namespace.table.waiters({never._binding.object_id: 15}) == []
    items = Queue[Any]("kill/items")
    items.put(1)
    assert namespace.table.waiters({items._binding.object_id: 15}) == []
    assert not any(namespace.table._occupancy), "a dead process is still registered"
    bury("kill")


def test_killed_at_every_level(run_script: RunScript, verified: Verify) -> None:
    reports = scenario(run_script, "normal", 25)
    check(reports)
    check_nothing_is_left_of_the_dead()
    verified("kill")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("level", ["full", "normal", "off"])
def test_killed_hundreds_of_times(run_script: RunScript, verified: Verify, level: str) -> None:
    reports = scenario(run_script, level, 120)
    assert len(reports) == 127
    check(reports)
    check_nothing_is_left_of_the_dead()
    verified("kill")


def test_opening_frees_the_reader_slots_and_sockets_of_the_dead(run_script: RunScript, store: Path) -> None:
    Dict[str, int]("kill/counters")
    Queue[Any]("kill/never")
    namespace = open_namespace("kill")
    finished = run_script("""
        import signal
        from parkit import Dict, Queue, snapshot
        from parkit_async._core.doorbell import thread_bell
        from tests.processes.crowd import Member

        def holder(report):
            with snapshot(Dict("kill/counters")):
                report("holds")
                signal.pause()

        def waiter(report):
            q = Queue("kill/never")
            thread_bell(q._home.sockets)
            report("waits")
            q.get()

        members = [Member(body) for body in (waiter, waiter, waiter, holder, holder, holder)]
        for member in members:
            member.read()
        for member in members:
            member.kill()
        print(*[member.pid for member in members])
    """)
    dead = set(map(int, finished.stdout.split()))
    assert dead & {reader.pid for reader in namespace.engine.readers()}
    assert len(list(store.glob("**/sockets/*"))) == 3
    run_script('from parkit import Dict; Dict("kill/counters")["k"] = 1')
    assert not dead & {reader.pid for reader in namespace.engine.readers()}
    assert list(store.glob("**/sockets/*")) == []
