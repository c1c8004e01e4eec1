"""Measure everything that has a budget, and print the table: operation, figure, budget, whether it is met, spread.

    python -m tests.benchmarks.run [--quick] [--only NAME] [--json FILE] [--folder FOLDER]

The exit status says whether everything could be measured, not whether every budget is met: that depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from parkit import set_storage_path
from tests.benchmarks import loops, pool, processes, queues, single, startup
from tests.benchmarks.measure import Result, Settings

__all__ = ["main"]

Benchmark = Callable[[Settings], Iterator[Result]]

BENCHMARKS: Final[dict[str, Benchmark]] = {
    "gets": single.gets,
    "async-gets": loops.gets,
    "sets": single.sets,
    "update": single.update,
    "explicit": single.explicit,
    "iteration": single.iteration,
    "queue": queues.put_and_get,
    "tasks": loops.tasks,
    "lateness": loops.lateness,
    "transfer": processes.transfer,
    "durable-set": single.durable_set,
    "ping-pong": processes.ping_pong,
    "async-ping-pong": loops.ping_pong,
    "counter": processes.counter,
    "idle-wait": processes.idle_wait,
    "growth": single.growth,
    "imports": startup.imports,
    "pool-round-trips": pool.round_trips,
    "pool-deaths": pool.deaths,
    "pool-resizing": pool.resizing,
    "pool-idle": pool.idle_service,
    "pool-table": pool.table,
}


def main() -> int:
    """Run the benchmarks that the command line asks for; return the exit status: 1 if one crashed."""
    arguments = _parse()
    chosen = {name: benchmark for name, benchmark in BENCHMARKS.items() if not arguments.only or name in arguments.only}
    results: dict[str, list[Result]] = {}
    crashed = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="parkit-bench-", dir=arguments.folder, ignore_cleanup_errors=True) as folder:
        os.environ["PARKIT_SYNCHRONOUS"] = "off"
        for number, (name, benchmark) in enumerate(chosen.items(), 1):
            _say(f"[{number}/{len(chosen)}] {name}: {(benchmark.__doc__ or '').splitlines()[0]}")
            own = Path(folder) / name
            own.mkdir()
            set_storage_path(own / "store")
            results[name] = []
            try:
                results[name].extend(benchmark(Settings(own, arguments.quick)))
            except Exception:
                crashed.append(name)
                _say(traceback.format_exc())
    _say(f"done in {time.monotonic() - begun:.0f} s")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}{', quick' if arguments.quick else ''}\n")
    print(_table(results))
    for name in crashed:
        print(f"{name} crashed, see above")
    if arguments.json:
        arguments.json.write_text(json.dumps([_record(name, result) for name, lines in results.items() for result in lines], indent=1))
    return 1 if crashed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description="Measure parkit against its budgets.")
    parser.add_argument("--quick", action="store_true", help="take smaller samples")
    parser.add_argument(
        "--only", action="append", choices=list(BENCHMARKS), metavar="NAME", help=f"run this one; repeatable: {', '.join(BENCHMARKS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--folder", type=Path, help="make the temporary store there: on the disk that is to be measured")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(results: dict[str, list[Result]]) -> str:
    header = ("operation", "measured", "budget", "", "quartiles", "")
    lines = [header, *(_line(result) for found in results.values() for result in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rows[0], "-" * len(rows[0]), *rows[1:]])


def _line(result: Result) -> tuple[str, str, str, str, str, str]:
    figure = "" if result.figure is None else f"{result.figure:.3g} {result.budget.unit}".rstrip()
    spread = "" if math.isnan(result.low) else f"{result.low:.3g} – {result.high:.3g}"
    return result.operation, figure, str(result.budget), result.verdict, spread, result.note


def _record(name: str, result: Result) -> dict[str, Any]:
    return {
        "benchmark": name,
        "operation": result.operation,
        "figure": result.figure,
        "unit": result.budget.unit,
        "budget": str(result.budget),
        "verdict": result.verdict,
        "quartiles": None if math.isnan(result.low) else [result.low, result.high],
        "note": result.note,
    }


if __name__ == "__main__":
    sys.exit(main())
