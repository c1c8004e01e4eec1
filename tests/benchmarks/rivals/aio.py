"""Rivals that are awaited: dicts and queues on asyncio's own event loop.

The whole of a timed loop runs in one coroutine, so no figure contains the start of a loop. All of a process share one event loop, to which their
connections belong; it is closed with the last of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pickle import dumps, loads
from queue import Empty
from time import perf_counter
from typing import Any, Final

from . import DURABLE, PARKIT, POLL, SQLITE, Level, Place, Rival, load, redis_server, with_shared
from .mappings import MappingRival, open_lmdb
from .queues import QueueRival

__all__ = ["AWAITED_MAPPINGS", "AWAITED_QUEUES", "AwaitedMapping", "AwaitedQueue"]


class _Shared:
    """The event loop of this process, while somebody uses it."""

    runner: asyncio.Runner
    users = 0


class Awaited(Rival):
    """One on the event loop, where ``opened`` runs first and ``closed`` last."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        if not _Shared.users:
            _Shared.runner = asyncio.Runner()
        _Shared.users += 1
        self.runner = _Shared.runner
        try:
            self.runner.run(self.opened())
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        _Shared.users -= 1
        if not _Shared.users:
            self.runner.close()

    async def opened(self) -> None:
        raise NotImplementedError

    async def closed(self) -> None:
        pass

    def close(self) -> None:
        try:
            self.runner.run(self.closed())
        finally:
            self._leave()

    def spread(self, act: Callable[[int], Coroutine[Any, Any, object]], tasks: int, count: int) -> None:
        """Await ``act`` ``count`` times in all, in so many tasks, each one after another."""

        async def work(first: int) -> None:
            for number in range(first, count, tasks):
                await act(number)

        async def all_of_them() -> None:
            await asyncio.gather(*map(work, range(tasks)))

        self.runner.run(all_of_them())


class AwaitedMapping(Awaited, MappingRival):
    """A dict whose ``aget`` and ``aset`` are awaited."""

    aget: Callable[[str], Coroutine[Any, Any, Any]]
    aset: Callable[[str, str], Coroutine[Any, Any, object]]
    aupdate: Callable[[Mapping[str, str]], Coroutine[Any, Any, object]]

    def update(self, entries: Mapping[str, str]) -> None:
        self.runner.run(self.aupdate(entries))

    def gets(self, names: Sequence[str]) -> None:
        async def work() -> None:
            get = self.aget
            for name in names:
                await get(name)

        self.runner.run(work())

    def sets(self, names: Sequence[str], value: str) -> None:
        async def work() -> None:
            set = self.aset
            for name in names:
                await set(name, value)

        self.runner.run(work())

    def get(self, key: str) -> Any:
        return self.runner.run(self.aget(key))

    def set(self, key: str, value: str) -> None:
        self.runner.run(self.aset(key, value))


class ParkitAsync(AwaitedMapping):
    name = "parkit_async"
    distribution = "parkit"
    levels = DURABLE
    remark = "Writes that wait at the same moment share a commit."

    async def opened(self) -> None:
        parkit = load("parkit_async")
        if await parkit.get_namespace_synchronous(self.place.folder.name) != PARKIT[self.place.level]:
            await parkit.set_namespace_synchronous(self.place.folder.name, PARKIT[self.place.level])
        store = await parkit.Dict(f"{self.place.folder.name}/dict")
        self.aget, self.aset, self.aupdate = store.get, store.set, store.update


class LmdbAio(AwaitedMapping):
    name = "lmdb.aio"
    distribution = "lmdb"
    levels = DURABLE
    remark = "py-lmdb's own wrapper: each call of a transaction goes to a thread and back."

    async def opened(self) -> None:
        self._environment = open_lmdb(self.place)
        self._wrapped = load("lmdb.aio").wrap(self._environment)

    async def aget(self, key: str) -> Any:
        async with self._wrapped.begin() as transaction:
            raw = await transaction.get(key.encode())
        return loads(raw)

    async def aset(self, key: str, value: str) -> None:
        async with self._wrapped.begin(write=True) as transaction:
            await transaction.put(key.encode(), dumps(value, 5))

    async def aupdate(self, entries: Mapping[str, str]) -> None:
        async with self._wrapped.begin(write=True) as transaction:
            async with transaction.cursor() as cursor:
                await cursor.putmulti([(key.encode(), dumps(value, 5)) for key, value in entries.items()])

    async def closed(self) -> None:
        await self._wrapped.close()


class Aiosqlite(AwaitedMapping):
    name = "aiosqlite"
    distribution = "aiosqlite"
    levels = DURABLE
    remark = "One connection in WAL mode, a table of keys and pickles. Tasks on one connection share its transaction, so they commit for one another."

    async def opened(self) -> None:
        self._connection = await load("aiosqlite").connect(self.place.folder / "data.sqlite", timeout=60)
        await self._connection.execute("PRAGMA journal_mode = WAL")
        await self._connection.execute(f"PRAGMA synchronous = {SQLITE[self.place.level]}")
        await self._connection.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        await self._connection.commit()

    async def aget(self, key: str) -> Any:
        async with self._connection.execute("SELECT value FROM entries WHERE key = ?", (key,)) as cursor:
            (raw,) = await cursor.fetchone()
        return loads(raw)

    async def aset(self, key: str, value: str) -> None:
        await self._connection.execute("REPLACE INTO entries VALUES (?, ?)", (key, dumps(value, 5)))
        await self._connection.commit()

    async def aupdate(self, entries: Mapping[str, str]) -> None:
        await self._connection.executemany("REPLACE INTO entries VALUES (?, ?)", [(key, dumps(value, 5)) for key, value in entries.items()])
        await self._connection.commit()

    async def closed(self) -> None:
        await self._connection.close()


