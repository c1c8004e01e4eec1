"""The log of a whole store: what its supervisor, its workers and whoever wishes have to say, as records in one Log.

It is kept in a hidden namespace of its own, without fsyncs, so that logging waits for no disk; a power loss may cost the last records. When that
namespace is full the log is cleared, and says so in its first record.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from . import administration, log_ops, object_ops
from .binding import Binding
from .doorbell import EVENT_CHANGE
from .errors import NamespaceFullError
from .layout import index_key
from .namespace import Namespace
from .objects import Declaration
from .paths import SYSLOG_NAMESPACE
from .reclaim import reclaim_slice
from .registry import open_namespace, opened
from .transactions import Writing

__all__ = ["NAME", "SIZE", "append", "declaration", "open_syslog", "opened_syslog"]

NAME: Final = "syslog"
SIZE: Final = 64 << 20
"""Bytes that the log may take."""


_bindings: WeakKeyDictionary[Namespace, Binding] = WeakKeyDictionary()


def opened_syslog(store: str) -> Binding | None:
    """Return the log of a store if this process has it open already. Never waits."""
    namespace = opened(SYSLOG_NAMESPACE, store)
    return None if namespace is None or namespace.closed else _bindings.get(namespace)


def open_syslog(store: str) -> Binding:
    """Return the log of a store, created if there is none. May wait for the disk."""
    namespace = open_namespace(SYSLOG_NAMESPACE, store)
    binding = _bindings.get(namespace)
    if binding is None:
        entry = namespace.read(object_ops.find, NAME)
        if entry is None:
            namespace.write_apart(administration.set_size, (SIZE,))
            namespace.write_apart(administration.set_synchronous, ("off",))
            entry, _ = namespace.write_apart(object_ops.create, (NAME, "parkit.Log", True, None, 0, {}))
        binding = _bindings[namespace] = Binding(namespace, NAME, entry, None)
    return binding


def declaration(store: str) -> Declaration:
    """Return what a handle of the log is made with."""
    return Declaration(store, SYSLOG_NAMESPACE, NAME, True, True, True, None, 0, {}, None)


def append(store: str, record: dict[str, Any]) -> None:
    """Append a record, in a transaction of its own; blocks while others append."""
    binding = open_syslog(store)
    frame = binding.encode(record)
    while True:
        try:
            binding.namespace.write_apart(log_ops.append, (binding, frame))
            return
        except NamespaceFullError:
            if not binding.namespace.write_apart(_make_room, (binding, len(frame))):
                raise


def _make_room(writing: Writing, binding: Binding, size: int) -> bool:
    """Delete a slice of what was cleared before, or clear the log. Return whether it is worth another attempt.

    What one transaction deletes the next one can use, so the record that did not fit cannot be stored by this one.
    """
    with suppress(NamespaceFullError):
        writing.reserve(size + 64)  # more than append() asks for, so that it does not fail again
        return True  # another process was faster
    _, found = reclaim_slice(writing)
    if found:
        return True
    if log_ops.length(writing, binding) <= 1 or size > SIZE // 2:  # it does not help, or costs all the others for one that is too big
        return False
    log_ops.clear(writing, binding)
    state = writing.change(binding, EVENT_CHANGE)
    writing.transaction.put(index_key(state.prefix, state.tail), binding.encode(_cleared()))  # as deletes do, without asking for room
    state.tail += 1
    return True


def _cleared() -> dict[str, Any]:
    message = f"the log had reached its {SIZE:,} bytes and was cleared"
    return {"time": time.time(), "level": "WARNING", "logger": "parkit.syslog", "message": message, "pid": os.getpid(), "process": None}
