"""The pool as a whole: its size, its options, its end. What the functions of both faces do."""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Iterator
from typing import Any

from . import paths, pool_state, process_ops, supervision
from .administration import refuse_context
from .deaths import DeathWatch, open_death_watch
from .identity import Identity, identity_of
from .paths import open_store
from .processes import describe
from .registry import open_if_there
from .settings import check_pool_option, check_pool_size, default_pool_options, default_pool_size, get_storage_path

__all__ = [
    "ProcessPriority",
    "get_options",
    "get_size",
    "set_options",
    "set_priority",
    "set_size",
    "status",
    "stopping",
    "store",
]


class ProcessPriority(enum.Enum):
    """How urgent a process is to the operating system's scheduler."""

    Low = "low"
    Normal = "normal"
    High = "high"


_NICENESS = {ProcessPriority.Low: 10, ProcessPriority.Normal: 0, ProcessPriority.High: -10}
_CLASSES = {
    ProcessPriority.Low: "BELOW_NORMAL_PRIORITY_CLASS",
    ProcessPriority.Normal: "NORMAL_PRIORITY_CLASS",
    ProcessPriority.High: "HIGH_PRIORITY_CLASS",
}


def store() -> str:
    """Return the path of the store, which need not exist."""
    path = get_storage_path()
    return str(open_store(path)) if os.path.isdir(path) else path


def get_size() -> int:
    """Return how many workers there shall be."""
    pool = _pool_if_there()
    size = None if pool is None else pool_state.get(pool, "size")
    return default_pool_size() if size is None else int(size)


def set_size(size: int) -> None:
    """Set how many workers there shall be; may wait for the disk."""
    check_pool_size(size)
    refuse_context("set_pool_size()")
    pool_state.change(pool_state.shelf(str(open_store(get_storage_path())), pool_state.POOL), {"size": size})


def get_options() -> dict[str, Any]:
    """Return how the pool behaves."""
    pool = _pool_if_there()
    said = {} if pool is None else pool_state.get(pool, "options", {})
    return default_pool_options()._replace(**said)._asdict()


def set_options(options: dict[str, Any]) -> None:
    """Set how the pool behaves; may wait for the disk."""
    checked = {name: None if value is None else check_pool_option(name, value) for name, value in options.items()}
    refuse_context("set_pool_options()")
    pool = pool_state.shelf(str(open_store(get_storage_path())), pool_state.POOL)
    said = {**pool_state.get(pool, "options", {}), **checked}
    pool_state.change(pool, {"options": {name: value for name, value in said.items() if value is not None}})


def stopping() -> Iterator[DeathWatch | supervision.StartWatch]:
    """Ask the pool to end. Iterate over who must be gone before it has: watches to wait for, and to close. May wait for the disk."""
    refuse_context("killall()")
    if not os.path.isdir(get_storage_path()):
        return
    path = store()
    pool = pool_state.shelf_if_there(path, pool_state.POOL)
    if pool is None:
        return
    supervisor = _supervisor(path)  # looked for before it is asked: it lets go of its lock a moment before it ends
    pool_state.change(pool, {"stopped": True})
    while pool_state.get(pool, "stopped"):  # else a start() has begun another pool, which is not to end; looked at after who supervises
        if supervisor is not None:
            yield open_death_watch(supervisor)
        supervisor = _supervisor(path)
        if supervisor is None:
            starting = supervision.begin_starting(path)
            if starting is None:
                # A service that is on its way would come after this returns, start workers, and only then see that it is to stop.
                yield supervision.StartWatch(path)
                supervisor = _supervisor(path)
                continue
            os.close(starting)
            left = [Identity(*record["identity"]) for record in pool_state.prefixed(pool, "worker:").values()]
            if not left:
                return
            # Workers without a supervisor: the next one adopts them, sees that it is to stop, and ends them.
            supervision.launch(path)
            for identity in left:
                yield open_death_watch(identity)


def _supervisor(path: str) -> Identity | None:
    pid = supervision.running_supervisor(path)
    return None if pid is None else identity_of(pid)


def status() -> dict[str, Any]:
    """Return what there is of the pool."""
    found: dict[str, Any] = {"running": False, "pid": None, "epoch": 0, "size": get_size(), "workers": []}
    if not os.path.isdir(get_storage_path()):
        return found
    path = store()
    pool, crew = pool_state.shelf_if_there(path, pool_state.POOL), pool_state.shelf_if_there(path, pool_state.CREW)
    if pool is None or crew is None:
        return found
    found["pid"] = supervision.running_supervisor(path)
    found["running"] = found["pid"] is not None
    found["epoch"] = pool_state.get(pool, "epoch", 0)
    busy: dict[str, dict[str, Any]] = {}
    for name in pool_state.known_namespaces(path):
        namespace = open_if_there(name, path)
        if namespace is not None:
            for process in namespace.read(process_ops.running):
                busy[process.run.worker] = describe(paths.join(name, process.name), process.run)
    retiring = pool_state.prefixed(crew, "retire:")
    for worker, record in pool_state.prefixed(pool, "worker:").items():
        run = busy.get(worker)
        found["workers"].append(
            {
                "id": worker,
                "pid": record["identity"][0],
                "state": "retiring" if worker in retiring else "idle" if run is None else "busy",
                "process": None if run is None else run["name"],
                "started": None if run is None else run["started"],
            }
        )
    return found


def set_priority(priority: ProcessPriority) -> None:
    """Set the calling process's priority."""
    if not isinstance(priority, ProcessPriority):
        raise TypeError(f"priority is a ProcessPriority (Low, Normal or High), not {type(priority).__name__}")
    import psutil

    process = psutil.Process()
    try:
        # On Windows priorities are classes, and psutil has their constants there alone.
        process.nice(getattr(psutil, _CLASSES[priority]) if psutil.WINDOWS else _NICENESS[priority])
    except psutil.AccessDenied as error:
        raise PermissionError(
            errno.EACCES, f"the system does not let this process become {priority.value}; raising a priority takes privileges"
        ) from error


def _pool_if_there() -> Any:
    path = get_storage_path()
    return pool_state.shelf_if_there(str(open_store(path)), pool_state.POOL) if os.path.isdir(path) else None
