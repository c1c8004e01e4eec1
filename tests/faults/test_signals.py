"""Anybody stopped for a while by SIGSTOP, and SIGINT at random points: the others go on, waits keep their deadlines, nothing comes twice.

``tests/processes/test_ctrl_c.py`` interrupts the blocking face in its most frequent operations; here are the others, the awaited face, and who waits
for the pool.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lmdb.verify import verify

from tests.conftest import RunScript

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform == "win32", reason="no such signals")]

OFF = {"PARKIT_SYNCHRONOUS": "off"}

BEGIN = """
import asyncio, contextlib, os, queue, random, signal, sys, threading, time
import parkit, parkit_async
from parkit import *
from parkit_async._core.registry import close_all, open_namespace
from tests.processes.crowd import Member, linger


def stop(pid):
    # Returns when it stands still.
    os.kill(pid, signal.SIGSTOP)
    while True:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] in "TZ":
                return


def go_on(pid):
    os.kill(pid, signal.SIGCONT)
"""

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="whether a process is stopped is asked of /proc")


def check(store: Path) -> None:
    """See that no file is damaged."""
    for data in store.glob("*~*/data.mdb"):
        assert verify(str(data)) == []  # type: ignore[no-untyped-call]


# -- SIGSTOP -----------------------------------------------------------------------------------------------------------------------------


@LINUX
def test_a_stopped_writer_holds_up_those_who_write_and_nobody_else(run_script: RunScript) -> None:
    run_script(
        BEGIN
        + """
def writer(report):
    d = Dict("stop/d")
    report("there")
    while not d.get("go"):
        pass
    with transaction(d):
        del d["go"]
        d["a"] = 1
        report("inside")
        time.sleep(0.05)
        d["b"] = 1


def another(report):
    Dict("stop/d")["c"] = 1
    report("written")


Dict("stop/d")
Queue("stop/empty")
close_all()
member = Member(writer)
assert member.read() == "there"
d, q = Dict("stop/d"), Queue("stop/empty")
with contextlib.suppress(queue.Empty):
    q.get(timeout=0.001)  # who has waited once looks before it asks for the turn
d["go"] = True
assert member.read() == "inside"
stop(member.pid)
waiting = Member(another)
assert dict(d.items()) == {"go": True}

begun = time.monotonic()
try:
    q.get(timeout=0.2)
except queue.Empty:
    pass
assert 0.2 <= time.monotonic() - begun < 2, "a wait for something that is not there keeps its deadline"


async def main():
    d, q = await parkit_async.Dict("stop/d"), await parkit_async.Queue("stop/empty")
    write = asyncio.ensure_future(d.set("d", 1))
    beats, worst, last = 0, 0.0, time.monotonic()
    while beats < 20:
        await asyncio.sleep(0.01)
        now = time.monotonic()
        beats, worst, last = beats + 1, max(worst, now - last), now
        assert await d.len() == 1
    assert worst < 1, f"the loop stood still for {worst} seconds"
    assert not write.done()
    try:
        async with asyncio.timeout(0.1):
            await d.set("cancelled", 1)
    except TimeoutError:
        pass
    else:
        raise AssertionError("it did not wait for its turn")
    go_on(member.pid)
    await write
    assert await d.contains("cancelled") is False


asyncio.run(main())
member.wait()
waiting.wait()
assert dict(d.items()) == {"a": 1, "b": 1, "c": 1, "d": 1}
""",
        env=OFF,
    )


@LINUX
def test_a_stopped_waiter_keeps_nothing_from_others_and_its_own_deadline(run_script: RunScript) -> None:
    run_script(
        BEGIN
        + """
def waiter(report, timeout):
    q = Queue("stop/q")
    begun = time.monotonic()
    report("waits")
    try:
        report(("got", q.get(timeout=timeout)))
    except queue.Empty:
        report(("empty", time.monotonic() - begun))


Queue("stop/q")
close_all()
stopped, late = Member(waiter, None), Member(waiter, 0.3)
for member in (stopped, late):
    assert member.read() == "waits"
q = Queue("stop/q")
namespace = open_namespace("stop")
while sum(namespace.table._occupancy) < 2:
    pass
stop(stopped.pid)
stop(late.pid)
begun = time.monotonic()
q.put(1)
other = Member(waiter, 10)
assert other.read() == "waits"
assert other.read() == ("got", 1), "an item does not wait for one who is stopped"
while time.monotonic() < begun + 0.4:
    Member.listen(0.05)
go_on(late.pid)
what, after = late.read()
assert what == "empty" and after < 5, "its time went on while it was stopped"
go_on(stopped.pid)
q.put(2)
assert stopped.read() == ("got", 2)
for member in (stopped, late, other):
    member.wait()
assert q.empty()
""",
        env=OFF,
    )


@LINUX
def test_nothing_is_lost_or_doubled_when_processes_are_stopped_at_random(run_script: RunScript, store: Path, seed: int, seconds: float) -> None:
    run_script(
        BEGIN
        + """
seed, seconds = int(sys.argv[1]), float(sys.argv[2])
random.seed(seed)


