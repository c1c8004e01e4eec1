"""Every decoder, given any bytes, returns a value or raises the one error that it documents: at once, and in little memory.

The bytes are not only random: most begin as what parkit writes, and are then cut, changed and spliced, or they get past the first check because their
tag or length is right.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import parkit
from parkit_async._core import codecs, failures, identity, keys, layout, output, output_files, paths, process_ops
from parkit_async._core.errors import TransactionError

EXAMPLES = int(os.environ.get("PARKIT_TEST_EXAMPLES", "200"))
FAST = settings(max_examples=EXAMPLES, derandomize=True, deadline=None)
ON_DISK = settings(FAST, max_examples=EXAMPLES // 4)
MEMORY = 64 << 20
SAFE = frozenset({"json", "raw"})


@contextmanager
def little_memory(limit: int = MEMORY) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def refused_or_read(decoder: Callable[[Any], Any], data: Any, *errors: type[Exception]) -> None:
    """Have a decoder read bytes: only ``errors`` may come out of it."""
    try:
        decoder(data)
    except errors:
        pass


def damaged(*good: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of bytes that were once good ones."""
    seeds = st.sampled_from(good)
    byte = st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255)

    @st.composite
    def mangle(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(seeds))
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, max(0, len(data))))
            match draw(st.integers(0, 4)):
                case 0:
                    del data[at:]
                case 1:
                    data[at:at] = bytes([draw(byte)])
                case 2:
                    data[at : at + 1] = bytes([draw(byte)])
                case 3:
                    del data[at : at + draw(st.integers(1, 9))]
                case 4:
                    data[at:at] = draw(seeds)
        return bytes(data)

    return st.binary(max_size=80) | mangle()


# Keys.

KEYS: list[object] = [
    *(None, 0, 1, -5, 2**70, 1.5, -1e300, 3 + 4j, "a\0b", "\ud800", b"x\1\0"),
    *(date(2020, 1, 1), datetime(2020, 1, 1, 5), datetime(2020, 1, 1, tzinfo=UTC), time(5, 6), time(5, tzinfo=UTC), timedelta(-3, 5)),
    *(UUID(int=7), (1, ("a", b"b"), ()), frozenset({1, "b"}), Fraction(1, 3), (Fraction(-(10**30), 7),)),
]
ENCODED = [keys.encode(key) for key in KEYS]
TAGS = sorted({encoded[0] for encoded in ENCODED} | {keys.TAG_ENUM, keys.TAG_OTHER})


@FAST
@given(damaged(*ENCODED) | st.tuples(st.sampled_from(TAGS), st.binary(max_size=40)).map(lambda pair: bytes([pair[0]]) + pair[1]))
@example(bytes([keys.TAG_TUPLE]) * 100_000)
@example(bytes([keys.TAG_FROZENSET]) * 100_000)
@example(bytes([keys.TAG_NUMBER, 0xFE]) + struct.pack(">I", (1 << 31) + (1 << 30)) + b"\2\0")
@example(bytes([keys.TAG_NUMBER, 0x81, 0, 0, 0, 0, 2, 0]))
def test_keys(data: bytes) -> None:
    refused_or_read(keys.decode, data, ValueError)


@FAST
@given(damaged(*ENCODED))
def test_a_key_that_is_read_is_one_that_is_written(data: bytes) -> None:
    # Were two encodings read as one key, an entry could be there that no lookup finds.
    try:
        key = keys.decode(data)
    except ValueError:
        return
    assert keys.encode(key) == data


def test_a_small_key_cannot_ask_for_much_memory() -> None:
    number = bytes([keys.TAG_NUMBER, 0xFE]) + struct.pack(">I", (1 << 31) + (1 << 20)) + b"\2\0"
    with little_memory(4 << 20):
        assert keys.decode(number) == 2 << 8 * ((1 << 20) - 1)
    with little_memory(2 * MEMORY), pytest.raises(ValueError, match="too much memory"):
        keys.decode(bytes([keys.TAG_TUPLE]) + number * 10_000)
    nested = b"".join(bytes([keys.TAG_TUPLE]) + number + b"\0" for _ in range(10_000))
    with little_memory(2 * MEMORY), pytest.raises(ValueError, match="too much memory"):
        keys.decode(bytes([keys.TAG_TUPLE]) + nested)


# Frames.

VALUES: list[tuple[Any, Any]] = [
    ([1, 2], None),
    ({"a": [1, None, "x"]}, parkit.json_codec),
    (b"x" * 2000, parkit.raw_codec),
    (b"", parkit.raw_codec),
    (np.arange(100), None),
    ([np.zeros(7), np.ones(9, "u1")], parkit.pickle_codec),
    (lambda: 1, None),
]
FRAMES = [codecs.encode(value, codec) for value, codec in VALUES]
FRAMES += [codecs.encode_keyed(1, None, b"k" * 9, b"s" * 3), codecs.encode_keyed({"a": 1}, parkit.json_codec, b"k" * 9, None)]


