"""Looking at a store without using it: what the command line shows. Nothing here changes anything.

A value that cannot be decoded is no error here, but something to show: it comes as :class:`Undecodable` in its place.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from . import object_ops, paths, record_lock
from .binding import Binding
from .doorbell import EVENT_ALL, EVENT_CHANGE, EVENT_DONE, EVENT_ITEMS, EVENT_SPACE
from .engine import PAGE
from .errors import CodecError
from .layout import Entry, State, attribute_prefix, damaged, data_prefix, header_key, index_key, prefix_end, text
from .namespace import Namespace
from .shared import SLOTS, WORD_LIMIT
from .transactions import Reading

__all__ = [
    "Found",
    "Fullness",
    "Snapshot",
    "Undecodable",
    "Waiter",
    "attributes",
    "contents",
    "entries",
    "fullness",
    "items",
    "openers",
    "position",
    "snapshots",
    "waiters",
]


class Undecodable:
    """What stands for a key or value that cannot be decoded.

    Attributes:
        reason: Why.
    """

    __slots__ = ("reason",)

    def __init__(self, error: BaseException) -> None:
        cause = error.__cause__ if isinstance(error, CodecError) and error.__cause__ is not None else error
        self.reason = f"{type(cause).__name__}: {cause}"

    def __repr__(self) -> str:
        return f"Undecodable({self.reason!r})"


# Objects, and what is in them.


class Found(NamedTuple):
    """An object of a namespace.

    Attributes:
        path: Its path.
        entry: Its directory entry.
        state: Its header.
    """

    path: str
    entry: Entry
    state: State

    @property
    def length(self) -> int:
        """Number of its entries or items."""
        return self.state.length + self.state.tail - self.state.head


def contents(reading: Reading) -> list[Found]:
    """Return the objects of a namespace, in order."""
    found = []
    for name, entry in object_ops.entries(reading):
        raw = reading.transaction.get(header_key(entry.object_id))
        if raw is not None:
            found.append(Found(paths.join(reading.namespace.name, name), entry, State(raw)))
    return found


def position(reading: Reading, binding: Binding) -> tuple[int, int, int]:
    """Return where a log's entries or a queue's items are: range, head, tail. The range changes when they are cleared."""
    state = reading.state(binding)
    return state.range, state.head, state.tail


def items(reading: Reading, binding: Binding, start: int, stop: int) -> list[Any]:
    """Return the entries or items at the indices from ``start`` up to ``stop``, as far as there are any."""
    state = reading.state(binding)
    get, prefix = reading.transaction.get, state.prefix
    found = []
    for index in range(max(start, state.head), min(stop, state.tail)):
        raw = get(index_key(prefix, index))
        if raw is None:  # or a header that lies about its length would have whoever shows it go on for ever
            raise damaged(f"{binding.path!r}")
        found.append(_decoded(binding, raw, index))
    return found


def entries(reading: Reading, binding: Binding) -> Iterator[tuple[Any, Any]]:
    """Iterate over a dict's keys and values in the order in which they are stored; ``reading`` must stay open meanwhile."""
    state = reading.state(binding)
    for stored, raw in _walk(reading, data_prefix(state.range)):
        try:
            key = binding.decode_key(stored, raw)
        except CodecError as error:
            key = Undecodable(error)
        yield key, _decoded(binding, raw, key)


def attributes(reading: Reading, binding: Binding) -> list[tuple[str, Any]]:
    """Return an object's persistent attributes, by name."""
    reading.state(binding)
    found = []
    for stored, raw in _walk(reading, attribute_prefix(binding.object_id)):
        name = text(stored, "the name of an attribute")
        found.append((name, _decoded(binding, raw, name)))
    return found


