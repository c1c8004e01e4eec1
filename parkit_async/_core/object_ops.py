"""What any object does, as functions of a transaction: being created, found, dropped, and having persistent attributes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from .binding import Binding
from .doorbell import EVENT_ALL, EVENT_CHANGE
from .errors import ObjectNotFoundError
from .layout import (
    FLAG_UNVERSIONED,
    Entry,
    State,
    attribute_prefix,
    damaged,
    dead_prefix,
    directory_key,
    directory_prefix,
    text,
)
from .reclaim import retire
from .shared import WORD_RETIRED
from .transactions import Reading, Writing

__all__ = [
    "attributes",
    "create",
    "delete_attribute",
    "drop",
    "entries",
    "entry_of",
    "exists",
    "find",
    "get_attribute",
    "set_attribute",
    "version",
]


def find(reading: Reading, name: str) -> Entry | None:
    """Return the directory entry of a name, if it has one."""
    raw = reading.transaction.get(directory_key(name))
    return None if raw is None else Entry.unpack(raw)


def create(
    writing: Writing, name: str, type_name: str, versioned: bool, codec: str | None, maxsize: int, custom: dict[str, Any]
) -> tuple[Entry, bool]:
    """Create an object, unless there is one of that name already. Return its entry, and whether it was created."""
    found = find(writing, name)
    if found is not None:
        return found, False
    uuid = uuid4().hex
    writing.reserve(1024)
    object_id = writing.new_id(2)
    entry = Entry(object_id, type_name, uuid, versioned, datetime.now(UTC).isoformat(), codec, custom)
    state = State.new(object_id + 1, int(uuid[:15], 16), maxsize, 0 if versioned else FLAG_UNVERSIONED)
    writing.touched += 1
    writing.transaction.put(directory_key(name), entry.pack())
    writing.transaction.put(State.key(object_id), state.pack())
    return entry, True


def drop(writing: Writing, binding: Binding, name: str) -> None:
    """Remove an object with all it holds. Big ones are reclaimed later."""
    state = writing.state(binding)
    writing.change(binding, EVENT_ALL)
    transaction = writing.transaction
    transaction.delete(directory_key(name))
    transaction.delete(binding.header)
    state.dropped = True
    left = [
        retire(writing, prefix, size)
        for prefix, size in (
            (state.prefix, state.length + state.tail - state.head),
            (attribute_prefix(binding.object_id), 0),
            (dead_prefix(binding.object_id), state.dead),
        )
    ]
    if any(left):
        writing.namespace.table.words[WORD_RETIRED] = 1


def exists(reading: Reading, binding: Binding) -> bool:
    """Return whether the object has not been dropped."""
    try:
        reading.state(binding)
    except ObjectNotFoundError:
        return False
    return True


def entry_of(reading: Reading, binding: Binding, name: str) -> Entry:
    """Return the directory entry of an object that exists."""
    reading.state(binding)
    entry = find(reading, name)
    if entry is None:
        raise damaged("the namespace's directory")
    return entry


def version(reading: Reading, binding: Binding) -> int:
    """Return how many committed transactions have changed the object."""
    return reading.state(binding).version


def get_attribute(reading: Reading, binding: Binding, name: str) -> Any:
    """Return the value of a persistent attribute; raise AttributeError if it has none of that name."""
    reading.state(binding)
    raw = reading.transaction.get(attribute_prefix(binding.object_id) + name.encode())
    if raw is None:
        raise AttributeError(f"{binding.path!r} has no attribute {name!r}", name=name)
    return binding.decode(raw, name)


def set_attribute(writing: Writing, binding: Binding, name: str, frame: bytes) -> None:
    """Store a persistent attribute."""
    writing.state(binding)
    writing.reserve(len(name) + len(frame))
    writing.change(binding, EVENT_CHANGE)
    writing.transaction.put(attribute_prefix(binding.object_id) + name.encode(), frame)


def delete_attribute(writing: Writing, binding: Binding, name: str) -> None:
    """Delete a persistent attribute; raise AttributeError if there is none of that name."""
    writing.state(binding)
    key = attribute_prefix(binding.object_id) + name.encode()
    if writing.transaction.get(key) is None:
        raise AttributeError(f"{binding.path!r} has no attribute {name!r}", name=name)
    writing.change(binding, EVENT_CHANGE)
    writing.transaction.delete(key)


def attributes(reading: Reading, binding: Binding) -> list[str]:
    """Return the names of the persistent attributes, sorted."""
    reading.state(binding)
    prefix = attribute_prefix(binding.object_id)
    return [text(key[len(prefix) :], "the name of an attribute") for key, _ in _entries(reading, prefix)]


def entries(reading: Reading) -> list[tuple[str, Entry]]:
    """Return the directory: names and entries, in order."""
    prefix = directory_prefix()
    return [(text(key[len(prefix) :], "a name in the namespace's directory"), Entry.unpack(raw)) for key, raw in _entries(reading, prefix)]


def _entries(reading: Reading, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = reading.transaction.cursor()
    if cursor.set_range(prefix):
        for key, raw in cursor.iternext():
            if not key.startswith(prefix):
                return
            yield key, raw
