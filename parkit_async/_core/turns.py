"""Whose turn it is to write in a namespace, among all threads and tasks of this process.

Rules, and nothing else: this module starts no thread, waits for nothing and knows nothing of LMDB, so it is tested by calling it.

::

              take() / enqueue() finds the turn free
    (nobody) ───────────────────────────────────────▶ HOLDER
                                                        │ release()
    WAITING ◀── enqueue() while somebody holds it       │
       │                                                ▼
       ├── granted: the turn is handed over ──────▶ HOLDER      (first come, first served)
       ├── collected: a holder runs its operations, too         (group commit)
       └── withdrawn: it never ran

Invariants:

* At most one holder. While anybody waits, a release hands the turn over; it is never free for a newcomer to snatch.
* A request that is granted or collected can no longer be withdrawn: from then on it has an outcome.
* Whoever is returned by :meth:`TurnQueue.release` or :meth:`TurnQueue.withdraw` must be woken by the caller, outside of any lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Operation", "Request", "TurnQueue"]


class Operation:
    """One implicit write: what to call inside the transaction, and afterwards what came of it.

    Whoever is to run it claims it first, and whoever asked for it may revoke it until then; only one of the two succeeds.

    Attributes:
        call: Called with the write transaction and then ``arguments``.
        result: What it returned, once ``done``.
        error: What it raised instead, or what became of the commit.
    """

    __slots__ = ("_claimed", "arguments", "call", "done", "error", "result")

    def __init__(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.call = call
        self.arguments = arguments
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self._claimed: dict[int, bool] = {}  # dict.setdefault() is one atomic step that records which it was

    @property
    def claimed(self) -> bool:
        """Whether it is run, or was."""
        return self._claimed.get(0, False)

    def claim(self) -> bool:
        """Return whether it may be run: it was not revoked. May be called again."""
        return self._claimed.setdefault(0, True)

    def revoke(self) -> bool:
        """Return whether it will not be run; False if it is claimed already. May be called again."""
        if self._claimed.setdefault(0, False):
            return False
        self.done = True
        return True

    def outcome(self) -> Any:
        """Return the result or raise the error; once."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback leads here: they would keep each other
        return self.result


class Request:
    """A wish for the turn.

    Args:
        wake: Called once, with the request, by whichever thread grants the turn or finishes the operations; must not block. It does not refer to
            the request, or only the garbage collector could free the two.
        operations: Implicit writes that any holder may run on the way; None for a lease (an explicit transaction), which must hold
            the turn itself.
        thread: Identifier of the thread that waits, or whose task does if it is a lease; 0 where a task awaits what others may run.
    """

    __slots__ = ("_ticket", "collected", "granted", "operations", "thread", "wake", "woken")

    def __init__(self, wake: Callable[[Any], None], operations: list[Operation] | None, thread: int = 0) -> None:
        self.wake = wake
        self.operations = operations
        self.thread = thread
        self.granted = False
        self.collected = False
        self.woken = False
        self._ticket = [None]  # list.pop() is one atomic step

    def claim(self) -> bool:
        """Return whether the caller is the first to act on a grant, of those who may: the one that was woken (perhaps twice), and the one that
        asked and was interrupted."""
        try:
            self._ticket.pop()
        except IndexError:
            return False
        return True

    def rouse(self) -> None:
        """Wake whoever waits. An interrupt in the middle may have it done twice, so a ``wake`` must bear that."""
        self.wake(self)
        self.woken = True


