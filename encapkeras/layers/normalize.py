"""Images less their mean, over their deviation, as a Keras layer."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional.torch_support.numbers_on import numbers_on
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer, warn_of_other_axes
from encapkeras.validation import shown


def _numbers(value: Any) -> Any:
    numbers = value if isinstance(value, list | tuple) else [value]
    right = [n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n)]
    if not numbers or len(right) < len(numbers):
        raise ValueError(f"must be a number, or a list of one for each channel; received {shown(value)}")
    return list(numbers) if isinstance(value, list | tuple) else value


def _above_zero(value: Any) -> Any:
    numbers = _numbers(value)
    if min(numbers if isinstance(numbers, list) else [numbers]) <= 0:
        raise ValueError(f"must be above 0; received {shown(value)}")
    return numbers


OnePerChannel = Annotated[float | list[float], pydantic.BeforeValidator(_numbers)]
PositivePerChannel = Annotated[
    pydantic.PositiveFloat | list[pydantic.PositiveFloat], pydantic.BeforeValidator(_above_zero)
]


@register_layer("normalize", formerly=["normalise"])
class Normalize(CapsuleLayer):
    """`(image - mean) / deviation` with fixed numbers, which are stored in a saved model.

    Images keep their range from 0 to 1 up to this layer, so that pictures and the pixels to predict from stay as they
    are. It comes first in a network, and has no weights: networks with batch norm behind the first convolution hardly
    need it.

    Args:
        mean: What is subtracted from each pixel: one number, or a list of one for each channel; in units of images in
            [0, 1], for example [0.485, 0.456, 0.406] for photographs.
        deviation: What it is divided by, above 0: one number, or a list of one for each channel; in the same units.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        image: Tensor `(B, H, W, C)`.

    Returns:
        Tensor of the same shape.

    Raises:
        ArgumentError: A deviation is not above 0, or a list is empty.
        ShapeError: The input is no image, or has another number of channels than a list has numbers.

    Examples:
        >>> import torch
        >>> Normalize(mean=0.5, deviation=[0.25])(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 3, 1)).flatten()
        tensor([-2.,  0.,  2.])
    """

    def __init__(self, mean: OnePerChannel, deviation: PositivePerChannel, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.deviation = deviation

    def build(self, image_shape: Shape) -> None:
        """Checks the shape; there are no weights."""
        self.compute_output_shape(image_shape)
        warn_of_other_axes(self, image_shape)

    def compute_output_shape(self, image_shape: Shape) -> Shape:
        """The input's shape."""
        if len(image_shape) != 4:
            raise ShapeError(
                f"{self.name} takes an image (batch, height, width, channels); received shape {tuple(image_shape)}"
            )
        for name, values in (("mean", self.mean), ("deviation", self.deviation)):
            if isinstance(values, list) and len(values) != image_shape[3]:
                raise ShapeError(
                    f"{self.name}: {name} must be one number, or one for each of {image_shape[3]} channels; received "
                    f"{shown(list(values))}"
                )
        return image_shape

    def call(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return (image - numbers_on(image, self.mean)) / numbers_on(image, self.deviation)
