"""Dict is a dict: what SEMANTICS 4 says of it, and what a user of dict and MutableMapping expects."""

from __future__ import annotations

import uuid
from collections import OrderedDict, UserDict
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parkit
from parkit_async._core.registry import open_namespace
from parkit_async._core.transactions import Writing
from tests.faces.face import Face, calls

bounded = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Colour(Enum):
    RED = 1
    BLUE = 2


@pytest.fixture
def d(face: Face) -> Any:
    return face.Dict("ns/d")


# One entry.


def test_set_and_get(d: Any) -> None:
    d["k"] = {"nested": [1, 2]}
    assert d["k"] == {"nested": [1, 2]} == d.get("k")
    d["k"] = 2
    assert (d["k"], len(d)) == (2, 1)


def test_named_methods_do_what_the_operators_do(d: Any) -> None:
    d.set("k", 1)
    assert d.get("k") == 1 and d.contains("k") and d.len() == 1
    d.delete("k")
    assert not d.contains("k") and d.len() == 0


def test_missing_key_is_a_KeyError_with_the_key(d: Any) -> None:
    for call in calls(lambda: d["nope"], lambda: d.delete("nope"), lambda: d.pop("nope")):
        with pytest.raises(KeyError) as caught:
            call()
        assert caught.value.args == ("nope",)


def test_get_returns_the_default(d: Any) -> None:
    assert d.get("nope") is None
    assert d.get("nope", 7) == 7
    d["none"] = None
    assert d.get("none", 7) is None


def test_a_value_is_a_copy(d: Any) -> None:
    value = [1]
    d["k"] = value
    value.append(2)
    d["k"].append(3)
    assert d["k"] == [1]


def test_contains(d: Any) -> None:
    d["k"] = None
    assert "k" in d and "nope" not in d and 1 not in d


def test_pop_returns_and_deletes(d: Any) -> None:
    d["k"] = 1
    assert d.pop("k") == 1
    assert "k" not in d and len(d) == 0
    assert d.pop("k", 5) == 5
    assert d.pop("k", None) is None


def test_popitem_takes_the_last_in_key_order(d: Any) -> None:
    d.update({"b": 2, "c": 3, "a": 1})
    assert [d.popitem() for _ in range(3)] == [("c", 3), ("b", 2), ("a", 1)]
    with pytest.raises(KeyError):
        d.popitem()
    assert d.version == 4


def test_setdefault_stores_only_what_is_missing(d: Any) -> None:
    assert d.setdefault("k", 1) == 1
    assert d.setdefault("k", 2) == 1
    assert d.setdefault("none") is None
    assert dict(d.items()) == {"k": 1, "none": None}


def test_setdefault_of_what_is_there_leaves_the_version_alone(d: Any) -> None:
    d["k"] = 1
    before = d.version
    d.setdefault("k", 2)
    assert d.version == before


# Many entries.


@pytest.mark.parametrize(
    "argument",
    [{"a": 1, "b": 2}, [("a", 1), ("b", 2)], iter([("a", 1), ("b", 2)]), OrderedDict(b=2, a=1), UserDict(a=1, b=2)],
    ids=lambda a: type(a).__name__,
)
def test_update_takes_what_dict_update_takes(face: Face, argument: Any) -> None:
    d = face.Dict("ns/d")
    d.update(argument if not hasattr(argument, "__next__") else [("a", 1), ("b", 2)], c=3)
    assert dict(d.items()) == {"a": 1, "b": 2, "c": 3}


def test_update_takes_whatever_has_keys(face: Face, d: Any) -> None:
    class Row:
        """No Mapping, as rows of databases are none."""

        def keys(self) -> list[str]:
            return ["a", "b"]

        def __getitem__(self, key: str) -> int:
            return {"a": 1, "b": 2}[key]

    d.update(Row())
    d.update(Row(), c=3)
    assert dict(d.items()) == {"a": 1, "b": 2, "c": 3}


