"""The settings of namespaces, and what there is in them: what the functions of both faces do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from . import codecs as _codecs
from . import object_ops, paths
from .engine import FSYNCS, LEVELS, PAGE
from .errors import ContextError, StoragePathError, remedy
from .layout import META_KEY, Meta
from .namespace import Namespace, Statistics
from .objects import describe
from .ownership import contexts, innermost
from .registry import open_if_there
from .settings import Synchronous, check_synchronous
from .shared import WORD_LEVEL, WORD_LIMIT, WORD_USED
from .space import LARGEST
from .transactions import Reading, Writing

__all__ = [
    "SMALLEST",
    "check_codecs",
    "check_size",
    "check_synchronous",
    "get_codecs",
    "get_size",
    "get_synchronous",
    "objects",
    "refuse_context",
    "set_codecs",
    "set_size",
    "set_synchronous",
    "statistics",
    "strengthen",
]

SMALLEST: Final = 256 << 10
"""The least maximum size of a namespace, in bytes."""


def refuse_context(what: str) -> None:
    """Raise ContextError if the caller has a transaction or snapshot open: settings do not take part in it."""
    if contexts and innermost() is not None:
        raise ContextError(f"{what} takes effect at once and cannot be part of a transaction or snapshot; call it outside")


def check_size(size: int) -> int:
    """Return a maximum size if it can be one; raise ValueError or TypeError."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"a namespace's size is a number of bytes, not {type(size).__name__}")
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"a namespace's size is between {SMALLEST:,} and {LARGEST:,} bytes, not {size:,}")
    return size


def check_codecs(names: Iterable[str] | None) -> list[str] | None:
    """Return names of codecs if they run no code; raise ValueError."""
    if names is None:
        return None
    found = sorted({names} if isinstance(names, str) else set(names))
    for name in found:
        if _codecs.runs_code(_codecs.builtin_codec(name)):
            raise ValueError(f"the codec {name!r} can run code when a value is loaded; a namespace can be limited to 'json' and 'raw'")
    if not found:
        raise ValueError("a namespace limited to no codec at all could hold nothing; name 'json' or 'raw', or None for no limit")
    return found


def set_size(writing: Writing, size: int) -> None:
    """Set the maximum size; a write operation."""
    namespace = writing.namespace
    used = namespace.engine.usage().live * PAGE
    if size < used:
        raise ValueError(f"namespace {namespace.name!r} uses {used:,} bytes already, so its maximum size cannot be {size:,}; delete something first")
    _change(writing, size=size)


def strengthen(writing: Writing, level: Synchronous) -> None:
    """Have the next transaction of the namespace committed at a level, if that is stronger than its own; a write operation that writes nothing.

    To be called before :func:`set_synchronous`. A commit that is not synchronized may reach the disk in any order, and what a stronger level promises
    begins with the commit that sets it: so that one must be synchronized, with all that was committed before, and with the folders' entries for it.

    Raises:
        StoragePathError: The folders cannot be synchronized. Nothing has changed.
        TransactionError: A snapshot keeps this process from it, see :meth:`.Namespace.refuse_weaker`. Likewise.
    """
    namespace = writing.namespace
    if FSYNCS[level] <= FSYNCS[Meta.unpack(writing.transaction.get(META_KEY)).level]:
        return
    namespace.refuse_weaker(level)
    try:
        paths.sync_directory(namespace.directory)
        paths.sync_directory(namespace.store)
    except OSError as error:
        raise StoragePathError(
            f"the folder {str(namespace.directory)!r} cannot be synchronized: {error.strerror}; {remedy(error, 'check the disk')}"
        ) from error
    words = namespace.table.words
    words[WORD_LEVEL] = LEVELS.index(level) + 1
    namespace.table.note_settings()


def set_synchronous(writing: Writing, level: Synchronous) -> None:
    """Set the durability level; a write operation."""
    _change(writing, level=level)


def set_codecs(writing: Writing, names: list[str] | None) -> None:
    """Set what codecs are allowed; a write operation."""
    _change(writing, codecs=names)


def _change(writing: Writing, **settings: Any) -> None:
    meta = Meta.unpack(writing.transaction.get(META_KEY))
    for name, value in settings.items():
        setattr(meta, name, value)
    writing.touched += 1
    writing.transaction.put(META_KEY, meta.pack())
    namespace = writing.namespace
    words = namespace.table.words

    def publish() -> None:
        # Under the gate, and only once it is committed: others compare WORD_SETTINGS whenever they begin to write.
        words[WORD_LEVEL] = LEVELS.index(meta.level) + 1
        words[WORD_LIMIT] = meta.size
        words[WORD_USED] = namespace.engine.usage().file * PAGE
        namespace.table.note_settings()

    writing.after_commit = publish


def get_size(namespace: Namespace) -> int:
    """Return the maximum size in bytes."""
    return _meta(namespace).size


def get_synchronous(namespace: Namespace) -> Synchronous:
    """Return the durability level."""
    return check_synchronous(_meta(namespace).level)


def get_codecs(namespace: Namespace) -> list[str] | None:
    """Return the names of the codecs allowed, or None for all."""
    return _meta(namespace).codecs


def _meta(namespace: Namespace) -> Meta:
    return namespace.read(lambda reading: Meta.unpack(reading.transaction.get(META_KEY)))  # type: ignore[no-any-return]


def objects(name: str | None) -> list[tuple[str, Any]]:
    """Return the paths and descriptors of a namespace's objects, in order."""
    checked = paths.check_namespace(name)
    namespace = open_if_there(checked)
    if namespace is None:
        return []

    def read(reading: Reading) -> list[tuple[str, Any]]:
        return [(paths.join(checked, entry_name), describe(entry)) for entry_name, entry in object_ops.entries(reading)]

    found: list[tuple[str, Any]] = namespace.read(read)
    return found


def statistics(namespace: Namespace) -> Statistics:
    """Return a copy of the counters."""
    return namespace.statistics.copy(namespace.lane.hops)
