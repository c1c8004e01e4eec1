"""Iterators that see the state at their creation, and cost nothing when they are left early.

One made outside of any transaction reads through a snapshot of its own; that ends with the generator that holds it, by exhaustion, ``close`` or
collection. One made inside a transaction reads what the transaction has written so far; before that changes, it takes what it still needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .binding import Binding
from .engine import EngineError
from .errors import ContextError, TransactionError
from .transactions import Reading

__all__ = ["stream"]


def stream(binding: Binding, run: Callable[[Reading], Iterator[Any]]) -> Iterator[Any]:
    """Return the iterator that ``run`` makes of the caller's context, or of the latest committed state."""
    reading, own = binding.namespace.reading()
    source = run(reading)
    if own:
        return source
    iterator = _Inside(binding, reading, source)
    reading.watch(binding.object_id, iterator)
    return iterator


class _Inside:
    """An iterator inside a transaction or snapshot."""

    __slots__ = ("__weakref__", "_binding", "_error", "_reading", "_rest", "_source")

    def __init__(self, binding: Binding, reading: Reading, source: Iterator[Any]) -> None:
        self._binding = binding
        self._reading = reading.outermost
        self._source = source
        self._rest: list[Any] | None = None
        self._error: Exception | None = None

    def __iter__(self) -> _Inside:
        return self

    def __next__(self) -> Any:
        if self._rest is None:
            # The source may have read ahead: whether it goes on must not depend on how far.
            if self._reading.transaction is None:
                raise self._over()
            try:
                return next(self._source)
            except EngineError as error:
                raise self._failed(error) from error
        if self._rest:
            return self._rest.pop()
        if self._error is not None:
            failure, self._error = self._error, None
            raise failure
        raise StopIteration

    def _failed(self, error: EngineError) -> TransactionError:
        return self._binding.namespace.space.failed(error, "iterating")

    def _over(self) -> ContextError:
        return ContextError(
            f"the transaction or snapshot in which this iterator of {self._binding.path!r} was made is over; use it inside, or make a list of it"
        )

    def detach(self) -> None:
        """Take what is left, since the transaction is about to change it. What cannot be decoded is told when its turn comes."""
        rest: list[Any] = []
        try:
            rest.extend(iter(self._source))
        except EngineError as error:
            self._error = self._failed(error)
            self._error.__cause__ = error
        except Exception as error:
            self._error = error
        rest.reverse()
        self._rest = rest
