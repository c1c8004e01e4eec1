"""The process pool: what a run costs beside ``concurrent.futures.ProcessPoolExecutor``, how soon a death is seen, and what the service costs idle."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter

from parkit import Dict, Process, Queue, killall, pool_status, set_namespace_synchronous, set_pool_size
from parkit import statistics as statistics_of
from parkit_async._core import codecs, process_ops
from parkit_async._core.registry import open_namespace
from parkit_async._core.transactions import Writing

from . import bare
from .measure import Budget, Result, Settings, absolute, compare, gauge, interleave, quantile

__all__ = ["deaths", "idle_service", "resizing", "round_trips", "table"]

WORKERS = 2
AT_ONCE = 1000


@contextmanager
def _pool(size: int = WORKERS) -> Iterator[None]:
    """Have a warm pool, and none afterwards."""
    set_pool_size(size)
    try:
        warm = [Process(target=abs, args=(1,)) for _ in range(4 * size)]
        for process in warm:
            process.start()
        for process in warm:
            process.get_result(60)
        _until(lambda: _idle_workers() == size)
        yield
    finally:
        killall(60)


def _idle_workers() -> int:
    workers: list[dict[str, object]] = pool_status()["workers"]
    return sum(worker["state"] == "idle" for worker in workers) if len(workers) == sum(worker["state"] == "idle" for worker in workers) else -1


def _until(condition: Callable[[], bool], patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the pool did not get there in time")
        time.sleep(0.001)


def _run_one(namespace: str = "default") -> None:
    path = None if namespace == "default" else f"{namespace}/process-{os.urandom(8).hex()}"
    process = Process(path, target=abs, args=(-1,))
    process.start()
    process.get_result(60)


def _timed(call: Callable[[], object], count: int, pause: float = 0.0) -> float:
    """Return the median of the seconds that a call takes."""
    taken = []
    for _ in range(count):
        if pause:
            time.sleep(pause)
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return statistics.median(taken)


def round_trips(settings: Settings) -> Iterator[Result]:
    """Create, start and get the result of ``Process(target=abs)``, beside ProcessPoolExecutor's submit and result."""
    rounds, count = settings.either(9, 3), settings.either(300, 60)
    with ProcessPoolExecutor(WORKERS) as executor:
        list(executor.map(abs, range(50)))

        def theirs() -> None:
            executor.submit(abs, -1).result()

        def at_once() -> float:
            start = perf_counter()
            processes: list[Process[int]] = [Process(target=abs, args=(-1,)) for _ in range(AT_ONCE)]
            for process in processes:
                process.start()
            for process in processes:
                process.get_result(60)
            return (perf_counter() - start) / AT_ONCE

        def theirs_at_once() -> float:
            start = perf_counter()
            for future in [executor.submit(abs, -1) for _ in range(AT_ONCE)]:
                future.result()
            return (perf_counter() - start) / AT_ONCE

        with _pool():
            own, reference = interleave(rounds, partial(_timed, _run_one, count), partial(_timed, theirs, count))
            yield compare("Process round trip, p50, against ProcessPoolExecutor", Budget("<=", 0.5), own, reference)
            own, reference = interleave(rounds, partial(_timed, _run_one, 40, 0.01), partial(_timed, theirs, 40, 0.01))
            yield compare("the same after 10 ms of idleness", Budget("<=", 0.5), own, reference)
            own, reference = interleave(rounds, at_once, theirs_at_once)
            yield compare(f"{AT_ONCE:,} submitted at once, per process", Budget("<=", 0.8), own, reference)
            yield from _durable(settings)


def _durable(settings: Settings) -> Iterator[Result]:
    """The round trip where each of its commits is durable."""
    set_namespace_synchronous("durable", "full")
    count = settings.either(60, 15)
    with bare.opened(settings.folder / "bare-durable", "full") as environment:
        _run_one("durable")
        before, runs = statistics_of("durable").fsyncs, settings.either(9, 3) + 1
        own, reference = interleave(
            runs - 1, partial(_timed, partial(_run_one, "durable"), count), partial(_timed, partial(bare.put, environment, "k", 1), count)
        )
        client = (statistics_of("durable").fsyncs - before) / (runs * count)
    # Two commits are the client's (the process made, and started) and two the worker's (claimed, and ended).
    beyond = [(mine - 4 * commit) * 1e6 for mine, commit in zip(own, reference, strict=True)]
    note = (
        f"{statistics.median(own) * 1e6:.0f} us, of which 4 durable commits of {statistics.median(reference) * 1e6:.0f} us; {client:.0f} fsyncs here"
    )
    yield gauge("round trip at full, beyond its fsyncs", Budget("<=", 150, "us"), beyond, note)


