"""The blocking Log."""

# No `from __future__ import annotations`: help() shall print types, not their source.

from collections.abc import Iterable, Iterator, Sequence
from operator import index as as_index
from typing import Any, TypeVar, overload

from parkit_async._core import log_ops
from parkit_async._core.codecs import Codec
from parkit_async._core.doorbell import EVENT_CHANGE
from parkit_async._core.follow import Follower
from parkit_async._core.iteration import stream
from parkit_async._core.signatures import shown_as
from parkit_async._core.waiting import AGAIN, block, deadline_of, refuse_wait

from .object import Object

__all__ = ["Log"]

T = TypeVar("T")


class Log(Object, Sequence[T]):
    """A persistent list that only grows, until it is cleared; any process can append, read and follow it.

    Args:
        path: ``namespace/name``; without a ``/`` the namespace is ``default``.
        create: Create the log if it does not exist.
        bind: Open it if it does.
        versioned: Count its changes. The arguments of the creation win over those given later.
        codec: How values are stored; None is pickle.

    Raises:
        ObjectNotFoundError: ``create=False``, and there is none.
        ObjectExistsError: ``bind=False``, and there is one.
        TypeError: The path holds an object of another class.
        ValueError: The path is no path, or both create and bind are False.
        StoragePathError: The store cannot be used.
    """

    type_name = "parkit.Log"

    @shown_as("(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True)")
    def __init__(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True, codec: Codec | None = None) -> None:
        super().__init__(path, create=create, bind=bind, versioned=versioned, codec=codec)

    __hash__ = Object.__hash__
    __eq__ = Object.__eq__

    def append(self, value: T) -> None:
        """Add a value at the end. What pickling raises comes out unchanged, with nothing stored.

        Raises:
            NamespaceFullError: It does not fit.
            ContextError: A transaction of another namespace, or a snapshot of this one, is open here.
        """
        binding = self._binding
        binding.namespace.write(log_ops.append, binding, binding.encode(value))

    def extend(self, values: Iterable[T]) -> None:
        """Add every value at the end, in one transaction."""
        binding = self._binding
        binding.namespace.write(log_ops.extend, binding, binding.encode_all(values))

    def clear(self) -> None:
        """Delete every entry. However many there are, that is a short transaction; their room comes back little by little."""
        self._home.write(log_ops.clear, self._binding)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._home.read(log_ops.get_slice, self._binding, index)
        return self._home.read(log_ops.get, self._binding, as_index(index))

    @overload
    def get(self, index: int) -> T: ...
    @overload
    def get(self, index: slice) -> list[T]: ...
    def get(self, index: int | slice) -> Any:
        """Return the entry at ``index``, or a list of those in a slice, as ``log[index]`` does; raise IndexError if there is none."""
        return self[index]

    def __len__(self) -> int:
        length: int = self._home.read(log_ops.length, self._binding)
        return length

    def len(self) -> int:
        """Return the number of entries, as ``len(log)`` does; a look at one record."""
        return self.__len__()

    def __iter__(self) -> Iterator[T]:
        return stream(self._binding, lambda reading: log_ops.walk(reading, self._binding))

    def __reversed__(self) -> Iterator[T]:
        return stream(self._binding, lambda reading: log_ops.walk(reading, self._binding, reverse=True))

    def __contains__(self, value: object) -> bool:
        return self.count(value) > 0

    def contains(self, value: object) -> bool:
        """Return whether an entry equals ``value``, as ``value in log`` does."""
        return value in self

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the first index of ``value``, looking from ``start`` up to ``stop``; raise ValueError if it is not there."""
        found: int = self._home.read(log_ops.index, self._binding, value, start, stop)
        return found

    def count(self, value: Any) -> int:
        """Return how many entries equal ``value``."""
        found: int = self._home.read(log_ops.count, self._binding, value)
        return found

    def wait(self, threshold: int = 0, timeout: float | None = None) -> bool:
        """Block until the log has more than ``threshold`` entries.

        Args:
            threshold: Usually the length that was seen last.
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has; False when the time is over.

        Raises:
            ContextError: It would have to wait inside a transaction or snapshot of the caller's own.
            ObjectNotFoundError: The log was dropped, before or meanwhile.
            ValueError: The timeout is negative.
        """
        deadline = deadline_of(timeout)
        binding = self._binding

        def attempt() -> Any:
            return True if binding.namespace.read(log_ops.length, binding) > threshold else AGAIN

        if attempt() is AGAIN:
            if timeout == 0:
                return False
            refuse_wait(self.path, "wait()")
            return block(binding, EVENT_CHANGE, attempt, deadline) is not AGAIN
        return True

    def follow(self, start: int | None = None, timeout: float | None = None) -> Iterator[T]:
        """Iterate over the entries, and then over those that come, waiting for each.

        When the log is cleared, iteration goes on with the first entry after that.

        Args:
            start: Index to begin with, negative from the end as in a slice; None is the first. ``len(log)`` gives only what comes.
            timeout: Seconds without a new entry after which iteration ends; None waits for ever.

        Raises:
            ContextError: It would have to wait inside a transaction or snapshot of the caller's own.
            ObjectNotFoundError: The log was dropped.
            ValueError: The timeout is negative.
        """
        deadline_of(timeout)
        return self._follow(Follower(self._binding, start), timeout)

    def _follow(self, follower: Follower, timeout: float | None) -> Iterator[T]:
        while True:
            portion = follower.attempt()
            if portion is AGAIN:
                refuse_wait(self.path, "follow()")
                portion = block(self._binding, EVENT_CHANGE, follower.attempt, deadline_of(timeout))
                if portion is AGAIN:
                    return
            yield from portion
