"""Mixed load from a dozen processes for a long time, one of them killed every second: what must level off, and what must stay true.

::

    conductor ── starts, samples, kills ──▶ 12 members       each does one thing over and over; two do everything, and are never killed
        │                                   └▶ the pool      a supervisor and two workers, killed as well
        └── looks at a snapshot: tokens are neither made nor lost, what was put is what was taken and what is there

A member writes a line of figures each second: how many steps it has made, and how long they took. What it was doing when it was killed is done or not
done, and the sums show which if it is neither.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import selectors
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

import parkit
import parkit_async
from parkit import Dict, LifoQueue, Log, Object, Process, Queue, snapshot, transaction
from parkit_async._core.registry import open_namespace

ACCOUNTS: Final = 50
TOKENS: Final = 100
"""In each account, at first."""
KEPT: Final = 500
"""Items in the queue, and records in the log, from which on more are taken than put."""
IMMORTAL: Final = ("everything", "awaited everything")
ROLES: Final = (
    *IMMORTAL,
    "mover",
    "mover",
    "awaited mover",
    "producer",
    "awaited producer",
    "consumer",
    "awaited consumer",
    "reader",
    "builder",
    "client",
)

Step = Callable[[], None]
AwaitedStep = Callable[[], Awaitable[None]]


# -- the blocking members ----------------------------------------------------------------------------------------------------------------


class Blocking:
    """The steps of the blocking face."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.a, self.b = Dict[int, int]("soak/a"), Dict[int, int]("soak/b")
        self.books = Dict[str, int]("soak/books")
        self.queue, self.pings, self.stack = Queue[int]("soak/queue"), Queue[int]("soak/pings"), LifoQueue[int]("soak/stack")
        self.log, self.blobs, self.state = Log[Any]("soak/log"), Dict[int, bytes]("soak/blobs"), Object("soak/state")

    def mover(self) -> None:
        giver, taker = self.rng.sample([self.a, self.b], 2)
        with transaction(giver):
            account = self.rng.randrange(ACCOUNTS)
            amount = min(giver[account], self.rng.randint(1, 3))
            giver[account] -= amount
            taker[self.rng.randrange(ACCOUNTS)] += amount

    def producer(self) -> None:
        if self.queue.qsize() > KEPT:
            return self.consumer()
        number = self.rng.randrange(1000)
        with transaction(self.queue):
            self.queue.put(number)
            self.books.update(put=self.books["put"] + 1, put_sum=self.books["put_sum"] + number)
        if number % 4 == 0:  # so that there is something to wait for
            self.pings.put(number)
        return None

    def consumer(self) -> None:
        try:
            self.pings.get(timeout=0.2)
        except queue.Empty:
            pass
        with transaction(self.queue):
            try:
                number = self.queue.get_nowait()
            except queue.Empty:
                return
            self.books.update(taken=self.books["taken"] + 1, taken_sum=self.books["taken_sum"] + number)

    def reader(self) -> None:
        with snapshot(self.a):
            look(self)
            if self.rng.random() < 0.1:
                time.sleep(0.2)  # holds what others would overwrite
        sum(1 for _ in self.blobs.items())

    def builder(self) -> None:
        chance = self.rng.random()
        if chance < 0.5:
            self.blobs[self.rng.randrange(20)] = bytes(self.rng.randrange(1, 60_000))
        elif chance < 0.7:
            self.log.append(chance)
            if len(self.log) > KEPT:
                self.log.clear()
        elif chance < 0.9:
            self.stack.put(1)
            self.stack.get(timeout=5)
            self.state.count = self.rng.random()
        else:
            # Of its own, and big enough to be reclaimed slice by slice.
            big = Dict[int, bytes](f"soak/big{self.rng.randrange(3)}")
            try:
                big.update({number: bytes(100) for number in range(1200)})
                self.rng.choice([big.clear, big.drop])()
            except parkit.ObjectNotFoundError:  # another one was faster
                pass

    def client(self) -> None:
        ran = Dict[str, int]("soak/ran")
        process = Process(target=work, args=(ran, name := f"{os.getpid()} {time.monotonic_ns()}"))
        process.start()
        process.join(timeout=20)
        status = process.status
        runs = ran.pop(name, 0)
        assert runs <= 1, f"a process ran {runs} times"
        assert status != "finished" or (runs == 1 and process.result == name), f"{status}, and ran {runs} times"
        process.drop()

    def everything(self) -> None:
        self.rng.choice([self.mover, self.producer, self.consumer, self.reader, self.builder])()


def work(ran: Dict[str, int], name: str) -> str:
    """Run in the pool."""
    ran[name] = ran.get(name, 0) + 1
    print(name)
    return name


