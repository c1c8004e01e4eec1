"""The exceptions of parkit; one tree for both faces."""

from parkit_async._core.errors import (
    CodecError,
    ContextError,
    NamespaceFullError,
    ObjectExistsError,
    ObjectNotFoundError,
    ParkitError,
    ProcessCrashedError,
    ProcessError,
    RemoteError,
    RemoteTraceback,
    ShutDown,
    StoragePathError,
    TransactionError,
)

__all__ = [
    "CodecError",
    "ContextError",
    "NamespaceFullError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ParkitError",
    "ProcessCrashedError",
    "ProcessError",
    "RemoteError",
    "RemoteTraceback",
    "ShutDown",
    "StoragePathError",
    "TransactionError",
]
