"""The documents of the store as Prometheus has them: text exposition format 0.0.4.

The names of metrics and labels are part of what users build on, so they are here in one table, and none is ever given another meaning.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from .state import Document

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_FAMILIES: Final = {
    "parkit_up": ("gauge", "Whether the store could be read."),
    "parkit_supervisor_running": ("gauge", "Whether the pool has a supervisor."),
    "parkit_pool_size": ("gauge", "Workers that the pool is to have."),
    "parkit_workers": ("gauge", "Workers that there are, by state."),
    "parkit_processes": ("gauge", "Processes, by status."),
    "parkit_queue_depth": ("gauge", "Items in a queue."),
    "parkit_queue_unfinished": ("gauge", "Items of a queue that were not yet acknowledged by task_done."),
    "parkit_queue_dead_letters": ("gauge", "Items of a queue that were set aside because they could not be decoded."),
    "parkit_queue_waiters": ("gauge", "Threads and event loops of other processes that wait for a queue."),
    "parkit_log_entries": ("gauge", "Entries of a log."),
    "parkit_namespace_objects": ("gauge", "Objects of a namespace."),
    "parkit_namespace_used_bytes": ("gauge", "Bytes that the latest state of a namespace takes."),
    "parkit_namespace_max_bytes": ("gauge", "Maximum size of a namespace."),
    "parkit_namespace_file_bytes": ("gauge", "Size of a namespace's file; what is more than used will be used again."),
    "parkit_namespace_commits_total": ("counter", "Transactions that were committed in a namespace since it was made."),
    "parkit_namespace_waiters": ("gauge", "Threads and event loops of other processes that wait in a namespace."),
    "parkit_namespace_readers": ("gauge", "Snapshots of a namespace that other processes have open."),
    "parkit_namespace_oldest_snapshot_seconds": ("gauge", "For how long the oldest snapshot has kept what was overwritten; 0 if there is none."),
}

_Sample = tuple[str, Mapping[str, str], float]


def exposition(store: Document, pool: Document, namespaces: Iterable[Document]) -> str:
    """Return the text that Prometheus reads."""
    samples: dict[str, list[_Sample]] = {name: [] for name in _FAMILIES}
    namespaces = list(namespaces)
    for sample in (*_of_pool(store, pool, namespaces), *(sample for document in namespaces for sample in _of_namespace(document))):
        samples[sample[0]].append(sample)
    lines: list[str] = []
    for name, (kind, text) in _FAMILIES.items():
        if samples[name]:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {_number(value)}" for _, labels, value in samples[name]]
    return "\n".join(lines) + "\n"


def _of_pool(store: Document, pool: Document, namespaces: list[Document]) -> Iterator[_Sample]:
    broken = any("error" in document for document in (store, pool, *namespaces))
    yield "parkit_up", {}, not broken
    if "error" in pool:
        return
    yield "parkit_supervisor_running", {}, pool["running"]
    yield "parkit_pool_size", {}, pool["size"]
    states = dict.fromkeys(("idle", "busy", "retiring"), 0)
    for worker in pool["workers"]:
        states[worker["state"]] = states.get(worker["state"], 0) + 1
    for state, count in states.items():
        yield "parkit_workers", {"state": state}, count


def _of_namespace(document: Document) -> Iterator[_Sample]:
    if "error" in document:
        return
    where = {"namespace": document["name"]}
    for status, count in document["processes"]["counts"].items():
        yield "parkit_processes", {**where, "status": status}, count
    for queue in document["queues"]:
        labels = {**where, "queue": queue["path"]}
        yield "parkit_queue_depth", labels, queue["depth"]
        yield "parkit_queue_unfinished", labels, queue["unfinished"]
        yield "parkit_queue_dead_letters", labels, queue["dead"]
        yield "parkit_queue_waiters", labels, queue["waiters"]
    for log in document["logs"]:
        yield "parkit_log_entries", {**where, "log": log["path"]}, log["length"]
    for name, key in (("objects", "objects"), ("used_bytes", "used"), ("max_bytes", "limit"), ("file_bytes", "file"), ("waiters", "waiting")):
        yield f"parkit_namespace_{name}", where, document[key]
    yield "parkit_namespace_commits_total", where, document["commits"]
    yield "parkit_namespace_readers", where, document["reading"]
    since = [snapshot["since"] for snapshot in document["snapshots"] if snapshot["since"] is not None]
    yield "parkit_namespace_oldest_snapshot_seconds", where, max(0.0, time.time() - min(since)) if since else 0.0


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float) else str(int(value))
