"""What the pool's parties tell each other through the hidden namespace ``__process__``: two dicts, for those who do not wait for turns of a user's.

``pool``, which the supervisor watches::

    size       how many workers there shall be, if that was ever said
    options    see ``settings.PoolOptions``; what was said by function
    epoch      counts the supervisors
    stopped    killall() was called, and nothing was started since; "drains" if it was the supervisor that was told to stop
    handover   epoch of a detached supervisor that is asked to leave its pool to one in the foreground
    worker:ID  who the worker is, see ``identity``; and whether it wants to be replaced

``crew``, which the idle workers watch::

    supervisor    identity and epoch; respawn: whether others are to start another one should it die; foreground: whether it is there
    namespace:N   there are, or were, processes in namespace N
    retire:ID     the worker shall leave as soon as it runs nothing

Both belong to parkit and are written apart from whatever transaction the caller has open in another namespace; nobody who holds this
namespace's turn waits for another one's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from . import dict_ops, object_ops
from .binding import Binding, locate
from .dict_ops import ITEMS, Scan
from .namespace import Namespace
from .paths import POOL_NAMESPACE
from .registry import open_if_there, open_namespace
from .transactions import Reading, Writing

__all__ = ["CREW", "POOL", "add_namespace", "change", "get", "is_known", "known_namespaces", "prefixed", "shelf", "shelf_if_there"]

POOL: Final = "pool"
CREW: Final = "crew"

_NAMESPACE: Final = "namespace:"

_shelves: WeakKeyDictionary[Namespace, dict[str, Binding]] = WeakKeyDictionary()
_known: WeakKeyDictionary[Namespace, set[str]] = WeakKeyDictionary()


def shelf(store: str, name: str) -> Binding:
    """Return one of the two dicts, created if there is none. May wait for the disk."""
    namespace = open_namespace(POOL_NAMESPACE, store)
    shelves = _shelves.setdefault(namespace, {})
    binding = shelves.get(name)
    if binding is None:
        entry = namespace.read(object_ops.find, name)
        if entry is None:
            entry, _ = namespace.write_apart(object_ops.create, (name, "parkit.Dict", True, None, 0, {}))
        binding = shelves[name] = Binding(namespace, f"{POOL_NAMESPACE}/{name}", entry, None)
    return binding


def shelf_if_there(store: str, name: str) -> Binding | None:
    """Return one of the two dicts, or None if no process was ever made in the store; creates nothing."""
    namespace = open_if_there(POOL_NAMESPACE, store)
    return None if namespace is None else shelf(store, name)


def get(binding: Binding, key: str, default: Any = None) -> Any:
    """Return an entry, or ``default``."""
    return binding.namespace.read(dict_ops.get, binding, locate(key), key, default)


def change(
    binding: Binding, entries: dict[str, Any] | None = None, remove: tuple[str, ...] = (), when: Callable[[Reading], bool] | None = None
) -> bool:
    """Change entries in one transaction, apart from whatever is open; blocks while others write.

    Args:
        binding: One of the two dicts.
        entries: To store.
        remove: Keys to delete, if they are there.
        when: Asked in the transaction whether to do it.

    Returns:
        Whether it was done.
    """
    encoded = binding.encode_many(entries or {})
    done: bool = binding.namespace.write_apart(apply, (binding, encoded, remove, when))
    return done


def apply(writing: Writing, binding: Binding, encoded: Any, remove: tuple[str, ...], when: Callable[[Reading], bool] | None) -> bool:
    """Do what :func:`change` says; an operation."""
    if when is not None and not when(writing):
        return False
    dict_ops.update(writing, binding, encoded)
    for key in remove:
        dict_ops.pop(writing, binding, locate(key), key, None)
    return True


def prefixed(binding: Binding, prefix: str) -> dict[str, Any]:
    """Return the entries whose keys begin with a prefix, without it."""

    def scan(reading: Reading) -> dict[str, Any]:
        walk = Scan(binding, ITEMS, prefix, prefix + "\U0010ffff")
        return {key[len(prefix) :]: value for key, value in walk.run(reading)}

    found: dict[str, Any] = binding.namespace.read(scan)
    return found


def add_namespace(store: str, name: str) -> None:
    """Have the workers look for processes in a namespace. Costs nothing when this process has said so before."""
    namespace = open_namespace(POOL_NAMESPACE, store)
    known = _known.setdefault(namespace, set())
    if name not in known:
        crew = shelf(store, CREW)
        if get(crew, _NAMESPACE + name) is None:
            change(crew, {_NAMESPACE + name: True})
        known.add(name)


def is_known(store: str, name: str) -> bool:
    """Return whether :func:`add_namespace` would have nothing to do and nothing to wait for."""
    namespace = open_if_there(POOL_NAMESPACE, store)
    return namespace is not None and name in _known.get(namespace, ())


def known_namespaces(store: str) -> list[str]:
    """Return the names of the namespaces that have, or had, processes, in order."""
    crew = shelf_if_there(store, CREW)
    return [] if crew is None else list(prefixed(crew, _NAMESPACE))
