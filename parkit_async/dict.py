"""The awaitable Dict."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ._core import dict_ops
from ._core.arguments import pairs
from ._core.binding import locate
from ._core.dict_ops import ITEMS, KEYS, MISSING, VALUES, Scan
from ._core.instead import instead
from .budget import meter, pause
from .object import Object
from .operations import Stream, View, read, write

__all__ = ["Dict"]

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Dict(Object, Generic[K, V]):
    """A persistent dict that any process on this machine can open; iteration is in key order. ``d = await Dict("shop/prices")``.

    Every call is a transaction of its own, or part of the one that is open (``async with transaction(d):``). Keys that are equal in Python are one
    key; numbers, str, bytes, None, dates, UUIDs, enum members and tuples of these lie in their own order, other hashable keys in that of their
    pickles. An iterator sees the state at its creation, whatever happens meanwhile.

    Arguments and errors are those of :class:`parkit_async.Object`.
    """

    type_name = "parkit.Dict"

    __hash__ = None  # type: ignore[assignment]

    if not TYPE_CHECKING:
        __setitem__ = instead("is awaited: write `await d.set(key, value)`, or use parkit.Dict where nothing can be awaited")
        __delitem__ = instead("is awaited: write `await d.delete(key)`, or use parkit.Dict where nothing can be awaited")
        __contains__ = instead("is awaited: write `await d.contains(key)`, or use parkit.Dict where nothing can be awaited")
        __iter__ = instead("is awaited: write `async for key in d`, or use parkit.Dict where nothing can be awaited")
        __len__ = instead("is awaited: write `await d.len()`, or use parkit.Dict where nothing can be awaited")

        def __bool__(self):
            return True  # and not what __len__ says

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dict) and self._bound().entry.uuid == other._bound().entry.uuid:
            return True
        if isinstance(other, Dict | Mapping):
            return self._copy() == (other._copy() if isinstance(other, Dict) else dict(other.items()))
        return NotImplemented

    def _copy(self) -> dict[Any, Any]:
        """Return all entries; inline, as a comparison cannot be awaited."""
        binding = self._bound()
        found: dict[Any, Any] = binding.namespace.read(lambda reading: dict(Scan(binding, ITEMS).run(reading)))
        return found

    async def __getitem__(self, key: K) -> V:
        meter.left -= 1
        if meter.left < 0:
            await pause()
        value: V = dict_ops.lookup(self._binding or await self._bind(), key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    @overload
    async def get(self, key: K, /) -> V | None: ...
    @overload
    async def get(self, key: K, /, default: V | D) -> V | D: ...
    async def get(self, key: K, /, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default`` if it has none.

        Raises:
            CodecError: The value cannot be decoded.
            TypeError: The key is not hashable.
        """
        meter.left -= 1
        if meter.left < 0:
            await pause()
        return dict_ops.lookup(self._binding or await self._bind(), key, default)

    async def set(self, key: K, value: V) -> None:
        """Store a value. What pickling raises comes out unchanged, with nothing stored.

        Raises:
            NamespaceFullError: It does not fit.
            ContextError: A transaction of another namespace, or a snapshot of this one, is open here.
            TypeError: The key is not hashable.
        """
        binding = self._binding or await self._bind()
        await write(binding.namespace, dict_ops.put, binding, *binding.encode_entry(key, value))

    async def delete(self, key: K) -> None:
        """Delete ``key``; raise KeyError if it is not there."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, dict_ops.delete, binding, locate(key), key)

    async def contains(self, key: object) -> bool:
        """Return whether ``key`` is there."""
        binding = self._binding or await self._bind()
        found: bool = await read(binding.namespace, dict_ops.contains, binding, locate(key))
        return found

    async def len(self) -> int:
        """Return the number of entries; a look at one record."""
        binding = self._binding or await self._bind()
        length: int = await read(binding.namespace, dict_ops.length, binding)
        return length

    def __aiter__(self) -> AsyncIterator[K]:
        return self._stream(KEYS)

    def _stream(
        self, what: str, minimum: Any = MISSING, maximum: Any = MISSING, inclusive: tuple[bool, bool] = (True, True), reverse: bool = False
    ) -> Stream[Any]:
        return Stream(self._binding, self._bind, lambda binding: Scan(binding, what, minimum, maximum, inclusive, reverse).run)

    def irange(
        self, minimum: Any = MISSING, maximum: Any = MISSING, inclusive: tuple[bool, bool] = (True, True), reverse: bool = False
    ) -> AsyncIterator[K]:
        """Iterate over the keys between two, in key order.

        Args:
            minimum: Where to begin; by default at the first key.
            maximum: Where to end; by default at the last key.
            inclusive: Whether ``minimum`` and ``maximum`` themselves belong to it.
            reverse: Begin at the end.
        """
        return self._stream(KEYS, minimum, maximum, inclusive, reverse)

    def keys(self) -> View[K]:
        """Return a view of the keys, for ``async for``."""
        return View(lambda reverse: self._stream(KEYS, reverse=reverse))

    def values(self) -> View[V]:
        """Return a view of the values, in the order of their keys, for ``async for``."""
        return View(lambda reverse: self._stream(VALUES, reverse=reverse))

    def items(self) -> View[tuple[K, V]]:
        """Return a view of the entries, as pairs in the order of their keys, for ``async for``."""
        return View(lambda reverse: self._stream(ITEMS, reverse=reverse))

    @overload
    async def pop(self, key: K, /) -> V: ...
    @overload
    async def pop(self, key: K, /, default: V | D) -> V | D: ...
    async def pop(self, key: K, /, default: Any = MISSING) -> Any:
        """Delete ``key`` and return its value; if it is not there return ``default``, or raise KeyError if none is given."""
        binding = self._binding or await self._bind()
        value = await write(binding.namespace, dict_ops.pop, binding, locate(key), key, default)
        if value is MISSING:
            raise KeyError(key)
        return value

    async def popitem(self) -> tuple[K, V]:
        """Delete the last entry in key order and return it; raise KeyError if there is none."""
        binding = self._binding or await self._bind()
        item: tuple[K, V] = await write(binding.namespace, dict_ops.popitem, binding)
        return item

    async def setdefault(self, key: K, default: Any = None, /) -> Any:
        """Return the value of ``key``; if it is not there store ``default`` and return that."""
        binding = self._binding or await self._bind()
        tail, frame, flags = binding.encode_entry(key, default)
        value = await write(binding.namespace, dict_ops.setdefault, binding, tail, key, frame, flags)
        return default if value is MISSING else value

    async def update(self, other: Any = (), /, **entries: Any) -> None:
        """Store every entry of a mapping, or of an iterable of pairs, and of the keyword arguments: all of them, in one transaction, or none."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, dict_ops.update, binding, binding.encode_many(pairs(other, entries)))

    async def clear(self) -> None:
        """Delete every entry. However many there are, that is a short transaction; their room comes back little by little."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, dict_ops.clear, binding)
