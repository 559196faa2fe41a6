"""An image's channels as capsules."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer, warn_of_other_axes


@register_layer("image_to_capsules")
class ImageToCapsules(CapsuleLayer):
    """View the channels of an image as capsules, type by type: channel `n * D + d` is component d of type n.

    Args:
        types: Number of capsule types N; must divide the channels.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        image: Tensor `(B, H, W, C)`.

    Returns:
        Capsules `(B, H, W, N, C / N)`: a view, nothing is copied.

    Raises:
        ShapeError: The input is not an image, or its channels do not divide by `types`.

    Examples:
        >>> import torch
        >>> ImageToCapsules(types=4)(torch.zeros(2, 8, 8, 32)).shape
        torch.Size([2, 8, 8, 4, 8])
    """

    def __init__(self, types: pydantic.PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.types = types

    def compute_output_shape(self, image_shape: Shape) -> Shape:
        """`(B, H, W, C)` gives `(B, H, W, N, C / N)`."""
        channels = image_shape[-1]
        if len(image_shape) != 4 or channels is None or channels % self.types:
            raise ShapeError(
                f"{self.name} takes an image (batch, height, width, channels) whose channels divide by "
                f"types={self.types}; received shape {tuple(image_shape)}"
            )
        return (*image_shape[:-1], self.types, channels // self.types)

    def build(self, image_shape: Shape) -> None:
        """Check the shape; there are no weights."""
        self.compute_output_shape(image_shape)
        warn_of_other_axes(self, image_shape)

    def call(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        capsules: torch.Tensor = image.unflatten(-1, (self.types, -1))
        return capsules
