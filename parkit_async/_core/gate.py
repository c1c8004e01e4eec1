"""Arbitrate between processes that want to write in one namespace, fairly, before LMDB's own mutex is touched.

LMDB's ``begin(write=True)`` blocks inside C until the other process is done, which would freeze an event loop, and its mutex is unfair:
of eight processes incrementing one counter the first is done in a fifth of the last one's time. So two files are locked around a write
transaction (``flock``: dropped by the kernel when the last descriptor goes, however the process ends):

* the *gate* is held during the transaction;
* the *turnstile* is held while waiting for the gate. Whoever has had the gate for :data:`STREAK_NS` must pass the turnstile again, and
  so stands behind those who are already there.

Handing over at every commit would cost a context switch each time (a convoy), never handing over starves; about a millisecond is the middle.
The gate is about order and waiting only. That two transactions never run at once is still LMDB's business.

The descriptors belong to this process: a forked child closes its copies at once, since a lock lives as long as any copy and a killed
parent would otherwise keep the gate through its children. Only the holder of the process's turn calls these methods, so there is no lock here.
"""

from __future__ import annotations

import fcntl
import os
from fcntl import flock
from pathlib import Path
from time import monotonic_ns

from . import fork
from .errors import StoragePathError, TransactionError, remedy
from .private_files import open_file

__all__ = ["STREAK_NS", "Gate"]

STREAK_NS = 1_000_000
"""How long, in nanoseconds, a process may take the gate again and again before it must queue."""

_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB
_WAIT = fcntl.LOCK_EX
_FREE = fcntl.LOCK_UN


class Gate:
    """The gate of one namespace, as one process sees it.

    Attributes:
        entered: When it was last tried or entered, in nanoseconds of the monotonic clock.
    """

    __slots__ = ("__weakref__", "_directory", "_gate", "_streak_end", "_turnstile", "entered")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._gate = -1
        self._turnstile = -1
        self._streak_end = 0
        self.entered = 0
        self.open()
        fork.on_fork(self)

    def open(self) -> None:
        """Open the two files; called again in a forked child.

        Raises:
            StoragePathError: They cannot be opened or created.
        """
        try:
            self._gate = open_file(self._directory / "gate")
            self._turnstile = open_file(self._directory / "turnstile")
        except StoragePathError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise StoragePathError(
                f"{error.filename!r} cannot be opened: {error.strerror}; {remedy(error, 'see that the folder belongs to this user')}"
            ) from error
        self._streak_end = 0

    def close(self) -> None:
        """Close the two files, which gives up whatever is held. Idempotent."""
        # Forgotten before they are closed: a child forked by another thread in between must not close what these numbers mean by then.
        descriptors = self._gate, self._turnstile
        self._gate = self._turnstile = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def forked(self) -> None:
        self.close()

    def try_enter(self) -> bool:
        """Take the gate if nobody has it and nobody is waiting who should go first. Never blocks."""
        now = self.entered = monotonic_ns()
        if now < self._streak_end:
            try:
                flock(self._gate, _TRY)
            except BlockingIOError:
                return False
            except ValueError as error:
                raise _closed(self._directory) from error
            return True
        try:
            flock(self._turnstile, _TRY)
            flock(self._gate, _TRY)
        except BlockingIOError:
            return False
        except ValueError as error:
            raise _closed(self._directory) from error
        finally:
            if self._turnstile >= 0:
                flock(self._turnstile, _FREE)
        self._streak_end = now + STREAK_NS
        return True

    def enter(self) -> None:
        """Take the gate, waiting for those who are ahead. Blocks the calling thread; a signal handler's exception passes through and
        leaves nothing held."""
        try:
            flock(self._turnstile, _WAIT)
            flock(self._gate, _WAIT)
        except BaseException as error:
            self.leave()
            if isinstance(error, ValueError):
                raise _closed(self._directory) from error
            raise
        finally:
            if self._turnstile >= 0:
                flock(self._turnstile, _FREE)
        self.entered = monotonic_ns()
        self._streak_end = self.entered + STREAK_NS

    def leave(self) -> None:
        """Give up the gate. Does nothing if it is not held."""
        if self._gate >= 0:
            flock(self._gate, _FREE)


def _closed(directory: Path) -> TransactionError:
    return TransactionError(
        f"the namespace in {os.fspath(directory)!r} is closed in this process, as it is when the interpreter ends: write before that"
    )
