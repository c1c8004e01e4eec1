"""How figures are taken, and compared with their budgets.

The machine drifts and other programs run on it, so what is compared runs in short slices that take turns, in alternating order, and a figure
is the median of the ratios of slices that ran next to each other. Beside it stand the quartiles of these ratios: how far to trust it.
"""

from __future__ import annotations

import gc
import math
import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Budget", "Result", "Settings", "absolute", "compare", "gauge", "interleave", "microseconds", "quantile"]

_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, "=": operator.eq}
_SIGNS: Final = {"<=": "≤", ">=": "≥"}


@dataclass(frozen=True)
class Budget:
    """What a figure is allowed to be.

    Attributes:
        comparison: How the figure relates to the limit: ``<=``, ``<``, ``>=`` or ``=``.
        limit: In ``unit``.
        unit: ``×`` for a ratio.
    """

    comparison: str
    limit: float
    unit: str = "×"

    def met(self, figure: float) -> bool:
        """Return whether a figure keeps to it."""
        return _COMPARISONS[self.comparison](figure, self.limit)

    def __str__(self) -> str:
        return f"{_SIGNS.get(self.comparison, self.comparison)} {self.limit:.3g} {self.unit}".rstrip()


@dataclass(frozen=True)
class Result:
    """A line of the table.

    Attributes:
        operation: What was measured.
        budget: What it may be.
        figure: What it is, in the budget's unit; None if it could not be measured, and ``note`` says why.
        low: First quartile of what the figure is the median of.
        high: Third quartile.
        note: The absolute figures behind it, or whatever else helps to read it.
    """

    operation: str
    budget: Budget
    figure: float | None
    low: float = math.nan
    high: float = math.nan
    note: str = ""

    @property
    def verdict(self) -> str:
        """``met``, ``MISSED`` or ``not measured``."""
        if self.figure is None:
            return "not measured"
        return "met" if self.budget.met(self.figure) else "MISSED"


@dataclass(frozen=True)
class Settings:
    """What a benchmark is run with.

    Attributes:
        folder: An empty folder of the benchmark's own, on the disk to be measured.
        quick: Whether to take smaller samples.
    """

    folder: Path
    quick: bool

    def either(self, full: int, quick: int) -> int:
        """Return the one of two sizes that applies."""
        return quick if self.quick else full


def interleave(rounds: int, *slices: Callable[[], float]) -> list[list[float]]:
    """Run slices of work in turn, once unmeasured and then ``rounds`` times.

    Args:
        rounds: How often; every other round goes through them backwards.
        slices: Each does its work and returns what it measured, usually seconds for one operation.

    Returns:
        What each returned, round by round.
    """
    for work in slices:
        work()
    taken: list[list[float]] = [[] for _ in slices]
    order = list(range(len(slices)))
    gc.collect()
    for _ in range(rounds):
        for position in order:
            taken[position].append(slices[position]())
        order.reverse()
    return taken


def compare(operation: str, budget: Budget, own: Sequence[float], reference: Sequence[float], note: str = "") -> Result:
    """Return the result of setting parkit's slices, in seconds, against those of a reference that ran next to them."""
    ratios = [mine / other for mine, other in zip(own, reference, strict=True)]
    figures = f"{microseconds(own)} against {microseconds(reference)}"
    return gauge(operation, budget, ratios, f"{figures}; {note}" if note else figures)


def gauge(operation: str, budget: Budget, figures: Sequence[float], note: str = "") -> Result:
    """Return the result of several measurements of one figure: their median."""
    return Result(operation, budget, statistics.median(figures), quantile(figures, 0.25), quantile(figures, 0.75), note)


def absolute(operation: str, budget: Budget, figure: float, note: str = "") -> Result:
    """Return a result that is one figure: a count, or the worst of many."""
    return Result(operation, budget, figure, note=note)


def quantile(figures: Sequence[float], share: float) -> float:
    """Return the figure below which ``share`` of all lie."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * share))]


def microseconds(seconds: Sequence[float]) -> str:
    """Return the median as text."""
    figure = statistics.median(seconds) * 1e6
    return f"{figure:.2f} us" if figure < 100 else f"{figure:.0f} us" if figure < 10_000 else f"{figure / 1e3:.0f} ms"
