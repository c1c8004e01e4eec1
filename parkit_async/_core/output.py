"""The output of a run: a file that descriptors 1 and 2 of the worker point at while the run lasts.

::

    worker                              supervisor                 reader
      begin: 1, 2 ──▶ output/<uuid> ◀──── enforce, each second       Follower
      the target, C code, children ──▶ append ── the kernel tells ──▶ FileWatch
      end:   1, 2 ──▶ where they were                                 take

Nothing stands between who writes and the file: no pipe, no thread, no parser. So a write costs what it costs, what was written outlives any way to
die, and a child that outlives its run goes on writing where it began.

Invariants:

* The file is appended to, by whoever writes (O_APPEND belongs to the open file, which children inherit); only :func:`enforce` cuts it.
* The notice of a cut says in its own words at which byte it stands. So it can be told from its like in somebody's output, needs no record elsewhere,
  and whatever comes behind it does not count.
* A missing file is empty output: a run without output leaves none, but for the last one of a worker. A reader that waits for the first line makes
  the file, so as to have something to watch.
* Only a file that is empty after its run, and that nobody has open to write in, is given to another run, under another name. (To create and delete
  a file for each run is what file systems are bad at: ext4 searches, at each creation, through what was deleted within the last minutes, which takes
  up to half a millisecond where runs are many.) So a reader that finds the first bytes looks whether the file still has its name after that.
* Followers read by the path, never through a descriptor that they keep, and verify that what stands before their place is what they read there.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, Final, TextIO

from .errors import StoragePathError
from .filewatch import LOOK, FileWatch
from .waiting import deadline_of, remaining

__all__ = [
    "Capture",
    "Follower",
    "Output",
    "enforce",
    "follow_blocking",
    "output_path",
    "prepare_streams",
    "remove",
    "sweep",
]

_FOLDER: Final = "output"
_UUID: Final = re.compile("[0-9a-f]{32}")
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_HIGH: Final = 200
"""The originals of 1 and 2 are kept from here on, out of the way of programs that close the first few; macOS allows 256 by default."""
_STREAMS: Final = ("stdout", "stderr")
_ENCODING: Final = "utf-8"
_ERRORS: Final = "backslashreplace"
"""What cannot be encoded (surrogates in file names, say) is shown escaped: printing never fails for its content."""

_NOTICE: Final = re.compile(rb"\[parkit: the output is longer than (\d{1,19}) bytes; what came later was dropped\]")
_NOTICE_LONGEST: Final = 128
_PORTION: Final = 1 << 20
"""Bytes read at a time."""
_BEFORE: Final = 64
"""How many bytes before its place a follower compares."""
_NEW_SECONDS: Final = 60.0
"""Age below which a file is not swept: its process may be younger than what the sweep knows."""
_LINE_BUFFERED: Final = 1
"""C's _IOLBF, on all systems."""
_LONGEST_POLL_MS: Final = 2**31 - 1

StorePath = str | os.PathLike[str]


def output_path(store: StorePath, uuid: str) -> str:
    """Return the path of the file that has the output of a process; it need not be there.

    Raises:
        ValueError: ``uuid`` is not 32 hexadecimal digits, so the path could lead anywhere.
    """
    if _UUID.fullmatch(uuid) is None:
        raise ValueError(f"{uuid!r} is not the uuid of a process: 32 hexadecimal digits")
    return os.path.join(store, _FOLDER, uuid)


# -- writing: in the worker --------------------------------------------------------------------------------------------------------------


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
        _make_folder(self._store)
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
                    _point(_create(path), *closed)
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
        if _size(path) == 0:
            if self._spare is None and _is_unshared(path):
                self._spare = path
            else:
                with suppress(StoragePathError):
                    _unlink(path)

    def close(self) -> None:
        """End the run under way, if any, and give up the descriptors that are kept. Idempotent."""
        self.end()
        spare, self._spare = self._spare, None
        if spare is not None:
            _unlink(spare)
        originals, self._originals = self._originals, []
        for descriptor in originals:
            _close(descriptor)

    def _open(self, path: str) -> int:
        spare = self._spare
        if spare is not None and not os.access(path, os.F_OK):  # where a reader was first, its file is used
            self._spare = None
            try:
                # If a reader makes the file just now, it is replaced, and the reader's watch tells it so.
                os.rename(spare, path)
            except OSError:  # its process was cleaned
                pass
        return _create(path)

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
        for reopen in (None, lambda: _create(path), _null):
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

