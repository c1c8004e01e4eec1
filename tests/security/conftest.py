"""Two users, and a place that both can reach: pytest's own folders are closed to everybody but who runs it, so nothing would be shown in them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RunScript, Script, Spawn

ROOT_ONLY = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can be two other users, and only on Linux is told how they look at each other"
)
FIRST, SECOND = 61001, 61002
"""Two users that need not be known to the system."""

# What is imported later may lie where only root can read it, as an interpreter of pyenv's does. A process that has changed its user is shut out of
# its own /proc/self until it says that it may be looked at (PR_SET_DUMPABLE), as it would be had that user started it.
_BECOME = """\
import ctypes, errno, fcntl, json, os, shutil, signal, socket, stat, sys, tempfile, time, traceback
from pathlib import Path
import cloudpickle, lmdb, platformdirs
import parkit, parkit_async
import parkit_async._core.maintenance, parkit_async._core.processes, parkit_async._core.supervision, parkit_async._core.output
from parkit import Dict, Log, Queue, StoragePathError
from parkit_async._core.registry import close_all

for name in parkit.__all__:
    getattr(parkit, name)
"".encode("idna"), "".encode("utf-8", "surrogatepass")
os.setgroups([])
os.setresgid({user}, {user}, {user})
os.setresuid({user}, {user}, {user})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
assert os.geteuid() == {user} and os.getgroups() == []
"""


def source_for(user: int, source: str) -> str:
    """Return a script that does as a user what ``source`` says."""
    return _BECOME.format(user=user) + textwrap.dedent(source)


@pytest.fixture
def open_ground() -> Iterator[Path]:
    """A folder that everybody may enter and nobody but root change."""
    folder = Path(tempfile.mkdtemp(prefix="parkit-users-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


As = Callable[..., str]
Start = Callable[..., Script]


@pytest.fixture
def as_user(run_script: RunScript) -> As:
    """Run a script as a user, and return what it printed: ``as_user(SECOND, source, *arguments)``."""

    def run(user: int, source: str, *arguments: object, env: dict[str, str] | None = None) -> str:
        return run_script(source_for(user, source), *arguments, env={"HOME": "/nowhere", **(env or {})}).stdout

    return run


@pytest.fixture
def start_as(spawn: Spawn) -> Start:
    """Start a script as a user: ``start_as(SECOND, source, *arguments)``."""

    def start(user: int, source: str, *arguments: object, env: dict[str, str] | None = None) -> Script:
        return spawn(source_for(user, source), *arguments, env={"HOME": "/nowhere", **(env or {})})

    return start
