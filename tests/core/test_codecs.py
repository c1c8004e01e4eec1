"""Frames: what goes in comes out, damage is noticed, buffers are aligned, user code's errors come out as they are."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkit_async._core import codecs
from parkit_async._core.codecs import (
    PICKLE,
    Codec,
    FrameError,
    JSONCodec,
    builtin_codec,
    cloudpickle_codec,
    decode,
    encode,
    encode_keyed,
    json_codec,
    key_frame,
    pickle_codec,
    raw_codec,
    runs_code,
    split_keyed,
)

PAGE_HEADER = 16


class Reversed:
    """A codec of the user's: bytes, back to front."""

    name = "reversed"

    def dumps(self, value: bytes) -> bytes:
        return value[::-1]

    def loads(self, data: memoryview) -> memoryview:
        return data[::-1]


class Refusing:
    """A value whose own code fails, in a way that could be taken for pickle's."""

    calls = 0

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        Refusing.calls += 1
        raise self.error


class Fragile:
    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("the value's own")

    def __getstate__(self) -> object:
        return {"a": 1}


class CustomInit(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


def same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
values = st.recursive(
    json_values | st.binary() | st.builds(bytearray, st.binary()) | st.builds(complex, st.floats(allow_nan=False)),
    lambda inner: st.tuples(inner, inner) | st.lists(inner),
    max_leaves=8,
)


# -- there and back


@given(values)
def test_default_gives_back_the_value(value: Any) -> None:
    frame = encode(value)
    if codecs._MAIN not in pickle.dumps(value, 5):  # what looks like a reference to it goes through cloudpickle, to the same end
        assert frame[0] == PICKLE
        assert same(pickle.loads(frame), value)
    assert same(decode(frame), value)
    assert same(decode(memoryview(frame)), value)


@given(values)
def test_pickle_and_cloudpickle_give_back_the_value(value: Any) -> None:
    for codec in (pickle_codec, cloudpickle_codec):
        assert same(decode(encode(value, codec)), value)
        assert same(codec.loads(memoryview(codec.dumps(value))), value)


@given(json_values)
def test_json_gives_back_the_value(value: Any) -> None:
    assert same(decode(encode(value, json_codec), allowed={"json"}), value)


@given(st.binary(max_size=3000), st.sampled_from([bytes, bytearray, memoryview]))
def test_raw_gives_back_bytes(value: bytes, kind: type) -> None:
    assert type(raw_codec.loads(memoryview(value))) is bytes and raw_codec.loads(memoryview(value)) == value
    assert same(decode(encode(kind(value), raw_codec), allowed={"raw"}), value)


@pytest.mark.parametrize("value", ["text", 1, None, [1], np.zeros(2)])
def test_raw_takes_bytes_only(value: Any) -> None:
    with pytest.raises(TypeError, match="raw codec stores bytes"):
        encode(value, raw_codec)


def test_each_frame_names_its_codec() -> None:
    array = np.arange(4)
    assert encode((1,))[0] == 0x80
    assert encode((1,), pickle_codec)[0] == 0x80
    assert encode((1,), cloudpickle_codec)[0] == 1
    assert encode(array)[0] == encode(array, pickle_codec)[0] == 2
    assert encode(array, cloudpickle_codec)[0] == encode([array, lambda: 0])[0] == 3
    assert encode(1, json_codec)[0] == 4
    assert encode(b"", raw_codec)[0] == 5
    assert encode(b"", Reversed())[0] == 6
    assert encode_keyed(1, None, b"k")[0] == 7


def test_custom_codec_is_named_and_required() -> None:
    frame = encode(b"abc", Reversed())
    assert bytes(decode(frame, Reversed())) == b"cba"[::-1]
    with pytest.raises(FrameError, match="'reversed', the object was opened with none"):
        decode(frame)
    other = Reversed()
    other.name = "other"
    with pytest.raises(FrameError, match="'reversed', the object was opened with 'other'"):
        decode(frame, other)


def test_custom_codec_cannot_keep_the_map() -> None:
    frame = bytearray(encode(b"abc", Reversed()))
    kept = decode(memoryview(frame).toreadonly(), Reversed())
    frame[-3:] = b"xyz"
    assert bytes(kept) == b"abc"


def test_custom_codec_needs_a_name_of_its_own() -> None:
    class Renamed(JSONCodec):
        def dumps(self, value: Any, /) -> bytes:
            return b"{}"

    with pytest.raises(ValueError, match="has its name"):
        encode(1, Renamed())
    for name in ("", "x" * 256):
        codec = Reversed()
        codec.name = name
        with pytest.raises(ValueError, match="1 to 255 bytes"):
            encode(b"", codec)


def test_custom_codec_must_return_bytes() -> None:
    class Text(Reversed):
        def dumps(self, value: Any) -> Any:
            return "text"

    with pytest.raises(TypeError, match="must return bytes, not str"):
        encode(b"", Text())


def test_builtin_codecs_by_name() -> None:
    for codec in (pickle_codec, cloudpickle_codec, json_codec, raw_codec):
        assert builtin_codec(codec.name) is codec
    with pytest.raises(ValueError, match="pickle, cloudpickle, json, raw"):
        builtin_codec("yaml")


def test_only_json_and_raw_run_no_code() -> None:
    codecs_: list[Codec | None] = [None, pickle_codec, cloudpickle_codec, json_codec, raw_codec, Reversed()]
    assert [runs_code(codec) for codec in codecs_] == [True, True, True, False, False, True]


@pytest.mark.untraceable
def test_import_stays_light() -> None:
    code = "import sys, parkit_async._core.codecs, parkit_async._core.views; print({'cloudpickle', 'json', 'numpy', 'ctypes'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


# -- what pickle cannot carry


def test_lambdas_closures_and_local_classes_fall_back_to_cloudpickle() -> None:
    class Local:
        value = 7

    def outer(n: int) -> Any:
        return lambda: n

    assert decode(encode(lambda: 3))() == 3
    assert decode(encode({"f": outer(4)}))["f"]() == 4
    assert decode(encode(Local())).value == 7


def test_classes_of_main_load_in_another_process() -> None:
    script = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from parkit_async._core.codecs import encode\n"
        "class Point:\n    x = 5\n"
        "sys.stdout.buffer.write(encode([Point()]))"
    )
    frame = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    assert frame[0] == 1
    assert decode(frame)[0].x == 5


