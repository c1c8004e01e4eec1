"""What parkit keeps for each event loop: its coordinators, its bell, and who waits.

A runtime is made at the first call that needs one, and closed with its loop: ``asyncio.run`` and its like close the asynchronous generators of
a loop before the loop itself, and the runtime is held by one. A loop that is closed without that leaves a ResourceWarning behind, and its
sockets are closed when the next runtime is made.

Waiting: all waiters of a loop share one socket, the bell. A commit marks the registrations it concerns, then rings; the loop looks which of its
own are marked. Where a commit can satisfy only one waiter (an item was put) only the first is woken, and each passes the wake on when it is
done with it, whatever becomes of it; else all are.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
import warnings
from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

from ._core import fork
from ._core.doorbell import EVENT_ITEMS, LOOK, SPARE, WAKING, Bell, SocketDirectory
from ._core.namespace import Namespace
from ._core.ownership import contexts, leave
from ._core.shared import SharedTable, TableFullError
from ._core.transactions import Writing
from ._core.waiting import AGAIN, SAFETY, counters
from .actor import ActorStoppedError
from .budget import meter
from .coordinator import Coordinator

__all__ = ["Runtime", "aclose", "current_runtime"]

T = TypeVar("T")

_UNREGISTERED: Final = 0.05

_CLOSING: Final = 5.0
"""Seconds that closing a runtime takes at most."""

_runtimes: dict[asyncio.AbstractEventLoop, Runtime] = {}
_lock = threading.Lock()


def current_runtime() -> Runtime:
    """Return the runtime of the running event loop, made if there is none."""
    loop = asyncio.get_running_loop()
    runtime = _runtimes.get(loop)
    if runtime is None or runtime.generation != fork.generation():
        _sweep()
        runtime = Runtime(loop)
        with _lock:
            _runtimes[loop] = runtime
    return runtime


async def aclose() -> None:
    """Close what parkit has open for the running event loop: finish writes under way, end the writer threads, close the sockets.

    Happens by itself when ``asyncio.run`` ends. Idempotent, bounded in time, and shielded: cancelling the caller does not stop it. Whoever still
    waits for something gets ActorStoppedError. parkit can be used again afterwards.
    """
    runtime = _runtimes.get(asyncio.get_running_loop())
    if runtime is not None:
        await runtime.aclose()


def _sweep() -> None:
    """Close the runtimes of loops that were closed without closing theirs."""
    with _lock:
        abandoned = [loop for loop in _runtimes if loop.is_closed()]
        runtimes = [_runtimes.pop(loop) for loop in abandoned]
    for runtime in runtimes:
        runtime.abandon()
    if any(runtime.generation == fork.generation() for runtime in runtimes):
        # Last: where warnings are errors, nothing after it would happen.
        warnings.warn(
            "an event loop was closed while parkit was open on it; run it with asyncio.run(), or await parkit_async.aclose() before you close it",
            ResourceWarning,
            stacklevel=4,
        )


class Place(Protocol):
    """Where one can wait for a doorbell: a binding, or one of the numbers that are registered instead of an object's."""

    @property
    def namespace(self) -> Namespace: ...
    @property
    def object_id(self) -> int: ...


