"""Persistent, transactional Dict, Queue, LifoQueue, Log and Object, shared by processes, threads and tasks on one machine, to be awaited.

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
        ShutDown,
        StoragePathError,
        TransactionError,
    )
    from ._core.namespace import Statistics
    from ._core.queue_ops import DeadLetter
    from ._core.settings import get_storage_path, set_storage_path
    from .contexts import snapshot, transaction
    from .dict import Dict
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
    from .queue import LifoQueue, Queue, QueueEmpty, QueueFull, QueueShutDown
    from .runtime import aclose

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
    "ParkitError": "._core.errors",
    "Queue": ".queue",
    "QueueEmpty": ".queue",
    "QueueFull": ".queue",
    "QueueShutDown": ".queue",
    "ShutDown": "._core.errors",
    "Statistics": "._core.namespace",
    "StoragePathError": "._core.errors",
    "TransactionError": "._core.errors",
    "aclose": ".runtime",
    "cloudpickle_codec": "._core.codecs",
    "get_namespace_codecs": ".namespace",
    "get_namespace_size": ".namespace",
    "get_namespace_synchronous": ".namespace",
    "get_storage_path": "._core.settings",
    "json_codec": "._core.codecs",
    "namespaces": ".namespace",
    "objects": ".namespace",
    "pickle_codec": "._core.codecs",
    "raw_codec": "._core.codecs",
    "set_namespace_codecs": ".namespace",
    "set_namespace_size": ".namespace",
    "set_namespace_synchronous": ".namespace",
    "set_storage_path": "._core.settings",
    "snapshot": ".contexts",
    "statistics": ".namespace",
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
    "ParkitError",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "ShutDown",
    "Statistics",
    "StoragePathError",
    "TransactionError",
    "aclose",
    "cloudpickle_codec",
    "get_namespace_codecs",
    "get_namespace_size",
    "get_namespace_synchronous",
    "get_storage_path",
    "json_codec",
    "namespaces",
    "objects",
    "pickle_codec",
    "raw_codec",
    "set_namespace_codecs",
    "set_namespace_size",
    "set_namespace_synchronous",
    "set_storage_path",
    "snapshot",
    "statistics",
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
