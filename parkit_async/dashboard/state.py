"""Turn a store into documents: what the page, its events and ``/metrics`` show alike.

::

    store_document       where it is, which namespaces there are
    pool_document        supervisor and workers
    namespace_document   one namespace: fullness, queues, logs, processes, who waits, who reads
    process_document     one process, with what came of it

They are plain JSON, of one moment each, and are made from what ``inspection`` and ``pool_control`` tell. Nothing here changes anything, and no value
of a user's is loaded unless it is plain data (see ``values``).

Invariants:

* What only time changes is given as the moment at which it began, in seconds since 1970, so that a document of a store that rests stays the same.
* Lists are bounded; what is left out is counted.

Any thread may call any of them; they wait for nobody, but opening a namespace may wait for the disk.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Final, NamedTuple

from parkit_async._core import administration, inspection, object_ops, paths, pool_control, process_ops
from parkit_async._core.errors import ProcessCrashedError
from parkit_async._core.inspection import Found
from parkit_async._core.layout import FLAG_SHUT_DOWN, PROCESSES, outcome_key, process_key
from parkit_async._core.namespace import Namespace
from parkit_async._core.output import Output
from parkit_async._core.process_ops import CRASHED, ENDED, FAILED, FINISHED, STATUSES, Listed
from parkit_async._core.processes import UNKNOWN_EXIT
from parkit_async._core.registry import known_namespaces, open_if_there
from parkit_async._core.settings import get_storage_path
from parkit_async._core.shared import ONE_OF, SUPERVISOR
from parkit_async._core.transactions import Reading

from .values import NotPlain, load, printable, shown

__all__ = ["Document", "Look", "find_process", "named_namespace", "namespace_document", "pool_document", "process_document", "store_document"]

Document = dict[str, Any]

ROWS: Final = 200
"""Processes, queues, logs, waiters and readers of a namespace that are shown one by one."""
_LISTENED: Final = 512
"""Objects of a namespace whose bells are listened to; the file tells of the others."""
_LARGEST_FAILURE: Final = 1 << 20
"""Bytes of an error that is loaded: its traceback may be long."""
_HIDDEN: Final = (paths.POOL_NAMESPACE, paths.SYSLOG_NAMESPACE)

_begun = time.time() - time.monotonic()
"""When the monotonic clock was 0. It stays the same, so that moments do not move, until the clock on the wall was set or the machine has slept."""


class Look(NamedTuple):
    """What a look at a namespace found.

    Attributes:
        document: What is shown.
        objects: Ids of the objects whose bells tell of the next change.
        behind: Whether the file already has a commit that readers do not see yet.
    """

    document: Document
    objects: frozenset[int]
    behind: bool


def moment(age: float | None) -> float | None:
    """Return when something happened that was ``age`` seconds ago, to the hundredth."""
    global _begun
    begun = time.time() - time.monotonic()
    if abs(begun - _begun) > 1.0:
        _begun = begun
    return None if age is None else round(_begun + time.monotonic() - age, 2)


# The store.


def store_document() -> Document:
    """Return where the store is and which namespaces it has, parkit's own last."""
    path = get_storage_path()
    names = list(known_namespaces())
    if os.path.isdir(path):
        folder = paths.open_store(path)
        names += [name for name in _HIDDEN if paths.namespace_exists(folder, name)]
    return {"path": printable(path), "namespaces": names, "pid": os.getpid()}


def pool_document() -> Document:
    """Return what there is of the pool."""
    status = pool_control.status()
    for worker in status["workers"]:
        worker["started"] = _seconds(worker["started"])
    status["options"] = pool_control.get_options()
    return status


def _seconds(iso: str | None) -> float | None:
    from datetime import datetime

    return None if iso is None else round(datetime.fromisoformat(iso).timestamp(), 3)


# A namespace.


class _Contents(NamedTuple):
    objects: list[Found]
    processes: list[Listed]
    errors: dict[int, str]
    commit: int


