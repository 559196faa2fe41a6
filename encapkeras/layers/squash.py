"""Squash as a Keras layer."""

from __future__ import annotations

from typing import Any

import torch

from encapkeras.functional import squash
from encapkeras.functional.squash import SquashVariant
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer


@register_layer("squash")
class Squash(CapsuleLayer):
    """Shorten capsules to lengths below 1, along the last axis; the zero vector is unchanged.

    `paper`: `|s|^2 / (1 + |s|^2) * s / |s|` (Sabour et al. 2017, equation 1). `exponential`: `(1 - exp(-|s|)) * s /
    |s|` (Mazzia et al. 2021), whose gradient at the zero vector is the identity; those of the others are 0. `sigmoid`:
    `sigmoid(|s| - m) * s / |s|` with `m = (max |s| - min |s|) / 2` over the whole batch.

    Args:
        variant: `paper`, `exponential` or `sigmoid`.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        capsules: Tensor `(..., D)`.

    Returns:
        Tensor of the same shape.

    Raises:
        ArgumentError: An unknown variant.

    Examples:
        >>> import torch
        >>> Squash()(torch.tensor([[3.0, 4.0]]))
        tensor([[0.5769, 0.7692]])
    """

    squashes = True

    def __init__(self, variant: SquashVariant = "paper", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variant = variant
        self.supports_masking = True

    def build(self, capsules_shape: Shape) -> None:
        """There are no weights."""

    def compute_output_shape(self, capsules_shape: Shape) -> Shape:
        """The input's shape."""
        return capsules_shape

    def call(self, capsules: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return squash(capsules, variant=self.variant)
