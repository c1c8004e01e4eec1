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
from typing import Any, ClassVar

from parkit_async._core.registry import close_all, open_namespace

__all__ = ["PATIENCE", "Member", "Report", "bury", "linger"]

Report = Callable[[Any], None]

PATIENCE = 30.0
"""Seconds in which anything that is to happen must have happened."""


class Member:
    """A forked process that runs ``body(report, *arguments)`` and leaves with exit code 0, or 1 and a traceback."""

    _running: ClassVar[dict[int, Member]] = {}

    def __init__(self, body: Callable[..., None], *arguments: object) -> None:
        self.reports: list[Any] = []
        self._buffer = b""
        self._seen = 0
        self._ended = False
        self._descriptor, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._descriptor)
            status = 1
            try:
                body(lambda value: os.write(writing, f"{value!r}\n".encode()), *arguments)
                close_all()  # what the interpreter's exit would do; but that would also run what the script has registered
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        self._running[self._descriptor] = self

    @classmethod
    def listen(cls, timeout: float) -> None:
        """Take in what any member reports, so that none stands before a full pipe; wait up to ``timeout`` seconds for something."""
        for descriptor in select.select(list(cls._running), [], [], timeout)[0]:
            member = cls._running[descriptor]
            data = os.read(descriptor, 65536)
            if data:
                *lines, member._buffer = (member._buffer + data).split(b"\n")
                member.reports += [ast.literal_eval(line.decode()) for line in lines]
            else:
                member._ended = True
                os.close(descriptor)
                del cls._running[descriptor]

    def read(self) -> Any:
        """Return the next report; raise EOFError at the member's end, TimeoutError if there is none in time."""
        deadline = time.monotonic() + PATIENCE
        while self._seen == len(self.reports):
            if self._ended:
                raise EOFError(f"process {self.pid} has ended")
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGABRT)  # so that it prints what it was doing (faulthandler), and does not outlive the test
                raise TimeoutError(f"process {self.pid} has nothing to report")
            self.listen(max(0.0, deadline - time.monotonic()))
        self._seen += 1
        return self.reports[self._seen - 1]

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
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert status == expect, f"process {self.pid} ended with {status}"
        return self.reports


def linger(most: float) -> None:
    """Let others run for a random while of at most so many seconds, so that what comes next hits them anywhere."""
    until = time.perf_counter() + random.uniform(0, most)
    while time.perf_counter() < until:
        Member.listen(0)


def bury(name: str) -> None:
    """Remove the socket files of killed processes as the next to open the store would, but at once also what they were just binding."""
    sockets = open_namespace(name).sockets
    for file in os.listdir(sockets.path):
        if file.startswith("new-"):  # a sweep takes it for one that is being bound, unless it is old
            os.utime(os.path.join(sockets.path, file), (0, 0))
    sockets.sweep()
    assert os.listdir(sockets.path) == []