def test_main_as_a_word_is_no_reference() -> None:
    assert encode(["in __main__ or so"])[0] == PICKLE


@pytest.mark.parametrize("error", [ValueError("v"), TypeError("cannot pickle"), AttributeError("a"), CustomInit(3, reason="r")])
def test_errors_of_the_value_come_out_unchanged_and_are_not_retried(error: Exception) -> None:
    Refusing.calls = 0
    with pytest.raises(type(error)) as caught:
        encode([Refusing(error)])
    assert caught.value is error
    assert Refusing.calls == 1


def test_errors_of_the_value_come_out_of_the_fallback() -> None:
    error = ValueError("own")
    with pytest.raises(ValueError, match="own") as caught:
        encode([lambda: 0, Refusing(error)])
    assert caught.value is error
    assert caught.value.__context__ is None


def test_what_nothing_can_pickle_says_so() -> None:
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        encode(threading.Lock())
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        encode(lambda: lock)


def test_pickle_codec_does_not_fall_back() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        encode(lambda: 0, pickle_codec)


def test_too_deep_is_a_recursion_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        encode(deep)


# -- buffers


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=5),
    st.none() | st.binary(max_size=100),
    st.none() | st.binary(max_size=100),
    st.sampled_from([None, pickle_codec, cloudpickle_codec]),
)
def test_buffers_are_aligned_behind_a_page_header(sizes: list[int], full_key: bytes | None, sidecar: bytes | None, codec: Codec | None) -> None:
    arrays = [np.arange(size, dtype=np.uint16) for size in sizes]
    frame = encode_keyed(arrays, codec, full_key, sidecar)
    places: list[int] = []
    start = np.frombuffer(frame, np.uint8).ctypes.data

    def view(part: memoryview) -> memoryview:
        if part.nbytes:
            places.append(np.frombuffer(part, np.uint8).ctypes.data - start)
        return part

    assert all(map(same, decode(frame, view=view), arrays))
    assert len(places) == sum(size > 0 for size in sizes)
    assert all((place + PAGE_HEADER) % 64 == 0 for place in places)


