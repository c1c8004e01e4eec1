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
_OBJECTS = "Dict, Queue, LifoQueue, Log, Object, Process, transaction, snapshot"
_COUNT_THREADS = "import os; print(len(os.listdir('/proc/self/task')))"


def imports(settings: Settings) -> Iterator[Result]:
    """Import each face's objects in a fresh interpreter, less what the interpreter takes alone; and all its names.

    Some names are imported only when they are asked for: those of parkit_async, and what needs concurrent.futures or logging.

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

    names = ("parkit", "parkit_async")
    statements = ["pass", *(f"from {name} import {_OBJECTS}" for name in names), *(f"from {name} import *" for name in names)]
    bare, *taken = interleave(15, *(partial(taking, statement) for statement in statements))
    for name, limit, seconds, all_names in zip(names, (60, 90), taken[:2], taken[2:], strict=True):
        if name == "parkit_async" and face() is None:
            yield missing(f"import {name}", Budget("<=", limit, "ms"))
            continue
        alone = statistics.median(bare)
        figures = [(own - single) * 1e3 for own, single in zip(seconds, bare, strict=True)]
        everything = statistics.median(all_names) - alone
        note = f"the interpreter alone {alone * 1e3:.0f} ms; with all names {everything * 1e3:.0f} ms"
        yield gauge(f"import {name}", Budget("<=", limit, "ms"), figures, note)
        threads = int(run(f"from {name} import *; {_COUNT_THREADS}"))
        yield absolute(f"threads started by import {name}", Budget("=", 0, ""), threads - 1)