def deaths(settings: Settings) -> Iterator[Result]:
    """Kill a worker, and see its process crashed."""
    started: Queue[int] = Queue("deaths/started")
    taken = []
    with _pool():
        for _ in range(settings.either(200, 10)):
            process: Process[None] = Process(target=_hang, args=(started,))
            process.start()
            pid = started.get(timeout=60)
            start = perf_counter()
            os.kill(pid, signal.SIGKILL)
            process.join(60)
            taken.append((perf_counter() - start) * 1e3)
            _until(lambda: _idle_workers() == WORKERS)
    yield absolute(
        "worker killed, crashed seen by who joins, p99", Budget("<=", 10, "ms"), quantile(taken, 0.99), f"median {statistics.median(taken):.2g} ms"
    )


def _hang(started: Queue[int]) -> None:
    started.put(os.getpid())
    signal.pause()


def resizing(settings: Settings) -> Iterator[Result]:
    """Resize an idle pool from 2 workers to 8 and back."""
    taken = []
    with _pool():
        for _ in range(settings.either(5, 2)):
            start = perf_counter()
            set_pool_size(8)
            _until(lambda: _idle_workers() == 8)
            set_pool_size(2)
            _until(lambda: _idle_workers() == 2)
            taken.append(perf_counter() - start)
    yield gauge("set_pool_size 2, 8, 2 of an idle pool, until all are ready", Budget("<=", 1, "s"), taken)


def idle_service(settings: Settings) -> Iterator[Result]:
    """Leave the supervisor alone for a minute."""
    seconds = settings.either(60, 10)
    with _pool():
        pid = pool_status()["pid"]
        time.sleep(1)
        before = _cpu_seconds(pid)
        time.sleep(seconds)
        used = (_cpu_seconds(pid) - before) * 1e3 * 60 / seconds
        yield absolute("supervisor, idle: CPU in 60 s", Budget("<=", 10, "ms"), used, f"looked at for {seconds} s")
        yield absolute("supervisor, idle: memory", Budget("<=", 40, "MB"), _resident(pid) / 1e6)


def _cpu_seconds(pid: int) -> float:
    # In nanoseconds, where /proc/PID/stat counts ticks of ten milliseconds.
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(settings: Settings) -> Iterator[Result]:
    """Run processes where a hundred thousand have been, against where there was none."""
    number = settings.either(100_000, 10_000)
    Dict("crowded/d"), Dict("empty/d")
    Process("crowded/first", target=abs, args=(1,))
    Process("empty/first", target=abs, args=(1,))
    _fill("crowded", number)
    with _pool():
        count = settings.either(200, 50)
        own, reference = interleave(
            settings.either(9, 3), partial(_timed, partial(_run_one, "crowded"), count), partial(_timed, partial(_run_one, "empty"), count)
        )
    yield compare(f"round trip beside {number:,} finished processes, against none", Budget("<=", 1.5), own, reference)


def _fill(name: str, number: int) -> None:
    namespace = open_namespace(name)
    call, result = codecs.encode((Process, abs, (1,), {})), codecs.encode(1)

    def fill(writing: Writing, first: int, last: int) -> None:
        for at in range(first, last):
            entry, _ = process_ops.create(writing, f"old-{at}", "parkit.Process", True, None, 0, {}, call)
            found = process_ops.Found(entry.object_id, entry.uuid, entry.uuid)
            process_ops.start(writing, found, entry.uuid, f"old-{at}", bytes(8), b"{}")
            claim = process_ops.claim(writing, "filler", 1)
            assert claim is not None
            process_ops.finish(writing, claim.process, "filler", process_ops.FINISHED, 0, result)

    for first in range(0, number, 5000):
        namespace.write(fill, first, min(first + 5000, number))
