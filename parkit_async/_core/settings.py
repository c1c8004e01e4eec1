"""The settings of a process, in one place: where the store is, how durable a new namespace is, and how the pool behaves.

::

    PARKIT_STORAGE_PATH             folder of the store                                      set_storage_path()
    PARKIT_SYNCHRONOUS              durability of new namespaces: full, normal or off        set_namespace_synchronous()
    PARKIT_PROCESS_POOL_SIZE        workers of the pool; default: one for each processor     set_pool_size()
    PARKIT_PROCESS_GRACE            seconds between SIGTERM and SIGKILL; 5                   set_pool_options(grace=)
    PARKIT_PROCESS_DRAIN            seconds that a stopping service lets processes run; 10   set_pool_options(drain=)
    PARKIT_PROCESS_MAX_TASKS        processes after which a worker is replaced; 0: never     set_pool_options(max_tasks=)
    PARKIT_PROCESS_MAX_AGE          seconds after which a worker is replaced; 0: never       set_pool_options(max_age=)
    PARKIT_PROCESS_MAX_GROWTH       bytes of memory that a worker may grow by; 0: any        set_pool_options(max_growth=)
    PARKIT_PROCESS_OUTPUT_LIMIT     bytes of output kept of a run; 16 MiB                    set_pool_options(output_limit=)
    PARKIT_LOG_LEVEL                least level of log records that workers keep; INFO       set_pool_options(log_level=)

What is said by ``set_pool_size`` and ``set_pool_options`` is kept in the store and goes before the environment, which for the pool is that of its
supervisor.

They live in the environment and nowhere else. A setting made by a function is written to the environment too, so there is one answer and no
order of precedence, and whatever this process starts (a spawned child, a subprocess, the pool) works on the same store without being told.

Invariants: the storage path given out is absolute, so that changing the working folder never changes the store; an empty variable counts as
unset; a wrong value is refused when it is used, by an error that names the variable, the value and what is allowed. Nothing here touches the disk.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Final, Literal, NamedTuple, get_args

from .errors import StoragePathError

__all__ = [
    "PoolOptions",
    "Synchronous",
    "check_pool_option",
    "check_pool_size",
    "check_synchronous",
    "default_pool_options",
    "default_pool_size",
    "default_synchronous",
    "get_storage_path",
    "set_storage_path",
]

Synchronous = Literal["full", "normal", "off"]
"""What an acknowledged commit survives: ``full`` power loss; ``normal`` may lose the last commits in one; ``off`` the death of any process."""

_STORAGE_PATH: Final = "PARKIT_STORAGE_PATH"
_SYNCHRONOUS: Final = "PARKIT_SYNCHRONOUS"
_LEVELS: Final[dict[object, Synchronous]] = {level: level for level in get_args(Synchronous)}


def get_storage_path() -> str:
    """Return the absolute path of the store that objects opened from now on belong to.

    It is ``PARKIT_STORAGE_PATH`` where that is set (by the user or by :func:`set_storage_path`), the user's data folder for parkit otherwise.
    The folder need not exist yet. Any thread may call it.

    Raises:
        StoragePathError: The path is relative, and the working folder was deleted.
    """
    value = os.environ.get(_STORAGE_PATH)
    if value:
        return _anchor(value)
    # Imported here: it is needed only where nobody has chosen a store, and a program that has should not pay for the import.
    import platformdirs

    return str(platformdirs.user_data_path("parkit", appauthor=False))


def set_storage_path(path: str | os.PathLike[str]) -> None:
    """Use the store at a path for every object opened from now on, by both faces, in all threads of this process and in what it starts.

    Objects that are open stay on the store they were opened in. The folder is created, and checked, when the first object is opened.

    Args:
        path: The store's folder; ``~`` is expanded, a relative path is anchored at the present working folder.

    Raises:
        TypeError: The path is not a str or a path of str.
        ValueError: The path is empty or contains NUL.
        StoragePathError: The path is relative, and the working folder was deleted.
    """
    value = os.fspath(path)
    if not isinstance(value, str):
        raise TypeError(f"a storage path is a str or a path of str, not {type(value).__name__}")
    if not value or "\0" in value:
        raise ValueError(f"{value!r} cannot be a storage path: it {'contains NUL' if value else 'is empty'}; give the path of a folder")
    os.environ[_STORAGE_PATH] = _absolute(value)


def default_synchronous() -> Synchronous:
    """Return the durability level of new namespaces: ``PARKIT_SYNCHRONOUS``, or ``full`` where it is not set. Any thread may call it.

    Raises:
        ValueError: The variable holds something else than a level.
    """
    return check_synchronous(os.environ.get(_SYNCHRONOUS) or "full", _SYNCHRONOUS)


def check_synchronous(level: object, origin: str = "synchronous") -> Synchronous:
    """Return a durability level if it is one.

    Args:
        level: What a caller or the environment gave.
        origin: What it was given as, for the message.

    Raises:
        ValueError: It is not a level.
    """
    known = _LEVELS.get(level) if isinstance(level, str) else None
    if known is None:
        allowed = ", ".join(map(repr, _LEVELS))
        raise ValueError(f"{origin} is {level!r}, which is not a durability level; the levels are {allowed}")
    return known


class PoolOptions(NamedTuple):
    """How the pool behaves; see the module."""

    grace: float = 5.0
    drain: float = 10.0
    max_tasks: int = 0
    max_age: float = 0.0
    max_growth: int = 0
    output_limit: int = 16 << 20
    log_level: str = "INFO"


_LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_MOST_WORKERS: Final = 1024


def check_pool_size(size: object, origin: str = "size") -> int:
    """Return a number of workers if it is one.

    Raises:
        TypeError, ValueError: It is not; ``origin`` says as what it was given.
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{origin} is a number of workers, not {type(size).__name__}")
    if not 0 <= size <= _MOST_WORKERS:
        raise ValueError(f"{origin} is {size}, and a pool has between 0 and {_MOST_WORKERS} workers")
    return size


