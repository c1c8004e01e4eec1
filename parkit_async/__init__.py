"""Persistent, transactional Dict, Queue, LifoQueue, Log, Object and Process, shared by processes, threads and tasks on one machine, to be awaited.

``parkit`` is the blocking face of the same. Both may be used in one program, on the same objects.

    from parkit_async import Dict, transaction

    prices = await Dict("shop/prices")
    async with transaction(prices):
        await prices.set("apple", await prices.get("apple", 0) + 1)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parkit.typeddicts import Descriptor

    from ._core.codecs import Codec, cloudpickle_codec, json_codec, pickle_codec, raw_codec
    from ._core.errors import (
        CodecError,
        ContextError,
        NamespaceFullError,
        ObjectExistsError,
        ObjectNotFoundError,
        ParkitError,
        ProcessCrashedError,
        ProcessError,
        RemoteError,
        ShutDown,
        StoragePathError,
        TransactionError,
    )
    from ._core.executor import ProcessPoolExecutor
    from ._core.namespace import Statistics
    from ._core.output import Output
    from ._core.queue_ops import DeadLetter
    from ._core.settings import get_storage_path, set_storage_path
    from ._core.syslog_handler import SyslogHandler
    from .contexts import snapshot, transaction
    from .dict import Dict
    from .lifespan import lifespan
    from .log import Log
    from .namespace import (
        get_namespace_codecs,
        get_namespace_size,
        get_namespace_synchronous,
        namespaces,
        objects,
        set_namespace_codecs,
        set_namespace_size,
        set_namespace_synchronous,
        statistics,
    )
    from .object import Object
    from .pool import (
        ProcessPriority,
        clean,
        get_pool_options,
        get_pool_size,
        killall,
        pool_status,
        processes,
        set_pool_options,
        set_pool_size,
        set_process_priority,
    )
    from .process import Process
    from .queue import LifoQueue, Queue, QueueEmpty, QueueFull, QueueShutDown
    from .runtime import aclose
    from .syslog import syslog

# Imported when first asked for: `import parkit` needs this package for its core, and asyncio alone takes longer to import than all of that.
_HOME = {
    "Codec": "._core.codecs",
    "CodecError": "._core.errors",
    "ContextError": "._core.errors",
    "DeadLetter": "._core.queue_ops",
    "Descriptor": "parkit.typeddicts",
    "Dict": ".dict",
    "LifoQueue": ".queue",
    "Log": ".log",
    "NamespaceFullError": "._core.errors",
    "Object": ".object",
    "ObjectExistsError": "._core.errors",
    "ObjectNotFoundError": "._core.errors",
    "Output": "._core.output",
    "ParkitError": "._core.errors",
    "Process": ".process",
    "ProcessCrashedError": "._core.errors",
    "ProcessError": "._core.errors",
    "ProcessPoolExecutor": "._core.executor",
    "ProcessPriority": ".pool",
    "Queue": ".queue",
    "QueueEmpty": ".queue",
    "QueueFull": ".queue",
    "QueueShutDown": ".queue",
    "RemoteError": "._core.errors",
    "ShutDown": "._core.errors",
    "Statistics": "._core.namespace",
    "StoragePathError": "._core.errors",
    "SyslogHandler": "._core.syslog_handler",
    "TransactionError": "._core.errors",
    "aclose": ".runtime",
    "clean": ".pool",
    "cloudpickle_codec": "._core.codecs",
    "get_namespace_codecs": ".namespace",
    "get_namespace_size": ".namespace",
    "get_namespace_synchronous": ".namespace",
    "get_pool_options": ".pool",
    "get_pool_size": ".pool",
    "get_storage_path": "._core.settings",
    "json_codec": "._core.codecs",
    "killall": ".pool",
    "lifespan": ".lifespan",
    "namespaces": ".namespace",
    "objects": ".namespace",
    "pickle_codec": "._core.codecs",
    "pool_status": ".pool",
    "processes": ".pool",
    "raw_codec": "._core.codecs",
    "set_namespace_codecs": ".namespace",
    "set_namespace_size": ".namespace",
    "set_namespace_synchronous": ".namespace",
    "set_pool_options": ".pool",
    "set_pool_size": ".pool",
    "set_process_priority": ".pool",
    "set_storage_path": "._core.settings",
    "snapshot": ".contexts",
    "statistics": ".namespace",
    "syslog": ".syslog",
    "transaction": ".contexts",
}

__all__ = [
    "Codec",
    "CodecError",
    "ContextError",
    "DeadLetter",
    "Descriptor",
    "Dict",
    "LifoQueue",
    "Log",
    "NamespaceFullError",
    "Object",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "Output",
    "ParkitError",
    "Process",
    "ProcessCrashedError",
    "ProcessError",
    "ProcessPoolExecutor",
    "ProcessPriority",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "RemoteError",
    "ShutDown",
    "Statistics",
    "StoragePathError",
    "SyslogHandler",
    "TransactionError",
    "aclose",
    "clean",
    "cloudpickle_codec",
    "get_namespace_codecs",
    "get_namespace_size",
    "get_namespace_synchronous",
    "get_pool_options",
    "get_pool_size",
    "get_storage_path",
    "json_codec",
    "killall",
    "lifespan",
    "namespaces",
    "objects",
    "pickle_codec",
    "pool_status",
    "processes",
    "raw_codec",
    "set_namespace_codecs",
    "set_namespace_size",
    "set_namespace_synchronous",
    "set_pool_options",
    "set_pool_size",
    "set_process_priority",
    "set_storage_path",
    "snapshot",
    "statistics",
    "syslog",
    "transaction",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(home, __name__), name)

    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
