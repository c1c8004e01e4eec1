"""What a run has found, as text, JSON and a page: all three from the same records, so that a page can be made again from its JSON.

A page holds its own words. What is measured stands between ``<!-- NAME -->`` and ``<!-- end -->``, and only that is replaced.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from .comparison import Cell
from .rivals import Level, version

__all__ = ["DISTRIBUTIONS", "amount", "budgets_table", "lines", "machine", "page", "records", "scale_of", "tables", "text"]

DISTRIBUTIONS: Final = (
    "parkit",
    "lmdb",
    "diskcache",
    "sqlitedict",
    "aiosqlite",
    "persist-queue",
    "litequeue",
    "redis",
    "hiredis",
    "huey",
    "loky",
    "uvloop",
)

Record = Mapping[str, Any]
Table = list[list[str]]


def machine(folder: Path) -> dict[str, Any]:
    """Describe what the figures were taken on; ``folder`` is on the disk that was measured."""
    versions = {name: found for name in DISTRIBUTIONS if (found := version(name)) is not None}
    versions["SQLite"] = sqlite3.sqlite_version
    server = _output("redis-server", "--version")
    if number := re.search(r"v=(\S+)", server):
        versions["redis-server"] = number[1]
    return {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": _file_system(folder),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load before": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else _output("sysctl", "-n", "machdep.cpu.brand_string").strip() or platform.machine()


def _file_system(folder: Path) -> str:
    if sys.platform != "linux":
        return _output("stat", "-f", "-c", "%T", str(folder)).strip() or "unknown"
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, found, *_ = line.split()
        if len(mounted) >= len(best) and folder.resolve().is_relative_to(mounted):
            best, kind = mounted, found
    return kind


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except OSError:
        return ""


def scale_of(cells: Iterable[Record]) -> tuple[str, float]:
    """Return the unit in which all figures of a table are readable, and how many of it make one of the records' unit."""
    found = [(cell["figure"], cell["unit"]) for cell in cells if cell["figure"] is not None]
    if not found:
        return "", 1.0
    least, unit = min(figure for figure, _ in found), found[0][1]
    if unit == "B":
        return "MB", 1e-6
    if unit != "s":
        return unit, 1.0
    return ("µs", 1e6) if least < 1e-3 else ("ms", 1e3)


def amount(figure: float) -> str:
    """Return a figure with three digits that mean something."""
    if figure == 0:
        return "0"
    if abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"


def _sized(size: float) -> str:
    return f"{size:,.0f}"


def tables(cells: Sequence[Record]) -> dict[str, Table]:
    """Return a table for each scenario: a line for each rival, a column for each level, or for each size and level.

    Levels stand beside each other in the order of what they promise, most first. In a cell are the median and the quartiles, or why there is none.
    """
    found: dict[str, Table] = {}
    for scenario in dict.fromkeys(cell["scenario"] for cell in cells):
        mine = [cell for cell in cells if cell["scenario"] == scenario]
        order = [level.value for level in Level]
        columns = sorted({(order.index(cell["level"]), cell["size"] or 0) for cell in mine})
        sized = any(cell["size"] for cell in mine)
        several = len({level for level, _ in columns}) > 1
        unit, factor = scale_of(mine)
        by = {(cell["rival"], order.index(cell["level"]), cell["size"] or 0): cell for cell in mine}
        if sized and several:  # levels one below the other: as many columns as sizes
            lines = [["rival", "survives", *(_sized(size) for size in sorted({size for _, size in columns}))]]
            sizes = sorted({size for _, size in columns})
            for rival, level in dict.fromkeys((rival, level) for level, rival in sorted((level, position) for position, level in _pairs(by))):
                lines.append([rival, order[level], *(_shown(by.get((rival, level, size)), factor) for size in sizes)])
        else:
            heads = [_sized(size) for _, size in columns] if sized else [order[level] for level, _ in columns]
            lines = [["rival", *heads]]
            for rival in dict.fromkeys(cell["rival"] for cell in mine):
                lines.append([rival, *(_shown(by.get((rival, *column)), factor) for column in columns)])
        lines[0][0] = unit or "number"
        found[scenario] = lines
    return found


def _pairs(by: Iterable[tuple[str, int, float]]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((rival, level) for rival, level, _ in by))


def _shown(cell: Record | None, factor: float) -> str:
    if cell is None:
        return "–"
    if cell["figure"] is None:
        return cell["failure"] if cell["failure"].startswith("not measured") else f"failed: {cell['failure']}"
    spread = f"{amount(cell['low'] * factor)} – {amount(cell['high'] * factor)}"
    return f"{amount(cell['figure'] * factor)} ({spread}){'*' if cell['note'] else ''}"


def budgets_table(budgets: Sequence[Record]) -> Table:
    """Return the budgets as a table."""
    lines = [["operation", "measured", "budget", "", "quartiles", ""]]
    for record in budgets:
        figure = "" if record["figure"] is None else f"{record['figure']:.3g} {record['unit']}".rstrip()
        spread = f"{record['quartiles'][0]:.3g} – {record['quartiles'][1]:.3g}" if record["quartiles"] else ""
        lines.append([record["operation"], figure, record["budget"], record["verdict"], spread, record["note"]])
    return lines


def text(table: Table) -> str:
    """Return a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = ["  ".join(shown.ljust(width) for shown, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([rows[0], "-" * max(map(len, rows)), *rows[1:]])


def _markdown(table: Table) -> str:
    head, *lines = [[shown.replace("|", "\\|") for shown in line] for line in table]
    lines = [[f"**{shown}**" if shown in ("parkit", "parkit_async") or shown.startswith("parkit ") else shown for shown in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def page(words: str, document: Record) -> str:
    """Return a page with what is measured put in place.

    Raises:
        KeyError: A marker names what the document does not have.
    """
    parts = {f"table: {name}": _markdown(table) for name, table in tables(document["comparison"]).items()}
    parts["budgets"] = _markdown(budgets_table(document["budgets"]))
    parts["machine"] = _machine_lines(document)
    parts["remarks"] = _markdown([["rival", "how it is used"], *([name, remark] for name, remark in document["remarks"].items())])
    parts["absent"] = "\n".join(f"- {name}: {reason}" for name, reason in document["absent"].items()) or "All rivals were there."

    def replaced(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n\n{parts[found[1]]}\n\n<!-- end -->"

    return re.sub(r"<!-- ([^>]+?) -->\n.*?<!-- end -->", replaced, words, flags=re.DOTALL)


def _machine_lines(document: Record) -> str:
    about = document["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    run = f"seed {document['seed']}, {document['seconds']:.0f} s{', quick' if document['quick'] else ''}"
    return (
        f"{about['taken'][:10]}: {about['processor']}, {about['cores']} cores, {about['memory']}; {about['system']}, {about['file system']}; "
        f"{about['python']}; load before the run {about['load before']}; {run}. {versions}."
    )


def lines(document: Record) -> str:
    """Return a document as JSON, a line for each record, so that two runs can be compared with diff."""
    parts = []
    for key, part in document.items():
        if isinstance(part, list):
            shown = "[" + ",".join(f"\n {json.dumps(record, ensure_ascii=False)}" for record in part) + "\n]"
        else:
            shown = json.dumps(part, ensure_ascii=False)
        parts.append(f'"{key}": {shown}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def records(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Return cells as JSON has them: figures with six digits, which is more than they are good for."""
    return [{key: float(f"{part:.6g}") if isinstance(part, float) else part for key, part in asdict(cell).items()} for cell in cells]
