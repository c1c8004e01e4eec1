"""What operations see of the store: a state to read, and a transaction to change it in.

::

    Reading                 one consistent state; an implicit read, a snapshot, an iterator
       └── Writing          the write transaction of a namespace, implicit or explicit, with its savepoints
             └── transaction: LMDB's own, or a Recording of it

Operations (``dict_ops`` and its siblings) are functions of one of these and of an object. They never wait, and they check before they
change: an operation that raises has, with few exceptions, changed nothing. ``Writing.touched`` tells the exceptions, so that a group
commit can undo them.

A header is read when the transaction first meets its object, changed in memory, and written once, at the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol

from . import fork
from .engine import EngineError, put_many, translate
from .errors import ObjectNotFoundError, TransactionError
from .layout import FLAG_UNVERSIONED, NEXT_KEY, State, damaged
from .weakbag import WeakBag

if TYPE_CHECKING:
    from .mapped import Mapped
    from .namespace import Namespace
    from .turns import Operation

__all__ = ["ENTRY", "Detachable", "Identity", "Reading", "Recording", "Writing", "dropped"]


ENTRY: Final = 20480
"""Bytes of new pages that storing an entry may take besides its own: as many as the tree is deep, which is less than five."""


class Identity(Protocol):
    """What a transaction needs to know of an object."""

    object_id: int
    header: bytes
    nonce: int
    path: str
    latest: tuple[int, State] | None


class Detachable(Protocol):
    """An iterator that reads from a write transaction, and must take what it still needs before that changes."""

    def detach(self) -> None: ...


class Reading:
    """One consistent state of a namespace.

    Args:
        namespace: The namespace.
        transaction: LMDB's.
        owner: Thread or task it belongs to; see :mod:`.ownership`.

    Attributes:
        states: Headers that were looked at, by object id.
        views: Where values are read without copying, or None.
        writes: Whether it is a write transaction.
        inherited: Whether it is the parent's, and this a forked child.
        current: Header of the dict that was changed last, while changing that again takes nothing but to store another entry.
    """

    writes = False
    current: State | None = None
    inherited = False
    owner: Any = None
    views: Mapped | None = None

    def __init__(self, namespace: Namespace, transaction: Any, owner: Any = None) -> None:
        self.namespace = namespace
        self.transaction = transaction
        self.owner = owner
        self.states: dict[int, State] = {}

    def state(self, identity: Identity) -> State:
        """Return the header of an object.

        Raises:
            ObjectNotFoundError: It was dropped, or its creation was rolled back.
        """
        state = self.states.get(identity.object_id)
        if state is None:
            raw = self.transaction.get(identity.header)
            if raw is None:
                raise dropped(identity)
            state = State(raw)
            if state.nonce != identity.nonce:
                raise dropped(identity)
            state.identity = identity
            self.states[identity.object_id] = state
        if state.dropped:
            raise dropped(identity)
        return state

    @property
    def pinned(self) -> bool:
        """Whether it is still open."""
        return self.transaction is not None

    @property
    def outermost(self) -> Reading:
        """What must be open for this to be read: itself, or what it is inside of."""
        return self

    def watch(self, object_id: int, iterator: Detachable) -> None:
        """Remember an iterator that reads from here; nothing to do where nothing changes."""

    def forked(self) -> None:
        # The transaction is the parent's: see the fork module.
        self.inherited = True
        self.current = None
        fork.immortalize(self.transaction)

    def end(self) -> None:
        """End the read transaction. Idempotent; does nothing to one inherited over a fork."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None and not self.inherited:
            if self.views is not None:
                self.views.end()
            transaction.abort()


class _Savepoint:
    __slots__ = ("recorded", "states", "transaction")

    def __init__(self, writing: Writing) -> None:
        self.transaction = writing.transaction
        self.states = {key: state.copy() for key, state in writing.states.items()}
        self.recorded = writing.recording.mark() if writing.recording is not None else 0


