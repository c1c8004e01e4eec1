"""The command as its users meet it: in this process (quick), in a pipe, and in a real terminal, which this is the other end of."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from parkit_async._core import paths
from parkit_async._core.doorbell import SocketDirectory
from parkit_async._core.registry import close_all
from parkit_async.cli import main
from tests.conftest import ROOT, Finished
from tests.pool.conftest import Pool, own_pool, pool, shared  # noqa: F401 - the fixtures of a pool

DEADLINE = 30.0
COMMAND = [sys.executable, "-m", "parkit"]


class Run(Protocol):
    """Runs the command in this process."""

    def __call__(self, *arguments: object, code: int | None = 0) -> Finished: ...


@pytest.fixture
def run(store: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: ``run("ls", code=0)`` returns what it wrote; ``code=None`` does not look at the exit code."""

    def call(*arguments: object, code: int | None = 0) -> Finished:
        capsys.readouterr()
        exitcode = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        assert code is None or exitcode == code, f"exit code {exitcode}: {output.err}"
        return Finished(exitcode, output.out, output.err)

    return call


def rows(finished: Finished) -> list[list[str]]:
    """Return the rows of a table that was printed plainly, without its titles."""
    return [line.split("\t") for line in finished.stdout.splitlines()[1:]]


def document(finished: Finished) -> Any:
    """Return the JSON that was printed."""
    return json.loads(finished.stdout)


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a command that is run by itself."""
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search, "PYTHONWARNINGS": "error", "COLUMNS": "", "NO_COLOR": "", **changes}


@pytest.fixture
def swept(store: Path) -> Iterator[None]:
    """Remove the sockets of workers that were killed, as whoever opens the store next would do. Goes before ``own_pool``."""
    yield
    close_all()
    folder = store / paths.SOCKETS
    if folder.is_dir():
        sockets = SocketDirectory(folder)
        sockets.sweep()
        sockets.close()


class Pipe:
    """The command with pipes for its streams."""

    def __init__(self, *arguments: object, **changes: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**changes),
        )
        self._deadline = time.monotonic() + DEADLINE

    def read_line(self) -> str:
        """Return the next line of its output."""
        assert self.process.stdout is not None
        line = bytearray()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, self._deadline - time.monotonic()))
            assert ready, f"no line came; so far {bytes(line)!r}"
            data = os.read(self.process.stdout.fileno(), 1)
            assert data, f"the command ended; the last of its output was {bytes(line)!r}"
            line += data
        return line.decode()[:-1]

    def finish(self) -> Finished:
        """Wait for its end."""
        output, errors = self.process.communicate(timeout=max(0.1, self._deadline - time.monotonic()))
        return Finished(self.process.returncode, output.decode(), errors.decode())

    def interrupt(self) -> Finished:
        """Send SIGINT, as Ctrl-C would, when it sleeps, and wait for its end."""
        until_asleep(self.process.pid, self._deadline)
        self.process.send_signal(signal.SIGINT)
        return self.finish()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def pipe(store: Path) -> Iterator[Callable[..., Pipe]]:
    """Start the command with pipes: ``pipe("tail", "-f", "log")``."""
    started: list[Pipe] = []

    def start(*arguments: object, **changes: str) -> Pipe:
        started.append(Pipe(*arguments, **changes))
        return started[-1]

    yield start
    for command in started:
        command.close()


def until_asleep(pid: int, deadline: float) -> None:
    """Wait until the main thread of a process sleeps, where the system tells.

    CPython forgets a signal that comes between its last look for signals and the system call in which a function then sleeps, until something else
    ends that sleep. A person types Ctrl-C once more; a test must not come at that moment.
    """
    stat = Path(f"/proc/{pid}/task/{pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline, "it does not sleep"


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]|\r")

# The process that a session starts with takes the terminal as its own, so that ^C typed there becomes SIGINT here.
_TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """The command in a terminal of its own, which this types into and reads from."""

    def __init__(self, *arguments: object, **changes: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _TAKE, *COMMAND, *map(str, arguments)],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                env=environment(**{"TERM": "xterm-256color", **changes}),
            )
        finally:
            os.close(slave)
        self._deadline = time.monotonic() + DEADLINE
        self.raw = ""
        self._data = b""

    @property
    def text(self) -> str:
        """What has been shown so far, without colours and movements of the cursor."""
        return _CONTROL.sub("", self.raw)

    def wait_for(self, text: str) -> None:
        """Wait until something is on the screen."""
        while text not in self.text:
            assert self._read(), f"the command ended without showing {text!r}: {self.text}"

    def type(self, text: str) -> None:
        """Type; ``\\x03`` is Ctrl-C, typed when the command sleeps."""
        if "\x03" in text:
            until_asleep(self.process.pid, self._deadline)
        os.write(self._master, text.encode())

    def finish(self) -> int:
        """Read until the command closes the terminal; return its exit code."""
        while self._read():
            pass
        return self.process.wait(max(0.1, self._deadline - time.monotonic()))

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, self._deadline - time.monotonic()))
        assert ready, f"nothing came; so far {self.raw!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has it open any more
            data = b""
        self._data += data
        self.raw = self._data.decode(errors="replace")
        return bool(data)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(store: Path) -> Iterator[Callable[..., Terminal]]:
    """Start the command in a terminal: ``terminal("ls")``."""
    started: list[Terminal] = []

    def start(*arguments: object, **changes: str) -> Terminal:
        started.append(Terminal(*arguments, **changes))
        return started[-1]

    yield start
    for command in started:
        command.close()
