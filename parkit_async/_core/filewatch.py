"""Sleep until a file grows, without polling.

Who writes the output of a run cannot ring a bell: it may be C code, or a child of a child. But the kernel sees every write, and tells: inotify on
Linux, kqueue on macOS. Either is a descriptor that becomes readable, so it can be slept on together with a bell, or be in an event loop's
``add_reader``.

Invariants:

* An event is a hint. It may come late, once for many writes, or for nothing; whoever is woken looks at the file again.
* One watches and then looks, and drains before looking again: what is written after the look makes the descriptor readable.
* What the system refuses (inotify's limits are a user's, and other programs use them up) is an answer, not an error: ``fileno()`` is then -1, and
  whoever sleeps looks every :data:`LOOK` seconds instead. Each drain tries again.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from functools import cache
from typing import Any, Final

from . import fork

__all__ = ["LOOK", "FileWatch"]

LOOK: Final = 0.25
"""Seconds between two looks at a file that cannot be watched."""


if sys.platform == "linux":
    _IN_MODIFY = 0x2  # written or truncated
    _IN_ATTRIB = 0x4  # unlinked as well: the number of its links is an attribute
    _IN_ENTRIES = 0x40 | 0x80 | 0x100 | 0x200  # of a folder: moved from and to, created, deleted
    _IN_DELETE_SELF = 0x400
    _IN_MOVE_SELF = 0x800
    _IN_DONT_FOLLOW = 0x2000000
    _MASK = _IN_MODIFY | _IN_ATTRIB | _IN_ENTRIES | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_DONT_FOLLOW
    _EVENTS = 65536

    @cache
    def _library() -> Any:
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        library.inotify_init1.argtypes = [ctypes.c_int]
        library.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
        return library

    def _checked(result: int, what: str) -> int:
        if result < 0:
            import ctypes

            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")
        return result

    class _Notifier:
        """An inotify instance that watches one file."""

        __slots__ = ("_path", "descriptor")

        def __init__(self, path: str) -> None:
            self._path = os.fsencode(path)
            # The flags of inotify_init1 are those of open(), by definition.
            self.descriptor = _checked(_library().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")

        def watch(self) -> None:
            """Watch the file that is at the path now. Once more for the same file changes nothing."""
            _checked(_library().inotify_add_watch(self.descriptor, self._path, _MASK), "inotify_add_watch")

        def drain(self) -> None:
            try:
                os.read(self.descriptor, _EVENTS)
            except BlockingIOError:
                pass

        def close(self) -> None:
            os.close(self.descriptor)

elif sys.platform == "darwin":  # pragma: no cover - macOS
    _NOTES = (
        select.KQ_NOTE_WRITE
        | select.KQ_NOTE_EXTEND
        | select.KQ_NOTE_ATTRIB  # truncated as well
        | select.KQ_NOTE_DELETE
        | select.KQ_NOTE_RENAME
        | select.KQ_NOTE_LINK
    )

    class _Notifier:
        """A kqueue that watches one file, by a descriptor of it that can do nothing else."""

        __slots__ = ("_file", "_path", "_queue", "descriptor")

        def __init__(self, path: str) -> None:
            self._path = path
            self._file = -1
            self._queue = select.kqueue()  # closed on exec, and not inherited by a forked child
            self.descriptor = self._queue.fileno()

        def watch(self) -> None:
            """Watch the file that is at the path now. Once more for the same file changes nothing."""
            file = os.open(self._path, os.O_EVTONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if self._file >= 0 and os.path.samestat(os.fstat(file), os.fstat(self._file)):
                os.close(file)
                return
            previous, self._file = self._file, file
            if previous >= 0:
                os.close(previous)  # and its event goes with it
            event = select.kevent(file, select.KQ_FILTER_VNODE, select.KQ_EV_ADD | select.KQ_EV_CLEAR, _NOTES)
            self._queue.control([event], 0, 0)

        def drain(self) -> None:
            self._queue.control(None, 16, 0)

        def close(self) -> None:
            try:
                self._queue.close()
            except OSError:  # in a forked child, where it is closed already
                pass
            if self._file >= 0:
                os.close(self._file)

else:  # pragma: no cover - neither Linux nor macOS

    class _Notifier:
        """Stands for what this system has not got."""

        __slots__ = ("descriptor",)

        def __init__(self, path: str) -> None:
            self.descriptor = -1
            raise OSError(errno.ENOSYS, "files cannot be watched on this system")

        def watch(self) -> None: ...

        def drain(self) -> None: ...

        def close(self) -> None: ...


class FileWatch:
    """A descriptor that becomes readable when something happens to a file: written, truncated, its attributes changed, deleted. Of a folder also when
    an entry comes or goes.

    For one thread or event loop at a time. A forked child may go on using the object, and gets a descriptor of its own; so whoever has the number
    asks for it anew before each sleep.

    Args:
        path: The file; a symbolic link is not followed. While it is not there nothing can be watched, and ``fileno()`` is -1.
    """

    __slots__ = ("_closed", "_generation", "_notifier", "_watching", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._notifier: _Notifier | None = None
        self._watching = False
        self._closed = False
        self._generation = fork.generation()
        self._watch()

    def fileno(self) -> int:
        """Return the descriptor to sleep on; -1 if there is none, so that one looks every :data:`LOOK` seconds instead, and once closed."""
        self._notice_fork()
        return self._notifier.descriptor if self._watching and self._notifier is not None else -1

    def drain(self) -> None:
        """Take what has happened so far, without blocking; and watch the file that is at the path now, should it be another. Idempotent."""
        self._notice_fork()
        if self._closed:
            return
        if self._notifier is not None:
            self._notifier.drain()
        self._watch()

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        self._closed = True
        self._watching = False
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            notifier.close()

    def _watch(self) -> None:
        try:
            if self._notifier is None:
                self._notifier = _Notifier(self.path)
            self._notifier.watch()
        except OSError:
            # The descriptor stays open until close(), as it may be in somebody's event loop.
            self._watching = False
        else:
            self._watching = True

    def _notice_fork(self) -> None:
        """Leave the parent its events: the descriptor that was inherited is the same queue, and whoever reads from it takes them away."""
        if self._generation != fork.generation():
            self._generation = fork.generation()
            if not self._closed:
                self.close()
                self._closed = False
                self._watch()
