"""The exceptions of parkit, one small tree.

::

    Exception
    └── ParkitError
        ├── TransactionError          a transaction failed; nothing of it was stored
        │   ├── NamespaceFullError    ... because the namespace has reached its maximum size
        │   └── CodecError            ... because a value could not be decoded
        ├── ContextError              the call is not allowed in the transaction or snapshot it was made in
        ├── ObjectExistsError         ``bind=False``, and the path is taken
        ├── ObjectNotFoundError       ``create=False`` and nothing is there, or the object was dropped
        └── StoragePathError          the store's folder or files cannot be used

Every one of them pickles, keeps its message and its attributes, and carries the cause it was raised from where there is one.
``queue.Empty``, ``queue.Full`` and ``queue.ShutDown`` are the standard library's own (``ShutDown`` is ours before Python 3.13).
"""

from __future__ import annotations

import queue
import sys
from typing import Any

__all__ = [
    "CodecError",
    "ContextError",
    "NamespaceFullError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ParkitError",
    "ShutDown",
    "StoragePathError",
    "TransactionError",
]


class ParkitError(Exception):
    """Base class of everything that parkit raises on its own account."""


class TransactionError(ParkitError):
    """A transaction failed due to an unexpected error; none of its changes were stored."""


class NamespaceFullError(TransactionError):
    """A write does not fit in the maximum size of its namespace. Reads, deletes and ``Queue.get`` still work.

    Attributes:
        namespace: The namespace that is full.
        size: Its maximum size in bytes.
        snapshot_pid: Process that holds the oldest open snapshot (which keeps old pages from being used again), or None.
        snapshot_age: Age of that snapshot in seconds, or None.
    """

    def __init__(
        self,
        message: str,
        namespace: str = "",
        size: int = 0,
        snapshot_pid: int | None = None,
        snapshot_age: float | None = None,
    ) -> None:
        super().__init__(message)
        self.namespace = namespace
        self.size = size
        self.snapshot_pid = snapshot_pid
        self.snapshot_age = snapshot_age

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.namespace, self.size, self.snapshot_pid, self.snapshot_age)


class CodecError(TransactionError):
    """A stored value could not be decoded; the rest of its collection stays usable.

    Attributes:
        path: Path of the object that holds the value.
        key: Key or index of the value.
    """

    def __init__(self, message: str, path: str = "", key: object = None) -> None:
        super().__init__(message)
        self.path = path
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.path, self.key)


class ContextError(ParkitError):
    """A call is not allowed in the transaction or snapshot that it was made in."""


class ObjectExistsError(ParkitError):
    """An object of that path exists already."""


class ObjectNotFoundError(ParkitError):
    """There is no such object, or it was dropped."""


class StoragePathError(ParkitError):
    """The store's folder, or a file in it, cannot be used; the message says how to mend it."""


if sys.version_info >= (3, 13):
    ShutDown = queue.ShutDown
else:

    class ShutDown(Exception):
        """Raised by ``put`` and ``get`` of a queue that was shut down (``queue.ShutDown`` from Python 3.13 on)."""