class TurnQueue:
    """First come, first served; see the module's drawing. Every method may be called by any thread and never blocks for long.

    Attributes:
        slot: The holder, at 0. Whoever is there may ``del`` it and then look at ``waiting``, as :meth:`release` does; the hot path of a write does.
        waiting: Those who stand in line; only looked at from outside, for whether there are any.
    """

    __slots__ = ("_mutex", "slot", "waiting")

    def __init__(self) -> None:
        # dict.setdefault() is one atomic step that records *who* took the turn. An interrupt (Ctrl-C) right behind it therefore
        # cannot lose the turn: the finally clause of the caller still sees that it is the holder.
        self.slot: dict[int, object] = {}
        self.waiting: deque[Request] = deque()
        self._mutex = threading.Lock()

    @property
    def holder(self) -> Any:
        """What holds the turn (the token given to :meth:`take`, or a :class:`Request`), or None."""
        return self.slot.get(0)

    def __len__(self) -> int:
        return len(self.waiting)

    def concerns(self, thread: int) -> bool:
        """Return whether a thread, or a task of its event loop, holds the turn or stands in line for a lease or of its own.

        It then must not stand in line itself and block: it would wait for what only it can end, at once or as soon as that comes before it.
        """
        holder = self.holder
        if holder is not None and holder.thread == thread:
            return True
        if not self.waiting:
            return False
        with self._mutex:
            return any(request.thread == thread for request in self.waiting)

    def take(self, token: object) -> bool:
        """Take the turn if it is free. Return whether ``token`` holds it now."""
        return self.slot.setdefault(0, token) is token

    def enqueue(self, request: Request) -> bool:
        """Take the turn if it is free, else stand in line. Return whether it was granted at once (``wake`` is not called then)."""
        with self._mutex:
            self.waiting.append(request)
            request.woken = self._grant() is request
            return request.woken

    def release(self, token: object) -> Request | None:
        """Give up the turn; do nothing if ``token`` does not hold it. Return who holds it next and must be woken, if anybody."""
        slot = self.slot
        if slot.get(0) is not token:
            return None
        if not self.waiting:
            del slot[0]
            if not self.waiting:
                return None
            # Somebody stood in line between the two looks, saw the turn taken, and now sleeps: it must be granted here.
            with self._mutex:
                return self._grant()
        with self._mutex:
            del slot[0]
            return self._grant()

    def recover(self) -> Request | None:
        """Do what is left of a release that was interrupted (Ctrl-C). Return who was granted the turn and perhaps not woken."""
        with self._mutex:
            self._grant()
        holder = self.holder
        return holder if isinstance(holder, Request) and not holder.woken else None

    def collect(self, limit: int, collected: list[Request] | None = None) -> list[Request]:
        """Take the requests at the head of the line that are no leases, up to ``limit`` operations. Only the holder may call it;
        it owes each of them an outcome and a wake.

        Args:
            limit: Of operations.
            collected: Where they are put, and what is returned: a list of the caller's, so that an interrupt cannot lose them.
        """
        collected = [] if collected is None else collected
        if not self.waiting:
            return collected
        with self._mutex:
            while self.waiting and self.waiting[0].operations is not None:
                limit -= len(self.waiting[0].operations)
                if limit < 0:
                    break
                request = self.waiting[0]
                request.collected = True
                collected.append(request)
                self.waiting.popleft()
        return collected

    def restore(self, requests: list[Request]) -> None:
        """Put collected requests back at the head of the line: the holder was interrupted before it ran them."""
        with self._mutex:
            for request in reversed(requests):
                request.collected = False
                self.waiting.appendleft(request)

    def withdraw(self, request: Request) -> bool:
        """Leave the line. Return False when it is too late, or too early: the request was granted or collected, or never stood there."""
        with self._mutex:
            try:
                self.waiting.remove(request)
            except ValueError:
                return False
            return True

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold. For tests; nobody may be in the middle of a call."""
        assert not self.waiting or self.slot, "somebody waits although the turn is free"
        assert self.holder not in self.waiting, "the holder stands in line"
        for request in self.waiting:
            assert not request.granted, "a request in line was granted"
            assert not request.collected, "a request in line was collected"

    def _grant(self) -> Request | None:
        if self.waiting:
            request = self.waiting[0]
            if self.slot.setdefault(0, request) is request:
                request.granted = True
                self.waiting.popleft()
                return request
        return None