class Bytes:
    """A codec of a user's, of which only its name is checked."""

    name = "bytes"

    def dumps(self, value: bytes, /) -> bytes:
        return value

    def loads(self, data: memoryview, /) -> bytes:
        return bytes(data)


@FAST
@given(damaged(*FRAMES, codecs.encode(b"x", Bytes())))
@example(b"\4" + b"[" * 200_000)
@example(b"\4" + b'{"a":' * 50_000)
@example(b"\4" + b"1" * 10_000)
@example(b"\4\xff")
@example(b"\7" + bytes([1]) + struct.pack("<IQ", 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF))
@example(b"\5\xff")
def test_frames_that_run_no_code(data: bytes) -> None:
    refused_or_read(lambda raw: codecs.decode(raw, Bytes(), allowed=SAFE | {"bytes"}), data, ValueError)
    refused_or_read(lambda raw: codecs.decode(memoryview(raw), Bytes(), allowed=SAFE | {"bytes"}, view=memoryview.toreadonly), data, ValueError)
    refused_or_read(codecs.split_keyed, data, codecs.FrameError)


@FAST
@given(damaged(*(frame for frame in FRAMES if frame[0] in (2, 3))))
@example(struct.pack("<BBIQ", 2, 0, 0xFFFF_FFFF, 0))
@example(struct.pack("<BBIQ", 2, 0, 1, 0xFFFF_FFFF_FFFF_FFFF) + bytes(8))
@example(struct.pack("<BBIQQ", 2, 0, 1, 2, 0xFFFF_FFFF_FFFF_FFFF) + b"\x80.")
@example(struct.pack("<BBIQQ", 2, 63, 1, 2, 0) + b"\x80.")
def test_buffers_out_of_band(data: bytes) -> None:
    data = data[:1].replace(b"\x80", b"\2") + data[1:]
    try:
        with little_memory():
            stream, parts = codecs._split(memoryview(data))
    except codecs.FrameError:
        return
    # What is read lies within the frame, and nothing of it is read twice.
    assert stream.nbytes + sum(part.nbytes for part, _ in parts) <= len(data)
    end = 0
    base = np.frombuffer(data, "u1").__array_interface__["data"][0]
    for part in (stream, *(part for part, _ in parts)):
        start = np.frombuffer(part, "u1").__array_interface__["data"][0] - base if part.nbytes else end
        assert start >= end
        end = start + part.nbytes
    assert end <= len(data)


@pytest.mark.parametrize("length", [0, 1, 1 << 31, (1 << 63) - 1, (1 << 64) - 1])
@pytest.mark.parametrize("count", [0, 1, 2, (1 << 32) - 1])
@pytest.mark.parametrize("size", [0, 1, 64, (1 << 63) - 1])
def test_lengths_that_lie_take_no_memory(length: int, count: int, size: int) -> None:
    body = pickle.dumps([1], 5)
    for frame in (2, 3, 7):
        data = struct.pack("<BBIQ", frame, 1, count, length) + struct.pack("<Q", size << 1) + body
        with little_memory(1 << 20):
            refused_or_read(codecs.split_keyed if frame == 7 else lambda raw: codecs._split(memoryview(raw)), data, codecs.FrameError)


@FAST
@given(damaged(*(frame for frame in FRAMES if frame[0] not in (0x80, 1, 2, 3))))
def test_a_pickle_is_never_reached_where_none_is_allowed(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codecs, "_unpickle", lambda *_: pytest.fail("a pickle would have been loaded"))
        for raw in (data, *(frame[:1] + data for frame in FRAMES)):
            refused_or_read(lambda raw: codecs.decode(raw, None, allowed=SAFE), raw, ValueError)


# Records of parkit's own.

ENTRY = layout.Entry(5, "parkit.Dict", "0" * 32, True, "2020-01-01T00:00:00+00:00", None, {"a": 1})
RUN = process_ops.Run("running", 15, None, 77, 1.0, 2.0, 0.0, 9, b"contextx", "worker-1")
RECORDS: list[tuple[Callable[[bytes], Any], tuple[type[Exception], ...], list[bytes]]] = [
    (layout.State, (TransactionError,), [layout.State.new(2, 3).pack()]),
    (layout.Entry.unpack, (TransactionError,), [ENTRY.pack(), ENTRY._replace(codec="json").pack()]),
    (layout.Meta.unpack, (ValueError,), [layout.Meta("full", 1 << 30, ["json"]).pack()]),
    (process_ops.Run.unpack, (TransactionError,), [RUN.pack()]),
    (process_ops.Ending.unpack, (TransactionError,), [process_ops.Ending("failed", 1, "0" * 32, b"frame").pack()]),
    (process_ops._unlabel, (TransactionError,), [b"0" * 32 + b"name"]),
]


