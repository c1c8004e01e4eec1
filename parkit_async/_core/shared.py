"""What the processes that have a namespace open tell each other without a transaction: counters, commit times, who is waiting.

It is one memory-mapped file beside the namespace's LMDB files::

    offset     size
         0     4096   words: 512 of 8 bytes, see the WORD_* constants
      4096    32768   commit times: the last 4096 commits, at transaction id modulo 4096
     36864    32768   milestones: every 1024th commit, likewise
     69632     4096   occupancy: one byte per slot, 1 while its record is a registration
     73728   131072   slots: object id, socket address, event mask, rung; 8 bytes each, in the machine's byte order

Invariants:

* All zeros is a valid beginning, and growing a file appends zeros: whoever comes first creates it, and nobody needs a lock to.
* A word is aligned and written whole; there is no read-modify-write across processes. Whoever needs one holds the write transaction.
* Only the owner of a slot writes its record and its occupancy byte, except that a dead owner's byte is cleared by whoever evicts it.
* A slot is owned by a POSIX record lock on byte number *slot* of the file: it never blocks, a forked child does not inherit it, and the
  kernel drops it when the owner dies, however it dies. Slots are kept for reuse, so that most registrations make no system call.

The pitfall of record locks is that closing *any* descriptor of the file drops all locks this process has on it, and a mapping holds a
descriptor of its own. So a process has at most one :class:`SharedTable` of a path (a second is refused before the file is opened), and
nothing else in the process may open the file, not even to copy it. Locks of one process do not exclude each other either:
whatever is decided by taking one first asks whether the slot is ours.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Mapping
from typing import Final

from . import fork
from .allocation import allocate
from .errors import ParkitError, StoragePathError, remedy
from .private_files import open_file

__all__ = [
    "ONE_OF",
    "SLOTS",
    "SUPERVISOR",
    "WORD_ATTEMPTED",
    "WORD_ATTEMPTS",
    "WORD_FORMAT",
    "WORD_FREE",
    "WORD_GROWN",
    "WORD_LEVEL",
    "WORD_LIMIT",
    "WORD_PAGES",
    "WORD_RETIRED",
    "WORD_SETTINGS",
    "WORD_USED",
    "WORD_WAITED",
    "SharedTable",
    "TableFullError",
]

WORD_FORMAT: Final = 0
"""Version of the format."""
WORD_LEVEL: Final = 1
"""Durability level."""
WORD_LIMIT: Final = 2
"""Maximum size of the namespace in bytes."""
WORD_SETTINGS: Final = 3
"""Count of changes of the settings."""
WORD_RETIRED: Final = 4
"""Whether ranges wait to be reclaimed."""
WORD_GROWN: Final = 5
"""Id of the last commit known to have made the file grow."""
WORD_USED: Final = 6
"""Bytes of the maximum size that are taken, by an estimate on the safe side."""
WORD_PAGES: Final = 7
"""Pages of the file, when somebody last looked."""
WORD_ATTEMPTED: Final = 8
"""Which queue's item is being decoded, or was last."""
WORD_ATTEMPTS: Final = 9
"""How often that was begun and not finished."""
WORD_WAITED: Final = 10
"""Whether anybody has ever waited for anything here. Never cleared, so that no two processes can disagree about it."""
WORD_FREE: Final = 11
"""The first of 32 words that nobody uses yet."""

SLOTS: Final = 4096

ONE_OF: Final = (1 << 63) - 1
"""Registered instead of an object's id by those of whom one is enough: the idle workers of the pool."""

SUPERVISOR: Final = (1 << 63) - 2
"""Registered instead of an object's id by the pool's supervisor, who is told of signals that are asked for."""

_PAGE = 4096
_COMMITS = 4096
_MILESTONES = 4096
_MILESTONE_SHIFT = 10

_AT_COMMITS = _PAGE
_AT_MILESTONES = _AT_COMMITS + 8 * _COMMITS
_AT_OCCUPANCY = _AT_MILESTONES + 8 * _MILESTONES
_AT_SLOTS = _AT_OCCUPANCY + SLOTS
_RECORD_WORDS = 4
_SIZE = _AT_SLOTS + 8 * _RECORD_WORDS * SLOTS

