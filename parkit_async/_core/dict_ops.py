"""What a Dict does, as functions of a transaction.

Keys come in as *tails* (``binding.locate``) and values as frames, encoded by the caller before the transaction begins, so that nothing a
user's ``__reduce__`` does happens while others wait. Tails of long keys end in a hash; such keys that agree in all that is stored of them
lie together, in no order, so a scan collects each such cluster and sorts it by the whole keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pickle import dumps, loads
from typing import Any, Final

from . import codecs, keys, ownership
from .binding import ATOMS, Binding, Entries, locate
from .doorbell import EVENT_CHANGE
from .engine import EngineError
from .layout import FLAG_KEYED, FLAG_MIXED, State, prefix_end
from .ownership import contexts, for_writing, this_thread
from .reclaim import retire
from .shared import WORD_RETIRED
from .signatures import shown_as
from .transactions import ENTRY, Reading, Writing

__all__ = [
    "ITEMS",
    "KEYS",
    "VALUES",
    "Scan",
    "assign",
    "clear",
    "contains",
    "delete",
    "get",
    "length",
    "lookup",
    "pop",
    "popitem",
    "put",
    "setdefault",
    "update",
]

KEYS: Final = "keys"
VALUES: Final = "values"
ITEMS: Final = "items"

_PREFIX: Final = 9
_PORTION: Final = 64
_PICKLE: Final = 0x80
_STR: Final = bytes((keys.TAG_STR,))
_LONG: Final = keys.LONG_PREFIX
_modules: Final = sys.modules
MISSING: Final = object()


def lookup(binding: Binding, key: object, default: Any) -> Any:
    """Return the value of a key, or ``default``: :func:`get` in the caller's context, with a short way for the ordinary case.

    The transaction is given up before anything is decoded, and no exception's traceback can keep it.
    """
    namespace = binding.namespace
    if not contexts and type(key) is str:
        try:
            tail = key.encode()
            transaction = namespace.begin()
            cached = binding.cached
            if transaction.id() != cached[0]:
                cached = binding.rebind(transaction)
            raw = transaction.get(cached[2] + tail)
            transaction = None
        except (EngineError, UnicodeEncodeError):
            transaction = None
        else:
            if raw:
                if raw[0] == _PICKLE and binding.allowed is None:
                    try:
                        return loads(raw)
                    except Exception as error:
                        raise binding.undecodable(key, error) from error
                return binding.decode(raw, key)
            if raw is None and len(tail) < keys.LONG_PREFIX:
                return default
    return namespace.read(get, binding, locate(key), key, default)


def store(binding: Binding, key: object, value: object) -> None:
    """Store a value in the caller's transaction or one of its own, waiting for the turn: :func:`put`, with a short way for each."""
    tail, frame, flags = binding.encode_entry(key, value)
    namespace = binding.namespace
    if contexts:
        writing = for_writing(namespace)
        if writing is not None:
            try:
                put(writing, binding, tail, frame, flags)
            except EngineError as error:
                raise namespace.space.failed(error, "storing a value") from error
            return
    namespace.write_apart(put, (binding, tail, frame, flags))


@shown_as("(self, key: K, value: V) -> None")
def assign(self: Any, key: object, value: object) -> None:
    """Set self[key] to value."""
    # The method ``__setitem__`` of the blocking Dict itself. The case of a transaction that changes one dict again and again is spelled out, as
    # bulk loads do that: who calls (`for_writing`), the encoding (`encode_entry`) and `put`, in one frame. It takes a sixth off an assignment.
    binding: Binding = self._binding
    if contexts and binding.plain and type(key) is str and type(value) in ATOMS:
        loop = ownership.running_loop
        if loop() is None if loop is not None else "asyncio.tasks" not in _modules:
            stack: list[Any] | None = contexts.get(this_thread.token)
            if stack is not None and (state := (writing := stack[0]).current) is not None and state.identity is binding and len(stack) == 1:
                try:
                    tail = _STR + key.encode()
                    frame = dumps(value, 5)
                    room = writing.room - (len(tail) + len(frame) + ENTRY)
                    if room >= 0 and len(tail) <= _LONG:
                        writing.room = room
                        writing.touched += 1
                        if (writing.replace or writing.transaction.replace)(state.prefix + tail, frame) is None:
                            state.length += 1
                        return
                except UnicodeEncodeError:
                    pass
                except EngineError as error:
                    raise binding.namespace.space.failed(error, "storing a value") from error
    store(binding, key, value)


assign.__name__, assign.__qualname__ = "__setitem__", "Dict.__setitem__"  # bound, it is pickled by its name


def get(reading: Reading, binding: Binding, tail: bytes, key: object, default: Any) -> Any:
    """Return the value at ``tail``, or ``default``."""
    state = reading.state(binding)
    raw = binding.raw_at(reading, state, state.prefix + tail)
    return default if raw is None else binding.decode(raw, key, reading)


