"""Figures of explanations: maps over an image, class by class, and the curves of deletion and insertion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from encapkeras.analysis.deletion import Curves
from encapkeras.analysis.explain import Explanation
from encapkeras.analysis.plots import STYLE
from encapkeras.text import cut, drawing, in_figure

SIDE, IN_ROW = 2.1, 6  # inches of a picture; how many stand side by side
LONGEST = 24
METHOD_NAMES = {
    "flow": "flow of agreement",
    "gradient_input": "gradient times input",
    "brightness": "brightness (control)",
    "random_coarse": "random, as coarse as the flow (control)",
    "random": "random (control)",
}
LINES: dict[str, dict[str, Any]] = {
    "flow": {"color": "#1f6fb4"},
    "gradient_input": {"color": "#d9600a"},
    "brightness": {"color": "#4d4d4d", "linestyle": "--"},
    "random_coarse": {"color": "#1f6fb4", "linestyle": ":"},
    "random": {"color": "#4d4d4d", "linestyle": ":"},
}


def plot_explanation(explanation: Explanation, index: int = 0, title: str = "") -> Figure:
    """Draw an image, and beside it the map of each class over the image in gray, all on one scale of colors.

    Args:
        explanation: Of one or more images.
        index: Which image.
        title: Above the picture, such as the name of the file.
    """
    image, maps = explanation.images[index], explanation.maps[index]
    signed = explanation.method == "gradient_input"
    panels = 1 + len(maps)
    columns = min(panels, IN_ROW)
    rows = -(-panels // columns)
    tall = SIDE * image.shape[0] / image.shape[1]
    with drawing(STYLE):
        figure = Figure(figsize=(SIDE * columns + 0.9, (tall + 0.35) * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in grid:
            axes.set_axis_off()
        grid[0].imshow(_shown(image), cmap="gray", vmin=0, vmax=1)
        grid[0].set_title("image")
        most = float(maps.abs().max()) or 1.0
        scale = (
            {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if signed else {"cmap": "plasma", "vmin": 0, "vmax": most}
        )
        names = explanation.names_of(index)
        for axes, values, name, score in zip(grid[1:], maps, names, explanation.scores[index].tolist(), strict=False):
            drawn = _draw_map(axes, image, values, scale)
            axes.set_title(f"{in_figure(cut(name, LONGEST))}: {score:.3f}")
        bar = figure.colorbar(
            drawn, ax=grid.tolist(), shrink=0.8, fraction=0.03, label=METHOD_NAMES[explanation.method]
        )
        bar.ax.ticklabel_format(style="sci", scilimits=(-2, 3))
        if title:
            figure.suptitle(in_figure(title), fontsize=11)
        return figure


def _draw_map(axes: Axes, image: Tensor, values: Tensor, scale: Mapping[str, Any]) -> Any:
    """Draw a map over the image in gray, the more opaque the further a value is from 0."""
    axes.imshow(0.6 * image.mean(2).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    opacity = (values.abs() / scale["vmax"]).sqrt().clamp(0, 1)
    return axes.imshow(values.numpy(), alpha=opacity.numpy(), interpolation="nearest", **scale)


def _shown(image: Tensor) -> Any:
    """Return an image as matplotlib draws it: in color with three channels, otherwise the mean of the channels."""
    return image.clamp(0, 1).numpy() if image.shape[2] == 3 else image.clamp(0, 1).mean(2).numpy()


def plot_curves(measured: Mapping[str, Curves], title: str = "") -> Figure:
    """Draw the mean curves of deletion and insertion, a line for each method.

    Args:
        measured: What `measure_explanations` returns.
        title: Above the figure.
    """
    with drawing(STYLE):
        figure = Figure(figsize=(9, 4.1), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, kind, better in zip(panels, ("deletion", "insertion"), ("lower", "higher"), strict=True):
            for name, curves in measured.items():
                mean = getattr(curves, kind).mean(0)
                share = torch.linspace(0, 1, len(mean))
                axes.plot(share.numpy(), mean.numpy(), label=METHOD_NAMES[name], linewidth=1.6, **LINES[name])
            axes.set_title(f"{kind} ({better} is better)")
            axes.set_xlabel("share of pixels " + ("removed" if kind == "deletion" else "inserted"))
            axes.set_xlim(0, 1)
        panels[0].set_ylabel("score of the class")
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=3)
        if title:
            figure.suptitle(in_figure(title), fontsize=11)
        return figure
