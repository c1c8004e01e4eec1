"""What the commands print: for eyes on a terminal, for other programs in a pipe, and as JSON.

::

    on a terminal      tables with colours; sizes, ages and times as people say them
    in a pipe          a line of titles, then a line for each row, fields separated by tabs; bytes, seconds and ISO times as numbers and text
    --json             one document; where output goes on (tail, --watch), one document a line

Everything is written through :func:`write`, so that a reader that goes away (``parkit ls | head -1``) is noticed in one place. Text of the user's
never reaches a terminal as it is: names, values, records and errors are shown with what could be an escape sequence spelled out. The output of a
process alone is written as it was, colours included.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from parkit_async._core.inspection import Undecodable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "Column",
    "OutputClosedError",
    "console",
    "discard_output",
    "flush",
    "human_age",
    "human_bytes",
    "is_terminal",
    "lines_of",
    "note",
    "rich_table",
    "show_facts",
    "show_json",
    "show_table",
    "show_value",
    "text_of",
    "write",
]


class OutputClosedError(Exception):
    """Whoever read the output does not any more."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its title; in JSON the member's name.
        kind: How it is shown: ``text``, ``count``, ``bytes``, ``seconds``, ``time`` (ISO 8601), ``share`` (0 to 1), ``flag``, ``list`` or ``value``
            (one of the user's).
        styles: Colours on a terminal, by the cell's text.
    """

    title: str
    kind: str = "text"
    styles: Mapping[str, str] = {}


# Where to.


def is_terminal() -> bool:
    """Return whether the output is read by eyes, on a terminal that knows more than to print letters."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def write(text: str) -> None:
    """Write to standard output; raise OutputClosedError if nobody reads it."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError as error:
        raise OutputClosedError from error


def flush() -> None:
    """Have what was written seen; raise OutputClosedError if nobody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def discard_output() -> None:
    """Let what is still to be written go nowhere, or the interpreter would complain of it at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def note(text: str) -> None:
    """Tell something beside the output, on stderr."""
    print(lines_of(text), file=sys.stderr)


def console() -> Console:
    """Return what draws on the terminal."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


# How.


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], as_json: bool = False, empty: str = "") -> None:
    """Print a table.

    Args:
        columns: Its columns.
        rows: Machine values: bytes, seconds, ISO times; None where there is nothing.
        as_json: A list of objects instead.
        empty: What to say, on a terminal, when there are no rows.
    """
    if as_json:
        show_json([{column.title: _machine(cell, column) for column, cell in zip(columns, row, strict=True)} for row in rows])
        return
    if not is_terminal():
        write("\t".join(column.title for column in columns) + "\n")
        for row in rows:
            write("\t".join(_plain(cell, column) for column, cell in zip(columns, row, strict=True)) + "\n")
        return
    rows = list(rows)
    if rows:
        _draw(rich_table(columns, rows))
    elif empty:
        note(empty)


def show_facts(facts: Sequence[tuple[Column, Any]], as_json: bool = False) -> None:
    """Print one thing's properties, a line each."""
    if as_json:
        show_json({column.title: _machine(value, column) for column, value in facts})
    elif not is_terminal():
        for column, value in facts:
            write(f"{column.title}\t{_plain(value, column)}\n")
    else:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for column, value in facts:
            table.add_row(_styled(column.title, "bold"), _cell(value, column))
        _draw(table)


def show_json(document: Any, one_line: bool = False) -> None:
    """Print a document of JSON."""
    # Only in strings is there anything that JSON leaves as it is and a terminal may obey: DEL, and the control characters of Latin-1.
    write(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(document, ensure_ascii=False, indent=None if one_line else 2)) + "\n")


def show_value(value: Any, as_json: bool = False) -> None:
    """Print one of the user's values: its repr, or JSON."""
    if as_json:
        show_json(plain(value), one_line=not is_terminal())
    else:
        write(text_of(value) + "\n")


def rich_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table for the terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        right = column.kind in {"count", "bytes", "seconds", "share"}
        table.add_column(_styled(column.title), justify="right" if right else "left", overflow="fold", no_wrap=right or column.kind == "time")
    for row in rows:
        table.add_row(*(_cell(cell, column) for column, cell in zip(columns, row, strict=True)))
    return table


def _draw(what: Any) -> None:
    try:
        console().print(what)
    except BrokenPipeError as error:
        raise OutputClosedError from error


# Cells.


def _machine(value: Any, column: Column) -> Any:
    if column.kind == "value":
        return plain(value)
    if isinstance(value, float):
        return round(value, 4)
    return list(value) if column.kind == "list" else value


def _plain(value: Any, column: Column) -> str:
    if value is None and column.kind != "value":
        return "-"
    if column.kind == "value":
        return text_of(value)
    if column.kind == "list":
        return ",".join(map(str, value)) or "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _printable(str(value))


def _cell(value: Any, column: Column) -> Any:
    shown = _human(value, column)
    if isinstance(value, Undecodable):
        return _styled(shown, "red")
    return _styled(shown, column.styles.get(shown, ""))


def _human(value: Any, column: Column) -> str:
    if value is not None:
        kind = column.kind
        if kind == "bytes":
            return human_bytes(value)
        if kind == "seconds":
            return human_age(value)
        if kind == "count":
            return f"{value:,}"
        if kind == "share":
            return f"{value:.1%}"
        if kind == "time":
            return _local_time(value)
        if kind == "list":
            return ", ".join(map(str, value)) or "-"
    return _plain(value, column)


def _styled(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(text, style=style)


def human_bytes(number: float) -> str:
    """Return a number of bytes as people say it."""
    if number < 1024:
        return f"{number:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1023.95:
            return f"{number:.1f} {unit}"
    return f"{number / 1024:.1f} TiB"


def human_age(seconds: float) -> str:
    """Return a span of time as people say it: its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    left = int(seconds)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= size:
            return f"{left // size} {unit} {left % size // smaller} {smaller_unit}"
    raise AssertionError


def _local_time(iso: str) -> str:
    from datetime import datetime

    try:
        return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return iso


# The user's values.

_DEEPEST: Final = 100
_CONTROL: Final = re.compile("[\x7f-\x9f]")
_NOT_IN_LINES: Final = re.compile(r"[^\n\t]+")


def text_of(value: Any) -> str:
    """Return a value as it is shown: its repr, in one line, or what is wrong with it."""
    if isinstance(value, Undecodable):
        return f"<cannot be decoded: {_printable(value.reason)}>"
    return _printable(_repr(value))


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__qualname__}, whose repr fails: {type(error).__name__}>"


def _printable(text: str) -> str:
    """Spell out what moves the cursor, or worse."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)


def lines_of(text: str) -> str:
    """Return a text of several lines with all but their ends and tabs spelled out that moves the cursor, or worse."""
    return text if text.isprintable() else _NOT_IN_LINES.sub(lambda found: _printable(found[0]), text)


def plain(value: Any, depth: int = 0) -> Any:
    """Return what JSON can express of a value; the repr of what it cannot, ``{"undecodable": reason}`` for what cannot be decoded."""
    if isinstance(value, Undecodable):
        return {"undecodable": value.reason}
    kind = type(value)
    if value is None or kind in (bool, int):
        return value
    if kind is str:
        return value.encode("utf-8", "backslashreplace").decode()
    if kind is float:
        return value if math.isfinite(value) else repr(value)
    if depth < _DEEPEST:
        if kind in (list, tuple):
            return [plain(entry, depth + 1) for entry in value]
        if kind is dict:
            return {name if type(name) is str else text_of(name): plain(entry, depth + 1) for name, entry in value.items()}
    return _repr(value)