else:

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


# -- bounding and removing: in the supervisor --------------------------------------------------------------------------------------------


def enforce(store: StorePath, uuid: str, limit: int) -> bool:
    """Cut an output that is longer than ``limit`` bytes, and have a line at its end say so.

    What is written between two calls is all that an output can exceed its limit by. Whoever is writing goes on behind the notice, unhindered, and the
    next call drops that; so the last call is to be made after the end of the run.

    Returns:
        Whether the output is cut, by this call or an earlier one.

    Raises:
        StoragePathError: The file cannot be opened or written.
        ValueError: ``uuid`` is none.
    """
    path = output_path(store, uuid)
    size = _size(path)
    if size <= limit:
        return False
    descriptor = _open(path, os.O_RDWR)  # without O_APPEND, with which pwrite() would append
    if descriptor is None:
        return False
    try:
        notice = b"[parkit: the output is longer than %d bytes; what came later was dropped]\n" % limit
        if limit and os.pread(descriptor, 1, limit - 1) != b"\n":
            notice = b"\n" + notice
        if size == limit + len(notice) and os.pread(descriptor, len(notice), limit) == notice:
            return True
        # First the notice over what is there, then the cut: the other way round, a write in between would come before the notice.
        os.pwrite(descriptor, notice, limit)
        os.ftruncate(descriptor, limit + len(notice))
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        os.close(descriptor)
    return True


def remove(store: StorePath, uuid: str) -> None:
    """Delete the output of a process, if there is any.

    Raises:
        StoragePathError: It cannot be deleted.
        ValueError: ``uuid`` is none.
    """
    _unlink(output_path(store, uuid))


def sweep(store: StorePath, known: Container[str]) -> int:
    """Delete the outputs of processes that are no more. Other files, and such as were written to in the last minute, stay.

    Args:
        store: The store's folder.
        known: The uuids of the processes that there are, looked up not more than a minute ago.

    Returns:
        How many were deleted.

    Raises:
        StoragePathError: The folder cannot be read, or a file not be deleted.
    """
    folder = os.path.join(store, _FOLDER)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _refusal(folder, error) from error
    removed = 0
    for name in names:
        if _UUID.fullmatch(name) is None or name in known:
            continue
        path = os.path.join(folder, name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode) and abs(time.time() - status.st_mtime) < _NEW_SECONDS:
            continue
        _unlink(path)
        removed += 1
    return removed


# -- reading: anywhere -------------------------------------------------------------------------------------------------------------------


