"""The blocking Dict."""

# No `from __future__ import annotations`: help() shall print types, not their source.

from collections.abc import ItemsView, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar, overload

from parkit_async._core import dict_ops
from parkit_async._core.arguments import pairs
from parkit_async._core.binding import locate
from parkit_async._core.codecs import Codec
from parkit_async._core.dict_ops import ITEMS, KEYS, MISSING, VALUES, Scan
from parkit_async._core.iteration import stream
from parkit_async._core.signatures import shown_as

from .object import Object

__all__ = ["Dict"]

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Dict(Object, MutableMapping[K, V]):
    """A persistent dict that any process on this machine can open; iteration is in key order.

    Every call is a transaction of its own, or part of the one that is open (``with transaction(d):``). Keys that are equal in Python are one key;
    numbers, str, bytes, None, dates, UUIDs, enum members and tuples of these lie in their own order, other hashable keys in that of their pickles.
    An iterator sees the state at its creation, whatever happens meanwhile. What it iterates over may be changed freely.

    Args:
        path: ``namespace/name``; without a ``/`` the namespace is ``default``.
        create: Create the dict if it does not exist.
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

    type_name = "parkit.Dict"

    @shown_as("(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True)")
    def __init__(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True, codec: Codec | None = None) -> None:
        super().__init__(path, create=create, bind=bind, versioned=versioned, codec=codec)

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dict) and self._binding.entry.uuid == other._binding.entry.uuid:
            return True
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.items()) == dict(other.items())

    def __getitem__(self, key: K) -> V:
        value: V = dict_ops.lookup(self._binding, key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default`` if it has none.

        Raises:
            CodecError: The value cannot be decoded.
            TypeError: The key is not hashable.
        """
        return dict_ops.lookup(self._binding, key, default)

    if TYPE_CHECKING:

        def __setitem__(self, key: K, value: V) -> None: ...
    else:
        __setitem__ = dict_ops.assign

    def set(self, key: K, value: V) -> None:
        """Store a value, as ``d[key] = value`` does. What pickling raises comes out unchanged, with nothing stored.

        Raises:
            NamespaceFullError: It does not fit.
            ContextError: A transaction of another namespace, or a snapshot of this one, is open here.
            TypeError: The key is not hashable.
        """
        self[key] = value

    def __delitem__(self, key: K) -> None:
        self._home.write(dict_ops.delete, self._binding, locate(key), key)

    def delete(self, key: K) -> None:
        """Delete ``key``, as ``del d[key]`` does; raise KeyError if it is not there."""
        del self[key]

    def __contains__(self, key: object) -> bool:
        found: bool = self._home.read(dict_ops.contains, self._binding, locate(key))
        return found

    def contains(self, key: object) -> bool:
        """Return whether ``key`` is there, as ``key in d`` does."""
        return key in self

    def __len__(self) -> int:
        length: int = self._home.read(dict_ops.length, self._binding)
        return length

    def len(self) -> int:
        """Return the number of entries, as ``len(d)`` does; a look at one record."""
        return self.__len__()

    def __iter__(self) -> Iterator[K]:
        return stream(self._binding, Scan(self._binding, KEYS).run)

    def __reversed__(self) -> Iterator[K]:
        return stream(self._binding, Scan(self._binding, KEYS, reverse=True).run)

    def irange(
        self, minimum: Any = MISSING, maximum: Any = MISSING, inclusive: tuple[bool, bool] = (True, True), reverse: bool = False
    ) -> Iterator[K]:
        """Iterate over the keys between two, in key order.

        Args:
            minimum: Where to begin; by default at the first key.
            maximum: Where to end; by default at the last key.
            inclusive: Whether ``minimum`` and ``maximum`` themselves belong to it.
            reverse: Begin at the end.
        """
        return stream(self._binding, Scan(self._binding, KEYS, minimum, maximum, inclusive, reverse).run)

    def keys(self) -> KeysView[K]:
        """Return a view of the keys."""
        return _Keys(self)

    def values(self) -> ValuesView[V]:
        """Return a view of the values, in the order of their keys."""
        return _Values(self)

    def items(self) -> ItemsView[K, V]:
        """Return a view of the entries, as pairs in the order of their keys."""
        return _Items(self)

    @overload
    def pop(self, key: K, /) -> V: ...
    @overload
    def pop(self, key: K, /, default: V | D) -> V | D: ...
    def pop(self, key: K, /, default: Any = MISSING) -> Any:
        """Delete ``key`` and return its value; if it is not there return ``default``, or raise KeyError if none is given."""
        value = self._home.write(dict_ops.pop, self._binding, locate(key), key, default)
        if value is MISSING:
            raise KeyError(key)
        return value

    def popitem(self) -> tuple[K, V]:
        """Delete the last entry in key order and return it; raise KeyError if there is none."""
        item: tuple[K, V] = self._home.write(dict_ops.popitem, self._binding)
        return item

    def setdefault(self, key: K, default: Any = None, /) -> Any:
        """Return the value of ``key``; if it is not there store ``default`` and return that."""
        binding = self._binding
        tail, frame, flags = binding.encode_entry(key, default)
        value = self._home.write(dict_ops.setdefault, binding, tail, key, frame, flags)
        return default if value is MISSING else value

    def update(self, other: Any = (), /, **entries: Any) -> None:
        """Store every entry of a mapping, or of an iterable of pairs, and of the keyword arguments: all of them, in one transaction, or none."""
        binding = self._binding
        binding.namespace.write(dict_ops.update, binding, binding.encode_many(pairs(other, entries)))

    def clear(self) -> None:
        """Delete every entry. However many there are, that is a short transaction; their room comes back little by little."""
        self._home.write(dict_ops.clear, self._binding)


class _Keys(KeysView[Any]):
    _mapping: Dict[Any, Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mapping)

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping.__reversed__()


class _Values(ValuesView[Any]):
    _mapping: Dict[Any, Any]

    def __iter__(self) -> Iterator[Any]:
        binding = self._mapping._binding
        return stream(binding, Scan(binding, VALUES).run)

    def __reversed__(self) -> Iterator[Any]:
        binding = self._mapping._binding
        return stream(binding, Scan(binding, VALUES, reverse=True).run)

    def __contains__(self, value: object) -> bool:
        return any(entry is value or entry == value for entry in self)


class _Items(ItemsView[Any, Any]):
    _mapping: Dict[Any, Any]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        binding = self._mapping._binding
        return stream(binding, Scan(binding, ITEMS).run)

    def __reversed__(self) -> Iterator[tuple[Any, Any]]:
        binding = self._mapping._binding
        return stream(binding, Scan(binding, ITEMS, reverse=True).run)
