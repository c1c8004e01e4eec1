"""What every test of parkit stands on: a store of its own, a search for leaks behind it, and real processes with a deadline.

Nothing here sleeps. A test that leaves a thread, a descriptor, a child process or a socket file fails, also when it has passed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
hypothesis.settings.register_profile("without a clock", deadline=None)  # by default, an example of 200 ms fails the test
hypothesis.settings.load_profile("without a clock")

PATIENCE = 5.0  # seconds that a thread on its way out gets to end


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        *([] if sys.platform == "win32" else [pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")]),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run every async test on both event loops."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """Have SIGINT its default handler: a shell ignores it in what it runs in the background, and the scripts of the tests would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def libuv_is_warm() -> None:
    """Have libuv open the pipe that it keeps for signals until the process ends, before anybody counts descriptors."""
    if sys.platform != "win32":
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def no_leaks(libuv_is_warm: None, tmp_path: Path) -> Iterator[None]:
    """Fail a test that leaves something behind. The first fixture to be set up, so the last to look."""
    threads, descriptors, children = set(threading.enumerate()), _descriptors(), set(_children())
    yield
    _close_namespaces()
    leaks = [f"socket file {path}" for path in sorted(tmp_path.glob("**/sockets/*"))]
    deadline = time.monotonic() + PATIENCE
    for thread in set(threading.enumerate()) - threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            leaks.append(f"thread {thread.name!r}, {'daemon' if thread.daemon else 'not a daemon'}")
    own_processes, own_descriptors = _interpreters_own()
    for child in set(_children()) - children:
        if child.pid not in own_processes:
            leaks.append(f"child process {child}")
            child.kill()  # so that the next test does not pay for this one
            child.wait(PATIENCE)
    leaks += [f"descriptor {number} of {target}" for number, target in sorted(_descriptors() - descriptors) if number not in own_descriptors]
    assert not leaks, "the test left behind: " + "; ".join(leaks)


@pytest.fixture(autouse=True)
def store(no_leaks: None, parkit_store: Path) -> Path:
    """Give the test, and whatever it starts, an empty store and the default settings; return the store's path."""
    return parkit_store


def _close_namespaces() -> None:
    # A module that nobody has imported has nothing open, and importing it here would spoil what tests see of imports.
    close_all = getattr(sys.modules.get("parkit_async._core.registry"), "close_all", None)
    if close_all is not None:
        close_all()


def _descriptors() -> set[tuple[int, str]]:
    """Return this process's open descriptors with what they refer to; empty where the system does not tell (macOS, Windows)."""
    found = set()
    if os.path.isdir("/proc/self/fd"):
        for number in os.listdir("/proc/self/fd"):
            try:
                found.add((int(number), os.readlink(f"/proc/self/fd/{number}")))
            except FileNotFoundError:  # the descriptor of the listing itself
                pass
    return found


def _children() -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process().children(recursive=True)
    return children


def _interpreters_own() -> tuple[set[int], set[int]]:
    """Return processes and descriptors that multiprocessing starts with its first spawn and keeps until the interpreter ends."""
    tracker, server = getattr(resource_tracker, "_resource_tracker", None), getattr(forkserver, "_forkserver", None)
    processes = {getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None)}
    descriptors = {getattr(tracker, "_fd", None), getattr(server, "_forkserver_alive_fd", None)}
    return {pid for pid in processes if pid is not None}, {number for number in descriptors if number is not None}


@dataclass(frozen=True)
class Finished:
    """What a script has left: its exit code (negative: the signal that ended it) and its output."""

    exitcode: int
    stdout: str
    stderr: str


class Script:
    """A Python process that a test talks to by lines, each of them awaited with a deadline. Used by the test's thread alone."""

    def __init__(self, command: list[str], environment: dict[str, str], errors: Path) -> None:
        self._errors = errors
        self._output = bytearray()
        with errors.open("wb") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, line: str) -> None:
        """Write a line to the script's standard input."""
        self._stdin.write(f"{line}\n".encode())
        self._stdin.flush()

    def read_line(self, timeout: float = 30.0) -> str:
        """Return the script's next line of output; fail, with what it wrote to stderr, if it ends or ``timeout`` seconds pass before."""
        deadline = time.monotonic() + timeout
        while (end := self._output.find(b"\n")) < 0:
            if not self._read(deadline):
                pytest.fail(f"the script ended without another line: {self._report()}")
        line = self._output[:end].decode()
        del self._output[: end + 1]
        return line

    def finish(self, timeout: float = 30.0, check: bool = True) -> Finished:
        """Close the script's input, wait for its end, and return what it left.

        Fail the test if ``timeout`` seconds pass before, or if ``check`` is true and the exit code is not 0.
        """
        deadline = time.monotonic() + timeout
        try:
            self._stdin.close()
        except BrokenPipeError:  # it has ended without reading its last line
            pass
        while self._read(deadline):
            pass
        self._stdout.close()
        exitcode = self._wait(deadline)
        if check and exitcode != 0:
            pytest.fail(f"the script failed with exit code {exitcode}: {self._report()}")
        return Finished(exitcode, self._output.decode(), self._errors.read_text())

    def kill(self, number: int = signal.SIGKILL) -> Finished:
        """Send a signal, SIGKILL unless told otherwise, and wait for the script's end."""
        self.process.send_signal(number)
        return self.finish(check=False)

    def close(self) -> None:
        """Leave nothing of the script, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        try:
            self._stdin.close()
        except BrokenPipeError:
            pass
        self._stdout.close()

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            pytest.fail(f"the script did not answer in time: {self._report()}")
        data = os.read(self._stdout.fileno(), 65536)
        self._output += data
        return bool(data)

    def _wait(self, deadline: float) -> int:
        try:
            return self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pytest.fail(f"the script closed its output but did not end in time: {self._report()}")

    def _report(self) -> str:
        return f"exit code {self.process.poll()}, stdout {bytes(self._output)!r}, stderr:\n{self._errors.read_text()}"


Spawn = Callable[..., Script]
RunScript = Callable[..., Finished]


@pytest.fixture
def spawn(store: Path, tmp_path: Path) -> Iterator[Spawn]:
    """Start Python scripts on the test's store: ``spawn(source, *arguments, env={...})`` returns a running :class:`Script`.

    The source becomes the ``__main__`` of a file, so multiprocessing's spawn works in it. What still runs when the test ends is killed.
    """
    numbers = count()
    scripts: list[Script] = []

    def start(source: str, *arguments: object, env: dict[str, str] | None = None) -> Script:
        file = tmp_path / f"script_{next(numbers)}.py"
        file.write_text(textwrap.dedent(source))
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": search, "PYTHONUNBUFFERED": "1", **(env or {})}
        # From Python 3.12 on, forking a process that has threads warns; that it works all the same is what some of these scripts are about.
        options = ["-X", "faulthandler", "-W", "ignore:This process:DeprecationWarning"]
        script = Script([sys.executable, *options, str(file), *map(str, arguments)], environment, file.with_suffix(".stderr"))
        scripts.append(script)
        return script

    yield start
    for script in scripts:
        script.close()


@pytest.fixture
def run_script(spawn: Spawn) -> RunScript:
    """Run a Python script on the test's store to its end: ``run_script(source, *arguments, timeout=30, check=True, env=None)``."""

    def run(source: str, *arguments: object, timeout: float = 30.0, check: bool = True, env: dict[str, str] | None = None) -> Finished:
        return spawn(source, *arguments, env=env).finish(timeout, check)

    return run
