"""A bag of weak references without callbacks.

``weakref.WeakSet`` forgets its members in callbacks written in Python, and an interrupt (Ctrl-C) that arrives while one of these runs is swallowed.
This forgets them when it grows. Adding and looking are safe from any thread, and in a forked child, without a lock: every step on the dict is
atomic, and keys are never used twice.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["WeakBag"]

T = TypeVar("T")


class WeakBag(Generic[T]):
    """Things that are remembered as long as somebody else refers to them. A thing added twice is in it twice."""

    __slots__ = ("_keys", "_limit", "_references")

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[T]] = {}
        self._keys = itertools.count()
        self._limit = 64

    def add(self, thing: T) -> None:
        """Remember ``thing``."""
        self._references[next(self._keys)] = weakref.ref(thing)
        if len(self._references) > self._limit:
            for key, reference in list(self._references.items()):
                if reference() is None:
                    self._references.pop(key, None)
            self._limit = max(64, 2 * len(self._references))

    def __iter__(self) -> Iterator[T]:
        for reference in list(self._references.values()):
            thing = reference()
            if thing is not None:
                yield thing