def default_pool_size() -> int:
    """Return the pool's size where nobody has set it: ``PARKIT_PROCESS_POOL_SIZE``, or one worker for each processor that this process may use.

    Raises:
        ValueError: The variable holds something else than a number of workers.
    """
    text = os.environ.get("PARKIT_PROCESS_POOL_SIZE")
    if text:
        return check_pool_size(_number(text, "PARKIT_PROCESS_POOL_SIZE", int), "PARKIT_PROCESS_POOL_SIZE")
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_pool_option(name: str, value: Any, origin: str | None = None) -> Any:
    """Return the value of an option of the pool if it can be one.

    Raises:
        TypeError, ValueError: There is no such option, or it cannot; ``origin`` says as what it was given.
    """
    origin = origin or name
    if name not in PoolOptions._fields:
        raise TypeError(f"{name!r} is no option of the pool; there are {', '.join(PoolOptions._fields)}")
    if name == "log_level":
        if not isinstance(value, str) or value.upper() not in _LOG_LEVELS:
            raise ValueError(f"{origin} is {value!r}, which is no log level; the levels are {', '.join(_LOG_LEVELS)}")
        return value.upper()
    kind = type(PoolOptions._field_defaults[name])
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        raise TypeError(f"{origin} is a number, not {type(value).__name__}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{origin} is {value}, and cannot be negative or endless")
    if kind is float and value > 1e9:  # some thirty years; more does not fit what the system waits with, and need not have digits that can be shown
        raise ValueError(f"{origin} is more than a billion seconds")
    if name == "output_limit" and value < 1024:
        raise ValueError(f"{origin} is {value}, and at least 1024 bytes of output are kept")
    return kind(value)


def default_pool_options() -> PoolOptions:
    """Return how the pool behaves where nothing was set by function.

    Raises:
        ValueError: A variable holds what it cannot.
    """
    found: dict[str, Any] = {}
    for name, default in PoolOptions._field_defaults.items():
        variable = "PARKIT_LOG_LEVEL" if name == "log_level" else f"PARKIT_PROCESS_{name.upper()}"
        text = os.environ.get(variable)
        if text:
            found[name] = check_pool_option(name, text if isinstance(default, str) else _number(text, variable, type(default)), variable)
    return PoolOptions(**found)


def _number(text: str, variable: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}, which is not {'a whole number' if kind is int else 'a number'}") from None


def _absolute(value: str) -> str:
    try:
        return os.path.abspath(os.path.expanduser(value))
    except OSError as error:
        raise StoragePathError(
            f"{_STORAGE_PATH} is {value!r}, which begins in the working folder, and that is not there any more: give an absolute path"
        ) from error


# Cached for its meaning, not for speed: a relative PARKIT_STORAGE_PATH is anchored where it is first used, and a later chdir leaves it there.
_anchor = functools.cache(_absolute)
