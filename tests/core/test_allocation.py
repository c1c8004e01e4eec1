"""Blocks are asked for before a file is mapped: a full disk is an error there, and a SIGBUS later."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from parkit_async._core.allocation import allocate

SIZE = 1 << 16


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    made = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(made, b"there")
    yield made
    os.close(made)


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)


def test_a_file_gets_its_blocks(descriptor: int) -> None:
    allocate(descriptor, SIZE)
    status = os.fstat(descriptor)
    assert status.st_size == SIZE
    assert status.st_blocks * 512 >= SIZE or not hasattr(os, "posix_fallocate")
    assert os.pread(descriptor, 6, 0) == b"there\0"


def test_a_file_that_has_them_is_left_alone(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate(descriptor, SIZE)
    os.pwrite(descriptor, os.urandom(SIZE), 0)  # where the file system promises nothing it has them now
    refuse(monkeypatch, errno.EIO)
    allocate(descriptor, SIZE)
    allocate(descriptor, SIZE // 2)
    assert os.fstat(descriptor).st_size == SIZE


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, None])
def test_where_nobody_can_promise_them_the_file_is_long_enough_all_the_same(
    number: int | None, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if number is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        refuse(monkeypatch, number)
    allocate(descriptor, SIZE)
    assert os.fstat(descriptor).st_size == SIZE
    assert os.pread(descriptor, 6, 0) == b"there\0"
    allocate(descriptor, SIZE // 2)
    assert os.fstat(descriptor).st_size == SIZE, "nothing is cut off"


def test_a_full_disk_is_an_error(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        allocate(descriptor, SIZE)
