"""``stat``, ``verify``, ``backup``, ``compact`` and ``doctor``: the store as files, and who uses them."""

from __future__ import annotations

import os
import subprocess
from typing import Any, Final

import click

from parkit_async._core import administration, inspection, maintenance
from parkit_async._core.errors import ParkitError
from parkit_async._core.namespace import Namespace
from parkit_async._core.registry import known_namespaces, open_if_there
from parkit_async._core.settings import get_storage_path

from . import render
from .parameters import Failure, NamespaceName, command, json_option
from .render import Column

__all__ = ["backup_command", "compact_command", "doctor_command", "stat_command", "verify_command"]


# stat


_OVERVIEW: Final = (
    Column("namespace"),
    Column("level"),
    Column("used", "bytes"),
    Column("file", "bytes"),
    Column("limit", "bytes"),
    Column("full", "share"),
    Column("commits", "count"),
    Column("last commit", "seconds"),
    Column("snapshots", "count"),
    Column("oldest", "seconds"),
    Column("waiters", "count"),
    Column("open in", "list"),
)


@command(
    "stat",
    ("parkit stat", "an overview of all namespaces"),
    ("parkit stat shop", "one of them: who reads, who waits, for what"),
    ("parkit stat shop --json", ""),
)
@click.argument("namespace", type=NamespaceName(), required=False)
@json_option
def stat_command(namespace: str | None, as_json: bool) -> int:
    """Show how full the namespaces are, how durable, and which processes read them and wait there.

    A snapshot that is older than the last commit keeps what was overwritten since then from being used again. Its age is that of the first commit
    that it does not see.
    """
    if namespace is not None:
        _show_namespace(_open(namespace), as_json)
        return 0
    found: dict[str, Namespace | None] = {}
    for name in known_namespaces():
        try:
            found[name] = open_if_there(name)
        except ParkitError as error:
            render.note(f"parkit: {error}")
            found[name] = None
    users = inspection.openers([opened.directory for opened in found.values() if opened is not None])
    rows: list[tuple[Any, ...]] = [
        (name, *[None] * (len(_OVERVIEW) - 1)) if opened is None else _overview(opened, users[opened.directory]) for name, opened in found.items()
    ]
    render.show_table(_OVERVIEW, rows, as_json, f"There are no namespaces in {get_storage_path()}.")
    return 1 if None in found.values() else 0


def _open(name: str) -> Namespace:
    namespace = open_if_there(name)
    if namespace is None:
        raise Failure(f"there is no namespace {name!r} in the store {get_storage_path()!r}; those that there are: parkit ls")
    return namespace


def _overview(namespace: Namespace, users: set[int]) -> tuple[Any, ...]:
    usage = inspection.fullness(namespace)
    reading = [snapshot for snapshot in inspection.snapshots(namespace) if snapshot.transaction is not None]
    return (
        namespace.name,
        administration.get_synchronous(namespace),
        usage.live,
        usage.file,
        usage.limit,
        usage.live / usage.limit,
        usage.commits,
        usage.committed,
        len(reading),
        reading[0].age if reading else None,
        len(inspection.waiters(namespace)),
        sorted(users),
    )


_SNAPSHOTS: Final = (Column("pid"), Column("program"), Column("commit", "count"), Column("age", "seconds"))
_WAITERS: Final = (Column("waits for"), Column("events", "list"), Column("pid"), Column("program"))


def _show_namespace(namespace: Namespace, as_json: bool) -> None:
    paths = {found.entry.object_id: found.path for found in namespace.read(inspection.contents)}
    users = inspection.openers([namespace.directory])[namespace.directory]
    facts: list[tuple[Column, Any]] = [
        *zip(_OVERVIEW, _overview(namespace, users), strict=True),
        (Column("objects", "count"), len(paths)),
        (Column("codecs", "list"), administration.get_codecs(namespace)),
        (Column("folder"), str(namespace.directory)),
    ]
    snapshots = [
        (snapshot.pid, program(snapshot.pid), snapshot.transaction, snapshot.age)
        for snapshot in inspection.snapshots(namespace)
        if snapshot.transaction is not None
    ]
    waiters = [
        (paths.get(waiter.object_id, f"#{waiter.object_id}"), waiter.events, waiter.pid, program(waiter.pid))
        for waiter in inspection.waiters(namespace)
    ]
    if as_json:
        document = {column.title: list(value) if column.kind == "list" and value is not None else value for column, value in facts}
        document["snapshots"] = [dict(zip(("pid", "program", "commit", "age"), row, strict=True)) for row in snapshots]
        document["waiters"] = [dict(zip(("waits for", "events", "pid", "program"), row, strict=True)) for row in waiters]
        render.show_json(document)
        return
    render.show_facts(facts)
    for columns, rows in ((_SNAPSHOTS, snapshots), (_WAITERS, waiters)):
        if rows:
            render.write("\n")
            render.show_table(columns, rows)


