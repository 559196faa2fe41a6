"""Lengths of capsules as a Keras layer."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.functional import capsule_length
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer


@register_layer("capsule_length")
class CapsuleLength(CapsuleLayer):
    """Length of each capsule along the last axis, `sqrt(|s|^2 + epsilon)`: of class capsules, the classes' scores.

    Args:
        epsilon: Added under the root: 0 for Euclidean lengths, 1e-7 in the code of Efficient-CapsNet (Mazzia et al.
            2021).
        offset: Added to each component before, as in the code of DeepCaps (1e-7).
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

    def __init__(self, *, epsilon: pydantic.NonNegativeFloat = 0.0, offset: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.offset = offset
        self.supports_masking = True

    def build(self, capsules_shape: Shape) -> None:
        """There are no weights."""

    def compute_output_shape(self, capsules_shape: Shape) -> Shape:
        """`(..., D)` gives `(...)`."""
        return tuple(capsules_shape[:-1])

    def call(self, capsules: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return capsule_length(capsules, epsilon=self.epsilon, offset=self.offset)
