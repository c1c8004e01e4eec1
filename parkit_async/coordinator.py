"""The coordinator of a namespace: what an event loop cannot do at once, it does, so that the loop never waits.

::

    await d.set(k, v)
      │ in the task's own transaction ─────────────────────────────▶ inline
      │ no fsync to wait for, turn and gate free ──────────────────▶ inline, one transaction
      └ otherwise: write(Operation)                                  ┌────────────────────────────┐
                     │ all Operations in the mailbox: one Request ─▶ │ TurnQueue of the namespace │
                     ▼                                               └─────────────┬──────────────┘
                mailbox ── Coordinator                          granted, or collected by another holder
                     ▲                                                             ▼
                     │    answers, in one call for the whole batch   ┌────────────────────────────┐
    async with transaction(d): ask(Lease)  ◀──────────────────────── │ Lane: the writer's thread  │
                                                                     └────────────────────────────┘

One per event loop and namespace. The lane and the turns are the namespace's, shared by all loops and by the blocking face.

Cancelling (the rule of the whole awaitable face): a call that raises CancelledError has not happened. While a write has not been claimed by
whoever runs it, cancelling revokes it. Once it is claimed the call waits for the outcome, returns it, and has the cancellation delivered at
the task's next await.

Interrupts: the loop may run in the main thread, where a second Ctrl-C raises KeyboardInterrupt between any two steps, and asyncio itself loses
the callback that was about to run. So whatever is handed over is claimed by whoever acts on it, what was not handed over is given back, and a
task that is cancelled, as asyncio.run() does with every task when it ends, fetches an answer that was lost on the way.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from ._core.engine import EngineError
from ._core.errors import ContextError
from ._core.namespace import BATCH, Namespace, Statistics
from ._core.ownership import contexts, thread_owner
from ._core.queue_ops import EMPTY, FULL
from ._core.transactions import Recording, Writing
from ._core.turns import Operation, Request
from .actor import LATER, Actor, Envelope

if TYPE_CHECKING:
    from .runtime import Runtime

__all__ = [
    "Chores",
    "Coordinator",
    "Lease",
    "Reply",
    "Report",
    "cancel_again",
    "deferred",
    "deliver",
    "refuse_deadlock",
    "settle",
]


_log = logging.getLogger(__name__)

_PORTION: Final = 128
"""Tasks that one turn of the loop answers: about a millisecond of work, for which everything else there waits. Of a portion, those who write again do
so in one commit. With 16 instead, 100 tasks took twice as many commits and a third more time, and the loop was no less late."""

_LOST: Final = 0.2
"""Seconds after which a coordinator that stops looks by itself whether what it waits for is done: an interrupt may have lost the notice."""


class Lease(Request):
    """Get the turn and the gate for an explicit transaction; answered, with nothing, when they are held.

    Whoever gets them takes the lease for its task, which may revoke it until then; only one of the two succeeds, and the other one gives
    turn and gate back. No step of that needs the loop to run once more: it may be about to be closed.

    Args:
        wake: See :class:`.Request`.

    Attributes:
        error: What came instead of the gate; the turn is given back by then.
    """

    __slots__ = ("_untaken", "error")

    def __init__(self, wake: Callable[[Lease], None]) -> None:
        # With its thread, although a task waits: a blocking call there would keep the loop from ending the transaction.
        super().__init__(wake, None, get_ident())
        self.error: BaseException | None = None
        self._untaken = [None]  # list.pop() is one atomic step

    @property
    def taken(self) -> bool:
        """Whether it was claimed or revoked."""
        return not self._untaken

    def take(self) -> bool:
        """Return whether the caller is the first to claim or revoke the lease."""
        try:
            self._untaken.pop()
        except IndexError:
            return False
        return True


@dataclass(slots=True, frozen=True)
class Chores:
    """Reclaim what was cleared or dropped, and free the reader slots of dead processes."""


@dataclass(slots=True, frozen=True)
class Report:
    """Answered with the namespace's statistics."""


