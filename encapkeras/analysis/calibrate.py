"""A temperature that makes probabilities agree with how often they are right, and the picture of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from encapkeras.analysis.plots import STYLE
from encapkeras.analysis.probabilities import Probabilities, calibration_bins, calibration_error, fit_temperature
from encapkeras.text import drawing

FEW = 10  # images in a bin, of which the share that is right says little: it is drawn pale
COLORS = {"before": "#d9600a", "after": "#1f6fb4"}


@dataclass(frozen=True)
class Calibration:
    """What a temperature, fitted on some images, does to the probabilities of others.

    Attributes:
        temperature: By which logits are divided.
        validation_images: How many images it was fitted on.
        targets: The labels of the other images, `(N,)`; or `(N, K)`, 1 for each label of an image.
        probabilities: Theirs `(N, K)`: `before`, with temperature 1, and `after`.
    """

    temperature: float
    validation_images: int
    targets: np.ndarray
    probabilities: dict[str, np.ndarray]

    def plain(self) -> dict[str, Any]:
        """Return the temperature, and error, cross-entropy (nats) and bins before and after, as plain data."""
        measured = {}
        for name, shares in self.probabilities.items():
            bins = calibration_bins(shares, self.targets)
            measured[name] = {
                "calibration_error": calibration_error(shares, self.targets),
                "cross_entropy": self._cross_entropy(shares),
                "bins": [{"count": n, "confidence": c, "right": r} for n, c, r in bins],
            }
        return {
            "temperature": self.temperature,
            "validation_images": self.validation_images,
            "images": len(self.targets),
            **measured,
        }

    def _cross_entropy(self, shares: np.ndarray) -> float:
        targets, shares = self.targets, np.clip(shares, 1e-15, 1)
        if targets.ndim == 1:
            return float(-np.log(shares[np.arange(len(targets)), targets]).mean())
        absent = np.clip(1 - shares, 1e-15, 1)
        return float(-(targets * np.log(shares) + (1 - targets) * np.log(absent)).mean())


def calibrate(
    probabilities: Probabilities, validation: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Calibration:
    """Fit a temperature on the scores and labels of validation images; apply it to those of test images.

    Args:
        probabilities: What the scores mean.
        validation: Scores `(N, K)` and labels `(N,)`, or `(N, K)` of several for each image.
        test: Those of the test images.

    Raises:
        ArgumentError: No temperature fits; see `fit_temperature`.
    """
    temperature = fit_temperature(probabilities.logits(validation[0]), validation[1])
    scores, targets = test
    both = {"before": 1.0, "after": temperature}
    shares = {name: probabilities(scores, factor).numpy() for name, factor in both.items()}
    return Calibration(temperature, len(validation[0]), targets.numpy(), shares)


def plot_reliability(calibration: Calibration) -> Figure:
    """Draw how often probabilities are right, before and after, with matplotlib; below, how many there are of each.

    Bins of fewer than ten images, of which little is known, are pale.

    Args:
        calibration: What `calibrate` returns.
    """
    with drawing(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
        for column, (name, shares) in enumerate(calibration.probabilities.items()):
            bins = calibration_bins(shares, calibration.targets)
            error = calibration_error(shares, calibration.targets)
            _draw(panels[0, column], panels[1, column], bins, COLORS[name])
            factor = 1 if name == "before" else calibration.temperature
            panels[0, column].set_title(f"{name}: temperature {factor:.3g}\ncalibration error {error:.4f}")
        several = calibration.targets.ndim > 1
        panels[0, 0].set_ylabel("share present" if several else "share right")
        panels[1, 0].set_ylabel("share of\nlabels" if several else "share of\nimages")
        for axes in panels[1]:
            axes.set_xlabel("probability")
        return figure


def _draw(reliability: Axes, counts: Axes, bins: list[tuple[int, float, float]], color: str) -> None:
    width = 1 / len(bins)
    left = np.arange(len(bins)) * width
    number, confidence, right = (np.array(column) for column in zip(*bins, strict=True))
    there = number > 0
    style: dict[str, Any] = {"align": "edge", "color": color, "edgecolor": "white", "linewidth": 0.5}
    for bars, alpha in ((number >= FEW, 0.6), (there & (number < FEW), 0.15)):
        reliability.bar(left[bars], right[bars], width, alpha=alpha, **style)
    reliability.plot([0, 1], [0, 1], linestyle="--", color="#4d4d4d", linewidth=1)
    reliability.plot(confidence[there], right[there], "o", markersize=3, color="#4d4d4d", clip_on=False)
    reliability.set_xlim(0, 1)
    reliability.set_ylim(0, 1)
    counts.bar(left, number / max(number.sum(), 1), width, **style)
