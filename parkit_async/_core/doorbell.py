"""Wake whoever waits for a commit, in any process, without polling.

::

    waiter                                     writer
      register (object, events, bell) ──┐        commit
      look at the data                  │        read the table ◀── of who registered
      sleep on the bell  ◀── datagram ──┼─────── ring
      unregister, look again            └──▶ the shared table

A waiter registers and then looks; a writer commits and then reads the table. Whichever comes second sees the other, so there is no window.

Invariants:

* A datagram is a hint. It may come late, twice, or for nothing; whoever is woken looks at the data again.
* A bell is a Unix datagram socket of one thread or event loop. Its address is a random number, never given out twice, and the name of
  its file in hexadecimal. A file has its final name only once the socket behind it is bound, so a refused connection means a dead owner.
* A bell lives as long as its process: a forked child closes its copies at once, since a socket with a living copy is never refused, and
  a killed parent would seem to listen on through its children.
* Only sockets that belong to this user are sent to or removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import select
import socket
import stat
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Final

from . import fork
from .errors import StoragePathError, remedy
from .private_files import make_folder
from .shared import SharedTable

__all__ = [
    "EVENT_ALL",
    "EVENT_CHANGE",
    "EVENT_DONE",
    "EVENT_ITEMS",
    "EVENT_SPACE",
    "LOOK",
    "SPARE",
    "WAKING",
    "Bell",
    "SocketDirectory",
    "ring",
    "thread_bell",
]

LOOK: Final = 200e-6
"""Seconds that a waiter may look before it sleeps, if its last wait was about as short.

