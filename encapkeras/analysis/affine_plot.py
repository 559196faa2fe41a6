"""The figure of the accuracy on images that are turned, moved and scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from encapkeras.analysis.affine import AffineAccuracy
from encapkeras.analysis.plots import STYLE
from encapkeras.errors import ArgumentError
from encapkeras.text import drawing, in_figure

MOST_NETWORKS = 10
AXES = {
    "rotation": "turned by (degrees, counter-clockwise)",
    "shift": "moved by (pixels)",
    "scale": "scaled by (factor)",
}
TICKS = {"rotation": (-90, -60, -30, 0, 30, 60, 90), "scale": (0.5, 0.7, 1.0, 1.4, 2.0)}


def plot_affine(networks: Mapping[str, Sequence[AffineAccuracy]]) -> Figure:
    """Draw the accuracy against rotation, shift and scale, a line for each network, with matplotlib.

    Args:
        networks: Results of `affine_accuracy` by the name of the network; ten networks at most.

    Raises:
        ArgumentError: There are no networks, or more than ten.
    """
    if not 1 <= len(networks) <= MOST_NETWORKS:
        raise ArgumentError(f"1 to {MOST_NETWORKS} networks can be drawn side by side; received {len(networks)}")
    with drawing(STYLE):
        figure = Figure(figsize=(10, 3.6 + 0.2 * -(-len(networks) // 4)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, change in zip(panels, AXES, strict=True):
            for number, (name, measured) in enumerate(networks.items()):
                points = [each for each in measured if each.change == change]
                heights = [each.accuracy for each in points]
                style = {"marker": "o", "markersize": 3, "color": colormaps["tab10"](number), "label": in_figure(name)}
                axes.plot([p.amount for p in points], heights, **style)
            _label(axes, change)
        panels[0].set_ylim(0, 1)
        panels[0].set_ylabel("accuracy")
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=min(len(names), 4))
        return figure


def _label(axes: Axes, change: str) -> None:
    axes.set_xlabel(AXES[change])
    if change == "scale":
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda factor, _: f"{factor:g}"))
    if change in TICKS:
        axes.xaxis.set_major_locator(FixedLocator(TICKS[change]))