def contains(reading: Reading, binding: Binding, tail: bytes) -> bool:
    """Return whether there is an entry at ``tail``."""
    return reading.transaction.get(reading.state(binding).prefix + tail) is not None


def length(reading: Reading, binding: Binding) -> int:
    """Return the number of entries."""
    return reading.state(binding).length


def put(writing: Writing, binding: Binding, tail: bytes, frame: bytes, flags: int) -> None:
    """Store a frame at ``tail``; ``flags`` says what is unusual about the key."""
    room = writing.room = writing.room - (len(tail) + len(frame) + ENTRY)
    if room < 0:
        writing.reserve(len(tail) + len(frame))
    state = writing.current
    if state is not None and state.identity is binding:
        writing.touched += 1
    else:
        state = writing.change(binding, EVENT_CHANGE)
        state.identity = binding  # another handle of the dict may have changed it before
        writing.current = state
    if flags:
        state.flags |= flags
    if (writing.replace or writing.transaction.replace)(state.prefix + tail, frame) is None:
        state.length += 1


def update(writing: Writing, binding: Binding, entries: Entries) -> None:
    """Store many frames."""
    if not entries.tails:
        return
    writing.reserve(sum(map(len, entries.tails)) + sum(map(len, entries.frames)) + 24 * len(entries.tails))
    state = writing.change(binding, EVENT_CHANGE)
    before = writing.entries()
    writing.put_many(zip(map((state.prefix + entries.stem).__add__, entries.tails), entries.frames, strict=True))
    state.length += writing.entries() - before
    state.flags |= entries.flags


def setdefault(writing: Writing, binding: Binding, tail: bytes, key: object, frame: bytes, flags: int) -> Any:
    """Return the value at ``tail``; store ``frame`` and return MISSING if there is none."""
    found = get(writing, binding, tail, key, MISSING)
    if found is MISSING:
        put(writing, binding, tail, frame, flags)
    return found


def delete(writing: Writing, binding: Binding, tail: bytes, key: object) -> None:
    """Delete the entry at ``tail``; raise KeyError(key) if there is none."""
    state = writing.state(binding)
    if writing.transaction.get(state.prefix + tail) is None:
        raise KeyError(key)
    writing.change(binding, EVENT_CHANGE)
    writing.transaction.delete(state.prefix + tail)
    state.length -= 1


def pop(writing: Writing, binding: Binding, tail: bytes, key: object, default: Any) -> Any:
    """Delete the entry at ``tail`` and return its value, or ``default`` if there is none. One that cannot be decoded stays."""
    state = writing.state(binding)
    raw = writing.transaction.get(state.prefix + tail)
    if raw is None:
        return default
    value = binding.decode(raw, key)
    writing.change(binding, EVENT_CHANGE)
    writing.transaction.delete(state.prefix + tail)
    state.length -= 1
    return value


def popitem(writing: Writing, binding: Binding) -> Any:
    """Delete the last entry in key order and return it; raise KeyError if there is none."""
    state = writing.state(binding)
    found = next(iter(Scan(binding, ITEMS, reverse=True).run(writing)), None)
    if found is None:
        raise KeyError(f"popitem(): {binding.path!r} is empty")
    writing.change(binding, EVENT_CHANGE)
    writing.transaction.delete(state.prefix + locate(found[0]))
    state.length -= 1
    return found


def clear(writing: Writing, binding: Binding) -> None:
    """Delete every entry. A big dict gets a new range at once, and the old one is reclaimed later."""
    if writing.state(binding).length:
        replace_range(writing, writing.change(binding, EVENT_CHANGE), writing.state(binding).length)


def replace_range(writing: Writing, state: State, size: int) -> None:
    """Empty an object's range of ``size`` entries."""
    state.length = 0
    state.flags &= ~(FLAG_KEYED | FLAG_MIXED)
    if retire(writing, state.prefix, size):
        state.move(writing.new_id())
        writing.namespace.table.words[WORD_RETIRED] = 1