@given(st.binary(min_size=1024, max_size=1100), st.none() | st.binary(max_size=100))
def test_large_raw_bytes_are_aligned(value: bytes, full_key: bytes | None) -> None:
    frame = encode_keyed(value, raw_codec, full_key)
    assert (len(frame) - len(value) + PAGE_HEADER) % 64 == 0
    assert decode(frame) == value


def test_copies_are_writable_where_the_value_was() -> None:
    frozen = np.arange(3)
    frozen.flags.writeable = False
    writable, readonly = decode(encode([np.arange(3), frozen]))
    writable[0] = 9
    assert writable.tolist() == [9, 1, 2]
    assert not readonly.flags.writeable
    first, second = decode(encode([pickle.PickleBuffer(bytearray(b"ab")), pickle.PickleBuffer(b"cd")]))
    assert same(first, bytearray(b"ab"))
    assert same(second, b"cd")


def test_copies_do_not_refer_to_the_frame() -> None:
    frame = bytearray(encode(np.arange(8)))
    array = decode(memoryview(frame).toreadonly())
    frame[-8:] = bytes(8)
    assert array.tolist() == list(range(8))
    frame.append(0)  # a BufferError if anything still held it


def test_views_and_arrays_on_them_are_told_of() -> None:
    arrays: list[Any] = []
    value: list[Any] = [np.arange(4), {"a": np.ones((2, 3), order="F")}, np.zeros(0)]
    for codec in (None, cloudpickle_codec):
        arrays.clear()
        first, second, _ = decode(encode(value, codec), view=lambda part: part, track=arrays.append)
        assert arrays[0] is first
        assert arrays[1] is second["a"]
        assert not first.flags.writeable
        assert same(second["a"], value[1]["a"])


# -- codecs that are allowed


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("code was run",)


@pytest.mark.parametrize("codec", [None, pickle_codec, cloudpickle_codec])
@pytest.mark.parametrize("value", [Bomb(), [Bomb(), np.arange(3)]])
@pytest.mark.parametrize("full_key", [None, b"key"])
def test_a_limited_namespace_runs_nothing(codec: Codec | None, value: Any, full_key: bytes | None) -> None:
    with pytest.raises(FrameError, match="limited to codecs that run no code"):
        decode(encode_keyed(value, codec, full_key), allowed=("json", "raw"))


def test_a_limited_namespace_refuses_custom_codecs_it_does_not_name() -> None:
    frame = encode(b"ab", Reversed())
    with pytest.raises(FrameError, match="limited to other codecs"):
        decode(frame, Reversed(), allowed=("json",))
    assert bytes(decode(frame, Reversed(), allowed=("reversed",))) == b"ab"


# -- poison