class _RedisHost(Awaited):
    name = "redis.asyncio"
    distribution = "redis"
    levels = tuple(Level)

    async def opened(self) -> None:
        asyncio_client = load("redis.asyncio")
        pool = asyncio_client.BlockingConnectionPool(
            max_connections=64, connection_class=asyncio_client.UnixDomainSocketConnection, path=self.place.shared
        )
        self.client = asyncio_client.Redis.from_pool(pool)

    async def closed(self) -> None:
        await self.client.aclose()

    @classmethod
    def check(cls) -> None:
        redis_server.require()

    @classmethod
    @contextmanager
    def hosted(cls, place: Place) -> Iterator[Place]:
        with redis_server.serving(place.folder, place.level) as path:
            yield with_shared(place, path)


class RedisAsyncio(_RedisHost, AwaitedMapping):
    remark = "As redis; a pool of up to 64 connections."

    async def aget(self, key: str) -> Any:
        return loads(await self.client.get(key))

    async def aset(self, key: str, value: str) -> None:
        await self.client.set(key, dumps(value, 5))

    async def aupdate(self, entries: Mapping[str, str]) -> None:
        await self.client.mset({key: dumps(value, 5) for key, value in entries.items()})


class AwaitedQueue(Awaited, QueueRival):
    """A queue whose ``aput`` and ``atake`` are awaited."""

    aput: Callable[[str], Coroutine[Any, Any, object]]

    async def atake(self, timeout: float) -> Any:
        raise NotImplementedError

    def put(self, item: str) -> None:
        self.runner.run(self.aput(item))

    def take(self, timeout: float) -> Any:
        return self.runner.run(self.atake(timeout))

    def pairs(self, count: int, item: str) -> None:
        async def work() -> None:
            for _ in range(count):
                await self.aput(item)
                await self.atake(10)

        self.runner.run(work())

    def produce(self, items: Sequence[str]) -> None:
        async def work() -> None:
            for item in items:
                await self.aput(item)

        self.runner.run(work())

    def consume(self, count: int, timeout: float) -> list[Any]:
        taken: list[Any] = []

        async def work() -> None:
            while len(taken) < count:
                taken.append(await self.atake(timeout))

        try:
            self.runner.run(work())
        except Empty:
            pass
        return taken

    def serve(self, back: QueueRival, turns: int, timeout: float) -> list[float]:
        assert isinstance(back, AwaitedQueue)
        times = []

        async def work() -> None:
            for _ in range(turns):
                start = perf_counter()
                await self.aput("ball")
                await back.atake(timeout)
                times.append(perf_counter() - start)

        self.runner.run(work())
        return times

    def answer(self, back: QueueRival, turns: int, timeout: float) -> None:
        assert isinstance(back, AwaitedQueue)

        async def work() -> None:
            for _ in range(turns):
                await back.aput(await self.atake(timeout))

        self.runner.run(work())


class ParkitAsyncQueue(AwaitedQueue):
    name = "parkit_async"
    distribution = "parkit"
    levels = DURABLE

    async def opened(self) -> None:
        parkit = load("parkit_async")
        if await parkit.get_namespace_synchronous(self.place.folder.name) != PARKIT[self.place.level]:
            await parkit.set_namespace_synchronous(self.place.folder.name, PARKIT[self.place.level])
        self._queue = await parkit.Queue(f"{self.place.folder.name}/queue")
        self.aput = self._queue.put

    async def atake(self, timeout: float) -> Any:
        return await self._queue.get(timeout=timeout)


class RedisAsyncioQueue(_RedisHost, AwaitedQueue):
    remark = "As redis."

    async def aput(self, item: str) -> None:
        await self.client.rpush(self.place.folder.name, dumps(item, 5))

    async def atake(self, timeout: float) -> Any:
        found = await self.client.blpop([self.place.folder.name], timeout)
        if found is None:
            raise Empty
        return loads(found[1])


class PersistQueueAsync(AwaitedQueue):
    name = "persist-queue async"
    distribution = "persist-queue"
    levels = (Level.POWER,)
    waits = False
    remark = "AsyncSQLiteQueue, on aiosqlite. As persist-queue SQLite, it cannot be woken by another process."

    async def opened(self) -> None:
        self._empty = load("persistqueue").Empty
        self._queue = load("persistqueue.async_sqlqueue").AsyncSQLiteQueue(str(self.place.folder / "queue"))
        self.aput = self._queue.put

    async def atake(self, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            try:
                return await self._queue.get(block=False)
            except self._empty:
                if time.monotonic() > deadline:
                    raise Empty from None
                await asyncio.sleep(POLL)

    async def closed(self) -> None:
        await self._queue.close()


AWAITED_MAPPINGS: Final[tuple[type[AwaitedMapping], ...]] = (ParkitAsync, LmdbAio, Aiosqlite, RedisAsyncio)
AWAITED_QUEUES: Final[tuple[type[AwaitedQueue], ...]] = (ParkitAsyncQueue, PersistQueueAsync, RedisAsyncioQueue)