class _Waiters:
    """Those of a loop who wait for one event of one object, first come, first served: who was woken for nothing has his old place again."""

    __slots__ = ("_awake", "_broadcast", "_last", "line", "slot", "table", "users")

    def __init__(self, table: SharedTable, slot: int, broadcast: bool) -> None:
        self.table = table
        self.slot = slot
        self._broadcast = broadcast
        self._awake: set[int] = set()
        self._last = 0
        self.line: list[tuple[int, asyncio.Future[bool]]] = []
        self.users = 0

    def arrive(self) -> int:
        """Return the number of a newcomer's place in the line."""
        self._last += 1
        return self._last

    def join(self, place: int, future: asyncio.Future[bool]) -> None:
        """Stand in line."""
        insort(self.line, (place, future))

    def leave(self, place: int) -> None:
        """Leave the line, if that has not happened by a wake."""
        self._awake.discard(place)
        position = bisect_left(self.line, (place,))
        if position < len(self.line) and self.line[position][0] == place:
            del self.line[position]

    def ring(self) -> None:
        """Wake all, or the first."""
        while self.line:
            place, future = self.line.pop(0)
            if not future.done():
                future.set_result(True)
                if not self._broadcast:
                    self._awake.add(place)
                    return

    def give_way(self, place: int) -> bool:
        """Leave it to one who came before, if he waits as well: he was woken for nothing a moment ago, and what came since is his.

        Return whether there is one. He looks next, and passes the wake on.
        """
        if self._broadcast:
            return False
        if any(other < place for other in self._awake):
            return True
        if self.line[0][0] == place:
            return False
        self.ring()
        return True

    def ring_all(self) -> None:
        """Wake all."""
        line, self.line = self.line, []
        for _, future in line:
            if not future.done():
                future.set_result(True)

    def pass_on(self) -> None:
        """Wake the next, since the one who was woken is done."""
        if not self._broadcast:
            self.ring()


