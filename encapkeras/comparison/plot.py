"""The picture of a comparison: accuracy against time, and against size."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from encapkeras.analysis.plots import STYLE
from encapkeras.comparison.result import Comparison
from encapkeras.comparison.rows import Row, Run
from encapkeras.text import drawing, in_figure
from encapkeras.training.run.run_folder import RunFolder

MOST_NAMED = 20  # networks in the legend
_WIDE = 2.5  # times as much on an axis: from there on it is logarithmic


def plot_comparison(comparison: Comparison) -> Figure | None:
    """Draw what the networks reached, when, and with how many parameters; None while no run is finished."""
    compared_by, log = ("mean IoU", "val_mean_iou") if comparison.has_masks else ("accuracy", "val_accuracy")
    rows = [row for row in comparison.rows() if row.test_accuracy]
    if not rows:
        return None
    colors = _colors(len(rows))
    with drawing(STYLE):
        legend_rows = -(-min(len(rows), MOST_NAMED) // 3)
        figure = Figure(figsize=(10, 4.2 + 0.2 * legend_rows), layout="constrained")
        over_time, over_size = figure.subplots(1, 2)
        for row, color in zip(rows, colors, strict=True):
            runs = [run for run in comparison.runs if run.network == row.network.label and run.results]
            for run in runs:
                over_time.plot(*_course(run, log), color=color, marker="o", markersize=3, linewidth=1.2)
            _draw_point(over_size, row, color)
        _label(over_time, "seconds of training", f"validation {compared_by} after each epoch")
        _label(over_size, "parameters", f"test {compared_by}, mean and range over seeds")
        points, names = over_size.get_legend_handles_labels()
        figure.legend(points[:MOST_NAMED], names[:MOST_NAMED], loc="outside lower center", ncols=3)
        return figure


def _colors(count: int) -> list[str]:
    """Return up to ten distinct colors; for more networks, those of a rainbow."""
    colors = colormaps["tab10"] if count <= 10 else colormaps["turbo"].resampled(count)
    return [to_hex(colors(number)) for number in range(count)]


def _course(run: Run, log: str) -> tuple[list[float], list[float]]:
    """Return seconds and a log of the validation of each epoch; nothing without validation or with a damaged file."""
    results: Mapping[str, Any] = run.results or {}
    try:
        with RunFolder(run.folder).metrics.open(encoding="utf-8", newline="") as file:
            accuracies = [float(line[log]) for line in csv.DictReader(file)]
        return [results["seconds"] * (n + 1) / len(accuracies) for n in range(len(accuracies))], accuracies
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return [], []


def _draw_point(axes: Axes, row: Row, color: str) -> None:
    spread = row.test_mean_iou or row.test_accuracy
    if spread is None or row.parameters is None:
        return
    bar = [[spread.mean - spread.lowest], [spread.highest - spread.mean]]
    name = in_figure(row.network.label)
    axes.errorbar(row.parameters, spread.mean, bar, color=color, marker="o", capsize=3, label=name)


def _label(axes: Axes, across: str, title: str) -> None:
    lowest, highest = axes.dataLim.intervalx
    if lowest > 0 and highest > _WIDE * lowest:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xlabel(across)
    axes.set_title(title)