def refuse_deadlock(namespace: Namespace) -> None:
    """Raise ContextError if a blocking transaction around the running loop holds the turn: it cannot end before the loop does."""
    for context in contexts.get(thread_owner(), ()) if contexts else ():
        if context.writes and context.namespace is namespace:
            raise ContextError(
                f"a blocking transaction of namespace {namespace.name!r} is open around this event loop, so the task would wait for ever; "
                "leave it before running the loop, or do the work in the blocking face"
            )


deferred: set[weakref.ref[asyncio.Task[Any]]] = set()
"""Tasks whose cancellation is under way to them, see :func:`cancel_again`."""


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def deliver() -> None:
    """Let a deferred cancellation arrive. Called before something is asked for that another thread may have done before the loop goes round."""
    if deferred and weakref.ref(_this_task()) in deferred:
        await asyncio.sleep(0)


class Reply(asyncio.Future[Any]):
    """The answer to an Operation. Cancelling it, as cancelling the task that awaits it does, revokes the operation; where that is too late it is
    noted, and the task goes on waiting for the outcome.

    Attributes:
        operation: What was asked for.
        refused: Whether a cancellation came too late, and with what message.
    """

    refused: tuple[Any, ...] | None = None

    def __init__(self, operation: Operation, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.operation = operation

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        if self.operation.revoke():
            return super().cancel(msg)
        self.refused = () if msg is None else (msg,)
        if self.operation.done:
            self.answer()  # what was to bring the answer may have been lost to an interrupt
        return True

    def answer(self) -> None:
        """Bring the outcome of the operation, which is done, to whoever awaits it. Idempotent."""
        if not self.done():
            if self.operation.error is not None:
                self.set_exception(self.operation.error)
            elif self.operation.claimed:
                self.set_result(self.operation.result)
            else:
                super().cancel()  # it was revoked, and cancelling it was interrupted
        self.operation.error = None  # its traceback leads to the operation


async def settle(reply: Reply) -> Any:
    """Await the answer to an Operation, see the module for what cancelling does."""
    try:
        result = await reply
    except asyncio.CancelledError as cancelled:
        # Cancelled between the answer and the task's next step, or revoked.
        if reply.cancelled() or reply.exception() is not None or reply.result() is EMPTY or reply.result() is FULL:
            raise
        cancel_again(cancelled)
        return reply.result()
    except Exception:
        refused = reply.refused
        del reply  # the traceback of its exception leads here: they would keep each other
        if refused is not None:
            raise asyncio.CancelledError(*refused) from None
        raise
    if reply.refused is not None:
        if result is EMPTY or result is FULL:
            raise asyncio.CancelledError(*reply.refused)
        cancel_again(asyncio.CancelledError(*reply.refused))
    return result


def cancel_again(cancelled: asyncio.CancelledError) -> None:
    """Deliver, at the running task's next await, a cancellation that was caught because the call had succeeded.

    Whoever asked for it (a timeout, say) may have withdrawn it by then; then there is nothing to deliver. Its message is kept: anyio's cancel
    scopes know theirs by it.
    """
    task = _this_task()
    deferred.add(weakref.ref(task, deferred.discard))
    asyncio.get_running_loop().call_soon(_cancel_again, task, *cancelled.args[:1])


def _cancel_again(task: asyncio.Task[Any], message: Any = None) -> None:
    deferred.discard(weakref.ref(task))
    if not task.done() and task.cancelling():
        task.uncancel()
        task.cancel(message)


class Coordinator(Actor["Operation | Lease | Chores | Report"]):
    """See the module.

    Args:
        runtime: Of the running event loop.
        namespace: What it coordinates.
    """

    def __init__(self, runtime: Runtime, namespace: Namespace) -> None:
        super().__init__(f"parkit coordinator {namespace.name}")
        self._runtime = runtime
        self._namespace = namespace
        self._under_way: dict[asyncio.Future[Any], Sequence[Reply]] = {}
        self._chores: asyncio.Future[None] | None = None
        self.batches = 0
        self.operations = 0
        namespace.lane.acquire()

    async def receive(self, envelope: Envelope[Any]) -> Any:
        message = envelope.message
        if isinstance(message, Operation):
            operations: list[Envelope[Any]] = [envelope, *self.take(Operation)]
            self._write_all(operations)
        elif isinstance(message, Lease):
            self._lease(message, envelope)
        elif isinstance(message, Chores):
            self._start_chores()
            return None
        else:
            return self.statistics()
        return LATER

    def statistics(self) -> Statistics:
        """Return what the namespace has done in this process: commits, operations, fsyncs, hops, waits."""
        return self._namespace.statistics.copy(self._namespace.lane.hops)

    # Implicit writes: one request for all that wait in the mailbox.

    def write(self, operation: Operation) -> Reply:
        """Run an operation in a transaction; return the answer, which comes when that is committed, to be awaited through :func:`settle`."""
        reply = Reply(operation, self._loop)
        self._post(Envelope(operation, reply))
        return reply

    def _write_all(self, envelopes: list[Envelope[Operation]]) -> None:
        for start in range(0, len(envelopes), BATCH):
            portion = envelopes[start : start + BATCH]
            replies = [envelope.reply for envelope in portion if isinstance(envelope.reply, Reply)]
            self.batches += 1
            self.operations += len(portion)
            answered: asyncio.Future[None] = self._loop.create_future()
            self._track(answered, replies)
            request = Request(functools.partial(self._woken, answered), [envelope.message for envelope in portion])
            try:
                if self._namespace.turns.enqueue(request):
                    self._woken(answered, request)
                else:
                    self._namespace.statistics.waits += 1
            except BaseException:
                self._forsake(request)
                for envelope in envelopes[start:]:
                    if envelope.reply is not None:
                        envelope.reply.cancel()
                if all(reply.done() for reply in replies) and not answered.done():
                    answered.set_result(None)
                raise

    def _forsake(self, request: Request) -> None:
        """Leave the line, or give up the turn if nobody acts on it, after an interrupt."""
        self._namespace.turns.withdraw(request)
        if request.claim():
            self._namespace.release(request)

    def _woken(self, answered: asyncio.Future[None], request: Request) -> None:
        """The request has the turn, or was run by somebody who had it. Called by whichever thread that was."""
        if request.granted:
            self._namespace.lane.submit(functools.partial(self._lead, answered, request))
        else:
            self._post_answers(answered)

    def _lead(self, answered: asyncio.Future[None], request: Request) -> None:
        """In the lane's thread. It knows no reply, as one with an exception would come back here by its traceback."""
        if not request.claim():
            return
        try:
            self._namespace.lead(request)
        except BaseException as error:
            for operation in request.operations or ():
                if not operation.done:
                    operation.error, operation.done = error, True
        finally:
            self._post_answers(answered)

    def _post_answers(self, answered: asyncio.Future[None]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answer, answered)
        except RuntimeError:
            # The loop was closed without waiting for its tasks; nobody is left to hear it.
            pass

    def _answer(self, answered: asyncio.Future[None], start: int = 0) -> None:
        """Answer a portion of a batch, and have the loop come back for the rest: all who are answered run before anybody else does."""
        replies = self._under_way.get(answered, ())
        try:
            for reply in replies[start : start + _PORTION]:
                reply.answer()
        except BaseException:
            self._loop.call_soon(self._answer, answered, start)  # an interrupt
            raise
        if start + _PORTION < len(replies):
            self._loop.call_soon(self._answer, answered, start + _PORTION)
        elif not answered.done():
            answered.set_result(None)

    # Leases.

    def _lease(self, lease: Lease, envelope: Envelope[Any]) -> None:
        reply = envelope.reply
        assert reply is not None
        if reply.done() or lease.taken:
            return
        self._track(reply)
        lease.wake = functools.partial(self._post_grant, reply)
        try:
            if self._namespace.turns.enqueue(lease):
                self._granted(reply, lease)
            else:
                self._namespace.statistics.waits += 1
        except BaseException:
            self._forsake(lease)
            reply.cancel()
            raise

    def _post_grant(self, reply: asyncio.Future[Any], lease: Lease) -> None:
        """The lease has the turn. Called by whichever thread gave that up."""
        try:
            self._loop.call_soon_threadsafe(self._granted, reply, lease)
        except RuntimeError:
            # The loop was closed without waiting for its tasks.
            self._namespace.release(lease)

    def _granted(self, reply: asyncio.Future[Any], lease: Lease) -> None:
        """Having the turn, get the gate."""
        namespace = self._namespace
        if not lease.claim():
            return
        entering = Operation(namespace.gate.enter, ())
        try:
            if not namespace.gate.try_enter():
                namespace.statistics.gate_waits += 1
                namespace.lane.submit(functools.partial(self._enter_gate, lease, reply, entering))
            elif lease.take() and not reply.done():
                reply.set_result(None)
            else:
                namespace.release(lease)
        except BaseException as error:
            if not reply.done() and entering.revoke():
                lease.take()
                namespace.release(lease)
                if isinstance(error, Exception):
                    reply.set_exception(error)
                    return
                reply.cancel()
            raise

    def _enter_gate(self, lease: Lease, reply: asyncio.Future[Any], entering: Operation) -> None:
        """In the lane's thread."""
        if not entering.claim():
            return
        try:
            entering.call()
        except BaseException as error:
            lease.error = error
            self._namespace.release(lease)
        if not lease.take():
            # The task was cancelled while it waited.
            self._give_back(lease)
            return
        try:
            self._loop.call_soon_threadsafe(_resolve, reply, lease.error)
        except RuntimeError:
            # The loop was closed without waiting for its tasks.
            self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        if lease.error is None:
            self._namespace.release(lease)

    # Transactions of tasks: begun here, left in the coordinator's hands at the end.

    async def begin(self, owner: Any) -> Writing:
        """Begin an explicit transaction on the loop's thread. Cancelled while it waits, it never was in line."""
        namespace = self._namespace
        if namespace.stale:
            namespace.revive()
        writing = Writing(namespace)
        writing.owner = owner
        try:
            at_once = namespace.turns.take(writing) and self._pass_gate(writing)
        except BaseException:
            namespace.finish(writing)  # an interrupt
            raise
        if not at_once:
            refuse_deadlock(namespace)
            await deliver()
            lease = Lease(_nothing)
            writing.token = lease
            try:
                await self.ask(lease)
            except BaseException:
                if lease.take():
                    # Where it is too late for this, whoever gets the gate finds the lease revoked.
                    self._forsake(lease)
                else:
                    self._give_back(lease)
                raise
        try:
            namespace.start(writing)
            if namespace.engine.level != "off":
                writing.recording = writing.transaction = Recording(writing.transaction)
            return writing
        except BaseException as error:
            namespace.finish(writing)
            if isinstance(error, EngineError):
                raise namespace.space.failed(error, "beginning a transaction") from error
            raise

    def _pass_gate(self, writing: Writing) -> bool:
        if self._namespace.gate.try_enter():
            return True
        self._namespace.release(writing)
        return False

    async def commit(self, writing: Writing) -> None:
        """Commit and end an explicit transaction. Cancelled before the commit has begun, it is rolled back."""
        namespace = self._namespace
        if writing.recording is None or not writing.touched:
            try:
                namespace.commit(writing)
            except EngineError as error:
                raise namespace.space.failed(error, "committing") from error
            finally:
                namespace.finish(writing)
            return
        try:
            while writing.savepoints:  # as in `Namespace.commit`; with one of them open the transaction would not end, and the lane wait for ever
                writing.end_savepoint(keep=True)
            writing.write_headers()
            writing.recording.abort()
        except BaseException as error:
            namespace.finish(writing)
            if isinstance(error, EngineError):
                raise namespace.space.failed(error, "committing") from error
            raise
        operation = writing.committing = Operation(self._commit, (writing,))
        reply = Reply(operation, self._loop)
        self._track(reply, [reply])
        try:
            namespace.lane.submit(functools.partial(self._run_commit, operation, reply))
            await settle(reply)
        finally:
            del reply  # as in `settle`

    def _commit(self, writing: Writing) -> None:
        """In the lane's thread."""
        namespace = self._namespace
        try:
            namespace.commit_recording(writing)
            writing.transaction = None
        except EngineError as error:
            raise namespace.space.failed(error, "committing") from error
        finally:
            namespace.finish(writing)
            writing.committing = None

    def _run_commit(self, operation: Operation, reply: Reply) -> None:
        """In the lane's thread."""
        if not operation.claim():
            return
        try:
            operation.call(*operation.arguments)
        except BaseException as error:
            operation.error = error
        operation.done = True
        try:
            self._loop.call_soon_threadsafe(reply.answer)
        except RuntimeError:
            # The loop was closed without waiting for its tasks.
            pass
        del reply  # as in `settle`

    # Chores, and the end.

    def _start_chores(self) -> None:
        if self._chores is None:
            self._chores = self._loop.create_future()
            self._track(self._chores)
            self._namespace.lane.submit(self._check_readers)
            self._namespace.lane.submit(self._reclaim)

    def _check_readers(self) -> None:
        """In the lane's thread."""
        try:
            self._namespace.engine.check_readers()
        except Exception:
            _log.exception("checking the reader table of namespace %r failed", self._namespace.name)

    def _reclaim(self, turn: Request | None = None) -> None:
        """In the lane's thread: slice by slice, so that writers come in between. Where others write all the time it stands in line with them."""
        if turn is not None and not turn.claim():
            return
        error: BaseException | None = None
        again: bool | None = False
        try:
            again = self._namespace.reclaim(turn)
        except Exception as failure:
            error = failure
        if again is None:
            request = Request(self._reclaim_later, None)
            if self._namespace.turns.enqueue(request):
                self._reclaim_later(request)
            return
        if again and not self.stopped and self._stopping is None:
            self._namespace.lane.submit(self._reclaim)
            return
        try:
            self._loop.call_soon_threadsafe(self._chores_done, error)
        except RuntimeError:
            pass

    def _reclaim_later(self, turn: Request) -> None:
        """Called by whichever thread gave up the turn."""
        self._namespace.lane.submit(functools.partial(self._reclaim, turn))

    def _chores_done(self, error: BaseException | None) -> None:
        chores, self._chores = self._chores, None
        if chores is not None and not chores.done():
            chores.set_result(None)
        if error is not None and isinstance(error, Exception):
            self.supervise(Chores(), error)

    def _track(self, future: asyncio.Future[Any], replies: Sequence[Reply] = ()) -> None:
        self._under_way[future] = replies
        future.add_done_callback(lambda done: self._under_way.pop(done, None))

    async def on_stop(self) -> None:
        while self._under_way:
            await asyncio.wait(list(self._under_way), timeout=_LOST)
            for future, replies in list(self._under_way.items()):
                if replies and all(reply.operation.done for reply in replies):
                    for reply in replies:
                        reply.answer()
                    del self._under_way[future]

    def close(self) -> None:
        """Let go of the lane; after :meth:`stop`."""
        self._namespace.lane.release()


def _nothing(lease: Lease) -> None:
    """The wake of a lease that is given its real one before it is enqueued."""


def _resolve(reply: asyncio.Future[None], error: BaseException | None) -> None:
    if not reply.done():
        if error is not None:
            reply.set_exception(error)
        else:
            reply.set_result(None)
