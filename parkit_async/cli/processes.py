"""``ps``, ``run``, ``kill``, ``logs`` and ``clean``: what runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click

from parkit import Process, clean, processes, syslog
from parkit_async._core import paths
from parkit_async._core.doorbell import EVENT_ALL
from parkit_async._core.errors import ObjectNotFoundError
from parkit_async._core.process_ops import CREATED, RUNNING_STATUS, STATUSES
from parkit_async._core.registry import open_if_there
from parkit_async._core.settings import get_storage_path
from parkit_async.script import run_script

from . import render
from .following import Alarm, show_output
from .parameters import Failure, ProcessName, command, json_option, typed
from .render import Column

__all__ = ["clean_command", "kill_command", "logs_command", "ps_command", "run_command"]

_STATES: Final = {"created": "dim", "submitted": "cyan", "running": "bold green", "finished": "", "failed": "red", "crashed": "bold red"}
_PS: Final = (
    Column("name"),
    Column("status", styles=_STATES),
    Column("pid"),
    Column("exit"),
    Column("submitted", "time"),
    Column("ran", "seconds"),
)
_REFRESH: Final = 1.0
"""Seconds between two looks for processes that are new. What happens to those that are shown wakes at once."""


def _status_option(function: Any) -> Any:
    return click.option(
        "-s",
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice(STATUSES),
        metavar="STATUS",
        help=f"Only those: {', '.join(STATUSES)}. Repeatable.",
    )(function)


def find_process(name: str) -> Process[Any]:
    """Return the process of a name; fail, with the nearest one, if there is none."""
    try:
        paths.split(name)
        return Process(name, create=False)
    except (ObjectNotFoundError, ValueError) as error:
        import difflib

        near = difflib.get_close_matches(name, [process.name for process in processes()], n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        reason = str(error) if isinstance(error, ValueError) else f"there is no process {name!r} in the store {get_storage_path()!r}"
        raise Failure(f"{reason}.{meant} Those that there are: parkit ps") from error
    except TypeError as error:
        raise Failure(f"{error}. Processes are listed by: parkit ps") from error


# ps


@command(
    "ps",
    ("parkit ps", "all processes, in the order in which they were made"),
    ("parkit ps --status running --status submitted", ""),
    ("parkit ps --watch", "until Ctrl-C"),
    ("parkit ps --json", ""),
)
@_status_option
@click.option("-w", "--watch", is_flag=True, help="Show it again whenever something changes, until Ctrl-C.")
@json_option
def ps_command(statuses: tuple[str, ...], watch: bool, as_json: bool) -> int:
    """List the processes."""
    if watch:
        _watch(statuses, as_json)
    render.show_table(_PS, map(_row, _described(statuses)), as_json, "There are no processes.")
    return 0


def _described(statuses: Iterable[str]) -> list[dict[str, Any]]:
    return [info for info in (_info(process) for process in processes(list(statuses) or None)) if info is not None]


def _info(process: Process[Any]) -> dict[str, Any] | None:
    try:
        info: dict[str, Any] = process.info()
    except ObjectNotFoundError:  # cleaned meanwhile
        return None
    return info


def _row(info: dict[str, Any]) -> tuple[Any, ...]:
    ran = None
    if info["started"] is not None:
        ended = datetime.now(UTC) if info["ended"] is None else datetime.fromisoformat(info["ended"])
        ran = max(0.0, (ended - datetime.fromisoformat(info["started"])).total_seconds())
    return info["name"], info["status"], info["pid"], info["exitcode"], info["submitted"], ran


def _watch(statuses: tuple[str, ...], as_json: bool) -> None:
    """Show the table again and again; ends by an interrupt alone."""
    on_terminal = render.is_terminal() and not as_json
    if on_terminal:
        from rich.live import Live

        with Live(console=render.console(), screen=True, auto_refresh=False) as live:
            for rows in _changes(statuses):
                live.update(render.rich_table(_PS, map(_row, rows)), refresh=True)
    for number, rows in enumerate(_changes(statuses)):
        if as_json:
            render.show_json([dict(zip((column.title for column in _PS), _row(info), strict=True)) for info in rows], one_line=True)
        else:
            if number:
                render.write("\n")
            render.show_table(_PS, map(_row, rows))
        render.flush()


def _changes(statuses: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    """Iterate for ever over what is to be shown: whenever it changes, and each second while something runs, whose time goes on."""
    shown: list[dict[str, Any]] | None = None
    while True:
        with Alarm() as alarm:
            live = []
            for process in processes(["submitted", "running", "created"]):
                alarm.listen(process._binding, EVENT_ALL)
                live.append(process)
            rows = _described(statuses)
            if rows != shown or any(info["status"] == RUNNING_STATUS for info in rows):
                shown = rows
                yield rows
            alarm.wait(_REFRESH)


# run


@command(
    "run",
    ("parkit run math:sqrt 16", "a function, its arguments as JSON or text"),
    ("parkit run jobs.nightly:main", "of a module of the working folder"),
    ("parkit run report.py --year 2025", "a script; all that follows is the script's"),
    ("parkit run --detach --name nightly jobs.nightly:main", "print its name and leave it running"),
    ("parkit logs -f nightly", "and look at it later"),
    context_settings={"allow_interspersed_args": False},
)
@click.argument("target", metavar="MODULE:FUNCTION|SCRIPT")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENT]...")
@click.option("-d", "--detach", is_flag=True, help="Print the process's name, and do not wait for it.")
@click.option("-n", "--name", help="Name of the process (namespace/name); by default one is made up.")
@click.option("--rm", "remove", is_flag=True, help="Forget the process when it has ended: its status, result and output.")
def run_command(target: str, arguments: tuple[str, ...], detach: bool, name: str | None, remove: bool) -> int:
    """Run a function or a script in the pool.

    Waits for its end, shows its output as it comes and then, if it is not None, the result. The exit code is the process's; 128 and the number of the
    signal if one killed it. Ctrl-C terminates the process; a second one leaves it alone. Options stand before the target.
    """
    if detach and remove:
        raise click.UsageError("--rm forgets a process when it has ended, and --detach does not wait for that.")
    process = _make_process(name, target, arguments)
    process.start()
    if detach:
        render.write(f"{process.name}\n")
        return 0
    code = _attend(process)
    if remove:
        process.drop()
    return code


def _make_process(name: str | None, target: str, arguments: tuple[str, ...]) -> Process[Any]:
    if name is not None:
        try:
            paths.split(name)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--name") from error
    # As `python -m` has it. It travels to the worker.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module, separator, function = target.partition(":")
    if separator and not os.path.exists(target):
        call: Callable[..., Any] = _import(module, function)
        args: tuple[Any, ...] = tuple(map(typed, arguments))
    else:
        if not os.path.isfile(target):
            raise Failure(f"there is no script {target!r}; a function is named MODULE:FUNCTION")
        call, args = run_script, (os.path.abspath(target), list(arguments))
    return Process(name, target=call, args=args, bind=False)


def _import(module: str, function: str) -> Callable[..., Any]:
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise Failure(f"module {module!r} cannot be imported: {error}. It is looked for in the working folder and where this Python is") from error
    except ValueError:
        raise click.UsageError(f"{module!r} is not the name of a module.") from None
    for part in function.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            import difflib

            near = difflib.get_close_matches(part, dir(found), n=1)
            raise Failure(f"{module!r} has no {function!r}.{f' Did you mean {near[0]!r}?' if near else ''}") from None
    if not callable(found):
        raise Failure(f"{module}:{function} is a {type(found).__name__}, which cannot be called")
    call: Callable[..., Any] = found
    return call


def _attend(process: Process[Any]) -> int:
    """Show the output of a process until it has ended; return the exit code that stands for its own."""
    try:
        show_output(process, follow=True)
    except KeyboardInterrupt:
        render.note(f"\nparkit: terminating {process.name}; Ctrl-C once more leaves it alone.")
        process.terminate()
        process.join()
        raise
    info = process.info()
    exitcode = info["exitcode"]
    if info["status"] == "finished":
        result = process.result
        if result is not None:
            render.show_value(result)
        return 0
    if info["status"] == "crashed":
        render.flush()
        render.note(f"parkit: {process.error}")
    return 128 - exitcode if exitcode < 0 else exitcode or 1


# kill


@command(
    "kill",
    ("parkit kill nightly", "SIGTERM, and SIGKILL after a grace period"),
    ("parkit kill -9 nightly", "at once"),
    ("parkit kill $(parkit ps -s running --json | jq -r '.[].name')", ""),
)
@click.argument("names", nargs=-1, required=True, type=ProcessName(), metavar="NAME...")
@click.option("--signal", "number", type=click.Choice(["TERM", "KILL"], case_sensitive=False), default="TERM", help="TERM, the default, or KILL.")
@click.option("-9", "at_once", is_flag=True, help="The same as --signal KILL.")
@click.option("--wait", is_flag=True, help="Wait until they have ended.")
def kill_command(names: tuple[str, ...], number: str, at_once: bool, wait: bool) -> int:
    """End processes, with their children; one that is still submitted is taken off the queue. Those that have ended are left as they are."""
    found = [find_process(name) for name in names]
    for process in found:
        if process.status == CREATED:
            raise Failure(f"{process.name!r} was not started, so there is nothing to end")
    for process in found:
        if at_once or number.upper() == "KILL":
            process.kill()
        else:
            process.terminate()
    if wait:
        for process in found:
            process.join()
    return 0


# logs


@command(
    "logs",
    ("parkit logs nightly", "what it has written to stdout and stderr"),
    ("parkit logs -f nightly", "and what it writes, until it ends"),
    ("parkit logs -n 20 nightly", "the last lines"),
    ("parkit logs --system -f", "the log records of the whole store"),
)
@click.argument("name", required=False, type=ProcessName())
@click.option("-f", "--follow", is_flag=True, help="Wait for more: until the process has ended, or Ctrl-C.")
@click.option("-n", "--lines", "count", type=click.IntRange(0), metavar="N", help="Begin with the last N lines.")
@click.option("--system", is_flag=True, help="Show the log records of the store: supervisor, workers, and who else writes there.")
@json_option
def logs_command(name: str | None, follow: bool, count: int | None, system: bool, as_json: bool) -> int:
    """Show what a process has written, or with --system the store's log.

    With --json each record of the store's log is a line of JSON; the output of a process is text in any case.
    """
    if system == (name is not None):
        raise click.UsageError("give the NAME of a process, or --system.")
    if name is not None:
        if as_json:
            raise click.UsageError("the output of a process is text; --json goes with --system.")
        show_output(find_process(name), follow, count)
        return 0
    if open_if_there(paths.SYSLOG_NAMESPACE) is None and not follow:
        return 0
    length = len(syslog)
    start = 0 if count is None else max(0, length - count)
    for record in syslog.follow(start) if follow else syslog[start:length]:
        if as_json:
            render.show_json(render.plain(record), one_line=True)
        else:
            render.write(_record_line(record) + "\n")
        if follow:
            render.flush()
    return 0


def _record_line(record: Any) -> str:
    try:
        when = datetime.fromtimestamp(record["time"]).astimezone().isoformat(" ", "milliseconds")
        where = f" {record['process']}" if record["process"] else ""
        return render.lines_of(f"{when} {record['level']} {record['logger']}[{record['pid']}]{where}: {record['message']}")
    except (KeyError, TypeError, ValueError):  # somebody's own
        return render.text_of(record)


# clean


@command(
    "clean",
    ("parkit clean", "all that have ended"),
    ("parkit clean --status finished", "only those that went well"),
    ("parkit clean --status submitted", "take everything off the queue"),
)
@_status_option
def clean_command(statuses: tuple[str, ...]) -> int:
    """Forget processes: their status, result, data and output. By default those that have ended; one that runs is terminated first."""
    number = clean(list(statuses) or None)
    render.write(f"{number}\n" if not render.is_terminal() else f"{number} process{'' if number == 1 else 'es'} forgotten.\n")
    return 0
