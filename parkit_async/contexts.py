"""The awaitable context managers."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from ._core.instead import instead
from ._core.namespace import Namespace
from ._core.objects import Handle
from ._core.paths import check_namespace
from ._core.scopes import SnapshotScope, TransactionScope
from .budget import meter, pause
from .object import Object
from .operations import open_by_name
from .runtime import current_runtime

__all__ = ["snapshot", "transaction"]


class transaction:  # noqa: N801 (used like a function)
    """Open a write transaction in a namespace: ``async with transaction(obj):``. Only one is active in a namespace, over all processes.

    All operations inside, on any object of the namespace, take effect together when the block ends, or not at all if an exception comes out of it.
    Others wait for their turn to write meanwhile, and go on reading the state before. The transaction belongs to the task that opened it; tasks
    started inside do not join it. In a durable namespace the loop goes on while the commit waits for the disk.

    Inside another transaction of the same namespace the block becomes part of that one.

    Cancelled while it waits for its turn, or inside the block, nothing is stored. Once the commit is under way it is finished, and the cancellation
    delivered at the task's next await.

    Args:
        obj: An object, or the name of a namespace.
        zero_copy: Give numpy arrays and raw bytes as read-only views on the store, valid until the block ends, instead of copies.
        isolated: A block inside another one is a savepoint: an exception that leaves it undoes its own changes alone.

    Raises:
        ContextError: A transaction of another namespace, or a snapshot of this one, is open here; or the call would wait for itself.
        TransactionError: The commit failed; nothing was stored.
    """

    __slots__ = ("_arguments", "_scopes")

    if not TYPE_CHECKING:
        __enter__ = __exit__ = instead("is awaited: write `async with transaction(...)`, or use parkit.transaction where nothing can be awaited")

    def __init__(self, obj: Handle | str, zero_copy: bool = False, isolated: bool = False) -> None:
        self._arguments = (obj, zero_copy, isolated)
        self._scopes: list[TransactionScope] = []

    async def __aenter__(self) -> None:
        obj, zero_copy, isolated = self._arguments
        meter.left -= 1
        if meter.left < 0:
            await pause()
        scope = TransactionScope(await namespace_of(obj), zero_copy, isolated)
        try:
            if not scope.join():
                writing = await current_runtime().coordinator(scope.namespace).begin(scope.owner)
                try:
                    scope.begun(writing)
                except BaseException:
                    scope.abandon(writing)
                    raise
            self._scopes.append(scope)
        except BaseException:
            scope.close()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        scope = self._scopes[-1]
        try:
            writing = scope.leave(failed=kind is not None)
            if writing is not None and kind is None:
                scope.check_owner()
                await current_runtime().coordinator(scope.namespace).commit(writing)
        finally:
            try:
                scope.close()
            except BaseException:
                scope.close()  # once more, should it have been interrupted
                raise
            finally:
                self._scopes.pop()


class snapshot:  # noqa: N801 (used like a function)
    """Open a read transaction in a namespace: ``async with snapshot(obj):``. Everything read inside is of one moment.

    There is (effectively) no limit on how many are open. A snapshot neither waits for writers nor makes them wait; but what they delete or overwrite
    while it is open takes room in the namespace until it is closed. Inside a transaction of the same namespace it sees that transaction.

    Args:
        obj: An object, or the name of a namespace.
        zero_copy: Give numpy arrays and raw bytes as read-only views on the store, valid until the block ends, instead of copies.

    Raises:
        ContextError: Something of the namespace is changed inside.
    """

    __slots__ = ("_arguments", "_scopes")

    if not TYPE_CHECKING:
        __enter__ = __exit__ = instead("is awaited: write `async with snapshot(...)`, or use parkit.snapshot where nothing can be awaited")

    def __init__(self, obj: Handle | str, zero_copy: bool = False) -> None:
        self._arguments = (obj, zero_copy)
        self._scopes: list[SnapshotScope] = []

    async def __aenter__(self) -> None:
        obj, zero_copy = self._arguments
        meter.left -= 1
        if meter.left < 0:
            await pause()
        scope = SnapshotScope(await namespace_of(obj), zero_copy)
        scope.enter()
        self._scopes.append(scope)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._scopes.pop().leave()


async def namespace_of(obj: Handle | str | None) -> Namespace:
    """Return the open namespace of an object, or of a name (None: ``default``)."""
    if isinstance(obj, Object):
        return (obj._binding or await obj._bind()).namespace
    if isinstance(obj, Handle):
        return obj._bound().namespace
    if obj is None or isinstance(obj, str):
        return await open_by_name(check_namespace(obj))
    raise TypeError(f"expected a parkit object or the name of a namespace, not {type(obj).__name__}")
