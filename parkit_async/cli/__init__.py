"""The ``parkit`` command.

::

    __init__      main: the group of commands, exit codes, how errors are told
    parameters    what the commands are made of: examples in their help, arguments that complete, values as they are typed
    render        tables, values and lines, for a terminal, a pipe or a program (--json)
    data          ls, get, put, tail
    store         stat, verify, backup, compact, doctor      (diagnosis: what doctor looks at)
    processes     ps, run, kill, logs, clean                 (following: output and events as they come)
    pool          pool, supervisor
    dashboard     dashboard

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 141 the reader of the output went away; ``run`` exits as its process did. An error is one
line on stderr that says what to do; ``PARKIT_DEBUG=1`` shows where it came from.

click and rich are imported here and below, and by nothing else; a command's module is imported when the command is used.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from parkit_async._core.errors import ParkitError
from parkit_async._core.settings import set_storage_path

from . import render

__all__ = ["cli", "main"]

INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""
UNREAD: Final = 141
"""128 + SIGPIPE: what a program that does not catch the signal is seen to exit with."""

_COMPLETE: Final = "_PARKIT_COMPLETE"
_SHELLS: Final = ("bash", "zsh", "fish")

_MODULES: Final = {
    "ls": "data",
    "get": "data",
    "put": "data",
    "tail": "data",
    "ps": "processes",
    "run": "processes",
    "kill": "processes",
    "logs": "processes",
    "clean": "processes",
    "pool": "pool",
    "supervisor": "pool",
    "dashboard": "dashboard",
    "stat": "store",
    "verify": "store",
    "backup": "store",
    "compact": "store",
    "doctor": "store",
}
"""Where each command is; the order is that of the help."""


class _InterruptedError(Exception):
    """A KeyboardInterrupt, out of click's sight: it would print an empty line, whoever reads."""


class Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as interrupt:
            raise _InterruptedError from interrupt

    def list_commands(self, context: click.Context) -> list[str]:
        return [*_MODULES, "completion"]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _MODULES:
            return super().get_command(context, name)
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(self, context: click.Context, arguments: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if not name.startswith("-") and self.get_command(context, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(context), n=1, cutoff=0.5)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}.{meant}", context)
        return super().resolve_command(context, arguments)


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"parkit {version('parkit')}")
        context.exit()


def _set_store(context: click.Context, _parameter: click.Parameter, path: str | None) -> None:
    # A callback, and not the group's body, as that does not run while a shell completes.
    if path is not None:
        try:
            set_storage_path(path)
        except ValueError as error:
            raise click.BadParameter(str(error), context) from error


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--store",
    metavar="PATH",
    type=click.Path(file_okay=False),
    expose_value=False,
    is_eager=True,
    callback=_set_store,
    help="Folder of the store; by default PARKIT_STORAGE_PATH, or the user's data folder.",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version and exit.")
@click.pass_context
def cli(context: click.Context) -> None:
    """Look into a parkit store and look after it, and run processes in its pool.

    Every command has examples: parkit COMMAND --help. PARKIT_DEBUG=1 shows where an error came from.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


@cli.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def _completion(shell: str) -> None:
    """Print the script by which a shell completes parkit's commands, options, paths and names.

    \b
    Examples:
      eval "$(parkit completion bash)"                  # in ~/.bashrc
      eval "$(parkit completion zsh)"                   # in ~/.zshrc
      parkit completion fish > ~/.config/fish/completions/parkit.fish
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None
    # Its source() starts the shell to see whether it is recent enough, which the shell that reads this knows better.
    script = complete(cli, {}, "parkit", _COMPLETE)
    render.write(script.source_template % script.source_vars() + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Without the program's name; None takes those of this process.
    """
    try:
        try:
            code = cli.main(arguments, "parkit", complete_var=_COMPLETE, standalone_mode=False)
            render.flush()
        except SystemExit as end:  # how click leaves after having completed a word
            code = end.code
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, _InterruptedError, click.exceptions.Abort):
        if sys.stderr.isatty():
            click.echo(err=True)  # the shell's prompt shall not stand behind the terminal's ^C
        return INTERRUPTED
    except render.OutputClosedError:
        render.discard_output()
        return UNREAD
    except Exception as error:
        if os.environ.get("PARKIT_DEBUG") == "1":
            raise
        code, text = _told(error)
        try:
            render.flush()  # what was shown before it went wrong comes first
        except render.OutputClosedError:
            render.discard_output()
        click.echo(f"parkit: {render.lines_of(text)}", err=True)
        return code


def _told(error: Exception) -> tuple[int, str]:
    """Return the exit code and the line that tell of an error."""
    if isinstance(error, click.UsageError):
        text = error.format_message()
        name = getattr(error, "option_name", None)
        if error.ctx is not None and error.ctx.parent is not None and name in {"--store", "--version"}:
            text = f"{name} stands before the command: parkit {name} ... {error.ctx.info_name}"
        return 2, _line(f"{text} See: {error.ctx.command_path if error.ctx is not None else 'parkit'} --help")
    if isinstance(error, click.ClickException):
        return error.exit_code, _line(error.format_message())
    text = str(error)
    if isinstance(error, ParkitError | OSError | ValueError | TypeError) and text:
        return 1, _line(text)
    return 1, _line(f"{type(error).__name__}: {text}. This was not foreseen; PARKIT_DEBUG=1 shows where it came from")


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "?", "!")) else f"{text}."
