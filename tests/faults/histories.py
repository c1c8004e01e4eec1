"""What clients asked for and were told, written down so that it outlives them.

Each client has a file of its own, to which it writes an invocation before its call and a completion behind it, with one system call each: after a
``kill -9`` the last one has no completion, and may have happened or not. A torn record at the end is one that was never written. The clock is
CLOCK_MONOTONIC, which all processes of a machine share. It is read before an invocation is written, and behind the call that completes: intervals are
rather too long than too short, so nothing is refused that was right.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.isolation import Append, Read, Transaction
from tests.faults.linearizability import Operation

__all__ = ["Recorder", "load", "transactions"]


class Recorder:
    """A client's file. Used by one thread or task."""

    def __init__(self, folder: Path, client: str) -> None:
        self._descriptor = os.open(folder / client, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._moment = 0

    def invoke(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Note what the client is about to ask for."""
        self._moment = 0
        self._write("invoked", time.monotonic_ns(), name, arguments)

    def opened(self) -> None:
        """Note that what is read from now on is of a moment that has passed: that at which the operation returns, for whoever checks it."""
        self._moment = time.monotonic_ns()

    def complete(self, outcome: Any) -> None:
        """Note what came out of it."""
        self._write("returned", self._moment or time.monotonic_ns(), outcome)

    def cancel(self) -> None:
        """Note that by its contract it did not happen."""
        self._write("cancelled", time.monotonic_ns())

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, *record: Any) -> None:
        data = pickle.dumps(record)
        assert os.write(self._descriptor, data) == len(data)


def load(folder: Path) -> list[Operation]:
    """Return the operations that the clients of a folder have noted, without those that did not happen."""
    return [operation for file in sorted(folder.iterdir()) for operation in _operations(file)]


def _operations(file: Path) -> Iterator[Operation]:
    invocation: tuple[Any, ...] | None = None
    for kind, moment, *rest in _records(file):
        if kind == "invoked":
            assert invocation is None, f"{file.name} has two calls at once"
            invocation = (moment, *rest)
        else:
            assert invocation is not None, f"{file.name} has an end without a beginning"
            if kind == "returned":
                yield Operation(file.name, invocation[1], invocation[2], rest[0], invocation[0], moment)
            invocation = None
    if invocation is not None:
        yield Operation(file.name, invocation[1], invocation[2], None, invocation[0])


def _records(file: Path) -> Iterator[tuple[Any, ...]]:
    with file.open("rb") as source:
        while True:
            try:
                yield pickle.load(source)
            except (EOFError, pickle.UnpicklingError):
                return


def transactions(history: Iterable[Operation]) -> list[Transaction]:
    """Return a history of transactions on lists (of :class:`tests.faults.models.Store`) as one for :mod:`tests.faults.isolation`.

    What a savepoint has undone becomes a transaction that was aborted.
    """
    found: list[Transaction] = []
    for operation in history:
        end, planned = operation.arguments
        status: Any = "unknown" if operation.pending else "aborted" if end == "rollback" else "committed"
        steps: list[Append | Read] = []
        undone: list[Append | Read] = []
        _collect(planned, operation.outcome, steps, undone)
        found.append(Transaction(operation.client, tuple(steps), status, operation.invoked, operation.returned))
        if undone:
            found.append(Transaction(f"{operation.client}, a savepoint", tuple(undone), "aborted", operation.invoked, operation.returned))
    return found


def _collect(planned: Iterable[Any], outcomes: Any, steps: list[Append | Read], undone: list[Append | Read] | None) -> None:
    for number, (what, name, arguments) in enumerate(planned):
        outcome = None if outcomes is None else outcomes[number]
        if what == "savepoint":
            if name == "rollback":
                inner: list[Append | Read] = []
                _collect(arguments, outcome, inner, None)
                if undone is not None:
                    undone += [step for step in inner if isinstance(step, Append)]
            else:
                _collect(arguments, outcome, steps, undone)
        elif name == "push":
            steps.append(Append((what, *arguments[:-1]), arguments[-1]))
        elif outcomes is not None:
            steps.append(Read((what, *arguments), outcome or ()))
