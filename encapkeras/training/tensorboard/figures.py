"""Pictures of what a classifier makes of images, drawn by matplotlib; `names` are those of the classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from encapkeras.text import cut, drawing, in_figure
from encapkeras.training.tensorboard.predictions import Predictions

COLUMNS = 8  # images next to each other
LEAST_WIDTH = 64  # pixels of an image
RIGHT, WRONG = "#2a2a2a", "#c8102e"
STYLE: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 11, "figure.dpi": 100}
TITLE = 0.35  # inches
LONGEST_NAME = 16
COUNTED = 20  # classes up to which a cell has room for its count
NAMED = 250  # classes up to which each has its name at the axes


def draw_predictions(predictions: Predictions, names: Sequence[str], count: int = 40) -> Figure:
    """Draw the first images, each with its class and, below, the predicted one with its score; wrong ones are red."""
    predicted, scores = predictions.predicted, predictions.scores
    captions, colors = [], []
    for index in range(min(count, len(predictions.images))):
        true, taken = int(predictions.labels[index]), int(predicted[index])
        captions.append(f"{_short(names[true])}\n{_short(names[taken])} {scores[index, taken]:.2f}")
        colors.append(RIGHT if true == taken else WRONG)
    right = (predicted == predictions.labels).float().mean().item()
    shares = f"{right:.1%} of {len(predictions.labels):,} images are correct"
    title = f"true class, and below it the prediction with its score; {shares}"
    return _draw_images(predictions.images[:count], captions, colors, title)


def draw_reconstructions(predictions: Predictions, decoded: Tensor, names: Sequence[str], count: int = 16) -> Figure:
    """Draw the first images, and below each what the decoder makes of its longest class capsule, `(F, H, W, C)`."""
    count = min(count, len(decoded))
    rows, captions = [], []
    for start in range(0, count, COLUMNS):
        part = slice(start, min(start + COLUMNS, count))
        missing = COLUMNS - len(predictions.images[part])
        blank = predictions.images.new_ones(missing, *predictions.images.shape[1:])
        rows += [predictions.images[part], blank, decoded[part].clamp(0, 1), blank]
        captions += [_short(names[int(label)]) for label in predictions.labels[part]] + [""] * missing
        captions += [f"as {_short(names[int(label)])}" for label in predictions.predicted[part]] + [""] * missing
    images = np.concatenate([part.numpy() for part in rows])
    return _draw_images(images, captions, [RIGHT] * len(captions), "images, and below each its reconstruction")


def draw_confusion(confusion: Tensor, names: Sequence[str]) -> Figure:
    """Draw how often each class (row) was classified as each (column): colors show shares of a row, numbers images."""
    counts = confusion.numpy()
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.4 * classes), 6.0 + 0.075 * classes, 24.0)
    with drawing(STYLE):
        figure, axes, beside = _square(side, names)
        image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        axes.set_title(f"{int(counts.sum()):,} images, {np.trace(counts) / max(counts.sum(), 1):.1%} right")
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if classes <= NAMED:  # else the ticks are numbers of classes
            _name_ticks(axes, range(classes), names, side)
        if classes <= COUNTED:
            beside.remove()  # the numbers say more
            for row, column in zip(*counts.nonzero(), strict=True):
                color = "white" if shares[row, column] > 0.3 else "black"
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color, fontsize=8)
        else:
            bar = figure.colorbar(image, cax=beside, ticks=[0, 0.05, 0.2, 0.5, 1], format="{x:.0%}")
            bar.set_label("share of the true class")
    return figure


def draw_plan(plan: Tensor, labels: Tensor, names: Sequence[str]) -> Figure:
    """Draw a plan `(F, F)`, sorted by class: mass inside the squares on the diagonal stays within its class."""
    order = labels[: len(plan)].argsort(stable=True)
    ordered = labels[order]
    masses = (plan[order][:, order] * len(plan)).numpy()
    edges = [index for index in range(1, len(ordered)) if ordered[index] != ordered[index - 1]]
    bounds = [0, *edges, len(ordered)]
    within = sum(masses[a:b, a:b].sum() for a, b in itertools.pairwise(bounds)) / max(masses.sum(), 1e-12)
    texts = [names[int(ordered[start])] for start in bounds[:-1]]
    with drawing(STYLE):
        figure, axes, beside = _square(5.8, texts)
        image = axes.imshow(masses, cmap="Blues", vmin=0, vmax=max(masses.max(), 1e-12), interpolation="nearest")
        for edge in edges:
            axes.axhline(edge - 0.5, color="#9a9a9a", linewidth=0.5)
            axes.axvline(edge - 0.5, color="#9a9a9a", linewidth=0.5)
        _name_ticks(axes, [(a + b - 1) / 2 for a, b in itertools.pairwise(bounds)], texts, 5.8)
        axes.set_xlabel("target samples, by class")
        axes.set_ylabel("latent samples, by class")
        axes.set_title(f"{len(plan)} samples; {within:.0%} of the mass stays within its class")
        figure.colorbar(image, cax=beside).set_label("part of a sample's mass")
    return figure


def _draw_images(images: Any, captions: Sequence[str], colors: Sequence[str], title: str) -> Figure:
    """Draw rows of images, each with a caption below in its color; those without one are left blank."""
    scale = -(-LEAST_WIDTH // images.shape[2])
    shown = np.asarray(images)[..., : 3 if images.shape[3] == 3 else 1].repeat(scale, 1).repeat(scale, 2)
    height, width = shown.shape[1:3]
    gap = 2 * (width // 24)  # even, so that frames are as wide on all sides
    below = round(width * (0.15 * max(caption.count("\n") + 1 for caption in captions) + 0.04))
    across, rows = min(COLUMNS, len(shown)), -(-len(shown) // COLUMNS)
    # Joined before they are drawn: matplotlib takes as long for each picture as for one large one.
    canvas = np.ones((rows * (height + gap + below), across * (width + gap), 3), np.float32)
    for index, (image, caption, color) in enumerate(zip(shown, captions, colors, strict=True)):
        top, left = index // COLUMNS * (height + gap + below), index % COLUMNS * (width + gap)
        if caption:
            if color == WRONG:
                canvas[top + 1 : top + height + gap - 1, left + 1 : left + width + gap - 1] = to_rgb(WRONG)
            canvas[top + gap // 2 : top + gap // 2 + height, left + gap // 2 : left + gap // 2 + width] = image
    size = max(1.35 * across, 6.0)
    with drawing(STYLE):
        figure = Figure(figsize=(size, size * len(canvas) / canvas.shape[1] + TITLE))
        axes = figure.add_axes((0, 0, 1, 1 - TITLE / figure.get_figheight()))
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        for index, (caption, color) in enumerate(zip(captions, colors, strict=True)):
            middle, line = (index % COLUMNS + 0.5) * (width + gap), index // COLUMNS * (height + gap + below)
            axes.text(middle, line + height + gap, caption, ha="center", va="top", color=color, fontsize=8)
        axes.axis("off")
        figure.text(0.5, 1 - TITLE / 2 / figure.get_figheight(), title, ha="center", va="center", fontsize=11)
    return figure


def _square(side: float, names: Sequence[str]) -> tuple[Figure, Axes, Axes]:
    """Make a square with room for names at its left and bottom, and next to it axes for a color bar."""
    names_take = 0.5 + _points(side, len(names)) / 72 * 0.65 * max(len(_short(name)) for name in names)
    width, height = names_take + side + 1.1, names_take + side + TITLE
    figure = Figure(figsize=(width, height))
    # Positions are given: matplotlib would draw everything twice to find them.
    axes = figure.add_axes((names_take / width, names_take / height, side / width, side / height))
    bar = ((names_take + side + 0.2) / width, (names_take + 0.2 * side) / height, 0.18 / width, 0.6 * side / height)
    return figure, axes, figure.add_axes(bar)


def _name_ticks(axes: Axes, places: Sequence[float], names: Sequence[str], side: float) -> None:
    texts, size = [_short(name) for name in names], _points(side, len(names))
    axes.set_xticks(places, texts, rotation=90 if max(map(len, texts)) > 2 else 0, fontsize=size)
    axes.set_yticks(places, texts, fontsize=size)
    axes.tick_params(length=2, pad=1)


def _points(side: float, names: int) -> float:
    """Return the font size at which names next to each other have room."""
    return min(9.0, max(4.0, 45 * side / names))


def _short(name: str) -> str:
    return in_figure(cut(name, LONGEST_NAME))
