"""Waiting costs nothing, and ends at once: no wake-up without a reason, none missed, across processes."""

from __future__ import annotations

import textwrap

import pytest

from parkit import Dict, Log, Queue
from tests.conftest import RunScript, Script, Spawn

pytestmark = pytest.mark.processes

OFF = {"PARKIT_SYNCHRONOUS": "off"}

IDLE = """
import re, sys, threading
from pathlib import Path
from parkit import Dict, Log, Queue
from parkit_async._core.registry import open_namespace
from parkit_async._core.waiting import counters

q, full, log, d = Queue("idle/q"), Queue("idle/full", maxsize=1), Log("idle/log"), Dict("idle/d")
full.put(1)
waits = {
    "get": lambda: q.get(),
    "put": lambda: full.put(2),
    "join": lambda: full.join(),
    "wait": lambda: log.wait(0),
    "follow": lambda: next(log.follow()),
    "changed": lambda: d.wait_changed(0),
}


def switches(thread):
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\\s+(\\d+)", status, re.MULTILINE)[1])


threads = {name: threading.Thread(target=wait) for name, wait in waits.items()}
for thread in threads.values():
    thread.start()
table = open_namespace("idle").table
while sum(table._occupancy) < len(waits):
    pass
print("asleep")
sys.stdin.readline()
before = {name: switches(thread) for name, thread in threads.items()}
woken = counters.wakeups
print("counted")
sys.stdin.readline()
print(counters.wakeups - woken, sum(switches(thread) - before[name] for name, thread in threads.items()))
for thread in threads.values():
    thread.join()
print("woken", counters.rechecks)
"""


@pytest.mark.slow
def test_idle_waiters_never_wake(spawn: Spawn, run_script: RunScript) -> None:
    script = spawn(IDLE, env=OFF)
    assert script.read_line() == "asleep"
    script.send("count")
    assert script.read_line() == "counted"
    # Meanwhile another process is busy, in this namespace with other objects and in another one, until it has been so for three seconds.
    run_script(
        """
        import time
        from parkit import Dict, Queue
        d, q, other = Dict("idle/busy"), Queue("idle/busy_too"), Dict("another/d")
        until = time.monotonic() + 3
        while time.monotonic() < until:
            d["k"] = other["k"] = 1
            q.put(1)
            q.get()
        """,
        env=OFF,
    )
    script.send("tell")
    woken, switched = map(int, script.read_line().split())
    assert woken == 0
    assert switched == 0
    Queue[int]("idle/q").put(1)
    full = Queue[int]("idle/full")
    full.get()
    full.task_done()
    full.get()
    full.task_done()
    Log[int]("idle/log").append(1)
    Dict[str, int]("idle/d")["k"] = 1
    assert script.read_line() == "woken 0"
    script.finish()


def both(spawn: Spawn, source: str, *arguments: object) -> tuple[Script, Script]:
    text = textwrap.dedent(source)
    return spawn(text, 0, *arguments, env=OFF), spawn(text, 1, *arguments, env=OFF)


HANDOVERS = {
    "get": """
        there, back = Queue("wake/0"), Queue("wake/1")
        def ping(number): there.put(number); assert back.get() == number
        def pong(number): assert there.get() == number; back.put(number)
    """,
    "get_many": """
        there, back = Queue("wake/0"), Queue("wake/1")
        def ping(number): there.put_many([number] * 3); assert back.get_many(1) == [number]
        def pong(number):
            got = there.get_many(3)
            assert got == [number] * 3; back.put(number)
    """,
    "put": """
        there, back = Queue("wake/0", maxsize=1), Queue("wake/1", maxsize=1)
        def ping(number): there.put(number); there.put(number); assert back.get() == number
        def pong(number): assert there.get() == number; assert there.get() == number; back.put(number)
    """,
    "join": """
        there, back = Queue("wake/0"), Queue("wake/1")
        def ping(number): there.put(number); assert there.join()
        def pong(number): assert there.get() == number; there.task_done()
    """,
    "wait": """
        there, back = Log("wake/0"), Log("wake/1")
        def ping(number): there.append(number); assert back.wait(number)
        def pong(number): assert there.wait(number); back.append(number)
    """,
    "follow": """
        there, back = Log("wake/0"), Log("wake/1")
        coming, returning = there.follow(), back.follow()
        def ping(number): there.append(number); assert next(returning) == number
        def pong(number): assert next(coming) == number; back.append(number)
    """,
    "changed": """
        there, back = Dict("wake/0"), Dict("wake/1")
        def ping(number): there["k"] = number; assert back.wait_changed(number)
        def pong(number): assert there.wait_changed(number); assert there["k"] == number; back["k"] = number
    """,
}


