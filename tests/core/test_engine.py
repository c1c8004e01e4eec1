"""LMDB's files as they are opened: half a file, a short one, one that is being grown, a damaged one; and what its errors tell."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Any

import lmdb
import pytest

from parkit import Dict, StoragePathError, TransactionError
from parkit_async._core.engine import PAGE, Engine, translate, verify_file
from parkit_async._core.layout import META_KEY, Meta
from parkit_async._core.registry import close_all, open_namespace

SIZE = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder, for one environment."""
    folder = tmp_path / "environment"
    folder.mkdir()
    return folder


def test_a_file_that_ends_before_pages_that_nobody_needs_is_opened(folder: Path) -> None:
    opened = Engine(folder, "off", SIZE)
    for number in range(5):
        with opened.begin_write() as transaction:
            transaction.put(b"a", bytes((number,)))
            if number == 4:
                transaction.put(b"large", bytes(100 * PAGE))  # pages that are given back by the transaction that took them, and never written
                transaction.delete(b"large")
    short = opened.usage().file * PAGE - (folder / "data.mdb").stat().st_size
    opened.close()
    assert short > 0
    opened = Engine(folder, "off", SIZE)
    with opened.begin() as transaction:
        assert transaction.get(b"a") == b"\x04" and transaction.get(b"large") is None
    opened.close()


def test_what_is_no_data_file_at_all_is_a_problem_and_no_exception(tmp_path: Path) -> None:
    file = tmp_path / "data.mdb"
    file.write_bytes(b"something else" * 1000)
    assert verify_file(file)


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="takes a lock against its own process, as Linux can")
def test_half_a_file_that_another_process_looks_at_is_not_begun_anew(folder: Path) -> None:
    # What a full disk leaves of a first commit. To begin it anew would take the file from under the other one.
    half = bytes(PAGE // 2)
    (folder / "data.mdb").write_bytes(half)
    (folder / "lock.mdb").touch()
    other = os.open(folder / "lock.mdb", os.O_RDWR)
    try:
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0))
        with pytest.raises(StoragePathError, match="cannot open the namespace's files"):
            Engine(folder, "off", SIZE)
        assert (folder / "data.mdb").read_bytes() == half
    finally:
        os.close(other)
    Engine(folder, "off", SIZE).close()


class Growing:
    """``lmdb.open`` as it is while another process grows the map: it fails some times, and then opens."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self._open = lmdb.open

    def __call__(self, *arguments: Any, **options: Any) -> lmdb.Environment:
        if self.failures:
            self.failures -= 1
            raise lmdb.MapResizedError("between LMDB's two looks")
        return self._open(*arguments, **options)


def test_a_map_that_another_process_grows_meanwhile_is_opened_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Growing(3)
    monkeypatch.setattr(lmdb, "open", growing)
    d = Dict[str, int]("ns/d")
    d["a"] = 1
    assert d["a"] == 1 and growing.failures == 0


def test_a_map_that_never_stops_growing_is_an_error_of_parkits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb, "open", Growing(1000))
    with pytest.raises(StoragePathError, match="between LMDB's two looks") as caught:
        Dict[str, int]("ns/d")
    assert isinstance(caught.value.__cause__, lmdb.MapResizedError)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (lmdb.ReadersFullError, "close some"),
        (lmdb.BadTxnError, "run it again"),
        (lmdb.CorruptedError, "restore the namespace from a backup"),
        (lmdb.PageNotFoundError, "restore the namespace from a backup"),
        (lmdb.PanicError, "check it, and try again"),
        (lmdb.DiskError, "Nothing was stored"),
    ],
)
def test_an_error_of_LMDBs_comes_with_what_to_do(error: type[lmdb.Error], remedy: str) -> None:
    told = translate(error("mdb_put: reason"), "ns", "writing")
    assert isinstance(told, TransactionError)
    assert str(told).startswith("writing in namespace 'ns' failed: mdb_put: reason.") and remedy in str(told)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (b"no JSON", "not a parkit namespace"),
        (Meta("off", SIZE).pack().replace(b'"off"', b'"mad"'), "is damaged"),
        (Meta("off", 1 << 60).pack(), "is damaged"),
        (Meta("off", 0).pack(), "is damaged"),
    ],
)
def test_a_namespace_whose_own_record_is_damaged_is_refused(record: bytes, match: str) -> None:
    Dict[str, int]("ns/d")["a"] = 1
    folder = open_namespace("ns").directory
    close_all()
    opened = Engine(folder, "off", SIZE)
    with opened.begin_write() as transaction:
        transaction.put(META_KEY, record)
    opened.close()
    (folder / "shared").unlink()
    with pytest.raises(StoragePathError, match=match):
        Dict[str, int]("ns/d")
    with lmdb.open(str(folder), readonly=True) as environment, environment.begin() as transaction:
        assert transaction.get(META_KEY) == record, "nothing was changed"
