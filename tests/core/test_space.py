"""How full a namespace is: the limit holds, the reserve serves deletes, an old snapshot is named, and room comes back."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parkit import Dict, NamespaceFullError, Queue, set_namespace_size, snapshot, transaction
from parkit_async._core.engine import PAGE, Reader, Usage
from parkit_async._core.registry import open_namespace
from parkit_async._core.shared import WORD_GROWN, WORD_LIMIT, WORD_PAGES, WORD_USED
from parkit_async._core.space import DEFAULT_SIZE, Space
from tests.conftest import Spawn

SMALL = 256 << 10
LIMIT = 100  # pages


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill without waiting for the disk; how full a namespace is does not depend on its level."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")


class FakeEngine:
    """What :class:`Space` asks of an engine, told by the test."""

    def __init__(self, file: int, live: int, readers: list[Reader], growth: int) -> None:
        self._usage = Usage(file, live, 50)
        self._readers = readers
        self._growth = growth
        self.dead: list[Reader] = []

    def usage(self) -> Usage:
        return self._usage

    def live_pages(self, transaction: object) -> int:
        return self._usage.live + self._growth

    def readers(self) -> list[Reader]:
        return self._readers + self.dead

    def check_readers(self) -> int:
        count = len(self.dead)
        self.dead = []
        return count


def look(file: int, live: int, size: int, *, readers: list[Reader] | None = None, growth: int = 0, touched: int = 0, **more: Any) -> int:
    engine = FakeEngine(file, live, readers or [], growth)
    engine.dead = more.get("dead", [])
    table = SimpleNamespace(words=[0] * 512, commit_time=lambda transaction, last: None)
    table.words[WORD_LIMIT] = LIMIT * PAGE
    table.words[WORD_PAGES] = more.get("pages", file)
    table.words[WORD_GROWN] = more.get("grown", 0)
    namespace: Any = SimpleNamespace(table=table, engine=engine, name="fake")
    writing: Any = SimpleNamespace(transaction=None, touched=touched)
    return Space(namespace).recheck(writing, size)


def test_what_fits_leaves_the_rest_as_room() -> None:
    # One page of data, and the five that its path through the tree may copy.
    assert look(10, 10, PAGE) == (LIMIT - 10 - 6) * PAGE
    assert look(10, 10, PAGE, growth=7, touched=1) == (LIMIT - 10 - 6 - 7 - 5) * PAGE


@pytest.mark.parametrize(("file", "fits"), [(LIMIT - 6, True), (LIMIT - 5, False)])
def test_the_limit_is_exact_in_pages(file: int, fits: bool) -> None:
    if fits:
        assert look(file, file, PAGE) == 0
    else:
        with pytest.raises(NamespaceFullError):
            look(file, file, PAGE)


def test_free_pages_are_used_again() -> None:
    assert look(LIMIT, 20, PAGE) == (LIMIT - 20 - 6) * PAGE


def test_free_pages_are_used_again_below_a_snapshot_that_is_older_than_no_growth() -> None:
    assert look(LIMIT, 20, PAGE, readers=[Reader(1, 40)], grown=40) > 0


def test_free_pages_that_a_snapshot_pins_are_not_room() -> None:
    with pytest.raises(NamespaceFullError, match="process 1;"):
        look(LIMIT, 20, PAGE, readers=[Reader(1, 40)], grown=41)


def test_slots_that_read_nothing_pin_nothing() -> None:
    assert look(LIMIT, 20, PAGE, readers=[Reader(1, None)], grown=41) > 0


def test_a_dead_reader_pins_nothing() -> None:
    assert look(LIMIT, 20, PAGE, dead=[Reader(1, 40)], grown=41) > 0


def fill(d: Dict[int, bytes], size: int = 3000) -> int:
    for count in range(1_000_000):
        try:
            d[count] = bytes(size)
        except NamespaceFullError:
            return count
    raise AssertionError("it is never full")


def overwrite(d: Dict[str, bytes]) -> None:
    for number in range(1_000_000):
        d["k"] = number.to_bytes(1500, "big")


def test_default_size() -> None:
    d = Dict[int, int]("plain/d")
    assert d._home.table.words[WORD_LIMIT] == DEFAULT_SIZE == 1 << 30


def test_full_namespace_tells_what_happened_and_stores_nothing_of_it() -> None:
    set_namespace_size("full", SMALL)
    d = Dict[int, bytes]("full/d")
    count = fill(d)
    assert 0.5 * SMALL < count * 3000 < SMALL
    version = d.version
    with pytest.raises(NamespaceFullError) as caught, transaction(d):
        d.update({-1: b"small", -2: bytes(SMALL)})
    assert (caught.value.namespace, caught.value.size, caught.value.snapshot_pid, caught.value.snapshot_age) == ("full", SMALL, None, None)
    for part in ("'full'", f"{SMALL:,}", "No snapshot is open", "delete", "set_namespace_size"):
        assert part in str(caught.value)
    assert len(d) == count and -1 not in d and d.version == version


def test_full_namespace_still_reads_and_deletes_and_has_room_again() -> None:
    set_namespace_size("full", SMALL)
    d, q = Dict[int, bytes]("full/d"), Queue[bytes]("full/q")
    for _ in range(10):
        q.put(bytes(3000))
    count = fill(d)
    assert d[0] == bytes(3000) and sum(1 for _ in d) == count
    for _ in range(10):
        assert q.get_nowait() == bytes(3000)
    for key in range(count):
        del d[key]
    assert fill(d) >= count


@pytest.mark.parametrize("size", [1, 300, 5000])
def test_the_limit_holds_for_entries_of_any_size(size: int) -> None:
    # Small ones fit into pages that the commit before has freed, which must not count as room for ever.
    set_namespace_size("full", SMALL)
    d = Dict[int, bytes]("full/d")
    fill(d, size)
    usage = d._home.engine.usage()
    assert usage.live * PAGE <= SMALL
    assert usage.file * PAGE <= SMALL + 32 * PAGE  # what the last commits have freed can be used again only by the next ones


def test_more_size_is_room_at_once() -> None:
    set_namespace_size("full", SMALL)
    d = Dict[int, bytes]("full/d")
    count = fill(d)
    set_namespace_size("full", 4 * SMALL)
    for key in range(count, 3 * count):
        d[key] = bytes(3000)
    with pytest.raises(ValueError, match=r"uses .* bytes already"):
        set_namespace_size("full", SMALL)
    assert len(d) == 3 * count


def test_old_snapshot_is_named_and_its_end_gives_the_room_back() -> None:
    set_namespace_size("pinned", 1 << 20)
    d = Dict[str, bytes]("pinned/d")
    d["k"] = b"old"
    other = Dict[str, bytes]("pinned/other")
    other["k"] = b"untouched"
    iterator = iter(d.items())  # holds a snapshot, and lets this thread write
    with pytest.raises(NamespaceFullError, match="held by this process") as caught:
        overwrite(d)
    overwritten = int.from_bytes(d["k"], "big")
    assert overwritten > 100
    assert caught.value.snapshot_pid == os.getpid()
    assert caught.value.snapshot_age is not None and caught.value.snapshot_age >= 0
    assert next(iterator) == ("k", b"old")
    del other["k"]
    del iterator
    for number in range(2 * overwritten):
        d["k"] = number.to_bytes(1500, "big")


@pytest.mark.processes
def test_killed_snapshot_holder_does_not_fill_the_namespace(spawn: Spawn) -> None:
    set_namespace_size("pinned", 1 << 20)
    d = Dict[str, bytes]("pinned/d")
    d["k"] = b"old"
    holder = spawn("""
        import sys
        from parkit import Dict, snapshot
        d = Dict("pinned/d")
        with snapshot(d):
            print(d["k"])
            sys.stdin.read()
    """)
    assert holder.read_line() == "b'old'"
    with pytest.raises(NamespaceFullError) as caught:
        overwrite(d)
    assert caught.value.snapshot_pid == holder.pid
    holder.kill()
    for number in range(2000):
        d["k"] = number.to_bytes(1500, "big")


def test_an_ordinary_snapshot_costs_nobody_his_room() -> None:
    set_namespace_size("pinned", SMALL)
    d = Dict[str, bytes]("pinned/d")
    for number in range(1000):
        with snapshot(d):
            d.get("k")
        d["k"] = number.to_bytes(1500, "big")


sizes = st.integers(0, 9000) | st.integers(0, 200)
changes = st.lists(st.lists(st.tuples(st.integers(0, 40), st.none() | sizes), min_size=1, max_size=20), max_size=40)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_room_is_never_overestimated(changes: list[list[tuple[int, int | None]]]) -> None:
    # Whatever is done, the shared count of what is taken stays within the limit, and the data as a dict's would be.
    set_namespace_size("any", SMALL)
    d = Dict[int, bytes]("any/d")
    d.clear()
    expected: dict[int, bytes] = {}
    words = open_namespace("any").table.words
    for group in changes:
        attempt = dict(expected)
        try:
            with transaction(d):
                for key, size in group:
                    if size is None:
                        d.pop(key, None)
                        attempt.pop(key, None)
                    else:
                        d[key] = attempt[key] = bytes(size)
            expected = attempt
        except NamespaceFullError:
            pass
        assert words[WORD_USED] <= words[WORD_LIMIT]
        assert dict(d.items()) == expected
