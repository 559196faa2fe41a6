"""The accuracy of a trained network on images that are turned, moved and scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from encapkeras.analysis.classify import Classifier
from encapkeras.data import Batches, augment
from encapkeras.data.splits import balanced_sample
from encapkeras.errors import ArgumentError

Change = Literal["rotation", "shift", "scale"]

UNITS: dict[Change, str] = {"rotation": "degrees", "shift": "pixels", "scale": "factor"}
DEGREES = (-90, -75, -60, -45, -30, -20, -10, 0, 10, 20, 30, 45, 60, 75, 90)
SHIFTS = (0, 1, 2, 3, 4, 6, 8)
"""In pixels of an image whose side is 32; larger and smaller images are moved by as much of their side."""
FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0)
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(frozen=True)
class AffineAccuracy:
    """The accuracy on images that are changed in one way.

    Attributes:
        change: `rotation`, `shift` or `scale`.
        amount: By how much: degrees, counter-clockwise; pixels; or the factor of the size.
        accuracy: 0 to 1; of a shift, the mean of those to the right, left, bottom and top.
        images: The number of images.
    """

    change: Change
    amount: float
    accuracy: float
    images: int


def transformed(
    images: Tensor, *, degrees: float = 0.0, right: float = 0.0, down: float = 0.0, factor: float = 1.0
) -> Tensor:
    """Scale images, then rotate them about their center, then shift them; bilinear, with 0 outside.

    The pixel at p, from the center of the image, has the value of the given image at `R^-1 (p - t) / factor`, R the
    rotation. Without a change these are the given images, to the bit.

    Args:
        images: `(B, H, W, C)`, float.
        degrees: Angle, counter-clockwise.
        right: Pixels to the right; to the left if below 0.
        down: Pixels downwards; upwards if below 0.
        factor: Of the size, above 0.

    Returns:
        `(B, H, W, C)`.

    Raises:
        ArgumentError: The factor is not above 0, or a number is not finite.

    Examples:
        >>> image = torch.eye(3)[None, :, :, None]
        >>> transformed(image, right=1)[0, :, :, 0]
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [0., 0., 0.]])
    """
    if not all(map(math.isfinite, (degrees, right, down, factor))) or factor <= 0:
        raise ArgumentError(
            "degrees, right and down must be finite numbers and factor one above 0; received "
            f"{degrees}, {right}, {down} and {factor}"
        )
    if (degrees, right, down, factor) == (0, 0, 0, 1):
        return images
    # Rows grow downwards, so that counter-clockwise is from x to -y.
    cos, sin = math.cos(math.radians(degrees)) / factor, math.sin(math.radians(degrees)) / factor
    back = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    offset = -back @ torch.tensor([right, down], dtype=torch.float64)
    return augment.warp(images, back.expand(len(images), 2, 2), offset.expand(len(images), 2))


def affine_accuracy(classifier: Classifier, batches: Batches, count: int | None = None) -> list[AffineAccuracy]:
    """Measure the accuracy on images turned by `DEGREES`, moved by `SHIFTS`, and scaled by `FACTORS`, one at a time.

    Args:
        classifier: A network.
        batches: Images and labels.
        count: How many of the images, a choice that is always the same, each class with its share; None for all.
    """
    grid = changes(classifier.image_shape[1])
    right = dict.fromkeys(grid, 0)
    sample = batches if count is None else balanced_sample(batches, count)
    seen = len(sample.classes)
    for images, labels in map(sample.batch, range(len(sample))):
        for place, ways in grid.items():
            for way in ways:
                best = classifier.scores(transformed(images, **way)).argmax(1)
                right[place] += int((best == labels).sum())
    return [
        AffineAccuracy(change, amount, right[change, amount] / (seen * len(ways)), seen)
        for (change, amount), ways in grid.items()
    ]


def changes(width: int) -> dict[tuple[Change, float], list[dict[str, float]]]:
    """Return the ways to change images, as arguments of `transformed`, for every change and amount."""
    shifts = sorted({round(pixels * width / 32) for pixels in SHIFTS})
    grid: dict[tuple[Change, float], list[dict[str, float]]] = {
        ("rotation", each): [{"degrees": each}] for each in DEGREES
    }
    for pixels in shifts:
        ways = [{"right": float(pixels * x), "down": float(pixels * y)} for x, y in DIRECTIONS]
        grid["shift", pixels] = ways if pixels else ways[:1]
    return {**grid, **{("scale", each): [{"factor": each}] for each in FACTORS}}
