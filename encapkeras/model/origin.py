"""What a model is made from, and what it gives those who watch it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import torch

from encapkeras.errors import ArgumentError
from encapkeras.model.build import BuiltGraph
from encapkeras.spec.spec import Spec
from encapkeras.validation import shown


@dataclass(frozen=True)
class ModelOrigin:
    """What a model is made from; one object, which Keras does not track. `resolved` is the whole spec as plain data."""

    spec: Spec
    resolved: dict[str, Any]
    graph: BuiltGraph
    class_names: tuple[str, ...]
    classes_per_image: int | None = 1

    @property
    def layers(self) -> dict[str, keras.layers.Layer]:
        """The layers of all nodes and side losses, by name."""
        return {**self.graph.layers, **self.graph.side_losses}


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of a training step before the weights change, with its parts and the batch as `fit` got it."""

    x: Any
    y: Any
    sample_weight: Any
    total: torch.Tensor
    parts: Mapping[str, torch.Tensor]


class ScoreMetrics(Protocol):
    """Metrics that need all scores of an evaluation at once; of their logs, progress leaves out those of `hidden`."""

    shown: str  # the log that progress shows first; empty for the usual order
    hidden: set[str]

    def collecting(self) -> contextlib.AbstractContextManager[None]:
        """Keep what `add` gets inside of this block, and nothing outside."""

    def add(self, labels: Any, scores: torch.Tensor) -> None:
        """Take the labels and scores of a batch."""

    def result(self) -> dict[str, float]:
        """Return the metrics, by name, of what was kept."""


def saved_classes_and_temperature(config: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Return how many classes an image of a saved model has, and its temperature; an `ArgumentError` if impossible."""
    count, temperature = config.get("classes_per_image", 1), config.get("temperature")
    if count is not None and not (type(count) is int and count > 0):
        raise ArgumentError(f"a saved model has 'classes_per_image', 1 or more; received {shown(count)}")
    if temperature is not None and not (type(temperature) in (int, float) and 0 < temperature < math.inf):
        raise ArgumentError(f"a saved model has a temperature above 0; received {shown(temperature)}")
    return count, temperature
