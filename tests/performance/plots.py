"""The plots of `docs/performance`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.performance.figures import ratio
from tests.performance.report import by_type, median, works_of

_GROWN = ("psi", "ss_lr", "ss_xgb", "sgb", "table_statistics", "pearson_correlation")
_COLOURS = {"worker": "#1f6feb", "warm": "#2da44e", "cold": "#8c959f"}
_INK = "#57606a"  # between black and white, so that it can be read on both


def write_plots(measured: Mapping[str, Any], folder: Path) -> None:
    """Write `tasks.svg` and `growth.svg`."""
    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
    }
    matplotlib.rcParams |= {
        name: _INK for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    }
    for name, plot in (("tasks", _plot_tasks), ("growth", _plot_growth)):
        plot(measured).savefig(folder / f"{name}.svg", transparent=True, metadata={"Date": None})


def _plot_tasks(measured: Mapping[str, Any]) -> Figure:
    """The ratio of every work: a bar to the right is slower than the warm pair, left faster."""
    works = works_of(measured)[::-1]
    figure = Figure(figsize=(8, 1 + 0.17 * len(works)), layout="constrained")
    axes = figure.subplots()
    ratios = [ratio(work["worker"], work["warm"]) for work in works]
    colours = [_COLOURS["worker"] if value <= 1 else _COLOURS["cold"] for value in ratios]
    axes.barh(range(len(works)), [value - 1 for value in ratios], left=1, color=colours)
    axes.margins(y=0.01)
    axes.set_yticks(
        range(len(works)),
        [f"{work['task_type']} {work['rows']:,} x {work['columns']}" for work in works],
        fontsize=7,
    )
    axes.set_xscale("log")
    axes.axvline(1, color=_INK, linewidth=0.8)
    axes.set_xlabel("worker / warm")
    return figure


def _plot_growth(measured: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    found = by_type(measured)
    for axes, task_type in zip(figure.subplots(2, 3).ravel(), _GROWN):
        axes.set_title(f"{task_type}, over rows", fontsize=9)
        _draw(axes, found.get(task_type, []))
    figure.legend(handles=figure.axes[0].lines, loc="outside lower center", ncols=3, frameon=False)
    figure.supylabel("seconds", fontsize=9)
    return figure


def _draw(axes: Axes, works: list[Mapping[str, Any]]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for side, colour in _COLOURS.items():
        points = [(work["rows"], median(work, side)) for work in works if side in work]
        rows, seconds = zip(*points) if points else ((), ())
        axes.plot(rows, seconds, marker="o", markersize=3, label=side, color=colour)
