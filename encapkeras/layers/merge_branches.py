"""Scores of a network's branches, merged, as a Keras layer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import merge_branches
from encapkeras.layers.block_weights import BlockBuilder, MovingAverage, Weights, norm_weights
from encapkeras.layers.initializers import get_initializer
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer


@register_layer("merge_branches")
class MergeBranches(CapsuleLayer):
    """The sum of the class scores of a network's branches, each weighted and normalized by itself (Byerly et al. 2020).

    `out_j = sum_k (norm_k(w_k score_jk) + offset_k)`, where `norm_k` is a batch norm over the batch and all classes
    (arXiv:2001.09136). The norm takes away the size of a branch's weight, but for epsilon: what is learned of it is
    mostly its sign.

    Args:
        branch_weights: Weights w of the branches: `learned`; or `fixed` at 1.
        weight_initializer: Keras initializer of learned weights, by name or as {class_name, config}: ones, or, as the
            paper's second way, {class_name: random_normal, config: {stddev: 0.05}}.
        momentum: Fraction of the moving statistics that each batch keeps. That of the paper's code is for hundreds of
            epochs; short trainings need a smaller one, such as 0.9.
        epsilon: Added to the variance.
        moving_average: Of the statistics, for prediction: `momentum`: each batch has a share of 1 - momentum; `warm`:
            the plain average of the first batches, until their number is 1 / (1 - momentum), then the same.
        **kwargs: Regularizers and constraints of `branch_weight` and `offset`, such as `offset_regularizer`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: A list of scores `(B, J)`, one for each branch.
        training: Whether to use the batch's statistics, and to record them.

    Returns:
        Logits `(B, J)`, for a cross-entropy loss.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The inputs are not a list of scores of as many classes.

    Examples:
        >>> import torch
        >>> MergeBranches()([torch.rand(2, 10), torch.rand(2, 10), torch.rand(2, 10)]).shape
        torch.Size([2, 10])
    """

    drawn_as = "capsules"
    regularizable = ("branch_weight", "offset")

    def __init__(
        self,
        *,
        branch_weights: Literal["learned", "fixed"] = "learned",
        weight_initializer: InitializerConfig = "ones",
        momentum: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.9997,
        epsilon: pydantic.PositiveFloat = 1e-3,
        moving_average: MovingAverage = "momentum",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.branch_weights = branch_weights
        self.weight_initializer = weight_initializer
        self.momentum = momentum
        self.epsilon = epsilon
        self.moving_average = moving_average

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        branches = len(self._shapes(input_shape))
        self.branch_weight = None
        if self.branch_weights == "learned":
            initializer = get_initializer(self.weight_initializer, "branch_weight")
            options = self.regularizing("branch_weight")
            self.branch_weight = self.add_weight((branches,), initializer, name="branch_weight", **options)
        builder = BlockBuilder(self, moving_average=self.moving_average)
        self._norm = Weights(builder.norm("norm", branches, scale=False))

    def _shapes(self, input_shape: Any) -> list[Shape]:
        is_list = not isinstance(input_shape, dict) and bool(input_shape) and isinstance(input_shape[0], list | tuple)
        shapes = [tuple(shape) for shape in input_shape] if is_list else []
        classes = {shape[1:] for shape in shapes}
        if len(classes) != 1 or any(len(shape) != 2 or shape[1] is None for shape in shapes):
            raise ShapeError(
                f"{self.name} takes a list of scores (batch, classes), one for each branch, all of as many classes; "
                f"received shape {shapes or input_shape}"
            )
        return shapes

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """A list of `(B, J)` gives `(B, J)`."""
        return self._shapes(input_shape)[0]

    def call(self, inputs: list[torch.Tensor], training: bool | None = None) -> torch.Tensor:
        """See the class."""
        scores = torch.stack(list(inputs), -1)
        weight = scores.new_ones(len(inputs)) if self.branch_weight is None else self.branch_weight.value
        return merge_branches(
            scores,
            weight,
            norm_weights(self._norm.tensors()),
            training=bool(training and self.trainable),
            momentum=1 - self.momentum,
            epsilon=self.epsilon,
        )