The rule is that of KVM's halt polling (the Linux kernel's Documentation/virt/kvm/halt-polling.rst), with its limit, in its simplest form. A waiter
for whom nothing comes in time sleeps at once from the next wait on, so an idle one uses no CPU."""

WAKING: Final = 50e-6
"""Seconds by which a wait is longer where the waiter slept: what looking saves."""
_STALLED: Final = 20e-6
SPARE: Final = hasattr(os, "sched_yield") and (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1
"""Whether whoever is waited for can run meanwhile."""

EVENT_ITEMS: Final = 1
"""Something was added."""
EVENT_SPACE: Final = 2
"""Something was removed."""
EVENT_DONE: Final = 4
"""The last unfinished item was acknowledged."""
EVENT_CHANGE: Final = 8
"""Anything else changed."""
EVENT_ALL: Final = 15

_SUN_PATH = 108 if sys.platform == "linux" else 104
_NAME = re.compile(r"[0-9a-f]{16}")
_UNBOUND = "new-"
_LONGEST_NAME = len(_UNBOUND) + 16
_BIND_SECONDS = 60.0
"""Age at which a file that never got its final name is taken for a leftover."""
_TRUSTED = 1024
_FULL = (errno.EAGAIN, errno.ENOBUFS)
_DEAD = (errno.ECONNREFUSED, errno.ENOENT, errno.EPIPE)
"""Killed; closed; just being closed."""
_LONGEST_POLL_MS = 2**31 - 1
_DESCRIPTORS = "/proc/self/fd"
_SHARED_TEMPORARY = "/tmp"  # noqa: S108 - what we make in it is private, and verified to be
"""Not TMPDIR: every process that opens a store must come to the same folder, whatever its environment."""
_RECORD = ".secret"
"""What the name of the record ends in that the name of a folder in /tmp is made of."""


class SocketDirectory:
    """The folder that holds a store's sockets. Any thread may call any method; a forked child may go on using the object.

    ``sun_path`` is about a hundred bytes, and a store may lie deep. If the folder's own path is too long, sockets are reached through
    ``/proc/self/fd`` where there is one; elsewhere they lie in a private folder under ``/tmp``. Its name comes of a secret that lies beside the
    folder, so that nobody can take it before; where somebody else has it all the same, another secret takes its place.

    Args:
        path: The folder; it is created with mode 0700 if need be. Its parent must exist.

    Raises:
        StoragePathError: It cannot be created, or belongs to another user.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self._descriptor = _open_private(self.path)
        try:
            self._prefix = self._reach()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._sender: socket.socket | None = None
        self._sender_lock = threading.Lock()
        self._trusted: set[int] = set()
        self._bells: set[Bell] = set()
        self._closed = False
        fork.on_fork(self)

    def _reach(self) -> str:
        """Return what to put before a socket's name so that the whole fits in ``sun_path``."""
        if _fits(self.path):
            return self.path + "/"
        through = f"{_DESCRIPTORS}/{self._descriptor}"
        if os.path.isdir(through):
            return through + "/"
        # Whoever opens the store reads or changes the secret under this lock, which only this user can take.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            short, descriptor = self._open_short()
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._descriptor = descriptor
        return short + "/"

    def _open_short(self) -> tuple[str, int]:
        record = self.path + _RECORD
        real = os.path.realpath(self.path)  # part of the name, so that a copy of the store has a folder of its own
        while True:
            try:
                try:
                    secret = os.readlink(record)
                except FileNotFoundError:
                    secret = secrets.token_hex(16)
                    os.symlink(secret, record)  # leads nowhere: a link is made and read whole
            except OSError as error:
                raise self._refusal(error) from error
            short = f"{_SHARED_TEMPORARY}/parkit-{hashlib.sha256(os.fsencode(f'{secret}/{real}')).hexdigest()[:16]}"
            try:
                return short, _open_private(short, mend=False)
            except StoragePathError:
                if not _is_foreign(short):
                    raise
            os.unlink(record)

    def forked(self) -> None:
        # Closed right here rather than at next use, see the module's invariants.
        if self._sender is not None:
            self._sender.close()
        self._sender = None
        self._sender_lock = threading.Lock()
        for bell in self._bells:
            bell._abandon()
        self._bells = set()

    def close(self) -> None:
        """Close the folder and every bell in it. Idempotent. Threads that sleep on one of them wake up."""
        if self._closed:
            return
        self._closed = True
        for bell in tuple(self._bells):
            bell.close()
        with self._sender_lock:
            if self._sender is not None:
                self._sender.close()
                self._sender = None
        os.close(self._descriptor)
        self._descriptor = -1

    def bind(self, made: list[tuple[socket.socket, int]] | None = None) -> tuple[socket.socket, int]:
        """Make a socket that can be rung: non-blocking, closed on exec.

        Args:
            made: A list to which what is returned is added, too: an interrupt (Ctrl-C) behind this call loses what it returns.

        Returns:
            The socket and its address. The caller closes the one and then calls :meth:`unlink` with the other.

        Raises:
            StoragePathError: The process is out of descriptors, or the disk is full.
            ValueError: The directory is closed.
        """
        self._check_open()
        try:
            return self._bind([] if made is None else made)
        except OSError as error:
            raise self._refusal(error) from error

    def _bind(self, made: list[tuple[socket.socket, int]]) -> tuple[socket.socket, int]:
        address = secrets.randbits(64) or 1
        name = f"{address:016x}"
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            bell.setblocking(False)
            # Between the file's appearance and the end of bind() a connection is refused as if the owner were dead. So the name that a
            # sweep judges by comes after it.
            bell.bind(self._prefix + _UNBOUND + name)
            os.chmod(_UNBOUND + name, 0o600, dir_fd=self._descriptor)  # bind() leaves that to the umask
            os.rename(_UNBOUND + name, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            made.append((bell, address))
        except BaseException:
            bell.close()
            for left in (_UNBOUND + name, name):  # an interrupt may come right behind the renaming
                with contextlib.suppress(OSError):
                    os.unlink(left, dir_fd=self._descriptor)
            raise
        return bell, address

    def unlink(self, address: int) -> None:
        """Remove a socket's file, if it is there and a socket of ours."""
        self._trusted.discard(address)
        self._unlink(f"{address:016x}")

    def send(self, address: int) -> bool:
        """Ring one bell; never blocks.

        Args:
            address: As :meth:`bind` returned it.

        Returns:
            True if it rings, or rings already; False if its owner is dead, whose file is then removed, or if there never was a socket of
            ours. Trouble on this side (no descriptors left, say) says nothing about the owner and is True: its slow re-check covers it.
        """
        if address not in self._trusted and not self._trust(address):
            return False
        path = f"{self._prefix}{address:016x}"
        try:
            sender = self._sender or self._open_sender()
            try:
                sender.sendto(b"\1", path)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                # Either their buffer is full, or ours is: what lies unread in other bells counts against the socket that sent it, and a
                # few hundred datagrams in bells that nobody reads would deafen all the rest. A fresh socket owes nothing.
                if not _has_room(sender):
                    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as fresh:
                        fresh.setblocking(False)
                        fresh.sendto(b"\1", path)
        except OSError as error:
            if error.errno not in _DEAD:
                return True
            if error.errno == errno.ECONNREFUSED:
                self.unlink(address)
            self._trusted.discard(address)
            return False
        return True

    def sweep(self) -> int:
        """Remove the files that killed processes left. Live sockets, and such as are just being bound, stay.

        Returns:
            How many were removed.

        Raises:
            StoragePathError: The process is out of descriptors.
            ValueError: The directory is closed.
        """
        self._check_open()
        removed = 0
        try:
            names = os.listdir(self._descriptor)
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            raise self._refusal(error) from error
        with probe:
            probe.setblocking(False)
            for name in names:
                if not _NAME.fullmatch(name.removeprefix(_UNBOUND)):
                    continue
                status = self._status(name)
                if status is None or (name.startswith(_UNBOUND) and abs(time.time() - status.st_mtime) < _BIND_SECONDS):
                    continue
                try:
                    probe.connect(self._prefix + name)
                except ConnectionRefusedError:
                    removed += self._unlink(name)
                except OSError:
                    continue  # gone meanwhile, or of a kind that is not ours to judge
        return removed

    def _status(self, name: str) -> os.stat_result | None:
        """Return the status of a socket file of ours; None if there is none, or it is something else."""
        try:
            status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return None
        return status if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid() else None

    def _unlink(self, name: str) -> bool:
        if self._status(name) is None:
            return False
        try:
            os.unlink(name, dir_fd=self._descriptor)
        except FileNotFoundError:
            return False
        return True

    def _trust(self, address: int) -> bool:
        """Check a file before the first datagram; afterwards only this user could have put something else there."""
        if self._status(f"{address:016x}") is None:
            return False
        if len(self._trusted) >= _TRUSTED:
            self._trusted.clear()
        self._trusted.add(address)
        return True

    def _open_sender(self) -> socket.socket:
        with self._sender_lock:
            if self._closed:  # by another thread, a moment ago
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if self._sender is None:
                sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                sender.setblocking(False)
                self._sender = sender
            return self._sender

    def _refusal(self, error: OSError) -> StoragePathError:
        otherwise = "see that the folder is there and belongs to this user"
        return StoragePathError(f"there can be no socket to wait with in {self.path}: {error.strerror}; {remedy(error, otherwise)}")

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the socket directory {self.path} is closed")


class Bell:
    """The socket that one thread or event loop sleeps on.

    Args:
        directory: Where its file lies.

    Attributes:
        address: What others ring it by.
        looks: How many waits began by looking instead of by sleeping.
    """

    def __init__(self, directory: SocketDirectory) -> None:
        self.looks = 0
        self._directory = directory
        made: list[tuple[socket.socket, int]] = []
        try:
            directory.bind(made)
            self._socket, self.address = made[0]
            self._owner = os.getpid()
            self._closed = False
            self._brisk = False  # whether the last wait was so short that it is worth looking a little before sleeping
            directory._bells.add(self)
        except BaseException:
            for unused, address in made:
                unused.close()
                directory.unlink(address)
            raise

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the process that this one was forked from."""
        return self._closed

    def fileno(self) -> int:
        """Return the descriptor, for an event loop's ``add_reader``; -1 once closed."""
        return self._socket.fileno()

    def drain(self) -> int:
        """Take all pending datagrams, without blocking.

        Returns:
            How many there were.
        """
        receive = self._socket.recv
        count = 0
        try:
            while receive(1):
                count += 1
        except OSError:  # no more, or closed by another thread
            pass
        return count

    def wait(self, timeout: float | None = None, also: int = -1) -> bool:
        """Sleep until the bell rings, and take what rang it. Blocks the calling thread, which must be the bell's own.

        A signal handler that raises passes through; the datagrams stay for the next call.

        Args:
            timeout: Seconds; None waits without limit, 0 does not wait.
            also: Another descriptor whose being readable ends the sleep; -1 is none.

        Returns:
            True if it rang, or was closed by another thread, or ``also`` is readable; False if the time is over.

        Raises:
            ValueError: The bell is closed.
        """
        if self._closed:
            raise ValueError("the bell is closed")
        # A poll object refuses to be used twice at once, and a signal handler may come back here: so each call has its own.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if also >= 0:
            poll.register(also, select.POLLIN)
        begun = time.monotonic()
        if self._brisk and self._look(poll, begun, LOOK if timeout is None else min(LOOK, timeout)):
            self.drain()
            return True
        deadline = None if timeout is None else begun + timeout
        while True:
            left = None if deadline is None else min(max(0, math.ceil((deadline - time.monotonic()) * 1000)), _LONGEST_POLL_MS)
            if poll.poll(left) or self._closed:
                self._brisk = SPARE and time.monotonic() - begun < LOOK + WAKING
                self.drain()
                return True
            if deadline is not None and time.monotonic() >= deadline:
                self._brisk = False
                return False

    def _look(self, poll: select.poll, begun: float, seconds: float) -> bool:
        """Look for some time whether a descriptor is readable, giving the core away each time; return whether one is.

        Left off as soon as a look takes long: another thread or process has use for the core.
        """
        self.looks += 1
        now = begun
        while now - begun < seconds:
            if poll.poll(0):
                return True
            os.sched_yield()
            before, now = now, time.monotonic()
            if now - before > _STALLED:
                break
        return False

    def close(self) -> None:
        """Close the socket and remove its file. Idempotent. A thread that sleeps on it wakes up."""
        if self._closed:
            return
        if os.getpid() != self._owner:
            # A forked child deallocates what was local to its parent's other threads before it runs any fork hook.
            self._abandon()
            return
        self._closed = True
        self._directory._bells.discard(self)
        self._directory.unlink(self.address)
        with contextlib.suppress(OSError):  # not connected, says macOS
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _abandon(self) -> None:
        """Close this process's copy of its parent's socket, which goes on working there."""
        self._closed = True
        self._socket.close()


class _End:
    """Goes when its thread does."""


class _ThreadBells(threading.local):
    """The bells of the running thread, closed when it ends, and at interpreter exit."""

    def __init__(self) -> None:
        self.bells: dict[SocketDirectory, Bell] = {}
        self.end = _End()
        weakref.finalize(self.end, _close_all, self.bells)


def _close_all(bells: dict[SocketDirectory, Bell]) -> None:
    for bell in tuple(bells.values()):
        bell.close()
    bells.clear()


_thread_bells = _ThreadBells()


def thread_bell(directory: SocketDirectory) -> Bell:
    """Return the calling thread's bell in a store: one for all its waits, made at the first.

    Raises:
        StoragePathError: The process is out of descriptors, or the disk is full.
        ValueError: The directory is closed.
    """
    bells = _thread_bells.bells
    bell = bells.get(directory)
    if bell is None or bell.closed:
        for other in [other for other, its_bell in bells.items() if its_bell.closed]:
            del bells[other]
        bell = bells[directory] = Bell(directory)
    return bell


def ring(table: SharedTable, directory: SocketDirectory, events: Mapping[int, int], everybody: bool = False) -> int:
    """Wake all who wait for what a commit did; to be called after the commit, by any thread. Never blocks.

    Each bell gets one datagram, however many of its registrations match. Those of dead owners are evicted.

    Args:
        table: The shared table of the namespace.
        directory: The sockets of its store.
        events: The mask of what happened, by object id.
        everybody: See :meth:`.SharedTable.waiters`.

    Returns:
        How many bells ring.
    """
    found = table.waiters(events, everybody)
    if not found:
        return 0
    rung: dict[int, bool] = {}
    for slot, address in found:
        alive = rung.get(address)
        if alive is None:
            alive = rung[address] = directory.send(address)
        if not alive:
            table.evict(slot, address)
    return sum(rung.values())


def _fits(folder: str) -> bool:
    # One byte for the slash, one for the zero at the end.
    return len(os.fsencode(folder)) + 1 + _LONGEST_NAME + 1 <= _SUN_PATH


def _has_room(sender: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sender, select.POLLOUT)
    return bool(poll.poll(0))


def _is_foreign(path: str) -> bool:
    """Tell whether something is at a path that is no folder of this user's alone."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or bool(status.st_mode & 0o077)


def _open_private(path: str, mend: bool = True) -> int:
    """Create a folder that only this user may enter, open it, and see that it is one.

    Args:
        path: The folder.
        mend: Whether a folder of ours that others may enter is closed to them. Not under a folder that everybody may write in,
            where it may have been tampered with already.
    """
    try:
        with contextlib.suppress(FileExistsError):
            make_folder(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StoragePathError(
            f"cannot create or open the socket folder {path}: {error.strerror}; {remedy(error, 'see that its parent is writable')}"
        ) from error
    status = os.fstat(descriptor)
    if status.st_uid == os.geteuid():
        if not status.st_mode & 0o077:
            return descriptor
        if mend:
            os.fchmod(descriptor, 0o700)
            return descriptor
    os.close(descriptor)
    raise StoragePathError(
        f"the socket folder {path} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}; it must belong to user "
        f"{os.geteuid()} and be closed to others (0700). Remove it, or open the store as its owner"
    )
