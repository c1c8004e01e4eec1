"""Queues: one caller, and then many processes.

``take`` waits for an item. Where a rival has no way to wait for another process, it looks every millisecond, which is what a program that uses it
would have to do; its ``waits`` is False.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pickle import dumps, loads
from queue import Empty
from time import perf_counter
from typing import Any, Final

from tests.benchmarks import bare

from . import DURABLE, PARKIT, POLL, SQLITE, Level, Place, Rival, load, redis_server, with_shared
from .mappings import open_diskcache, open_lmdb

__all__ = ["QUEUES", "QueueRival"]


class QueueRival(Rival):
    """A queue of strings.

    The loops that are timed are methods, so that those who await can have theirs in one coroutine.
    """

    put: Callable[[str], object]
    waits = True
    across_processes = True
    batches = False
    """Whether there are ``put_many`` and ``get_many``."""

    def take(self, timeout: float) -> Any:
        """Return the next item, waiting for it if need be; raise queue.Empty after ``timeout`` seconds."""
        raise NotImplementedError

    def put_many(self, items: Sequence[str]) -> None:
        """Put items in one transaction."""
        raise NotImplementedError

    def get_many(self, count: int) -> Sequence[Any]:
        """Take up to that many of the items that are there, in one transaction."""
        raise NotImplementedError

    def pairs(self, count: int, item: str) -> None:
        """Put an item and take one, again and again."""
        for _ in range(count):
            self.put(item)
            self.take(10)

    def produce(self, items: Sequence[str]) -> None:
        """Put items, one after another."""
        for item in items:
            self.put(item)

    def consume(self, count: int, timeout: float) -> list[Any]:
        """Take that many items, one after another; fewer if none comes for ``timeout`` seconds."""
        taken: list[Any] = []
        try:
            while len(taken) < count:
                taken.append(self.take(timeout))
        except Empty:
            pass
        return taken

    def serve(self, back: QueueRival, turns: int, timeout: float) -> list[float]:
        """Put an item here and await it ``back``; return the seconds of each turn."""
        times = []
        for _ in range(turns):
            start = perf_counter()
            self.put("ball")
            back.take(timeout)
            times.append(perf_counter() - start)
        return times

    def answer(self, back: QueueRival, turns: int, timeout: float) -> None:
        """Put ``back`` what comes here."""
        for _ in range(turns):
            back.put(self.take(timeout))


class Polled(QueueRival):
    """One that can only be asked whether there is something: ``look`` returns None if not."""

    waits = False

    def look(self) -> Any:
        raise NotImplementedError

    def take(self, timeout: float) -> Any:
        item = self.look()
        if item is not None:
            return item
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            time.sleep(POLL)
            item = self.look()
            if item is not None:
                return item
        raise Empty


class Parkit(QueueRival):
    name = "parkit"
    distribution = "parkit"
    levels = DURABLE
    batches = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        parkit = load("parkit")
        if parkit.get_namespace_synchronous(place.folder.name) != PARKIT[place.level]:
            parkit.set_namespace_synchronous(place.folder.name, PARKIT[place.level])
        self._queue = parkit.Queue(f"{place.folder.name}/queue")
        self.put = self._queue.put

    def take(self, timeout: float) -> Any:
        return self._queue.get(timeout=timeout)

    def put_many(self, items: Sequence[str]) -> None:
        self._queue.put_many(items)

    def get_many(self, count: int) -> Sequence[Any]:
        found: Sequence[Any] = self._queue.get_many(count)
        return found


class Lmdb(Polled):
    name = "lmdb"
    distribution = "lmdb"
    levels = DURABLE
    batches = True
    remark = "A queue of thirty lines on LMDB directly; it can be asked, not waited for."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._environment = open_lmdb(place)

    def put(self, item: str) -> None:
        bare.enqueue(self._environment, item)

    def look(self) -> Any:
        return None if bare.is_empty(self._environment) else bare.dequeue(self._environment)

    def put_many(self, items: Sequence[str]) -> None:
        bare.enqueue_many(self._environment, items)

    def get_many(self, count: int) -> Sequence[Any]:
        return bare.dequeue_many(self._environment, count)

    def close(self) -> None:
        self._environment.close()


class Diskcache(Polled):
    name = "diskcache"
    distribution = "diskcache"
    levels = DURABLE
    batches = True
    remark = "A Deque. It can be asked, not waited for. Strings are not pickled."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._cache = open_diskcache(place)
        self._deque = load("diskcache").Deque.fromcache(self._cache)
        self.put = self._deque.append

    def look(self) -> Any:
        try:
            return self._deque.popleft()
        except IndexError:
            return None

    def put_many(self, items: Sequence[str]) -> None:
        with self._deque.transact():
            self._deque.extend(items)

    def get_many(self, count: int) -> Sequence[Any]:
        with self._deque.transact():
            return [self._deque.popleft() for _ in range(min(count, len(self._deque)))]

    def close(self) -> None:
        self._cache.close()


class PersistQueueSqlite(Polled):
    name = "persist-queue SQLite"
    distribution = "persist-queue"
    levels = (Level.POWER,)
    remark = "SQLiteQueue, auto_commit. Its get cannot be woken by another process, and two processes may be given the same item: see contention."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        module = load("persistqueue")
        self._empty = module.Empty
        self._queue = module.SQLiteQueue(str(place.folder), auto_commit=True, timeout=60)
        self.put = self._queue.put

    def look(self) -> Any:
        try:
            return self._queue.get(block=False)
        except self._empty:
            return None

    def close(self) -> None:
        self._queue.close()


class PersistQueueFile(QueueRival):
    name = "persist-queue file"
    distribution = "persist-queue"
    levels = (Level.PROCESS,)
    across_processes = False
    remark = "Queue with autosave: a small file is renamed into place at each put and get. For threads of one process only."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        module = load("persistqueue")
        self._empty = module.Empty
        self._queue = module.Queue(str(place.folder / "queue"), tempdir=str(place.folder), autosave=True)
        self.put = self._queue.put

    def take(self, timeout: float) -> Any:
        try:
            return self._queue.get(timeout=timeout)
        except self._empty:
            raise Empty from None

    def close(self) -> None:
        del self._queue


class Litequeue(Polled):
    name = "litequeue"
    distribution = "litequeue"
    levels = DURABLE
    remark = (
        "pop and done. Its own level is synchronous=NORMAL; the others are set on its connection. Strings only, and done items stay until pruned."
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._queue = load("litequeue").LiteQueue(str(place.folder / "data.sqlite"), timeout=60)
        self._queue.conn.execute(f"PRAGMA synchronous = {SQLITE[place.level]}")
        self.put = self._queue.put

    def look(self) -> Any:
        message = self._queue.pop()
        if message is None:
            return None
        # Newer versions count the claims of a message, and whoever is done says which was theirs.
        self._queue.done(message.message_id, **({"claim_id": message.claim_id} if hasattr(message, "claim_id") else {}))
        return message.data

    def close(self) -> None:
        self._queue.close()


class Redis(QueueRival):
    name = "redis"
    distribution = "redis"
    levels = tuple(Level)
    batches = True
    remark = "A list: RPUSH and BLPOP."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._client = load("redis").Redis(unix_socket_path=place.shared)
        self._key = place.folder.name

    def put(self, item: str) -> None:
        self._client.rpush(self._key, dumps(item, 5))

    def take(self, timeout: float) -> Any:
        found = self._client.blpop(self._key, timeout)
        if found is None:
            raise Empty
        return loads(found[1])

    def put_many(self, items: Sequence[str]) -> None:
        self._client.rpush(self._key, *(dumps(item, 5) for item in items))

    def get_many(self, count: int) -> Sequence[Any]:
        return [loads(raw) for raw in self._client.lpop(self._key, count) or ()]

    def close(self) -> None:
        self._client.close()

    @classmethod
    def check(cls) -> None:
        redis_server.require()

    @classmethod
    @contextmanager
    def hosted(cls, place: Place) -> Iterator[Place]:
        with redis_server.serving(place.folder, place.level) as path:
            yield with_shared(place, path)


class Pipe(QueueRival):
    name = "multiprocessing.Queue"
    levels = (Level.MEMORY,)
    remark = "A pipe and a lock. put returns before the item is in the pipe; a process that is killed while it holds the lock stops everybody."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.put = place.shared.put

    def take(self, timeout: float) -> Any:
        return self.place.shared.get(timeout=timeout)

    @classmethod
    @contextmanager
    def hosted(cls, place: Place) -> Iterator[Place]:
        pipe: Any = multiprocessing.get_context("spawn").Queue()
        try:
            yield with_shared(place, pipe)
        finally:
            pipe.cancel_join_thread()
            pipe.close()


class ManagerQueue(QueueRival):
    name = "Manager().Queue()"
    levels = (Level.MEMORY,)
    remark = "A server process of multiprocessing's, gone with the program that started it."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.put = place.shared.put

    def take(self, timeout: float) -> Any:
        return self.place.shared.get(timeout=timeout)

    @classmethod
    @contextmanager
    def hosted(cls, place: Place) -> Iterator[Place]:
        with multiprocessing.get_context("spawn").Manager() as server:
            yield with_shared(place, server.Queue())


QUEUES: Final[tuple[type[QueueRival], ...]] = (
    Parkit,
    Lmdb,
    Diskcache,
    PersistQueueSqlite,
    PersistQueueFile,
    Litequeue,
    Redis,
    Pipe,
    ManagerQueue,
)
