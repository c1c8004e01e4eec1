"""Carries an executor's calls to the store, and outcomes back to its futures.

::

    any thread                            the executor's thread                              namespace                 workers
      submit() ── pickles ──┬─ nobody writes: one transaction, right here ──────────────────▶ submitted ──────────────▶ run
                            └─ else: waiting ──▶ one transaction for all that wait ─────────▶
      future ◀── set_result ────────────── outcomes read, in the order of their ends ◀─────── outcomes ◀─── the executor is rung

There is one thread for each executor that was ever used, asleep on a bell while there is nothing to do. It is registered once, under the executor's
id; one ring stands for all outcomes since the last, and it reads those alone: the work of a wake-up does not grow with what is outstanding.

Invariants:

* ``submit`` and what an event loop calls wait for no other writer and for no disk: what cannot be written at once is left to the thread.
* A future is in one place: ``waiting`` (not in the store yet), ``moving`` (the thread writes it), ``stored`` (by object id), or done. Moves happen
  under the lock. What the calling thread writes itself is written under it, too, so no outcome can be met before its future is known.
* Whether a future could be cancelled is decided in the store, by the transaction that takes its process off the queue.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, TypeVar

from . import codecs, executor_ops, failures, identity, output, paths, pool_state, supervision
from .doorbell import EVENT_DONE, Bell
from .errors import CodecError, ParkitError, ProcessCrashedError
from .executor_ops import Call, Submitted, Told
from .identity import Liveness
from .namespace import CONTENDED, Namespace
from .process_ops import CRASHED, FAILED, Ending
from .processes import UNKNOWN_EXIT
from .shared import TableFullError
from .waiting import SAFETY, counters

__all__ = ["BATCH", "CrashedTaskError", "Dispatcher", "TaskFuture", "cancel", "end_all", "fail"]

T = TypeVar("T")

BATCH: Final = 256
"""Processes that one transaction submits at most."""

_FRAMES: Final = 4 << 20
"""Bytes of calls that one transaction submits, about."""

_TIDY: Final = 0.05
"""Seconds without a new outcome after which those that were read are deleted; a ``submit`` before that does it by the way."""

_UNREGISTERED: Final = 0.05
"""Seconds after which the thread looks again where no slot was free to register it."""

_TAIL: Final = 2000
"""Bytes of the output of a crashed process that its error shows."""


class CrashedTaskError(ProcessCrashedError, BrokenProcessPool):
    """What a future raises whose process ended without an outcome: its worker was killed, ran out of memory, or left.

    Unlike that of a pool of ``concurrent.futures`` it concerns this future alone: the pool has a new worker already. See ProcessCrashedError.
    """


class TaskFuture(Future[T]):
    """The future of a process. See the module for its places."""

    _task: Submitted | None = None
    _moving = False
    _withdrawn = False

    def __init__(self, dispatcher: Dispatcher, call: Call | None) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._call = call

    def cancel(self) -> bool:
        """Take the process off the queue. Return False, with nothing done, if a worker has claimed it, or it has ended.

        Blocks while others write in the namespace.

        Raises:
            ContextError: The calling thread has a transaction of that namespace open.
        """
        if self.done():
            return self.cancelled()
        cancel(self._dispatcher, [self])
        return super().cancel() if self._withdrawn else self.cancelled()

    def running(self) -> bool:
        """Return whether a worker runs the process now, as the store has it."""
        return not self.done() and self._dispatcher.is_claimed(self)


def cancel(dispatcher: Dispatcher, futures: Iterable[TaskFuture[Any]]) -> None:
    """Cancel those that no worker has claimed, in one transaction."""
    for future in dispatcher.withdraw([future for future in futures if not future.done()]):
        Future.cancel(future)
        future.set_running_or_notify_cancel()


class Dispatcher:
    """Carries calls to the store and outcomes back. Knows nothing of the executor, so that one that is forgotten can end it.

    Args:
        namespace: Where the processes live.
        limit: How many of them may be in the store at once; None is any number.
    """

    def __init__(self, namespace: Namespace, limit: int | None) -> None:
        self.pid = os.getpid()
        self.namespace = namespace
        self.store = str(namespace.store)
        self._limit = limit
        # Reentrant: a finalizer or a signal handler may come here while this very thread is inside.
        self._lock = threading.RLock()
        self._moved = threading.Condition(self._lock)
        self._waiting: deque[TaskFuture[Any]] = deque()
        self._stored: dict[int, TaskFuture[Any]] = {}
        self._moving = False
        self._owner = 0
        self._address = 0
        self._seen = 0
        self._unforgotten = 0
        self._closing = False
        self._cancelling = False
        self._error: BaseException | None = None
        self._lookout: supervision.Lookout | None = None
        self._step = supervision.Lookout.FIRST
        self._launch = False
        self.thread: threading.Thread | None = None
        _live.add(self)

    # For any thread.

    def submit(self, futures: Sequence[TaskFuture[Any]]) -> None:
        """Have the calls of futures run.

        Raises:
            RuntimeError: The executor was shut down, or is broken.
            ValueError: A setting of the pool in the environment is wrong.
        """
        supervision.check(self.store)
        failure: BaseException | None = None
        with self._lock:
            self._check_open()
            if self.thread is None:
                # Not a daemon, and joined before the interpreter ends: as in concurrent.futures, nothing that was submitted is forgotten.
                self.thread = threading.Thread(target=self._work, name="parkit-executor")
                self.thread.start()
            if self._owner and not self._waiting and not self._moving and self._has_room(len(futures)) and not self.namespace.engine.fsyncs:
                calls = [future._call for future in futures if future._call is not None]
                try:
                    made = self.namespace.try_write(executor_ops.submit, (self._owner, self._seen, calls))
                except ParkitError as error:
                    failure = error
                else:
                    if made is not CONTENDED:
                        self._store_futures(futures, made)
                        if supervision.running_supervisor(self.store) is None:
                            self._launch = True
                            self._wake()
                        return
            if failure is None or len(futures) > 1:  # of several each shall fail for itself
                self._waiting.extend(futures)
                self._wake()
                return
        fail(futures[0], failure)

    def withdraw(self, futures: Sequence[TaskFuture[Any]]) -> list[TaskFuture[Any]]:
        """Take those off the queue that no worker has claimed; return them. Each is returned once."""
        withdrawn: list[TaskFuture[Any]] = []
        with self._lock:
            while any(future._moving for future in futures):
                self._moved.wait()
            tasks = [future._task for future in futures if future._task is not None]
            unstored = {id(future) for future in futures if future._task is None and not future._withdrawn}
            if unstored and self._waiting:
                withdrawn += [future for future in self._waiting if id(future) in unstored]
                self._waiting = deque(future for future in self._waiting if id(future) not in unstored)
            for future in withdrawn:
                future._withdrawn = True
        for start in range(0, len(tasks), BATCH):
            removed = self.namespace.write_apart(executor_ops.withdraw, (tasks[start : start + BATCH],))
            with self._lock:
                for object_id in removed:
                    future = self._stored.pop(object_id)
                    future._withdrawn = True
                    withdrawn.append(future)
        if withdrawn:
            self._wake()  # there may be room for others, or nothing left to wait for
        return withdrawn

    def is_claimed(self, future: TaskFuture[Any]) -> bool:
        """Return whether a worker has claimed the process of a future that is not done."""
        with self._lock:
            while future._moving:  # it may be stored, claimed and running before the thread that stores it has noted so
                self._moved.wait()
        task = future._task
        if task is None or self.namespace.closed:
            return False
        claimed: bool = self.namespace.read(executor_ops.is_claimed, task.object_id)
        return claimed and not future.done()

    def close(self, cancel: bool = False) -> None:
        """Take nothing more; the thread ends when nothing is outstanding. Never waits."""
        if os.getpid() != self.pid:
            return
        with self._lock:
            self._closing = True
            self._cancelling = self._cancelling or cancel
            self._wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, and return whether it has; the thread itself does not wait, and nothing waits in a forked child."""
        thread = self.thread
        if thread is None or thread is threading.current_thread() or os.getpid() != self.pid:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _check_open(self) -> None:
        if self._error is None and self.namespace.closed:
            self._error = ParkitError(f"namespace {self.namespace.name!r} was closed in this process")
        if self._error is not None:
            raise BrokenProcessPool(f"the executor's connection with its store has failed: {self._error}; make another executor") from self._error
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _has_room(self, count: int) -> bool:
        return self._limit is None or len(self._stored) + count <= self._limit

    def _wake(self) -> None:
        if self._address:
            self.namespace.sockets.send(self._address)

    def _store_futures(self, futures: Sequence[TaskFuture[Any]], made: list[Submitted]) -> None:
        for future, task in zip(futures, made, strict=True):
            future._task = task
            future._call = None
            self._stored[task.object_id] = future

    # The thread.

    def _work(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            with self._lock:
                self._error = error
                left = [*self._waiting, *self._stored.values()]
                self._waiting.clear()
                self._stored.clear()
                self._moving = False
                for future in left:
                    future._moving = False
                self._moved.notify_all()
            for future in left:
                broken = BrokenProcessPool(f"nobody can tell any more what became of this call: {error}")
                broken.__cause__ = error
                fail(future, broken)
        finally:
            if self._lookout is not None:
                self._lookout.close()

    def _serve(self) -> None:
        namespace = self.namespace
        owner = namespace.write_apart(executor_ops.enrol, (identity.current(),))
        bell = Bell(namespace.sockets)
        slots: list[int] = []
        try:
            with contextlib.suppress(TableFullError):
                namespace.table.register(owner, EVENT_DONE, bell.address, slots)
            with self._lock:
                self._owner, self._address = owner, bell.address
            pool_state.add_namespace(self.store, namespace.name)
            buried = False
            while True:
                if namespace.closed:
                    raise ParkitError(f"namespace {namespace.name!r} was closed in this process")
                busy = self._deliver()
                busy = self._submit_waiting() or busy
                if busy:
                    continue
                if not buried:  # behind the first calls, which need not wait for it
                    self._bury()
                    buried = True
                    continue
                with self._lock:
                    if self._cancelling:
                        left = [*self._waiting, *self._stored.values()]
                        self._cancelling = False
                    elif self._closing and not self._waiting and not self._stored:
                        break
                    else:
                        left = []
                if left:
                    cancel(self, left)
                    continue
                if self._closing and self._is_stopped():
                    raise ParkitError("the pool was ended by killall(); what was submitted stays so, and runs when there is a pool again")
                self._sleep(bell, bool(slots))
            self._tidy()
            namespace.write_apart(executor_ops.leave, (owner,))
        finally:
            with self._lock:
                self._address = 0
            if not namespace.closed:
                for slot in slots:
                    namespace.table.unregister(slot)
            bell.close()

    def _deliver(self) -> bool:
        """Give futures the outcomes that have come; return whether there were any."""
        told: list[Told] = self.namespace.read(executor_ops.outcomes, self._owner, self._seen)
        for _, object_id, ending in told:
            with self._lock:
                future = self._stored.pop(object_id, None)  # None: an interrupt came between a submit and its return
            self._conclude(future, ending)
        if told:
            self._seen = told[-1].number
            self._unforgotten += len(told)
            if self._unforgotten >= executor_ops.SLICE:
                self._tidy()
        return bool(told)

    def _conclude(self, future: TaskFuture[Any] | None, ending: Ending) -> None:
        written = output.output_path(self.store, ending.uuid)
        tail = ""
        with contextlib.suppress(OSError, ParkitError):
            if os.stat(written).st_size:
                if ending.status == CRASHED:
                    with open(written, "rb") as file:
                        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                        tail = file.read().decode(errors="replace")
                output.remove(self.store, ending.uuid)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if ending.status == CRASHED:
            path = "" if future._task is None else paths.join(self.namespace.name, future._task.name)
            error = CrashedTaskError(path, None if ending.exitcode == UNKNOWN_EXIT else ending.exitcode)
            if tail:
                error.add_note(f"The end of what it wrote:\n{tail}")
            future.set_exception(error)
            return
        try:
            value: Any = None if ending.frame is None else codecs.decode(ending.frame)
        except Exception as error:
            future.set_exception(_chained(CodecError("what the call returned, or raised, cannot be loaded here"), error))
            return
        if ending.status != FAILED:
            future.set_result(value)
            return
        try:
            future.set_exception(failures.restore(value))
        except ValueError as error:
            future.set_exception(_chained(CodecError("what the call raised cannot be loaded here"), error))

    def _submit_waiting(self) -> bool:
        """Write what waits, as far as there is room; return whether there was any."""
        with self._lock:
            launch, self._launch = self._launch, False
            batch: list[TaskFuture[Any]] = []
            size = 0
            while self._waiting and len(batch) < BATCH and size < _FRAMES and self._has_room(len(batch) + 1):
                future = self._waiting.popleft()
                assert future._call is not None
                size += len(future._call.frame)
                future._moving = True
                batch.append(future)
            self._moving = bool(batch)
        if batch:
            try:
                self._write(batch)
            except BaseException:
                with self._lock:
                    self._waiting.extendleft(reversed([future for future in batch if future._task is None and not future.done()]))
                raise
            finally:
                with self._lock:
                    self._moving = False
                    for future in batch:
                        future._moving = False
                    self._moved.notify_all()
        if batch or launch:
            supervision.ensure(self.store, restart=True)
        return bool(batch)

    def _write(self, futures: list[TaskFuture[Any]]) -> None:
        calls = [future._call for future in futures if future._call is not None]
        try:
            made = self.namespace.write_apart(executor_ops.submit, (self._owner, self._seen, calls))
        except ParkitError as error:
            if len(futures) == 1:
                fail(futures[0], error)
                return
            for future in futures:
                self._write([future])
            return
        with self._lock:
            self._store_futures(futures, made)

    def _sleep(self, bell: Bell, registered: bool) -> None:
        """Sleep until there may be something to do."""
        if self._unforgotten:
            if not bell.wait(_TIDY):
                self._tidy()
            return
        with self._lock:
            outstanding = bool(self._stored)
        if not outstanding:
            bell.wait()
            return
        # Somebody must see it if the supervisor dies with all its workers: see Process.join, which does the same.
        lookout = self._lookout
        watched = lookout is not None and lookout.fileno() >= 0
        seconds = SAFETY if watched else self._step
        if bell.wait(seconds if registered else _UNREGISTERED, -1 if lookout is None else lookout.fileno()):
            counters.wakeups += 1
            if lookout is None or not lookout.died():
                return
        elif watched and registered:
            counters.rechecks += 1
        supervision.ensure(self.store, restart=False)
        if lookout is not None:
            lookout.close()
        self._lookout = supervision.Lookout(self.store)
        self._step = supervision.Lookout.FIRST if watched else min(2 * self._step, SAFETY)

    def _is_stopped(self) -> bool:
        """Return whether nobody works for the store, and nobody will until something else is started."""
        stopped = supervision.running_supervisor(self.store) is None and pool_state.get(pool_state.shelf(self.store, pool_state.POOL), "stopped")
        return bool(stopped)

    def _tidy(self) -> None:
        while not self.namespace.write_apart(executor_ops.forget, (self._owner, self._seen)):
            pass
        self._unforgotten = 0

    def _bury(self) -> None:
        """Delete what was left to executors of programs that were killed."""
        for owner, owners_program in self.namespace.read(executor_ops.owners):
            if owner != self._owner and identity.liveness(owners_program) is Liveness.DEAD:
                while uuids := self.namespace.write_apart(executor_ops.bury, (owner,)):
                    for uuid in uuids:
                        output.remove(self.store, uuid)


def fail(future: TaskFuture[Any], error: BaseException) -> None:
    future._call = None
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _chained(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


_live: weakref.WeakSet[Dispatcher] = weakref.WeakSet()
_exiting = False


def _finish_all() -> None:
    global _exiting
    _exiting = True
    for dispatcher in list(_live):
        dispatcher.close()
        dispatcher.join()


def end_all(store: str, timeout: float) -> list[str]:
    """Shut a store's executors down, cancelling what has not begun; return the namespaces of those that have not ended in ``timeout`` seconds."""
    left = []
    deadline = time.monotonic() + timeout
    for dispatcher in list(_live):
        if os.path.realpath(dispatcher.store) == os.path.realpath(store):
            dispatcher.close(cancel=True)
            if not dispatcher.join(max(0.0, deadline - time.monotonic())):
                left.append(dispatcher.namespace.name)
    return left


# Before the interpreter waits for threads, which would wait for ever otherwise. There is no public way; concurrent.futures takes this one.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
