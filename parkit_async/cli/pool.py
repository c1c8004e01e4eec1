"""``pool`` and ``supervisor``: what runs the processes."""

from __future__ import annotations

from typing import Any, Final

import click

from parkit import get_pool_size, killall, pool_status, set_pool_size

from . import render
from .parameters import Command, command, json_option
from .render import Column

__all__ = ["pool_command", "supervisor_command"]


class _PoolCommands(click.Group):
    """The group ``pool``, with examples."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        Command(
            "pool",
            examples=[
                ("parkit pool", "supervisor and workers"),
                ("parkit pool size 8", "as many workers, from now on"),
                ("parkit pool stop", "end them all, and the supervisor"),
            ],
        ).format_epilog(context, formatter)


_WORKERS: Final = (Column("id"), Column("pid"), Column("state"), Column("process"), Column("started", "time"))


@click.group("pool", cls=_PoolCommands, invoke_without_command=True)
@json_option
@click.pass_context
def pool_command(context: click.Context, as_json: bool) -> int:
    """Show the pool's supervisor and workers; change how many there are; stop them."""
    if context.invoked_subcommand is not None:
        return 0
    status: dict[str, Any] = pool_status()
    workers = status["workers"]
    if as_json:
        render.show_json(status)
        return 0
    render.show_facts(
        [
            (Column("supervisor"), "running" if status["running"] else "not running"),
            (Column("pid"), status["pid"]),
            (Column("size", "count"), status["size"]),
            (Column("workers", "count"), len(workers)),
            (Column("epoch", "count"), status["epoch"]),
        ]
    )
    if workers:
        render.write("\n")
        render.show_table(_WORKERS, [tuple(worker[column.title] for column in _WORKERS) for worker in workers])
    return 0


@pool_command.command("size", cls=Command, examples=[("parkit pool size", "how many workers there are to be"), ("parkit pool size 8", "")])
@click.argument("size", required=False, type=click.IntRange(0), metavar="[N]")
def _pool_size(size: int | None) -> int:
    """Say how many workers there shall be, in this store, for everybody; without N show it. A running process is never interrupted."""
    if size is None:
        render.write(f"{get_pool_size()}\n")
    else:
        set_pool_size(size)
    return 0


@pool_command.command("stop", cls=Command, examples=[("parkit pool stop", ""), ("parkit pool stop --timeout 10", "")])
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="How long to wait for their end; by default for ever.")
def _pool_stop(timeout: float | None) -> int:
    """End the pool: supervisor and workers. What runs has crashed then; what is submitted waits for the next pool, which starts with start()."""
    killall(timeout)
    return 0


# supervisor


@command(
    "supervisor",
    ("parkit supervisor", "until SIGTERM or Ctrl-C"),
    ("parkit --store /srv/store supervisor", "as a service"),
)
def supervisor_command() -> int:
    """Keep the pool in the foreground: for systemd, or a container.

    SIGTERM and SIGINT stop it, after what runs has had time to end; SIGHUP has it read its settings again.
    """
    from parkit_async.service import run_foreground

    return run_foreground()
