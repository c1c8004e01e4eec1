"""Writing the output of a run: descriptors 1 and 2 of a worker point at a file while the run lasts. See ``output`` for the whole."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from contextlib import suppress
from functools import cache
from typing import Any, Final, TextIO

from .errors import StoragePathError
from .output_files import StorePath, close, create, make_folder, output_path, size_of, unlink

__all__ = ["Capture", "prepare_streams"]

_HIGH: Final = 200
"""The originals of 1 and 2 are kept from here on, out of the way of programs that close the first few; macOS allows 256 by default."""
_STREAMS: Final = ("stdout", "stderr")
_ENCODING: Final = "utf-8"
_ERRORS: Final = "backslashreplace"
"""What cannot be encoded (surrogates in file names, say) is shown escaped: printing never fails for its content."""
_LINE_BUFFERED: Final = 1
"""C's _IOLBF, on all systems."""


def prepare_streams() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` pass on each line as it comes, in UTF-8, and never fail for a character; likewise C's ``stdout``.

    To be called once, as a worker starts: C's buffer can only be set before it is used, and where 0, 1 or 2 are closed the null device takes their
    place, before a file does.
    """
    _fill_standard()
    for number, name in enumerate(_STREAMS, 1):
        try:
            # The constructor's default, write_through=False, leaves a line in one write. Under python -u it stays as it is.
            getattr(sys, name).reconfigure(encoding=_ENCODING, errors=_ERRORS, line_buffering=True)
        except Exception:  # None, where 1 or 2 were closed when the interpreter started, or somebody's own
            _put_stream(name, _new_stream(number))
    c_stdout = _c_stdout()
    if c_stdout is not None:
        library, stream = c_stdout
        library.setvbuf(stream, None, _LINE_BUFFERED, 0)


class Capture:
    """Points descriptors 1 and 2 of a worker at the output of the run under way. For the thread that runs the targets, and no other.

    Whatever a target does to the descriptors and to ``sys.stdout`` ends with its run. A child that it leaves running goes on writing into the output
    of its run (unless that was empty at the end and its file is gone); a thread that it leaves running writes where the worker does.

    Args:
        store: The store's folder.

    Raises:
        StoragePathError: The folder of the outputs cannot be made, or is not this user's own.
    """

    __slots__ = ("_c_stdout", "_flushed", "_originals", "_path", "_spare", "_store", "_streams")

    def __init__(self, store: StorePath) -> None:
        self._store = os.fspath(store)
        self._path: str | None = None
        self._flushed = False
        self._spare: str | None = None  # the file of an earlier run, empty and nobody's
        self._streams: list[Any] = [getattr(sys, name) for name in _STREAMS]
        self._c_stdout = _c_stdout()
        make_folder(self._store)
        self._originals = [_keep(1), _keep(2)]

    def begin(self, uuid: str) -> None:
        """Have everything that is written to 1 and 2 from now on be the output of a process. An output that is there already is appended to.

        Raises:
            StoragePathError: The file cannot be created; 1 and 2 are where they were.
            ValueError: ``uuid`` is none, or another run has not ended.
        """
        if self._path is not None:
            raise ValueError(f"the output already goes to {self._path}: call end() first")
        path = self._path = output_path(self._store, uuid)  # known before it is done: an interrupt (Ctrl-C) behind it loses nothing
        try:
            _point(self._open(path), 1, 2)
        except StoragePathError:
            self._path = None
            raise
        for name, own in zip(_STREAMS, self._streams, strict=True):
            if getattr(sys, name, None) is not own:  # an end() was interrupted
                setattr(sys, name, own)

    def flush(self) -> None:
        """Write out what is still in buffers, and put back what the target replaced. Idempotent.

        To be called before the outcome is stored: whoever sees that a run has ended finds all of its output. Failures are ignored, but for what
        a signal handler raises, which passes through.
        """
        path = self._path
        if path is not None and not self._flushed:
            closed = [number for number in (1, 2) if not _is_open(number)]
            if closed:  # by the target; what the buffers hold is still to be written
                with suppress(OSError, StoragePathError):
                    _point(create(path), *closed)
            if self._c_stdout is not None:
                library, stream = self._c_stdout
                library.fflush(stream)
            for number, name in enumerate(_STREAMS, 1):
                self._settle(number, name, path)
            self._flushed = True

    def end(self) -> None:
        """Point 1 and 2 where they were before, after :meth:`flush`. Idempotent; that the outcome is stored need not wait for it."""
        path = self._path
        if path is None:
            return
        try:
            self.flush()
        finally:
            self._path = None
            self._flushed = False
            self._turn_back()
        if size_of(path) == 0:
            if self._spare is None and _is_unshared(path):
                self._spare = path
            else:
                with suppress(StoragePathError):
                    unlink(path)

    def close(self) -> None:
        """End the run under way, if any, and give up the descriptors that are kept. Idempotent."""
        self.end()
        spare, self._spare = self._spare, None
        if spare is not None:
            unlink(spare)
        originals, self._originals = self._originals, []
        for descriptor in originals:
            close(descriptor)

    def _open(self, path: str) -> int:
        spare = self._spare
        if spare is not None and not os.access(path, os.F_OK):  # where a reader was first, its file is used
            self._spare = None
            try:
                # If a reader makes the file just now, it is replaced, and the reader's watch tells it so.
                os.rename(spare, path)
            except OSError:  # its process was cleaned
                pass
        return create(path)

    def _settle(self, number: int, name: str, path: str) -> None:
        """Make a stream of ``sys`` the one that it was, with nothing in its buffer."""
        own = self._streams[number - 1]
        current = getattr(sys, name, None)
        if current is not own:
            setattr(sys, name, own)
            try:
                current.flush()  # type: ignore[union-attr]
            except Exception:  # None, closed, or anything else: it is the target's
                pass
            # With its last reference it goes, and takes its descriptor along if it owns it, which may be 1 or 2. So this comes before our own.
            del current
        # A flush fails if the descriptor went with the target's stream, or the disk is full. What cannot be written must not stay in the buffer
        # either, where the next run would find it.
        for reopen in (None, lambda: create(path), _null):
            try:
                if own.closed:  # fails if the target took the buffer out of it
                    break
                if reopen is not None:
                    _point(reopen(), number)
                own.reconfigure(line_buffering=True)  # flushes, too
                if own.encoding != _ENCODING or own.errors != _ERRORS:
                    own.reconfigure(encoding=_ENCODING, errors=_ERRORS)
                return
            except Exception:
                pass
        _point(_null(), number)
        self._streams[number - 1] = _new_stream(number)
        _put_stream(name, self._streams[number - 1])

    def _turn_back(self) -> None:
        for number, descriptor in enumerate(self._originals, 1):
            try:
                os.dup2(descriptor, number)
            except OSError:
                # The target closed it, with all others. Where it led nobody knows any more.
                _point(_null(), number)
                self._originals[number - 1] = _keep(number)


def _point(descriptor: int, *numbers: int) -> None:
    """Make an open file descriptors 1 or 2, or both, and close the one that it comes with."""
    if descriptor <= 2:
        descriptor = _above_standard(descriptor)
    try:
        for number in numbers:
            os.dup2(descriptor, number)
    finally:
        os.close(descriptor)


def _above_standard(descriptor: int) -> int:
    """Move a descriptor that got the number of a standard one, as that was closed, and have the null device there."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    _fill_standard()
    return moved


def _fill_standard() -> None:
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)


if sys.platform == "linux":

    def _is_unshared(path: str) -> bool:
        """Tell whether no one has a file open to write in; False where the system cannot say.

        The kernel gives a lease for reading on that condition, and counts whatever came from an open file: duplicates, children's copies, mappings.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # Who opens the file while we hold the lease waits until we give it up, and we get a signal: one that does nothing; SIGIO would kill.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            return False
        finally:
            os.close(descriptor)  # with its lease
        return True

else:  # pragma: no cover - not Linux

    def _is_unshared(path: str) -> bool:
        return False


def _null() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def _keep(number: int) -> int:
    """Return a duplicate of a descriptor, with a high number and closed on exec; of the null device, if it is closed."""
    if not _is_open(number):
        _point(_null(), number)
    try:
        return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except OSError:  # this process may have fewer than that
        return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)


def _new_stream(number: int) -> TextIO:
    # closefd=False, as in the interpreter's own: closing the stream leaves 1 and 2 open, for C code and for the next stream.
    return open(number, "w", buffering=1, encoding=_ENCODING, errors=_ERRORS, closefd=False)


def _put_stream(name: str, stream: TextIO) -> None:
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


@cache
def _c_stdout() -> tuple[Any, Any] | None:
    """Return C's library and its ``stdout``; None where they are not found.

    C buffers what goes to a file by the block. Left alone, what a target printed in C would come when the worker ends, in the output of another run.
    """
    try:
        import ctypes

        library = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(library, "stdout" if sys.platform == "linux" else "__stdoutp")
        library.fflush.argtypes = [ctypes.c_void_p]
        library.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t]
    except (ImportError, OSError, ValueError, AttributeError):
        return None
    return library, stream
