"""A namespace as one process sees it: the environment, whose turn it is, and how a write is run.

There is one per process and folder, shared by both faces, all threads and all loops; handles keep a reference to it. A write goes::

    turn (threads and tasks of this process, TurnQueue)
      └─ gate (processes, flock)
           └─ LMDB transaction: the operation, and those of whoever stands in line behind it; headers; commit
      ┌─ gate and turn are given up, the next in line is woken
    doorbells of those who wait for what changed

Blocking callers do all of it in their own thread (:meth:`Namespace.write`, :meth:`Namespace.begin_writing`). The awaitable face does the same
inline when nothing can make it wait, and otherwise has the namespace's :class:`.Lane` do it; see ``coordinator``.

After a fork the child keeps this object; everything in it that belongs to the parent is replaced at the first use (:meth:`Namespace.revive`).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock, get_ident, main_thread
from typing import TYPE_CHECKING, Any, Final, Protocol

from . import fork
from .doorbell import SocketDirectory, ring
from .engine import FSYNCS, LEVELS, PAGE, RESERVE, Engine, EngineError, MapResizedError, translate
from .errors import ContextError, StoragePathError, TransactionError, remedy
from .gate import Gate
from .lane import Lane
from .layout import FORMAT_VERSION, META_KEY, Meta, retired_prefix
from .ownership import contexts, for_reading, for_writing
from .paths import sync_directory
from .settings import default_synchronous
from .shared import WORD_LEVEL, WORD_LIMIT, WORD_RETIRED, WORD_SETTINGS, WORD_USED, WORD_WAITED, SharedTable
from .space import DEFAULT_SIZE, LARGEST, Space
from .transactions import Reading, Writing
from .turns import Operation, Request, TurnQueue
from .weakbag import WeakBag

__all__ = ["BATCH", "CONTENDED", "Namespace", "Statistics"]

CONTENDED: Final = object()
"""Nothing was done, because it would have meant waiting."""

BATCH: Final = 512
"""Operations that one commit takes at most, so that nobody waits long behind others."""


class Pinned(Protocol):
    """A read transaction that outlives the call that began it."""

    @property
    def pinned(self) -> bool:
        """Whether it is still open."""
        ...

    def end(self) -> None: ...
    def forked(self) -> None: ...


class Statistics:
    """What a namespace has done in this process since it was opened.

    Attributes:
        commits: Transactions committed.
        operations: Implicit operations they held, and one for each explicit transaction.
        fsyncs: Synchronous writes that LMDB made for them.
        waits: Times that a thread or task had to wait for its turn.
        gate_waits: Times that another process held the gate.
        hops: Jobs given to the writer thread on behalf of event loops.
        rings: Datagrams sent to waiters.
        reclaimed: Entries of cleared or dropped objects deleted.
    """

    __slots__ = ("commits", "fsyncs", "gate_waits", "hops", "operations", "reclaimed", "rings", "waits")

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    if TYPE_CHECKING:
        commits: int
        fsyncs: int
        gate_waits: int
        hops: int
        operations: int
        reclaimed: int
        rings: int
        waits: int

    def copy(self, hops: int) -> Statistics:
        """Return the counters as they are now."""
        twin = Statistics()
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.hops = hops
        return twin

    def __repr__(self) -> str:
        return f"Statistics({', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)})"


class Namespace:
    """See the module. ``open_namespace`` makes these; do not call.

    Attributes:
        begin: Begins LMDB's read transaction; the one call of the hot path that knows of forks (it is swapped then).
        engine: The open environment.
        meta: The namespace's settings as last read.
        room: Bytes that this process may write before it must look how full the namespace is; see ``space``.
    """

    __slots__ = (
        "__weakref__",
        "_epoch",
        "_generation",
        "_opening",
        "_pins",
        "_weaker",
        "begin",
        "closed",
        "directory",
        "engine",
        "gate",
        "lane",
        "meta",
        "name",
        "room",
        "sockets",
        "space",
        "stale",
        "statistics",
        "store",
        "table",
        "turns",
    )

    def __init__(self, store: Path, name: str, directory: Path, sockets: SocketDirectory) -> None:
        self.store = store
        self.name = name
        self.directory = directory
        self.sockets = sockets
        self.space = Space(self)
        self.statistics = Statistics()
        self._opening = Lock()
        self._open()
        fork.on_fork(self)

    # Opening, and what makes it necessary again: forks, another durability level, a larger map.

    def _open(self) -> None:
        self._generation = fork.generation()
        self.closed = False
        self.turns = TurnQueue()
        self.lane = Lane(self.name)
        self.room = 0
        self._pins: WeakBag[Pinned] = WeakBag()
        self.gate = Gate(self.directory)
        try:
            self.table = SharedTable(self.directory / "shared")
            try:
                self._open_engine()
            except BaseException:
                self.table.close()
                raise
        except BaseException:
            self.gate.close()
            raise
        self.stale = False  # last: the other threads of a forked child wait for the whole of it

    def _open_engine(self) -> None:
        words = self.table.words
        level = self._shared_level() or default_synchronous()
        # A power loss leaves anything in the table, as nobody synchronizes it. The settings that count are in the data file.
        limit = words[WORD_LIMIT] if words[WORD_LIMIT] <= LARGEST else 0
        self.engine = Engine(self.directory, level, limit or DEFAULT_SIZE)
        self.begin = self.engine.begin
        try:
            meta = self._read_meta()
            if meta is None or not words[WORD_SETTINGS] or meta.level != level or meta.size != words[WORD_LIMIT]:
                meta = self._settle()
            if meta.level != self.engine.level or meta.size + RESERVE > self.engine.map_size:
                size = meta.size
                self.engine.close()
                self.engine = Engine(self.directory, meta.level, size)
            fork_safe(self.engine)
            self.meta = meta
            self._weaker = False
            self._epoch = words[WORD_SETTINGS]
            self.begin = self.engine.begin
            self.engine.check_readers()
            # After a power loss the table may know less than the file.
            words[WORD_USED] = max(words[WORD_USED], self.engine.usage().file * PAGE)
            with self.begin_reading() as transaction:
                if transaction.cursor().set_range(retired_prefix()) and self._has_retired(transaction):
                    words[WORD_RETIRED] = 1
        except EngineError as error:
            self.engine.close()
            raise translate(error, self.name, "opening") from error
        except BaseException:
            self.engine.close()
            raise

    def _shared_level(self) -> str | None:
        """Return the level that the shared table has, if it has one."""
        word = self.table.words[WORD_LEVEL]
        return LEVELS[word - 1] if 1 <= word <= len(LEVELS) else None

    def _read_meta(self) -> Meta | None:
        try:
            with self.begin_reading() as transaction:  # as another process may have made the file larger than this one's map
                raw = transaction.get(META_KEY)
                if raw is None:
                    if transaction.cursor().first():
                        raise StoragePathError(f"{str(self.directory)!r} holds an LMDB database that is not parkit's; move it away")
                    return None
        except EngineError as error:
            raise translate(error, self.name, "opening") from error
        try:
            meta = Meta.unpack(raw)
        except ValueError as error:
            raise StoragePathError(f"the files in {str(self.directory)!r} are not a parkit namespace; move them away, or restore a backup") from error
        if meta.format > FORMAT_VERSION:
            raise StoragePathError(
                f"namespace {self.name!r} was written by a newer parkit (format {meta.format}; this one knows {FORMAT_VERSION}): upgrade parkit. "
                "Nothing was changed."
            )
        if meta.level not in FSYNCS or not 0 < meta.size <= LARGEST:
            raise StoragePathError(f"the record of namespace {self.name!r}, in {str(self.directory)!r}, is damaged: restore a backup")
        return meta

    def _settle(self) -> Meta:
        """Write the namespace's record if there is none, and agree with the other processes on the settings. Fifty may come at once."""
        words = self.table.words
        self.gate.enter()
        try:
            meta = self._read_meta()
            if meta is None:
                meta = Meta(self.engine.level, DEFAULT_SIZE)
                if self.engine.fsyncs:
                    # LMDB syncs what is in its files, not the folder's entries for them. Should this fail it is done again, for want of a record.
                    # The store's entry for the folder may be another process's work, and not be synchronized yet, or never, if that one was killed.
                    sync_directory(self.directory)
                    sync_directory(self.store)
                with self.engine.begin_write() as transaction:
                    transaction.put(META_KEY, meta.pack())
            words[WORD_LEVEL] = LEVELS.index(meta.level) + 1
            words[WORD_LIMIT] = meta.size
            words[WORD_USED] = self.engine.usage().file * PAGE
            self.table.note_settings()
            return meta
        except OSError as error:
            raise StoragePathError(
                f"the folder {str(self.directory)!r} cannot be synchronized: {error.strerror}; {remedy(error, 'check the disk')}"
            ) from error
        finally:
            self.gate.leave()

    def forked(self) -> None:
        self._opening = Lock()  # a thread that the child does not have may hold the parent's
        self.begin = self._begin_in_child
        self.stale = True

    def _begin_in_child(self, *arguments: Any, **options: Any) -> Any:
        self.revive()
        return self.begin(*arguments, **options)

    def revive(self) -> None:
        """Replace what belongs to the parent. The environment is not closed, see the fork module."""
        with self._opening:
            if not self.stale:
                return
            _allow_second_open(self.directory)
            self.table.close()
            self._open()

    def settings(self) -> Meta:
        """Return the namespace's settings as they are now, whoever has changed them."""
        if self.table.words[WORD_SETTINGS] == self._epoch:
            return self.meta
        meta = self._read_meta()
        assert meta is not None
        return meta

    def adopt(self) -> None:
        """Take over settings that another process has changed. Call with the turn and the gate."""
        words = self.table.words
        meta = self._read_meta()
        assert meta is not None
        # A level that is about to be set counts before it is, if it is stronger: its own commit must be made at it.
        level = max(meta.level, self._shared_level() or meta.level, key=FSYNCS.__getitem__)
        self.refuse_weaker(level)
        self._epoch = words[WORD_SETTINGS]
        self.meta = meta
        self.room = 0
        if level != self.engine.level and not self.pinned():
            with self._opening:
                self._reopen(level)
        self._weaker = self.engine.fsyncs < FSYNCS[level]
        if meta.size + RESERVE > self.engine.map_size:
            self.remap()

    def refuse_weaker(self, level: str) -> None:
        """Refuse to write for a level if this process cannot do what that one promises.

        A commit whose data and meta page are not synchronized in this order may damage the file if the power fails, until it is synchronized as a
        whole. An environment of the level ``off`` never does it, and a snapshot keeps the process on that one.

        Raises:
            TransactionError: Both is the case.
        """
        pinned = 0 if self.engine.fsyncs or not FSYNCS[level] else len(self.pinned())
        if pinned:
            raise TransactionError(
                f"namespace {self.name!r} leaves, or has left, the durability level 'off', at which this process has opened its files; to write at "
                f"another one it must open them anew, and it still reads from {pinned} snapshots or iterators: close them and try again"
            )

    def _reopen(self, level: str) -> None:
        self.engine.close()
        engine = Engine(self.directory, level, self.meta.size)
        fork_safe(engine)
        self.engine = engine
        self.begin = self.engine.begin

    def recover(self, failed: Engine) -> None:
        """Open the environment anew. Does nothing if another thread has done so, or the namespace was closed.

        Args:
            failed: The environment that refuses to begin anything, see :meth:`.Engine.refuses`.

        Raises:
            StoragePathError: It cannot be opened.
            TransactionError: A snapshot is open in this process, which that would end.
        """
        with self._opening:
            if self.engine is not failed or self.closed:
                return
            pinned = len(self.pinned())  # and not the list, which the error's traceback would keep, and with it the snapshots
            if pinned:
                raise TransactionError(
                    f"the disk has refused a write of namespace {self.name!r}, which must be opened anew after that; this process still reads from "
                    f"{pinned} snapshots or iterators of it: close them and try again"
                )
            self._reopen(failed.level)

    def remap(self) -> None:
        """Map what another process made larger.

        Raises:
            TransactionError: A snapshot is open in this process, which the new map would end.
        """
        pinned = len(self.pinned())
        if pinned:
            raise TransactionError(
                f"namespace {self.name!r} has outgrown the address space that this process reserved for it, which can be enlarged only while the "
                "process "
                f"has no snapshot or iterator of it open; {pinned} are: close them and try again"
            )
        try:
            self.engine.grow(max(self.table.words[WORD_LIMIT] + RESERVE, self.engine.map_size))
        except EngineError as error:
            raise translate(error, self.name, "mapping") from error

    def close(self) -> None:
        """Close everything that this process has open of the namespace. Idempotent; transactions still open are rolled back."""
        if self.closed or self._generation != fork.generation():
            return
        self.closed = True
        self.lane.stop()
        for reading in self.pinned():
            reading.end()
        self.engine.close()
        self.table.close()
        self.gate.close()

    # Reading.

    def pin(self, reading: Pinned) -> None:
        """Note a read transaction that outlives the call: the environment is neither remapped nor reopened meanwhile."""
        self._pins.add(reading)
        fork.on_fork(reading)

    def pinned(self) -> list[Pinned]:
        """Return the snapshots and iterators that this process has open."""
        return [reading for reading in self._pins if reading.pinned]

    def begin_reading(self, buffers: bool = False) -> Any:
        """Begin LMDB's read transaction, mending what can be mended; with ``buffers`` its values are views on the map."""
        failures = 0
        while True:
            engine = self.engine
            try:
                return self.begin(buffers=True) if buffers else self.begin()
            except MapResizedError as error:
                failures += 1
                if failures == 10:
                    raise translate(error, self.name, "reading") from error
                self.remap()
            except EngineError as error:
                failures += 1
                if engine.refuses(error):
                    self.recover(engine)
                if failures == 10 or not (self.engine.check_readers() or failures == 1):
                    raise translate(error, self.name, "reading") from error

    def snapshot(self, owner: Any) -> Reading:
        """Return a pinned view of the latest committed state."""
        reading = Reading(self, self.begin_reading(), owner)
        self.pin(reading)
        return reading

    def reading(self) -> tuple[Reading, bool]:
        """Return what the caller reads through, and whether it is its own to end (an implicit, pinned one)."""
        if contexts:
            reading = for_reading(self)
            if reading is not None:
                return reading, False
        return self.snapshot(None), True

    def read(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call an operation that only reads, in the caller's context or on the latest committed state."""
        if contexts:
            reading = for_reading(self)
            if reading is not None:
                try:
                    return call(reading, *arguments)
                except EngineError as error:
                    raise self.space.failed(error, "reading") from error
        failures = 0
        while True:
            engine = self.engine
            reading = Reading(self, self.begin_reading())
            try:
                return call(reading, *arguments)
            except EngineError as error:
                # Another thread may have reopened the environment under this one.
                failures += 1
                if engine is self.engine or failures == 3:
                    raise self.space.failed(error, "reading") from error
            finally:
                reading.transaction = None

    # Writing, in the caller's thread.

    def write(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call an operation in the caller's transaction, or in one of its own, which is committed when this returns.

        Blocks while others write. An exception, Ctrl-C included, leaves nothing behind unless the commit was already made.

        Raises:
            ContextError: The caller's transaction is one of another namespace, or it is inside a snapshot, or it would wait for itself.
            TransactionError: LMDB failed.
        """
        if contexts:
            writing = for_writing(self)
            if writing is not None:
                try:
                    return call(writing, *arguments)
                except EngineError as error:
                    raise self.space.failed(error, "writing") from error
        return self.write_apart(call, arguments)

    def write_apart(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call an operation in a transaction of its own, whatever the caller has open. Not in the namespace of the caller's own transaction."""
        result = self.try_write(call, arguments)
        if result is CONTENDED:
            result = self._write_in_line(Operation(call, arguments))
        if self.table.words[WORD_RETIRED]:
            try:
                self.reclaim()
            except TransactionError:
                pass  # a full disk, say: what was asked for is done, and this is tried again behind the next write
        return result

    def try_write(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call an operation in a transaction of its own if neither turn nor gate make it wait. Return CONTENDED, having done nothing, if they do.

        This is the hot path of every implicit write, so what :meth:`start`, :meth:`commit` and :meth:`finish` do in the ordinary case is spelled out
        here: a call costs as much as a tenth of LMDB's whole commit.
        """
        if self.stale:
            self.revive()
        writing = Writing(self)
        gate, turns = self.gate, self.turns
        try:
            if turns.slot.setdefault(0, writing) is not writing or not gate.try_enter():
                return CONTENDED
            table = self.table
            if table.words[WORD_SETTINGS] != self._epoch:
                self.adopt()
            transaction = writing.transaction = self.begin(None, None, True)
            number = writing.number = transaction.id()
            writing.room = self.room
            result = call(writing, *arguments)
            if writing.after_commit is not None or self._weaker:
                self.commit(writing)
            elif writing.touched:
                events = writing.write_headers()
                transaction.commit()
                writing.transaction = transaction = None
                self.room = writing.room
                table.note_commit(number, gate.entered)
                for state in writing.states.values():
                    if state.changed and not state.dropped:
                        state.changed = 0
                        identity, state.identity = state.identity, None  # they would keep each other
                        identity.latest = number, state
                statistics = self.statistics
                statistics.commits += 1
                statistics.operations += 1
                if self.engine.fsyncs:
                    statistics.fsyncs += self.engine.fsyncs
                gate.leave()
                del turns.slot[0]
                if turns.waiting and (successor := turns.recover()) is not None:
                    successor.rouse()
                if events and table.words[WORD_WAITED] and table.anybody():
                    self.ring(events)
                writing.ended = True
            return result
        except MapResizedError:
            return CONTENDED  # the long way knows what to do about it
        except EngineError as error:
            if not writing.number and self.engine.refuses(error):
                return CONTENDED  # likewise
            raise self.space.failed(error, "writing") from error
        finally:
            # Nothing between taking the turn and here can be interrupted without coming here: the turn itself knows who took it, and from the
            # beginning of the transaction on it has a number. Each call may be interrupted at its first step, so it is made again.
            try:
                if not writing.ended and (writing.number or turns.holder is writing):
                    self.finish(writing)
            except BaseException:
                self.finish(writing)
                raise

    def _write_in_line(self, operation: Operation) -> Any:
        request = Request(_nobody, [operation], get_ident())
        try:
            if self._stand_in_line(request):
                self.lead(request)
        except BaseException:
            self._forsake(request)
            raise
        return operation.outcome()

    def _stand_in_line(self, request: Request) -> bool:
        """Wait for the turn. Return whether ``request`` holds it; False if another holder has run its operations meanwhile."""
        self.refuse_deadlock()
        bell = Lock()
        bell.acquire()

        def wake(request: Request) -> None:
            if bell.locked():
                bell.release()

        request.wake = wake
        if not self.turns.enqueue(request):
            self.statistics.waits += 1
            bell.acquire()
        return request.granted

    def _forsake(self, request: Request) -> None:
        """Leave the line, or give up the turn, after an interrupt at any point. Idempotent."""
        self.turns.withdraw(request)
        self.release(request)

    def refuse_deadlock(self) -> None:
        """Raise ContextError if the calling thread is about to block until it does something itself."""
        if self.turns.concerns(get_ident()):
            raise ContextError(
                f"this thread would wait for a transaction of namespace {self.name!r} that it must end itself: "
                "either a task of its event loop has it open (use parkit_async there), or the call comes from a task, signal handler or finalizer "
                "that interrupted it. Leave the transaction first"
            )

    def lead(self, request: Request) -> None:
        """Run the operations of ``request``, which holds the turn, and of those in line behind it; give up the turn, and wake whom it concerns."""
        assert request.operations is not None
        collected: list[Request] = []
        events: dict[int, int] = {}
        try:
            if get_ident() != main_thread().ident:
                # The main thread runs nobody else's operations: it may be interrupted (Ctrl-C) at any step, and what is others' must not be.
                self.turns.collect(BATCH - len(request.operations), collected)
            operations = [*request.operations, *(operation for other in collected for operation in other.operations or ())]
            if not self.gate.try_enter():
                self.statistics.gate_waits += 1
                self.gate.enter()
            self.execute(operations, events)
        except BaseException as error:
            # An interrupt, or an error of parkit's own: nobody may wait for an outcome that never comes.
            for operation in request.operations:
                if not operation.done:
                    operation.error, operation.done = error, True
            unfinished = [other for other in collected if not all(operation.done for operation in other.operations or ())]
            self.turns.restore(unfinished)
            collected = [other for other in collected if other not in unfinished]
            raise
        finally:
            try:
                self.release(request)
            except BaseException:
                self.release(request)
                raise
            finally:
                self.ring(events)
                for other in collected:
                    other.rouse()

    def execute(self, operations: list[Operation], events: dict[int, int]) -> None:
        """Run operations in one transaction, and give each its outcome. Call with the turn and the gate.

        One that fails without having changed anything fails alone. On any doubt everything is rolled back and each is run by itself.
        """
        writing = Writing(self)
        pending = [operation for operation in operations if not operation.done]
        try:
            self.start(writing)
            for operation in pending:
                if not operation.claim():
                    continue
                touched = writing.touched
                try:
                    operation.result = operation.call(writing, *operation.arguments)
                except Exception as error:
                    operation.error = error
                    if writing.touched != touched or isinstance(error, EngineError):
                        raise
                if writing.touched != touched:
                    writing.settle()
            self.commit(writing, len(pending))
            for operation in pending:
                operation.done = operation.done or operation.claimed
            for object_id, event in (writing.events or {}).items():
                events[object_id] = events.get(object_id, 0) | event
        except Exception as error:
            writing.end()
            if len(pending) == 1:
                pending[0].error = error
                if isinstance(error, EngineError):
                    pending[0].error = self.space.failed(error, "writing")
                    pending[0].error.__cause__ = error
                pending[0].done = True
                return
            for operation in pending:
                operation.result = operation.error = None
                self.execute([operation], events)
        finally:
            writing.end()

    def begin_writing(self, writing: Writing) -> None:
        """Begin an explicit transaction, waiting for the turn. However this ends, :meth:`finish` it, after :meth:`commit` if all went well."""
        if self.stale:
            self.revive()
        if not self.turns.take(writing):
            request = writing.token = Request(_nobody, None, get_ident())
            try:
                self._stand_in_line(request)
            except BaseException:
                self._forsake(request)
                raise
        try:
            if not self.gate.try_enter():
                self.statistics.gate_waits += 1
                self.gate.enter()
            self.start(writing)
            writing.replace = writing.transaction.cursor().replace
        except EngineError as error:
            raise self.space.failed(error, "beginning a transaction") from error

    # The steps that both faces build on. All but `release` want the turn; `start` to `commit` want the gate as well.

    def start(self, writing: Writing) -> None:
        """Begin LMDB's write transaction in the calling thread."""
        if self.table.words[WORD_SETTINGS] != self._epoch:
            self.adopt()
        engine = self.engine
        try:
            transaction = self.begin(write=True)
        except MapResizedError:
            self.remap()
            transaction = self.begin(write=True)
        except EngineError as error:
            if not engine.refuses(error):
                raise
            self.recover(engine)
            transaction = self.begin(write=True)
        writing.transaction = transaction
        writing.number = transaction.id()
        writing.room = self.room

    def commit(self, writing: Writing, operations: int = 1) -> None:
        """Commit, if anything was changed. The doorbells are rung by :meth:`finish`."""
        while writing.savepoints:  # of a block that was interrupted as it was entered; what was written since then is the outer block's
            writing.end_savepoint(keep=True)
        if writing.touched:
            writing.write_headers()
            writing.transaction.commit()
            writing.transaction = None
            self.committed(writing, operations)

    def commit_recording(self, writing: Writing) -> None:
        """Commit in the calling thread what was written in another one."""
        recording = writing.recording
        assert recording is not None
        transaction = self.begin(write=True)
        try:
            recording.replay(transaction)
            transaction.commit()
        except BaseException:
            transaction.abort()
            raise
        self.committed(writing, 1)

    def committed(self, writing: Writing, operations: int) -> None:
        """Do the bookkeeping of a commit."""
        self.room = writing.room
        number = writing.number
        for state in writing.states.values():
            if (state.changed or state.settled) and not state.dropped:
                state.changed = state.settled = 0
                identity, state.identity = state.identity, None
                identity.latest = number, state
        if writing.after_commit is not None:
            writing.after_commit()
        self.table.note_commit(number, self.gate.entered)
        statistics = self.statistics
        statistics.commits += 1
        statistics.operations += operations
        if self.engine.fsyncs:
            statistics.fsyncs += self.engine.fsyncs
        if self._weaker:
            # A snapshot keeps this process on the environment of a weaker level; what is acknowledged must be durable all the same.
            self.engine.sync()

    def finish(self, writing: Writing) -> None:
        """Roll back what is not committed, give up gate and turn, wake the next in line, ring the doorbells of a commit.

        Idempotent. Interrupted (Ctrl-C) at any point it is done once more before the exception goes on.
        """
        try:
            self._conclude(writing)
        except BaseException:
            self._conclude(writing)
            raise

    def _conclude(self, writing: Writing) -> None:
        if writing.transaction is not None:
            writing.events = None
            writing.end()
        writing.ended = True
        self.release(writing.token or writing)
        if writing.events and self.table.anybody():
            self.ring(writing.events)
            writing.events = None

    def release(self, token: object) -> None:
        """Give up gate and turn, and wake the next in line. Idempotent, as :meth:`finish`."""
        try:
            if self.turns.holder is token:
                self.gate.leave()
                successor = self.turns.release(token)
            else:
                successor = self.turns.recover()
            if successor is not None:
                successor.rouse()
        except BaseException:
            if self.turns.holder is token:
                self.gate.leave()
                self.turns.release(token)
            successor = self.turns.recover()
            if successor is not None:
                successor.rouse()
            raise

    def ring(self, events: dict[int, int], everybody: bool = False) -> None:
        """Wake those who wait for what a commit has changed."""
        if events:
            self.statistics.rings += ring(self.table, self.sockets, events, everybody)

    # Chores.

    def reclaim(self, turn: Request | None = None) -> bool | None:
        """Delete a slice of what was cleared or dropped.

        Args:
            turn: What holds the turn, which is given up; the gate is waited for. Without it nothing is waited for.

        Returns:
            Whether more is left; None if others want to write, so that nothing was done.
        """
        from .reclaim import reclaim_slice

        writing = Writing(self)
        writing.token = turn
        try:
            if turn is not None:
                self.gate.enter()
            elif not self.turns.take(writing) or not self.gate.try_enter():
                return None
            self.start(writing)
            deleted, more = reclaim_slice(writing)
            self.commit(writing)
            self.statistics.reclaimed += deleted
            if not more:
                self.table.words[WORD_RETIRED] = 0
            return more
        except EngineError as error:
            raise self.space.failed(error, "reclaiming") from error
        finally:
            # As in `try_write`: the call may be interrupted at its first step.
            try:
                if self.turns.holder is (turn or writing):
                    self.finish(writing)
            except BaseException:
                self.finish(writing)
                raise

    def _has_retired(self, transaction: Any) -> bool:
        cursor = transaction.cursor()
        prefix = retired_prefix()
        return bool(cursor.set_range(prefix) and bytes(cursor.key()).startswith(prefix))


def _nobody(request: Request) -> None:
    """The wake of a request that has not stood in line yet."""


def fork_safe(engine: Engine) -> None:
    """Keep the environment from being deallocated, in this process or a forked one; it is closed explicitly."""
    fork.immortalize(engine.environment)


def _allow_second_open(directory: Path) -> None:
    """Make LMDB's binding forget that a parent has the files open.

    It refuses to open one environment twice in a process, and counts one inherited over a fork. Closing that is no way out (see the fork
    module), so the binding's set of open files is found and relieved of it. If a later release keeps its books otherwise, the opening is
    refused as before, and says so.
    """
    statuses = [os.stat(directory / name) for name in ("data.mdb", "lock.mdb")]
    # Frozen, so that the search does not find it: a set would be a subset of itself, and be emptied first.
    inodes = frozenset(("ino", status.st_dev, status.st_ino) for status in statuses)
    for candidate in gc.get_objects():
        if type(candidate) is set and inodes <= candidate:
            candidate -= inodes
