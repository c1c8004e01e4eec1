"""Persistent, transactional Dict, Queue, LifoQueue, Log and Object, shared by processes, threads and tasks on one machine.

This is the blocking face; ``parkit_async`` has the same, to be awaited. Both may be used in one program, on the same objects.

    from parkit import Dict, transaction

    prices = Dict("shop/prices")
    with transaction(prices):
        prices["apple"] = prices.get("apple", 0) + 1
"""

from parkit_async._core.codecs import Codec, cloudpickle_codec, json_codec, pickle_codec, raw_codec
from parkit_async._core.namespace import Statistics
from parkit_async._core.queue_ops import DeadLetter
from parkit_async._core.settings import get_storage_path, set_storage_path

from .adapters.dict import Dict
from .adapters.log import Log
from .adapters.object import Object
from .adapters.queue import LifoQueue, Queue
from .exceptions import (
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
from .storage.context import snapshot, transaction
from .storage.namespace import (
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
from .typeddicts import Descriptor

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
    "ShutDown",
    "Statistics",
    "StoragePathError",
    "TransactionError",
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
