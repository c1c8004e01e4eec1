"""What a Queue and a LifoQueue do, as functions of a transaction.

Items lie at consecutive indices, head to tail; a Queue takes from the head, a LifoQueue from the tail. There are no holes, so the size is
a subtraction, and an item leaves only in the transaction that hands it to its taker.

An item that cannot be decoded is set aside as a dead letter, in the transaction that found it, and the taker gets a CodecError. Should decoding
one kill the process (``__reduce__`` may call anything), the transaction is gone and the item is back; so that it cannot kill every taker there
will ever be, the shared table counts the attempts, and after three the next taker finds it set aside.
"""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from pickle import loads
from typing import Any, Final, NamedTuple

from .binding import Binding, Failure
from .doorbell import EVENT_ALL, EVENT_CHANGE, EVENT_DONE, EVENT_ITEMS, EVENT_SPACE
from .engine import Transaction
from .errors import CodecError, ShutDown
from .layout import FLAG_SHUT_DOWN, State, damaged, dead_prefix, index_key
from .reclaim import retire
from .shared import WORD_ATTEMPTED, WORD_ATTEMPTS, WORD_RETIRED
from .transactions import Reading, Writing

__all__ = [
    "DONE",
    "EMPTY",
    "FULL",
    "PENDING",
    "DeadLetter",
    "clear",
    "dead_letters",
    "get",
    "get_many",
    "is_shut_down",
    "join_state",
    "put",
    "put_many",
    "ready",
    "set_maxsize",
    "shut_down",
    "size",
    "task_done",
]

EMPTY: Final = object()
FULL: Final = object()
DONE: Final = object()
PENDING: Final = object()

ATTEMPTS: Final = 3
"""How many takers may die while they decode one item."""

_PICKLE: Final = 0x80
_GLOBAL: Final = b"\x93"
"""The opcode by which protocol 5 refers to classes and functions; parkit stores no other protocol."""

_reason_size = struct.Struct("<I")


class DeadLetter(NamedTuple):
    """An item that was set aside because it could not be decoded.

    Attributes:
        raw: The stored bytes.
        reason: Why, with the traceback where there was one.
        when: ISO 8601, UTC.
    """

    raw: bytes
    reason: str
    when: str


def put(writing: Writing, binding: Binding, frame: bytes) -> Any:
    """Put one frame. Return FULL, having changed nothing, if there is no room.

    Raises:
        ShutDown: The queue takes no more items.
    """
    state = writing.state(binding)
    if state.flags & FLAG_SHUT_DOWN:
        raise ShutDown
    tail = state.tail
    if state.maxsize and tail - state.head >= state.maxsize:
        return FULL
    writing.reserve(len(frame) + 17)
    writing.change(binding, EVENT_ITEMS)
    writing.transaction.put(index_key(state.prefix, tail), frame)
    state.tail = tail + 1
    state.unfinished += 1
    return None


def put_many(writing: Writing, binding: Binding, frames: list[bytes]) -> Any:
    """Put all frames, or return FULL, having changed nothing, if there is no room for all of them now.

    Raises:
        ShutDown: The queue takes no more items.
        ValueError: There never will be.
    """
    state = writing.state(binding)
    if state.flags & FLAG_SHUT_DOWN:
        raise ShutDown
    if state.maxsize:
        if len(frames) > state.maxsize:
            raise ValueError(f"{len(frames)} items can never fit in {binding.path!r}, whose maxsize is {state.maxsize}: put them in smaller portions")
        if state.tail - state.head + len(frames) > state.maxsize:
            return FULL
    if frames:
        writing.reserve(sum(len(frame) + 24 for frame in frames))
        writing.change(binding, EVENT_ITEMS)
        prefix, tail = state.prefix, state.tail
        writing.put_many([(index_key(prefix, tail + offset), frame) for offset, frame in enumerate(frames)])
        state.tail += len(frames)
        state.unfinished += len(frames)
    return None


def get(writing: Writing, binding: Binding, lifo: bool) -> Any:
    """Take one item. Return EMPTY if there is none, a Failure if it could not be decoded (and was set aside).

    Raises:
        ShutDown: There is none, and none will come.
    """
    state = writing.state(binding)
    head, tail = state.head, state.tail
    if head == tail:
        if state.flags & FLAG_SHUT_DOWN:
            raise ShutDown
        return EMPTY
    writing.change(binding, EVENT_SPACE)
    if lifo:
        index = state.tail = tail - 1
    else:
        index = head
        state.head = head + 1
    raw = writing.transaction.pop(index_key(state.prefix, index)) or b""  # missing only where the file was damaged
    if raw and raw[0] == _PICKLE and _GLOBAL not in raw and binding.allowed is None:
        # It names no class or function, so decoding it runs no code of anybody's.
        try:
            return loads(raw)
        except Exception:
            pass
    return _decode(writing, binding, state, index, raw)