def test_update_with_keywords_alone_and_with_nothing(d: Any) -> None:
    d.update(a=1)
    d.update()
    d.update({})
    assert (dict(d.items()), d.version) == ({"a": 1}, 1)


def test_update_replaces_and_counts_each_key_once(d: Any) -> None:
    d.update([("a", 1), ("a", 2), (1, "int"), (1.0, "float")])
    assert (dict(d.items()), len(d)) == ({"a": 2, 1: "float"}, 2)


def test_update_that_fails_in_the_middle_leaves_nothing(d: Any) -> None:
    def entries() -> Any:
        yield "a", 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        d.update(entries())
    with pytest.raises(TypeError):
        d.update([("a", 1), (["unhashable"], 2)])
    assert (len(d), d.version) == (0, 0)


def test_update_from_itself_and_from_another(face: Face, d: Any) -> None:
    d.update({"a": 1})
    d.update(dict(d.items()))
    other = face.Dict("ns/other")
    other.update(dict(d.items()))
    assert dict(other.items()) == {"a": 1} and other == d


def test_clear(d: Any) -> None:
    d.update({str(number): number for number in range(2500)})  # more than is deleted at once
    d.clear()
    assert (len(d), list(d), "7" in d, d.get("7")) == (0, [], False, None)
    d["7"] = "new"
    assert dict(d.items()) == {"7": "new"}


@pytest.mark.parametrize("change", ["update", "clear", "setdefault"])
def test_bulk_changes_on_their_own_are_one_version(d: Any, change: str) -> None:
    d["k"] = 0
    before = d.version
    {"update": lambda: d.update({str(n): n for n in range(50)}), "clear": d.clear, "setdefault": lambda: d.setdefault("new", 1)}[change]()
    assert d.version == before + 1


def test_clear_of_an_empty_dict_changes_nothing(d: Any) -> None:
    d.clear()
    assert d.version == 0


# Iteration.


def test_iteration_is_in_key_order_within_a_type(d: Any) -> None:
    numbers: list[Any] = [-(10**40), -1.5, -1, 0, Fraction(1, 3), 0.5, 1, 2, 10**40]
    texts = ["", "A", "Z", "a", "aa", "b", "é", "𝄞"]
    raw = [b"", b"\0", b"a", b"\xff"]
    pairs = [("a",), ("a", 1), ("a", 2), ("aa",), ("b", 0)]
    for key in [*reversed(numbers), *reversed(texts), *reversed(raw), *reversed(pairs)]:
        d[key] = repr(key)
    found = list(d)
    assert [key for key in found if isinstance(key, str)] == texts
    assert [key for key in found if isinstance(key, bytes)] == raw
    assert [key for key in found if isinstance(key, tuple)] == pairs
    assert [key for key in found if not isinstance(key, str | bytes | tuple)] == numbers


def test_an_iterator_sees_the_state_at_its_creation(d: Any) -> None:
    d.update({"a": 1, "b": 2, "c": 3})
    keys, items = iter(d), iter(d.items())
    d["d"] = 4
    d["b"] = "changed"
    del d["c"]
    assert list(keys) == ["a", "b", "c"]
    assert list(items) == [("a", 1), ("b", 2), ("c", 3)]
    assert list(d.items()) == [("a", 1), ("b", "changed"), ("d", 4)]


def test_what_is_iterated_over_may_be_changed(d: Any) -> None:
    d.update({str(number): number for number in range(20)})
    for key in d:
        d[key + "x"] = 0
        del d[key]
    assert len(d) == 20 and all(key.endswith("x") for key in d)


def test_an_iterator_may_be_left_early(face: Face, d: Any) -> None:
    d.update({str(number): number for number in range(100)})
    for key in d:
        assert key == "0"
        break
    iterator = iter(d.items())
    assert next(iterator) == ("0", 0)
    del iterator
    assert face.set_namespace_size("ns", 2**29) is None  # nothing holds the map any more