def namespace_document(namespace: Namespace) -> Look:
    """Look at a namespace."""
    found: _Contents = namespace.read(_contents)
    usage = inspection.fullness(namespace)
    names = {entry.entry.object_id: entry.path for entry in found.objects}
    waiting = inspection.waiters(namespace)
    waiters = [
        {"path": printable(names.get(waiter.object_id) or _special(waiter.object_id)), "events": waiter.events, "pid": waiter.pid}
        for waiter in waiting[:ROWS]
    ]
    by_object: dict[int, int] = {}
    for waiter in waiting:
        by_object[waiter.object_id] = by_object.get(waiter.object_id, 0) + 1
    kinds: dict[str, int] = {}
    queues, logs = [], []
    listened: list[int] = []
    processes = {listed.process.object_id for listed in found.processes}
    for entry in found.objects:
        kind = "process" if entry.entry.object_id in processes else _kind(entry)
        kinds[kind] = kinds.get(kind, 0) + 1
        if kind == "queue":
            queues.append(_queue(entry, by_object.get(entry.entry.object_id, 0)))
        elif kind == "log":
            logs.append(_log(entry))
        elif kind != "dict" or namespace.name not in _HIDDEN:
            continue
        listened.append(entry.entry.object_id)
    listened += [listed.process.object_id for listed in found.processes if listed.run.status not in ENDED]
    reading = [snapshot for snapshot in inspection.snapshots(namespace) if snapshot.transaction is not None]
    document = {
        "name": namespace.name,
        "hidden": namespace.name in _HIDDEN,
        "level": administration.get_synchronous(namespace),
        "used": usage.live,
        "file": usage.file,
        "limit": usage.limit,
        "commits": usage.commits,
        "committed": moment(usage.committed),
        "objects": len(found.objects),
        "kinds": kinds,
        "queues": queues[:ROWS],
        "logs": logs[:ROWS],
        "processes": _processes(namespace, found),
        "waiters": waiters,
        "waiting": len(waiting),
        "snapshots": [{"pid": one.pid, "commit": one.transaction, "since": moment(one.age)} for one in reading[:ROWS]],
        "reading": len(reading),
        "left_out": {"queues": max(0, len(queues) - ROWS), "logs": max(0, len(logs) - ROWS)},
    }
    return Look(document, frozenset(listened[:_LISTENED]), found.commit < usage.commits)


def _contents(reading: Reading) -> _Contents:
    processes = process_ops.processes(reading)
    shown_rows = _order(processes)[:ROWS]
    errors = {}
    for listed in shown_rows:
        if listed.run.status == FAILED:
            error = _failure(reading.transaction.get(outcome_key(listed.process.object_id)))
            errors[listed.process.object_id] = printable(f"{error['type'].removeprefix('builtins.')}: {error['message']}", 200)
    return _Contents(inspection.contents(reading), processes, errors, reading.transaction.id())


def _special(object_id: int) -> str:
    if object_id == ONE_OF:
        return "idle workers: a process to run"
    if object_id == SUPERVISOR:
        return "the supervisor: signals asked for"
    return f"#{object_id}"


def _kind(found: Found) -> str:
    """Return what an object is; one of a user's class by what it holds, since the class is not imported here."""
    known = {"parkit.Queue": "queue", "parkit.LifoQueue": "queue", "parkit.Log": "log", "parkit.Dict": "dict", "parkit.Object": "object"}
    kind = known.get(found.entry.type)
    if kind is not None:
        return kind
    state = found.state
    if state.length:
        return "dict"
    if state.head or state.unfinished or state.maxsize or state.dead:
        return "queue"
    return "log" if state.tail else "object"


def _queue(found: Found, waiters: int) -> Document:
    state = found.state
    return {
        "path": found.path,
        "type": found.entry.type.removeprefix("parkit."),
        "depth": state.tail - state.head,
        "unfinished": state.unfinished,
        "maxsize": state.maxsize,
        "dead": state.dead,
        "shut_down": bool(state.flags & FLAG_SHUT_DOWN),
        "waiters": waiters,
    }


