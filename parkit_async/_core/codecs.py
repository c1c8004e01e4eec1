"""Turn values into the bytes that are stored, and back.

A stored value is a *frame*; its first byte says how to read it, so that every value in a store names its codec::

    80                                                   a pickle: the frame is the pickle, 0x80 is its own PROTO opcode
    01 · pickle                                          the same, made by cloudpickle
    02 or 03 · directory · pickle · pad · buffers        pickle or cloudpickle with its buffers out of band
    04 · text                                            JSON
    05 · pad length · pad · data                         raw bytes
    06 · name length · name · payload                    a codec of the user's
    07 · flags · lengths · full key · sidecar · frame    a frame together with what its key could not hold

Invariants:

- Most values are plain pickles, and cost one call each way: a hot path may do ``loads(raw) if raw[0] == 0x80 else decode(raw)``.
- Buffers start at 64-byte boundaries *of memory* when the value lies on LMDB overflow pages, whose data starts 16 bytes behind a page
  boundary: a buffer at offset ``o`` of the stored value has ``(o + 16) % 64 == 0``, a wrapping frame 07 counted.
- What decode returns never refers to memory that may change, unless the caller asked for views.
- A frame that is cut short, or has lengths that lie, or bytes left over, raises :class:`FrameError`; it is checked before any of it is run.
- Errors of user code (a class that is gone, a ``__setstate__`` or ``__reduce__`` that raises) come out as they are, from both directions.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Container
from types import NoneType
from typing import Any, Final, Protocol, cast

__all__ = [
    "PICKLE",
    "CloudpickleCodec",
    "Codec",
    "FrameError",
    "JSONCodec",
    "PickleCodec",
    "RawCodec",
    "builtin_codec",
    "cloudpickle_codec",
    "decode",
    "encode",
    "encode_keyed",
    "json_codec",
    "key_frame",
    "pickle_codec",
    "raw_codec",
    "runs_code",
    "split_keyed",
]

PICKLE: Final = 0x80  #: First byte of a plain pickle.
_CLOUD, _PICKLE_BUFFERS, _CLOUD_BUFFERS, _JSON, _RAW, _CUSTOM, _KEYED = 1, 2, 3, 4, 5, 6, 7

_ALIGNMENT: Final = 64
_PAGE_HEADER: Final = 16  # of an overflow page, before its data
_ALIGN_RAW_FROM: Final = 1024  # bytes; smaller values share a leaf page, where nothing can be aligned

_directory = struct.Struct("<BBIQ")  # frame, length of the first pad, number of buffers, length of the pickle; then the buffers' sizes
_keyed = struct.Struct("<BBIQ")  # frame, flags, length of the full key, length of the sidecar
_HAS_KEY, _HAS_SIDECAR = 1, 2

#: Exact types whose pickle holds no buffers and no reference to ``__main__``.
_ATOMS: Final = frozenset({int, str, bytes, float, bool, NoneType})
_MAIN: Final = b"\x8c\x08__main__"  # how protocol 5 spells the module's name: SHORT_BINUNICODE, length, text
_STOP: Final = 0x2E

_dumps = pickle.dumps
_loads = pickle.loads


class FrameError(ValueError):
    """A stored frame is damaged, was written by something unknown, or its codec is not allowed here."""


class Codec(Protocol):
    """What turns a value into bytes and back: any object with a name and two functions.

    Attributes:
        name: Stored with each value, 1 to 255 bytes of UTF-8, none of the shipped codecs' names. Keep it: values are found by it.
    """

    @property
    def name(self) -> str: ...

    def dumps(self, value: Any, /) -> bytes:
        """Return the bytes of ``value``. What it raises comes out of the storing call unchanged. Called in the storing thread."""
        ...

    def loads(self, data: memoryview, /) -> Any:
        """Return the value of ``data``, which is read-only, and under ``zero_copy`` lives as long as the transaction."""
        ...


class PickleCodec:
    """Store by pickle, protocol 5, buffers out of band. Unlike the default it never falls back to cloudpickle. Loading runs code."""

    name = "pickle"

    def dumps(self, value: Any, /) -> bytes:
        """Return the pickle of ``value``; raise what pickling raises."""
        return _dumps(value, 5)

    def loads(self, data: memoryview, /) -> Any:
        """Return the value of a pickle; raise what unpickling raises."""
        return _loads(data)


class CloudpickleCodec:
    """Store by cloudpickle, which also carries lambdas, closures and classes of ``__main__``. Loading runs code."""

    name = "cloudpickle"

    def dumps(self, value: Any, /) -> bytes:
        """Return the pickle of ``value``; raise what pickling raises."""
        return _cloud_dumps(value, None)

    def loads(self, data: memoryview, /) -> Any:
        """Return the value of a pickle; raise what unpickling raises."""
        return _loads(data)


class JSONCodec:
    """Store as JSON: readable from anywhere, and loading runs no code. As in the json module, tuples come back as lists, keys as strings."""

    name = "json"

    def dumps(self, value: Any, /) -> bytes:
        """Return ``value`` as UTF-8 text; raise TypeError or ValueError for what JSON cannot express."""
        import json

        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    def loads(self, data: memoryview, /) -> Any:
        """Return the value of a text; raise ValueError when it is none."""
        import json

        return json.loads(str(data, "utf-8", "surrogatepass"))


class RawCodec:
    """Store bytes as they are. Loading runs no code, and gives bytes (a memoryview on the map under ``zero_copy``)."""

    name = "raw"

    def dumps(self, value: Any, /) -> bytes:
        """Return the bytes of ``value``; raise TypeError unless it is a bytes, bytearray or (contiguous) memoryview."""
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"The raw codec stores bytes, bytearray and memoryview, not {type(value).__name__}; encode it, or use another codec")
        return bytes(value)

    def loads(self, data: memoryview, /) -> bytes:
        """Return the bytes."""
        return bytes(data)


pickle_codec: Final = PickleCodec()
cloudpickle_codec: Final = CloudpickleCodec()
json_codec: Final = JSONCodec()
raw_codec: Final = RawCodec()

_SHIPPED: Final[tuple[Codec, ...]] = (pickle_codec, cloudpickle_codec, json_codec, raw_codec)
_BUILTIN: Final = {codec.name: codec for codec in _SHIPPED}

#: The name of the codec that a frame's first byte stands for (a custom codec's name is in the frame).
_NAMES: Final = {
    PICKLE: "pickle",
    _PICKLE_BUFFERS: "pickle",
    _CLOUD: "cloudpickle",
    _CLOUD_BUFFERS: "cloudpickle",
    _JSON: "json",
    _RAW: "raw",
}


def builtin_codec(name: str) -> Codec:
    """Return the shipped codec of that name; raise ValueError, naming those there are, when there is none."""
    try:
        return _BUILTIN[name]
    except KeyError:
        raise ValueError(f"There is no codec named {name!r}; the shipped ones are {', '.join(_BUILTIN)}") from None


def runs_code(codec: Codec | None) -> bool:
    """Tell whether loading a value of ``codec`` (None: the default) may run code that whoever wrote the value chose."""
    return type(codec) is not JSONCodec and type(codec) is not RawCodec


# -- encoding


def encode(value: Any, codec: Codec | None = None, *, offset: int = 0) -> bytes:
    """Return the frame of ``value``.

    Without a codec: pickle; cloudpickle when pickle cannot carry the value (lambdas, closures, local classes) or the pickle would refer to
    ``__main__``, which is another module in another process. The value's own ``__reduce__`` may then be called twice.

    Args:
        value: What to store.
        codec: A shipped codec, one of the user's, or None.
        offset: How many bytes of the stored value come before this frame; counted when buffers are aligned.

    Raises:
        ValueError: ``codec`` has a name that cannot be stored.
        TypeError: ``codec`` did not return bytes.
        Exception: Whatever pickling the value, or ``codec.dumps``, raises, unchanged.
    """
    if codec is None:
        if type(value) in _ATOMS:
            return _dumps(value, 5)
        buffers: list[pickle.PickleBuffer] = []
        try:
            stream = _dumps(value, 5, buffer_callback=buffers.append)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            # Pickle's own refusals come straight out of C. A traceback that goes deeper belongs to the value's code: not ours to try again.
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None and not isinstance(error, pickle.PicklingError):
                raise
        else:
            if _MAIN not in stream:
                return _join(_PICKLE_BUFFERS, stream, buffers, offset) if buffers else stream
        # Outside of the handler, so that what cloudpickle raises (it got further, hence knows better) comes out without a context.
        return _encode_cloud(value, offset)
    kind = type(codec)
    if kind is PickleCodec:
        buffers = []
        stream = _dumps(value, 5, buffer_callback=buffers.append)
        return _join(_PICKLE_BUFFERS, stream, buffers, offset) if buffers else stream
    if kind is CloudpickleCodec:
        return _encode_cloud(value, offset)
    payload = codec.dumps(value)
    if kind is JSONCodec:
        return b"\x04" + payload
    if kind is RawCodec:
        pad = _gap(offset + 2) if len(payload) >= _ALIGN_RAW_FROM else 0
        return b"".join((bytes((_RAW, pad)), bytes(pad), payload))
    return _encode_custom(codec, payload)


def _cloud_dumps(value: Any, callback: Callable[[pickle.PickleBuffer], Any] | None) -> bytes:
    import cloudpickle

    return cast(bytes, cloudpickle.dumps(value, protocol=5, buffer_callback=callback))


def _encode_cloud(value: Any, offset: int) -> bytes:
    buffers: list[pickle.PickleBuffer] = []
    stream = _cloud_dumps(value, buffers.append)
    return _join(_CLOUD_BUFFERS, stream, buffers, offset) if buffers else b"\x01" + stream


def _encode_custom(codec: Codec, payload: object) -> bytes:
    name = codec.name
    encoded = name.encode()
    if name in _BUILTIN:
        raise ValueError(f"{type(codec).__name__} is not the shipped codec {name!r} but has its name; give it one of its own")
    if not 0 < len(encoded) < 256:
        raise ValueError(f"The name of a codec has 1 to 255 bytes, that of {type(codec).__name__} has {len(encoded)}")
    if not isinstance(payload, (bytes, bytearray)):
        raise TypeError(f"dumps of the codec {name!r} must return bytes, not {type(payload).__name__}")
    return b"".join((bytes((_CUSTOM, len(encoded))), encoded, payload))


def _gap(position: int) -> int:
    """Return how many bytes to leave out at ``position`` of a stored value, so that what follows is aligned in memory."""
    return -(position + _PAGE_HEADER) % _ALIGNMENT


def _join(frame: int, stream: bytes, buffers: list[pickle.PickleBuffer], offset: int) -> bytes:
    """Return a frame with out-of-band buffers: each but the last is padded to a multiple of the alignment."""
    views = [buffer.raw() for buffer in buffers]
    sizes = [view.nbytes << 1 | view.readonly for view in views]
    pad = _gap(offset + _directory.size + 8 * len(views) + len(stream))
    parts: list[bytes | memoryview] = [_directory.pack(frame, pad, len(views), len(stream)), struct.pack(f"<{len(sizes)}Q", *sizes), stream]
    for view in views:
        parts += (bytes(pad), view)
        pad = -view.nbytes % _ALIGNMENT
    return b"".join(parts)


# -- decoding


class Track(Protocol):
    """Is told of each numpy array that decoding made directly on a view."""

    def __call__(self, array: Any, /) -> object: ...


def decode(
    raw: bytes | memoryview,
    codec: Codec | None = None,
    *,
    allowed: Container[str] | None = None,
    view: Callable[[memoryview], memoryview] | None = None,
    track: Track | None = None,
) -> Any:
    """Return the value of a frame; a frame that wraps its key (see :func:`key_frame`) is looked through.

    Args:
        raw: The frame. A memoryview may be one on LMDB's map: nothing refers to it when this returns, unless ``view`` is given.
        codec: The object's own codec, for frames that name it.
        allowed: Names of the codecs that may be loaded; None allows all.
        view: Zero copy: makes the read-only views (``ViewScope.view``) as which out-of-band buffers, raw bytes and what a custom codec is
            given come back. None: all is copied, and buffers that were writable are writable again.
        track: With ``view``: told of the numpy arrays made on the views (``ViewScope.track``).

    Raises:
        FrameError: The frame is damaged or unknown, its codec is not allowed, or is not ``codec``. Nothing of it was run.
        Exception: Whatever user code called by unpickling, or ``codec.loads``, raises, unchanged.
    """
    data = memoryview(raw)
    if not data.nbytes:
        raise FrameError("The stored value is empty: it was damaged, or not written by parkit")
    frame = data[0]
    if frame == _KEYED:
        data = memoryview(split_keyed(data)[2])
        frame = data[0]
    if frame == _CUSTOM:
        return _decode_custom(data, codec, allowed, view)
    name = _NAMES.get(frame)
    if name is None:
        raise FrameError(f"The stored value begins with {frame:#04x}, which is no codec of this version: damaged, or written by a newer parkit")
    if allowed is not None and name not in allowed:
        raise _refused(name)
    if frame == PICKLE:
        return _unpickle(data)
    if frame == _CLOUD:
        return _unpickle(data[1:])
    if frame == _JSON:
        try:
            return json_codec.loads(data[1:])
        except RecursionError as error:
            raise FrameError("A stored JSON text is nested too deep to be read here") from error
    if frame == _RAW:
        if data.nbytes < 2 or data.nbytes < 2 + data[1]:
            raise _cut("raw")
        data = data[2 + data[1] :]
        return bytes(data) if view is None else view(data)
    stream, parts = _split(data)
    if view is None:
        return _unpickle(stream, [bytes(part) if readonly else bytearray(part) for part, readonly in parts])
    return _unpickle(stream, [view(part) for part, _ in parts], track)


def _split(data: memoryview) -> tuple[memoryview, list[tuple[memoryview, int]]]:
    """Take a frame with out-of-band buffers apart: the pickle, and the buffers, each with whether it was read-only."""
    size = data.nbytes
    if size < _directory.size:
        raise _cut("pickle")
    _, pad, count, length = _directory.unpack_from(data)
    start = _directory.size + 8 * count
    end = start + length
    if not count or pad >= _ALIGNMENT or end + pad > size:  # checked before room is made for ``count`` of anything
        raise _cut("pickle")
    position = end + pad
    parts: list[tuple[memoryview, int]] = []
    for entry in struct.unpack_from(f"<{count}Q", data, _directory.size):
        if parts:
            position += -parts[-1][0].nbytes % _ALIGNMENT
        stop = position + (entry >> 1)
        if stop > size:
            raise _cut("pickle")
        parts.append((data[position:stop], entry & 1))
        position = stop
    if position != size:
        raise FrameError(f"A stored pickle has {size - position} bytes behind its last buffer: it was damaged")
    return data[start:end], parts


def _unpickle(stream: memoryview, buffers: list[Any] | None = None, track: Track | None = None) -> Any:
    if not stream.nbytes or stream[0] != PICKLE or stream[-1] != _STOP:
        raise _cut("pickle")
    try:
        if track is None:
            return _loads(stream, buffers=buffers)
        return _Tracking(stream, buffers, track).load()
    except (pickle.UnpicklingError, EOFError) as error:
        # From the unpickler itself: the bytes are wrong. From deeper: user code, whose errors are none of ours.
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise FrameError(f"A stored pickle was damaged: {error}") from error
        raise


class _Tracking(pickle.Unpickler):
    """An unpickler that tells of the numpy arrays it makes on its buffers.

    numpy rebuilds such an array by calling one function of its own with the buffer, so standing in for that function finds them all, at the
    cost of one comparison for each global in the pickle. (The garbage collector could not: it does not know of arrays.)
    """

    def __init__(self, stream: memoryview, buffers: list[Any] | None, track: Track) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._track = track

    def find_class(self, module: str, name: str, /) -> Any:
        found = super().find_class(module, name)
        if name != "_frombuffer" or module not in ("numpy._core.numeric", "numpy.core.numeric"):
            return found
        track = self._track

        def from_buffer(*args: Any) -> Any:
            array = found(*args)
            track(array)
            return array

        return from_buffer


def _decode_custom(data: memoryview, codec: Codec | None, allowed: Container[str] | None, view: Callable[[memoryview], memoryview] | None) -> Any:
    if data.nbytes < 2 or not data[1] or data.nbytes < 2 + data[1]:
        raise _cut("custom codec")
    end = 2 + data[1]
    try:
        name = str(data[2:end], "utf-8")
    except UnicodeDecodeError as error:
        raise FrameError("A stored value has a codec name that is no text: it was damaged") from error
    if allowed is not None and name not in allowed:
        raise _refused(name)
    if codec is None or codec.name != name:
        known = "none" if codec is None else repr(codec.name)
        raise FrameError(f"The value was stored by the codec {name!r}, the object was opened with {known}; open it with the codec that wrote it")
    # A codec may give out slices of what it gets, which must not be slices of the map unless the caller takes care of them.
    return codec.loads(memoryview(bytes(data[end:])) if view is None else view(data[end:]))


def _cut(what: str) -> FrameError:
    return FrameError(f"A stored {what} value is incomplete or its lengths are wrong: it was damaged")


def _refused(name: str) -> FrameError:
    why = "limited to codecs that run no code when a value is loaded" if name in ("pickle", "cloudpickle") else "limited to other codecs"
    return FrameError(f"The value was stored by the codec {name!r}, and this namespace is {why}; nothing of it was read")


# -- frames that carry their key


def key_frame(full_key: bytes | None, sidecar: bytes | None) -> bytes:
    """Return what goes before a frame to store its key with it; nothing when there is nothing to store.

    Args:
        full_key: The encoded key, when LMDB's limit let only a digest of it be the key.
        sidecar: The pickle of the original key, when its encoding does not give back the exact object.
    """
    if full_key is None and sidecar is None:
        return b""
    flags = (_HAS_KEY if full_key is not None else 0) | (_HAS_SIDECAR if sidecar is not None else 0)
    full_key, sidecar = full_key or b"", sidecar or b""
    return b"".join((_keyed.pack(_KEYED, flags, len(full_key), len(sidecar)), full_key, sidecar))


def encode_keyed(value: Any, codec: Codec | None = None, full_key: bytes | None = None, sidecar: bytes | None = None) -> bytes:
    """Return the frame of ``value`` together with its key, its buffers aligned; raises as :func:`encode` does."""
    head = key_frame(full_key, sidecar)
    return head + encode(value, codec, offset=len(head))


def split_keyed(raw: bytes | memoryview) -> tuple[bytes | None, bytes | None, bytes | memoryview]:
    """Return ``(full key, sidecar, frame)`` of a stored value; the first two are None where it has none.

    The frame is ``raw`` itself when it carries no key, otherwise a slice of it without a copy (it lives as long as ``raw`` does).

    Raises:
        FrameError: The value is damaged.
    """
    if not len(raw) or raw[0] != _KEYED:
        return None, None, raw
    data = memoryview(raw)
    if data.nbytes < _keyed.size:
        raise _cut("key and")
    _, flags, key_length, sidecar_length = _keyed.unpack_from(data)
    middle = _keyed.size + key_length
    end = middle + sidecar_length
    if end >= data.nbytes or not flags or flags & ~(_HAS_KEY | _HAS_SIDECAR) or data[end] == _KEYED:
        raise _cut("key and")
    if (key_length and not flags & _HAS_KEY) or (sidecar_length and not flags & _HAS_SIDECAR):
        raise _cut("key and")
    full_key = bytes(data[_keyed.size : middle]) if flags & _HAS_KEY else None
    sidecar = bytes(data[middle:end]) if flags & _HAS_SIDECAR else None
    return full_key, sidecar, data[end:]
