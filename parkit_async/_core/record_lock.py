"""Ask who holds a record lock (``F_GETLK``), which takes nothing and disturbs nobody."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from typing import Final

__all__ = ["holder"]

_LINUX: Final = sys.platform.startswith("linux")
_flock: Final = struct.Struct("@hhqqi0q") if _LINUX else struct.Struct("@qqihh")
"""``struct flock``: type and whence come first on Linux, last on macOS."""


def holder(descriptor: int, start: int = 0, length: int = 0) -> int | None:
    """Return the process that has a record lock on a part of a file, or None; never this one. 0 is a process of another container.

    Args:
        descriptor: Of the file.
        start: Where the part begins.
        length: Bytes of it; 0 goes to the end.

    Raises:
        OSError: The descriptor is none.
    """
    if _LINUX:
        question = _flock.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    else:  # pragma: no cover - macOS
        question = _flock.pack(start, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
    answer = _flock.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question)[: _flock.size])
    kind, pid = (answer[0], answer[4]) if _LINUX else (answer[3], answer[2])
    return None if kind == fcntl.F_UNLCK else max(0, pid)
