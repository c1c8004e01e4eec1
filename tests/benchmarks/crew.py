"""Processes that do timed work together.

A crew is started once, as fresh interpreters, and then told again and again what to do, so that no figure contains the start of a process. All
its members begin at one agreed moment, and report on the clock that all processes share.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

__all__ = ["SPAWN", "Crew", "Report", "duties"]

SPAWN: Final = multiprocessing.get_context("spawn")

_HEAD_START: Final = 0.02
"""Seconds between telling the members and the moment at which they begin: enough for all of them to have been told."""
_PATIENCE: Final = 120.0
"""Seconds after which a member that has not reported is taken to hang."""

Duty = Callable[..., Any]


class Report(NamedTuple):
    """What a member of a crew did.

    Attributes:
        seconds: From the agreed moment to the end of its work.
        result: What the duty returned.
    """

    seconds: float
    result: Any


class Crew:
    """Several processes, ended with the ``with`` block.

    Args:
        members: For each process a function of a module, which gets a connection and the arguments after it, and calls :func:`duties`.
    """

    def __init__(self, *members: tuple[Any, ...]) -> None:
        self._connections: list[Connection] = []
        self._processes = []
        for target, *arguments in members:
            ours, theirs = SPAWN.Pipe()
            process = SPAWN.Process(target=target, args=(theirs, *arguments), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        for connection in self._connections:
            self._receive(connection)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for connection, process in zip(self._connections, self._processes, strict=True):
            if kind is not None:
                process.kill()
            connection.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()

    def work(self, duty: str, *arguments: Any) -> list[Report]:
        """Have all members do the duty of that name at once; return their reports, in the members' order.

        Raises:
            RuntimeError: A member failed, hangs or died.
        """
        self.tell(duty, *arguments)
        return self.reports()

    def tell(self, duty: str, *arguments: Any) -> None:
        """Have all members begin a duty; :meth:`reports` must be called before the next one."""
        start = time.monotonic() + _HEAD_START
        for connection in self._connections:
            connection.send((duty, start, arguments))

    def reports(self) -> list[Report]:
        """Wait until all members are done; as :meth:`work`."""
        return [self._receive(connection) for connection in self._connections]

    @staticmethod
    def _receive(connection: Connection) -> Any:
        if not connection.poll(_PATIENCE):
            raise RuntimeError(f"a process of the benchmark has not reported for {_PATIENCE:g} seconds")
        try:
            report = connection.recv()
        except EOFError:
            raise RuntimeError("a process of the benchmark ended; what it printed says why") from None
        return report


@contextmanager
def _closing(connection: Connection) -> Iterator[Connection]:
    try:
        yield connection
    finally:
        connection.close()


def duties(connection: Connection, known: dict[str, Duty]) -> None:
    """Do what the crew's owner asks for, in a member, until it hangs up. Ctrl-C is the owner's, whose end ends the members."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _closing(connection):
        connection.send(None)
        while True:
            try:
                name, start, arguments = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            duty = known[name]
            time.sleep(max(0.0, start - time.monotonic()))
            result = duty(*arguments)
            connection.send(Report(time.monotonic() - start, result))
