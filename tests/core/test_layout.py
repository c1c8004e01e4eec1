"""Where things lie: keys sort as the layout says, nothing overlaps, records come back as they were written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkit_async._core.layout import (
    FORMAT_VERSION,
    META_KEY,
    UNBOUNDED,
    Entry,
    Meta,
    State,
    attribute_prefix,
    data_prefix,
    dead_prefix,
    directory_key,
    directory_prefix,
    header_key,
    index_key,
    prefix_end,
    retired_prefix,
)

words = st.integers(0, UNBOUNDED)
ids = st.integers(1, UNBOUNDED >> 1)
counts = st.integers(0, UNBOUNDED >> 1)
FIELDS = ("range", "version", "length", "head", "tail", "unfinished", "maxsize", "flags", "dead", "nonce")


@given(st.tuples(*(words if name in ("maxsize", "flags", "nonce") else counts for name in FIELDS)))
def test_header_comes_back_with_every_field_at_its_full_width(fields: tuple[int, ...]) -> None:
    values = (*fields[:3], *sorted(fields[3:5]), *fields[5:])  # a head is never behind its tail
    state = State.new(1, 2)
    for name, value in zip(FIELDS, values, strict=True):
        setattr(state, name, value)
    again = State(state.pack())
    assert tuple(getattr(again, name) for name in FIELDS) == values
    assert again.prefix == data_prefix(again.range)
    assert not again.changed


def test_new_header_is_empty() -> None:
    state = State.new(7, nonce=8, maxsize=9, flags=1)
    assert (state.range, state.nonce, state.maxsize, state.flags) == (7, 8, 9, 1)
    assert state.version == state.length == state.head == state.tail == state.unfinished == state.dead == 0


def test_copy_is_independent_and_remembers_whether_it_was_changed() -> None:
    state = State.new(7, 8)
    state.changed = True
    twin = state.copy()
    twin.tail, twin.changed = 5, False
    assert (state.tail, state.changed) == (0, True)
    assert state.copy().changed


def test_move_changes_where_entries_lie() -> None:
    state = State.new(7, 8)
    state.move(9)
    assert state.prefix == data_prefix(9)
    assert State(state.pack()).prefix == data_prefix(9)


@given(ids, words, words)
def test_entries_sort_by_index(range_id: int, one: int, other: int) -> None:
    prefix = data_prefix(range_id)
    assert (index_key(prefix, one) < index_key(prefix, other)) is (one < other)


@given(ids, ids, st.binary(max_size=40), st.binary(max_size=40))
def test_what_belongs_to_an_id_lies_together_and_in_order_of_ids(one: int, other: int, first: bytes, second: bytes) -> None:
    for low, high in zip(kinds(one), kinds(one)[1:], strict=False):
        assert low + first < high + second, "the spaces of one id overlap"
    if one < other:
        assert kinds(one)[-1] + first < kinds(other)[0] + second, "the keys of two ids are mixed"
    assert META_KEY < directory_prefix() + first < retired_prefix() + second < header_key(one)


def kinds(object_id: int) -> list[bytes]:
    return [header_key(object_id), attribute_prefix(object_id), dead_prefix(object_id), data_prefix(object_id)]


@given(ids, st.sampled_from(range(1, 4)), st.binary(max_size=600), st.binary(min_size=1, max_size=40))
def test_prefix_end_is_behind_all_that_begin_with_the_prefix_and_before_the_rest(object_id: int, kind: int, tail: bytes, other: bytes) -> None:
    prefix = kinds(object_id)[kind]
    end = prefix_end(prefix)
    assert prefix <= prefix + tail < end
    assert prefix_end(directory_prefix()) == retired_prefix()
    if not other.startswith(prefix):
        assert not prefix <= other < end


@given(st.lists(st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()), min_size=2, unique=True))
def test_directory_is_in_order_of_names(names: list[str]) -> None:
    assert sorted(names) == [name for _, name in sorted((directory_key(name), name) for name in names)]


@given(
    st.sampled_from(["full", "normal", "off"]),
    st.integers(0, 1 << 44),
    st.none() | st.lists(st.sampled_from(["json", "raw"])),
    st.integers(1, 1000),
)
def test_meta_comes_back(level: str, size: int, codecs: list[str] | None, version: int) -> None:
    again = Meta.unpack(Meta(level, size, codecs, version).pack())
    assert (again.level, again.size, again.codecs, again.format) == (level, size, codecs, version)


def test_meta_is_of_this_format_unless_told_otherwise() -> None:
    assert Meta.unpack(Meta("full", 1).pack()).format == FORMAT_VERSION


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b"5", b'"x"', b"null", b'{"parkit": null, "level": 1, "size": 2, "codecs": 4}']))
def test_what_is_no_meta_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        Meta.unpack(raw)


@given(
    ids, st.text(max_size=60), st.booleans(), st.none() | st.just("json"), st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5))
)
def test_directory_entry_comes_back(object_id: int, type_name: str, versioned: bool, codec: str | None, custom: dict[str, object]) -> None:
    entry = Entry(object_id, type_name, "5" * 32, versioned, "2020-01-01T00:00:00+00:00", codec, custom)
    assert Entry.unpack(entry.pack()) == entry