def test_a_class_that_is_gone() -> None:
    module = types.ModuleType("parkit_test_gone")
    exec("class Gone: pass", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        frame = encode(module.Gone())
        del module.Gone
        with pytest.raises(AttributeError, match="Gone"):
            decode(frame)
    finally:
        del sys.modules[module.__name__]
    with pytest.raises(ModuleNotFoundError):
        decode(frame)


def test_errors_of_user_code_come_out_of_decode_unchanged() -> None:
    with pytest.raises(pickle.UnpicklingError, match="the value's own") as caught:
        decode(encode(Fragile()))
    assert not isinstance(caught.value, FrameError)
    with pytest.raises(TypeError, match="reason"):
        decode(encode(CustomInit(3, reason="r")))


# -- damage

samples = [
    encode({"a": [1, 2, 3]}),
    encode({"a": 1}, cloudpickle_codec),
    encode([np.arange(40), b"x", np.arange(3)]),
    encode([np.arange(9)], cloudpickle_codec),
    encode([1, "two"], json_codec),
    encode(b"x" * 1200, raw_codec),
    encode(b"abc", Reversed()),
    encode_keyed([np.arange(9)], None, b"k" * 30, b"side"),
    encode_keyed("text", None, None, b"side"),
    encode_keyed("text", None, b"key", None),
]


@pytest.mark.parametrize("frame", [samples[0], samples[1], samples[2], samples[3], samples[4], samples[7], samples[8], samples[9]])
def test_every_truncation_is_noticed(frame: bytes) -> None:
    for end in range(len(frame)):
        with pytest.raises(ValueError):
            decode(frame[:end], Reversed())


@pytest.mark.parametrize("frame", [samples[2], samples[3], samples[4], samples[7]])
@pytest.mark.parametrize("tail", [b"\0", b"garbage", b"\x80\x05N"])
def test_bytes_left_over_are_noticed(frame: bytes, tail: bytes) -> None:
    with pytest.raises(ValueError):
        decode(frame + tail)


@pytest.mark.parametrize(
    ("frame", "damage"),
    [
        (b"\x80\x05\x8c\x10ab.", "stored pickle was damaged: pickle data was truncated"),
        (b"\x80\x05K\x01\x92.", "stored pickle was damaged"),
        (b"\x06\x03\xff\xfe\xfdabc", "a codec name that is no text"),
    ],
    ids=["a text that is too short", "no opcode", "a codec without a name"],
)
def test_damage_inside_a_frame_is_told_from_errors_of_the_value(frame: bytes, damage: str) -> None:
    with pytest.raises(FrameError, match=damage):
        decode(frame, Reversed())


@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse_than_an_error(data: bytes) -> None:
    # No pickle among them: a random one may ask for any amount of memory, and running code is what pickles are for.
    if PICKLE in data:
        data = data.replace(bytes((PICKLE,)), b"\x81")
    try:
        split_keyed(data)
    except FrameError:
        assert data[0] == 7
    try:
        decode(data, Reversed())
    except ValueError:
        return
    assert data[0] in (4, 5, 6, 7)


@given(st.sampled_from([2, 3, 7]), st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=100))
def test_random_lengths_never_do_worse_than_an_error(frame: int, second: int, count: int, length: int, rest: bytes) -> None:
    data = codecs._directory.pack(frame, second, count, length) + rest.replace(b"\x80", b"")
    with pytest.raises(ValueError):
        decode(data)


@given(st.sampled_from(samples), st.data())
def test_a_flipped_header_byte_never_does_worse_than_an_error(frame: bytes, data: st.DataObject) -> None:
    frame_ = bytearray(frame)
    position = data.draw(st.integers(0, 13 if frame[0] in (2, 3, 7) else 0))
    frame_[position] = data.draw(st.integers(0, 0x7F))
    try:
        decode(bytes(frame_), Reversed())
    except (ValueError, pickle.UnpicklingError):
        return


@pytest.mark.parametrize("first", sorted(set(range(256)) - {1, 2, 3, 4, 5, 6, 7, PICKLE}))
def test_an_unknown_codec_is_named(first: int) -> None:
    with pytest.raises(FrameError, match=f"0x{first:02x}"):
        decode(bytes((first, 0x80, 5, 0x4E, 0x2E)))


# -- frames with their keys


@given(st.none() | st.binary(), st.none() | st.binary(), values)
def test_a_frame_carries_its_key(full_key: bytes | None, sidecar: bytes | None, value: Any) -> None:
    frame = encode_keyed(value, None, full_key, sidecar)
    assert frame == key_frame(full_key, sidecar) + encode(value, offset=len(key_frame(full_key, sidecar)))
    for raw in (frame, memoryview(frame)):
        found_key, found_sidecar, inner = split_keyed(raw)
        assert (found_key, found_sidecar) == (full_key, sidecar)
        assert same(decode(inner), value)
    assert same(decode(frame), value)


def test_a_frame_does_not_nest() -> None:
    with pytest.raises(FrameError):
        split_keyed(key_frame(b"a", None) + encode_keyed(1, None, b"b"))
