"""What ``parkit doctor`` looks at. Each check is a function that yields findings, and says for each what to do.

A *problem* is wrong now; a *warning* is about to be, or costs more than it should; a *note* is worth knowing. Checks change nothing, but for what any
process does that opens a namespace: it frees the reader slots of dead ones.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from parkit_async._core import engine, inspection, maintenance, paths
from parkit_async._core.engine import EngineError
from parkit_async._core.errors import ParkitError, StoragePathError
from parkit_async._core.namespace import Namespace
from parkit_async._core.registry import open_if_there, opened

from .render import human_age, human_bytes
from .store import program

__all__ = ["NOTE", "OK", "PROBLEM", "WARNING", "Finding", "diagnose"]

OK: Final = "ok"
NOTE: Final = "note"
WARNING: Final = "warning"
PROBLEM: Final = "problem"

_NEARLY_FULL: Final = 0.85
_LONG: Final = 60.0
"""Seconds after which a snapshot that holds old pages is told of."""
_LEFT_OVER: Final = 3600.0
"""Seconds after which what somebody was making is taken for abandoned."""
_NEW: Final = 60.0
"""Seconds for which an output is not taken for an orphan."""
_LEAST_DISK: Final = 256 << 20
_WASTE: Final = 64 << 20


class Finding(NamedTuple):
    """What a check has found.

    Attributes:
        state: ``ok``, ``note``, ``warning`` or ``problem``.
        check: What was looked at.
        text: What was found.
        remedy: What to do; None if there is nothing.
    """

    state: str
    check: str
    text: str
    remedy: str | None = None


def diagnose(path: str) -> Iterator[Finding]:
    """Examine a store."""
    yield from _versions()
    if not os.path.lexists(path):
        yield Finding(NOTE, "store", f"there is none at {path} yet", "it is created when it is first used; name another one with PARKIT_STORAGE_PATH")
        return
    try:
        store = paths.open_store(path)
    except StoragePathError as error:
        yield Finding(PROBLEM, "store", str(error), "see there; nothing else was looked at")
        return
    yield Finding(OK, "store", str(store))
    yield from _permissions(store)
    yield from _file_system(store)
    yield from _leftovers(store)
    for name in maintenance.every_namespace(store):
        yield from _namespace(store, name)
    yield from _pool(store)


def _versions() -> Iterator[Finding]:
    from importlib.metadata import version

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(OK, "versions", f"parkit {version('parkit')}, Python {python}, LMDB {engine.library_version()} (lmdb {version('lmdb')})")


def _permissions(store: Path) -> Iterator[Finding]:
    folders = [store, *(Path(entry.path) for entry in os.scandir(store) if entry.is_dir(follow_symlinks=False))]
    loose = [folder for folder in folders if stat.S_IMODE(os.stat(folder).st_mode) & 0o077]
    if loose and loose[0] == store:
        text = f"others can look into it (mode {stat.S_IMODE(os.stat(store).st_mode):04o})"
        yield Finding(WARNING, "permissions", text, f"chmod 700 {store}")
    elif loose:
        yield Finding(NOTE, "permissions", f"{loose[0].name} would be open to others, if they could enter the store", f"chmod 700 {loose[0]}")
    else:
        yield Finding(OK, "permissions", "the owner's alone")


def _file_system(store: Path) -> Iterator[Finding]:
    kind = paths._file_system(str(store))
    free = shutil.disk_usage(store).free
    where = f"{human_bytes(free)} free" + (f" on {kind}" if kind else "")
    if free < _LEAST_DISK:
        yield Finding(PROBLEM if free < _LEAST_DISK // 16 else WARNING, "disk", where, "make room: a write that finds none fails")
    elif kind in {"tmpfs", "ramfs"}:
        yield Finding(WARNING, "disk", f"{where}, which is memory: all is lost when the machine stops", "choose a folder on a disk")
    else:
        yield Finding(OK, "disk", where)


def _leftovers(store: Path) -> Iterator[Finding]:
    now = time.time()
    for entry in os.scandir(store):
        age = now - entry.stat(follow_symlinks=False).st_mtime
        if entry.name.startswith(".new-") and age > _LEFT_OVER:
            yield Finding(NOTE, "leftovers", f"{entry.name}, begun {human_age(age)} ago and never finished", f"rm -r {entry.path}")
        elif "~" in entry.name and (entry.is_symlink() or entry.is_dir()):
            name = paths._name_if_any(entry)
            if name is None or paths._directory_name(name) != entry.name:
                holds = (
                    "has no file 'name' of parkit's making"
                    if name is None
                    else f"says that it holds namespace {name!r}, whose folder has another name"
                )
                yield Finding(WARNING, "leftovers", f"the folder {entry.name} {holds}", "a copy or a renamed folder; move it out of the store")


def _namespace(store: Path, name: str) -> Iterator[Finding]:
    check = f"namespace {name}"
    findings = []
    try:
        directory = maintenance.existing_directory(store, name)
        if opened(name, str(store)) is None and (directory / "data.mdb").exists():
            # As they are, before opening the namespace frees those of the dead.
            dead = sorted({reader.pid for reader in engine.reader_lines(directory) if not _is_alive(reader.pid)})
            if dead:
                text = f"stale reader slots of dead processes {', '.join(map(str, dead))}"
                findings.append(Finding(NOTE, check, text, "none: they are freed now, and whenever room is needed"))
        namespace = open_if_there(name, str(store))
        assert namespace is not None
        findings += _of_namespace(namespace, check)
    except (ParkitError, EngineError) as error:
        findings.append(Finding(PROBLEM, check, str(error), f"parkit verify {name}; restore it from a backup if it is damaged"))
    yield from findings


def _of_namespace(namespace: Namespace, check: str) -> Iterator[Finding]:
    name = namespace.name
    usage = inspection.fullness(namespace)
    share = usage.live / usage.limit
    size = f"{human_bytes(usage.live)} of {human_bytes(usage.limit)} used, {human_bytes(usage.file)} on disk"
    if share >= _NEARLY_FULL:
        remedy = f"delete what is not needed, or set_namespace_size({name!r}, ...) to more"
        yield Finding(PROBLEM if share >= 0.99 else WARNING, check, f"{share:.0%} full: {size}", remedy)
    else:
        yield Finding(OK, check, size)
    waste = usage.file - usage.live
    if waste > _WASTE and waste > usage.live:
        yield Finding(NOTE, check, f"{human_bytes(waste)} of the file are free", f"they will be used again; to give them back: parkit compact {name}")
    for snapshot in inspection.snapshots(namespace):
        if snapshot.transaction is not None and (snapshot.age or 0.0) > _LONG:
            who = f"process {snapshot.pid} ({program(snapshot.pid) or 'of another user'})"
            text = f"{who} has had a snapshot or iterator open for {human_age(snapshot.age or 0.0)}: what was overwritten since keeps its room"
            yield Finding(WARNING, check, text, f"close it there, or end that process (kill {snapshot.pid})")
    dead = sum(waiter.pid is None for waiter in inspection.waiters(namespace))
    if dead:
        yield Finding(NOTE, check, f"{dead} waiter{'s' if dead > 1 else ''} died while waiting", "none: who would wake them notices")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _pool(store: Path) -> Iterator[Finding]:
    if not paths.namespace_exists(store, paths.POOL_NAMESPACE):
        yield Finding(OK, "pool", "never used")
        return
    from parkit import pool_status, processes

    status: dict[str, Any] = pool_status()
    everything = list(processes())
    submitted = sum(process.status == "submitted" for process in everything)
    running = sum(process.status == "running" for process in everything)
    counts = f"{len(status['workers'])} of {status['size']} workers, {running} running, {submitted} submitted"
    if status["running"]:
        yield Finding(OK, "pool", f"the supervisor (process {status['pid']}) is there: {counts}")
    elif submitted or running:
        yield Finding(PROBLEM, "pool", f"there is no supervisor: {counts}", "parkit supervisor, or start a process: it starts one")
    else:
        yield Finding(OK, "pool", "no supervisor, and nothing to do for one")
    yield from _output(store, {process.uuid for process in everything})


def _output(store: Path, known: set[str]) -> Iterator[Finding]:
    folder = store / maintenance.OUTPUT
    if not folder.is_dir():
        return
    old = time.time() - _NEW  # a process that was made since the list was is none of them
    orphans = [
        entry
        for entry in os.scandir(folder)
        if entry.name not in known and entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < old
    ]
    if orphans:
        size = human_bytes(sum(entry.stat(follow_symlinks=False).st_size for entry in orphans))
        text = f"{len(orphans)} file{'s' if len(orphans) > 1 else ''} of processes that are gone, {size}"
        yield Finding(NOTE, "output", text, "rm " + " ".join(entry.path for entry in orphans[:3]) + (" ..." if len(orphans) > 3 else ""))
