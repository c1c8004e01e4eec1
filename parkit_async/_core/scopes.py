"""What ``with transaction(...)`` and ``with snapshot(...)`` do, apart from waiting.

A transaction scope is one of three things, decided when it is entered::

    the owner has a transaction open    isolated=False   JOINED      ends with the outer one
                                        isolated=True    SAVEPOINT   undone alone when it fails
    it has none                                          OUTERMOST   begins, and commits or rolls back

A snapshot inside a transaction of the same namespace sees the transaction, and forbids changes until it is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from . import ownership
from .engine import EngineError, translate
from .errors import ContextError
from .mapped import Mapped
from .namespace import Namespace
from .ownership import contexts, current_owner
from .transactions import Reading, Writing

__all__ = ["Guard", "SnapshotScope", "TransactionScope", "map_views"]

_OUTERMOST: Final = "outermost"
_JOINED: Final = "joined"
_SAVEPOINT: Final = "savepoint"


def map_views(reading: Reading, wanted: int | None) -> None:
    """Give ``reading`` views on the map, of the committed state ``wanted`` (None: of the one that it reads)."""
    namespace = reading.namespace
    if wanted is not None:
        reading.views = Mapped(namespace, namespace.begin_reading(buffers=True))
        return
    while True:
        # Two transactions begun one after the other see the same state unless somebody commits in between.
        mapped = namespace.begin_reading(buffers=True)
        if mapped.id() == reading.transaction.id():
            reading.views = Mapped(namespace, mapped)
            return
        mapped.abort()
        reading.transaction.abort()
        reading.transaction = namespace.begin_reading()


class TransactionScope:
    """One ``with transaction(...)`` block.

    Args:
        namespace: Of the object, or named.
        zero_copy: Values may be views on the map, until the block ends.
        isolated: A block inside another one is a savepoint.
    """

    __slots__ = ("_isolated", "_mapped", "_role", "_zero_copy", "namespace", "owner", "writing")

    def __init__(self, namespace: Namespace, zero_copy: bool, isolated: bool) -> None:
        self.namespace = namespace
        self._zero_copy = zero_copy
        self._isolated = isolated
        self._role = ""
        self._mapped = False
        self.writing: Writing | None = None
        self.owner: Any = None

    def join(self) -> bool:
        """Become part of the transaction that the caller has open. Return False if it has none: begin one, then call :meth:`begun`.

        Raises:
            ContextError: The caller's transaction is one of another namespace, or it is inside a snapshot of this one.
        """
        self.owner = current_owner()
        writing = ownership.for_writing(self.namespace) if contexts else None
        if writing is None:
            return False
        self.writing = writing
        outside = writing.savepoints
        try:
            if self._isolated:
                writing.begin_savepoint()
            self._role = _SAVEPOINT if self._isolated else _JOINED
            self._map()
        except BaseException as error:
            # Left open, it would be what the outer block commits, and the outer block's changes would be lost without a word.
            if writing.savepoints > outside:
                writing.end_savepoint(keep=False)
            if isinstance(error, EngineError):
                raise translate(error, self.namespace.name, "beginning a savepoint") from error
            raise
        return True

    def begun(self, writing: Writing) -> None:
        """Take over a transaction that was begun for this block."""
        self.writing = writing
        self._role = _OUTERMOST
        ownership.enter(writing)
        self._map()

    def abandon(self, writing: Writing) -> None:
        """Undo :meth:`begun`, and roll the transaction back, because the block was not entered."""
        ownership.leave(writing)
        self.namespace.finish(writing)

    def close(self) -> None:
        """Give up what the outermost block holds, rolling back what is not committed. Idempotent; nothing to do for an inner block."""
        writing = self.writing
        if writing is not None and self._role == _OUTERMOST and not writing.inherited:
            ownership.leave(writing)
            committing = writing.committing  # looked at once: the lane forgets it when it has ended it
            if committing is None or committing.revoke():  # else the lane is about to commit
                self.namespace.finish(writing)
                writing.committing = None  # which refers to the transaction

    def _map(self) -> None:
        writing = self.writing
        assert writing is not None
        if self._zero_copy and writing.views is None:
            map_views(writing, writing.transaction.id() - 1)
            self._mapped = True

    def leave(self, failed: bool) -> Writing | None:
        """End the block. Return the transaction if it is to be ended now: committed unless ``failed`` or an exception comes out of here.

        Raises:
            ContextError: The block is left by another thread or task than entered it, or in a forked child: it is rolled back.
        """
        writing = self.writing
        assert writing is not None
        if self._role == _OUTERMOST:
            for inner in ownership.leave(writing):
                inner.end()
        if writing.inherited:
            if failed:
                return None
            raise ContextError(
                f"this transaction of namespace {self.namespace.name!r} was opened before the process was forked: it goes on in the parent, "
                "and what the child did in it was not stored. Open a transaction of its own in the child"
            )
        if self._mapped and writing.views is not None:
            writing.views.end()
            writing.views = None
        if self._role == _SAVEPOINT:
            writing.end_savepoint(keep=not failed)
            return None
        if self._role == _JOINED:
            return None
        writing.detach_all()
        return writing

    def check_owner(self) -> None:
        """Raise ContextError if another thread or task than the one that entered the block is about to leave it."""
        if self._role == _OUTERMOST and self.owner is not current_owner() and self.owner != current_owner():
            raise ContextError(
                f"a transaction of namespace {self.namespace.name!r} is left by another thread or task than opened it; it was rolled back. "
                "Enter and leave it in the same task"
            )


class Guard:
    """Closes a scope that nobody closed: an interrupt (Ctrl-C) can come between the end of a block and the first step of its ``__exit__``.

    A finalizer swallows an interrupt that comes while it runs, so it must not run where it is not needed: a guard that is disarmed becomes
    an object without one.
    """

    __slots__ = ("_close",)

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def disarm(self) -> None:
        """Do nothing at the end."""
        self.__class__ = _Disarmed  # type: ignore[assignment]

    def __del__(self) -> None:
        close = getattr(self, "_close", None)  # the constructor, too, may have been interrupted
        if close is not None:
            close()


class _Disarmed:
    __slots__ = ("_close",)


class SnapshotScope:
    """One ``with snapshot(...)`` block; arguments as those of :class:`TransactionScope`."""

    __slots__ = ("_reading", "_zero_copy", "namespace")

    def __init__(self, namespace: Namespace, zero_copy: bool) -> None:
        self.namespace = namespace
        self._zero_copy = zero_copy
        self._reading: Reading | None = None

    def enter(self) -> None:
        """Begin. Never waits."""
        owner = current_owner()
        around = ownership.for_reading(self.namespace) if contexts else None
        if around is not None:
            self._reading = _Inner(around, owner)
        else:
            self._reading = self.namespace.snapshot(owner)
            if self._zero_copy:
                map_views(self._reading, None)
        ownership.enter(self._reading)

    def leave(self) -> None:
        """End. Idempotent, also when it was interrupted."""
        reading = self._reading
        if reading is not None:
            ownership.leave(reading)
            reading.end()
            self._reading = None


class _Inner(Reading):
    """A snapshot inside a transaction or snapshot of its namespace: reads what that sees, and changes nothing."""

    def __init__(self, around: Reading, owner: Any) -> None:
        super().__init__(around.namespace, around.transaction, owner)
        self._around = around
        self.states = around.states
        self.views = around.views

    @property
    def outermost(self) -> Reading:
        """See :class:`.transactions.Reading`."""
        return self._around.outermost

    def end(self) -> None:
        pass

    def forked(self) -> None:
        self.inherited = True

    def watch(self, object_id: int, iterator: Any) -> None:
        """Iterators begun here must not see later changes of the transaction."""
        if isinstance(self._around, Writing):
            self._around.watch(object_id, iterator)
