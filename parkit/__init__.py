"""Persistent, transactional Dict, Queue, LifoQueue, Log, Object and Process, shared by processes, threads and tasks on one machine.

This is the blocking face; ``parkit_async`` has the same, to be awaited. Both may be used in one program, on the same objects.

    from parkit import Dict, transaction

    prices = Dict("shop/prices")
    with transaction(prices):
        prices["apple"] = prices.get("apple", 0) + 1
"""

from typing import TYPE_CHECKING, Any

from parkit_async._core.codecs import Codec, cloudpickle_codec, json_codec, pickle_codec, raw_codec
from parkit_async._core.namespace import Statistics
from parkit_async._core.output import Output
from parkit_async._core.queue_ops import DeadLetter
from parkit_async._core.settings import get_storage_path, set_storage_path

from .adapters.dict import Dict
from .adapters.log import Log
from .adapters.object import Object
from .adapters.process import Process
from .adapters.queue import LifoQueue, Queue
from .exceptions import (
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
from .syslog import syslog
from .typeddicts import Descriptor

if TYPE_CHECKING:
    from parkit_async._core.executor import ProcessPoolExecutor
    from parkit_async._core.syslog_handler import SyslogHandler

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
    "RemoteError",
    "ShutDown",
    "Statistics",
    "StoragePathError",
    "SyslogHandler",
    "TransactionError",
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


# They need logging and concurrent.futures, each of which takes longer to import than all of the core.
_LATER = {"ProcessPoolExecutor": "parkit_async._core.executor", "SyslogHandler": "parkit_async._core.syslog_handler"}


def __getattr__(name: str) -> Any:
    home = _LATER.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(home), name)
    return found
