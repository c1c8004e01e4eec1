"""Pictures of a comparison, as SVG: small, the same for the same figures, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .report import scale_of
from .rivals import Level, load

__all__ = ["draw"]

OURS: Final = {"parkit": "#c2410c", "parkit_async": "#f59e0b", "parkit Process": "#c2410c", "parkit ProcessPoolExecutor": "#f59e0b"}
OTHERS: Final = ["#1d4ed8", "#0891b2", "#15803d", "#7c3aed", "#64748b", "#be185d", "#4d7c0f", "#0f172a", "#a16207", "#6b7280"]
MARKERS: Final = "osD^vP*Xh"

Record = Mapping[str, Any]


def draw(cells: Sequence[Record], folder: Path) -> list[Path]:
    """Draw all pictures for which there are figures; return their paths."""
    matplotlib = load("matplotlib")
    matplotlib.use("svg")
    settings = {"svg.hashsalt": "parkit", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False}
    matplotlib.rcParams.update({**settings, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e2e8f0", "axes.axisbelow": True})
    measured = [cell for cell in cells if cell["figure"]]
    rivals = [name for name in dict.fromkeys(cell["rival"] for cell in cells) if name not in OURS]
    colours = {**{name: OTHERS[number % len(OTHERS)] for number, name in enumerate(rivals)}, **OURS}
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[tuple[str, Any]] = [
        ("set", _dots(measured, "set", "Dict set, one by one", colours)),
        ("get", _dots(measured, "get", "Dict get, one by one", colours)),
        ("queue", _dots(measured, "producer and consumer", "Queue, from one process to another, each item", colours)),
        ("ping-pong", _dots(measured, "ping-pong, p50", "Queue, there and back between two processes", colours, until="ping-pong, p99")),
        ("pools", _dots(measured, "call, p50", "A call in a pool of two workers", colours)),
        ("values", _lines(measured, ["get by value", "set by value"], "bytes of the value", colours)),
        ("entries", _lines(measured, ["get by entries", "set by entries"], "entries in the dict", colours)),
        ("tasks", _lines(measured, ["set by tasks", "put by tasks"], "tasks that write at once", colours)),
    ]
    paths = []
    for name, picture in pictures:
        if picture is None:
            continue
        path = folder / f"{name}.svg"
        picture.savefig(path, bbox_inches="tight", facecolor="white", metadata={"Date": None})
        load("matplotlib.pyplot").close(picture)
        paths.append(path)
    return paths


def _dots(cells: Sequence[Record], scenario: str, title: str, colours: Mapping[str, str], until: str = "") -> Any:
    """A panel for each level, a dot for each rival on a line from quartile to quartile, or to its figure in ``until``; the quickest on top."""
    mine = [cell for cell in cells if cell["scenario"] == scenario]
    levels = [level.value for level in Level if any(cell["level"] == level for cell in mine)]
    if not mine:
        return None
    heights = [max(1, sum(cell["level"] == level for cell in mine)) for level in levels]
    figure, axes = load("matplotlib.pyplot").subplots(
        len(levels), 1, figsize=(7, 0.6 * len(levels) + 0.26 * sum(heights)), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    unit, factor = scale_of(mine)
    far = {(cell["rival"], cell["level"]): cell["figure"] * factor for cell in cells if until and cell["scenario"] == until}
    for axis, level in zip(axes[:, 0], levels, strict=True):
        here = sorted((cell for cell in mine if cell["level"] == level), key=lambda cell: -cell["figure"])
        for position, cell in enumerate(here):
            name, at = cell["rival"], cell["figure"] * factor
            if end := far.get((name, level)):
                axis.plot([at, end], [position, position], color=colours[name], lw=1, marker="|", markevery=[1])
            else:
                axis.plot([cell["low"] * factor, cell["high"] * factor], [position, position], color=colours[name], lw=2.5, alpha=0.4)
            axis.plot(at, position, color=colours[name], marker="o", ms=8 if name in OURS else 5)
        axis.set_yticks(range(len(here)), [cell["rival"] for cell in here])
        axis.set_ylim(-0.6, len(here) - 0.4)
        axis.set_xscale("log")
        _plain_ticks(axis.xaxis)
        axis.set_title(f"survives {level}", loc="left", fontsize=9)
    axes[-1, 0].set_xlabel(f"{unit}, less is better{'; the line ends at p99' if far else ''}")
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold")
    figure.tight_layout()
    return figure


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, and often enough where it is short."""
    ticker = load("matplotlib.ticker")
    low, high = axis.get_view_interval()
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda figure, _: f"{figure:,.10g}".replace(",000,000", " M").replace(",000", " k")))


def _lines(cells: Sequence[Record], scenarios: Sequence[str], label: str, colours: Mapping[str, str]) -> Any:
    """A panel for each scenario and level, a line for each rival."""
    panels = [
        (scenario, level.value)
        for scenario in scenarios
        for level in Level
        if any(cell["scenario"] == scenario and cell["level"] == level for cell in cells) and level is not Level.MEMORY
    ]
    if not panels:
        return None
    figure, axes = load("matplotlib.pyplot").subplots(1, len(panels), figsize=(4 * len(panels), 3.4), sharey=True, squeeze=False)
    unit, factor = scale_of([cell for cell in cells if (cell["scenario"], cell["level"]) in panels])
    shown: dict[str, Any] = {}
    for axis, (scenario, level) in zip(axes[0], panels, strict=True):
        mine = [cell for cell in cells if cell["scenario"] == scenario and cell["level"] == level]
        for number, rival in enumerate(dict.fromkeys(cell["rival"] for cell in mine)):
            points = sorted((cell["size"], cell["figure"] * factor) for cell in mine if cell["rival"] == rival)
            width, order = (2.2, 3) if rival in OURS else (1.2, 2)
            marker = MARKERS[number % len(MARKERS)]
            (line,) = axis.plot(*zip(*points, strict=True), color=colours[rival], marker=marker, ms=4, lw=width, zorder=order, label=rival)
            shown.setdefault(rival, line)
        axis.set_xscale("log")
        axis.set_yscale("log")
        _plain_ticks(axis.xaxis)
        _plain_ticks(axis.yaxis)
        axis.set_xlabel(label)
        axis.set_title(f"{scenario.split(' by ')[0]}, survives {level}", loc="left", fontsize=9)
    axes[0, 0].set_ylabel(f"{unit} for one, less is better")
    figure.legend(shown.values(), shown.keys(), loc="lower center", ncols=min(6, len(shown)), bbox_to_anchor=(0.5, -0.18), frameon=False)
    figure.tight_layout()
    return figure