class Runtime:
    """See the module. Only its loop's thread may call it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.generation = fork.generation()
        self._loop = loop
        self._coordinators: dict[int, Coordinator] = {}
        self._ending: list[Coordinator] = []
        self._bells: dict[SocketDirectory, Bell] = {}
        self._waiters: dict[tuple[int, int, int], _Waiters] = {}
        self._jobs: dict[object, asyncio.Future[Any]] = {}
        self._safety: asyncio.TimerHandle | None = None
        self._brisk = False  # whether the last wait was so short that it is worth looking a little before sleeping
        self._looking = False
        self._looking_until = 0.0
        self._closing: asyncio.Future[None] | None = None
        self._keeper = self._live()
        # Run it up to its yield: from then on the loop knows it, and closes it before itself.
        try:
            self._keeper.asend(None).send(None)
        except StopIteration:
            pass

    async def _live(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.aclose()

    def coordinator(self, namespace: Namespace) -> Coordinator:
        """Return the coordinator of a namespace on this loop, made if there is none."""
        if namespace.stale:
            namespace.revive()
        coordinator = self._coordinators.get(id(namespace))
        if coordinator is None or coordinator.stopped:
            coordinator = self._coordinators[id(namespace)] = Coordinator(self, namespace)
        return coordinator

    async def in_thread(self, key: object, call: Callable[[], T]) -> T:
        """Run something that may wait for the disk in a thread of its own; calls with the same key share one. Cancelling does not stop it."""
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = self._loop.create_future()
            threading.Thread(target=_run_job, args=(self._loop, job, call), name="parkit opening", daemon=True).start()
            job.add_done_callback(lambda _: self._jobs.pop(key, None))
        result: T = await asyncio.shield(job)
        return result

    # Waiting.

    async def wait(self, binding: Place, event: int, attempt: Callable[[], Awaitable[Any]], deadline: float | None) -> Any:
        """Await ``attempt`` each time that ``event`` happens to the object, until it returns something other than AGAIN, and return that.

        Returns AGAIN when the deadline, on the monotonic clock, has passed. Cancelled while it waits, nothing was done.
        """
        waiters = self._register(binding, event)
        place = waiters.arrive()
        woken = False
        try:
            while True:
                # In line before the look: a ring during an attempt that takes time is not missed.
                future: asyncio.Future[bool] = self._loop.create_future()
                waiters.join(place, future)
                timer: asyncio.TimerHandle | None = None
                try:
                    result = AGAIN if woken and waiters.give_way(place) else await attempt()
                    if result is not AGAIN:
                        woken = True
                        return result
                    if deadline is not None:
                        left = deadline - time.monotonic()
                        if left <= 0:
                            return AGAIN
                        timer = self._loop.call_later(left, _expire, future)
                    begun = time.monotonic()
                    if self._brisk:
                        self._look(begun)
                    woken = await future
                    self._brisk = SPARE and woken and time.monotonic() - begun < LOOK + WAKING
                    if woken:
                        counters.wakeups += 1
                        # The loop has just gone round. Giving way once more would let the next one in the line go first.
                        meter.left = max(meter.left, 1)
                except BaseException:
                    woken = woken or (future.done() and not future.cancelled() and future.exception() is None and future.result())
                    raise
                finally:
                    if timer is not None:
                        timer.cancel()
                    waiters.leave(place)
        finally:
            if woken:
                waiters.pass_on()
            self._unregister(binding, event, waiters)

    def _look(self, now: float) -> None:
        """Keep the loop from falling asleep for the next :data:`LOOK` seconds, so that it sees at once who rings; see ``doorbell``."""
        self._looking_until = now + LOOK
        if not self._looking:
            self._looking = True
            counters.looks += 1
            self._loop.call_soon(self._go_round)

    def _go_round(self) -> None:
        """Have the loop look at its descriptors once more, without sleeping, while somebody waits."""
        self._looking = bool(self._waiters) and time.monotonic() < self._looking_until
        if self._looking:
            os.sched_yield()
            self._loop.call_soon(self._go_round)

    @contextmanager
    def also(self, descriptor: int, binding: Place, event: int) -> Iterator[None]:
        """Have those who wait for an event of an object look as well when a descriptor becomes readable; -1 is none."""

        def look() -> None:
            self._loop.remove_reader(descriptor)
            waiters = self._waiters.get((id(binding.namespace), binding.object_id, event))
            if waiters is not None:
                waiters.ring_all()

        if descriptor >= 0:
            self._loop.add_reader(descriptor, look)
        try:
            yield
        finally:
            if descriptor >= 0:
                self._loop.remove_reader(descriptor)

    def _register(self, binding: Place, event: int) -> _Waiters:
        namespace = binding.namespace
        key = id(namespace), binding.object_id, event
        waiters = self._waiters.get(key)
        if waiters is None:
            try:
                slot = namespace.table.register(binding.object_id, event, self._bell(namespace.sockets).address)
            except TableFullError:
                slot = -1
            waiters = self._waiters[key] = _Waiters(namespace.table, slot, event != EVENT_ITEMS)
            if self._safety is not None and slot < 0:
                self._safety.cancel()  # it is far off, and nobody will ring for this one
                self._safety = None
            if self._safety is None:
                self._safety = self._loop.call_later(SAFETY if slot >= 0 else _UNREGISTERED, self._recheck)
        waiters.users += 1
        return waiters

    def _unregister(self, binding: Place, event: int, waiters: _Waiters) -> None:
        waiters.users -= 1
        if not waiters.users:
            self._waiters.pop((id(binding.namespace), binding.object_id, event), None)
            if waiters.slot >= 0:
                waiters.table.unregister(waiters.slot)
            if not self._waiters and self._safety is not None:
                self._safety.cancel()
                self._safety = None

    def _bell(self, directory: SocketDirectory) -> Bell:
        bell = self._bells.get(directory)
        if bell is None or bell.closed:
            bell = self._bells[directory] = Bell(directory)
            self._loop.add_reader(bell.fileno(), self._rung, bell)
        return bell

    def _rung(self, bell: Bell) -> None:
        bell.drain()
        for waiters in list(self._waiters.values()):
            if waiters.slot >= 0 and waiters.table.take_ring(waiters.slot):
                waiters.ring()

    def _recheck(self) -> None:
        """Have every waiter look, for what no one thought of."""
        self._safety = None
        if self._waiters:
            every = list(self._waiters.values())
            counters.rechecks += 1
            self._safety = self._loop.call_later(SAFETY if all(waiters.slot >= 0 for waiters in every) else _UNREGISTERED, self._recheck)
            for waiters in every:
                waiters.ring_all()

    # The end.

    async def aclose(self) -> None:
        """See :func:`aclose`."""
        if self._closing is None:
            self._closing = self._loop.create_future()
            self._close_by(self._loop.time() + _CLOSING)
        await asyncio.shield(self._closing)

    def _close_by(self, deadline: float) -> None:
        closing = self._loop.create_task(self._close(deadline), name="parkit: closing")
        closing.add_done_callback(functools.partial(self._closed, deadline))

    async def _close(self, deadline: float) -> None:
        while self._coordinators or self._ending:
            # A task that goes on writing meanwhile (the finally clause of an asynchronous generator, say) makes another coordinator.
            self._ending += self._coordinators.values()
            self._coordinators.clear()
            left = max(0.0, deadline - self._loop.time())
            await asyncio.gather(*(coordinator.stop(left) for coordinator in self._ending))
            for coordinator in self._ending:
                coordinator.close()
            self._ending.clear()
            if self._loop.time() >= deadline:
                break
        if self._jobs:
            await asyncio.wait(list(self._jobs.values()), timeout=max(0.0, deadline - self._loop.time()))

    def _closed(self, deadline: float, task: asyncio.Task[None]) -> None:
        # Not at the end of the task itself: one that is cancelled before its first step never runs, and asyncio.run() would not return.
        assert self._closing is not None
        if task.cancelled() and self._loop.time() < deadline:
            # asyncio.run() cancels every task when it ends. The closing goes on, in the time it has.
            self._close_by(deadline)
            return
        for coordinator in (*self._ending, *self._coordinators.values()):
            coordinator.close()
        self._ending.clear()
        self._coordinators.clear()
        self._end_contexts()
        self._let_go()
        for waiters in list(self._waiters.values()):
            for _, future in waiters.line:
                if not future.done():
                    future.set_exception(ActorStoppedError("parkit was closed on this event loop while the call waited"))
        self._closing.set_result(None)

    def _end_contexts(self) -> None:
        """End what finished tasks have left open: an interrupt came between the end of a block and the first step of its ``__aexit__``."""
        for owner, stack in list(contexts.items()):
            if isinstance(owner, asyncio.Task) and owner.done() and owner.get_loop() is self._loop:
                for context in reversed(list(stack)):
                    leave(context)
                    if isinstance(context, Writing):
                        context.namespace.finish(context)
                    else:
                        context.end()

    def _let_go(self) -> None:
        with _lock:
            if _runtimes.get(self._loop) is self:
                del _runtimes[self._loop]
        if self._safety is not None:
            self._safety.cancel()
        for bell in self._bells.values():
            if not self._loop.is_closed() and not bell.closed:
                self._loop.remove_reader(bell.fileno())
            bell.close()
        self._bells.clear()

    def abandon(self) -> None:
        """Close what is left of a runtime whose loop was closed without it."""
        if self.generation != fork.generation():
            return
        for waiters in self._waiters.values():
            if waiters.slot >= 0:
                waiters.table.unregister(waiters.slot)
        self._waiters.clear()
        for coordinator in (*self._ending, *self._coordinators.values()):
            coordinator.close()
        self._ending.clear()
        self._coordinators.clear()
        for bell in self._bells.values():
            bell.close()
        self._bells.clear()


def _expire(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


def _run_job(loop: asyncio.AbstractEventLoop, job: asyncio.Future[Any], call: Callable[[], Any]) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = call()
    except BaseException as failure:
        error = failure
    try:
        loop.call_soon_threadsafe(_finish_job, job, result, error)
    except RuntimeError:
        # The loop was closed meanwhile; nobody is left to hear it.
        pass


def _finish_job(job: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if not job.done():
        if error is not None:
            job.set_exception(error)
        else:
            job.set_result(result)
