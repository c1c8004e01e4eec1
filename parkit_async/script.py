"""What ``parkit run script.py`` has a worker call. It is no part of the command's package, so that a worker need not load that."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

__all__ = ["run_script"]


def run_script(path: str, arguments: Sequence[str] = ()) -> None:
    """Run a Python file as ``__main__``, as ``python path arguments`` would: its folder is searched for modules first.

    Args:
        path: The file; absolute.
        arguments: What follows it in ``sys.argv``.

    Raises:
        OSError: The file cannot be read.
        BaseException: What the script raises; SystemExit, too.
    """
    before = sys.argv, sys.path[:]
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(path))
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        # The worker goes on to run other things.
        sys.argv, sys.path[:] = before
