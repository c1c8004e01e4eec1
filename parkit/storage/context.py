"""The blocking context managers."""

# No `from __future__ import annotations`: help() shall print types, not their source.

from types import TracebackType
from typing import TYPE_CHECKING

from parkit_async._core.engine import EngineError
from parkit_async._core.instead import instead
from parkit_async._core.namespace import Namespace
from parkit_async._core.objects import Handle
from parkit_async._core.paths import check_namespace
from parkit_async._core.registry import open_namespace
from parkit_async._core.scopes import Guard, SnapshotScope, TransactionScope
from parkit_async._core.transactions import Writing

__all__ = ["snapshot", "transaction"]


class transaction:  # noqa: N801 (used like a function)
    """Open a write transaction in a namespace: ``with transaction(obj):``. Only one is active in a namespace, over all processes.

    All operations inside, on any object of the namespace, take effect together when the block ends, or not at all if an exception comes out of it.
    Others wait for their turn to write meanwhile, and go on reading the state before. The transaction belongs to the thread, or the task, that
    opened it.

    Inside another transaction of the same namespace the block becomes part of that one.

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
        __aenter__ = __aexit__ = instead("is not awaited: write `with transaction(...)`, or use parkit_async.transaction with parkit_async's objects")

    def __init__(self, obj: Handle | str, zero_copy: bool = False, isolated: bool = False) -> None:
        self._arguments = (obj, zero_copy, isolated)
        self._scopes: list[tuple[TransactionScope, Guard]] = []

    def __enter__(self) -> None:
        obj, zero_copy, isolated = self._arguments
        scope = TransactionScope(namespace_of(obj), zero_copy, isolated)
        guard = Guard(scope.close)
        if not scope.join():
            writing = Writing(scope.namespace)
            writing.owner = scope.owner
            try:
                scope.namespace.begin_writing(writing)
                scope.begun(writing)
            except BaseException:
                scope.abandon(writing)
                raise
        self._scopes.append((scope, guard))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        scope, guard = self._scopes[-1]
        try:
            writing = scope.leave(failed=kind is not None)
            if writing is not None and kind is None:
                scope.check_owner()
                scope.namespace.commit(writing)
        except EngineError as failure:
            raise scope.namespace.space.failed(failure, "committing") from failure
        finally:
            try:
                scope.close()
            except BaseException:
                scope.close()  # once more, should it have been interrupted
                raise
            finally:
                guard.disarm()
                self._scopes.pop()


class snapshot:  # noqa: N801 (used like a function)
    """Open a read transaction in a namespace: ``with snapshot(obj):``. Everything read inside is of one moment.

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
        __aenter__ = __aexit__ = instead("is not awaited: write `with snapshot(...)`, or use parkit_async.snapshot with parkit_async's objects")

    def __init__(self, obj: Handle | str, zero_copy: bool = False) -> None:
        self._arguments = (obj, zero_copy)
        self._scopes: list[tuple[SnapshotScope, Guard]] = []

    def __enter__(self) -> None:
        obj, zero_copy = self._arguments
        scope = SnapshotScope(namespace_of(obj), zero_copy)
        guard = Guard(scope.leave)
        try:
            scope.enter()
        except BaseException:
            scope.leave()
            raise
        self._scopes.append((scope, guard))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        scope, guard = self._scopes[-1]
        try:
            scope.leave()
        finally:
            scope.leave()  # once more, should it have been interrupted
            guard.disarm()
            self._scopes.pop()


def namespace_of(obj: Handle | str | None) -> Namespace:
    """Return the open namespace of an object, or of a name (None: ``default``)."""
    if isinstance(obj, Handle):
        return obj._bound().namespace
    if obj is None or isinstance(obj, str):
        return open_namespace(check_namespace(obj))
    raise TypeError(f"expected a parkit object or the name of a namespace, not {type(obj).__name__}")
