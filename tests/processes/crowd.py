"""Forked processes that report what was acknowledged to them, and can be killed at any moment. For the scripts that the tests here start.

A report is one line in a pipe, written after the call it tells of has returned. It is shorter than PIPE_BUF, so it arrives whole or not at all.
A script that uses this must not have opened anything of parkit's before it starts its members, unless forking that is what it is about.
"""

from __future__ import annotations

import ast
import os
import random
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["PATIENCE", "Member", "Report", "linger"]

Report = Callable[[Any], None]

PATIENCE = 30.0
"""Seconds in which anything that is to happen must have happened."""


class Member:
    """A forked process that runs ``body(report, *arguments)`` and leaves with exit code 0, or 1 and a traceback."""

    def __init__(self, body: Callable[..., None], *arguments: object) -> None:
        self.reports: list[Any] = []
        self.status: int | None = None
        self._buffer = b""
        self._descriptor, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._descriptor)
            status = 1
            try:
                body(lambda value: os.write(writing, f"{value!r}\n".encode()), *arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)

    def read(self) -> Any:
        """Return the next report; raise EOFError at the member's end, TimeoutError if there is none in time."""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._buffer:
            if not select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"process {self.pid} has nothing to report")
            data = os.read(self._descriptor, 65536)
            if not data:
                raise EOFError(f"process {self.pid} has ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        self.reports.append(ast.literal_eval(line.decode()))
        return self.reports[-1]

    def kill(self) -> list[Any]:
        """Kill the process without warning; return all that it has reported."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait(expect=-signal.SIGKILL)

    def wait(self, expect: int = 0) -> list[Any]:
        """Wait until the process ends; return all that it has reported."""
        try:
            while True:
                self.read()
        except EOFError:
            pass
        os.close(self._descriptor)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert self.status == expect, f"process {self.pid} ended with {self.status}"
        return self.reports


def linger(most: float) -> None:
    """Let others run for a random while of at most so many seconds, so that what comes next hits them anywhere."""
    until = time.perf_counter() + random.uniform(0, most)
    while time.perf_counter() < until:
        os.sched_yield()