def producer(report, me):
    q, d, number = Queue("stop/q", maxsize=20), Dict("stop/d"), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        q.put((me, number))
        with transaction(d):
            d["put"] += 1
        number += 1
    report(number)


def consumer(report):
    q, d, got = Queue("stop/q"), Dict("stop/d"), []
    while (item := q.get()) is not None:
        got.append(item)
        with transaction(d):
            d["got"] += 1
    report(len(got))
    report(got)


def awaited_consumer(report):
    async def main():
        q, d, got = await parkit_async.Queue("stop/q"), await parkit_async.Dict("stop/d"), []

        async def task():
            while (item := await q.get()) is not None:
                got.append(item)
                async with parkit_async.transaction(d):
                    await d.set("got", await d["got"] + 1)

        await asyncio.gather(*(task() for _ in range(3)))
        return got

    got = asyncio.run(main())
    report(len(got))
    report(got)


Queue("stop/q", maxsize=20)
Dict("stop/d").update(put=0, got=0)
close_all()
producers = [Member(producer, me) for me in range(3)]
consumers = [Member(consumer), Member(consumer), Member(awaited_consumer)]
everybody = [*producers, *consumers]
until = time.monotonic() + seconds
while time.monotonic() < until:
    victims = random.sample(everybody, random.randint(1, 3))
    for member in victims:
        os.kill(member.pid, signal.SIGSTOP)
    linger(0.03)
    for member in victims:
        go_on(member.pid)
    linger(0.01)
made = [(me, number) for me, member in enumerate(producers) for number in range(member.wait()[-1])]
q = Queue("stop/q")
for _ in range(2 + 3):
    q.put(None)
taken = [item for member in consumers for item in member.wait()[-1]]
assert sorted(taken) == sorted(made), f"{len(taken)} of {len(made)} were taken, {len(taken) - len(set(taken))} of them twice"
assert dict(Dict("stop/d").items()) == {"put": len(made), "got": len(made)}
assert len(made) > 20
print(len(made))
""",
        seed,
        seconds,
        env=OFF,
        timeout=seconds + 40,
    )
    check(store)


POOL = (
    BEGIN
    + """
def slow(release):
    release.get(timeout=60)
    return os.getpid()


def quick(number):
    ran = Dict("stop/ran")
    ran[number] = ran.get(number, 0) + 1
    return number