def test_an_iterator_outlives_its_object(face: Face, d: Any) -> None:
    d.update({"a": 1, "b": 2})
    iterator = iter(d)
    assert next(iterator) == "a"
    d.drop()
    assert list(iterator) == ["b"]


def test_views_are_views(d: Any) -> None:
    keys, values, items = d.keys(), d.values(), d.items()
    d.update({"a": 1, "b": 2})
    assert (list(keys), list(values), list(items)) == (["a", "b"], [1, 2], [("a", 1), ("b", 2)])
    del d["a"]
    assert (list(keys), list(values), list(items)) == (["b"], [2], [("b", 2)])


def test_views_of_the_blocking_face_are_those_of_collections_abc() -> None:
    d: parkit.Dict[str, int] = parkit.Dict("ns/d")
    d.update({"a": 1, "b": 2})
    assert len(d.keys()) == len(d.values()) == len(d.items()) == 2
    assert d.keys() & {"a", "z"} == {"a"} and d.keys() | {"z"} == {"a", "b", "z"} and d.keys() == {"a", "b"}
    assert d.items() - {("a", 1)} == {("b", 2)}
    assert 2 in d.values() and 3 not in d.values()
    assert ("a", 1) in d.items() and ("a", 2) not in d.items() and ("z", 1) not in d.items()
    assert list(reversed(d)) == ["b", "a"] == list(reversed(d.keys()))  # type: ignore[call-overload]
    assert list(reversed(d.values())) == [2, 1] and list(reversed(d.items())) == [("b", 2), ("a", 1)]  # type: ignore[call-overload]


# irange, as in sortedcontainers.

