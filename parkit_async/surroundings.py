"""What a target may change of the interpreter that it runs in, and how that is put back for the next one.

Put back are signal handlers, the alarm, the file mode mask, the root logger's handlers and the environment; working folder and module search path
are set for each run. What cannot be put back makes the interpreter *spent*: threads and children that are left, a lowered priority. A spent worker
stores its outcome and is replaced. What a target leaves in modules stays: a worker is warm, and that is what for.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C functions themselves: the standard module's, which make enums, cost ten times as much
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from ._core import ownership
from ._core.transactions import Writing

__all__ = ["Surroundings", "close_contexts"]

_RESTORED_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE")

_TICK: Final = 20_000_000
"""Nanoseconds by which the time of a file's change may lag behind the clock: the kernel's tick."""

_UNKNOWN: Final = -1


class Surroundings:
    """The interpreter as it is when this is made, before any target has run. For the main thread.

    Attributes:
        spent: Whether a target has left something that cannot be put back.
    """

    def __init__(self) -> None:
        self.spent = False
        self._handlers = {int(number): _signal.getsignal(number) for name in _RESTORED_SIGNALS if (number := getattr(signal, name, None)) is not None}
        self._environment = dict(_environment())
        self._niceness = os.getpriority(os.PRIO_PROCESS, 0)
        self._mask = os.umask(0o077)
        os.umask(self._mask)
        root = logging.getLogger()
        self._logging = root.level, list(root.handlers)
        self._threads = threading.active_count()
        self._sources: dict[str, int] = {}
        self._modules = len(sys.modules)
        self._known_modules = set(sys.modules)

    def outlive_threads(self) -> None:
        """Wait for the threads and children that multiprocessing would wait for at a process's end; after them this interpreter is spent."""
        left = self._threads_left()
        if left:
            self.spent = True
            if not all(thread.daemon for thread in left):
                _end_interpreter_threads()
        if _has_children():
            self.spent = True
            if "multiprocessing.process" in sys.modules:
                from multiprocessing import util

                util._exit_function()  # type: ignore[attr-defined]

    def _threads_left(self) -> list[threading.Thread]:
        if threading.active_count() <= self._threads:
            return []
        return [thread for thread in threading.enumerate() if not thread.name.startswith("parkit ") and thread is not threading.main_thread()]

    def put_back(self) -> None:
        """Undo what a target may have changed of the process that it ran in."""
        for number, handler in self._handlers.items():
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        if os.getpriority(os.PRIO_PROCESS, 0) != self._niceness:
            self.spent = True  # to raise it again takes privileges
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.umask(self._mask)
        root = logging.getLogger()
        if (root.level, root.handlers) != self._logging:
            root.setLevel(self._logging[0])
            root.handlers[:] = self._logging[1]
        if _environment() != self._environment:
            os.environ.clear()
            os.environb.update(self._environment)

    def close_contexts(self) -> None:
        """See :func:`close_contexts`."""
        close_contexts()

    def is_outdated(self) -> bool:
        """Return whether a module of the program was changed since it was loaded."""
        for path, modified in self._sources.items():
            try:
                if os.stat(path).st_mtime_ns != modified:
                    return True
            except OSError:
                return True
        return False

    def note_modules(self, begun: int) -> None:
        """Note which modules of the program were loaded, to see when they are changed.

        Args:
            begun: When the run began, in nanoseconds since 1970.
        """
        if len(sys.modules) == self._modules:
            return
        self._modules = len(sys.modules)
        new = set(sys.modules) - self._known_modules
        self._known_modules |= new
        for name in new:
            path = getattr(sys.modules.get(name), "__file__", None)
            if isinstance(path, str) and not path.startswith(_installed()):
                with contextlib.suppress(OSError):
                    modified = os.stat(path).st_mtime_ns
                    # One that was changed during the run may have been loaded before that.
                    self._sources[path] = modified if modified < begun - _TICK else _UNKNOWN


def close_contexts() -> None:
    """Roll back a transaction that the target has left open: it would be everybody's from now on, and nobody could write. For its thread."""
    for owner in list(ownership.contexts):
        if owner is ownership.thread_owner() or _is_task_of_the_past(owner):
            for context in ownership.contexts.pop(owner, []):
                if isinstance(context, Writing):
                    context.namespace.finish(context)
                else:
                    context.end()


def _environment() -> dict[bytes, bytes]:
    """Return the environment as the interpreter keeps it; comparing ``os.environ`` itself decodes every entry, and costs as much as a commit."""
    found: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return found


def _is_task_of_the_past(owner: Any) -> bool:
    """Return whether what has a context open is a task, whose loop is closed."""
    get_loop = getattr(owner, "get_loop", None)
    return get_loop is not None and get_loop().is_closed()


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except (AttributeError, OSError):
        return False
    return True


def _end_interpreter_threads() -> None:
    """Wait for all threads that are no daemons, as an interpreter does when it ends, and as multiprocessing has its processes do."""
    shutdown: Callable[[], None] = threading._shutdown  # type: ignore[attr-defined]
    shutdown()


def _installed() -> tuple[str, ...]:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return (sys.base_prefix, sys.prefix, os.path.join(root, "parkit"))
