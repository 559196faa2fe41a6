"""Capsules as an image's channels."""

from __future__ import annotations

from typing import Any

import torch

from encapkeras.errors import ShapeError
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer, warn_of_other_axes


@register_layer("capsules_to_image")
class CapsulesToImage(CapsuleLayer):
    """View a map of capsules as an image, type by type: component d of type n is channel `n * D + d`.

    Between our layers and Keras' own, which take images.

    Args:
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        capsules: Capsules `(B, H, W, N, D)`.

    Returns:
        Tensor `(B, H, W, N * D)`.

    Raises:
        ShapeError: The input is not a map of capsules.

    Examples:
        >>> import torch
        >>> CapsulesToImage()(torch.zeros(2, 8, 8, 4, 16)).shape
        torch.Size([2, 8, 8, 64])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, capsules_shape: Shape) -> None:
        """Check the shape; there are no weights."""
        warn_of_other_axes(self, capsules_shape)
        self.compute_output_shape(capsules_shape)

    def compute_output_shape(self, capsules_shape: Shape) -> Shape:
        """`(B, H, W, N, D)` gives `(B, H, W, N * D)`."""
        if len(capsules_shape) != 5 or capsules_shape[3] is None or capsules_shape[4] is None:
            raise ShapeError(
                f"{self.name} takes capsules (batch, height, width, types, dim); received shape {tuple(capsules_shape)}"
            )
        return (*capsules_shape[:3], capsules_shape[3] * capsules_shape[4])

    def call(self, capsules: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return capsules.flatten(3)
