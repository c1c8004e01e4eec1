"""How the awaitable face runs an operation: inline where nothing can make it wait, else through the namespace's coordinator.

Cancelling, for everything here: a call that raises CancelledError has not happened. One whose commit was already under way finishes, returns
normally, and the cancellation is delivered at the task's next await.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Self, TypeVar

from ._core.binding import Binding
from ._core.iteration import stream
from ._core.namespace import CONTENDED, Namespace
from ._core.ownership import contexts, for_writing
from ._core.registry import open_namespace, opened
from ._core.settings import get_storage_path
from ._core.shared import WORD_RETIRED
from ._core.transactions import Reading
from ._core.turns import Operation
from .budget import meter, pause
from .coordinator import Chores, deferred, deliver, refuse_deadlock, settle
from .runtime import current_runtime

__all__ = ["Stream", "View", "open_by_name", "read", "write"]

T = TypeVar("T")


async def read(namespace: Namespace, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operation that only reads, in the task's context or on the latest committed state. Always inline."""
    meter.left -= 1
    if meter.left < 0:
        await pause()
    return namespace.read(call, *arguments)


async def write(namespace: Namespace, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operation in the task's transaction, or in one of its own, which is committed when this returns.

    Raises:
        ContextError: The task's transaction is one of another namespace, or it is inside a snapshot, or it would wait for itself.
        TransactionError: LMDB failed; nothing was stored.
    """
    inline = namespace.engine.level == "off"
    if inline or contexts:
        # What goes through the coordinator gives way by waiting for it.
        meter.left -= 1
        if meter.left < 0:
            await pause()
        if contexts:
            writing = for_writing(namespace)
            if writing is not None:
                return namespace.write(call, *arguments)
        if inline:
            result = namespace.try_write(call, arguments)
            if result is not CONTENDED:
                if namespace.table.words[WORD_RETIRED]:
                    current_runtime().coordinator(namespace).tell(Chores())
                return result
    if deferred:
        await deliver()
    coordinator = current_runtime().coordinator(namespace)
    refuse_deadlock(namespace)
    operation = Operation(call, arguments)
    result = await settle(coordinator.write(operation))
    if namespace.table.words[WORD_RETIRED]:
        # Asked for anew: the one that wrote may have been stopped since, and the write has happened.
        current_runtime().coordinator(namespace).tell(Chores())
    return result


async def open_by_name(name: str) -> Namespace:
    """Return the open namespace of a name; where it is not open yet, opened without keeping the loop waiting."""
    store = get_storage_path()
    namespace = opened(name, store)
    if namespace is None or namespace.closed:
        namespace = await current_runtime().in_thread(("open", store, name), lambda: open_namespace(name, store))
    return namespace


class Stream(AsyncIterator[T]):
    """An asynchronous iterator over a state of an object: that at its creation, or at the first step where the object has still to be found."""

    __slots__ = ("_bind", "_run", "_source")

    def __init__(self, binding: Binding | None, bind: Callable[[], Any], run: Callable[[Binding], Callable[[Reading], Iterator[Any]]]) -> None:
        self._bind = bind
        self._run = run
        self._source: Iterator[T] | None = None if binding is None else stream(binding, run(binding))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        meter.left -= 1
        if meter.left < 0:
            await pause()
        if self._source is None:
            binding = await self._bind()
            self._source = stream(binding, self._run(binding))
        try:
            return next(self._source)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """End the iteration before its end; its state is let go of. Dropping the iterator does the same."""
        self._source = iter(())


class View(Generic[T]):
    """What ``keys()``, ``values()`` and ``items()`` return: something to iterate over asynchronously, any number of times."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[bool], Stream[T]]) -> None:
        self._make = make

    def __aiter__(self) -> AsyncIterator[T]:
        return self._make(False)

    def reverse(self) -> AsyncIterator[T]:
        """Iterate from the end to the beginning."""
        return self._make(True)
