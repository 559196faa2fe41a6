"""Figures of routing analyses: several checkpoints side by side."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from encapkeras.analysis.measurements import BIN_WIDTH, Measurement, RoutingAnalysis
from encapkeras.errors import ArgumentError
from encapkeras.text import drawing, in_figure

COLORS = defaultdict(lambda: "#4d4d4d", {"dynamic": "#1f6fb4", "em": "#d9600a"})
"""One color for each kind of routing, in every picture; gray for others."""


class _Names(dict[str, str]):
    """Names of kinds of routing; those of your own routings end in `routing` too."""

    def __missing__(self, kind: str) -> str:
        return f"{kind} routing"


KINDS = _Names(em="EM routing", convolution_dynamic="dynamic routing")
# Whose activations are the lengths of the capsules.
OF_LENGTHS = ("dynamic", "convolution_dynamic", "self_attention", "inverted_attention", "heinsen_2022")
LINES: dict[str, dict[str, Any]] = {
    "all": {"linestyle": "-", "marker": "s"},
    "target": {"linestyle": "-", "marker": "o"},
    "other": {"linestyle": "--", "marker": "o"},
}
LEAST_SPAN = 0.1  # of an axis of cosines: rounding errors must not look like changes
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 120,
    "savefig.dpi": 120,
}
ROLES = {"all": "all output capsules", "target": "the image's class", "other": "other classes"}


def plot_iterations(analyses: Sequence[RoutingAnalysis], layer: str) -> Figure:
    """Draw how a layer's couplings, agreement and activations change with the iterations.

    Args:
        analyses: Analyses of one network with different weights; each is a column.
        layer: Name of the layer.

    Returns:
        A matplotlib figure with the rows entropy, agreement, agreement weighted by coupling, and activation.

    Raises:
        ArgumentError: An analysis does not have this layer.
    """
    rows = (
        ("coupling_entropy_relative", "coupling entropy\n(1 = uniform)"),
        ("agreement", "agreement\n(mean cosine)"),
        ("agreement_by_coupling", "agreement weighted\nby coupling"),
        ("activation", "activation\n" + ("$|v_j|$" if _kind(analyses, layer) in OF_LENGTHS else "$a_j$")),
    )
    with drawing(STYLE):
        figure, grid = _grid(analyses, layer, [label for _, label in rows])
        for axes_of_row, (statistic, _) in zip(grid, rows, strict=True):
            for axes, analysis in zip(axes_of_row, analyses, strict=True):
                _draw_iterations(axes, analysis.select(layer, statistic))
        activations = [m.value for each in analyses for m in each.select(layer, "activation") if m.value is not None]
        for row, top in ((0, 1.0), (3, max([1.0, *activations]))):  # lengths after a layer norm are above 1
            grid[row][0].set_ylim(0, 1.05 * top)
        for row in (1, 2):
            _widen(grid[row][0])
        for axes in grid[-1]:
            axes.set_xlabel("iteration")
        _legend(figure, [grid[0][0], grid[1][0]])
        return figure


def plot_votes(analyses: Sequence[RoutingAnalysis], layer: str) -> Figure:
    """Draw the directions of a layer's votes, and the lengths of those of each direction.

    Args:
        analyses: Analyses of one network with different weights; each is a column.
        layer: Name of the layer.

    Returns:
        A matplotlib figure: for the votes for the image's class and for the other classes (or for all output
        capsules), the share of the votes in each of 21 bins of the cosine between vote and output capsule, and their
        mean length; one line for each iteration.

    Raises:
        ArgumentError: An analysis does not have this layer.
    """
    kind = _kind(analyses, layer)
    roles = list(dict.fromkeys(m.capsules for m in analyses[0].select(layer, "vote_length")))
    labels = [f"{what} for\n{ROLES[role]}" for what in ("share of votes (%)", "mean length of votes") for role in roles]
    with drawing(STYLE):
        figure, grid = _grid(analyses, layer, labels)
        for column, analysis in enumerate(analyses):
            for row, role in enumerate(roles):
                bins = analysis.select(layer, "vote_length", role)
                _draw_bins(grid[row][column], bins, kind, shares=True)
                _draw_bins(grid[row + len(roles)][column], bins, kind, shares=False)
        for axes in [axes for axes_of_row in grid for axes in axes_of_row]:
            axes.set_xlim(-1, 1)
            axes.set_xticks([-1, -0.5, 0, 0.5, 1])
            axes.set_ylim(bottom=0)
        for axes in grid[-1]:
            axes.set_xlabel("cosine between vote and output capsule")
        _legend(figure, [grid[0][0]])
        return figure


def _kind(analyses: Sequence[RoutingAnalysis], layer: str) -> str:
    for analysis in analyses:
        if layer not in analysis.layers:
            raise ArgumentError(f"'{analysis.checkpoint}' has no layer '{layer}'; it has {', '.join(analysis.layers)}")
    if not analyses:
        raise ArgumentError("there are no analyses to draw")
    return next(m.routing for m in analyses[0].measurements if m.layer == layer)


def _grid(analyses: Sequence[RoutingAnalysis], layer: str, labels: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """A column for each analysis, titled with its checkpoint, and a row for each label."""
    columns = len(analyses)
    figure = Figure(figsize=(max(5.0, 1.6 + 2.9 * columns), 0.9 + 1.75 * len(labels)), layout="constrained")
    grid = figure.subplots(len(labels), columns, squeeze=False, sharex=True, sharey="row")
    first = analyses[0]
    routing = KINDS[_kind(analyses, layer)]
    figure.suptitle(f"{in_figure(f'{layer}: {routing}')}, {first.images:,} {first.split} images", fontsize=11)
    for axes, analysis in zip(grid[0], analyses, strict=True):
        axes.set_title(in_figure(analysis.checkpoint))
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    figure.align_ylabels(list(grid[:, 0]))
    return figure, [list(axes_of_row) for axes_of_row in grid]


def _draw_iterations(axes: Axes, found: Sequence[Measurement]) -> None:
    for role in dict.fromkeys(m.capsules for m in found):
        points = [m for m in found if m.capsules == role]
        axes.plot(
            [m.iteration for m in points],
            _heights(points),
            color=COLORS[points[0].routing] if role != "other" else _lighten(COLORS[points[0].routing], 0.45),
            markersize=4,
            label=ROLES[role],
            **LINES[role],
        )
    axes.set_xticks(sorted({m.iteration for m in found}))


def _draw_bins(axes: Axes, bins: Sequence[Measurement], kind: str, shares: bool) -> None:
    """Draw one line for each iteration, later ones darker."""
    last = max(m.iteration for m in bins)
    for iteration in range(1, last + 1):
        points = [m for m in bins if m.iteration == iteration and m.cosine is not None]
        total = sum(m.count for m in points)
        style: dict[str, Any] = {
            "color": _lighten(COLORS[kind], 0.7 * (last - iteration) / max(1, last - 1)),
            "label": f"iteration {iteration}",
        }
        if shares:
            edges = [(m.cosine or 0.0) - BIN_WIDTH / 2 for m in points]
            axes.stairs([100 * m.count / total for m in points], [*edges, 1.0], baseline=None, linewidth=1.5, **style)
        else:
            axes.plot([m.cosine or 0.0 for m in points], _heights(points), marker="o", markersize=3, **style)


def _heights(points: Sequence[Measurement]) -> list[float]:
    """Return the values; NaN, a gap, where there is none."""
    return [math.nan if m.value is None else m.value for m in points]


def _lighten(color: str, amount: float) -> tuple[float, float, float]:
    """Move a color towards white by `amount`, 0 to 1."""
    red, green, blue = (part + (1 - part) * amount for part in to_rgb(color))
    return red, green, blue


def _widen(axes: Axes) -> None:
    """Give an axis of cosines its least span."""
    low, high = axes.get_ylim()
    wider = max(0.0, LEAST_SPAN - (high - low)) / 2
    axes.set_ylim(low - wider, high + wider)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))