WORDS = ["a", "b", "bb", "c", "d"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({}, WORDS),
        ({"minimum": "b"}, ["b", "bb", "c", "d"]),
        ({"maximum": "bb"}, ["a", "b", "bb"]),
        ({"minimum": "b", "maximum": "c"}, ["b", "bb", "c"]),
        ({"minimum": "b", "maximum": "c", "inclusive": (False, True)}, ["bb", "c"]),
        ({"minimum": "b", "maximum": "c", "inclusive": (True, False)}, ["b", "bb"]),
        ({"minimum": "b", "maximum": "c", "inclusive": (False, False)}, ["bb"]),
        ({"minimum": "aa", "maximum": "ba"}, ["b"]),
        ({"minimum": "c", "maximum": "b"}, []),
        ({"minimum": "b", "maximum": "b"}, ["b"]),
        ({"minimum": "x"}, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("reverse", [False, True])
def test_irange(d: Any, arguments: dict[str, Any], found: list[str], reverse: bool) -> None:
    d.update(dict.fromkeys(WORDS))
    assert list(d.irange(**arguments, reverse=reverse)) == (found[::-1] if reverse else found)


def test_irange_without_bounds_walks_every_type(d: Any) -> None:
    d.update({1: 0, "a": 0, b"a": 0, None: 0})
    assert list(d.irange()) == list(d)
    assert list(d.irange(reverse=True)) == list(d)[::-1]


@bounded
@given(
    st.lists(st.integers(-20, 20) | st.text("ab", max_size=3) | st.text("ab", min_size=480, max_size=520), max_size=12),
    st.data(),
    st.booleans(),
    st.tuples(st.booleans(), st.booleans()),
)
def test_irange_is_a_part_of_the_sorted_keys(face: Face, keys: list[Any], data: st.DataObject, reverse: bool, inclusive: tuple[bool, bool]) -> None:
    d = face.Dict("ns/d")
    d.clear()
    kind = data.draw(st.sampled_from([int, str]))
    d.update(dict.fromkeys(keys))
    bounds = st.integers(-21, 21) if kind is int else st.text("ab", max_size=3) | st.sampled_from([key for key in keys if type(key) is str] or ["a"])
    low: Any = data.draw(bounds)
    high: Any = data.draw(bounds)
    same: set[Any] = {key for key in keys if type(key) is kind}
    found = [key for key in sorted(same) if (low < key or (low == key and inclusive[0])) and (key < high or (key == high and inclusive[1]))]
    assert list(d.irange(low, high, inclusive, reverse)) == (found[::-1] if reverse else found)


# Keys.

INSTANT = datetime(2024, 2, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "equal",
    [
        (1, 1.0, True, Decimal(1), Fraction(1), 1 + 0j),
        (0, 0.0, -0.0, False),
        ((1, "a"), (1.0, "a"), (True, "a")),
        (INSTANT, INSTANT.astimezone(timezone(timedelta(hours=2)))),
        (frozenset({1, 2}), frozenset({2.0, True})),
        (10**30, Fraction(10**30)),
    ],
    ids=repr,
)
def test_keys_that_are_equal_in_Python_are_one_key(d: Any, equal: tuple[Any, ...]) -> None:
    for first in equal:
        d[first] = "stored"
        for other in equal:
            assert other in d and d[other] == "stored" and len(d) == 1
        del d[equal[-1]]
        assert len(d) == 0


@pytest.mark.parametrize(
    "different", [(1, "1", b"1", (1,), None), (0.1, Decimal("0.1")), ("é", "e\u0301"), (Colour.RED, 1), (date(2024, 1, 1), datetime(2024, 1, 1))]
)
def test_keys_that_differ_in_Python_are_different_keys(d: Any, different: tuple[Any, ...]) -> None:
    for value, key in enumerate(different):
        d[key] = value
    assert [d[key] for key in different] == list(range(len(different)))
    assert len(d) == len(different)


@pytest.mark.parametrize(
    "key",
    [
        "text", b"bytes", 7, -7, 0.5, 10**100, None, True, date(2024, 2, 29), datetime(2024, 2, 29, 1, 2, 3, 4), INSTANT, timedelta(1, 2, 3),
        uuid.UUID(int=7), Colour.RED, (), (1, ("a", b"b", None)), frozenset({1, "a"}), range(3), Decimal("0.1"), Fraction(1, 3), "\ud800", "\0",
    ],
    ids=lambda key: type(key).__name__,  # not repr: a set's depends on the hash seed, and the test workers must collect the same names
)  # fmt: skip
def test_hashable_keys_of_every_kind(d: Any, key: Any) -> None:
    d[key] = "value"
    (found,) = d
    assert found == key and type(found) is type(key)
    assert key in d and d[key] == "value" and d.pop(key) == "value" and len(d) == 0


@pytest.mark.parametrize("length", [481, 482, 483, 501, 502, 503, 511, 512, 5000, 200_000])
def test_keys_of_any_length(d: Any, length: int) -> None:
    keys = ["x" * length, "x" * (length - 1) + "y", "x" * (length + 1)]
    d.update({key: key[-3:] for key in keys})
    d[b"z" * length] = "bytes"
    assert [key for key in d if isinstance(key, str)] == sorted(keys)
    assert all(d[key] == key[-3:] for key in keys)
    d.delete(keys[0])
    assert keys[0] not in d and keys[1] in d and len(d) == 3
    assert list(d.irange("x" * length, "y")) == [keys[2], keys[1]]
    assert list(d.irange("x" * length, "y", reverse=True)) == [keys[1], keys[2]]


@pytest.mark.parametrize("key", [[], {}, set(), ([],), bytearray(b"x")])
def test_an_unhashable_key_is_a_TypeError(d: Any, key: Any) -> None:
    d["k"] = 1
    for call in calls(
        lambda: d.set(key, 1), lambda: d[key], lambda: d.get(key), lambda: key in d, lambda: d.delete(key),
        lambda: d.pop(key, None), lambda: d.setdefault(key, 1), lambda: d.update([(key, 1)]),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            call()
    assert (dict(d.items()), d.version) == ({"k": 1}, 1)


@pytest.mark.parametrize("key", [float("nan"), Decimal("nan"), (1, float("nan"))])
def test_a_key_that_could_never_be_found_again_is_a_ValueError(d: Any, key: Any) -> None:
    for call in calls(lambda: d.set(key, 1), lambda: d.update({key: 1}), lambda: d.setdefault(key, 1)):
        with pytest.raises(ValueError, match="not equal to itself"):
            call()
    assert (len(d), d.version) == (0, 0)


# Comparison.


def test_a_dict_equals_any_mapping_of_equal_content(face: Face, d: Any) -> None:
    d.update({"a": 1, "b": [2]})
    twin = face.Dict("other/twin")
    twin.update({"b": [2], "a": 1})
    assert d == {"a": 1, "b": [2]} and d == OrderedDict(b=[2], a=1) and d == UserDict(a=1, b=[2]) and d == twin
    assert d != {"a": 1} and d != {"a": 1, "b": [3]} and d != [("a", 1)] and d != None  # noqa: E711
    twin["c"] = 3
    assert d != twin


def test_a_dict_is_unhashable(d: Any) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(d)


@bounded
@given(
    st.dictionaries(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.tuples(st.integers(), st.text()),
        st.integers(),
    )
)
def test_a_dict_holds_what_a_dict_holds(face: Face, model: dict[Any, int]) -> None:
    d = face.Dict("ns/d")
    d.clear()
    d.update(model)
    assert d == model and len(d) == len(model)
    assert dict(d.items()) == model
    assert all(d[key] == value for key, value in model.items())


def test_many_keys_that_are_no_text_for_others_are_kept_apart(face: Face, d: Any) -> None:
    # Half of a surrogate pair, as in a file name that is no UTF-8: Python has it as a str, which encodes to nothing.
    names = ["text", "a\udc80", "b\udc80"]
    d.update({name: number for number, name in enumerate(names)})
    assert list(d) == sorted(names) and [d[name] for name in names] == [0, 1, 2]
    assert d.get("b\udc80") == 2 and "c\udc80" not in d


def test_a_handle_of_an_object_that_was_never_committed_is_none_of_the_one_that_has_its_id(face: Face) -> None:
    face.Dict("ns/first")
    with suppress(ZeroDivisionError), face.transaction("ns"):
        lost = face.Dict("ns/lost")
        lost["a"] = "never stored"
        raise ZeroDivisionError
    other = face.Dict("ns/other")
    other["a"] = 1
    assert face.raw(lost)._binding.object_id == face.raw(other)._binding.object_id
    for use in calls(lambda: lost.get("a"), lambda: lost["a"], lambda: len(lost), lambda: lost.set("a", 2), lambda: list(lost)):
        with pytest.raises(parkit.ObjectNotFoundError, match="'ns/lost'"):
            use()
    assert other["a"] == 1


def test_of_long_keys_with_one_beginning_a_damaged_one_is_told_and_the_others_are_there(face: Face, d: Any) -> None:
    # A key of more than 511 bytes stands whole in front of its value, cut short in its place.
    names = ["k" * 600 + end for end in "abc"]
    d.update({name: name[-1] for name in names})
    namespace = open_namespace("ns")
    prefix = face.raw(d)._binding.cached[1]

    def damage(writing: Writing) -> None:
        cursor = writing.transaction.cursor()
        assert cursor.set_range(prefix)
        found = [(key, raw) for key, raw in cursor.iternext() if key.startswith(prefix)]
        (key,) = [key for key, raw in found if b"k" * 600 + b"b" in raw]
        writing.transaction.put(key, b"\x07")
        writing.touched += 1

    namespace.write(damage)
    for walk in calls(lambda: list(d), lambda: list(d.items()), lambda: list(d.irange("a"))):
        with pytest.raises(parkit.CodecError, match="'ns/d' cannot be decoded"):
            walk()
    assert d[names[0]] == "a" and d[names[2]] == "c" and len(d) == 3
    face.wrap(d)[names[1]] = "mended"
    assert list(d.values()) == ["a", "mended", "c"]
