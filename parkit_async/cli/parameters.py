"""What the commands are made of: help with examples, arguments that complete, and values as one types them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from parkit_async._core import inspection, paths
from parkit_async._core.registry import known_namespaces, open_if_there

__all__ = [
    "NEGATIVE_NUMBERS",
    "Command",
    "Failure",
    "NamespaceName",
    "ObjectPath",
    "ProcessName",
    "allow_local_modules",
    "command",
    "json_option",
    "not_an_option",
    "typed",
]

F = TypeVar("F", bound=Callable[..., Any])

Failure = click.ClickException
"""An error that a command tells: one line, exit code 1."""


class Command(click.Command):
    """A command whose help ends with examples: pairs of a command line and what it does."""

    def __init__(self, *arguments: Any, examples: Iterable[tuple[str, str]] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = list(examples)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                width = max(len(line) for line, _ in self.examples)
                for line, comment in self.examples:
                    text = f"{line:{width}}  # {comment}" if comment else line
                    formatter.write(f"{'':{formatter.current_indent}}{text}\n")


def command(name: str, *examples: tuple[str, str], **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command.

    Args:
        name: Its name.
        examples: Of its use, each with a comment.
        settings: More, for click.
    """
    return click.command(name, cls=Command, examples=examples, **settings)


def json_option(function: F) -> F:
    """Give a command the option --json, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


# Values.

NEGATIVE_NUMBERS: Final = {"ignore_unknown_options": True}
"""Settings of a command among whose arguments -1 is not an option."""


def typed(text: str) -> Any:
    """Return the value that somebody has typed: what it is as JSON, or the text itself."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except ValueError:
        return text


def _no_json(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity, which JSON does not know


def allow_local_modules() -> None:
    """Let values refer to modules of the working folder, as they could in the program that stored them; behind everything that is installed."""
    if not sys.flags.safe_path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def not_an_option(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Refuse what looks like a misspelled option where unknown ones are taken for arguments."""
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and text.startswith("--") and len(text) > 2:
            raise click.NoSuchOption(text, ctx=context)
    return value


# Completion. It must never fail, nor print anything: whoever presses TAB sees nothing but what fits.


def _completed(found: Callable[[str], Iterable[str]], incomplete: str) -> list[CompletionItem]:
    try:
        return [CompletionItem(text) for text in found(incomplete) if text.startswith(incomplete)]
    except Exception:
        return []


class NamespaceName(click.types.StringParamType):
    """The name of a namespace; one of parkit's own is allowed, too."""

    name = "namespace"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        if value in {paths.POOL_NAMESPACE, paths.SYSLOG_NAMESPACE}:
            return value
        try:
            return paths.check_namespace(value.removesuffix("/"))
        except ValueError as error:
            self.fail(str(error), parameter, context)

    def shell_complete(self, context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _completed(lambda _: known_namespaces(), incomplete)


class ObjectPath(click.types.StringParamType):
    """The path of an object."""

    name = "path"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        try:
            return paths.join(*paths.split(value))
        except ValueError as error:
            self.fail(str(error), parameter, context)

    def shell_complete(self, context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _completed(_object_paths, incomplete)


def _object_paths(incomplete: str) -> Iterable[str]:
    namespace, separator, _ = incomplete.rpartition("/")
    within = namespace if separator else paths.DEFAULT_NAMESPACE
    for name in known_namespaces():
        if name == within:
            opened = open_if_there(name)
            if opened is not None:
                yield from (found.path for found in opened.read(inspection.contents))
        if name not in (paths.DEFAULT_NAMESPACE, within):
            yield f"{name}/"


class ProcessName(click.types.StringParamType):
    """The name of a process."""

    name = "name"

    def shell_complete(self, context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _completed(_process_names, incomplete)


def _process_names(incomplete: str) -> Iterable[str]:
    from parkit import processes

    return (process.name for process in processes())