def look(steps: Blocking) -> None:
    """See that what is seen now is consistent."""
    tokens = sum(steps.a.values()) + sum(steps.b.values())
    assert tokens == 2 * ACCOUNTS * TOKENS, f"{tokens} tokens"
    books = dict(steps.books.items())
    assert books["put"] - books["taken"] == steps.queue.qsize(), f"{books}, and {steps.queue.qsize()} are there"


# -- the awaited ones --------------------------------------------------------------------------------------------------------------------


class Awaited:
    """The steps of the awaited face."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    async def open(self) -> None:
        self.a, self.b = await parkit_async.Dict[int, int]("soak/a"), await parkit_async.Dict[int, int]("soak/b")
        self.books = await parkit_async.Dict[str, int]("soak/books")
        self.queue, self.pings = await parkit_async.Queue[int]("soak/queue"), await parkit_async.Queue[int]("soak/pings")
        self.log, self.blobs = await parkit_async.Log[Any]("soak/log"), await parkit_async.Dict[int, bytes]("soak/blobs")

    async def mover(self) -> None:
        giver, taker = self.rng.sample([self.a, self.b], 2)
        async with parkit_async.transaction(giver):
            account, other = self.rng.randrange(ACCOUNTS), self.rng.randrange(ACCOUNTS)
            amount = min(await giver[account], self.rng.randint(1, 3))
            await giver.set(account, await giver[account] - amount)
            await taker.set(other, await taker[other] + amount)

    async def producer(self) -> None:
        if await self.queue.qsize() > KEPT:
            return await self.consumer()
        number = self.rng.randrange(1000)
        async with parkit_async.transaction(self.queue):
            await self.queue.put(number)
            await self.books.update(put=await self.books["put"] + 1, put_sum=await self.books["put_sum"] + number)
        if number % 4 == 0:
            await self.pings.put(number)
        return None

    async def consumer(self) -> None:
        try:
            await self.pings.get(timeout=0.2)
        except parkit_async.QueueEmpty:
            pass
        async with parkit_async.transaction(self.queue):
            try:
                number = await self.queue.get_nowait()
            except parkit_async.QueueEmpty:
                return
            await self.books.update(taken=await self.books["taken"] + 1, taken_sum=await self.books["taken_sum"] + number)

    async def builder(self) -> None:
        await asyncio.gather(
            self.blobs.set(self.rng.randrange(20), bytes(self.rng.randrange(1, 60_000))),
            self.log.append(self.rng.random()),
        )
        if await self.log.len() > KEPT:
            await self.log.clear()
        try:
            async with asyncio.timeout(0.0005):  # cancelled anywhere
                await self.mover()
        except TimeoutError:
            pass

    async def everything(self) -> None:
        await self.rng.choice([self.mover, self.producer, self.consumer, self.builder])()


# -- a member ----------------------------------------------------------------------------------------------------------------------------


class Figures:
    """How long the steps took; a line each second."""

    def __init__(self) -> None:
        self.stopped = False
        self._times: list[float] = []
        self._next = time.monotonic() + 1
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        self.stopped = True

    def note(self, begun: float) -> None:
        now = time.monotonic()
        self._times.append(now - begun)
        if now >= self._next:
            self._next = now + 1
            times = sorted(self._times)
            self._times = []
            line = {"steps": len(times), "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}
            os.write(1, f"{json.dumps(line)}\n".encode())


TASKS: Final = 5


def member(role: str, seed: str) -> None:
    """Do what ``role`` does until SIGTERM comes."""
    figures = Figures()
    kind, _, name = role.rpartition(" ")
    if not kind:
        step: Step = getattr(Blocking(random.Random(seed)), name)
        while not figures.stopped:
            begun = time.monotonic()
            step()
            figures.note(begun)
        return

    async def awaited() -> None:
        steps = Awaited(random.Random(seed))
        await steps.open()
        awaited_step: AwaitedStep = getattr(steps, name)

        async def task() -> None:
            while not figures.stopped:
                begun = time.monotonic()
                await awaited_step()
                figures.note(begun)

        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(task())

    asyncio.run(awaited())


# -- the conductor -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Sample:
    """What is to level off, at one moment.

    Attributes:
        at: Seconds since the beginning.
        resident: MiB of each immortal member.
        descriptors: Of each immortal member.
        readers: Slots of LMDB's reader table that are taken, by the dead as well.
        waiters: Slots of the doorbells' table that are taken.
        sockets: Files of bells.
        file: MiB of the data file.
        live: MiB of it that the latest state uses.
        steps: Of all members, a second.
        p99: Milliseconds; the 99th percentile of the steps of those members that only wait for their turn.
        probe: Milliseconds that the machine takes for always the same, a little computing and a synchronous write: what others make it do.
    """

    at: float
    resident: tuple[float, ...]
    descriptors: tuple[int, ...]
    readers: int
    waiters: int
    sockets: int
    file: float
    live: float
    steps: float
    p99: float
    probe: float


def probe(path: Path) -> float:
    """Return the milliseconds that the machine takes for always the same (the median of a few)."""
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(5):
            begun = time.perf_counter()
            sum(range(50_000))
            os.pwrite(file.fileno(), bytes(4096), 0)
            os.fdatasync(file.fileno())
            times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


class Member:
    """One of the processes; for the conductor."""

    def __init__(self, role: str, seed: int, errors: Path) -> None:
        self.role = role
        self.figures: list[dict[str, float]] = []
        self._errors = errors
        self._rest = b""
        with errors.open("ab") as stderr:
            command = [sys.executable, "-X", "faulthandler", "-m", "tests.faults.soak", role, str(seed)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=Path(__file__).parents[2])

    def read(self) -> None:
        """Take in what it has written."""
        assert self.process.stdout is not None
        *lines, self._rest = (self._rest + os.read(self.process.stdout.fileno(), 65536)).split(b"\n")
        self.figures += map(json.loads, lines)

    def end(self, number: int, expect: int) -> None:
        """Send a signal, and see that it ends by that and nothing else."""
        self.process.send_signal(number)
        found = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert found == expect, f"{self.role} ended with {found}: {self._errors.read_text()[-3000:]}"


@dataclass
class Conductor:
    """Starts the members, kills one each second, and takes samples.

    Args:
        folder: Where members may write what they have to say.
        rng: Whom to kill.
        seconds: How long.
    """

    folder: Path
    rng: random.Random
    seconds: float
    samples: list[Sample] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)

    def run(self) -> list[Sample]:
        """Return the samples; raise AssertionError if something is not as it must be."""
        begin()
        self._members: list[Member] = []
        self._selector = selectors.DefaultSelector()
        try:
            for role in ROLES:
                self._start(role)
            self._conduct()
            for member in self._members:
                member.end(signal.SIGTERM, 0)
        finally:
            for member in self._members:
                if member.process.poll() is None:
                    member.process.kill()
                    member.process.wait()
            self._selector.close()
            parkit.killall(30)
        finish()
        return self.samples

    def _start(self, role: str) -> None:
        member = Member(role, self.rng.getrandbits(32), self.folder / f"{role}.stderr")
        self._members.append(member)
        assert member.process.stdout is not None
        self._selector.register(member.process.stdout, selectors.EVENT_READ, member)

    def _conduct(self) -> None:
        begun = time.monotonic()
        interval = max(1.0, self.seconds / 40)
        kill, sample, last = begun + 1, begun + interval, begun
        while (now := time.monotonic()) < begun + self.seconds:
            for key, _ in self._selector.select(max(0.0, min(kill, sample) - now)):
                key.data.read()
            if time.monotonic() >= kill:
                kill += 1
                self._kill()
            if (now := time.monotonic()) >= sample:
                sample += interval
                self.samples.append(self._sample(now - begun, now - last))
                last = now

    def _kill(self) -> None:
        if self.rng.random() < 0.1 and (victims := _pool()):
            role, pid = self.rng.choice(victims)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return
        else:
            member = self.rng.choice([member for member in self._members if member.role not in IMMORTAL])
            role = member.role
            self._selector.unregister(member.process.stdout)  # type: ignore[arg-type]
            member.end(signal.SIGKILL, -signal.SIGKILL)
            self._members.remove(member)
            self._start(role)
        self.killed[role] = self.killed.get(role, 0) + 1

    def _sample(self, at: float, interval: float) -> Sample:
        immortals = [psutil.Process(member.process.pid) for member in self._members if member.role in IMMORTAL]
        namespace = open_namespace("soak")
        usage, page = namespace.engine.usage(), namespace.engine.page_size
        figures = [(member.role, line) for member in self._members for line in member.figures]
        for member in self._members:
            assert member.process.poll() is None, f"{member.role} has ended by itself: {(self.folder / f'{member.role}.stderr').read_text()[-3000:]}"
            member.figures = []
        steps = Blocking(random.Random(0))
        with snapshot(steps.a):
            look(steps)
        mib = 1 << 20
        return Sample(
            at,
            tuple(round(process.memory_info().rss / mib, 1) for process in immortals),
            tuple(process.num_fds() for process in immortals),
            len(namespace.engine.readers()),
            sum(namespace.table._occupancy),
            len(os.listdir(namespace.sockets.path)),
            usage.file * page / mib,
            usage.live * page / mib,
            sum(line["steps"] for _, line in figures) / interval,
            1000 * statistics.median([line["p99"] for role, line in figures if role.endswith("mover")] or [0.0]),
            probe(self.folder / "probe"),
        )


def _pool() -> list[tuple[str, int]]:
    status = parkit.pool_status()
    found = [("a worker", worker["pid"]) for worker in status["workers"]]
    return [*found, ("the supervisor", status["pid"])] if status["running"] else found


def begin() -> None:
    """Make what the members share."""
    parkit.set_pool_size(2)
    parkit.set_namespace_size("soak", 256 << 20)
    steps = Blocking(random.Random(0))
    for accounts in (steps.a, steps.b):
        accounts.update(dict.fromkeys(range(ACCOUNTS), TOKENS))
    steps.books.update(put=0, put_sum=0, taken=0, taken_sum=0)
    Dict("soak/ran")


def finish() -> None:
    """See, when everybody has ended, that the sums are right."""
    steps = Blocking(random.Random(0))
    look(steps)
    books = dict(steps.books.items())
    left = steps.queue.get_many(steps.queue.qsize()) if steps.queue.qsize() else []
    assert books["put_sum"] - books["taken_sum"] == sum(left), f"{books}, and {sum(left)} are left"
    engine = open_namespace("soak").engine
    engine.check_readers()
    assert {reader.pid for reader in engine.readers()} <= {os.getpid()}, "somebody dead still has a reader's slot"


def halves(samples: list[Sample]) -> Iterator[tuple[str, float, float, float]]:
    """Compare the second half of the samples with the first, after a warm-up of a tenth: what, then, now, and the most that it may be.

    Medians, as one sample more or less says nothing on a machine that has other things to do. Memory: a tenth and 4 MiB more. Descriptors and slots:
    the most in either half, and as many more as are dead or in the middle of something at a time. The file: a quarter and 2 MiB more, for a snapshot
    that was held at the wrong moment. Latency: twice, and 20 ms more; steps: half. These two times as much as the machine itself has become slower.
    """
    kept = samples[len(samples) // 10 :]
    first, second = kept[: len(kept) // 2], kept[len(kept) // 2 :]

    def median(of: Callable[[Sample], float]) -> tuple[float, float]:
        return statistics.median(map(of, first)), statistics.median(map(of, second))

    def most(of: Callable[[Sample], float]) -> tuple[float, float]:
        return max(map(of, first)), max(map(of, second))

    for number, role in enumerate(IMMORTAL):
        then, now = median(lambda sample, number=number: sample.resident[number])  # type: ignore[misc]
        yield f"MiB of {role}", then, now, 1.1 * then + 4
        then, now = most(lambda sample, number=number: sample.descriptors[number])  # type: ignore[misc]
        yield f"descriptors of {role}", then, now, then + 3
    for what, of, more in (
        ("slots of readers", lambda sample: sample.readers, 12),
        ("slots of waiters", lambda sample: sample.waiters, 24),
        ("files of sockets", lambda sample: sample.sockets, 24),
    ):
        then, now = most(of)
        yield what, then, now, then + more
    then, now = most(lambda sample: sample.file)
    yield "MiB of file", then, now, 1.25 * then + 2
    then, now = median(lambda sample: sample.probe)
    slower = max(1.0, now / then)
    then, now = median(lambda sample: sample.p99)
    yield "p99 in ms", then, now, slower * (2 * then + 20)
    then, now = median(lambda sample: -sample.steps)
    yield "steps a second (negative)", then, now, then / (2 * slower)


def table(samples: list[Sample]) -> str:
    """Return the samples as lines of text."""
    columns = {"s": 6, "MiB": 13, "files": 9, "readers": 8, "waiters": 8, "sockets": 8, "file": 7, "live": 7, "steps/s": 8, "p99 ms": 7, "probe": 6}
    head = " ".join(f"{name:>{width}}" for name, width in columns.items())
    lines = [head]
    for sample in samples:
        resident, descriptors = " ".join(f"{value:.1f}" for value in sample.resident), " ".join(map(str, sample.descriptors))
        lines.append(
            f"{sample.at:6.0f} {resident:>13} {descriptors:>9} {sample.readers:8} {sample.waiters:8} {sample.sockets:8} "
            f"{sample.file:7.2f} {sample.live:7.2f} {sample.steps:8.0f} {sample.p99:7.2f} {sample.probe:6.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    member(*sys.argv[1:])
