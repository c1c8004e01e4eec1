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

import math
import os
import re
import select
import stat
import time
from collections.abc import Callable, Container, Iterator
from typing import Final

from .filewatch import LOOK, FileWatch
from .output_files import FOLDER, UUID, StorePath, check_folder, create, is_at, open_existing, output_path, refusal, size_of, unlink
from .waiting import deadline_of, remaining

__all__ = [
    "Follower",
    "Output",
    "enforce",
    "follow_blocking",
    "output_path",
    "remove",
    "sweep",
]


_NOTICE: Final = re.compile(rb"\[parkit: the output is longer than (\d{1,19}) bytes; what came later was dropped\]")
_NOTICE_LONGEST: Final = 128
_PORTION: Final = 1 << 20
"""Bytes read at a time."""
_BEFORE: Final = 64
"""How many bytes before its place a follower compares."""
_NEW_SECONDS: Final = 60.0
"""Age below which a file is not swept: its process may be younger than what the sweep knows."""
_LONGEST_POLL_MS: Final = 2**31 - 1


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
    size = size_of(path)
    if size <= limit:
        return False
    descriptor = open_existing(path, os.O_RDWR)  # without O_APPEND, with which pwrite() would append
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
        raise refusal(path, error) from error
    finally:
        os.close(descriptor)
    return True


def remove(store: StorePath, uuid: str) -> None:
    """Delete the output of a process, if there is any.

    Raises:
        StoragePathError: It cannot be deleted.
        ValueError: ``uuid`` is none.
    """
    unlink(output_path(store, uuid))


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
    folder = os.path.join(store, FOLDER)
    try:
        check_folder(folder)
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise refusal(folder, error) from error
    removed = 0
    for name in names:
        if UUID.fullmatch(name) is None or name in known:
            continue
        path = os.path.join(folder, name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode) and abs(time.time() - status.st_mtime) < _NEW_SECONDS:
            continue
        unlink(path)
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
        return size_of(self.path)

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
        descriptor = open_existing(self.path, os.O_RDONLY)
        if descriptor is None:
            return b""
        with open(descriptor, "rb") as file:
            if start < 0:
                start = max(0, os.fstat(descriptor).st_size + start)
            file.seek(start)
            data = file.read() if size is None else file.read(size)
            return data if is_at(descriptor, self.path) else b""

    def text(self) -> str:
        """Return all of the output; what is not UTF-8 is replaced by U+FFFD."""
        return self.read().decode("utf-8", "replace")

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
            os.close(create(self._output.path))
            self._watch = FileWatch(self._output.path)
        return self._watch

    def take(self) -> list[str]:
        """Return the next complete lines. It is empty only if there are none for now; otherwise there may be more.

        Raises:
            StoragePathError: The file cannot be read.
        """
        if self._over:
            return []
        descriptor = open_existing(self._output.path, os.O_RDONLY)
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
                if not fresh or (self._place == 0 and not is_at(descriptor, self._output.path)):
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
    return line.decode("utf-8", "replace")


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
