"""How the benchmark takes, sums up and shows its figures. What it measures is tried by its own ``--check``, where the rivals are installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import report
from tests.benchmarks.comparison import Cell, Run, Taken, arena, cell, enough, take
from tests.benchmarks.measure import Settings, quantile
from tests.benchmarks.rivals import Absent, Level, Place, Rival


class Swift(Rival):
    name = "swift"
    levels = (Level.POWER, Level.PROCESS)


class Slow(Rival):
    name = "slow"
    levels = (Level.POWER,)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(Settings(tmp_path, quick=True), seed=1)


def priced(seconds: float, calls: list[int] | None = None) -> Callable[[int], float]:
    """Return work of which each operation takes so many seconds, without taking them."""

    def work(count: int) -> float:
        if calls is not None:
            calls.append(count)
        return seconds * count

    return work


def test_a_slice_has_as_many_operations_as_fill_its_time() -> None:
    assert enough(priced(1e-5), 0.05, 20_000) == 5_000


def test_a_slice_has_at_least_one_operation_however_long_that_takes() -> None:
    calls: list[int] = []
    assert enough(priced(3.0, calls), 0.05, 20_000) == 1
    assert calls == [1]


def test_a_slice_has_no_more_operations_than_the_most() -> None:
    assert enough(priced(1e-9), 0.05, 300) == 300


def test_every_rival_takes_part_in_every_round_and_figures_are_for_one_operation(run: Run) -> None:
    taken = take(run, "s", {"a": priced(2.0), "b": priced(3.0)}, rounds=4, operations=10)
    assert taken["a"].figures == [(2.0,)] * 4
    assert taken["b"].figures == [(3.0,)] * 4


def test_figures_are_divided_by_what_an_operation_handles(run: Run) -> None:
    assert take(run, "s", {"a": priced(2.0)}, rounds=1, operations=3, per=1_000)["a"].figures == [(0.002,)]


def test_what_a_slice_measures_beside_its_time_stays_as_it_is(run: Run) -> None:
    assert take(run, "s", {"a": lambda count: (6.0, 0.5, 7.0)}, rounds=1, operations=3)["a"].figures == [(2.0, 0.5, 7.0)]


def test_rounds_go_through_rivals_in_orders_that_follow_from_the_seed(run: Run) -> None:
    def orders(seed: int) -> list[str]:
        made: list[str] = []

        def work(name: str) -> Callable[[int], float]:
            def act(count: int) -> float:
                made.append(name)
                return 1.0

            return act

        take(Run(run.settings, seed), "s", {name: work(name) for name in "abcdef"}, rounds=6, operations=1)
        return made

    one = orders(1)
    assert one == orders(1)
    assert one != orders(2)
    assert len({tuple(one[first : first + 6]) for first in range(0, 36, 6)}) > 1
    assert all(sorted(one[first : first + 6]) == list("abcdef") for first in range(0, 36, 6))


def test_one_that_fails_is_reported_and_leaves_the_others_in_peace(run: Run) -> None:
    left = [2]

    def failing(count: int) -> float:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("no room\nand more")
        return 1.0

    taken = take(run, "s", {"a": failing, "b": priced(3.0)}, rounds=4, operations=1)
    assert taken["a"].failure == "OSError: no room"
    assert len(taken["b"].figures) == 4
    shown = cell("s", Swift, Level.POWER, taken["a"])
    assert (shown.figure, shown.failure) == (None, "OSError: no room")


def test_a_cell_has_the_median_and_the_quartiles() -> None:
    taken = Taken([(float(figure),) for figure in (9, 1, 7, 3, 5)], operations=8)
    found = cell("s", Swift, Level.POWER, taken, size=10)
    assert (found.figure, found.low, found.high, found.rounds, found.operations) == (5.0, 3.0, 7.0, 5, 8)


def test_quantile_of_few_and_of_one() -> None:
    assert quantile([3.0, 1.0, 2.0, 4.0], 0.5) == 3.0
    assert quantile([3.0, 1.0, 2.0, 4.0], 0.99) == 4.0
    assert quantile([7.0], 0.25) == 7.0


def test_an_arena_notes_who_is_absent_and_who_cannot_be_opened_and_closes_the_others(run: Run) -> None:
    closed: list[str] = []

    class Closing(Swift):
        name = "closing"

        def close(self) -> None:
            closed.append(self.place.level.name)

    class Missing(Slow):
        name = "missing"

        @classmethod
        def check(cls) -> None:
            raise Absent("not installed")

    class Broken(Slow):
        name = "broken"

        def __init__(self, place: Place) -> None:
            raise ValueError("bad file")

    kinds: list[type[Rival]] = [Closing, Missing, Broken]
    with arena(run, "a", kinds, list(Level)) as found:
        assert [level for _, level in found.rivals] == [Level.POWER, Level.PROCESS]
        assert list(found.at(Level.PROCESS)) == [(Closing, Level.PROCESS)]
        assert found.failures[Broken, Level.POWER].failure == "ValueError: bad file"
    assert run.absent == {"missing": "not installed"}
    assert closed == ["PROCESS", "POWER"]


def cells(*wanted: Cell) -> list[dict[str, Any]]:
    return report.records(wanted)


def figured(rival: str, level: Level, figure: float, size: float | None = None, unit: str = "s") -> Cell:
    return Cell("s", rival, level.value, size, figure, figure / 2, figure * 2, 3, 1, unit)


def test_matched_levels_stand_side_by_side_with_gaps_where_a_rival_has_none() -> None:
    found = report.tables(cells(figured("a", Level.PROCESS, 12e-6), figured("b", Level.POWER, 1e-3), figured("a", Level.POWER, 250e-6)))
    assert found["s"] == [
        ["µs", "power loss", "process death"],
        ["a", "250 (125 – 500)", "12.0 (6.00 – 24.0)"],
        ["b", "1,000 (500 – 2,000)", "–"],
    ]


def test_sizes_are_columns_and_levels_lines_below_each_other() -> None:
    both = [figured("a", level, size * 1e-3, size) for level in (Level.PROCESS, Level.POWER) for size in (10.0, 1_000.0)]
    assert report.tables(cells(*both))["s"] == [
        ["ms", "survives", "10", "1,000"],
        ["a", "power loss", "10.0 (5.00 – 20.0)", "1,000 (500 – 2,000)"],
        ["a", "process death", "10.0 (5.00 – 20.0)", "1,000 (500 – 2,000)"],
    ]


def test_a_failed_cell_shows_its_reason() -> None:
    failed = Cell("s", "b", Level.POWER.value, failure="Full: no room")
    skipped = Cell("s", "c", Level.POWER.value, failure="not measured: too long")
    (_, *lines) = report.tables(cells(figured("a", Level.POWER, 1.0), failed, skipped))["s"]
    assert [line[1] for line in lines[1:]] == ["failed: Full: no room", "not measured: too long"]


@pytest.mark.parametrize(("figure", "shown"), [(0.0, "0"), (0.123, "0.12"), (9.876, "9.88"), (12.34, "12.3"), (1234.5, "1,234")])
def test_amounts_have_three_digits(figure: float, shown: str) -> None:
    assert report.amount(figure) == shown


def test_memory_is_in_megabytes_and_counts_are_bare() -> None:
    assert report.scale_of(cells(figured("a", Level.POWER, 14e6, unit="B"))) == ("MB", 1e-6)
    assert report.scale_of(cells(figured("a", Level.POWER, 900.0, unit=""))) == ("", 1.0)


def document(**changes: Any) -> dict[str, Any]:
    about = {"taken": "2026-01-02T03:04", "processor": "p", "cores": 2, "memory": "8 GiB", "system": "Linux", "file system": "ext4"}
    machine = {**about, "python": "CPython", "load before": 0.1, "versions": {"lmdb": "3"}}
    empty = {"machine": machine, "seed": 1, "seconds": 9.0, "quick": False, "absent": {}, "remarks": {}, "budgets": []}
    return {**empty, "comparison": cells(figured("parkit", Level.POWER, 1.0)), **changes}


def test_a_page_gets_its_tables_and_keeps_its_words_and_is_the_same_when_made_again() -> None:
    words = "# Words\n\n<!-- table: s -->\nold\n<!-- end -->\n\nMore words.\n\n<!-- absent -->\n<!-- end -->\n"
    once = report.page(words, document())
    assert once.startswith("# Words\n\n<!-- table: s -->\n\n| ms | power loss |")
    assert "**parkit**" in once
    assert "old" not in once
    assert "\n\nMore words.\n\n<!-- absent -->\n\nAll rivals were there.\n\n<!-- end -->\n" in once
    assert report.page(once, document()) == once


def test_a_page_that_asks_for_what_was_not_measured_is_refused() -> None:
    with pytest.raises(KeyError, match="table: other"):
        report.page("<!-- table: other -->\n<!-- end -->\n", document())


def test_a_document_is_the_same_when_read_back_and_has_a_line_for_each_record() -> None:
    written = report.lines(document(absent={"redis": "no “server”"}))
    assert json.loads(written) == document(absent={"redis": "no “server”"})
    assert sum(line.startswith(' {"scenario"') for line in written.splitlines()) == 1


def test_budgets_show_what_is_missed() -> None:
    record = {"operation": "get", "figure": 2.5, "unit": "×", "budget": "≤ 2 ×", "verdict": "MISSED", "quartiles": [2.0, 3.0], "note": "n"}
    assert report.budgets_table([record])[1] == ["get", "2.5 ×", "≤ 2 ×", "MISSED", "2 – 3", "n"]
