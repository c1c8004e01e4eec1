"""Room on the disk for files that are mapped into memory.

What is written into the hole of a mapped file takes its block from the disk at that moment, and if the disk is full then there is no call that could
fail: the process gets a SIGBUS, and dies. So the blocks are asked for before a file is mapped, by a call that can be refused.
"""

from __future__ import annotations

import errno
import os

__all__ = ["allocate"]

_BLOCK = 512
"""Bytes of what ``st_blocks`` counts, whatever the file system."""


def allocate(descriptor: int, size: int) -> None:
    """Make a file at least ``size`` bytes long, with zeros, and have all its blocks on the disk, where the file system can promise that.

    What is there stays. Others may do the same at the same time.

    Raises:
        OSError: There is no room.
    """
    status = os.fstat(descriptor)
    if status.st_size >= size and status.st_blocks * _BLOCK >= size:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # what file systems without it say
                raise
    if status.st_size < size:
        os.ftruncate(descriptor, size)
