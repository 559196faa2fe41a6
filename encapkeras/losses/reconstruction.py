"""The reconstruction loss of the first capsule network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import pydantic
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.layers.registry import Shape
from encapkeras.losses.registry import register_loss
from encapkeras.losses.side_loss import SideLoss
from encapkeras.losses.targets import one_hot_targets
from encapkeras.validation import shown


@register_loss("reconstruction")
class ReconstructionLoss(SideLoss):
    """The capsule of the labeled class, decoded, should reproduce the image (Sabour et al. 2017, section 4.1).

    All other class capsules are set to 0; dense layers with ReLU, then a dense layer with sigmoid, make an image of all
    J * E numbers. The loss of an image is the SUM over its pixels and channels of `(made - given)^2`; mean over the
    batch. The paper multiplies it by 0.0005 (`weight: 0.0005` in a spec).

    Args:
        hidden: Sizes of the dense layers before the last, whose size is that of the image.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        capsules: Class capsules `(B, J, E)`.
        image: What is reconstructed, `(B, H, W, C)` with values from 0 to 1, or of another known shape.
        labels: Labels `(B,)` as whole numbers, or targets `(B, J)`, with a 1 for each class: of several, the capsules
            are decoded together, into one image.

    Returns:
        Losses `(B,)`.

    Raises:
        ArgumentError: An argument has an invalid value, or a label is none of the J classes.
        ShapeError: The capsules or the image have a shape that they cannot have, or labels do not fit the capsules.

    Examples:
        >>> capsules, image = torch.rand(2, 10, 16), torch.rand(2, 28, 28, 1)
        >>> loss = ReconstructionLoss()
        >>> loss(capsules=capsules, image=image, labels=torch.tensor([3, 7])).shape
        torch.Size([2])
        >>> loss.reconstruct(capsules).shape
        torch.Size([2, 28, 28, 1])
    """

    per_class = "capsules"
    several_classes = True

    def __init__(self, *, hidden: Sequence[pydantic.PositiveInt] = (512, 1024), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = tuple(hidden)

    def build(self, capsules_shape: Shape, image_shape: Shape) -> None:
        """Make the decoder's weights."""
        if len(capsules_shape) != 3 or None in capsules_shape[1:]:
            raise ShapeError(
                f"capsules must be one per class, (batch, capsules, dim) of known size; received shape {capsules_shape}"
            )
        if len(image_shape) < 2 or None in image_shape[1:]:
            raise ShapeError(f"image must be of known size; received shape {image_shape}")
        self._capsules_shape = tuple(size for size in capsules_shape[1:] if size)
        self._image_shape = tuple(size for size in image_shape[1:] if size)
        sizes = [math.prod(self._capsules_shape), *self.hidden, math.prod(self._image_shape)]
        self._dense = [
            (
                self.add_weight(shape=(inputs, units), initializer="glorot_uniform", name=f"kernel{number}"),
                self.add_weight(shape=(units,), initializer="zeros", name=f"bias{number}"),
            )
            for number, (inputs, units) in enumerate(itertools.pairwise(sizes), 1)
        ]

    def call(self, capsules: torch.Tensor, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return losses `(B,)`; see the class."""
        made = self._decode(capsules, one_hot_targets(labels, capsules[..., 0]))
        return (made - image.flatten(1)).square().sum(1)

    @torch.no_grad()
    def reconstruct(self, capsules: Any, labels: Any = None) -> torch.Tensor:
        """Decode images, without gradients.

        Args:
            capsules: Class capsules `(B, J, E)`.
            labels: The class of each whose capsule is decoded, in any form that the loss takes; the longest capsule if
                not given.

        Returns:
            Images with values from 0 to 1, of the shape that the loss was built for.

        Raises:
            ArgumentError: Capsules or labels are not numbers, or a label is none of the J classes.
            ShapeError: Capsules or labels do not fit the decoder.
        """
        capsules = keras.ops.cast(_as_tensor("capsules", capsules), self.variable_dtype)
        if not self.built:
            raise ShapeError(f"{self.name} knows no shapes yet: it must have been part of a model, or called once")
        if tuple(capsules.shape[1:]) != self._capsules_shape:
            needed = ("batch", *self._capsules_shape)
            raise ShapeError(f"{self.name} decodes capsules of shape {needed}; received {tuple(capsules.shape)}")
        if labels is None:
            labels = torch.linalg.vector_norm(capsules, dim=-1).argmax(-1)
        targets = one_hot_targets(_as_tensor("labels", labels), capsules[..., 0])
        images: torch.Tensor = self._decode(capsules, targets).unflatten(1, self._image_shape)
        return images

    def _decode(self, capsules: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weights = [(bias.value, kernel.value) for kernel, bias in self._dense]
        features = (capsules * targets[..., None]).flatten(1)
        for bias, kernel in weights[:-1]:
            features = torch.addmm(bias, features, kernel).relu()
        bias, kernel = weights[-1]
        image: torch.Tensor = torch.addmm(bias, features, kernel).sigmoid()
        return image


def _as_tensor(name: str, value: Any) -> torch.Tensor:
    try:
        tensor: torch.Tensor = keras.ops.convert_to_tensor(value)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{name} must be a tensor or array of numbers; received {shown(value)}") from error
    return tensor
