"""What a handle knows of the object it is bound to, and how values become bytes and back.

A binding never changes, but for ``cached``: the id of the last committed transaction in which the object's header was looked at, the
prefix of its entries then, and that of the entries with plain str keys. A read of the same state needs no second look. They are one tuple,
so that a thread can never see one of them new and another old.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from pickle import dumps, loads
from typing import TYPE_CHECKING, Any, NamedTuple

from . import codecs, keys
from .codecs import Codec
from .errors import CodecError
from .layout import FLAG_KEYED, FLAG_MIXED, Entry, State, header_key
from .transactions import Reading, dropped

if TYPE_CHECKING:
    from .namespace import Namespace

__all__ = ["ATOMS", "Binding", "Entries", "Failure", "locate"]

_STR = bytes((keys.TAG_STR,))
_LONG = keys.LONG_PREFIX
_PICKLE = 0x80
ATOMS = frozenset({int, str, bytes, float, bool, type(None)})
"""Types whose pickles run no code."""
_KEYED = codecs.key_frame(b"key", None)[0]


def locate(key: object) -> bytes:
    """Return where a key lies behind its range's prefix.

    Raises:
        TypeError: The key is not hashable.
    """
    if type(key) is str:
        try:
            tail = _STR + key.encode()
        except UnicodeEncodeError:
            tail = keys.encode(key)
        if len(tail) <= _LONG:
            return tail
        return keys.stored(tail)
    return keys.stored(keys.encode(key))


class Entries(NamedTuple):
    """Entries of a dict, encoded.

    Attributes:
        tails: Where each lies, behind ``stem``.
        frames: Their bytes.
        stem: What all the tails begin with.
        flags: What is unusual about any of the keys.
    """

    tails: list[bytes]
    frames: list[bytes]
    stem: bytes
    flags: int


class Failure:
    """The outcome of an operation that must be committed although it failed: the error to raise afterwards."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Binding:
    """An object, found.

    Attributes:
        namespace: Where it lives.
        path: Its whole path.
        object_id: Its id there.
        header: Key of its header.
        nonce: See :class:`.layout.State`.
        entry: Its directory entry.
        codec: What its values are encoded with; None is the default.
        allowed: Names of the codecs that may be decoded here; None for all.
        plain: Whether values are pickled, and nothing more: no codec is set, and any may be.
        cached: See the module.
        latest: The number of the last commit of the namespace, and the object's header after it, if this process made that; for its next write.
    """

    __slots__ = ("allowed", "cached", "codec", "entry", "header", "latest", "namespace", "nonce", "object_id", "path", "plain")

    def __init__(self, namespace: Namespace, path: str, entry: Entry, codec: Codec | None) -> None:
        self.namespace = namespace
        self.path = path
        self.entry = entry
        self.object_id = entry.object_id
        self.header = header_key(entry.object_id)
        self.nonce = int(entry.uuid[:15], 16)
        self.codec = codec
        names = namespace.settings().codecs
        self.allowed = None if names is None else frozenset(names)
        self.plain = codec is None and names is None
        self.latest: tuple[int, State] | None = None
        self.cached: tuple[int, bytes, bytes] = (-1, b"", b"")

    def rebind(self, transaction: Any) -> tuple[int, bytes, bytes]:
        """Look at the header in LMDB's read transaction ``transaction``; return what is ``cached`` now.

        Raises:
            ObjectNotFoundError: The object was dropped.
        """
        raw = transaction.get(self.header)
        if raw is None:
            raise dropped(self)
        state = State(raw)
        if state.nonce != self.nonce:
            raise dropped(self)
        cached = self.cached = transaction.id(), state.prefix, state.prefix + _STR
        return cached

    def encode(self, value: object) -> bytes:
        """Return the bytes to store for a value. What pickling raises comes out unchanged.

        Raises:
            CodecError: The namespace is limited to codecs that run no code, and this is none of them.
        """
        if type(value) in ATOMS and self.plain:
            return dumps(value, 5)
        if self.allowed is not None:
            self._check_allowed()
        return codecs.encode(value, self.codec)

    def encode_entry(self, key: object, value: object) -> tuple[bytes, bytes, int]:
        """Return where a dict's entry lies behind the prefix, its bytes, and flags (of the header) that say what is unusual about the key."""
        if type(key) is str and self.allowed is None:
            try:
                tail = _STR + key.encode()
            except UnicodeEncodeError:
                pass
            else:
                if len(tail) <= _LONG:
                    if type(value) in ATOMS and self.plain:
                        return tail, dumps(value, 5), 0
                    return tail, codecs.encode(value, self.codec), 0
        elif self.allowed is not None:
            self._check_allowed()
        encoded, sidecar = keys.encode_with_sidecar(key)
        tail = keys.stored(encoded)
        full = encoded if len(tail) != len(encoded) or keys.is_long(tail) else None
        if sidecar is not None and self.allowed is not None:
            sidecar = None
        if full is None and sidecar is None:
            return tail, codecs.encode(value, self.codec), FLAG_MIXED
        return tail, codecs.encode_keyed(value, self.codec, full, sidecar), FLAG_KEYED | FLAG_MIXED

    def encode_many(self, entries: Iterable[tuple[object, object]] | Mapping[Any, Any]) -> Entries:
        """Return what :meth:`encode_entry` does, for many at once."""
        if type(entries) is dict:
            names: Sequence[Any] = list(entries)
            values: Sequence[Any] = list(entries.values())
        else:
            pairs = [(name, value) for name, value in (entries.items() if isinstance(entries, Mapping) else entries)]
            names, values = [name for name, _ in pairs], [value for _, value in pairs]
        if self.allowed is None and set(map(type, names)) == {str}:
            try:
                tails = list(map(str.encode, names))
            except UnicodeEncodeError:
                tails = []
            if tails and max(map(len, tails)) < _LONG:
                codec = self.codec
                if codec is None and ATOMS.issuperset(map(type, values)):
                    return Entries(tails, [dumps(value, 5) for value in values], _STR, 0)
                return Entries(tails, [codecs.encode(value, codec) for value in values], _STR, 0)
        encoded = list(map(self.encode_entry, names, values))
        flags = 0
        for _, _, flag in encoded:
            flags |= flag
        return Entries([tail for tail, _, _ in encoded], [frame for _, frame, _ in encoded], b"", flags)

    def encode_all(self, values: Iterable[object]) -> list[bytes]:
        """Return the bytes to store for each of many values."""
        if self.allowed is not None:
            self._check_allowed()
        codec = self.codec
        values = list(values)
        if codec is None and ATOMS.issuperset(map(type, values)):
            return [dumps(value, 5) for value in values]
        return [codecs.encode(value, codec) for value in values]

    def _check_allowed(self) -> None:
        name = self.codec.name if self.codec is not None else "pickle"
        assert self.allowed is not None
        if name not in self.allowed:
            raise CodecError(
                f"namespace {self.namespace.name!r} is limited to the codecs {', '.join(sorted(self.allowed))}, and {self.path!r} uses {name!r}: "
                "create the object with codec= one of these, or keep it in another namespace",
                self.path,
            )

    def decode(self, raw: Any, key: object, reading: Reading | None = None) -> Any:
        """Return the value that ``raw`` holds.

        Raises:
            CodecError: It cannot be decoded; names the path and ``key``.
        """
        try:
            if raw[0] == _PICKLE and self.allowed is None:
                return loads(raw)
            views = reading.views if reading is not None else None
            if views is None:
                return codecs.decode(raw, self.codec, allowed=self.allowed)
            return views.decode(raw, self.codec, self.allowed)
        except Exception as error:
            raise self.undecodable(key, error) from error

    def decode_key(self, tail: bytes, raw: Any) -> Any:
        """Return the key of a dict's entry, as it was last stored."""
        try:
            if raw[0] == _KEYED:
                full, sidecar, _ = codecs.split_keyed(raw)
                if sidecar is not None and self.allowed is None:
                    return loads(sidecar)
                return keys.decode(tail if full is None else bytes(full))
            return keys.decode(tail)
        except Exception as error:
            raise self.undecodable(tail, error) from error

    def undecodable(self, key: object, error: BaseException) -> CodecError:
        """Return the exception for a value that cannot be decoded."""
        reason = "".join(traceback.format_exception_only(error)).strip()
        return CodecError(
            f"the value at {key!r} of {self.path!r} cannot be decoded: {reason}. A likely cause is a class that was renamed, moved or changed "
            "since the value was stored; the other values are not affected",
            self.path,
            key,
        )

    def raw_at(self, reading: Reading, state: State, key: bytes) -> Any:
        """Return the bytes stored at a whole key, or None; as a view on the map where the context wants that and can give it."""
        if reading.views is not None and not state.changed:
            return reading.views.get(key)
        return reading.transaction.get(key)
