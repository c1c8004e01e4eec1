"""The blocking functions about namespaces."""

# No `from __future__ import annotations`: help() shall print types, not their source.

from collections.abc import Iterable, Iterator

from parkit.typeddicts import Descriptor
from parkit_async._core import administration
from parkit_async._core.namespace import Statistics
from parkit_async._core.paths import check_namespace
from parkit_async._core.registry import known_namespaces, open_namespace
from parkit_async._core.settings import Synchronous
from parkit_async._core.signatures import shown_as

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


def namespaces() -> Iterator[str]:
    """Iterate over the names of the namespaces of the store, in order."""
    return iter(known_namespaces())


@shown_as("(namespace: Union[str, NoneType] = None) -> Iterator[Tuple[str, parkit.typeddicts.Descriptor]]")
def objects(namespace: str | None = None) -> Iterator[tuple[str, Descriptor]]:
    """Iterate over the paths and descriptors of the objects of a namespace, in order.

    Args:
        namespace: Its name; None is ``default``. One that was never created has no objects.
    """
    return iter(administration.objects(namespace))


def get_namespace_size(namespace: str | None = None) -> int:
    """Return the maximum size of a namespace in bytes."""
    return administration.get_size(open_namespace(check_namespace(namespace)))


def set_namespace_size(namespace: str | None, size: int) -> None:
    """Set the maximum size of a namespace; kept with it, and honoured by every process at once, also by those that have it open.

    Args:
        namespace: Its name; None is ``default``. It is created if it does not exist.
        size: Bytes. 2**30 unless it was set.

    Raises:
        ValueError: It is less than what is in use, or than 256 KiB.
        ContextError: A transaction is open here.
    """
    home = open_namespace(check_namespace(namespace))
    administration.refuse_context("set_namespace_size()")
    home.write(administration.set_size, administration.check_size(size))


def get_namespace_synchronous(namespace: str | None = None) -> Synchronous:
    """Return the durability level of a namespace: ``full``, ``normal`` or ``off``."""
    return administration.get_synchronous(open_namespace(check_namespace(namespace)))


def set_namespace_synchronous(namespace: str | None, level: Synchronous) -> None:
    """Set what an acknowledged commit of a namespace survives; kept with it, and honoured by every process.

    Args:
        namespace: Its name; None is ``default``. It is created if it does not exist.
        level: ``full``: power loss. ``normal``: a power loss may undo the last commits, and never damages the file. ``off``: the death
            of any process, not of the machine.

    Raises:
        ValueError: It is none of these.
        ContextError: A transaction is open here.
    """
    home = open_namespace(check_namespace(namespace))
    administration.refuse_context("set_namespace_synchronous()")
    home.write(administration.strengthen, administration.check_synchronous(level))
    home.write(administration.set_synchronous, level)


def get_namespace_codecs(namespace: str | None = None) -> list[str] | None:
    """Return the names of the codecs that a namespace is limited to, or None if it is not."""
    return administration.get_codecs(open_namespace(check_namespace(namespace)))


def set_namespace_codecs(namespace: str | None, codecs: Iterable[str] | None) -> None:
    """Limit a namespace to codecs that run no code when a value is loaded, or lift that; holds for objects opened from now on.

    Args:
        namespace: Its name; None is ``default``. It is created if it does not exist.
        codecs: Names, out of ``json`` and ``raw``; None lifts the limit.

    Raises:
        ValueError: A codec runs code, or is not known.
        ContextError: A transaction is open here.
    """
    home = open_namespace(check_namespace(namespace))
    administration.refuse_context("set_namespace_codecs()")
    home.write(administration.set_codecs, administration.check_codecs(codecs))


def statistics(namespace: str | None = None) -> Statistics:
    """Return what a namespace has done in this process since it was opened: commits, operations, fsyncs, hops and waits."""
    return administration.statistics(open_namespace(check_namespace(namespace)))
