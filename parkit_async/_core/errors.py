"""The exceptions of parkit, one small tree.

::

    Exception
    ├── ParkitError
    │   ├── TransactionError          a transaction failed; nothing of it was stored
    │   │   ├── NamespaceFullError    ... because the namespace has reached its maximum size
    │   │   └── CodecError            ... because a value could not be decoded
    │   ├── ContextError              the call is not allowed in the transaction or snapshot it was made in
    │   ├── ObjectExistsError         ``bind=False``, and the path is taken
    │   ├── ObjectNotFoundError       ``create=False`` and nothing is there, or the object was dropped
    │   ├── StoragePathError          the store's folder or files cannot be used
    │   ├── ProcessError              a process cannot do that in its state (a RuntimeError, too)
    │   ├── ProcessCrashedError       a process ended without an outcome: killed, out of memory, native code
    │   └── RemoteError               stands for what a process raised, where the exception itself cannot be had
    └── RemoteTraceback               never raised: the cause of an exception that comes from another process

Every one of them pickles, keeps its message and its attributes, and carries the cause it was raised from where there is one.
``queue.Empty``, ``queue.Full`` and ``queue.ShutDown`` are the standard library's own (``ShutDown`` is ours before Python 3.13).
"""

from __future__ import annotations

import errno
import queue
import signal
import sys
from typing import Any, Final

__all__ = [
    "CodecError",
    "ContextError",
    "NamespaceFullError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ParkitError",
    "ProcessCrashedError",
    "ProcessError",
    "RemoteError",
    "RemoteTraceback",
    "ShutDown",
    "StoragePathError",
    "TransactionError",
    "remedy",
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


class ProcessError(ParkitError, RuntimeError):
    """A process cannot do that in its state; started twice, for example."""


class ProcessCrashedError(ParkitError):
    """A process ended without an outcome: neither did it return nor raise. The message names the probable causes.

    Attributes:
        path: Path of the process.
        exitcode: Negative number of the signal that ended it, or the code that it left with; None if nobody could see that.
        output: File with what it wrote, or None.
    """

    def __init__(self, path: str = "", exitcode: int | None = None, output: str | None = None) -> None:
        where = "" if output is None else f"; what it wrote is in {output}"
        super().__init__(f"process {path!r} {_explain_end(exitcode)}{where}")
        self.path = path
        self.exitcode = exitcode
        self.output = output

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.exitcode, self.output)


class RemoteError(ParkitError):
    """Stands for what a process raised, where the exception itself cannot be had. Its traceback is shown as the cause.

    Attributes:
        type: Module and qualified name of the exception's class.
        message: Text of the exception.
        traceback: Its traceback as text: causes, groups and notes included.
        reason: Why the exception itself cannot be had; empty if that is not known.
    """

    def __init__(self, type: str = "", message: str = "", traceback: str = "", reason: str = "") -> None:
        name = type.removeprefix("builtins.")
        why = f" (this stands for the exception of the process: {reason})" if reason else ""
        super().__init__(f"{name}: {message}{why}" if message else f"{name}{why}")
        self.type = type
        self.message = message
        self.traceback = traceback
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.type, self.message, self.traceback, self.reason)


class RemoteTraceback(Exception):
    """The traceback of an exception that comes from another process; its ``__cause__``, so that it is shown.

    Attributes:
        text: The traceback.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


_REMEDIES: Final = {
    errno.ENOSPC: "the disk is full: make room on it, and try again",
    errno.EDQUOT: "the user's share of the disk (quota) is used up: make room, and try again",
    errno.EFBIG: "the file is as large as the disk, or the limit of this process (ulimit -f), allows: raise that",
    errno.EIO: "the disk is full, or it has failed: make room on it, see the system's log, and have a backup at hand",
    errno.EROFS: "the file system is mounted read-only, which also happens by itself when a disk fails: mount it for writing",
    errno.EMFILE: "this process has too many files open: close some, or raise its limit (ulimit -n)",
    errno.ENFILE: "the whole system has too many files open: end some programs, or raise its limit (sysctl fs.file-max)",
    errno.ENOMEM: "there is not enough memory, or address space: raise the limit of this process (ulimit -v), or end some programs",
}


def remedy(error: BaseException, otherwise: str) -> str:
    """Return what to do about an error of the system's, as the end of a message.

    Args:
        error: An OSError, or one of LMDB's, which carries the system's number as its ``code``.
        otherwise: What to do if the number does not tell, as that depends on what was attempted.
    """
    number = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    return otherwise if number is None else _REMEDIES.get(number, otherwise)


_NATIVE: Final = "an error in native code (an extension module, ctypes)"
_CAUSES: Final = {
    "SIGKILL": "kill(), killall(), or the out-of-memory killer of the system",
    "SIGTERM": "terminate(), or a system that is shutting down",
    "SIGINT": "an interrupt (Ctrl-C) from outside",
    "SIGSEGV": f"{_NATIVE}, or recursion that is too deep for the stack",
    "SIGABRT": f"{_NATIVE}, or a fatal error of the interpreter",
    "SIGBUS": f"{_NATIVE}, or a mapped file that was cut off or found no room on the disk",
    "SIGILL": f"{_NATIVE}, or built for another processor",
    "SIGFPE": _NATIVE,
    "SIGXCPU": "its limit of processor time",
}


def _explain_end(exitcode: int | None) -> str:
    if exitcode is None:
        return "ended without an outcome, and nobody saw how: its worker outlived the supervisor that had started it"
    if exitcode >= 0:
        return f"left with exit code {exitcode} and without an outcome; probable cause: os._exit(), or native code that ends the process"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:  # most real-time signals have no name
        return f"was ended by signal {-exitcode}"
    cause = _CAUSES.get(name)
    return f"was ended by {name}" + (f"; probable cause: {cause}" if cause else "")


if sys.version_info >= (3, 13):  # pragma: no cover - not on the Python that coverage is measured with
    ShutDown = queue.ShutDown
else:

    class ShutDown(Exception):
        """Raised by ``put`` and ``get`` of a queue that was shut down (``queue.ShutDown`` from Python 3.13 on)."""
