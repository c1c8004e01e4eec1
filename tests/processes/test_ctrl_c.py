"""Ctrl-C at random moments: what was acknowledged is there, a transaction is all or nothing, and nothing stays locked."""

from __future__ import annotations

import pytest

from parkit import Dict, Log, Queue, transaction
from tests.conftest import RunScript
from tests.processes.conftest import Verify

pytestmark = pytest.mark.processes

SCRIPT = """
import gc, os, random, signal, sys, threading
from parkit import Dict, Log, Queue, snapshot, transaction
from parkit_async._core.ownership import contexts, thread_owner
from parkit_async._core.registry import open_namespace
from tests.processes.crowd import Member, linger

level, interrupts, contended = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
os.environ["PARKIT_SYNCHRONOUS"] = level


def victim(report):
    # Starts with the signal held back, and lets it in only inside the try block.
    once = Log("int/once")
    d, q, log, waits = Dict("int/d"), Queue("int/q"), Log("int/log"), Queue("int/never")
    d["set"] = 0
    namespace = open_namespace("int")
    stop = threading.Event()

    def compete(me):
        number = 0
        while not stop.is_set():
            number += 1
            once.append((me, number))
            with transaction(d):
                d["competed"] = d.get("competed", 0) + 1

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threads = [threading.Thread(target=compete, args=(f"competitor {me}",)) for me in range(2 if contended else 0)]
    for thread in threads:
        thread.start()
    acknowledged = transactions = puts = caught = 0
    maybe = 0
    for turn in range(1, interrupts + 1):
        report("ready")
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            while True:
                maybe = acknowledged + 1
                d["set"] = maybe
                acknowledged = maybe
                with transaction(d):
                    d["left"] = d.get("left", 0) + 1
                    log.append(turn)
                    d["right"] = d.get("right", 0) + 1
                transactions += 1
                q.put(puts)
                puts += 1
                with snapshot(d):
                    assert d.get("left", 0) == d.get("right", 0) == len(log)
                q.get(timeout=1)
                waits_empty(waits, random.choice([0, 0.0005]))
        except KeyboardInterrupt:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            caught += 1
        assert d["set"] in (acknowledged, maybe), f"{acknowledged} was acknowledged, {d['set']} is stored"
        acknowledged = d["set"]
        left, right = d.get("left", 0), d.get("right", 0)
        assert left == right == len(log), f"half a transaction is stored: {left}, {right}, {len(log)}"
        assert left in (transactions, transactions + 1), f"{transactions} were acknowledged, {left} are stored"
        transactions = left
        assert thread_owner() not in contexts, "a context is still open"
        d["after"] = turn
        with transaction(d):
            d["after"] = -turn
        q.clear()
        puts = 0
    stop.set()
    for thread in threads:
        thread.join()
    assert caught == interrupts
    assert len(once) == len(set(once)), "what another thread wrote is stored twice"
    assert namespace.turns.holder is None and len(namespace.turns) == 0
    assert not any(namespace.table._occupancy), "an interrupted wait is still registered"
    assert namespace.pinned() == []
    report("done")


def waits_empty(q, timeout):
    try:
        q.get(timeout=timeout)
    except Exception as error:
        assert type(error).__name__ == "Empty"


member = Member(victim)
d = Dict("int/d")
sent = 0
while (line := member.read()) != "done":
    linger(0.004)
    os.kill(member.pid, signal.SIGINT)
    sent += 1
    d["outside"] = sent  # another process can write at once, whatever was interrupted
member.wait()
"""


# A signal that the system delivers to another thread than the main one makes that thread spin for ever if it enters a function with a tracer set:
# CPython 3.11 looks again and again whether the signal was handled there, which only the main thread does.
CONTENDED = pytest.mark.parametrize("contended", [False, pytest.param(True, marks=pytest.mark.untraceable)])


def scenario(run_script: RunScript, level: str, interrupts: int, contended: bool) -> None:
    finished = run_script(SCRIPT, level, interrupts, contended, timeout=55)
    assert not finished.stderr
    d, q = Dict[str, int]("int/d"), Queue[int]("int/q")
    assert d["outside"] == interrupts and d["after"] == -interrupts
    assert d["left"] == d["right"] == len(Log[int]("int/log"))
    with transaction(d):
        d["outside"] += 1
    assert q.empty()


@CONTENDED
def test_interrupted_anywhere(run_script: RunScript, verified: Verify, contended: bool) -> None:
    scenario(run_script, "off", 150, contended)
    verified("int")


@pytest.mark.slow
@CONTENDED
@pytest.mark.parametrize("level", ["full", "normal", "off"])
def test_interrupted_hundreds_of_times(run_script: RunScript, verified: Verify, level: str, contended: bool) -> None:
    scenario(run_script, level, 1000, contended)
    verified("int")
