"""Lengths of capsules as a Keras layer."""

from __future__ import annotations

from typing import Any

import torch

from encapkeras.functional import capsule_length
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer


@register_layer("capsule_length")
class CapsuleLength(CapsuleLayer):
    """Euclidean length of each capsule, along the last axis: of class capsules, the scores of the classes.

    Args:
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        capsules: Tensor `(..., D)`.

    Returns:
        Tensor `(...)`; the gradient at a zero capsule is 0.

    Examples:
        >>> import torch
        >>> CapsuleLength()(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]))
        tensor([[5., 0.]])
    """

    scores_are = "length"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, capsules_shape: Shape) -> None:
        """There are no weights."""

    def compute_output_shape(self, capsules_shape: Shape) -> Shape:
        """`(..., D)` gives `(...)`."""
        return tuple(capsules_shape[:-1])

    def call(self, capsules: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return capsule_length(capsules)