def _walk(reading: Reading, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = reading.transaction.cursor()
    if cursor.set_range(prefix):
        end = prefix_end(prefix)
        for key, raw in cursor.iternext():
            if key >= end:
                return
            yield key[len(prefix) :], raw


def _decoded(binding: Binding, raw: Any, key: object) -> Any:
    try:
        return binding.decode(raw, key)
    except CodecError as error:
        return Undecodable(error)


# Fullness, readers, waiters.


class Fullness(NamedTuple):
    """How full a namespace is, in bytes.

    Attributes:
        limit: Its maximum size.
        live: In use by the latest state.
        file: Size of the file; what is more than ``live`` will be used again.
        commits: Number of its last commit.
        committed: Seconds since that, or None if nobody remembers.
    """

    limit: int
    live: int
    file: int
    commits: int
    committed: float | None


def fullness(namespace: Namespace) -> Fullness:
    """Return how full a namespace is."""
    usage = namespace.engine.usage()
    committed = _age(namespace, usage.last_transaction, usage.last_transaction)
    return Fullness(namespace.table.words[WORD_LIMIT], usage.live * PAGE, usage.file * PAGE, usage.last_transaction, committed)


class Snapshot(NamedTuple):
    """A line of the reader table.

    Attributes:
        pid: The process.
        transaction: Number of the commit that it sees; None if it does not read now.
        age: For how many seconds, at least, it has been open, as far as that matters: 0 while it sees the latest state; None if nobody remembers.
    """

    pid: int
    transaction: int | None
    age: float | None


def snapshots(namespace: Namespace) -> list[Snapshot]:
    """Return the readers of other processes, the oldest first, then those that do not read now."""
    last = namespace.engine.usage().last_transaction
    found = []
    for reader in namespace.engine.readers():
        if reader.pid == os.getpid():
            continue
        at = reader.transaction
        # A state is no burden before there is a later one.
        age = None if at is None else 0.0 if at >= last else _age(namespace, at + 1, last)
        found.append(Snapshot(reader.pid, at, age))
    return sorted(found, key=lambda snapshot: (snapshot.transaction is None, snapshot.transaction or 0, snapshot.pid))


def _age(namespace: Namespace, transaction: int, last: int) -> float | None:
    """Return how many seconds ago a commit was made."""
    when = namespace.table.commit_time(transaction, last)
    # What was noted before the machine was started last lies in this clock's future.
    return None if when is None or (age := time.monotonic_ns() - when) < 0 else age / 1e9


class Waiter(NamedTuple):
    """A registration of somebody who waits.

    Attributes:
        object_id: What for.
        events: Which of its events, by name.
        pid: The process; None if it died, 0 if the system does not tell.
    """

    object_id: int
    events: list[str]
    pid: int | None


_EVENTS: Final = {EVENT_ITEMS: "items", EVENT_SPACE: "space", EVENT_DONE: "done", EVENT_CHANGE: "change"}


def waiters(namespace: Namespace) -> list[Waiter]:
    """Return who waits for something to happen in a namespace, this process apart."""
    table = namespace.table
    found = []
    for slot in range(SLOTS):
        # The table's own columns, as it has no other use for a list of all registrations; a record that changes meanwhile is a hint like any.
        if table._occupancy[slot] and slot not in table._active:
            at = slot * 4
            mask = table._slots[at + 2]
            events = ["any"] if mask & EVENT_ALL == EVENT_ALL else [name for event, name in _EVENTS.items() if mask & event]
            found.append(Waiter(table._slots[at], events, record_lock.holder(table._descriptor, slot, 1)))
    return found


# Who has what open. Processes say so by their locks and mappings, whatever they think themselves.


def openers(directories: Collection[Path]) -> dict[Path, set[int]]:
    """Return, for each folder of a namespace, the other processes of this user that have its data file mapped; as far as the system tells (Linux).

    Forked children that have not used it yet are among them; they hold no lock on it.
    """
    found: dict[Path, set[int]] = {directory: set() for directory in directories}
    if not sys.platform.startswith("linux"):  # pragma: no cover - not Linux
        return found
    inodes: dict[str, Path] = {}
    for directory in directories:
        with suppress(FileNotFoundError):
            inodes[str(os.stat(directory / "data.mdb").st_ino)] = directory
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/maps", encoding="utf-8", errors="surrogateescape") as maps:
                    for line in maps:
                        # The device is not compared: with some file systems it is another one here than stat() tells.
                        if "/data.mdb" in line and (at := inodes.get(line.split(maxsplit=5)[4])) is not None:
                            found[at].add(int(name))
            except OSError:
                continue  # it ended, or is another user's
    return found
