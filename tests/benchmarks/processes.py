"""Several processes on one namespace: a producer and a consumer, ping-pong, a shared counter, and a wait in which nothing happens."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty
from time import perf_counter
from typing import Any

from parkit import Dict, Queue, transaction
from parkit_async._core.waiting import counters

from . import bare
from .crew import SPAWN, Crew, duties
from .measure import Budget, Result, Settings, absolute, compare, gauge, interleave, quantile

__all__ = ["counter", "idle_wait", "median_of_first", "ping_member", "ping_pong", "pong_member", "transfer"]

PORTION = 100


def transfer(settings: Settings) -> Iterator[Result]:
    """Move items from one process to another.

    The bare consumer spins: it looks with a read transaction, and gives its core away (``sched_yield``) as long as there is nothing. No hand-over is
    quicker, and it is paid with the whole core.
    """
    count = settings.either(100_000, 10_000)
    many: Any = SPAWN.Queue()
    folder = settings.folder / "bare-transfer"
    with bare.opened(folder), Crew((_transfer_member, True, folder, many), (_transfer_member, False, folder, many)) as crew:
        slices = [partial(_slowest_per_item, crew, way, count) for way in ("parkit", "bare", "portions", "multiprocessing")]
        own, reference, portions, theirs = interleave(settings.either(3, 3), *slices)
    many.close()
    note = "the bare consumer spins on a read transaction and sched_yield"
    yield compare(f"producer and consumer, {count:,} items one by one", Budget("<=", 1.5), own, reference, note)
    yield compare(f"the same by put_many, get_many of {PORTION}, against multiprocessing.Queue", Budget("<", 1), portions, theirs)


def _slowest_per_item(crew: Crew, way: str, count: int) -> float:
    return max(report.seconds for report in crew.work(way, count)) / count


def _transfer_member(connection: Connection, produces: bool, folder: Path, many: Any) -> None:
    jobs: Queue[int] = Queue("transfer/jobs")
    with bare.opened(folder) as environment:

        def put(count: int) -> None:
            for number in range(count):
                jobs.put(number)

        def get(count: int) -> None:
            for number in range(count):
                _expect(jobs.get(), number)

        def put_bare(count: int) -> None:
            for number in range(count):
                bare.enqueue(environment, number)

        def get_bare(count: int) -> None:
            for number in range(count):
                _expect(bare.take(environment, os.sched_yield), number)

        def put_portions(count: int) -> None:
            for first in range(0, count, PORTION):
                jobs.put_many(range(first, first + PORTION))

        def get_portions(count: int) -> None:
            taken = 0
            while taken < count:
                for item in jobs.get_many(PORTION):
                    _expect(item, taken)
                    taken += 1

        def put_theirs(count: int) -> None:
            for number in range(count):
                many.put(number)

        def get_theirs(count: int) -> None:
            for number in range(count):
                _expect(many.get(), number)

        producer = {"parkit": put, "bare": put_bare, "portions": put_portions, "multiprocessing": put_theirs}
        consumer = {"parkit": get, "bare": get_bare, "portions": get_portions, "multiprocessing": get_theirs}
        duties(connection, producer if produces else consumer)


def _expect(item: object, expected: object) -> None:
    if item != expected:
        raise RuntimeError(f"the queue gave {item!r} where {expected!r} was due")


def ping_pong(settings: Settings) -> Iterator[Result]:
    """Send a number through one queue and have it sent back through another, and again when it has come."""
    turns = settings.either(2_000, 500)
    there, back = SPAWN.Queue(), SPAWN.Queue()
    with Crew((ping_member, there, back), (pong_member, there, back)) as crew:
        own, theirs = interleave(settings.either(7, 5), *(partial(median_of_first, crew, way, turns) for way in ("parkit", "multiprocessing")))
    for pipe in (there, back):
        pipe.close()
    yield compare("ping-pong between two processes, p50, against multiprocessing.Queue", Budget("<", 1), own, theirs)


def median_of_first(crew: Crew, way: str, turns: int) -> float:
    """Return the median of the seconds that the first member of a crew took for each turn."""
    return quantile(crew.work(way, turns)[0].result, 0.5)


def ping_member(connection: Connection, there: Any, back: Any) -> None:
    """Be the process that serves, and takes the times."""
    ping: Queue[int] = Queue("pingpong/ping")
    pong: Queue[int] = Queue("pingpong/pong")

    def play(send: Callable[[int], object], receive: Callable[[], int], turns: int) -> list[float]:
        times = []
        for number in range(turns):
            start = perf_counter()
            send(number)
            receive()
            times.append(perf_counter() - start)
        return times

    duties(connection, {"parkit": partial(play, ping.put, pong.get), "multiprocessing": partial(play, there.put, back.get)})


def pong_member(connection: Connection, there: Any, back: Any) -> None:
    """Be the process that returns."""
    ping: Queue[int] = Queue("pingpong/ping")
    pong: Queue[int] = Queue("pingpong/pong")

    def answer(receive: Callable[[], int], send: Callable[[int], object], turns: int) -> None:
        for _ in range(turns):
            send(receive())

    duties(connection, {"parkit": partial(answer, ping.get, pong.put), "multiprocessing": partial(answer, there.get, back.put)})


def counter(settings: Settings) -> Iterator[Result]:
    """Have eight processes increment one number, each in transactions of its own."""
    crowd = 8
    each = settings.either(2_500, 500)
    rounds = settings.either(7, 3)
    counted: Dict[str, int] = Dict("counter/dict")
    counted["count"] = 0
    folder = settings.folder / "bare-counter"
    fairness: list[float] = []
    longest: list[float] = []
    unfairness: list[float] = []

    with bare.opened(folder) as environment, Crew(*[(_counter_member, folder)] * crowd) as crew:
        bare.put(environment, "count", 0)

        def one_round(way: str, shares: list[float], worst: list[float] | None) -> float:
            reports = crew.work(way, each)
            ends = [report.seconds for report in reports]
            shares.append(min(ends) / max(ends))
            if worst is not None:
                worst.append(max(report.result for report in reports) * 1e3)
            return max(ends) / (crowd * each)

        own, reference = interleave(rounds, partial(one_round, "parkit", fairness, longest), partial(one_round, "bare", unfairness, None))
        _expect(counted["count"], (rounds + 1) * crowd * each)
    yield compare(f"{crowd} processes incrementing one counter, per increment", Budget("<=", 4), own, reference)
    share = f"bare: {quantile(unfairness[1:], 0.5):.2f}"
    yield gauge(f"{crowd} processes: finishing time of the first against the last", Budget(">=", 0.8, ""), fairness[1:], share)
    yield gauge(f"{crowd} processes: longest single increment", Budget("<=", 20, "ms"), longest[1:], f"worst of all rounds {max(longest[1:]):.1f} ms")


def _counter_member(connection: Connection, folder: Path) -> None:
    counted: Dict[str, int] = Dict("counter/dict")
    with bare.opened(folder) as environment:

        def own(count: int) -> float:
            longest = 0.0
            for _ in range(count):
                start = perf_counter()
                with transaction(counted):
                    counted["count"] += 1
                longest = max(longest, perf_counter() - start)
            return longest

        def reference(count: int) -> float:
            longest = 0.0
            for _ in range(count):
                start = perf_counter()
                bare.increment(environment, b"count")
                longest = max(longest, perf_counter() - start)
            return longest

        duties(connection, {"parkit": own, "bare": reference})


def idle_wait(settings: Settings) -> Iterator[Result]:
    """Wait for an item that never comes, in a process where nothing else happens."""
    seconds = settings.either(10, 2)
    with Crew((_waiting_member,)) as crew:
        (report,) = crew.work("wait", seconds)
    wakeups, rechecks, switches = report.result
    note = f"{rechecks} by the safety re-check; the kernel switched the thread in {switches} times, the time-out being one"
    yield absolute(f"wake-ups of a blocked get in {seconds} s", Budget("=", 0, ""), wakeups, note)


def _waiting_member(connection: Connection) -> None:
    jobs: Queue[int] = Queue("idle/jobs")

    def wait(seconds: float) -> tuple[int, int, int]:
        wakeups, rechecks = counters.wakeups, counters.rechecks
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        try:
            jobs.get(timeout=seconds)
        except Empty:
            pass
        switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        return counters.wakeups - wakeups, counters.rechecks - rechecks, switches

    duties(connection, {"wait": wait})
