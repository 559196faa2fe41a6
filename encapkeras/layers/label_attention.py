"""One vector of several interests by a target, as a Keras layer."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import label_attention
from encapkeras.functional.routing.interest_attention import check_power
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer
from encapkeras.layers.sequence_masks import step_mask


@register_layer("label_attention")
class LabelAttention(CapsuleLayer):
    """One vector of several interests, by how they agree with a target: label-aware attention (MIND, Li et al. 2019).

    `w_j = <v_j, target>^power`; the output is the sum of the interests by `softmax over j of w`. With `power` 1 it is
    the soft readout of ComiRec's code (Cen et al. 2020), `hard` the other one.

    Args:
        power: Exponent of the agreement, above 0. From 100 on the interest that agrees most is taken, as with `hard`.
        hard: Whether the interest that agrees most is taken, the first of equal ones; the choice has no gradient.
        keep_sign: Whether the power of a negative agreement is negative. If not, `power` must be a whole number, and an
            even one makes the strongest disagreement win, as in MIND's code.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: A list of interests `(B, J, E)` and the target `(B, E)`.
        mask: Of the interests, `(B, J)`: true where a sample has one, as `interest_capsules` hands it on with
            `count_by_length`. Or a list of this and None.

    Returns:
        Vectors `(B, E)`.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The inputs are not interests and a target of their dimension.

    Examples:
        >>> import torch
        >>> LabelAttention(power=2)([torch.randn(2, 4, 8), torch.randn(2, 8)]).shape
        torch.Size([2, 8])
    """

    drawn_as = "capsules"

    def __init__(
        self, power: pydantic.PositiveFloat = 1.0, *, hard: bool = False, keep_sign: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_power(power, keep_sign=keep_sign)
        self.power = power
        self.hard = hard
        self.keep_sign = keep_sign
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Checks the shapes; there are no weights."""
        self.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """`(B, J, E)` and `(B, E)` give `(B, E)`."""
        shapes = [tuple(shape) for shape in input_shape] if input_shape and not isinstance(input_shape[0], int) else []
        if len(shapes) != 2 or [len(shape) for shape in shapes] != [3, 2] or shapes[0][2] != shapes[1][1]:
            raise ShapeError(
                f"{self.name} takes a list of interests (batch, interests, dim) and a target (batch, dim) of their "
                f"dimension; received {shapes or input_shape}"
            )
        return shapes[1]

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """The vector is there."""

    def call(self, inputs: list[torch.Tensor], mask: Any = None) -> torch.Tensor:
        """See the class."""
        interests, target = inputs
        seen = mask[0] if isinstance(mask, list | tuple) else mask
        return label_attention(
            interests,
            target,
            power=self.power,
            hard=self.hard,
            keep_sign=self.keep_sign,
            mask=step_mask(self, seen, interests.shape[:2]),
        )