class Output:
    """What a process has written to standard output and standard error, itself, its C code and its children, in the order of the writes.

    It can be read at any time until the process is cleaned: while it runs, and after its end, however it ended. ``str()`` is its text. Any thread
    may call any method. It pickles.

    Args:
        store: The store's folder.
        uuid: The process.

    Attributes:
        path: Its file, which is not there if nothing was written.

    Raises:
        ValueError: ``uuid`` is none.
    """

    __slots__ = ("path",)

    def __init__(self, store: StorePath, uuid: str) -> None:
        self.path = output_path(store, uuid)

    def size(self) -> int:
        """Return how many bytes there are."""
        return _size(self.path)

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Return a part of the output as it was written.

        Args:
            start: Where it begins, in bytes; negative counts from the end, as in a slice.
            size: How many bytes at most; None is all that there are.

        Raises:
            StoragePathError: The file cannot be read.
            ValueError: ``size`` is negative.
        """
        if size is not None and size < 0:
            raise ValueError("'size' must be a non-negative number or None")
        descriptor = _open(self.path, os.O_RDONLY)
        if descriptor is None:
            return b""
        with open(descriptor, "rb") as file:
            if start < 0:
                start = max(0, os.fstat(descriptor).st_size + start)
            file.seek(start)
            data = file.read() if size is None else file.read(size)
            return data if _is_at(descriptor, self.path) else b""

    def text(self) -> str:
        """Return all of the output; what is not UTF-8 is replaced by U+FFFD."""
        return self.read().decode(_ENCODING, "replace")

    def lines(self) -> Iterator[str]:
        """Iterate over the lines that are there now, without their ends, in bounded memory. Waits for nothing."""
        for portion in Follower(self).rest():
            yield from portion

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"


class Follower:
    """A place in an output, which moves on as lines are taken. For one thread or task at a time.

    Lines end at ``\\n``, which is not part of them, and are decoded whole, so that a character may come in two writes. If the output is cut at its
    limit, the notice of that is the last line, also where lines have been taken that are beyond it. If the target itself cuts its output, what it
    writes then is taken from the beginning.

    Args:
        output: What to follow, from its beginning.
    """

    __slots__ = ("_before", "_line", "_output", "_over", "_partial", "_place", "_watch")

    def __init__(self, output: Output) -> None:
        self._output = output
        self._place = 0  # of the next byte to read
        self._line = 0  # of the first byte of the line that it belongs to
        self._partial: list[bytes] = []  # what lies between the two
        self._before = b""  # the last bytes that were read
        self._over = False
        self._watch: FileWatch | None = None

    @property
    def watch(self) -> FileWatch:
        """Tells when there may be more. It is made at the first use, with the file if need be; after that, one looks once more before sleeping.

        Raises:
            StoragePathError: The file can be neither opened nor made.
        """
        if self._watch is None:
            os.close(_create(self._output.path))
            self._watch = FileWatch(self._output.path)
        return self._watch

    def take(self) -> list[str]:
        """Return the next complete lines. It is empty only if there are none for now; otherwise there may be more.

        Raises:
            StoragePathError: The file cannot be read.
        """
        if self._over:
            return []
        descriptor = _open(self._output.path, os.O_RDONLY)
        if descriptor is None:
            return []
        try:
            lines: list[str] = []
            while not lines:
                data = os.pread(descriptor, _PORTION, self._place - len(self._before))
                if not data.startswith(self._before):
                    self._find_place(descriptor)
                    continue
                fresh = data[len(self._before) :]
                if not fresh or (self._place == 0 and not _is_at(descriptor, self._output.path)):
                    break
                self._place += len(fresh)
                self._before = data[-_BEFORE:]
                lines = self._split(fresh)
            return lines
        finally:
            os.close(descriptor)

    def finish(self) -> list[str]:
        """Return all lines that are left, the last one also without its end, and close the watch. After that nothing comes any more."""
        return [line for portion in self.rest() for line in portion]

    def rest(self) -> Iterator[list[str]]:
        """Do what :meth:`finish` does by portions. Ends although somebody goes on writing."""
        end = self._output.size()
        while lines := self.take():
            yield lines
            if self._place >= end:
                break
        if not self._over and self._partial:
            yield [_decode(b"".join(self._partial))]
        self._over = True
        self.close()

    def close(self) -> None:
        """Close the watch. Idempotent."""
        if self._watch is not None:
            self._watch.close()

    def _split(self, fresh: bytes) -> list[str]:
        lines = []
        *complete, last = fresh.split(b"\n")
        for line in complete:
            if self._partial:
                line = b"".join([*self._partial, line])
                self._partial = []
            lines.append(_decode(line))
            if _is_notice(line, self._line):
                self._over = True
                return lines
            self._line += len(line) + 1
        if last:
            self._partial.append(last)
        return lines

    def _find_place(self, descriptor: int) -> None:
        """Find where to go on in a file that was cut: at the notice, or at the line before it that was not complete; otherwise at the beginning."""
        notice = _find_notice(descriptor)
        self._place = self._line = 0 if notice is None else min(self._line, notice)
        self._partial = []
        self._before = b""


def follow_blocking(follower: Follower, ended: Callable[[], bool], extra_descriptor: int = -1, timeout: float | None = None) -> Iterator[str]:
    """Iterate over the lines of an output, and then over those that come, waiting for each, until its run has ended.

    Blocks the calling thread, asleep on the file and the bell. Closes the follower when it ends or is closed.

    Args:
        follower: Where to begin.
        ended: Tells whether the run has ended. It first takes what rang the bell, so that a change after its look rings it again.
        extra_descriptor: A bell that rings when the state of the process changes; -1 is none.
        timeout: Seconds without a new line after which iteration ends; None waits for ever.

    Raises:
        StoragePathError: The file cannot be read or made.
        ValueError: The timeout is negative.
    """
    deadline_of(timeout)
    return _follow(follower, ended, extra_descriptor, timeout)


def _follow(follower: Follower, ended: Callable[[], bool], extra_descriptor: int, timeout: float | None) -> Iterator[str]:
    watch: FileWatch | None = None
    deadline = deadline_of(timeout)
    try:
        while True:
            over = ended()  # before the look, which then finds all there is
            lines = follower.take()
            if over:
                yield from lines
                for portion in follower.rest():
                    yield from portion
                return
            if lines:
                yield from lines
                deadline = deadline_of(timeout)
            elif watch is None:
                watch = follower.watch  # and look again: nobody watched what came before
            elif _sleep(watch, extra_descriptor, deadline):
                watch.drain()
            else:
                return
    finally:
        follower.close()


def _sleep(watch: FileWatch, extra_descriptor: int, deadline: float | None) -> bool:
    """Sleep until there may be something new; return False if the deadline has passed instead."""
    if deadline is not None and time.monotonic() >= deadline:  # also while others ring the bell all the time
        return False
    poll = select.poll()
    descriptor = watch.fileno()
    for number in (descriptor, extra_descriptor):
        if number >= 0:
            poll.register(number, select.POLLIN)
    while True:
        left = remaining(deadline)
        seconds = left if descriptor >= 0 else LOOK if left is None else min(left, LOOK)
        if poll.poll(None if seconds is None else min(math.ceil(seconds * 1000), _LONGEST_POLL_MS)):
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False
        if descriptor < 0:
            return True


def _decode(line: bytes) -> str:
    return line.decode(_ENCODING, "replace")


def _is_notice(line: bytes, start: int) -> bool:
    """Tell whether a line that begins at byte ``start`` is the notice of a cut, and not a copy of one."""
    match = _NOTICE.fullmatch(line)
    return match is not None and _stands_at(match, start)


def _stands_at(match: re.Match[bytes], start: int) -> bool:
    # Right at the limit, or behind the end of the line that was cut there.
    return start - int(match[1]) in (0, 1)


def _find_notice(descriptor: int) -> int | None:
    """Return where the notice of a cut begins."""
    at = 0
    while data := os.pread(descriptor, _PORTION, at):
        for match in _NOTICE.finditer(data):
            if _stands_at(match, at + match.start()):
                return at + match.start()
        if len(data) <= _NOTICE_LONGEST:
            return None
        at += len(data) - _NOTICE_LONGEST
    return None


# -- files -------------------------------------------------------------------------------------------------------------------------------


def _make_folder(store: str) -> None:
    """Make the folder of the outputs, which only this user may enter, if need be."""
    folder = os.path.join(store, _FOLDER)
    try:
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        status = os.lstat(folder)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            if status.st_mode & 0o077:
                os.chmod(folder, 0o700)
            return
    except OSError as error:
        raise _refusal(folder, error) from error
    raise StoragePathError(
        f"{folder} should be the folder of the outputs of processes but is {'a folder of' if stat.S_ISDIR(status.st_mode) else 'no folder, and of'} "
        f"user {status.st_uid}: move it out of the store"
    )


def _create(path: str) -> int:
    """Open an output to append to it, and make it, and its folder, if need be."""
    try:
        try:
            return os.open(path, _APPEND, 0o600)
        except FileNotFoundError:
            _make_folder(os.path.dirname(os.path.dirname(path)))  # the store's
            return os.open(path, _APPEND, 0o600)
    except OSError as error:
        raise _refusal(path, error) from error


def _open(path: str, flags: int) -> int | None:
    """Open a file that is there; None if it is not."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refusal(path, error) from error


def _is_at(descriptor: int, path: str) -> bool:
    """Tell whether an open file still has its name: what was read from it before is then the output that the name says."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _refusal(path, error) from error


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass


def _refusal(path: str, error: OSError) -> StoragePathError:
    remedy = (
        "it is a symbolic link, which parkit never makes: remove it" if error.errno == errno.ELOOP else "see that its owner may write in the store"
    )
    return StoragePathError(f"{path}, which holds the output of a process, cannot be used: {error.strerror}; {remedy}")
