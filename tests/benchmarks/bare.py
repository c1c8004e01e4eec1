"""The reference: the same data in LMDB used directly, as a competent engineer would write it.

Pickle protocol 5, keys in UTF-8, one environment, a transaction for each operation unless said otherwise; no locks but LMDB's own, no versions,
no lengths, no codecs, no waiting. Durability as parkit's levels have it: ``off`` syncs nothing, ``full`` data and meta page.

The bare queue keeps its items at consecutive 8-byte keys, and finds its ends in the tree, as it must where several processes use it. Its ``get``
returns None when there is nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import dumps, loads
from typing import Any, Final

import lmdb

__all__ = ["append", "dequeue", "dequeue_many", "enqueue", "enqueue_many", "get", "increment", "is_empty", "items", "opened", "put", "take", "update"]

_MAP: Final = 8 << 30  # bytes of address space

_index = struct.Struct(">Q")
_pack, _unpack = _index.pack, _index.unpack


@contextmanager
def opened(folder: Path, level: str = "off") -> Iterator[lmdb.Environment]:
    """Open an environment of its own for the time of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(folder), map_size=_MAP, sync=level != "off", metasync=level == "full")
    try:
        yield environment
    finally:
        environment.close()


def get(environment: lmdb.Environment, key: str) -> Any:
    """Return the value of a key that is there."""
    with environment.begin() as transaction:
        raw: Any = transaction.get(key.encode())
    return loads(raw)


def put(environment: lmdb.Environment, key: str, value: object) -> None:
    """Store a value."""
    with environment.begin(write=True) as transaction:
        transaction.put(key.encode(), dumps(value, 5))


def update(environment: lmdb.Environment, entries: Iterable[tuple[str, object]]) -> None:
    """Store many values in one transaction."""
    with environment.begin(write=True) as transaction:
        transaction.cursor().putmulti([(key.encode(), dumps(value, 5)) for key, value in entries])


def increment(environment: lmdb.Environment, key: bytes) -> None:
    """Add one to a number."""
    with environment.begin(write=True) as transaction:
        raw: Any = transaction.get(key)
        transaction.put(key, dumps(loads(raw) + 1, 5))


def items(environment: lmdb.Environment) -> Iterator[tuple[str, Any]]:
    """Iterate over all entries."""
    with environment.begin() as transaction:
        for key, raw in transaction.cursor():
            yield key.decode(), loads(raw)


def append(environment: lmdb.Environment, index: int, value: object) -> None:
    """Store a value behind all others, by one who knows how many there are."""
    with environment.begin(write=True) as transaction:
        transaction.put(_pack(index), dumps(value, 5), append=True)


def enqueue(environment: lmdb.Environment, item: object) -> None:
    """Put an item at the end."""
    raw = dumps(item, 5)
    with environment.begin(write=True) as transaction:
        cursor = transaction.cursor()
        index = _unpack(cursor.key())[0] + 1 if cursor.last() else 0
        cursor.put(_pack(index), raw, append=True)


def enqueue_many(environment: lmdb.Environment, items: Iterable[object]) -> None:
    """Put items at the end, in one transaction."""
    with environment.begin(write=True) as transaction:
        cursor = transaction.cursor()
        first = _unpack(cursor.key())[0] + 1 if cursor.last() else 0
        cursor.putmulti([(_pack(index), dumps(item, 5)) for index, item in enumerate(items, first)], append=True)


def dequeue(environment: lmdb.Environment) -> Any:
    """Take the first item; None if there is none."""
    with environment.begin(write=True) as transaction:
        cursor = transaction.cursor()
        if not cursor.first():
            return None
        raw = cursor.value()
        cursor.delete()
    return loads(raw)


def dequeue_many(environment: lmdb.Environment, count: int) -> list[Any]:
    """Take up to ``count`` items from the front, in one transaction."""
    raws: list[bytes] = []
    with environment.begin(write=True) as transaction:
        cursor = transaction.cursor()
        while len(raws) < count and cursor.first():
            raws.append(cursor.value())
            cursor.delete()
    return [loads(raw) for raw in raws]


def is_empty(environment: lmdb.Environment) -> bool:
    """Return whether there is nothing in it: a look that disturbs no writer."""
    with environment.begin() as transaction:
        return not transaction.cursor().first()


def take(environment: lmdb.Environment, idle: Callable[[], object]) -> Any:
    """Take the first item, calling ``idle`` again and again as long as there is none."""
    while True:
        while is_empty(environment):
            idle()
        item = dequeue(environment)
        if item is not None:
            return item