def program(pid: int | None) -> str | None:
    """Return the command line of a process, its beginning and its end; None if it is gone or another user's."""
    if not pid:
        return None
    if os.path.isdir("/proc/self"):
        try:
            with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as words:
                text = words.read().rstrip("\0").replace("\0", " ")
        except OSError:
            return None
    else:
        shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, errors="replace", check=False)
        text = shown.stdout.strip()
    if not text:
        return None
    return text if len(text) <= 100 else f"{text[:40]}...{text[-57:]}"


# verify


@command(
    "verify",
    ("parkit verify", "all namespaces"),
    ("parkit verify shop", "one of them"),
    ("parkit --store /backups/monday verify", "a backup"),
)
@click.argument("namespaces", type=NamespaceName(), nargs=-1, metavar="[NAMESPACE]...")
@json_option
def verify_command(namespaces: tuple[str, ...], as_json: bool) -> int:
    """Check the structure of the data files, page by page, on consistent copies of them.

    The store may be in use meanwhile. The copies lie in a private temporary folder (TMPDIR), one at a time.
    """
    store = maintenance.find_store(get_storage_path())
    names = list(dict.fromkeys(namespaces)) or maintenance.every_namespace(store)
    rows = []
    for name in names:
        try:
            problems = maintenance.verify(store, name)
        except ParkitError as error:
            problems = [str(error)]
        rows.append((name, "damaged" if problems else "sound", "; ".join(problems[:3]) or None))
    columns = (Column("namespace"), Column("state", styles={"sound": "green", "damaged": "bold red"}), Column("problem"))
    render.show_table(columns, rows, as_json, "There are no namespaces.")
    damaged = [row[0] for row in rows if row[2] is not None]
    if damaged:
        render.flush()
        render.note(f"parkit: {', '.join(damaged)}: restore from a backup, or save what can still be read.")
    return 1 if damaged else 0


# backup


@command(
    "backup",
    ("parkit backup /backups/monday", "the whole store"),
    ("parkit backup /backups/shop shop", "one namespace"),
    ("parkit --store /backups/monday ls", "a backup is a store"),
)
@click.argument("destination", type=click.Path(), metavar="DEST")
@click.argument("namespaces", type=NamespaceName(), nargs=-1, metavar="[NAMESPACE]...")
@json_option
def backup_command(destination: str, namespaces: tuple[str, ...], as_json: bool) -> int:
    """Copy the store to DEST, while it is in use, each namespace as of one moment.

    DEST must not exist; it is there when all is copied and on disk, and then can be used as a store. Settings and sizes travel along.
    """
    store = maintenance.find_store(get_storage_path())
    names: list[str] = []
    target = maintenance.backup(store, destination, namespaces or None, names.append)
    rows = [(name, (maintenance.existing_directory(target, name) / "data.mdb").stat().st_size) for name in names]
    render.show_table((Column("namespace"), Column("size", "bytes")), rows, as_json, "There were no namespaces.")
    return 0


# compact


@command("compact", ("parkit compact shop", "one namespace"), ("parkit compact", "all that nobody uses at the moment"))
@click.argument("namespace", type=NamespaceName(), required=False)
@json_option
def compact_command(namespace: str | None, as_json: bool) -> int:
    """Give the free pages of a namespace's file back to the disk.

    Only while no process has the namespace open: otherwise this says which has, and changes nothing. It needs room for a copy. parkit uses free pages
    again by itself, so this pays after much was deleted for good.
    """
    store = maintenance.find_store(get_storage_path())
    names = [namespace] if namespace is not None else maintenance.every_namespace(store)
    rows: list[tuple[Any, ...]] = []
    failed = []
    for name in names:
        try:
            done = maintenance.compact(store, name)
            rows.append((name, done.before, done.after))
        except maintenance.InUseError as error:
            failed.append(str(error))
    if rows or not failed:
        render.show_table((Column("namespace"), Column("before", "bytes"), Column("after", "bytes")), rows, as_json, "There are no namespaces.")
        render.flush()
    for text in failed:
        render.note(f"parkit: {text}.")
    return 1 if failed else 0


# doctor


@command("doctor", ("parkit doctor", ""), ("parkit doctor --json", ""), ("parkit --store /srv/store doctor", ""))
@json_option
def doctor_command(as_json: bool) -> int:
    """Look for what is wrong with the store, or may become so, and say what to do.

    Exit code 1 if something is wrong; warnings and notes alone give 0.
    """
    from .diagnosis import PROBLEM, diagnose

    findings = list(diagnose(get_storage_path()))
    styles = {"ok": "green", "note": "cyan", "warning": "yellow", PROBLEM: "bold red"}
    columns = (Column("state", styles=styles), Column("check"), Column("finding"), Column("remedy"))
    render.show_table(columns, findings, as_json)
    return 1 if any(finding.state == PROBLEM for finding in findings) else 0
