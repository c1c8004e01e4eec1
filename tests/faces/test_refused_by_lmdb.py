"""What LMDB itself refuses in the middle of an operation: the error says what to do, nothing is stored by halves, and writing goes on afterwards.

The refusals are LMDB's own. Its map is made to end right behind what is stored, which parkit's reserve prevents otherwise; or the descriptor through
which it writes meta pages is exchanged for one that cannot be written to, as on a disk that has just failed.
"""

# ruff: noqa: PT012 - a block that fails has a body before it fails

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import parkit
from parkit_async._core.registry import open_namespace
from tests.faces.face import Face, calls

LARGE = bytes(1 << 20)


@pytest.fixture(params=["off", "normal"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The level decides where an awaited transaction is made: where its caller runs, or once more in the writer thread."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", request.param)
    return str(request.param)


@pytest.fixture
def d(face: Face, level: str) -> Any:
    """A dict in a namespace whose map has no room for ``LARGE``, though the namespace has."""
    d = face.Dict("ns/d")
    d["a"] = 1
    face.Log("ns/log").extend([1, 2, 3])
    open_namespace("ns").engine.environment.set_mapsize(256 << 10)
    return d


def content(d: Any) -> dict[Any, Any]:
    return dict(d.items())


def test_what_does_not_fit_in_the_map_is_a_NamespaceFullError(d: Any) -> None:
    with pytest.raises(parkit.NamespaceFullError, match="set_namespace_size"):
        d["large"] = LARGE
    d["b"] = 2
    assert content(d) == {"a": 1, "b": 2} and d.version == 2


USES: dict[str, Callable[[Any, Any], object]] = {
    "get": lambda d, log: d.get("a"),
    "list": lambda d, log: list(log),
    "set": lambda d, log: d.set("b", 2),
    "pop": lambda d, log: d.pop("a"),
    "update": lambda d, log: d.update(b=2),
    "append": lambda d, log: log.append(4),
}


def test_a_transaction_in_which_LMDB_has_failed_can_only_be_run_again(face: Face, d: Any) -> None:
    log = face.Log("ns/log")
    with pytest.raises(parkit.TransactionError, match=r"committing .* it can only be rolled back; run it again"), face.transaction(d):
        d["b"] = 1
        entries = iter(log)
        assert next(entries) == 1
        with suppress(parkit.NamespaceFullError):
            d["large"] = LARGE
        for name, use in USES.items():
            with pytest.raises(parkit.TransactionError) as caught:
                use(d, log)
            assert "it can only be rolled back; run it again" in str(caught.value), name
        with pytest.raises(parkit.TransactionError, match="iterating"):
            next(entries)
        with pytest.raises(parkit.TransactionError, match="beginning a savepoint"), face.transaction(d, isolated=True):
            raise AssertionError("it was begun")
    assert content(d) == {"a": 1} and list(log) == [1, 2, 3]
    with face.transaction(d):
        d["b"] = 1
        for use in USES.values():
            use(d, log)
    assert content(d) == {"b": 2} and list(log) == [1, 2, 3, 4]


def test_a_savepoint_in_which_LMDB_has_failed_is_undone_alone(face: Face, d: Any) -> None:
    with face.transaction(d):
        d["before"] = 1
        with pytest.raises(parkit.NamespaceFullError), face.transaction(d, isolated=True):
            d["inside"] = 1
            d["large"] = LARGE
        d["behind"] = 1
    assert content(d) == {"a": 1, "before": 1, "behind": 1}


def test_and_cannot_be_kept(face: Face, d: Any) -> None:
    with pytest.raises(parkit.TransactionError, match="ending a savepoint") as caught, face.transaction(d):
        d["before"] = 1
        with face.transaction(d, isolated=True):
            d["inside"] = 1
            with suppress(parkit.NamespaceFullError):
                d["large"] = LARGE
    assert caught.value.__cause__ is not None
    assert content(d) == {"a": 1} and d.version == 1
    d["b"] = 2
    assert content(d) == {"a": 1, "b": 2}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="finds LMDB's descriptors in /proc")
def test_a_meta_page_that_cannot_be_written_is_an_error_and_the_next_call_opens_the_files_anew(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "full")
    d = face.Dict("ns/d")
    d["a"] = 1
    namespace = open_namespace("ns")
    for number, use in enumerate(calls(lambda: d.set("a", 1), lambda: d["a"])):
        failed = namespace.engine
        break_meta_pages(str(namespace.directory / "data.mdb"))
        with pytest.raises(parkit.TransactionError, match="Bad file descriptor"):
            d["b"] = number
        use()
        assert content(d) == {"a": 1}
        mended = namespace.engine
        assert mended is not failed
        namespace.recover(failed)  # as by another thread, which met the same error and comes late
        assert namespace.engine is mended
    d["b"] = 2
    assert content(d) == {"a": 1, "b": 2}


def break_meta_pages(file: str) -> None:
    """Exchange the descriptor that LMDB opened for meta pages, which waits for the disk at each write, for one that only reads."""
    numbers = [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.realpath(f"/proc/self/fd/{number}") == file]
    (number,) = [number for number in numbers if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_DSYNC]
    reading = os.open(file, os.O_RDONLY)
    os.dup2(reading, number, inheritable=False)
    os.close(reading)
