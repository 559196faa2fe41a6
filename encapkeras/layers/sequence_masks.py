"""Masks of sequences: their check, and the masking of padded capsules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import torch

from encapkeras.errors import ShapeError

OF_CAPSULES = "For capsules (batch, steps, types, dim), set 'sequence' to true"
OF_CHANNELS = (
    "It takes sequences (batch, steps, channels); those of capsules (batch, steps, types, dim) are for "
    "capsule_convolution and convolution_capsules with 'sequence'"
)


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


def capsule_mask(layer: keras.layers.Layer, mask: Any, capsules: torch.Tensor) -> torch.Tensor | None:
    """Return a Keras mask, true where a capsule is real: `(B, I)` of a list, `(B, H, W, N)` of a map.

    Args:
        layer: Whose inputs they are.
        mask: That of the capsules, or a list of those of capsules and activations.
        capsules: `(B, I, D)` or `(B, H, W, N, D)`.

    Raises:
        ShapeError: The mask has another shape.
    """
    given = [each for each in (mask if isinstance(mask, list | tuple) else [mask]) if each is not None]
    if not given:
        return None
    seen: torch.Tensor = torch.stack([keras.ops.convert_to_tensor(each).bool() for each in given]).all(0)
    expected = tuple(capsules.shape[:-1])
    if capsules.dim() == 4 and seen.dim() == 2:  # a sequence of capsules of several types
        expected = expected[:2]
    if tuple(seen.shape) != expected:
        raise ShapeError(
            f"{layer.name}: mask must have one entry for each capsule, {expected}; received {tuple(seen.shape)}"
        )
    return seen.unsqueeze(2).expand(capsules.shape[:-1]) if seen.dim() < capsules.dim() - 1 else seen


def without_padding(layer: keras.layers.Layer, inputs: Any, mask: Any, *, hidden: float = 0.0) -> Any:
    """Return capsules, or a list of capsules and activations, with those that are not real set to 0.

    Args:
        layer: Whose inputs they are.
        inputs: Capsules, or a list of them and their activations.
        mask: As Keras hands it on; None changes nothing.
        hidden: The activation of what is not real.
    """
    capsules, *activations = inputs if isinstance(inputs, list | tuple) else [inputs]
    seen = capsule_mask(layer, mask, capsules)
    if seen is None:
        return inputs
    shown = capsules.masked_fill(~seen.unsqueeze(-1), 0)
    masked = [each.masked_fill(~seen, hidden) for each in activations]
    return [shown, *masked] if isinstance(inputs, list | tuple) else shown


def without_padded_steps(layer: keras.layers.Layer, sequence: torch.Tensor, mask: Any) -> torch.Tensor:
    """Return a sequence `(B, T, ...)` whose padded steps are 0."""
    seen = step_mask(layer, mask, sequence.shape[:2])
    return sequence if seen is None else sequence.masked_fill(~seen[(..., *[None] * (sequence.dim() - 2))], 0)


def check_no_steps(layer: keras.layers.Layer, shape: Sequence[int | None], mask: Any, remedy: str) -> None:
    """Raise `ShapeError` where an input counts as an image, and has the mask of a sequence."""
    if mask is not None and len(mask.shape) == 2:
        raise ShapeError(
            f"{layer.name} takes its input of shape {tuple(shape)} for an image, but the input has a mask of steps, as "
            f"sequences have. {remedy}"
        )


def check_steps(layer: keras.layers.Layer, steps: int | None, most: int | None) -> None:
    """Raise `ShapeError` where a sequence is longer than the layer's largest number of steps, if it has one."""
    if steps is not None and most is not None and steps > most:
        raise ShapeError(
            f"{layer.name} takes sequences of up to {most} steps; received one of {steps}. Set 'length' to the longest "
            "sequence, or cut sequences to it"
        )
