"""Values (SEMANTICS 3): how they are stored, by whose choice, what happens when they cannot be, and views without a copy."""

from __future__ import annotations

import gc
import json
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import parkit
from tests.faces.face import Face, calls

KINDS = ("Dict", "Queue", "LifoQueue", "Log", "Object")


class Upper:
    """A codec of the user's: text, stored in capitals."""

    name = "upper"

    def dumps(self, value: Any, /) -> bytes:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no text")
        return value.upper().encode()

    def loads(self, data: memoryview, /) -> Any:
        return bytes(data).decode()


class Nothing:
    """No codec."""


class Breaks:
    """Pickles, and does not unpickle."""

    def __init__(self, reason: str = "broken") -> None:
        self.reason = reason

    def __reduce__(self) -> Any:
        return _broken, (self.reason,)


class Refuses:
    """Does not pickle, and says why."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError("no pickle")


def _broken(reason: str) -> Any:
    raise LookupError(reason)


def through(face: Face, kind: str, value: Any, **options: Any) -> Any:
    """Store a value in a new object of a kind, and return what comes back."""
    x = getattr(face, kind)(f"ns/{kind}", **options)
    if kind == "Dict":
        x["k"] = value
        return x["k"]
    if kind == "Log":
        x.append(value)
        return x[-1]
    if kind == "Object":
        x.set_attribute("k", value)
        return x.k
    x.put(value)
    return x.get()


# The default.


@pytest.mark.parametrize("kind", KINDS)
def test_lambdas_closures_and_local_classes_are_values(face: Face, kind: str) -> None:
    step = 3

    class Local:
        size = 7

    function, cls = through(face, kind, (lambda n: n + step, Local))
    assert function(4) == 7 and cls.size == 7


@pytest.mark.parametrize("kind", KINDS)
def test_what_pickling_raises_comes_out_unchanged_with_nothing_stored(face: Face, kind: str) -> None:
    with pytest.raises(ZeroDivisionError, match=r"^no pickle$"):
        through(face, kind, Refuses())
    with pytest.raises(ZeroDivisionError):
        through(face, kind, [1, {"deep": Refuses()}])
    x = getattr(face, kind)(f"ns/{kind}")
    assert x.version == 0 and x.attributes() == []


def test_what_cannot_be_pickled_leaves_nothing_of_a_bulk_call(face: Face) -> None:
    d, q, log = face.Dict("ns/d"), face.Queue("ns/q"), face.Log("ns/log")
    for call in calls(
        lambda: d.update(a=1, b=Refuses()),
        lambda: q.put_many([1, Refuses()]),
        lambda: log.extend([1, Refuses()]),
        lambda: d.setdefault("a", Refuses()),
    ):
        with pytest.raises(ZeroDivisionError):
            call()
    assert (len(d), q.qsize(), len(log), d.version, q.version, log.version) == (0, 0, 0, 0, 0, 0)


def test_what_cannot_be_pickled_leaves_a_transaction_usable(face: Face) -> None:
    d = face.Dict("ns/d")
    with face.transaction(d):
        d["a"] = 1
        with pytest.raises(ZeroDivisionError):
            d.set("b", Refuses())
        d["c"] = 3
    assert dict(d.items()) == {"a": 1, "c": 3}


def test_a_class_that_pickling_finds_by_name_keeps_its_identity(face: Face) -> None:
    assert type(through(face, "Dict", pickle.PickleBuffer)) is type and through(face, "Dict", json.JSONDecodeError) is json.JSONDecodeError


@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
def test_values_of_any_size(face: Face, size: int) -> None:
    assert through(face, "Dict", b"x" * size) == b"x" * size
    assert through(face, "Queue", "é" * size) == "é" * size


# Chosen codecs.


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_given_at_the_creation_holds_for_every_handle(face: Face, kind: str) -> None:
    assert through(face, kind, (1, 2), codec=parkit.json_codec) == [1, 2]
    assert through(face, kind, (3, 4)) == [3, 4]
    x = getattr(face, kind)(f"ns/{kind}", codec=parkit.pickle_codec)
    assert x.descriptor["codec"] == "json"
    with pytest.raises(TypeError):
        through(face, kind, {1, 2})


def test_a_codec_set_by_a_subclass(face: Face) -> None:
    class Loud(face.module.Dict):  # type: ignore[name-defined, misc]
        codec = Upper()

    d = face.open(Loud, "ns/d")
    d["k"] = "quiet"
    assert d["k"] == "QUIET" and d.descriptor["codec"] == "upper"
    with pytest.raises(TypeError, match="no text"):
        d.set("k", 1)
    assert d["k"] == "QUIET" and d.version == 1


def test_a_codec_given_at_the_creation_wins_over_that_of_the_subclass(face: Face) -> None:
    class Loud(face.module.Dict):  # type: ignore[name-defined, misc]
        codec = Upper()

    d = face.open(Loud, "ns/d", codec=parkit.raw_codec)
    d["k"] = b"quiet"
    assert d["k"] == b"quiet"


def test_a_codec_of_the_users_is_found_by_a_handle_that_was_not_given_it(face: Face) -> None:
    face.Log("ns/log", codec=Upper()).append("x")
    assert list(face.Log("ns/log")) == ["X"]
    assert face.clone(face.Log("ns/log"))[0] == "X"


@pytest.mark.parametrize(
    ("codec", "value", "found"),
    [
        (parkit.pickle_codec, {1: (2,)}, {1: (2,)}),
        (parkit.cloudpickle_codec, {1: (2,)}, {1: (2,)}),
        (parkit.json_codec, {"1": [2, None, "é"]}, {"1": [2, None, "é"]}),
        (parkit.raw_codec, bytearray(b"raw"), b"raw"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_codecs(face: Face, kind: str, codec: Any, value: Any, found: Any) -> None:
    assert through(face, kind, value, codec=codec) == found


@pytest.mark.parametrize("codec", [Nothing(), "json", 7])
def test_what_is_no_codec_is_a_TypeError(face: Face, codec: Any) -> None:
    with pytest.raises(TypeError, match="codec"):
        face.Dict("ns/d", codec=codec)
    assert list(face.namespaces()) == []


# A namespace that runs no code.


@pytest.mark.parametrize("codecs", [["json"], ["raw"], ["json", "raw"]], ids=str)
def test_a_namespace_can_be_limited_to_codecs_that_run_no_code(face: Face, codecs: list[str]) -> None:
    face.set_namespace_codecs("safe", codecs)
    assert face.get_namespace_codecs("safe") == codecs and face.get_namespace_codecs("ns") is None
    codec = parkit.json_codec if "json" in codecs else parkit.raw_codec
    d = face.Dict("safe/d", codec=codec)
    d["k"] = "v" if "json" in codecs else b"v"
    d[("long" * 200, 1)] = d["k"]
    assert len(d) == len(list(d)) == 2
    for make in calls(lambda: face.Dict("safe/pickled"), lambda: face.Dict("safe/custom", codec=Upper())):
        with pytest.raises(parkit.CodecError, match="safe"):
            make()["k"] = "v"


def test_what_a_limited_namespace_refuses_is_refused_in_bulk_too(face: Face) -> None:
    face.set_namespace_codecs("safe", ["json"])
    log, q, d = face.Log("safe/log"), face.Queue("safe/q"), face.Dict("safe/d")
    for call in calls(lambda: log.extend([1, 2]), lambda: q.put_many([1, 2]), lambda: d.update(a=1, b=2)):
        with pytest.raises(parkit.CodecError, match="limited to the codecs json"):
            call()
    assert len(log) == q.qsize() == len(d) == 0


def test_a_limited_namespace_does_not_load_what_runs_code(face: Face) -> None:
    d, q = face.Dict("safe/d"), face.Queue("safe/q")
    d["k"] = {"a": 1}
    q.put(1)
    face.set_namespace_codecs("safe", ["json", "raw"])
    d, q = face.Dict("safe/d"), face.Queue("safe/q")
    for call in calls(lambda: d["k"], lambda: list(d.items()), q.get):
        with pytest.raises(parkit.CodecError):
            call()
    assert list(d) == ["k"]
    face.set_namespace_codecs("safe", None)
    assert face.Dict("safe/d")["k"] == {"a": 1} and face.get_namespace_codecs("safe") is None


@pytest.mark.parametrize("codecs", [["pickle"], ["json", "cloudpickle"], ["nope"], []], ids=str)
def test_a_limit_that_is_none_is_a_ValueError(face: Face, codecs: list[str]) -> None:
    with pytest.raises(ValueError):
        face.set_namespace_codecs("safe", codecs)
    assert face.get_namespace_codecs("safe") is None


# What cannot be decoded.


def test_a_CodecError_names_path_and_key_and_the_rest_stays_usable(face: Face) -> None:
    d = face.Dict("ns/d")
    d.update({"a": 1, "bad": Breaks("gone"), "c": 3, 7: Breaks()})
    for key in ("bad", 7):
        with pytest.raises(parkit.CodecError) as caught:
            d[key]
        error: parkit.TransactionError = caught.value
        assert isinstance(error.__cause__, LookupError) and isinstance(error, parkit.CodecError)
        assert (error.path, error.key) == ("ns/d", key) and "ns/d" in str(error) and repr(key) in str(error)
        assert pickle.loads(pickle.dumps(error)).key == key
    assert d["a"] == 1 and len(d) == 4 and "bad" in d and list(d) == [7, "a", "bad", "c"] and list(d.irange("a", "c")) == ["a", "bad", "c"]
    for call in calls(lambda: d.get("bad", 1), lambda: d.pop("bad"), lambda: d.setdefault("bad", 1)):
        with pytest.raises(parkit.CodecError, match="bad"):
            call()
    for walk in (d.items, d.values):
        with pytest.raises(parkit.CodecError) as caught:
            list(walk())
        assert caught.value.key == 7
    assert "bad" in d and d.version == 1  # pop left it where it was
    d.delete("bad")
    d[7] = "mended"
    assert dict(d.items()) == {7: "mended", "a": 1, "c": 3}


def test_an_attribute_that_cannot_be_decoded(face: Face) -> None:
    o = face.Object("ns/o")
    o.set_attribute("bad", Breaks())
    o.set_attribute("good", 1)
    with pytest.raises(parkit.CodecError, match="bad"):
        o.get_attribute("bad")
    assert o.good == 1 and o.attributes() == ["bad", "good"]
    o.delete_attribute("bad")
    assert o.attributes() == ["good"]


def test_a_CodecError_caught_inside_does_not_end_the_transaction(face: Face) -> None:
    d = face.Dict("ns/d")
    d["bad"] = Breaks()
    with face.transaction(d):
        d["a"] = 1
        with pytest.raises(parkit.CodecError):
            d["bad"]
        with pytest.raises(parkit.CodecError):
            d.popitem()
    assert len(d) == 2 and d["a"] == 1


# Without copying.


ARRAY = np.arange(10_000, dtype=np.float64).reshape(100, 100)


@pytest.mark.parametrize("context", ["transaction", "snapshot"])
def test_arrays_come_back_as_read_only_views_that_end_with_the_block(face: Face, context: str) -> None:
    d, log = face.Dict("ns/d"), face.Log("ns/log")
    d["a"] = ARRAY
    log.append(ARRAY)
    with getattr(face, context)(d, zero_copy=True):
        for view in (d["a"], log[0]):
            assert np.array_equal(view, ARRAY) and not view.flags.writeable and not view.flags.owndata
            with pytest.raises(ValueError, match="read-only"):
                view[0, 0] = 1
        kept = d["a"]
    with pytest.raises(parkit.ContextError):
        kept.mean()
    with pytest.raises((parkit.ContextError, IndexError)):
        kept[0, 0]


@pytest.mark.parametrize("context", ["transaction", "snapshot"])
def test_raw_bytes_come_back_as_a_memoryview_that_ends_with_the_block(face: Face, context: str) -> None:
    d = face.Dict("ns/d", codec=parkit.raw_codec)
    d["a"] = b"x" * 5000
    with getattr(face, context)(d, zero_copy=True):
        view = d["a"]
        assert isinstance(view, memoryview) and view.readonly and view == b"x" * 5000
    with pytest.raises(ValueError, match="released"):
        bytes(view)


def test_a_view_never_shows_another_value(face: Face) -> None:
    d = face.Dict("ns/d")
    d["a"] = ARRAY
    with face.transaction(d, zero_copy=True):
        view = d["a"]
        d["a"] = ARRAY + 1
        assert np.array_equal(view, ARRAY) and np.array_equal(d["a"], ARRAY + 1)
        d.delete("a")
        assert np.array_equal(view, ARRAY)
        del view
    assert "a" not in d


def test_copies_are_the_default_everywhere(face: Face) -> None:
    d, raw = face.Dict("ns/d"), face.Dict("ns/raw", codec=parkit.raw_codec)
    d["a"], raw["a"] = ARRAY, b"x" * 5000
    with face.transaction(d):
        inside = d["a"], raw["a"]
    with face.snapshot(d):
        seen = d["a"], raw["a"]
    for array, data in (inside, seen, (d["a"], raw["a"])):
        assert array.flags.writeable and type(data) is bytes
        array[0, 0] = -1
    assert d["a"][0, 0] == 0


def test_what_is_derived_from_a_view_keeps_its_value_and_is_told_of(face: Face) -> None:
    d = face.Dict("ns/d")
    d["a"] = ARRAY
    with pytest.warns(ResourceWarning, match="can still be read"):
        with face.snapshot(d, zero_copy=True):
            row = d["a"][3]
    face.elsewhere(lambda: [d.set("a", ARRAY * number) for number in range(5)])
    assert np.array_equal(row, ARRAY[3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del row
        gc.collect()


def test_views_in_iteration_and_of_a_queue(face: Face) -> None:
    d, q = face.Dict("ns/d"), face.Queue("ns/q")
    d.update({"a": ARRAY, "b": ARRAY})
    q.put(ARRAY)
    with face.transaction(d, zero_copy=True):
        assert all(not array.flags.owndata for array in d.values())
        item = q.get()
        assert np.array_equal(item, ARRAY)
    assert q.qsize() == 0 and np.array_equal(item, ARRAY)  # what was taken is the taker's own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0), np.arange(7), np.asfortranarray(ARRAY), ARRAY[::2, 1:3], np.array(["é", "b"]), np.array([None, {"a": 1}], dtype=object),
        np.ma.masked_array([1, 2], np.array([False, True])),
    ],
    ids=["empty", "small", "fortran", "strided", "text", "objects", "masked"],
)  # fmt: skip
def test_arrays_of_every_kind_come_back_equal(face: Face, kind: str, array: Any) -> None:
    found = through(face, kind, array)
    assert type(found) is type(array) and found.dtype == array.dtype and found.tolist() == array.tolist()


def test_a_whole_log_can_be_walked_through_by_views(face: Face) -> None:
    log = face.Log("ns/log", codec=parkit.raw_codec)
    log.extend([bytes((number,)) * 2000 for number in range(3)])
    with face.snapshot(log, zero_copy=True):
        views = [*log, *reversed(log)] if face.name == "blocking" else list(log)
        assert [view[0] for view in views] == ([0, 1, 2, 2, 1, 0] if face.name == "blocking" else [0, 1, 2])
        assert {type(view) for view in views} == {memoryview}
    for view in views:
        with pytest.raises(ValueError, match="released"):
            view[0]
