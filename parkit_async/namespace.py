"""The awaitable functions about namespaces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from ._core import administration
from ._core.namespace import Statistics
from ._core.ownership import contexts, innermost
from ._core.paths import check_namespace
from ._core.registry import known_namespaces
from ._core.settings import Synchronous, get_storage_path
from .coordinator import Report
from .operations import open_by_name, write
from .runtime import current_runtime

if TYPE_CHECKING:
    from parkit.typeddicts import Descriptor

__all__ = [
    "get_namespace_codecs",
    "get_namespace_size",
    "get_namespace_synchronous",
    "namespaces",
    "objects",
    "set_namespace_codecs",
    "set_namespace_size",
    "set_namespace_synchronous",
    "statistics",
]


async def namespaces() -> AsyncIterator[str]:
    """Iterate over the names of the namespaces of the store, in order."""
    store = get_storage_path()
    for name in await current_runtime().in_thread(object(), lambda: known_namespaces(store)):
        yield name


async def objects(namespace: str | None = None) -> AsyncIterator[tuple[str, Descriptor]]:
    """Iterate over the paths and descriptors of the objects of a namespace, in order.

    Args:
        namespace: Its name; None is ``default``. One that was never created has no objects.
    """
    if contexts and innermost() is not None:
        # The task's own transaction, or snapshot, is what it sees.
        listed = administration.objects(namespace)
    else:
        # A job of its own: one that is under way may have looked before the caller's last commit.
        listed = await current_runtime().in_thread(object(), lambda: administration.objects(namespace))
    for found in listed:
        yield found


async def get_namespace_size(namespace: str | None = None) -> int:
    """Return the maximum size of a namespace in bytes."""
    return administration.get_size(await open_by_name(check_namespace(namespace)))


async def set_namespace_size(namespace: str | None, size: int) -> None:
    """Set the maximum size of a namespace; kept with it, and honoured by every process at once, also by those that have it open.

    Args:
        namespace: Its name; None is ``default``. It is created if it does not exist.
        size: Bytes. 2**30 unless it was set.

    Raises:
        ValueError: It is less than what is in use, or than 256 KiB.
        ContextError: A transaction is open here.
    """
    await _set(namespace, "set_namespace_size()", administration.set_size, administration.check_size(size))


async def get_namespace_synchronous(namespace: str | None = None) -> Synchronous:
    """Return the durability level of a namespace: ``full``, ``normal`` or ``off``."""
    return administration.get_synchronous(await open_by_name(check_namespace(namespace)))


async def set_namespace_synchronous(namespace: str | None, level: Synchronous) -> None:
    """Set what an acknowledged commit of a namespace survives; kept with it, and honoured by every process.

    Args:
        namespace: Its name; None is ``default``. It is created if it does not exist.
        level: ``full``: power loss. ``normal``: a power loss may undo the last commits, and never damages the file. ``off``: the death
            of any process, not of the machine.

    Raises:
        ValueError: It is none of these.
        ContextError: A transaction is open here.
    """
    await _set(namespace, "set_namespace_synchronous()", administration.strengthen, administration.check_synchronous(level))
    await _set(namespace, "set_namespace_synchronous()", administration.set_synchronous, level)


async def get_namespace_codecs(namespace: str | None = None) -> list[str] | None:
    """Return the names of the codecs that a namespace is limited to, or None if it is not."""
    return administration.get_codecs(await open_by_name(check_namespace(namespace)))


async def set_namespace_codecs(namespace: str | None, codecs: Iterable[str] | None) -> None:
    """Limit a namespace to codecs that run no code when a value is loaded, or lift that; holds for objects opened from now on.

    Args:
        namespace: Its name; None is ``default``. It is created if it does not exist.
        codecs: Names, out of ``json`` and ``raw``; None lifts the limit.

    Raises:
        ValueError: A codec runs code, or is not known.
        ContextError: A transaction is open here.
    """
    await _set(namespace, "set_namespace_codecs()", administration.set_codecs, administration.check_codecs(codecs))


async def statistics(namespace: str | None = None) -> Statistics:
    """Return what a namespace has done in this process since it was opened: commits, operations, fsyncs, hops and waits."""
    home = await open_by_name(check_namespace(namespace))
    report: Statistics = await current_runtime().coordinator(home).ask(Report())
    return report


async def _set(namespace: str | None, what: str, operation: Any, value: Any) -> None:
    home = await open_by_name(check_namespace(namespace))
    administration.refuse_context(what)
    await write(home, operation, value)
