"""What a web application does with parkit as it starts and stops: the ``lifespan`` of Starlette, FastAPI and whatever else takes one.

::

    start                                                       stop (SIGTERM: the server has answered its last request)
      open objects ──▶ the app's own lifespan ──▶ tasks ──▶ ...  ──▶ consumers finish what they have taken, tasks are cancelled
                                                                 ──▶ the app's own lifespan ends ──▶ what is open for the loop is closed

A consumer that is cancelled while it waits has taken nothing, and one that has taken an item is let finish it: a stop loses no item.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

from ._core.errors import CodecError
from .object import Object
from .queue import Queue, QueueShutDown
from .runtime import aclose

__all__ = ["lifespan"]

T = TypeVar("T")

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
Task = Callable[[], Awaitable[object]]
Consumer = tuple[Queue[Any], Callable[[Any], Awaitable[object]]]

_log: Final = logging.getLogger("parkit.lifespan")


def lifespan(
    *objects: Object,
    consume: Iterable[Consumer] = (),
    tasks: Iterable[Task] = (),
    grace: float = 10.0,
    within: Lifespan | None = None,
) -> Lifespan:
    """Return a lifespan for a web application: ``FastAPI(lifespan=lifespan(stock, consume=[(orders, pack)]))``.

    A task that fails, and is not a handler, ends the application: its error is logged, and the process gets SIGTERM if its server handles that. So it
    stops in good order, and whoever supervises it starts it anew, instead of going on without the task.

    Args:
        objects: Opened before the first request, so that a store that cannot be used stops the start. Those of ``consume`` need not be named.
        consume: Queues, and what to await for each of their items, one after the other; name a queue twice to have two at once. A handler that fails
            is logged, with its item, and the next item taken; ``task_done`` is called behind each. One that is under way when the application stops
            is finished. Taking is not part of a transaction: an item that is being handled when the process is killed is gone.
        tasks: Coroutine functions without parameters that run beside the requests, and are cancelled when the application stops.
        grace: Seconds for which a stop waits for handlers; then they are cancelled.
        within: The application's own lifespan: entered when the objects are open and before anything runs, left when nothing runs any more. What it
            yields is the application's state.

    Raises:
        ValueError: ``grace`` is negative.
    """
    if not grace >= 0:
        raise ValueError("'grace' must be a non-negative number")
    consumers, jobs = list(consume), list(tasks)

    @asynccontextmanager
    async def running(app: Any) -> AsyncIterator[Any]:
        try:
            for thing in (*objects, *(queue for queue, _ in consumers)):
                await thing
            async with AsyncExitStack() as stack:
                state = None if within is None else await stack.enter_async_context(within(app))
                stopping = asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    serving = [group.create_task(_supervised(_consume(*consumer, stopping))) for consumer in consumers]
                    others = [group.create_task(_supervised(job())) for job in jobs]
                    try:
                        yield state
                    finally:
                        stopping.set()
                        for task in others:
                            task.cancel()
                        if serving:
                            await asyncio.wait(serving, timeout=grace)
                        for task in serving:
                            if not task.done():
                                _log.error("a handler did not end within %s seconds, and is cancelled", grace)
                                task.cancel()
        finally:
            await aclose()

    return running


async def _supervised(running: Awaitable[object]) -> None:
    try:
        await running
    except Exception:
        _log.critical("a task of the application has failed; it stops", exc_info=True)
        if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            signal.raise_signal(signal.SIGTERM)
        raise


async def _consume(queue: Queue[T], handler: Callable[[T], Awaitable[object]], stopping: asyncio.Event) -> None:
    """Await ``handler(item)`` for each item until ``stopping`` is set, or the queue shut down."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        while not stopping.is_set():
            # In a task of its own: cancelled, it has taken nothing; and if it has, its result is there all the same.
            getting = asyncio.ensure_future(queue.get())
            try:
                await asyncio.wait((getting, stop), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getting.done():
                    getting.cancel()
                    await asyncio.wait((getting,))
                if not getting.cancelled() and getting.exception() is None:
                    await _handle(queue, handler, getting.result())
            error = None if getting.cancelled() else getting.exception()
            if isinstance(error, QueueShutDown):
                return
            if isinstance(error, CodecError):
                _log.error("an item of %r was set aside: %s", queue.path, error)
            elif error is not None:
                raise error
    finally:
        stop.cancel()


async def _handle(queue: Queue[T], handler: Callable[[T], Awaitable[object]], item: T) -> None:
    try:
        await handler(item)
    except Exception:
        _log.exception("the handler of %r failed for %.200r", queue.path, item)
    await queue.task_done()
