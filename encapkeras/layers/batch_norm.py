"""Batch norm of capsules or activations as a Keras layer."""

from __future__ import annotations

from typing import Any, Literal

import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import batch_norm, capsule_batch_norm
from encapkeras.layers.block_weights import BlockBuilder, MovingAverage, Weights, norm_weights
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer


@register_layer("batch_norm")
class BatchNorm(CapsuleLayer):
    """Batch norm of capsules, or of activations: `scale * (x - mean) / sqrt(variance + epsilon) + offset`.

    Mean and variance are the batch's while training (Ioffe and Szegedy 2015), the moving ones otherwise: of each
    component of each type, over batch and positions, as behind the layers of self-routing (Hahn et al. 2019); or of
    each type, over the components too, as in variational Bayes (De Sousa Ribeiro et al. 2020). Epsilon 1e-5, momentum
    0.9, unbiased moving variance.

    Args:
        per: What has a mean and a variance of its own: each `component` of each type, or each `type`. Of activations
            both are the same.
        scale_and_offset: Whether a `scale` and an `offset` follow, one for each statistic.
        moving_average: Of the statistics, for prediction: `momentum`: each batch has a share of 0.1; `warm`: the plain
            average of the first ten batches, then the same; short trainings validate far better.
        **kwargs: `scale_regularizer`, `scale_constraint`, the same of `offset`, and `activity_regularizer`; `name`,
            `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Capsules `(B, H, W, N, D)` or their activations `(B, H, W, N)`; of a list, whose capsules are a type
            each, capsules `(B, I, D)` or activations `(B, I)`.
        training: Whether to use the batch's statistics, and to record them.

    Returns:
        Tensor of the same shape.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The input is of another rank, or its types or components are not known.

    Examples:
        >>> import torch
        >>> capsules = BatchNorm()(3 + torch.rand(8, 4, 4, 32, 16), training=True)
        >>> capsules.shape, capsules.mean((0, 1, 2)).abs().max() < 1e-5
        (torch.Size([8, 4, 4, 32, 16]), tensor(True))
    """

    drawn_as = "capsules"
    regularizable = ("scale", "offset")

    def __init__(
        self,
        *,
        per: Literal["component", "type"] = "component",
        scale_and_offset: bool = True,
        moving_average: MovingAverage = "momentum",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.per = per
        self.scale_and_offset = scale_and_offset
        self.moving_average = moving_average

    def build(self, input_shape: Shape) -> None:
        """Make the weights."""
        sizes = self._normed(input_shape)
        channels = sizes[0] if self.per == "type" else sizes[0] * sizes[-1]
        builder = BlockBuilder(self, moving_average=self.moving_average)
        self._weights = Weights(
            builder.norm("norm", channels, scale=self.scale_and_offset, offset=self.scale_and_offset)
        )

    def _normed(self, input_shape: Shape) -> tuple[int, int]:
        """Return the number of types, and that of components."""
        shape = tuple(input_shape)
        sizes = shape[-2:] if len(shape) in (3, 5) else (*shape[-1:], 1)
        if not 2 <= len(shape) <= 5 or None in sizes:
            raise ShapeError(
                f"{self.name} takes capsules (batch, height, width, types, dim) or (batch, capsules, dim), or "
                f"activations (batch, height, width, types) or (batch, capsules); received shape {shape}"
            )
        return int(sizes[0] or 0), int(sizes[1] or 0)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The input's shape."""
        self._normed(input_shape)
        return input_shape

    def call(self, inputs: torch.Tensor, training: bool | None = None) -> torch.Tensor:
        """See the class."""
        weights = norm_weights(self._weights.tensors())
        training = bool(training and self.trainable)
        if inputs.dim() % 2 == 0:
            return batch_norm(inputs.movedim(-1, 1), weights, training=training).movedim(1, -1)
        if self.per == "type":
            return capsule_batch_norm(inputs.movedim(-2, 1), weights, training=training).movedim(1, -2)
        channels = inputs.flatten(-2).movedim(-1, 1)
        normed = batch_norm(channels, weights, training=training).movedim(1, -1)
        return normed.unflatten(-1, inputs.shape[-2:])  # type: ignore[no-any-return]
