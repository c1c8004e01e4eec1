"""What a Log does, as functions of a transaction: entries at the indices 0 to length - 1, never changed once written."""

from __future__ import annotations

from collections.abc import Iterator
from pickle import loads
from typing import Any

from .binding import Binding
from .doorbell import EVENT_CHANGE
from .layout import State, index_key
from .reclaim import retire
from .shared import WORD_RETIRED
from .transactions import Reading, Writing

__all__ = ["append", "clear", "count", "extend", "get", "get_slice", "index", "length", "position", "walk"]

_PICKLE = 0x80


def append(writing: Writing, binding: Binding, frame: bytes) -> None:
    """Store a frame at the end."""
    writing.reserve(len(frame) + 17)
    state = writing.change(binding, EVENT_CHANGE)
    writing.transaction.put(index_key(state.prefix, state.tail), frame)
    state.tail += 1


def extend(writing: Writing, binding: Binding, frames: list[bytes]) -> None:
    """Store many frames at the end."""
    if not frames:
        return
    writing.reserve(sum(len(frame) + 24 for frame in frames))
    state = writing.change(binding, EVENT_CHANGE)
    prefix, tail = state.prefix, state.tail
    writing.put_many([(index_key(prefix, tail + offset), frame) for offset, frame in enumerate(frames)])
    state.tail += len(frames)


def length(reading: Reading, binding: Binding) -> int:
    """Return the number of entries."""
    return reading.state(binding).tail


def position(reading: Reading, binding: Binding) -> tuple[int, int]:
    """Return (range, length): the range changes when the log is cleared, so that a follower notices."""
    state = reading.state(binding)
    return state.range, state.tail


def get(reading: Reading, binding: Binding, index: int) -> Any:
    """Return the entry at ``index``, which may be negative; raise IndexError if there is none."""
    state = reading.state(binding)
    at = index + state.tail if index < 0 else index
    if not 0 <= at < state.tail:
        raise IndexError("log index out of range")
    return binding.decode(binding.raw_at(reading, state, index_key(state.prefix, at)), at, reading)


def get_slice(reading: Reading, binding: Binding, part: slice) -> list[Any]:
    """Return the entries of a slice, as a list."""
    state = reading.state(binding)
    indices = range(*part.indices(state.tail))
    if indices.step == 1:
        return list(walk(reading, binding, indices.start, indices.stop))
    return [binding.decode(binding.raw_at(reading, state, index_key(state.prefix, at)), at, reading) for at in indices]


def walk(reading: Reading, binding: Binding, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[Any]:
    """Iterate over the entries from ``start`` up to ``stop`` (by default: all), both within bounds; ``reading`` must stay open meanwhile."""
    state = reading.state(binding)
    stop = state.tail if stop is None else min(stop, state.tail)
    if start >= stop:
        return
    indices = range(stop - 1, start - 1, -1) if reverse else range(start, stop)
    if reading.views is not None:
        for at in indices:
            yield binding.decode(binding.raw_at(reading, state, index_key(state.prefix, at)), at, reading)
        return
    plain = binding.allowed is None
    cursor = reading.transaction.cursor()
    if not reverse:
        cursor.set_range(index_key(state.prefix, start))
        values = cursor.iternext(False, True)
    else:
        cursor.set_range(index_key(state.prefix, stop - 1))
        values = cursor.iterprev(False, True)
    for at, raw in zip(indices, values, strict=False):
        try:
            value = loads(raw) if plain and raw[0] == _PICKLE else binding.decode(raw, at)
        except Exception:
            value = binding.decode(raw, at)
        yield value


def index(reading: Reading, binding: Binding, value: object, start: int, stop: int | None) -> int:
    """Return the first index of ``value`` in a part of the log; raise ValueError if it is not there. As ``list.index``."""
    size = reading.state(binding).tail
    first, last, _ = slice(start, stop).indices(size)
    for at, entry in enumerate(walk(reading, binding, first, last), first):
        if entry is value or entry == value:
            return at
    raise ValueError(f"{value!r} is not in log")


def count(reading: Reading, binding: Binding, value: object) -> int:
    """Return how many entries equal ``value``."""
    return sum(entry is value or entry == value for entry in walk(reading, binding))


def clear(writing: Writing, binding: Binding) -> None:
    """Delete every entry."""
    size = writing.state(binding).tail
    if size:
        state: State = writing.change(binding, EVENT_CHANGE)
        # Always another range, so that a follower can tell a log that was cleared and refilled from one that only grew.
        if retire(writing, state.prefix, size):
            writing.namespace.table.words[WORD_RETIRED] = 1
        state.move(writing.new_id())
        state.tail = 0
