"""How rivals are timed beside each other.

All rivals of a scenario run in short slices. Each round goes through them in another order, drawn from the run's seed, so that what the machine does
meanwhile hits everybody alike. How many operations make a slice is found out for each rival before the first round. A figure is the median over the
rounds; its spread is the quartiles. A rival that fails is reported as failed, with its reason, and leaves the others in peace.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, TypeVar

from .measure import Settings, quantile
from .rivals import Absent, Level, Place, Rival

__all__ = ["Cell", "Run", "Taken", "arena", "cell", "enough", "failure_of", "take", "timed"]

R = TypeVar("R", bound=Rival)
K = TypeVar("K", bound=Hashable)

_MOST = 20_000
"""Operations in a slice, at most."""


@dataclass(frozen=True)
class Cell:
    """A figure: one rival in one scenario at one level and one size.

    Attributes:
        scenario: The name of the scenario.
        rival: Its name.
        level: The words of its durability level.
        size: Where costs are measured at growing sizes: the size.
        figure: The median, in ``unit``; None if the rival failed.
        low: First quartile.
        high: Third quartile.
        rounds: What it is the median of.
        operations: Operations in each slice.
        unit: ``s`` (for one operation), ``B``, or nothing.
        failure: Why there is no figure.
        note: What one has to know of this very figure.
    """

    scenario: str
    rival: str
    level: str
    size: float | None = None
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    operations: int = 0
    unit: str = "s"
    failure: str = ""
    note: str = ""


@dataclass
class Taken:
    """What the rounds have brought for one of those who took part.

    Attributes:
        figures: What each slice returned, round by round.
        operations: In each slice.
        failure: Why there are no figures.
    """

    figures: list[tuple[float, ...]] = field(default_factory=list)
    operations: int = 0
    failure: str = ""


@dataclass
class Run:
    """A comparison under way.

    Attributes:
        settings: Of the run.
        seed: What all orders are drawn from.
        absent: The rivals that are not there, and why: filled as scenarios find out.
    """

    settings: Settings
    seed: int
    absent: dict[str, str] = field(default_factory=dict)


def failure_of(error: BaseException) -> str:
    """Return an error as the words of a cell."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def take(
    run: Run,
    scenario: str,
    works: Mapping[K, Callable[[int], float | tuple[float, ...]]],
    *,
    rounds: int | None = None,
    seconds: float | None = None,
    operations: int | None = None,
    most: int = _MOST,
    per: int = 1,
) -> dict[K, Taken]:
    """Run the slices of all who take part, round by round.

    Args:
        run: The comparison.
        scenario: Its name, from which with the seed the orders follow.
        works: For each a function that makes so many operations and returns the seconds they took in all, and whatever else it has measured.
        rounds: How often, unless that takes too long; None: as the run is quick or not.
        seconds: How long a slice should take; None: as the run is quick or not.
        operations: How many a slice has; None: found out for each.
        most: The most of them.
        per: What each operation handles of what the figure is for: the figure is divided by it.
    """
    rounds = rounds or run.settings.either(7, 3)
    limit = time.monotonic() + run.settings.either(20, 3)
    seconds = seconds or (0.012 if run.settings.quick else 0.05)
    orders = random.Random(f"{run.seed} {scenario}")
    taken = {key: Taken() for key in works}
    for key, work in works.items():
        try:
            taken[key].operations = operations or enough(work, seconds, most)
        except Exception as error:
            taken[key].failure = failure_of(error)
    gc.collect()
    for number in range(rounds):
        if number >= run.settings.either(3, 1) and time.monotonic() > limit:
            break  # a disk that is busy with something else: fewer rounds, which the cells say
        order = [key for key in works if not taken[key].failure]
        orders.shuffle(order)
        for key in order:
            count = taken[key].operations
            try:
                found = works[key](count)
            except Exception as error:
                taken[key].failure = failure_of(error)
                continue
            total, *rest = found if isinstance(found, tuple) else (found,)
            taken[key].figures.append((total / count / per, *rest))
    return taken


def enough(work: Callable[[int], float | tuple[float, ...]], seconds: float, most: int) -> int:
    """Return how many operations take about so many seconds; what it runs to find out warms up as well."""
    count = 1
    while True:
        found = work(count)
        took = found[0] if isinstance(found, tuple) else found
        if count >= most or took >= seconds / 4:
            return max(1, min(most, round(count * seconds / max(took, 1e-9))))
        count = min(most, max(count * 2, min(count * 20, round(count * seconds / 3 / max(took, 1e-9)))))


def cell(
    scenario: str,
    rival: type[Rival],
    level: Level,
    taken: Taken,
    *,
    size: float | None = None,
    measure: int = 0,
    unit: str = "s",
    note: str = "",
) -> Cell:
    """Return the cell of what was taken; ``measure`` is the position of its figure in what the slices returned."""
    if taken.failure:
        return Cell(scenario, rival.name, level.value, size, unit=unit, failure=taken.failure, note=note)
    figures = [found[measure] for found in taken.figures]
    return Cell(
        scenario,
        rival.name,
        level.value,
        size,
        statistics.median(figures),
        quantile(figures, 0.25),
        quantile(figures, 0.75),
        len(figures),
        taken.operations,
        unit,
        note=note,
    )


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


@dataclass
class Arena(Generic[R]):
    """Rivals that are open beside each other.

    Attributes:
        rivals: By class and level.
        failures: Those that could not be opened, and why.
    """

    rivals: dict[tuple[type[R], Level], R] = field(default_factory=dict)
    failures: dict[tuple[type[R], Level], Taken] = field(default_factory=dict)

    def at(self, level: Level) -> dict[tuple[type[R], Level], R]:
        """Return those of one level."""
        return {key: rival for key, rival in self.rivals.items() if key[1] is level}


@contextmanager
def arena(run: Run, name: str, kinds: Sequence[type[R]], levels: Sequence[Level]) -> Iterator[Arena[R]]:
    """Open all rivals at all of their levels that are asked for, for the time of a block.

    Those that are not there are noted in the run; those that cannot be opened are in ``failures``.
    """
    found: Arena[R] = Arena()
    with ExitStack() as stack:
        for kind in kinds:
            try:
                kind.check()
            except Absent as error:
                run.absent[kind.name] = str(error)
                continue
            for level in levels:
                if level not in kind.levels:
                    continue
                folder = run.settings.folder / f"{name}-{kind.name}-{level.name}".replace(" ", "-").replace("().", "-").replace("()", "").lower()
                folder.mkdir()
                try:
                    place = stack.enter_context(kind.hosted(Place(folder, level)))
                    rival = kind(place)
                except Exception as error:
                    found.failures[kind, level] = Taken(failure=failure_of(error))
                    continue
                stack.callback(_closing, rival)
                found.rivals[kind, level] = rival
        yield found


def _closing(rival: Rival) -> None:
    try:
        rival.close()
    except Exception as error:
        print(f"{rival.name} cannot be closed: {failure_of(error)}")
