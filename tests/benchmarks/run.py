"""Measure parkit: against its budgets, and beside what else one might use.

    python -m tests.benchmarks.run [--quick] [--only NAME] [--json FILE] [--plots FOLDER] [--report PAGE] [--folder FOLDER] [--seed N]
    python -m tests.benchmarks.run --again FILE --plots FOLDER --report PAGE
    python -m tests.benchmarks.run --check

The exit status says whether everything could be measured, not whether every budget is met: that depends on the machine. Ctrl-C ends the run in good
order; what has been measured by then is reported.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from parkit import set_storage_path
from tests.benchmarks import check, loops, plots, pool, processes, queues, report, single, startup
from tests.benchmarks.comparison import Cell, Run
from tests.benchmarks.measure import Result, Settings
from tests.benchmarks.rivals import version
from tests.benchmarks.rivals.aio import AWAITED_MAPPINGS, AWAITED_QUEUES
from tests.benchmarks.rivals.mappings import MAPPINGS
from tests.benchmarks.rivals.pools import POOLS
from tests.benchmarks.rivals.queues import QUEUES
from tests.benchmarks.scenarios import footprint, mappings, pools, tasks
from tests.benchmarks.scenarios import queues as shared_queues

__all__ = ["main"]

Benchmark = Callable[[Settings], Iterator[Result]]
Scenario = Callable[[Run], Iterator[Cell]]

BUDGETS: Final[dict[str, Benchmark]] = {
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
COMPARISON: Final[dict[str, Scenario]] = {
    "rival-operations": mappings.operations,
    "rival-batches": mappings.batches,
    "rival-values": mappings.values,
    "rival-entries": mappings.entries,
    "rival-contention": mappings.contention,
    "rival-queues": shared_queues.one_process,
    "rival-queue-batches": shared_queues.batches,
    "rival-transfer": shared_queues.between,
    "rival-ping-pong": shared_queues.ping_pong,
    "rival-crowd": shared_queues.crowd,
    "rival-idle": shared_queues.idle,
    "rival-task-sets": tasks.durable_sets,
    "rival-task-puts": tasks.durable_puts,
    "rival-pools": pools.calls,
    "rival-pool-start": pools.start,
    "rival-beginning": footprint.beginning,
}
GROUPS: Final = {"budgets": list(BUDGETS), "comparison": list(COMPARISON)}


@dataclass
class Outcome:
    """What has been measured so far.

    Attributes:
        results: Of the budgets, by benchmark.
        cells: Of the comparison.
        crashed: The benchmarks that crashed.
        interrupted: Whether the run was ended by Ctrl-C.
    """

    results: dict[str, list[Result]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    interrupted: bool = False


def main() -> int:
    """Do what the command line asks for; return the exit status: 1 if a benchmark crashed or a check failed, 130 after Ctrl-C."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, _interrupt)
    if arguments.again:
        return _render(json.loads(arguments.again.read_text()), arguments)
    os.environ["PARKIT_SYNCHRONOUS"] = "off"
    with tempfile.TemporaryDirectory(prefix="parkit-bench-", dir=arguments.folder, ignore_cleanup_errors=True) as folder:
        if arguments.check:
            return _check(Path(folder), arguments.seed)
        begun = time.monotonic()
        about = report.machine(Path(folder))
        run = Run(Settings(Path(folder), arguments.quick), arguments.seed)
        outcome = _measure(run, _chosen(arguments.only))
    seconds = time.monotonic() - begun
    _say(f"{'interrupted after' if outcome.interrupted else 'done in'} {seconds:.0f} s")
    document = {
        "machine": about,
        "seed": arguments.seed,
        "quick": arguments.quick,
        "seconds": round(seconds),
        "interrupted": outcome.interrupted,
        "crashed": outcome.crashed,
        "absent": run.absent,
        "remarks": _remarks(),
        "budgets": [_record(name, result) for name, lines in outcome.results.items() for result in lines],
        "comparison": report.records(outcome.cells),
    }
    if arguments.json:
        arguments.json.write_text(report.lines(document))
    _render(document, arguments)
    for name in outcome.crashed:
        print(f"{name} crashed, see above")
    return 130 if outcome.interrupted else 1 if outcome.crashed else 0


