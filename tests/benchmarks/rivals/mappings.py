"""Dicts that are read and written one entry after another by one caller, blocking."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pickle import dumps, loads
from typing import Any, Final

from . import DURABLE, PARKIT, SQLITE, Level, Place, Rival, load, redis_server, with_shared

__all__ = ["MAPPINGS", "MappingRival"]


class MappingRival(Rival):
    """A dict of strings.

    ``get`` and ``set`` are the rival's own methods wherever their shape allows it, so that no figure contains a call of the benchmark's.
    """

    get: Callable[[str], Any]
    set: Callable[[str, str], object]
    shared_by_processes = True

    def update(self, entries: Mapping[str, str]) -> None:
        """Store many entries, in one transaction where there is one."""
        raise NotImplementedError

    def gets(self, names: Sequence[str]) -> None:
        """Read entries, one after another."""
        get = self.get
        for name in names:
            get(name)

    def sets(self, names: Sequence[str], value: str) -> None:
        """Store entries one after another, each acknowledged before the next."""
        set = self.set
        for name in names:
            set(name, value)


class Parkit(MappingRival):
    name = "parkit"
    distribution = "parkit"
    levels = DURABLE

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        parkit = load("parkit")
        if parkit.get_namespace_synchronous(place.folder.name) != PARKIT[place.level]:
            parkit.set_namespace_synchronous(place.folder.name, PARKIT[place.level])
        store = parkit.Dict(f"{place.folder.name}/dict")
        self.get, self.set, self._update = store.__getitem__, store.__setitem__, store.update

    def update(self, entries: Mapping[str, str]) -> None:
        self._update(entries)


class Lmdb(MappingRival):
    name = "lmdb"
    distribution = "lmdb"
    levels = DURABLE
    remark = "LMDB directly: a transaction for each operation and pickle, but no lengths, versions, turns among processes, or wake-ups."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._environment = open_lmdb(place)

    def get(self, key: str) -> Any:
        with self._environment.begin() as transaction:
            raw = transaction.get(key.encode())
        if raw is None:
            raise KeyError(key)
        return loads(raw)

    def set(self, key: str, value: str) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.put(key.encode(), dumps(value, 5))

    def update(self, entries: Mapping[str, str]) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.cursor().putmulti([(key.encode(), dumps(value, 5)) for key, value in entries.items()])

    def close(self) -> None:
        self._environment.close()


class Diskcache(MappingRival):
    name = "diskcache"
    distribution = "diskcache"
    levels = DURABLE
    remark = (
        "An Index on a Cache that evicts nothing. Values from 32 kB on go into files of their own, which it never syncs; strings are not pickled."
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._cache = open_diskcache(place)
        index = load("diskcache").Index.fromcache(self._cache)
        self.get, self.set = index.__getitem__, index.__setitem__
        self._index = index

    def update(self, entries: Mapping[str, str]) -> None:
        with self._index.transact():
            self._index.update(entries)

    def close(self) -> None:
        self._cache.close()


class Sqlitedict(MappingRival):
    name = "sqlitedict"
    distribution = "sqlitedict"
    levels = (Level.PROCESS,)
    remark = "In WAL mode, committing each write (autocommit). It sets synchronous=OFF itself, so no other level can be had."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._dict = load("sqlitedict").SqliteDict(str(place.folder / "data.sqlite"), autocommit=True, journal_mode="WAL", outer_stack=False)
        self.get, self.set = self._dict.__getitem__, self._dict.__setitem__

    def update(self, entries: Mapping[str, str]) -> None:
        self._dict.update(entries)

    def close(self) -> None:
        self._dict.close()


class Redis(MappingRival):
    name = "redis"
    distribution = "redis"
    levels = tuple(Level)
    remark = "A server over a Unix socket, plain Python client. appendfsync always, everysec, no; and without a file. Its data must fit in memory."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._client = load("redis").Redis(unix_socket_path=place.shared)

    def get(self, key: str) -> Any:
        raw = self._client.get(key)
        if raw is None:
            raise KeyError(key)
        return loads(raw)

    def set(self, key: str, value: str) -> None:
        self._client.set(key, dumps(value, 5))

    def update(self, entries: Mapping[str, str]) -> None:
        self._client.mset({key: dumps(value, 5) for key, value in entries.items()})

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


class ManagerDict(MappingRival):
    name = "Manager().dict()"
    levels = (Level.MEMORY,)
    remark = "A server process of multiprocessing's, gone with the program that started it."

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        proxy = place.shared
        self.get, self.set, self._update = proxy.__getitem__, proxy.__setitem__, proxy.update

    def update(self, entries: Mapping[str, str]) -> None:
        self._update(entries)

    @classmethod
    @contextmanager
    def hosted(cls, place: Place) -> Iterator[Place]:
        with multiprocessing.get_context("spawn").Manager() as server:
            yield with_shared(place, server.dict())


def open_lmdb(place: Place) -> Any:
    """Open an environment at the place's level."""
    return load("lmdb").open(str(place.folder), map_size=8 << 30, sync=place.level is not Level.PROCESS, metasync=place.level is Level.POWER)


def open_diskcache(place: Place) -> Any:
    """Open a cache that forgets nothing, at the place's level."""
    synchronous = {"OFF": 0, "NORMAL": 1, "FULL": 2}[SQLITE[place.level]]
    return load("diskcache").Cache(str(place.folder), eviction_policy="none", sqlite_synchronous=synchronous, size_limit=8 << 30, timeout=60)


MAPPINGS: Final[tuple[type[MappingRival], ...]] = (Parkit, Lmdb, Diskcache, Sqlitedict, Redis, ManagerDict)