class Scan:
    """A walk over a Dict's entries in key order.

    Args:
        binding: The dict.
        what: KEYS, VALUES or ITEMS.
        minimum: Key to begin with, or MISSING.
        maximum: Key to end with, or MISSING.
        inclusive: Whether each of them belongs to the walk.
        reverse: From the end to the beginning.
    """

    __slots__ = ("_above", "_below", "_binding", "_bounded", "_inclusive", "_reverse", "_what")

    def __init__(
        self,
        binding: Binding,
        what: str,
        minimum: object = MISSING,
        maximum: object = MISSING,
        inclusive: tuple[bool, bool] = (True, True),
        reverse: bool = False,
    ) -> None:
        self._binding = binding
        self._what = what
        self._above = None if minimum is MISSING else keys.encode(minimum)
        self._below = None if maximum is MISSING else keys.encode(maximum)
        self._inclusive = inclusive
        self._reverse = reverse
        self._bounded = self._above is not None or self._below is not None

    def run(self, reading: Reading) -> Iterator[Any]:
        """Iterate; ``reading`` must stay open meanwhile."""
        state = reading.state(self._binding)
        if not state.length:
            return iter(())
        if self._bounded or state.flags & FLAG_KEYED or self._binding.allowed is not None or reading.views is not None:
            return self._careful(reading, state)
        return chain.from_iterable(self._plain(reading, state))

    def _plain(self, reading: Reading, state: State) -> Iterator[Iterable[Any]]:
        """Iterate over portions of all entries, where every key is in its plain form; the length tells where to stop."""
        cursor = reading.transaction.cursor()
        if not self._reverse:
            cursor.set_range(state.prefix)
            walk: Callable[..., Iterator[Any]] = cursor.iternext
        else:
            _to_last(cursor, prefix_end(state.prefix))
            walk = cursor.iterprev
        wants_values = self._what != KEYS
        entries = islice(walk(True, wants_values), state.length)
        only_text = not state.flags & FLAG_MIXED
        while portion := list(islice(entries, _PORTION)):
            if only_text:
                try:
                    # A comprehension over what is nearly always there: half the cost of looking at each entry. A frame that is no pickle
                    # begins with a byte that is no opcode, so it fails, like everything else that is not as usual.
                    if not wants_values:
                        yield [key[10:].decode() for key in portion]
                    elif self._what == VALUES:
                        yield [loads(raw) for _, raw in portion]
                    else:
                        yield [(key[10:].decode(), loads(raw)) for key, raw in portion]
                    continue
                except Exception:
                    pass
            yield self._one_by_one(portion)

    def _one_by_one(self, portion: list[Any]) -> Iterator[Any]:
        binding = self._binding
        if self._what == KEYS:
            for key in portion:
                yield binding.decode_key(key[_PREFIX:], b"\0")
            return
        for key, raw in portion:
            name = binding.decode_key(key[_PREFIX:], raw)
            value = binding.decode(raw, name)
            yield value if self._what == VALUES else (name, value)

    def _careful(self, reading: Reading, state: State) -> Iterator[Any]:
        binding, what = self._binding, self._what
        prefix = state.prefix
        for key, raw in self._entries(reading, prefix):
            if what == KEYS:
                yield binding.decode_key(key[_PREFIX:], raw)
                continue
            name = binding.decode_key(key[_PREFIX:], raw)
            if reading.views is not None:
                raw = binding.raw_at(reading, state, key)
            value = binding.decode(raw, name, reading)
            yield value if what == VALUES else (name, value)

    def _entries(self, reading: Reading, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        """Iterate over stored keys and frames within the bounds, each cluster of long keys in the order of the whole keys."""
        cluster: list[tuple[bytes, bytes, Any]] = []
        stem = b""
        for key, raw in self._walk(reading.transaction.cursor(), prefix):
            tail = key[_PREFIX:]
            if keys.is_long(tail):
                if cluster and tail[: keys.LONG_PREFIX] != stem:
                    yield from self._sorted(cluster)
                stem = tail[: keys.LONG_PREFIX]
                try:
                    full = codecs.split_keyed(raw)[0]
                except codecs.FrameError:
                    full = None
                # Without its whole key an entry is damaged, as who decodes it will be told; it stands where its prefix does.
                cluster.append((tail if full is None else bytes(full), key, raw))
                continue
            if cluster:
                yield from self._sorted(cluster)
            if self._within(tail):
                yield key, raw
        yield from self._sorted(cluster)

    def _walk(self, cursor: Any, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        """Iterate over stored keys and frames, from the first to the last that can be within the bounds."""
        low = prefix if self._above is None else prefix + self._above[: keys.LONG_PREFIX]
        high = prefix_end(prefix) if self._below is None else prefix + self._below[: keys.LONG_PREFIX]
        # A stored key is at most MAX_STORED long, so these are behind every key that begins with `high`.
        high = high if self._below is None else high + b"\xff" * (keys.MAX_STORED + 1 - min(len(self._below), keys.LONG_PREFIX))
        if self._reverse:
            _to_last(cursor, high)
            for key, raw in cursor.iterprev():
                if key < low:  # the namespace's own record at the latest
                    break
                yield key, raw
            return
        if not cursor.set_range(low):
            return
        for key, raw in cursor.iternext():
            if key >= high:
                return
            yield key, raw

    def _within(self, encoded: bytes) -> bool:
        above, below = self._above, self._below
        if above is not None and (encoded < above or (encoded == above and not self._inclusive[0])):
            return False
        return below is None or encoded < below or (encoded == below and self._inclusive[1])

    def _sorted(self, cluster: list[tuple[bytes, bytes, Any]]) -> Iterable[tuple[bytes, Any]]:
        cluster.sort(reverse=self._reverse)
        entries = [(key, raw) for full, key, raw in cluster if self._within(full)]
        cluster.clear()
        return entries


def _to_last(cursor: Any, end: bytes) -> bool:
    """Put a cursor on the last key before ``end``."""
    return bool(cursor.prev() if cursor.set_range(end) else cursor.last())