def _log(found: Found) -> Document:
    return {"path": found.path, "length": found.state.tail}


# Processes.


def _order(processes: list[Listed]) -> list[Listed]:
    """Return what runs, what waits, what was not started, and then what has ended, the last first."""

    def key(listed: Listed) -> tuple[int, float]:
        run = listed.run
        if run.status in ENDED:
            return 3, -run.ended
        return {"running": (0, run.started), "submitted": (1, float(run.order))}.get(run.status, (2, 0.0))

    return sorted(processes, key=key)


def _processes(namespace: Namespace, found: _Contents) -> Document:
    counts = dict.fromkeys(STATUSES, 0)
    for listed in found.processes:
        counts[listed.run.status] += 1
    rows = [_row(namespace, listed, found.errors.get(listed.process.object_id)) for listed in _order(found.processes)[:ROWS]]
    return {"counts": counts, "rows": rows, "left_out": max(0, len(found.processes) - ROWS)}


def _row(namespace: Namespace, listed: Listed, error: str | None = None) -> Document:
    run = listed.run
    return {
        "name": paths.join(namespace.name, listed.name),
        "uuid": listed.uuid,
        "status": run.status,
        "pid": run.pid or None,
        "exitcode": run.exitcode,
        "submitted": run.submitted or None,
        "started": run.started or None,
        "ended": run.ended or None,
        "signal": _signal_name(run.request) if run.request else None,
        "error": error,
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def find_process(name: str) -> tuple[Namespace, Any, Listed] | None:
    """Return a process by its path: its namespace, its directory entry, and what is known of it; None if there is none."""
    try:
        namespace_name, inner = paths.split(name)
    except ValueError:
        return None
    namespace = open_if_there(namespace_name)
    if namespace is None:
        return None

    def read(reading: Reading) -> tuple[Any, Listed] | None:
        entry = object_ops.find(reading, inner)
        if entry is None or reading.transaction.get(process_key(PROCESSES, entry.object_id)) is None:
            return None
        process = process_ops.Found(entry.object_id, entry.uuid, inner)
        return entry, Listed(process, entry.uuid, inner, process_ops.run_of(reading, process))

    found: tuple[Any, Listed] | None = namespace.read(read)
    return None if found is None else (namespace, *found)


def process_document(name: str) -> Document | None:
    """Return a process with what came of it: its result as text, or type, message and traceback of its error."""
    found = find_process(name)
    if found is None:
        return None
    namespace, entry, listed = found
    frame: bytes | None = namespace.read(lambda reading: reading.transaction.get(outcome_key(entry.object_id)))
    run = listed.run
    document = {**_row(namespace, listed), "created": entry.created, "worker": run.worker or None, "result": None, "failure": None}
    document["output"] = Output(namespace.store, listed.uuid).size()
    if run.status == FINISHED:
        document["result"] = None if frame is None else shown(bytes(frame))
    elif run.status == FAILED:
        document["failure"] = _failure(frame)
    elif run.status == CRASHED:
        exitcode = None if run.exitcode == UNKNOWN_EXIT else run.exitcode
        document["failure"] = {
            "type": "parkit.ProcessCrashedError",
            "message": printable(str(ProcessCrashedError(name, exitcode, None))),
            "traceback": "",
        }
    return document


def _failure(frame: bytes | None) -> dict[str, str]:
    """Return what is told of an error without loading the exception itself, which runs code."""
    try:
        captured = load(bytes(frame or b""), _LARGEST_FAILURE)
        return {name: printable(str(captured[name]), 20_000) for name in ("type", "message", "traceback")}
    except (NotPlain, KeyError, TypeError) as reason:
        return {"type": "error", "message": f"not shown: {reason}", "traceback": ""}


def named_namespace(name: str) -> Namespace | None:
    """Return a namespace by its name, parkit's own included; None if there is none."""
    if name not in _HIDDEN:
        paths.check_namespace(name)
    return open_if_there(name)
