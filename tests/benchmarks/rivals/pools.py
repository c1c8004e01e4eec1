"""Pools of two worker processes that call a function and hand back its result."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from . import PARKIT, Absent, Level, Place, Rival, load, with_shared

__all__ = ["POOLS", "WORKERS", "PoolRival"]

WORKERS: Final = 2
_PATIENCE: Final = 60.0


class PoolRival(Rival):
    """A pool that is running, and warm: opening one waits for a result of each worker."""

    def call(self, number: int) -> Any:
        """Have a worker compute ``abs(number)``; return it."""
        raise NotImplementedError

    def call_all(self, numbers: range) -> list[Any]:
        """Hand over all of the calls, one by one, before waiting for the first; return the results in order."""
        raise NotImplementedError


class ParkitProcess(PoolRival):
    name = "parkit Process"
    distribution = "parkit"
    levels = (Level.POWER, Level.INTACT, Level.PROCESS)
    remark = "Each call is an object of the store that outlives every process: made, started, claimed and ended, by a commit each."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        parkit = load("parkit")
        self._process, self._killall = parkit.Process, parkit.killall
        self._namespace = place.folder.name
        parkit.set_namespace_synchronous(self._namespace, PARKIT[place.level])
        parkit.set_pool_size(WORKERS)
        try:
            self.call_all(range(8 * WORKERS))
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> Any:
        process = self._process(f"{self._namespace}/{uuid.uuid4().hex}", target=abs, args=(number,))
        process.start()
        return process

    def call(self, number: int) -> Any:
        return self._start(number).get_result(_PATIENCE)

    def call_all(self, numbers: range) -> list[Any]:
        return [process.get_result(_PATIENCE) for process in [self._start(number) for number in numbers]]

    def close(self) -> None:
        self._killall(_PATIENCE)


class _Executor(PoolRival):
    """Whatever has ``submit`` and ``shutdown`` as ``concurrent.futures`` has them."""

    levels = (Level.MEMORY,)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._executor = self.make()
        try:
            self.call_all(range(8 * WORKERS))
        except BaseException:
            self.close()
            raise

    def make(self) -> Any:
        raise NotImplementedError

    def call(self, number: int) -> Any:
        return self._executor.submit(abs, number).result(_PATIENCE)

    def call_all(self, numbers: range) -> list[Any]:
        return [future.result(_PATIENCE) for future in [self._executor.submit(abs, number) for number in numbers]]

    def close(self) -> None:
        self._executor.shutdown()


class ParkitExecutor(_Executor):
    name = "parkit ProcessPoolExecutor"
    distribution = "parkit"
    levels = (Level.PROCESS,)
    remark = "The same pool behind the standard library's interface; its calls are in the store, without fsyncs."

    @classmethod
    def check(cls) -> None:
        if not hasattr(load("parkit"), "ProcessPoolExecutor"):
            raise Absent("this version of parkit has no ProcessPoolExecutor")

    def make(self) -> Any:
        parkit = load("parkit")
        parkit.set_pool_size(WORKERS)
        return parkit.ProcessPoolExecutor()

    def close(self) -> None:
        try:
            super().close()
        finally:
            load("parkit").killall(_PATIENCE)


class StandardExecutor(_Executor):
    name = "ProcessPoolExecutor"
    remark = "concurrent.futures', workers by spawn. Nothing outlives the program; the death of a worker breaks all that is outstanding."

    def make(self) -> Any:
        return concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"))


class Loky(_Executor):
    name = "loky"
    distribution = "loky"
    remark = "get_reusable_executor. Nothing outlives the program."

    def make(self) -> Any:
        return load("loky").get_reusable_executor(max_workers=WORKERS, timeout=120)

    def close(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)


class StandardPool(PoolRival):
    name = "multiprocessing.Pool"
    levels = (Level.MEMORY,)
    remark = "Workers by spawn. Nothing outlives the program; a call whose worker dies never ends."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._pool = multiprocessing.get_context("spawn").Pool(WORKERS)
        self.call_all(range(8 * WORKERS))

    def call(self, number: int) -> Any:
        return self._pool.apply_async(abs, (number,)).get(_PATIENCE)

    def call_all(self, numbers: range) -> list[Any]:
        return [result.get(_PATIENCE) for result in [self._pool.apply_async(abs, (number,)) for number in numbers]]

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class Huey(PoolRival):
    name = "huey"
    distribution = "huey"
    levels = (Level.POWER, Level.PROCESS)
    remark = (
        "SqliteHuey and a consumer of two processes. Both look for news, here every millisecond instead of up to every ten seconds "
        "(-d 0.001 -m 0.001), and so with a core that is never idle. It schedules and retries, which parkit does not."
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._task = huey_task(place)
        deadline = time.monotonic() + _PATIENCE
        for result in [self._task(number) for number in range(8 * WORKERS)]:
            result.get(blocking=True, timeout=max(0.0, deadline - time.monotonic()), max_delay=0.001)

    def call(self, number: int) -> Any:
        return self._task(number).get(blocking=True, timeout=_PATIENCE, backoff=1, max_delay=0.001)

    def call_all(self, numbers: range) -> list[Any]:
        results = [self._task(number) for number in numbers]
        return [result.get(blocking=True, timeout=_PATIENCE, backoff=1, max_delay=0.001) for result in results]

    @classmethod
    @contextmanager
    def hosted(cls, place: Place) -> Iterator[Place]:
        consumer = multiprocessing.get_context("spawn").Process(target=_consume, args=(place,))
        consumer.start()
        assert consumer.pid is not None
        try:
            yield with_shared(place, consumer.pid)
        finally:
            # It and its workers are a group of their own; what they have stored goes with the folder.
            for give_up in (partial(os.killpg, consumer.pid, signal.SIGKILL), consumer.kill):
                try:
                    give_up()
                except ProcessLookupError:
                    pass
            consumer.join()
            consumer.close()

    def pause(self) -> None:
        os.killpg(self.place.shared, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.place.shared, signal.SIGCONT)


def huey_task(place: Place) -> Any:
    """Return the task, bound to the queue in the place."""
    huey = load("huey").SqliteHuey("bench", filename=str(place.folder / "huey.sqlite"), fsync=place.level is Level.POWER, timeout=60)
    return huey.task(name="absolute")(abs_of)


def abs_of(number: int) -> int:
    """Be the function that huey's workers call; its decorator needs one that is written in Python."""
    return abs(number)


def _consume(place: Place) -> None:
    os.setsid()
    log = os.open(str(Path(place.folder) / "consumer.log"), os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, sys.stderr.fileno())
    task = huey_task(place)
    consumer = task.huey.create_consumer(
        workers=WORKERS, worker_type="process", initial_delay=0.001, backoff=1.0, max_delay=0.001, periodic=False, check_worker_health=False
    )
    consumer.run()


POOLS: Final[tuple[type[PoolRival], ...]] = (ParkitProcess, ParkitExecutor, StandardExecutor, StandardPool, Loky, Huey)
