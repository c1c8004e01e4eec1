"""What a worker must know of the program that submitted a process, so that what is importable there is importable here.

A *program* is an interpreter, a working folder and a module search path. It is stored once in a namespace, under its digest. A worker belongs to
the first program it runs something of: two programs may have different modules of one name, so for another one the worker begins anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from typing import Any

__all__ = ["enter", "program"]


def program() -> tuple[bytes, bytes]:
    """Return the digest (8 bytes) and the description (JSON) of this program as it is now. Any thread may call it."""
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        folder = "/"
    return _describe(sys.executable, folder, tuple(sys.path))


@functools.lru_cache(maxsize=16)
def _describe(executable: str, folder: str, path: tuple[str, ...]) -> tuple[bytes, bytes]:
    # An empty entry means the working folder of the moment, and relative ones begin there: as the program sees them now.
    search = [os.path.join(folder, entry) if not os.path.isabs(entry) else entry for entry in path]
    description = json.dumps({"executable": executable, "folder": folder, "path": search}).encode()
    return hashlib.blake2b(description, digest_size=8).digest(), description


def enter(description: dict[str, Any]) -> None:
    """Make this process search modules as a program does, and work in its folder, if that is still there."""
    if sys.path != description["path"]:
        sys.path[:] = description["path"]
    try:
        os.chdir(description["folder"])
    except OSError:
        os.chdir("/")
