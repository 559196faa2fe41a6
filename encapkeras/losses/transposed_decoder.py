"""Weights of the decoder of transposed convolutions, for the reconstruction loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import DecoderWeights, NormWeights, TransposedConvolution, transposed_decoder
from encapkeras.layers import CapsuleLayer
from encapkeras.layers.block_weights import BlockBuilder
from encapkeras.layers.initializers import get_initializer
from encapkeras.layers.keras_objects import InitializerConfig

_CHANNELS = 16
_KERNEL = 3


def check_strides(name: str, filters: Sequence[int], strides: Sequence[int]) -> None:
    """Check that there is a stride for each of the filters."""
    if len(strides) != len(filters) or max(strides, default=1) > _KERNEL:
        raise ArgumentError(
            f"{name}: strides must be one for each of the {len(filters)} filters, each from 1 to {_KERNEL}; received "
            f"{list(strides)}"
        )


class TransposedDecoder:
    """Makes a layer's weights, and decodes with them: see `encapkeras.functional.transposed_decoder`."""

    def __init__(
        self,
        layer: CapsuleLayer,
        inputs: int,
        image_shape: Sequence[int],
        filters: Sequence[int],
        strides: Sequence[int],
        initializers: tuple[InitializerConfig, InitializerConfig],
    ) -> None:
        factor = math.prod(strides)
        if len(image_shape) != 3 or any(side % factor for side in image_shape[:2]):
            raise ShapeError(
                f"{layer.name} decodes images (batch, height, width, channels) whose sides divide by {factor}, the "
                f"product of strides={list(strides)}; received {('batch', *image_shape)}"
            )
        self._strides = (*strides, 1)
        self._size = (image_shape[0] // factor, image_shape[1] // factor)
        inner, last = initializers
        builder, last_builder = BlockBuilder(layer, inner), BlockBuilder(layer, last)
        numbers = math.prod(self._size) * _CHANNELS
        dense = layer.add_weight((inputs, numbers), get_initializer(inner, "kernel"), name="kernel")
        self._dense = (dense, builder.bias("dense", numbers))
        self._norm: Sequence[Any] = builder.norm("norm", _CHANNELS)
        sizes = itertools.pairwise([_CHANNELS, *filters, image_shape[2]])
        self._convolutions: list[tuple[Any, Any]] = [
            (
                (builder if number <= len(filters) else last_builder).kernel(
                    f"transposed{number}", (taken, given, _KERNEL, _KERNEL)
                ),
                builder.bias(f"transposed{number}", given),
            )
            for number, (taken, given) in enumerate(sizes, 1)
        ]

    def decode(self, features: torch.Tensor, training: bool) -> torch.Tensor:
        """Return images `(B, H, W, C)` of capsules `(B, E)`."""
        kernel, bias = (weight.value for weight in self._dense)
        scale, offset, mean, variance, _ = self._norm
        norm = NormWeights(scale.value, offset.value, mean.value, variance.value)
        convolutions = [TransposedConvolution(*(weight.value for weight in pair)) for pair in self._convolutions]
        weights = DecoderWeights(kernel, bias, norm, convolutions)
        return transposed_decoder(features, weights, size=self._size, strides=self._strides, training=training)