@pytest.mark.parametrize(("decoder", "errors", "good"), RECORDS, ids=["header", "directory", "settings", "run", "ending", "label"])
def test_records(decoder: Callable[[bytes], Any], errors: tuple[type[Exception], ...], good: list[bytes]) -> None:
    @settings(FAST, max_examples=EXAMPLES // 2)
    @given(damaged(*good))
    def read(data: bytes) -> None:
        refused_or_read(decoder, data, *errors)

    read()
    for data in good:
        decoder(data)
        for at in range(len(data) + 1):
            refused_or_read(decoder, data[:at], *errors)


ATOMS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
JSON = ATOMS | st.lists(ATOMS, max_size=3) | st.dictionaries(st.text(max_size=3), ATOMS, max_size=2)
FIELDS = ["object_id", "type", "uuid", "versioned", "created", "codec", "custom"]


@FAST
@given(st.sampled_from(FIELDS), JSON)
def test_a_directory_entry_has_the_types_that_it_says(field: str, value: Any) -> None:
    raw = json.dumps({**ENTRY._asdict(), field: value}).encode()
    try:
        entry = layout.Entry.unpack(raw)
    except TransactionError:
        return
    assert type(getattr(entry, field)) in ((str, type(None)) if field == "codec" else (type(getattr(ENTRY, field)),))
    assert layout.header_key(entry.object_id) and int(entry.uuid[:15], 16) >= 0


@FAST
@given(st.lists(st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, 1 << 62, 1 << 63, (1 << 64) - 1]), min_size=10, max_size=10))
def test_a_header_that_is_read_can_be_counted_with(fields: list[int]) -> None:
    try:
        state = layout.State(struct.pack("<10Q", *fields))
    except TransactionError:
        return
    range(state.tail - state.head).__len__(), range(state.length).__len__()
    state.version += 1
    state.tail += 1
    state.pack()


@FAST
@given(JSON | st.dictionaries(st.sampled_from(["type", "message", "traceback", "pickled", "reason"]), JSON, min_size=3))
@example({"type": "", "message": "", "traceback": ""})
@example({"type": "", "message": "", "traceback": "", "pickled": [1], "reason": None})
def test_the_record_of_an_exception(record: Any) -> None:
    refused_or_read(failures.restore, record, ValueError)


@ON_DISK
@given(st.binary(max_size=200), st.integers(-10, 300), st.none() | st.integers(0, 300))
def test_output_of_any_bytes(data: bytes, start: int, size: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        path = output_files.output_path(folder, "a" * 32)
        descriptor = output_files.create(path)
        os.write(descriptor, data)
        os.close(descriptor)
        found = output.Output(folder, "a" * 32)
        assert found.read(start, size) == data[start if start >= 0 else max(0, len(data) + start) :][:size]
        assert found.text() == data.decode("utf-8", "replace")
        assert "".join(f"{line}\n" for line in found.lines()).count("\n") >= data.count(b"\n")


NOTICE = b"[parkit: the output is longer than %d bytes; what came later was dropped]\n"


@ON_DISK
@given(st.lists(st.sampled_from([b"x\n", b"\xff\n", NOTICE % 2, NOTICE % 4, NOTICE % 10**18, NOTICE[:30], b"\n"]), max_size=6))
def test_output_that_pretends_to_be_cut(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        descriptor = output_files.create(output_files.output_path(folder, "a" * 32))
        os.write(descriptor, b"".join(lines))
        os.close(descriptor)
        assert len(list(output.Output(folder, "a" * 32).lines())) <= len(lines) + 1


@ON_DISK
@given(st.binary(max_size=100) | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_the_file_that_names_a_namespace(name: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o700)
        directory = paths.namespace_directory(place, "ns")
        (directory / "name").write_bytes(name)
        if name != b"ns":
            with pytest.raises(parkit.StoragePathError):
                paths.namespace_directory(place, "ns")
        refused_or_read(paths.list_namespaces, place)


# What travels between programs.


@FAST
@given(st.text(max_size=8) | st.sampled_from(["../x", "a//b", "\0", "ns/d"]), st.none() | st.text(max_size=4), st.text(max_size=20))
def test_a_pickled_handle_of_any_content_is_refused_or_bound_late(path: str, uuid: str | None, store: str) -> None:
    from parkit_async._core.objects import restored

    try:
        handle: Any = restored(parkit.Dict, path, uuid, f"/nowhere/{store}")
    except ValueError:
        return
    assert handle.path.removeprefix("default/") == path.removeprefix("default/")
    if uuid is not None:  # else it may be created, and this would try
        with pytest.raises((parkit.ObjectNotFoundError, parkit.StoragePathError)):
            handle.get("k")


@FAST
@given(st.tuples(st.integers() | st.sampled_from([-1, 0, 2**31, 2**63, 2**64]), st.text(max_size=30), st.text(max_size=30)))
def test_the_identity_of_a_process_of_any_content(fields: tuple[int, str, str]) -> None:
    refused_or_read(identity.liveness, identity.Identity(*fields), OSError)
