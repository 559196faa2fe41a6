"""Masks of sequences: their check, and the masking of padded capsules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import torch

from encapkeras.errors import ShapeError


def step_mask(layer: keras.layers.Layer, mask: Any, expected: Sequence[int]) -> torch.Tensor | None:
    """Return a Keras mask `(B, L)`, true where a step is real, as a tensor.

    Raises:
        ShapeError: The mask has another shape than the steps.
    """
    if mask is None:
        return None
    seen: torch.Tensor = keras.ops.convert_to_tensor(mask).bool()
    if tuple(seen.shape) != tuple(expected):
        raise ShapeError(
            f"{layer.name}: mask must have one entry for each step, (batch, steps) = {tuple(expected)}; received "
            f"{tuple(seen.shape)}"
        )
    return seen


def check_steps(layer: keras.layers.Layer, steps: int | None, most: int, what: str) -> None:
    """Raise `ShapeError` where a sequence is longer than the layer has weights for."""
    if steps is not None and steps > most:
        raise ShapeError(
            f"{layer.name} has {what} for {most} steps; received a sequence of {steps}. Set 'length' to the longest "
            "sequence, or cut sequences to it"
        )