@pytest.mark.parametrize("wait", HANDOVERS)
def test_no_wake_is_lost_between_processes(spawn: Spawn, wait: str) -> None:
    # A lost one would be made good by the slow re-check, after half a minute: the deadline of a line, and the counter, would tell.
    source = (
        "import sys\nfrom parkit import Dict, Log, Queue\nfrom parkit_async._core.waiting import counters\n"
        + textwrap.dedent(HANDOVERS[wait])
        + textwrap.dedent("""
            for number in range(1500):
                (pong if sys.argv[1] == "1" else ping)(number)
            print("done", counters.rechecks)
        """)
    )
    for script in both(spawn, source):
        assert script.read_line() == "done 0"
        script.finish()


def test_no_wake_is_lost_between_threads_and_processes(run_script: RunScript) -> None:
    # Each token is put back by whoever takes it: as long as one is left, nobody sleeps for ever.
    finished = run_script(
        """
        import threading
        from parkit import Queue
        from parkit_async._core.waiting import counters
        from tests.processes.crowd import Member

        def pass_on(report):
            tokens, done = Queue("wake/tokens"), Queue("wake/done")
            def work():
                for _ in range(300):
                    tokens.put(tokens.get())
                done.put(1)
            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            report(counters.rechecks)

        members = [Member(pass_on) for _ in range(3)]
        tokens, done = Queue("wake/tokens"), Queue("wake/done")
        tokens.put_many([1, 2])
        for _ in range(9):
            done.get()
        assert [member.wait() for member in members] == [[0]] * 3
        assert tokens.qsize() == 2
        """,
        env=OFF,
    )
    assert not finished.stderr


def test_one_item_wakes_all_and_goes_to_one(run_script: RunScript) -> None:
    finished = run_script(
        """
        from parkit import Queue
        from parkit_async._core.registry import open_namespace
        from tests.processes.crowd import Member

        def take(report):
            q = Queue("wake/q")
            report(q.get())

        members = [Member(take) for _ in range(5)]
        q = Queue("wake/q")
        table = open_namespace("wake").table
        for number in range(5):
            while sum(table._occupancy) < 5 - number:
                pass
            q.put(number)
        assert sorted(member.wait()[0] for member in members) == list(range(5))
        assert q.empty()
        """,
        env=OFF,
    )
    assert not finished.stderr


@pytest.mark.parametrize("change", ["q.shutdown()", "q.drop()"])
def test_shutdown_and_drop_wake_all_waiters(run_script: RunScript, change: str) -> None:
    finished = run_script(
        f"""
        from parkit import ObjectNotFoundError, Queue, ShutDown
        from parkit_async._core.registry import open_namespace
        from tests.processes.crowd import Member

        def wait(report, call):
            q = Queue("wake/q", maxsize=1)
            try:
                getattr(q, call)(*([2] if call == "put" else []))
            except (ObjectNotFoundError, ShutDown) as error:
                report(type(error).__name__)

        q = Queue("wake/q", maxsize=1)
        table = open_namespace("wake").table
        members = [Member(wait, "get") for _ in range(3)]
        while sum(table._occupancy) < 3:
            pass
        {change}
        names = {{name for member in members for name in member.wait()}}
        assert names == {{"ShutDown" if "{change}" == "q.shutdown()" else "ObjectNotFoundError"}}, names
        """,
        env=OFF,
    )
    assert not finished.stderr
