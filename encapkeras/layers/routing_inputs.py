"""What routing layers have in common: their inputs, and the controls that take the place of a routing."""

from __future__ import annotations

from typing import Any, Literal

import keras
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import list_capsules
from encapkeras.layers.registry import Shape

Control = Literal["uniform", "random"]
"""What takes the place of a routing: equal coefficients, or those that are drawn once."""


def capsules_and_activations(layer: keras.layers.Layer, input_shape: Any, *, takes: int | None = None) -> Shape:
    """Return the shape of the capsules among the inputs' shapes.

    Args:
        layer: Whose inputs they are.
        input_shape: A shape, or a list of one or two.
        takes: Number of inputs; None if the activations may be left out.

    Raises:
        ShapeError: There are more inputs or fewer, or not one activation for each capsule.
    """
    expects = {None: "capsules, or a list of capsules and activations", 1: "capsules, and no activations"}
    wanted = expects.get(takes, "a list of capsules and their activations")
    if isinstance(input_shape, dict) or not input_shape:
        raise ShapeError(f"{layer.name} takes {wanted}; received {input_shape}")
    is_list = isinstance(input_shape[0], list | tuple)
    shapes = [tuple(shape) for shape in input_shape] if is_list else [tuple(input_shape)]
    if len(shapes) > 2 or (takes and len(shapes) != takes):
        raise ShapeError(f"{layer.name} takes {wanted}; received {shapes if is_list else shapes[0]}")
    capsules = shapes[0]
    if len(shapes) == 2:
        expected = capsules[:-1]
        fits = len(shapes[1]) == len(expected) and all(
            None in sizes or sizes[0] == sizes[1] for sizes in zip(shapes[1], expected, strict=True)
        )
        if not fits:
            raise ShapeError(
                f"{layer.name} takes one activation for each capsule: capsules of shape {capsules} need activations of "
                f"shape {expected}; received {shapes[1]}"
            )
    return capsules


def listed_shape(layer: keras.layers.Layer, shape: Shape) -> tuple[int | None, int]:
    """Return number and dimension of the capsules of a list or a map; the number may be unknown."""
    if len(shape) not in (3, 5) or shape[-1] is None:
        raise ShapeError(
            f"{layer.name} takes a list of capsules (batch, capsules, dim), or a map (batch, height, width, types, "
            f"dim); received shape {tuple(shape)}"
        )
    count = 1
    for size in shape[1:-1]:
        if size is None:
            return None, shape[-1]
        count *= size
    return count, shape[-1]


def as_list(capsules: torch.Tensor) -> torch.Tensor:
    """Return capsules `(B, I, D)` of a list or a map, in the order (type, row, column)."""
    return list_capsules(capsules) if capsules.dim() == 5 else capsules


def numbers_as_list(numbers: torch.Tensor) -> torch.Tensor:
    """Return one number for each capsule, `(B, I)`, of a list or a map `(B, H, W, N)`."""
    return list_capsules(numbers.unsqueeze(-1)).squeeze(-1) if numbers.dim() == 4 else numbers
