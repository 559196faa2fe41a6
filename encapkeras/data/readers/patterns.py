"""Made sequences whose class is in the order of events and in their length."""

from __future__ import annotations

import numpy as np
import pydantic

from encapkeras.data.registry import Array, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import ArgumentError

CLASSES = ("A before B, short", "A before B, long", "B before A, short", "B before A, long")
SMALLEST = 6  # steps: short sequences have room for two events
EVENT = 2.0
NOISE = 0.3


@register_dataset("patterns")
class Patterns(DatasetReader):
    """Made sequences of four classes: which of two events comes first, and whether the sequence is short or long.

    Steps are noise; at one step of each sequence the first number is larger by 2 (event A), at another the second
    (event B). Short sequences have a third to a half of the steps, long ones at least two thirds; the others are 0,
    padding. All else is equal, so that an average over the steps says at most how long a sequence is: two of four
    classes. A fourth as many again are test sequences.

    Args:
        sequences: Number of training sequences.
        steps: Steps of a sequence with its padding, at least 6.
        features: Numbers of a step, at least 2.
        seed: Of the draws; each has its own sequences.
    """

    def __init__(
        self,
        sequences: pydantic.PositiveInt = 4000,
        steps: pydantic.PositiveInt = 20,
        features: pydantic.PositiveInt = 6,
        seed: pydantic.NonNegativeInt = 0,
    ) -> None:
        self.sequences, self.steps, self.features, self.seed = sequences, steps, features, seed
        for name, value, least in (
            ("sequences", sequences, len(CLASSES)),
            ("steps", steps, SMALLEST),
            ("features", features, 2),
        ):
            if value < least:
                raise ArgumentError(f"data.{name} of data set 'patterns' must be at least {least}; received {value}")

    def describe(self) -> DatasetInfo:
        """Four classes, as many sequences as asked for."""
        classes = len(CLASSES)
        return DatasetInfo(1, self.steps, self.features, classes, CLASSES, self.sequences, samples="sequences")

    def read(self) -> ImageArrays:
        """Draw training and test sequences."""
        return ImageArrays(*self._draw(self.sequences, 0), *self._draw(max(4, self.sequences // 4), 1))

    def _draw(self, count: int, part: int) -> tuple[Array, Array]:
        random = np.random.default_rng([self.seed, part])
        labels = random.permutation(np.arange(count) % len(CLASSES))
        b_first, is_long = labels // 2, labels % 2 == 1
        least = np.where(is_long, -(-2 * self.steps // 3), self.steps // 3)
        most = np.where(is_long, self.steps, self.steps // 2)
        lengths = random.integers(least, most + 1)
        noise = random.normal(0, NOISE, (count, self.steps, self.features))
        sequences = np.where(np.arange(self.steps)[:, np.newaxis] < lengths[:, np.newaxis, np.newaxis], noise, 0)
        first = random.integers(0, lengths)
        second = (first + random.integers(1, lengths)) % lengths  # another step, all alike
        places = np.sort(np.stack([first, second]), axis=0)
        each = np.arange(count)
        sequences[each, places[b_first, each], 0] += EVENT
        sequences[each, places[1 - b_first, each], 1] += EVENT
        return sequences[:, np.newaxis].astype(np.float32), labels.astype(np.int64)
