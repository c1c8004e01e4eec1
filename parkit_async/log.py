"""The awaitable Log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from operator import index as as_index
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from ._core import log_ops
from ._core.doorbell import EVENT_CHANGE
from ._core.follow import Follower
from ._core.instead import instead
from ._core.waiting import AGAIN, deadline_of, refuse_wait
from .budget import meter, pause
from .object import Object
from .operations import Stream, read, write
from .runtime import current_runtime

__all__ = ["Log", "read_portion"]

T = TypeVar("T")


class Log(Object, Generic[T]):
    """A persistent list that only grows, until it is cleared; any process can append, read and follow it. ``log = await Log("shop/sales")``.

    Arguments and errors are those of :class:`parkit_async.Object`.
    """

    type_name = "parkit.Log"

    if not TYPE_CHECKING:
        __contains__ = instead("is awaited: write `await log.contains(value)`, or use parkit.Log where nothing can be awaited")
        __iter__ = instead("is awaited: write `async for entry in log`, or use parkit.Log where nothing can be awaited")
        __len__ = instead("is awaited: write `await log.len()`, or use parkit.Log where nothing can be awaited")

        def __bool__(self):
            return True  # and not what __len__ says

    async def append(self, value: T) -> None:
        """Add a value at the end. What pickling raises comes out unchanged, with nothing stored.

        Raises:
            NamespaceFullError: It does not fit.
            ContextError: A transaction of another namespace, or a snapshot of this one, is open here.
        """
        binding = self._binding or await self._bind()
        await write(binding.namespace, log_ops.append, binding, binding.encode(value))

    async def extend(self, values: Iterable[T]) -> None:
        """Add every value at the end, in one transaction."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, log_ops.extend, binding, binding.encode_all(values))

    async def clear(self) -> None:
        """Delete every entry. However many there are, that is a short transaction; their room comes back little by little."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, log_ops.clear, binding)

    @overload
    async def __getitem__(self, index: int) -> T: ...
    @overload
    async def __getitem__(self, index: slice) -> list[T]: ...
    async def __getitem__(self, index: int | slice) -> Any:
        binding = self._binding or await self._bind()
        if isinstance(index, slice):
            return await read(binding.namespace, log_ops.get_slice, binding, index)
        return await read(binding.namespace, log_ops.get, binding, as_index(index))

    @overload
    async def get(self, index: int) -> T: ...
    @overload
    async def get(self, index: slice) -> list[T]: ...
    async def get(self, index: int | slice) -> Any:
        """Return the entry at ``index``, or a list of those in a slice, as ``await log[index]`` does; raise IndexError if there is none."""
        return await self[index]

    async def len(self) -> int:
        """Return the number of entries; a look at one record."""
        binding = self._binding or await self._bind()
        length: int = await read(binding.namespace, log_ops.length, binding)
        return length

    def __aiter__(self) -> AsyncIterator[T]:
        return Stream(self._binding, self._bind, lambda binding: lambda reading: log_ops.walk(reading, binding))

    async def contains(self, value: object) -> bool:
        """Return whether an entry equals ``value``."""
        return await self.count(value) > 0

    async def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the first index of ``value``, looking from ``start`` up to ``stop``; raise ValueError if it is not there."""
        binding = self._binding or await self._bind()
        found: int = await read(binding.namespace, log_ops.index, binding, value, start, stop)
        return found

    async def count(self, value: Any) -> int:
        """Return how many entries equal ``value``."""
        binding = self._binding or await self._bind()
        found: int = await read(binding.namespace, log_ops.count, binding, value)
        return found

    async def wait(self, threshold: int = 0, timeout: float | None = None) -> bool:
        """Wait until the log has more than ``threshold`` entries.

        Args:
            threshold: Usually the length that was seen last.
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has; False when the time is over.

        Raises:
            ContextError: It would have to wait inside a transaction or snapshot of the task's own.
            ObjectNotFoundError: The log was dropped, before or meanwhile.
            ValueError: The timeout is negative.
        """
        binding = self._binding or await self._bind()

        def attempt() -> Any:
            return True if binding.namespace.read(log_ops.length, binding) > threshold else AGAIN

        return await self._wait(binding, EVENT_CHANGE, attempt, timeout, "wait()")

    def follow(self, start: int | None = None, timeout: float | None = None) -> AsyncIterator[T]:
        """Iterate over the entries, and then over those that come, waiting for each.

        When the log is cleared, iteration goes on with the first entry after that.

        Args:
            start: Index to begin with, negative from the end as in a slice; None is the first. ``await log.len()`` gives only what comes.
            timeout: Seconds without a new entry after which iteration ends; None waits for ever.

        Raises:
            ContextError: It would have to wait inside a transaction or snapshot of the task's own.
            ObjectNotFoundError: The log was dropped.
            ValueError: The timeout is negative.
        """
        deadline_of(timeout)
        return _Following(self, start, timeout)


class _Following(AsyncIterator[T]):
    """An iterator that waits. No asynchronous generator, so leaving it early leaves nothing to be closed."""

    __slots__ = ("_follower", "_log", "_portion", "_start", "_timeout")

    def __init__(self, log: Log[T], start: int | None, timeout: float | None) -> None:
        self._log = log
        self._start = start
        self._timeout = timeout
        self._follower: Follower | None = None if log._binding is None else Follower(log._binding, start)
        self._portion: list[T] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._portion:
            await self._fetch()
        return self._portion.pop()

    async def _fetch(self) -> None:
        binding = self._log._binding or await self._log._bind()
        follower = self._follower
        if follower is None:
            follower = self._follower = Follower(binding, self._start)
        portion = await read_portion(follower)
        if portion is AGAIN:
            refuse_wait(self._log.path, "follow()")
            portion = await current_runtime().wait(binding, EVENT_CHANGE, lambda: read_portion(follower), deadline_of(self._timeout))
            if portion is AGAIN:
                raise StopAsyncIteration
        portion.reverse()
        self._portion = portion


async def read_portion(follower: Follower) -> Any:
    """Take the next entries, or AGAIN, giving way to the loop if it is time."""
    meter.left -= 1
    if meter.left < 0:
        await pause()
    return follower.attempt()