def get_many(writing: Writing, binding: Binding, lifo: bool, count: int) -> Any:
    """Take up to ``count`` items, as a list; EMPTY if there is none. An item that cannot be decoded ends the portion before it, or is set
    aside if it is the first."""
    state = writing.state(binding)
    available = min(count, state.tail - state.head)
    if not available:
        if state.flags & FLAG_SHUT_DOWN:
            raise ShutDown
        return EMPTY
    transaction = writing.transaction
    items: list[Any] = []
    taken = 0
    failure: Failure | None = None
    while taken < available:
        index = state.tail - 1 - taken if lifo else state.head + taken
        key = index_key(state.prefix, index)
        value = _decode(writing, binding, state, index, transaction.get(key) or b"", set_aside=not items)
        if isinstance(value, Failure):
            failure = value
            break
        transaction.delete(key)
        taken += 1
        items.append(value)
    writing.change(binding, EVENT_SPACE)
    if failure is not None and not items:
        transaction.delete(key)
        taken = 1
    if lifo:
        state.tail -= taken
    else:
        state.head += taken
    return items or failure


def _decode(writing: Writing, binding: Binding, state: State, index: int, raw: bytes, set_aside: bool = True) -> Any:
    words = writing.namespace.table.words
    attempt = hash((state.range, index)) & 0xFFFF_FFFF_FFFF_FFFF
    attempts = words[WORD_ATTEMPTS] if words[WORD_ATTEMPTED] == attempt else 0
    if attempts >= ATTEMPTS:
        reason = f"{attempts} processes died while they decoded it"
        error = binding.undecodable(index, RuntimeError(reason))
    else:
        words[WORD_ATTEMPTED] = attempt
        words[WORD_ATTEMPTS] = attempts + 1
        try:
            value = binding.decode(raw, index)
            words[WORD_ATTEMPTS] = 0
            return value
        except CodecError as failure:
            error = failure
            reason = _describe(failure)
    words[WORD_ATTEMPTS] = 0
    if set_aside:
        _set_aside(writing.transaction, binding, state, raw, reason)
    return Failure(error)


def _describe(error: CodecError) -> str:
    import traceback

    return "".join(traceback.format_exception(error.__cause__ or error))


def _set_aside(transaction: Transaction, binding: Binding, state: State, raw: bytes, reason: str) -> None:
    head = json.dumps({"reason": reason, "when": datetime.now(UTC).isoformat()}).encode()
    transaction.put(index_key(dead_prefix(binding.object_id), state.dead), _reason_size.pack(len(head)) + head + raw)
    state.dead += 1


def dead_letters(reading: Reading, binding: Binding) -> list[DeadLetter]:
    """Return the items that were set aside, oldest first."""
    state = reading.state(binding)
    prefix = dead_prefix(binding.object_id)
    letters = []
    for index in range(state.dead):
        stored = reading.transaction.get(index_key(prefix, index))
        try:
            (size,) = _reason_size.unpack_from(stored)
            head = json.loads(stored[4 : 4 + size])
            letters.append(DeadLetter(bytes(stored[4 + size :]), head["reason"], head["when"]))
        except (struct.error, TypeError, KeyError, ValueError, RecursionError) as error:
            raise damaged(f"dead letter {index} of {binding.path!r}") from error
    return letters


def size(reading: Reading, binding: Binding) -> tuple[int, int]:
    """Return how many items there are, and the maximum (0: unbounded)."""
    state = reading.state(binding)
    return state.tail - state.head, state.maxsize


def ready(reading: Reading, binding: Binding) -> bool:
    """Return whether taking an item would not have to wait: there is one, or none will come."""
    state = reading.state(binding)
    return state.tail != state.head or bool(state.flags & FLAG_SHUT_DOWN)


def is_shut_down(reading: Reading, binding: Binding) -> bool:
    """Return whether the queue takes no more items."""
    return bool(reading.state(binding).flags & FLAG_SHUT_DOWN)


def task_done(writing: Writing, binding: Binding) -> None:
    """Acknowledge an item; raise ValueError if there is none to acknowledge."""
    state = writing.state(binding)
    if not state.unfinished:
        raise ValueError("task_done() called too many times")
    writing.change(binding, EVENT_DONE if state.unfinished == 1 else EVENT_CHANGE)
    state.unfinished -= 1


def join_state(reading: Reading, binding: Binding) -> Any:
    """Return DONE if every item was acknowledged, else PENDING."""
    return PENDING if reading.state(binding).unfinished else DONE


def shut_down(writing: Writing, binding: Binding, immediate: bool) -> None:
    """Take no more items; with ``immediate`` drop those that are there, too."""
    state = writing.state(binding)
    count = state.tail - state.head
    if state.flags & FLAG_SHUT_DOWN and not (immediate and count):
        return
    writing.change(binding, EVENT_ALL)
    state.flags |= FLAG_SHUT_DOWN
    if immediate and count:
        state.unfinished = max(0, state.unfinished - count)
        _empty(writing, state, count)


def clear(writing: Writing, binding: Binding) -> None:
    """Drop all items; they count as acknowledged."""
    state = writing.state(binding)
    count = state.tail - state.head
    if count:
        event = EVENT_SPACE | (EVENT_DONE if state.unfinished <= count else 0)
        writing.change(binding, event)
        state.unfinished = max(0, state.unfinished - count)
        _empty(writing, state, count)


def _empty(writing: Writing, state: State, count: int) -> None:
    if retire(writing, state.prefix, count):
        state.move(writing.new_id())
        writing.namespace.table.words[WORD_RETIRED] = 1
    state.head = state.tail


def set_maxsize(writing: Writing, binding: Binding, maxsize: int) -> None:
    """Set how many items may be in the queue; those that are there stay."""
    if writing.state(binding).maxsize != maxsize:
        writing.change(binding, EVENT_SPACE).maxsize = maxsize