class Writing(Reading):
    """The write transaction of a namespace. Begun and ended by the namespace, which holds the turn and the gate meanwhile.

    Attributes:
        number: LMDB's number of the transaction.
        touched: Counts changes, so that a caller can tell whether a failed operation left something behind.
        thread: Identifier of the thread it was begun in.
        after_commit: Called right after the commit, while the gate is still held.
        token: What holds the turn on its behalf; None is the transaction itself.
        events: What happened to which object, once committed.
        announced: What else the doorbells shall tell then, of what is no object: see :data:`.shared.ONE_OF`.
        room: Bytes that may still be written before it must be found out how full the namespace is.
        replace: ``replace`` of a cursor that is kept, where many entries may be stored: a third faster than the transaction's own.
        recording: Set where the commit happens in another thread.
        committing: That commit, while it is under way.
    """

    # Most writes are implicit and never need these, so that an instance gets its own only where it does.
    writes = True
    ended = False
    touched = 0
    room = 0
    number = 0
    recording: Recording | None = None
    token: object = None
    committing: Operation | None = None
    replace: Callable[[bytes, bytes], Any] | None = None
    events: dict[int, int] | None = None
    announced: dict[int, int] | None = None
    after_commit: Callable[[], None] | None = None
    _live: dict[int, WeakBag[Any]] | None = None
    _savepoints: list[_Savepoint] | None = None

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.transaction: Any = None
        self.states = {}
        self.thread = get_ident()

    def state(self, identity: Identity) -> State:
        """See :meth:`Reading.state`. Where this process made the last commit of the namespace, the headers it changed are still known."""
        state = self.states.get(identity.object_id)
        if state is None:
            latest = identity.latest
            if latest is None or latest[0] != self.number - 1:
                return super().state(identity)
            state = self.states[identity.object_id] = latest[1]
            state.identity = identity
        elif state.dropped:
            raise dropped(identity)
        return state

    def change(self, identity: Identity, event: int) -> State:
        """Return the header of an object that is about to change; ``event`` is what waiters will be told."""
        self.current = None
        states, object_id = self.states, identity.object_id
        state = states.get(object_id)
        if state is None:
            latest = identity.latest
            state = states[object_id] = latest[1] if latest is not None and latest[0] == self.number - 1 else super().state(identity)
            state.identity = identity
        elif state.dropped:
            raise dropped(identity)
        if not state.changed:
            # Should this fail, nobody must take it for the latest.
            state.identity.latest = None
        if self._live is not None:
            self._detach(identity.object_id)
        state.changed |= event
        self.touched += 1
        return state

    def reserve(self, size: int) -> None:
        """Make sure that ``size`` more bytes fit in the namespace, before anything is changed.

        Raises:
            NamespaceFullError: They do not.
        """
        self.room -= size + ENTRY
        if self.room < 0:
            self.room = self.namespace.space.claim(self, size)

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Store many entries in one call."""
        if self.recording is not None:
            self.recording.put_many(items)
        else:
            put_many(self.transaction, items)

    def entries(self) -> int:
        """Return how many entries the whole keyspace has, uncommitted changes included; about 0.7 us."""
        transaction = self.transaction if self.recording is None else self.recording.inner
        return int(transaction.stat()["entries"])

    def new_id(self, count: int = 1) -> int:
        """Return the first of ``count`` ids that were never used before."""
        raw = self.transaction.get(NEXT_KEY)
        first = 1 if raw is None else int.from_bytes(raw, "big")
        if raw is not None and (len(raw) != 8 or not 0 < first < 1 << 62):
            raise damaged("the namespace's count of objects")
        following = (first + count).to_bytes(8, "big")
        cursor = self.transaction.cursor()
        if cursor.set_range(first.to_bytes(8, "big")) and cursor.key()[:8] < following:
            raise damaged("the namespace's count of objects")  # it would give out the id of an object that is there
        self.transaction.put(NEXT_KEY, following)
        return first

    def watch(self, object_id: int, iterator: Detachable) -> None:
        """Have ``iterator.detach()`` called before the object changes, or a savepoint opens or closes."""
        self.current = None
        if self._live is None:
            self._live = {}
        self._live.setdefault(object_id, WeakBag()).add(iterator)

    def _detach(self, object_id: int | None = None) -> None:
        if self._live is not None:
            for key in [object_id] if object_id is not None else list(self._live):
                for iterator in list(self._live.pop(key, ())):
                    iterator.detach()
            if not self._live:
                self._live = None

    def detach_all(self) -> None:
        """Let every iterator take what it still needs."""
        self._detach()

    # Savepoints: LMDB's child transactions. While one is open its parent must not be used, so the current one is always in `transaction`.

    def begin_savepoint(self) -> None:
        """Begin a savepoint; changes from here on can be undone alone."""
        self._detach()
        self.replace = self.current = None
        savepoint = _Savepoint(self)
        child = self.namespace.engine.begin_child(savepoint.transaction if self.recording is None else self.recording.inner)
        if self._savepoints is None:
            self._savepoints = []
        self._savepoints.append(savepoint)
        if self.recording is None:
            self.transaction = child
        else:
            self.recording.inner, savepoint.transaction = child, self.recording.inner

    @property
    def savepoints(self) -> int:
        """How many savepoints are open."""
        return len(self._savepoints or ())

    def end_savepoint(self, keep: bool) -> None:
        """End the innermost savepoint; keep its changes, or undo them."""
        self._detach()
        self.current = None
        assert self._savepoints
        savepoint = self._savepoints.pop()
        child = self.transaction if self.recording is None else self.recording.inner
        try:
            if keep:
                child.commit()
            else:
                child.abort()
        except EngineError as error:
            keep = False
            raise translate(error, self.namespace.name, "ending a savepoint") from error
        finally:
            if self.recording is None:
                self.transaction = savepoint.transaction
            else:
                self.recording.inner = savepoint.transaction
            if not keep:
                self.states = savepoint.states
                if self.recording is not None:
                    self.recording.rewind(savepoint.recorded)

    def settle(self) -> None:
        """Note the end of one of several operations that are committed together: to the objects each is a transaction of its own."""
        self.current = None
        for state in self.states.values():
            if state.changed:
                state.settled |= state.changed
                state.changed = 0
                if not state.flags & FLAG_UNVERSIONED:
                    state.version += 1

    def write_headers(self) -> dict[int, int]:
        """Write the headers of the objects that changed, and note what happened to which, for the doorbells; a step of the commit."""
        events = self.events = {} if self.announced is None else dict(self.announced)
        put = self.transaction.put
        for object_id, state in self.states.items():
            event = state.changed | state.settled
            if event:
                events[object_id] = event
                if not state.dropped:
                    if state.changed and not state.flags & FLAG_UNVERSIONED:
                        state.version += 1
                    put(state.identity.header, state.pack())
        return events

    def end(self) -> None:
        """Roll back if that is still to be done. Idempotent; does nothing to a transaction inherited over a fork."""
        transaction, self.transaction = self.transaction, None
        if transaction is None or self.inherited:
            return
        self.ended = True
        if self.views is not None:
            self.views.end()
        for savepoint in reversed(self._savepoints or ()):
            transaction.abort()
            transaction = savepoint.transaction
        self._savepoints = None
        transaction.abort()


class Recording:
    """A write transaction that remembers what was written, so that another thread can write it again, and commit.

    An awaited transaction runs on the event loop's thread, where every operation costs no more than a blocking one. Its commit must not
    happen there when it waits for the disk, and LMDB wants a transaction committed by the thread that began it. So the recorded writes are
    made again by the namespace's writer thread while this process still holds the turn and the gate: the state underneath is the same,
    which :meth:`replay` verifies.
    """

    __slots__ = ("_log", "base", "inner")

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.base: int = inner.id()
        self._log: list[tuple[str, tuple[Any, ...]]] = []

    def mark(self) -> int:
        return len(self._log)

    def rewind(self, mark: int) -> None:
        del self._log[mark:]

    def id(self) -> int:
        return self.base

    def get(self, key: bytes) -> Any:
        return self.inner.get(key)

    def cursor(self) -> Any:
        return self.inner.cursor()

    def put(self, key: bytes, value: bytes) -> bool:
        result: bool = self.inner.put(key, value)
        self._log.append(("put", (key, value)))
        return result

    def replace(self, key: bytes, value: bytes) -> Any:
        result = self.inner.replace(key, value)
        self._log.append(("put", (key, value)))
        return result

    def delete(self, key: bytes) -> bool:
        result: bool = self.inner.delete(key)
        if result:
            self._log.append(("delete", (key,)))
        return result

    def pop(self, key: bytes) -> Any:
        result = self.inner.pop(key)
        if result is not None:
            self._log.append(("delete", (key,)))
        return result

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        items = list(items)
        put_many(self.inner, items)
        self._log.append(("put_many", (items,)))

    def abort(self) -> None:
        self.inner.abort()

    def replay(self, transaction: Any) -> None:
        """Make the recorded writes in ``transaction``.

        Raises:
            TransactionError: The state underneath is another one: something wrote that does not respect the gate.
        """
        if transaction.id() != self.base:
            raise TransactionError(
                "the namespace was changed during the transaction by a program that does not use parkit; nothing was stored. "
                "Do not write to parkit's files by other means"
            )
        for name, arguments in self._log:
            if name == "put_many":
                put_many(transaction, *arguments)
            else:
                getattr(transaction, name)(*arguments)


def dropped(identity: Identity) -> ObjectNotFoundError:
    """Return the exception for an object that is no longer there."""
    return ObjectNotFoundError(f"{identity.path!r} does not exist any more: it was dropped, or the transaction that created it was rolled back")
