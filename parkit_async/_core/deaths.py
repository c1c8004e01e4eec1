"""See the death of any process at once, one's own child or not, through a descriptor.

::

    Linux          a pidfd of the process                                     readable when the process ends
    elsewhere      one end of a socket pair ◀── a daemon thread that waits     shut down when the process ends
    dead already   one end of a socket pair whose other end is closed         readable from the beginning

Invariants:

* A watch is readable if its process is dead, and only then: it is identified after the pidfd was opened, so a pid that was given out again is the
  death of whoever had it before.
* Watching takes nothing away: who reaps a child is whoever calls :meth:`DeathWatch.reap`, or waits for it by other means. (The one exception is a
  system without ``os.waitid``, macOS before Python 3.13, where the watching thread has to reap the child; ``reap`` returns the status there, too.)
* Only the child that was meant is reaped, never one that has its pid by now.
"""

from __future__ import annotations

import os
import socket
import threading
import warnings
from typing import cast

from .errors import ProcessError
from .identity import Identity, Liveness, is_unreaped_child, liveness, open_pidfd

__all__ = ["DeathWatch", "open_death_watch"]


class DeathWatch:
    """Waits for one process to die; made by :func:`open_death_watch`. For one thread at a time, or one event loop.

    Attributes:
        identity: The process.
    """

    def __init__(self, identity: Identity, descriptor: int, statuses: list[int] | None = None) -> None:
        self.identity = identity
        self._descriptor = descriptor
        self._statuses = [] if statuses is None else statuses

    def fileno(self) -> int:
        """Return the descriptor, for ``select``, ``poll`` or a loop's ``add_reader``; -1 once closed. There is nothing to read from it."""
        return self._descriptor

    def reap(self) -> int | None:
        """Fetch the exit status, and with it remove what is left of the process. Does not block; works on a closed watch, too.

        Returns:
            The exit code, or the negative number of the signal that ended it; the same at every later call. None if it is not over, is not a
            child of this process, or was reaped by other means.
        """
        if not self._statuses and is_unreaped_child(self.identity):
            try:
                pid, status = os.waitpid(self.identity.pid, os.WNOHANG)
            except ChildProcessError:  # another thread was faster
                return None
            if pid:
                self._statuses.append(os.waitstatus_to_exitcode(status))
        return self._statuses[0] if self._statuses else None

    def close(self) -> None:
        """Close the descriptor, which no event loop may be reading any more. Idempotent. Where a thread waits, it ends with the process."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<DeathWatch of process {self.identity.pid}{', closed' if self._descriptor < 0 else ''}>"


def open_death_watch(identity: Identity) -> DeathWatch:
    """Watch for the death of a process. One that is dead, a zombie included, gives a watch that is readable at once.

    Any thread may call it. The caller closes the watch. A forked child must not use its parent's.

    Raises:
        ProcessError: It cannot be told whether the process lives (see :mod:`identity`), so its death could not be told either.
        OSError: The process is out of descriptors.
    """
    try:
        descriptor = open_pidfd(identity.pid)
    except (ProcessLookupError, OverflowError):
        descriptor = None
    try:
        found = liveness(identity)
        if found is Liveness.UNKNOWN:
            raise ProcessError(
                f"process {identity.pid} cannot be watched: it runs in another container (pid namespace), or the system does not show it; "
                f"programs that share a store must see each other's processes"
            )
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise
    if found is Liveness.ALIVE and descriptor is not None:
        return DeathWatch(identity, descriptor)
    if descriptor is not None:
        os.close(descriptor)  # of the dead process, or of whoever has its pid now
    ours, others = socket.socketpair()
    statuses: list[int] = []
    try:
        if found is Liveness.DEAD:
            others.close()
        else:
            threading.Thread(target=_watch, args=(identity, others, statuses), name=f"parkit-death-{identity.pid}", daemon=True).start()
    except BaseException:
        ours.close()
        others.close()
        raise
    return DeathWatch(identity, ours.detach(), statuses)


def _watch(identity: Identity, others: socket.socket, statuses: list[int]) -> None:
    with others:
        status = _outlive(identity)
        if status is not None:
            statuses.append(status)
        # Closing alone would not do: a child that was forked meanwhile has a copy.
        others.shutdown(socket.SHUT_RDWR)


def _outlive(identity: Identity) -> int | None:
    """Return when a process has ended; with its exit status if it had to be reaped for that."""
    if hasattr(os, "waitid"):
        try:
            os.waitid(os.P_PID, identity.pid, os.WEXITED | os.WNOWAIT)
            return None
        except ChildProcessError:
            pass  # somebody else's child, or reaped meanwhile
    import psutil

    try:
        process = psutil.Process(identity.pid)
        if liveness(identity) is Liveness.DEAD:
            return None
        status = cast(int | None, process.wait())  # typed as if every process were a child
    except psutil.NoSuchProcess:
        return None
    return None if status is None else int(status)