_COMMIT_MASK = _COMMITS - 1
_MILESTONE_MASK = _MILESTONES - 1
_EVERY_MILESTONE = (1 << _MILESTONE_SHIFT) - 1

_MARGIN = 64
"""Entries this close to being overwritten are not read: others may commit between the caller's look at the last id and ours at the ring."""
_NEIGHBOURS = 8
"""How many entries before the one asked for stand in if it was never noted (its writer was killed between commit and note)."""
_KEPT = 32
"""Free slots that a process keeps locked for its next registrations."""

_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB
_FREE = fcntl.LOCK_UN

_open_tables: dict[str, SharedTable] = {}


class TableFullError(ParkitError):
    """No slot is free to register a waiter in; the caller relies on its slow re-check instead."""


class SharedTable:
    """The shared table of one namespace, as one process sees it. Any thread may call any method.

    A forked child may go on using the object: it starts without any slots, and neither uses nor clears its parent's.

    Args:
        path: The file; it is created if need be. Its folder must exist.

    Attributes:
        words: The 512 words of the first page; read and write single items only.

    Raises:
        StoragePathError: This process has the table open already, or the file cannot be created, is not a regular file, or its disk is full.
    """

    __slots__ = (
        "__weakref__",
        "_active",
        "_closed",
        "_commits",
        "_descriptor",
        "_free",
        "_inherited",
        "_key",
        "_lock",
        "_map",
        "_milestones",
        "_occupancy",
        "_oids",
        "_slots",
        "path",
        "words",
    )

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._key = os.path.realpath(self.path)
        self._inherited = False
        self._closed = False
        # Reentrant, because a finalizer or a signal handler may come here while this very thread is inside.
        self._lock = threading.RLock()
        self._active: set[int] = set()
        self._free: list[int] = []
        self._enter_process()
        try:
            self._descriptor = _open_file(self.path)
        except BaseException:
            del _open_tables[self._key]
            raise
        try:
            self._map = mmap.mmap(self._descriptor, _SIZE)
        except BaseException as error:
            os.close(self._descriptor)
            del _open_tables[self._key]
            if isinstance(error, OSError):
                raise StoragePathError(f"cannot map the shared table {self.path}: {error.strerror}; {remedy(error, 'try again')}") from error
            raise
        with memoryview(self._map) as whole:
            self.words = whole[:_AT_COMMITS].cast("Q")
            self._commits = whole[_AT_COMMITS:_AT_MILESTONES].cast("Q")
            self._milestones = whole[_AT_MILESTONES:_AT_OCCUPANCY].cast("Q")
            self._occupancy = whole[_AT_OCCUPANCY:_AT_SLOTS]
            self._slots = whole[_AT_SLOTS:_SIZE].cast("Q")
            self._oids = self._slots[::_RECORD_WORDS]
        fork.on_fork(self)

    def _enter_process(self) -> None:
        """Make this the process's only table of the path, or refuse, before any descriptor exists whose closing would drop locks."""
        other = _open_tables.setdefault(self._key, self)
        if other is not self and other._inherited:
            other.close()  # the parent's, and never used here, so that no lock of ours hangs on its descriptors
            other = _open_tables.setdefault(self._key, self)
        if other is not self:
            raise StoragePathError(
                f"the shared table {self.path} is open in this process already; a second descriptor would drop the locks of the first "
                "when it is closed. Use the open one, or close it first"
            )

    def forked(self) -> None:
        self._inherited = True
        self._lock = threading.RLock()
        self._active = set()
        self._free = []

    def close(self) -> None:
        """Clear this process's registrations, give up its slots and unmap the file. Idempotent.

        In a forked child the parent's registrations stay.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for slot in self._active:
                self._occupancy[slot] = 0
            self._active.clear()
            self._free.clear()
            for view in (self.words, self._commits, self._milestones, self._occupancy, self._slots, self._oids):
                view.release()
            self._map.close()
            os.close(self._descriptor)
            if _open_tables.get(self._key) is self:
                del _open_tables[self._key]

    # -- settings ------------------------------------------------------------------------------------------------------------------------

    def note_settings(self) -> None:
        """Count a change of the namespace's settings; for who holds the gate. Whatever a power loss has left in the word, it can be counted on."""
        self.words[WORD_SETTINGS] = (self.words[WORD_SETTINGS] + 1) % (1 << 63) or 1

    # -- commit times --------------------------------------------------------------------------------------------------------------------

    def note_commit(self, txn_id: int, now_ns: int) -> None:
        """Remember when a commit happened.

        Args:
            txn_id: LMDB's id of the transaction.
            now_ns: Now, in nanoseconds of any clock that all processes share; not 0.
        """
        self._commits[txn_id & _COMMIT_MASK] = now_ns
        if not txn_id & _EVERY_MILESTONE:
            self._milestones[txn_id >> _MILESTONE_SHIFT & _MILESTONE_MASK] = now_ns

    def commit_time(self, txn_id: int, last_txn_id: int) -> int | None:
        """Return when a commit happened, to tell the age of a snapshot of it.

        Exact for about the last 4000 commits, the time of an earlier commit (a lower bound, at most some 1000 commits early) for the
        last four million. A commit that was never noted is dated by the one before it: an entry left over from a lap ago is older than
        its neighbours, so the latest of a few counts.

        Args:
            txn_id: The commit asked for.
            last_txn_id: The last one that the caller knows of.

        Returns:
            Nanoseconds of the clock that :meth:`note_commit` was given, or None if nothing is known.
        """
        if last_txn_id - txn_id < _COMMITS - _MARGIN - _NEIGHBOURS:
            noted = max(self._commits[at & _COMMIT_MASK] for at in range(max(0, txn_id - _NEIGHBOURS + 1), txn_id + 1))
            if noted:
                return noted
        milestone = txn_id >> _MILESTONE_SHIFT
        if (last_txn_id >> _MILESTONE_SHIFT) - milestone < _MILESTONES - _MARGIN - _NEIGHBOURS:
            noted = max(self._milestones[at & _MILESTONE_MASK] for at in range(max(0, milestone - _NEIGHBOURS + 1), milestone + 1))
            if noted:
                return noted
        return None

    # -- waiters -------------------------------------------------------------------------------------------------------------------------

    def register(self, oid: int, mask: int, address: int, registered: list[int] | None = None) -> int:
        """Register a waiter; it must look at the data once more before it sleeps.

        Args:
            oid: Id of the object to wait for.
            mask: Which of its events; see the ``EVENT_*`` constants of :mod:`.doorbell`.
            address: Its bell.
            registered: A list to which the slot is added, too, before anything else: an interrupt (Ctrl-C) behind this call loses what it returns.

        Returns:
            The slot, for :meth:`unregister`.

        Raises:
            TableFullError: Live processes hold all slots.
            ValueError: The table is closed.
        """
        with self._lock:
            slot = self._free.pop() if self._free else self._claim()
            if registered is not None:
                registered.append(slot)
            self._active.add(slot)
            slots = self._slots
            at = slot * _RECORD_WORDS
            slots[at] = oid
            slots[at + 1] = address
            slots[at + 2] = mask
            slots[at + 3] = 0
            # Last, or a sender would read half a record.
            self._occupancy[slot] = 1
            self.words[WORD_WAITED] = 1
        # Here must be a full memory barrier. The waiter stores its registration, then loads the data; the writer stores the data, then
        # loads the registrations (Dekker's pattern): if a store may pass the load behind it on either side, both can miss the other.
        # Releasing the lock above is a locked instruction on x86, so a full barrier; the writer's is in its commit. Where releasing is
        # weaker (ARM) a window of nanoseconds remains, and the waiter's slow re-check covers it.
        return slot

    def unregister(self, slot: int) -> None:
        """End a registration. Does nothing if it is not this process's: a forked child that unwinds its parent's wait may call it."""
        with self._lock:
            if slot not in self._active:
                return
            self._occupancy[slot] = 0
            self._active.remove(slot)
            if len(self._free) < _KEPT:
                self._free.append(slot)
            else:
                self._unlock(slot)

    def take_ring(self, slot: int) -> bool:
        """Return whether :meth:`waiters` has found this registration since the last call: which of an event loop's waiters a wake is for."""
        at = slot * _RECORD_WORDS + 3
        if not self._slots[at]:
            return False
        self._slots[at] = 0
        return True

    def anybody(self) -> bool:
        """Return whether anybody waits for anything; about 0.4 us where somebody ever has, a tenth of it elsewhere."""
        return self.words[WORD_WAITED] != 0 and self._map.find(b"\1", _AT_OCCUPANCY, _AT_SLOTS) >= 0

    def waiters(self, events: Mapping[int, int], everybody: bool = False) -> list[tuple[int, int]]:
        """Find who waits for what a commit did. To be called after the commit.

        Args:
            events: The mask of what happened, by object id. Of those registered for :data:`ONE_OF` only one is found, which was not found
                before: it passes on what is left.
            everybody: Find all of these, too, also those that were found before: whoever found them may have died before it rang.

        Returns:
            Pairs of slot and address. A registration that changes meanwhile may appear with half of its old record; the wake is a hint.
        """
        if self._map.find(b"\1", _AT_OCCUPANCY, _AT_SLOTS) < 0:
            return []
        # Slots fill from the front. All their object ids at once, whether occupied or not: a fifth of the cost of looking at each.
        oids = self._oids[: self._map.rfind(b"\1", _AT_OCCUPANCY, _AT_SLOTS) + 1 - _AT_OCCUPANCY].tolist()
        if events.keys().isdisjoint(oids):
            return []
        found = []
        chosen = False
        for slot, oid in enumerate(oids):
            if oid in events and self._occupancy[slot]:
                at = slot * _RECORD_WORDS
                if self._slots[at + 2] & events[oid]:
                    if oid == ONE_OF and not everybody:
                        if chosen or self._slots[at + 3]:
                            continue
                        chosen = True
                    self._slots[at + 3] = 1
                    found.append((slot, self._slots[at + 1]))
        return found

    def evict(self, slot: int, address: int) -> bool:
        """Clear the registration of a waiter whose bell turned out to be dead.

        Another process's is cleared only if its lock can be taken, so its owner is really gone, and the slot is then free for everybody.
        One of our own (a thread that ended without unregistering) is cleared if it still names that bell.

        Args:
            slot: As :meth:`waiters` returned it.
            address: The dead bell.

        Returns:
            Whether the registration was cleared.
        """
        with self._lock:
            if slot in self._active:
                if self._slots[slot * _RECORD_WORDS + 1] != address:
                    return False
                # Not for reuse: whoever registered it may still unregister it, which must not hit another's registration.
                self._occupancy[slot] = 0
                return True
            if self._closed or slot in self._free or not self._try_lock(slot):
                return False
            self._occupancy[slot] = 0
            self._unlock(slot)
            return True

    def _claim(self) -> int:
        """Lock a slot that nobody has; ours are all active now, as the free list is empty."""
        if self._closed:
            raise ValueError(f"the shared table {self.path} is closed")
        # From the front, so that waiters stay close together. What a dead owner left there is overwritten by the registration.
        for slot in range(SLOTS):
            if slot not in self._active and self._try_lock(slot):
                self._occupancy[slot] = 0
                self._inherited = False
                return slot
        raise TableFullError(
            f"all {SLOTS} waiter slots of {self.path} are taken by live processes; too many threads and tasks wait in this namespace at once"
        )

    def _try_lock(self, slot: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, _TRY, 1, slot)
        except OSError:  # somebody's, or the system is out of locks
            return False
        return True

    def _unlock(self, slot: int) -> None:
        fcntl.lockf(self._descriptor, _FREE, 1, slot)


def _open_file(path: str) -> int:
    """Open the file and see that it is long enough. Blocks are allocated where possible: a hole in a mapped file of a full disk is a SIGBUS."""
    try:
        descriptor = open_file(path)
        try:
            allocate(descriptor, _SIZE)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise StoragePathError(
            f"cannot open or create the shared table {path}: {error.strerror}; {remedy(error, 'see that the folder exists and belongs to this user')}"
        ) from error
    return descriptor