def main():
    set_pool_size(2)
    release, ran = Queue("stop/release"), Dict("stop/ran")
    first = Process("stop/first", target=quick, args=(0,))
    first.start()
    assert first.get_result(timeout=30) == 0
    while len(parkit.pool_status()["workers"]) < 2:
        first.join(0.05)
    supervisor, workers = parkit.pool_status()["pid"], [worker["pid"] for worker in parkit.pool_status()["workers"]]

    # An idle worker stands still: what rang it is passed on to the other.
    stop(workers[0])
    processes = [Process(target=quick, args=(number,)) for number in range(1, 11)]
    for process in processes:
        process.start()
    assert [process.get_result(timeout=30) for process in processes] == list(range(1, 11))
    go_on(workers[0])

    # One that runs something: whoever waits keeps its deadline, and gets the result later.
    process = Process("stop/slow", target=slow, args=(release,))
    process.start()
    while process.status != "running":
        process.join(0.05)
    worker = process.pid
    stop(worker)
    release.put(1)
    assert process.join(timeout=0.3) is False and process.status == "running"
    go_on(worker)
    assert process.get_result(timeout=30) == worker

    # The supervisor: what is submitted runs; a death is noticed later.
    stop(supervisor)
    process = Process("stop/late", target=quick, args=(100,))
    process.start()
    assert process.get_result(timeout=30) == 100
    process = Process("stop/dies", target=slow, args=(release,))
    process.start()
    while process.status != "running":
        process.join(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.join(timeout=0.3) is False
    go_on(supervisor)
    assert process.join(timeout=30) is not False and process.status == "crashed" and process.exitcode == -signal.SIGKILL

    # Who waits for a result.
    def client(report):
        process = Process("stop/client", target=slow, args=(Queue("stop/release"),))
        process.start()
        report("started")
        report(process.get_result(timeout=30) > 0)

    close_all()
    member = Member(client)
    assert member.read() == "started"
    stop(member.pid)
    Queue("stop/release").put(1)
    assert Process("stop/client").join(timeout=30) is not False
    go_on(member.pid)
    assert member.read() is True
    member.wait()
    assert dict(Dict("stop/ran").items()) == {number: 1 for number in [*range(11), 100]}
    assert parkit.pool_status()["pid"] == supervisor


if __name__ == "__main__":
    try:
        main()
    finally:
        killall(30)
"""
)


@LINUX
@pytest.mark.slow
def test_any_party_of_the_pool_is_stopped_for_a_while(run_script: RunScript) -> None:
    run_script(POOL, env=OFF, timeout=55)


# -- SIGINT ------------------------------------------------------------------------------------------------------------------------------

INTERRUPTED = (
    BEGIN
    + """
from parkit_async._core.ownership import contexts

seconds = float(sys.argv[1])
random.seed(int(sys.argv[2]))
awaited = sys.argv[3] == "awaited"


class Undo(Exception):
    pass


class Blocking:
    # Each writes the same number in two places, or leaves both as they were.

    def __init__(self):
        self.d, self.e, self.log, self.q = Dict("int/d"), Dict("int/e"), Log("int/log"), Queue("int/q")
        self.stack, self.o = LifoQueue("int/stack"), Object("int/o")

    def both(self, number):
        with transaction(self.d):
            self.d["x"] = number
            self.e["x"] = number

    def savepoint(self, number):
        with transaction(self.d):
            self.d["x"] = number
            with contextlib.suppress(Undo), transaction(self.d, isolated=True):
                self.e["x"] = -1
                raise Undo
            self.e["x"] = number

    def views(self, number):
        with transaction(self.d, zero_copy=True):
            self.d["x"] = self.e["x"] = number
            bytes(self.d["raw"])

    def update(self, number):
        self.d.update({key: number for key in range(20)})
        self.d.items()
        list(self.d.items())

    def clear(self, number):
        self.e.update({key: number for key in range(1500)})
        with transaction(self.e):
            x = self.e["x"]
            self.e.clear()
            self.e["x"] = x

    def follow(self, number):
        self.log.extend([number, number])
        self.log.wait(10**9, timeout=0.002)
        if len(self.log) > 50:
            self.log.clear()

    def queues(self, number):
        self.q.put_many([number, number])
        self.q.get_many(2)
        with contextlib.suppress(queue.Empty):
            self.q.get(timeout=0.002)
        self.stack.put(number)
        self.stack.get()

    def objects(self, number):
        made = Dict(f"int/made{number % 3}")
        made["x"] = number
        self.o.number = number
        with contextlib.suppress(ObjectNotFoundError):
            made.drop()

    def look(self, number):
        with snapshot(self.d):
            assert self.d["x"] == self.e["x"], (self.d["x"], self.e["x"])

    def run(self, number):
        getattr(self, random.choice(STEPS))(number)


STEPS = ["both", "savepoint", "views", "update", "clear", "follow", "queues", "objects", "look"]


async def run_awaited():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # not before: asyncio itself leaves a loop half made
    d, e = await parkit_async.Dict("int/d"), await parkit_async.Dict("int/e")
    log, q = await parkit_async.Log("int/log"), await parkit_async.Queue("int/q")
    number = 0

    async def both():
        async with parkit_async.transaction(d):
            await d.set("x", number)
            await e.set("x", number)

    async def waiting():
        with contextlib.suppress(parkit_async.QueueEmpty):
            await q.get(timeout=0.002)

    async def together():
        await asyncio.gather(*(d.set(key, number) for key in range(10)), log.append(number), q.put(number))
        await log.clear()

    async def look():
        async with parkit_async.snapshot(d):
            assert await d["x"] == await e["x"]

    while True:
        number += 1
        await random.choice([both, waiting, together, look])()


def victim(report):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    steps = Blocking()
    namespace = open_namespace("int")
    until = time.monotonic() + seconds
    caught = number = 0
    while time.monotonic() < until:
        report("ready")
        try:
            if awaited:
                asyncio.run(run_awaited())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            while True:
                number += 1
                steps.run(number)
        except KeyboardInterrupt:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            caught += 1
        assert namespace.turns.holder is None and len(namespace.turns) == 0, "the turn is held"
        assert not any(namespace.table._occupancy), "an interrupted wait is still registered"
        assert not contexts, "a context is open"
        steps.look(0)
        steps.both(-caught)
        steps.look(0)
        steps.q.clear()
        steps.stack.clear()
    report("done")
    import gc
    gc.collect()
    assert namespace.pinned() == []
    assert caught > 5


d, e = Dict("int/d"), Dict("int/e")
d["raw"] = b"x" * 10_000
with transaction(d):
    d["x"] = e["x"] = 0
Log("int/log"), Queue("int/q"), LifoQueue("int/stack"), Object("int/o")
close_all()
member = Member(victim)
d, sent = Dict("int/outside"), 0


def answer():
    # CPython swallows an interrupt that comes in a finalizer, and is late with one that comes just before a call that blocks.
    while len(member.reports) == answered and not member._ended:
        Member.listen(2)
        if len(member.reports) == answered and not member._ended:
            os.kill(member.pid, signal.SIGINT)
    return member.read()


answered = 0
while (line := answer()) != "done":
    answered += 1
    linger(0.006 if not awaited else 0.03)
    os.kill(member.pid, signal.SIGINT)
    sent += 1
    d["sent"] = sent  # another process can write at once
member.wait()
print(sent)
"""
)


@pytest.mark.parametrize(("face", "level"), [("blocking", "off"), ("awaited", "full")])
def test_interrupted_in_the_middle_of_anything(run_script: RunScript, store: Path, seed: int, seconds: float, face: str, level: str) -> None:
    finished = run_script(INTERRUPTED, min(seconds, 30), seed, face, env={"PARKIT_SYNCHRONOUS": level}, timeout=min(seconds, 30) + 25)
    assert int(finished.stdout) > 5
    check(store)
