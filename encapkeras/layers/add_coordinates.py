"""The place of each pixel as two more channels of an image."""

from __future__ import annotations

from typing import Any

import torch

from encapkeras.errors import ShapeError
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer, warn_of_other_axes


@register_layer("add_coordinates")
class AddCoordinates(CapsuleLayer):
    """Add two channels to an image: the row and the column of each pixel (Liu et al. 2018, arXiv:1807.03247).

    They go from -1 to 1 in equal steps, so that convolutions behind can tell where they are.

    Args:
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        image: Tensor `(B, H, W, C)`.

    Returns:
        Tensor `(B, H, W, C + 2)`, whose last two channels are the row and the column.

    Raises:
        ShapeError: The input is not an image.

    Examples:
        >>> import torch
        >>> AddCoordinates()(torch.zeros(1, 3, 3, 1))[0, :, :, 1]
        tensor([[-1., -1., -1.],
                [ 0.,  0.,  0.],
                [ 1.,  1.,  1.]])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, image_shape: Shape) -> None:
        """Check the shape; there are no weights."""
        self.compute_output_shape(image_shape)
        warn_of_other_axes(self, image_shape)

    def compute_output_shape(self, image_shape: Shape) -> Shape:
        """`(B, H, W, C)` gives `(B, H, W, C + 2)`."""
        if len(image_shape) != 4 or image_shape[3] is None:
            raise ShapeError(
                f"{self.name} takes an image (batch, height, width, channels); received shape {tuple(image_shape)}"
            )
        return (*image_shape[:3], image_shape[3] + 2)

    def call(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        batch, height, width, _ = image.shape
        sides = [torch.linspace(-1, 1, size, dtype=image.dtype, device=image.device) for size in (height, width)]
        places = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)
        return torch.cat([image, places.expand(batch, -1, -1, -1)], dim=-1)
