"""What importing costs, and what it starts."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import parkit

from .loops import face, missing
from .measure import Budget, Result, Settings, absolute, gauge, interleave

__all__ = ["imports"]

_HOME = Path(parkit.__file__).parents[1]
_COUNT_THREADS = "import os; print(len(os.listdir('/proc/self/task')))"


def imports(settings: Settings) -> Iterator[Result]:
    """Import each face, with all its names, in a fresh interpreter, less what the interpreter takes alone.

    The byte code lies in a cache, as it does wherever parkit is installed, whatever the environment says of writing it.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(settings.folder / "bytecode")

    def run(statement: str) -> bytes:
        return subprocess.run([sys.executable, "-c", statement], cwd=_HOME, env=environment, check=True, capture_output=True, timeout=60).stdout

    def taking(statement: str) -> float:
        start = perf_counter()
        run(statement)
        return perf_counter() - start

    statements = {name: f"from {name} import *" for name in ("parkit", "parkit_async")}  # a name may be imported only when it is asked for
    bare, *taken = interleave(15, *(partial(taking, statement) for statement in ("pass", *statements.values())))
    for (name, statement), limit, seconds in zip(statements.items(), (60, 90), taken, strict=True):
        if name == "parkit_async" and face() is None:
            yield missing(f"import {name}", Budget("<=", limit, "ms"))
            continue
        figures = [(own - alone) * 1e3 for own, alone in zip(seconds, bare, strict=True)]
        yield gauge(f"import {name}", Budget("<=", limit, "ms"), figures, f"the interpreter alone {statistics.median(bare) * 1e3:.0f} ms")
        threads = int(run(f"{statement}; {_COUNT_THREADS}"))
        yield absolute(f"threads started by import {name}", Budget("=", 0, ""), threads - 1)
