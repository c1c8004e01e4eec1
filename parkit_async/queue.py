"""The awaitable Queue and LifoQueue."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from ._core import queue_ops
from ._core.binding import Binding, Failure
from ._core.codecs import Codec
from ._core.doorbell import EVENT_DONE, EVENT_ITEMS, EVENT_SPACE
from ._core.errors import ShutDown
from ._core.queue_ops import EMPTY, FULL, DeadLetter
from ._core.queues import QueueCore
from ._core.waiting import AGAIN, deadline_of, refuse_wait
from .budget import meter, pause
from .object import Object
from .operations import write
from .runtime import current_runtime

__all__ = ["LifoQueue", "Queue", "QueueEmpty", "QueueFull", "QueueShutDown"]

T = TypeVar("T")


class QueueEmpty(asyncio.QueueEmpty, queue.Empty):
    """There is no item, or came none in time. An asyncio.QueueEmpty and a queue.Empty."""


class QueueFull(asyncio.QueueFull, queue.Full):
    """There is no room, or was none in time. An asyncio.QueueFull and a queue.Full."""


if sys.version_info >= (3, 13):

    class QueueShutDown(asyncio.QueueShutDown, ShutDown):
        """The queue was shut down. An asyncio.QueueShutDown and a queue.ShutDown."""

else:

    class QueueShutDown(ShutDown):
        """The queue was shut down. A queue.ShutDown, and an asyncio.QueueShutDown where Python has that."""


class Queue(QueueCore, Object, Generic[T]):
    """A persistent queue between tasks, threads and processes: ``q = await Queue("shop/orders")``; it follows ``queue.Queue``.

    An item is gone from the queue when the transaction that took it is committed, and not before. Whoever waits is woken by the commit that concerns
    it; an idle waiter uses no CPU. A call that raises CancelledError has not happened: its item is still there, and the next one delivered.

    Args:
        path: ``namespace/name``; without a ``/`` the namespace is ``default``.
        create: Create the queue if it does not exist.
        bind: Open it if it does.
        versioned: Count its changes. The arguments of the creation win over those given later.
        maxsize: How many items may be in it, for every process; 0 is no limit. Can be set later, see :meth:`set_maxsize`.
        codec: How items are stored; None is pickle.

    Errors are those of :class:`parkit_async.Object`, and ValueError if maxsize is negative.
    """

    type_name = "parkit.Queue"

    def __init__(
        self,
        path: str,
        /,
        *,
        create: bool = True,
        bind: bool = True,
        versioned: bool = True,
        maxsize: int = 0,
        codec: Codec | None = None,
    ) -> None:
        self._declare(path, create, bind, versioned, codec, self._check_maxsize(maxsize))

    # Putting.

    async def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item, waiting for room if need be. What pickling raises comes out unchanged, with nothing stored.

        Args:
            item: Anything that pickles.
            block: Whether to wait.
            timeout: Seconds to wait; None is for ever.

        Raises:
            QueueFull: There is no room, or was none in time.
            QueueShutDown: The queue was shut down.
            ContextError: It would have to wait inside a transaction or snapshot of the task's own.
            NamespaceFullError: The item does not fit in the namespace.
            ValueError: The timeout is negative.
        """
        binding = self._binding or await self._bind()
        await self._put(binding, queue_ops.put, binding.encode(item), block, timeout)

    async def put_nowait(self, item: T) -> None:
        """Put an item if there is room; raise QueueFull if not."""
        await self.put(item, block=False)

    async def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put all items in one transaction, waiting for room for all of them if need be; else as :meth:`put`.

        Raises:
            ValueError: They are more than ``maxsize``, so there never will be room.
        """
        binding = self._binding or await self._bind()
        await self._put(binding, queue_ops.put_many, binding.encode_all(items), block, timeout)

    async def _put(self, binding: Binding, operation: Any, frames: Any, wait: bool, timeout: float | None) -> None:
        async def attempt() -> Any:
            return AGAIN if await write(binding.namespace, operation, binding, frames) is FULL else None

        deadline = deadline_of(timeout) if wait else None
        try:
            if await attempt() is AGAIN:
                if not wait or timeout == 0:
                    raise QueueFull
                refuse_wait(self.path, "put()")
                if await current_runtime().wait(binding, EVENT_SPACE, attempt, deadline) is AGAIN:
                    raise QueueFull
        except ShutDown as error:
            raise QueueShutDown from error

    # Taking.

    async def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item, waiting for one if need be.

        Args:
            block: Whether to wait.
            timeout: Seconds to wait; None is for ever.

        Raises:
            QueueEmpty: There is no item, or came none in time.
            QueueShutDown: There is none, and none will come.
            CodecError: The item cannot be decoded; it was set aside (see :meth:`dead_letters`), and the next call takes the next one.
            ContextError: It would have to wait inside a transaction or snapshot of the task's own.
            ValueError: The timeout is negative.
        """
        binding = self._binding or await self._bind()
        item: T = await self._get(binding, self._get_operation(), block, timeout)
        return item

    async def get_nowait(self) -> T:
        """Take an item if there is one; raise QueueEmpty if not."""
        return await self.get(block=False)

    async def get_many(self, n: int, block: bool = True, timeout: float | None = None) -> list[T]:
        """Take up to ``n`` items in one transaction, waiting for the first if need be; else as :meth:`get`.

        Raises:
            ValueError: ``n`` is less than 1.
        """
        self._check_count(n)
        binding = self._binding or await self._bind()
        items: list[T] = await self._get(binding, self._get_operation(n), block, timeout)
        return items

    async def _get(self, binding: Binding, operation: tuple[Any, ...], wait: bool, timeout: float | None) -> Any:
        namespace = binding.namespace

        async def attempt() -> Any:
            # A look costs a waiter less than a turn, and disturbs nobody.
            if not namespace.read(queue_ops.ready, binding):
                return AGAIN
            return AGAIN if (item := await write(namespace, *operation)) is EMPTY else item

        deadline = deadline_of(timeout) if wait else None
        try:
            item = await write(namespace, *operation)
            if item is EMPTY:
                if not wait or timeout == 0:
                    raise QueueEmpty
                refuse_wait(self.path, "get()")
                item = await current_runtime().wait(binding, EVENT_ITEMS, attempt, deadline)
                if item is AGAIN:
                    raise QueueEmpty
        except ShutDown as error:
            raise QueueShutDown from error
        if isinstance(item, Failure):
            raise item.error
        return item

    # The rest of the protocol.

    async def qsize(self) -> int:
        """Return the number of items, exactly; a look at one record."""
        return (await self._looked())[0]

    async def empty(self) -> bool:
        """Return whether there is no item."""
        return (await self._looked())[0] == 0

    async def full(self) -> bool:
        """Return whether there is no room for another item."""
        size, maxsize = await self._looked()
        return 0 < maxsize <= size

    async def _looked(self) -> tuple[int, int]:
        meter.left -= 1
        if meter.left < 0:
            await pause()
        if self._binding is None:
            await self._bind()
        return self._size()

    @property
    def maxsize(self) -> int:
        """How many items may be in the queue; 0 is no limit. To set it, await :meth:`set_maxsize`."""
        return self._size()[1]

    async def set_maxsize(self, maxsize: int) -> None:
        """Set how many items may be in the queue, for every process; items that are there stay. Raises ValueError if it is negative."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, queue_ops.set_maxsize, binding, self._check_maxsize(maxsize))

    async def task_done(self) -> None:
        """Say that an item that was taken is dealt with. The count is shared by all processes.

        Raises:
            ValueError: It was called more often than items were put.
        """
        binding = self._binding or await self._bind()
        await write(binding.namespace, queue_ops.task_done, binding)

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until every item that was put is dealt with.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether they are; False when the time is over.
        """
        binding = self._binding or await self._bind()
        return await self._wait(binding, EVENT_DONE, self._join_attempt(), timeout, "join()")

    async def shutdown(self, immediate: bool = False) -> None:
        """Take no more items: ``put`` raises QueueShutDown, and so does ``get`` once the queue is empty. Holds for every process, and for ever.

        Args:
            immediate: Drop the items that are there, and count them as dealt with.
        """
        binding = self._binding or await self._bind()
        await write(binding.namespace, queue_ops.shut_down, binding, immediate)

    @property
    def is_shutdown(self) -> bool:
        """Whether the queue was shut down."""
        return self._is_shut_down()

    async def clear(self) -> None:
        """Drop all items, and count them as dealt with."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, queue_ops.clear, binding)

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the items that were set aside because they could not be decoded: raw bytes, reason and time, oldest first."""
        if self._binding is None:
            await self._bind()
        return self._dead_letters()


class LifoQueue(Queue[T]):
    """Like Queue, but the item that was put last is taken first; see ``queue.LifoQueue``."""

    type_name = "parkit.LifoQueue"
    _lifo = True