def _measure(run: Run, chosen: list[str]) -> Outcome:
    outcome = Outcome()
    top = run.settings.folder
    for number, name in enumerate(chosen, 1):
        benchmark = BUDGETS.get(name) or COMPARISON[name]
        _say(f"[{number}/{len(chosen)}] {name}: {(benchmark.__doc__ or '').splitlines()[0]}")
        own = top / name
        own.mkdir()
        set_storage_path(own / "store")
        settings, begun = Settings(own, run.settings.quick), time.monotonic()
        try:
            if name in BUDGETS:
                outcome.results[name] = []
                with closing(cast(Generator[Result], BUDGETS[name](settings))) as results:
                    for result in results:
                        outcome.results[name].append(result)
            else:
                run.settings = settings
                with closing(cast(Generator[Cell], COMPARISON[name](run))) as cells:
                    for cell in cells:
                        outcome.cells.append(cell)
        except KeyboardInterrupt:
            outcome.interrupted = True
            break
        except Exception:
            outcome.crashed.append(name)
            _say(traceback.format_exc())
        _say(f"    {time.monotonic() - begun:.1f} s")
    return outcome


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _check(folder: Path, seed: int) -> int:
    set_storage_path(folder / "store")
    run = Run(Settings(folder, True), seed)
    failed = 0
    for name, fault in check.faults(run):
        print(f"{name}: {fault or 'right'}")
        failed += bool(fault)
    for name, reason in run.absent.items():
        print(f"{name}: not there: {reason}")
    return 1 if failed else 0


def _render(document: dict[str, Any], arguments: argparse.Namespace) -> int:
    about = document["machine"]
    print(f"{about['python']}, {about['cores']} cores, {about['system']}, {about['file system']}{', quick' if document['quick'] else ''}\n")
    if document["budgets"]:
        print(report.text(report.budgets_table(document["budgets"])))
    for name, table in report.tables(document["comparison"]).items():
        print(f"\n{name}: median (quartiles)\n{report.text(table)}")
    for name, reason in document["absent"].items():
        print(f"\n{name}: not there: {reason}")
    if arguments.plots:
        for path in plots.draw(document["comparison"], arguments.plots):
            _say(f"drawn: {path}")
    if arguments.report:
        try:
            arguments.report.write_text(report.page(arguments.report.read_text(), document))
        except KeyError as error:
            _say(f"{arguments.report} is left as it was: there is no {error} in this run")
    return 0


def _chosen(only: list[str] | None) -> list[str]:
    everything = [*BUDGETS, *COMPARISON]
    asked = {name for given in only or everything for name in GROUPS.get(given, [given])}
    return [name for name in everything if name in asked]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description="Measure parkit against its budgets, and beside its rivals.")
    parser.add_argument("--quick", action="store_true", help="take smaller samples")
    names = [*BUDGETS, *COMPARISON, *GROUPS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"run this one; repeatable: {', '.join(names)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the comparison there, as SVG")
    parser.add_argument("--report", type=Path, metavar="PAGE", help="put the results between the markers of this page")
    parser.add_argument("--folder", type=Path, help="make the temporary store there: on the disk that is to be measured")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="what the orders of the rounds are drawn from")
    parser.add_argument("--again", type=Path, metavar="FILE", help="measure nothing; render what --json has written")
    parser.add_argument("--check", action="store_true", help="measure nothing; try each rival's operations")
    arguments = parser.parse_args()
    if arguments.report and arguments.only:
        parser.error("--report: a page is made from a whole run, not from parts of several")
    if arguments.plots and version("matplotlib") is None:
        parser.error("--plots: matplotlib is not installed: pip install '.[bench]'")
    return arguments


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _remarks() -> dict[str, str]:
    kinds = [*MAPPINGS, *QUEUES, *AWAITED_MAPPINGS, *AWAITED_QUEUES, *POOLS]
    found: dict[str, str] = {}
    for kind in kinds:
        if kind.remark:
            found[kind.name] = f"{found[kind.name]} {kind.remark}" if kind.name in found else kind.remark
    return found


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
