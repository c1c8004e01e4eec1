"""The namespaces that this process has open: each once, however it is spelled and whichever face opened it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import RLock

from . import fork, paths
from .doorbell import SocketDirectory
from .namespace import Namespace
from .settings import get_storage_path

__all__ = ["all_open", "close_all", "close_store", "known_namespaces", "on_close", "open_if_there", "open_namespace", "opened"]


class _Lock:
    """The module's lock. Another thread may hold it when the process forks, and would never release it in the child."""

    def __init__(self) -> None:
        self.mutex = RLock()
        fork.on_fork(self)

    def forked(self) -> None:
        self.mutex = RLock()


_lock = _Lock()
_namespaces: dict[tuple[str, str], Namespace] = {}
_sockets: dict[Path, SocketDirectory] = {}
_stores: dict[str, Path] = {}


_closing: list[Callable[[], None]] = []


def on_close(close: Callable[[], None]) -> None:
    """Have :func:`close_all` call ``close`` as well, for what a module keeps open besides namespaces."""
    _closing.append(close)


def opened(name: str, store: str | None = None) -> Namespace | None:
    """Return the namespace if this process has it open already. Never waits."""
    return _namespaces.get((store if store is not None else get_storage_path(), name))


def open_namespace(name: str, store: str | None = None) -> Namespace:
    """Return the namespace, created if there is none. May wait for the disk.

    Args:
        name: Has passed ``paths.check_namespace``, or is one of parkit's own.
        store: Path of the store; by default the one set for the process.

    Raises:
        StoragePathError: The store or the namespace cannot be used.
    """
    path = store if store is not None else get_storage_path()
    namespace = _namespaces.get((path, name))
    if namespace is not None and not namespace.closed:
        return namespace
    with _lock.mutex:
        namespace = _namespaces.get((path, name))
        if namespace is not None and not namespace.closed:
            return namespace
        folder = _open_store(path)
        # The same store by another spelling: one environment all the same.
        real = str(folder)
        namespace = _namespaces.get((real, name))
        if namespace is None or namespace.closed:
            directory = paths.namespace_directory(folder, name)
            namespace = Namespace(folder, name, directory, _open_sockets(folder))
            _namespaces[real, name] = namespace
        _namespaces[path, name] = namespace
        return namespace


def open_if_there(name: str, store: str | None = None) -> Namespace | None:
    """Return the namespace, or None if it was never created; creates nothing."""
    path = store if store is not None else get_storage_path()
    if opened(name, path) is None and not (os.path.isdir(path) and paths.namespace_exists(_open_store(path), name)):
        return None
    return open_namespace(name, path)


def known_namespaces(store: str | None = None) -> list[str]:
    """Return the names of the user's namespaces of a store, in order."""
    path = store if store is not None else get_storage_path()
    if not os.path.isdir(path):
        return []
    return paths.list_namespaces(_open_store(path))


def _open_store(path: str) -> Path:
    folder = _stores.get(path)
    if folder is None:
        folder = _stores[path] = paths.open_store(path)
    return folder


def _open_sockets(store: Path) -> SocketDirectory:
    sockets = _sockets.get(store)
    if sockets is None:
        sockets = _sockets[store] = SocketDirectory(store / paths.SOCKETS)
        sockets.sweep()
    return sockets


def all_open() -> Iterator[Namespace]:
    """Iterate over the open namespaces."""
    yield from {id(namespace): namespace for namespace in list(_namespaces.values()) if not namespace.closed}.values()


def close_all() -> None:
    """Close every namespace that this process has open; handles made before it cannot be used again. Idempotent."""
    with _lock.mutex:
        for namespace in list(all_open()):
            namespace.close()
        _namespaces.clear()
        _stores.clear()
        for sockets in _sockets.values():
            sockets.close()
        _sockets.clear()
        for close in _closing:
            close()


def close_store(store: str) -> None:
    """Close every namespace of one store that this process has open; those of other stores stay open. Idempotent."""
    with _lock.mutex:
        folder = _stores.get(store)
        if folder is None:
            return
        for key, namespace in list(_namespaces.items()):
            if namespace.store == folder:
                namespace.close()
                del _namespaces[key]
        sockets = _sockets.pop(folder, None)
        if sockets is not None:
            sockets.close()
        for path in [path for path, its_folder in _stores.items() if its_folder == folder]:
            del _stores[path]
        for close in _closing:
            close()


_born = fork.generation()


def _close_at_exit() -> None:
    if fork.generation() == _born:
        close_all()


atexit.register(_close_at_exit)
