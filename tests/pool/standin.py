"""A process that everybody takes for the supervisor of a store, and that does nothing: for tests of those who look for one, and see it die."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from parkit_async._core import supervision

__all__ = ["Supervisor"]

_HOLD = "import fcntl, os, sys; fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"


class Supervisor:
    """Holds the supervisor's lock of a store, in a process of its own, until it is killed or the block ends."""

    def __init__(self, store: Path) -> None:
        supervision.running_supervisor(str(store))  # makes the file
        command = [sys.executable, "-I", "-S", "-c", _HOLD, os.path.join(store, "supervisor")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """End it with SIGKILL. Idempotent."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        self._process.communicate()
