"""The blocking Queue and LifoQueue."""

# No `from __future__ import annotations`: help() shall print types, not their source.

from collections.abc import Iterable
from queue import Empty, Full
from typing import Any, Generic, TypeVar

from parkit_async._core import queue_ops
from parkit_async._core.binding import Failure
from parkit_async._core.codecs import Codec
from parkit_async._core.doorbell import EVENT_DONE, EVENT_ITEMS, EVENT_SPACE
from parkit_async._core.queue_ops import EMPTY, FULL, DeadLetter
from parkit_async._core.queues import QueueCore
from parkit_async._core.signatures import shown_as
from parkit_async._core.waiting import AGAIN, block, deadline_of, refuse_wait

from .object import Object

__all__ = ["LifoQueue", "Queue"]

T = TypeVar("T")


class Queue(QueueCore, Object, Generic[T]):
    """A persistent queue between threads, tasks and processes; it follows ``queue.Queue``.

    An item is gone from the queue when the transaction that took it is committed, and not before. Whoever waits is woken by the commit that concerns
    it; an idle waiter uses no CPU.

    Args:
        path: ``namespace/name``; without a ``/`` the namespace is ``default``.
        create: Create the queue if it does not exist.
        bind: Open it if it does.
        versioned: Count its changes. The arguments of the creation win over those given later.
        maxsize: How many items may be in it, for every process; 0 is no limit. Can be set later, see :meth:`set_maxsize`.
        codec: How items are stored; None is pickle.

    Raises:
        ObjectNotFoundError: ``create=False``, and there is none.
        ObjectExistsError: ``bind=False``, and there is one.
        TypeError: The path holds an object of another class.
        ValueError: The path is no path, both create and bind are False, or maxsize is negative.
        StoragePathError: The store cannot be used.
    """

    type_name = "parkit.Queue"

    _waited = False
    """Whether the last get had to wait; the next one then looks before it takes the turn."""

    @shown_as("(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True, maxsize: int = 0)")
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
        self._open()

    # Putting.

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item, waiting for room if need be. What pickling raises comes out unchanged, with nothing stored.

        Args:
            item: Anything that pickles.
            block: Whether to wait.
            timeout: Seconds to wait; None is for ever.

        Raises:
            queue.Full: There is no room, or was none in time.
            queue.ShutDown: The queue was shut down.
            ContextError: It would have to wait inside a transaction or snapshot of the caller's own.
            NamespaceFullError: The item does not fit in the namespace.
            ValueError: The timeout is negative.
        """
        if timeout is not None and block:
            deadline_of(timeout)
        binding = self._binding
        frame = binding.encode(item)
        if binding.namespace.write(queue_ops.put, binding, frame) is FULL:
            self._wait_for_room(queue_ops.put, frame, block, timeout)

    def put_nowait(self, item: T) -> None:
        """Put an item if there is room; raise queue.Full if not."""
        self.put(item, block=False)

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put all items in one transaction, waiting for room for all of them if need be; else as :meth:`put`.

        Raises:
            ValueError: They are more than ``maxsize``, so there never will be room.
        """
        if timeout is not None and block:
            deadline_of(timeout)
        binding = self._binding
        frames = binding.encode_all(items)
        if binding.namespace.write(queue_ops.put_many, binding, frames) is FULL:
            self._wait_for_room(queue_ops.put_many, frames, block, timeout)

    def _wait_for_room(self, operation: Any, frames: Any, wait: bool, timeout: float | None) -> None:
        if not wait:
            raise Full
        deadline = deadline_of(timeout)
        if timeout == 0:
            raise Full
        refuse_wait(self.path, "put()")
        binding = self._binding

        def attempt() -> Any:
            return AGAIN if binding.namespace.write(operation, binding, frames) is FULL else None

        if block(binding, EVENT_SPACE, attempt, deadline) is AGAIN:
            raise Full

    # Taking.

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item, waiting for one if need be.

        Args:
            block: Whether to wait.
            timeout: Seconds to wait; None is for ever.

        Raises:
            queue.Empty: There is no item, or came none in time.
            queue.ShutDown: There is none, and none will come.
            CodecError: The item cannot be decoded; it was set aside (see :meth:`dead_letters`), and the next call takes the next one.
            ContextError: It would have to wait inside a transaction or snapshot of the caller's own.
            ValueError: The timeout is negative.
        """
        if timeout is not None and block:
            deadline_of(timeout)
        binding = self._binding
        operation = queue_ops.get, binding, self._lifo
        item: Any = EMPTY if self._waited and not binding.namespace.read(queue_ops.ready, binding) else binding.namespace.write(*operation)
        if item is EMPTY or type(item) is Failure:
            item = self._wait_for_item(item, operation, block, timeout)
        else:
            self._waited = False
        return item  # type: ignore[no-any-return]

    def get_nowait(self) -> T:
        """Take an item if there is one; raise queue.Empty if not."""
        return self.get(block=False)

    def get_many(self, n: int, block: bool = True, timeout: float | None = None) -> list[T]:
        """Take up to ``n`` items in one transaction, waiting for the first if need be; else as :meth:`get`.

        Raises:
            ValueError: ``n`` is less than 1.
        """
        if timeout is not None and block:
            deadline_of(timeout)
        binding = self._binding
        operation = queue_ops.get_many, binding, self._lifo, self._check_count(n)
        items: Any = binding.namespace.write(*operation)
        if items is EMPTY or type(items) is Failure:
            items = self._wait_for_item(items, operation, block, timeout)
        return items  # type: ignore[no-any-return]

    def _wait_for_item(self, item: Any, operation: tuple[Any, ...], wait: bool, timeout: float | None) -> Any:
        binding = self._binding
        write, read = binding.namespace.write, binding.namespace.read

        def attempt() -> Any:
            return AGAIN if (found := write(*operation)) is EMPTY else found

        def look() -> Any:
            # Costs a waiter less than a turn, and disturbs nobody.
            return attempt() if read(queue_ops.ready, binding) else AGAIN

        if item is EMPTY:
            if not wait:
                raise Empty
            deadline = deadline_of(timeout)
            if timeout == 0:
                raise Empty
            refuse_wait(self.path, "get()")
            item = block(binding, EVENT_ITEMS, attempt, deadline, look)
            self._waited = True
            if item is AGAIN:
                raise Empty
        if isinstance(item, Failure):
            raise item.error
        return item

    # The rest of the protocol.

    def qsize(self) -> int:
        """Return the number of items, exactly; a look at one record."""
        return self._size()[0]

    def empty(self) -> bool:
        """Return whether there is no item."""
        return self._size()[0] == 0

    def full(self) -> bool:
        """Return whether there is no room for another item."""
        size, maxsize = self._size()
        return 0 < maxsize <= size

    @property
    def maxsize(self) -> int:
        """How many items may be in the queue; 0 is no limit. Setting it holds for every process."""
        return self._size()[1]

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        self.set_maxsize(maxsize)

    def set_maxsize(self, maxsize: int) -> None:
        """Set how many items may be in the queue; items that are there stay. Raises ValueError if it is negative."""
        self._home.write(queue_ops.set_maxsize, self._binding, self._check_maxsize(maxsize))

    def task_done(self) -> None:
        """Say that an item that was taken is dealt with. The count is shared by all processes.

        Raises:
            ValueError: It was called more often than items were put.
        """
        self._home.write(queue_ops.task_done, self._binding)

    def join(self, timeout: float | None = None) -> bool:
        """Block until every item that was put is dealt with.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether they are; False when the time is over.
        """
        deadline = deadline_of(timeout)
        attempt = self._join_attempt()
        if attempt() is AGAIN:
            if timeout == 0:
                return False
            refuse_wait(self.path, "join()")
            return block(self._binding, EVENT_DONE, attempt, deadline) is not AGAIN
        return True

    def shutdown(self, immediate: bool = False) -> None:
        """Take no more items: ``put`` raises queue.ShutDown, and so does ``get`` once the queue is empty. Holds for every process, and for ever.

        Args:
            immediate: Drop the items that are there, and count them as dealt with.
        """
        self._home.write(queue_ops.shut_down, self._binding, immediate)

    @property
    def is_shutdown(self) -> bool:
        """Whether the queue was shut down."""
        return self._is_shut_down()

    def clear(self) -> None:
        """Drop all items, and count them as dealt with."""
        self._home.write(queue_ops.clear, self._binding)

    def dead_letters(self) -> list[DeadLetter]:
        """Return the items that were set aside because they could not be decoded: raw bytes, reason and time, oldest first."""
        return self._dead_letters()


class LifoQueue(Queue[T]):
    """Like Queue, but the item that was put last is taken first; see ``queue.LifoQueue``."""

    type_name = "parkit.LifoQueue"
    _lifo = True
