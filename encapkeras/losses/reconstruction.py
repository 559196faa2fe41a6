"""The reconstruction loss of the first capsule network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from inspect import signature
from typing import Any, Literal

import keras
import pydantic
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import bilinear_decoder, first_map, mask_capsules
from encapkeras.functional.bilinear_decoder import FILTERS
from encapkeras.layers.initializers import get_initializer, in_torch_layout
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import Shape
from encapkeras.losses.registry import register_loss
from encapkeras.losses.side_loss import SideLoss
from encapkeras.losses.targets import one_hot_targets
from encapkeras.losses.transposed_decoder import TransposedDecoder, check_strides
from encapkeras.validation import shown


@register_loss("reconstruction")
class ReconstructionLoss(SideLoss):
    """The capsule of the labeled class, decoded, should reproduce the image (Sabour et al. 2017, section 4.1).

    All other class capsules are set to 0; a decoder makes an image of all J * E numbers. The loss of an image is the
    SUM over its pixels and channels of `(made - given)^2`; mean over the batch. The paper multiplies it by 0.0005
    (`weight: 0.0005` in a spec).

    A class-independent decoder takes the E numbers of the capsule alone, so that a component means the same for all
    classes. That of DeepCaps (Rajasegaran et al. 2019, arXiv 1904.09546, section 3.3) is `transposed`: a dense layer
    with ReLU to a map of 16 channels, batch norm, transposed 3x3 convolutions without activations, and ReLU at the end.

    Args:
        decoder: `dense`: dense layers with ReLU, then a dense layer with sigmoid, as in the paper. `bilinear`: that of
            Efficient-CapsNet for smallNORB (Mazzia et al. 2021): a dense layer makes a small map, then three times
            the map is doubled and convolved, and a last convolution ends in a sigmoid; for images whose sides are
            multiples of 8. See `encapkeras.functional.bilinear_decoder`. `transposed`: that of DeepCaps (Rajasegaran
            et al. 2019), by transposed convolutions.
        hidden: Of the `dense` decoder: sizes of the layers before the last, whose size is that of the image.
        kernel_initializer: Keras initializer of all kernels but the last, by name or as {class_name, config}.
        output_initializer: Keras initializer of the last kernel.
        class_independent: Whether the decoder takes the capsule of the class alone, not all J with zeros in between.
        filters: Of the `transposed` decoder: channels of its transposed convolutions but the last, whose are those of
            the image.
        strides: Of the `transposed` decoder: a stride for each of `filters`, by which both sides grow; the last
            convolution has stride 1.
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

    def __init__(
        self,
        *,
        decoder: Literal["dense", "bilinear", "transposed"] = "dense",
        hidden: Sequence[pydantic.PositiveInt] = (512, 1024),
        kernel_initializer: InitializerConfig = "glorot_uniform",
        output_initializer: InitializerConfig = "glorot_uniform",
        class_independent: bool = False,
        filters: Sequence[pydantic.PositiveInt] = (64, 32, 16),
        strides: Sequence[pydantic.PositiveInt] = (1, 2, 2),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.decoder = decoder
        self.hidden = tuple(hidden)
        self.kernel_initializer = kernel_initializer
        self.output_initializer = output_initializer
        self.class_independent = class_independent
        self.filters = tuple(filters)
        self.strides = tuple(strides)
        for option, value, owner in (
            ("hidden", self.hidden, "dense"), ("filters", self.filters, "transposed"),
            ("strides", self.strides, "transposed"),
        ):  # fmt: skip
            if decoder != owner and value != signature(ReconstructionLoss).parameters[option].default:
                raise ArgumentError(
                    f"{self.name}: {option} is of the decoder '{owner}', and there is '{decoder}'; received "
                    f"{option}={list(value)}. Remove it, or set decoder: {owner}"
                )
        if decoder == "transposed":
            check_strides(self.name, self.filters, self.strides)

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
        inputs = self._capsules_shape[1] if self.class_independent else math.prod(self._capsules_shape)
        if self.decoder == "transposed":
            initializers = (self.kernel_initializer, self.output_initializer)
            self._transposed = TransposedDecoder(
                self, inputs, self._image_shape, self.filters, self.strides, initializers
            )
            return
        shapes = self._dense_shapes(inputs) if self.decoder == "dense" else self._bilinear_shapes(inputs)
        self._kernels_and_biases = [
            self._add_layer(number, shape, len(shapes)) for number, shape in enumerate(shapes, 1)
        ]

    def _dense_shapes(self, inputs: int) -> list[tuple[int, ...]]:
        sizes = [inputs, *self.hidden, math.prod(self._image_shape)]
        return list(itertools.pairwise(sizes))

    def _bilinear_shapes(self, inputs: int) -> list[tuple[int, ...]]:
        if len(self._image_shape) != 3:
            raise ShapeError(f"the bilinear decoder makes images (H, W, C); received shape {self._image_shape}")
        *size, channels = self._image_shape
        dense = (inputs, math.prod(first_map(*size)))
        convolutions = itertools.pairwise([1, *FILTERS, channels])
        return [dense, *((filters, inputs, 3, 3) for inputs, filters in convolutions)]

    def _add_layer(self, number: int, shape: tuple[int, ...], count: int) -> tuple[Any, Any]:
        """Add the kernel of a dense layer `(inputs, units)` or a convolution `(filters, inputs, 3, 3)`, and a bias."""
        name, config = f"kernel{number}", self.output_initializer if number == count else self.kernel_initializer
        is_dense = len(shape) == 2
        initializer = get_initializer(config, name) if is_dense else in_torch_layout(config, name)
        kernel = self.add_weight(shape=shape, initializer=initializer, name=name)
        units = shape[1] if is_dense else shape[0]
        return kernel, self.add_weight(shape=(units,), initializer="zeros", name=f"bias{number}")

    def call(
        self, capsules: torch.Tensor, image: torch.Tensor, labels: torch.Tensor, training: bool | None = None
    ) -> torch.Tensor:
        """Return losses `(B,)`; see the class."""
        targets = one_hot_targets(labels, capsules[..., 0])
        made = self._decode(capsules, targets, training=bool(training and self.trainable))
        return (made - image.flatten(1)).square().sum(1)

    @torch.no_grad()
    def reconstruct(self, capsules: Any, labels: Any = None) -> torch.Tensor:
        """Decode images, without gradients.

        Args:
            capsules: Class capsules `(B, J, E)`.
            labels: The class of each whose capsule is decoded, in any form that the loss takes; the longest capsule if
                not given.

        Returns:
            Images with values from 0 to 1 (of the `transposed` decoder: at least 0), of the shape that the loss was
            built for.

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

    def _decode(self, capsules: torch.Tensor, targets: torch.Tensor, *, training: bool = False) -> torch.Tensor:
        features = (
            (capsules * targets[..., None]).sum(1) if self.class_independent else mask_capsules(capsules, targets)
        )
        if self.decoder == "transposed":
            return self._transposed.decode(features, training).flatten(1)
        weights = [(kernel.value, bias.value) for kernel, bias in self._kernels_and_biases]
        if self.decoder == "bilinear":
            *size, _ = self._image_shape
            return bilinear_decoder(features, weights[0], weights[1:], first_map(*size)).flatten(1)
        for kernel, bias in weights[:-1]:
            features = torch.addmm(bias, features, kernel).relu()
        kernel, bias = weights[-1]
        image: torch.Tensor = torch.addmm(bias, features, kernel).sigmoid()
        return image


def _as_tensor(name: str, value: Any) -> torch.Tensor:
    try:
        tensor: torch.Tensor = keras.ops.convert_to_tensor(value)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{name} must be a tensor or array of numbers; received {shown(value)}") from error
    return tensor
