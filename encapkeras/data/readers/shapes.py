"""Made images of shapes with a mask each."""

from __future__ import annotations

import numpy as np
import pydantic

from encapkeras.data.registry import Array, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import ArgumentError

CLASSES = ("background", "disk", "square", "triangle")
SMALLEST = 16  # pixels
MOST = 3  # shapes in an image
RADII = (0.14, 0.26)  # of the circle with the area of a shape, in sides of the image
NOISE = 0.15
# Distances of the sides from the center of a square and an equilateral triangle with the area of a circle of radius 1.
SQUARE = np.sqrt(np.pi) / 2
TRIANGLE = np.sqrt(np.pi / (3 * np.sqrt(3)))


@register_dataset("shapes")
class Shapes(DatasetReader):
    """Made gray images of one to three disks, squares and triangles, with a mask that has the class of each pixel.

    Shapes are turned and placed at random, and later ones cover earlier ones. Those of one size have the same area,
    and the gray of shapes and background is random, 0.2 apart or more, with noise: only the outline says what a
    shape is. A fourth as many again are test images.

    Args:
        images: Number of training images.
        size: Height and width in pixels, at least 16.
        seed: Of the draws; each has its own images.
    """

    def __init__(
        self,
        images: pydantic.PositiveInt = 2000,
        size: pydantic.PositiveInt = 32,
        seed: pydantic.NonNegativeInt = 0,
    ) -> None:
        self.images, self.size, self.seed = images, size, seed
        for name, value, least in (("images", images, len(CLASSES)), ("size", size, SMALLEST)):
            if value < least:
                raise ArgumentError(f"data.{name} of data set 'shapes' must be at least {least}; received {value}")

    def describe(self) -> DatasetInfo:
        """Four classes, background included, and as many images as asked for."""
        return DatasetInfo(self.size, self.size, 1, len(CLASSES), CLASSES, self.images, task="segments")

    def read(self) -> ImageArrays:
        """Draw training and test images."""
        return ImageArrays(*self._draw(self.images, 0), *self._draw(max(4, self.images // 4), 1))

    def _draw(self, count: int, part: int) -> tuple[Array, Array]:
        random = np.random.default_rng([self.seed, part])
        back = random.uniform(0, 1, count)
        gray = np.repeat(back, self.size**2).reshape(count, self.size, self.size)
        masks = np.zeros((count, self.size, self.size), np.uint8)
        shapes = random.integers(1, MOST + 1, count)
        for number in range(MOST):
            classes = random.integers(1, len(CLASSES), count)
            inside = self._inside(random, classes) & (number < shapes)[:, np.newaxis, np.newaxis]
            distance = random.uniform(0.2, 0.8, count)  # of the gray from the background's, on a circle of length 1
            masks = np.where(inside, classes[:, np.newaxis, np.newaxis], masks).astype(np.uint8)
            gray = np.where(inside, ((back + distance) % 1)[:, np.newaxis, np.newaxis], gray)
        noisy = gray + random.normal(0, NOISE, gray.shape)
        pixels = np.clip(np.rint(255 * noisy), 0, 255).astype(np.uint8)
        return pixels[..., np.newaxis], masks

    def _inside(self, random: np.random.Generator, classes: Array) -> Array:
        """Draw a shape for each image; return which pixels it covers, `(N, H, W)`."""
        count = len(classes)
        centers = random.uniform(0.2, 0.8, (2, count, 1, 1))
        radii = random.uniform(*RADII, (count, 1, 1))
        angles = random.uniform(0, 2 * np.pi, (count, 1, 1))
        places = (np.arange(self.size) + 0.5) / self.size
        down, right = (places[:, np.newaxis] - centers[0]) / radii, (places - centers[1]) / radii

        def along(turn: float) -> Array:
            """How far pixels are from the center in a direction, in radii."""
            distance: Array = np.cos(angles + turn) * right + np.sin(angles + turn) * down
            return distance

        square = np.maximum(np.abs(along(0)), np.abs(along(np.pi / 2))) <= SQUARE
        triangle = np.max([along(2 * np.pi * side / 3) for side in range(3)], axis=0) <= TRIANGLE
        disk = right**2 + down**2 <= 1
        covered: Array = np.choose(classes[:, np.newaxis, np.newaxis] - 1, [disk, square, triangle])
        return covered
