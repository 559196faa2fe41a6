"""Several interests of a sequence by attention, as a Keras layer."""

from __future__ import annotations

from typing import Any, ClassVar

import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.functional import interest_attention
from encapkeras.layers.initializers import get_initializer
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer
from encapkeras.layers.sequence_masks import check_steps, step_mask


@register_layer("interest_attention")
class InterestAttention(CapsuleLayer):
    """Interests of a sequence by self-attention (ComiRec SA, Cen et al. 2020): each is a mean of the steps.

    `h = tanh((x + position) W1 + b1)`, `c_j = softmax over the steps t of (h W2 + b2)_tj`, `v_j = sum_t c_tj x_t`.
    Padded steps have weight 0. There is no squash and no iteration.

    Args:
        capsules: Number J of interests.
        hidden: Numbers of `h` for each step. If not given, four times the dimension of the steps, as published.
        use_positions: Whether each step has a learned vector, which is added for the coefficients alone.
        length: Largest number of steps; longer sequences are refused. If not given, that of the input, or any number
            without `use_positions`.
        kernel_initializer: Keras initializer of both matrices, by name or as {class_name, config}.
        bias_initializer: Keras initializer of both biases.
        position_initializer: Keras initializer of the steps' vectors.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias` and `positions`, and
            `activity_regularizer`; `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        sequence: Steps `(B, L, D)`.
        mask: True where a step is real, `(B, L)`; Keras hands on that of a `Masking` or an `Embedding`.

    Returns:
        Interests `(B, J, D)`; 0 where no step is real.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The input is not a sequence, longer than `length`, or its mask is of another length.

    Examples:
        >>> import torch
        >>> sequence, mask = torch.randn(2, 50, 16), torch.arange(50) < torch.tensor([[50], [20]])
        >>> InterestAttention(4)(sequence, mask=mask).shape
        torch.Size([2, 4, 16])
    """

    drawn_as = "routing"
    regularizable: ClassVar[tuple[str, ...]] = ("kernel", "bias", "positions")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        *,
        hidden: pydantic.PositiveInt | None = None,
        use_positions: bool = True,
        length: pydantic.PositiveInt | None = None,
        kernel_initializer: InitializerConfig = "glorot_uniform",
        bias_initializer: InitializerConfig = "zeros",
        position_initializer: InitializerConfig = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.capsules = capsules
        self.hidden = hidden
        self.use_positions = use_positions
        self.length = length
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.position_initializer = position_initializer
        self.supports_masking = True

    def build(self, sequence_shape: Shape) -> None:
        """Make the weights."""
        steps, dim = self._sizes(sequence_shape)
        hidden = self.hidden or 4 * dim
        self.hidden_kernel, self.hidden_bias = self._dense("hidden_kernel", "hidden_bias", dim, hidden)
        self.kernel, self.bias = self._dense("kernel", "bias", hidden, self.capsules)
        self.positions = None
        if self.use_positions:
            rows = self.length or steps
            if rows is None:
                raise ShapeError(
                    f"{self.name}: each step has a position, so the length of sequences must be known; received shape "
                    f"{tuple(sequence_shape)}. Set 'length' to the longest sequence, or 'use_positions' to false"
                )
            initializer = get_initializer(self.position_initializer, "positions")
            regularizing = self.regularizing("positions")
            self.positions = self.add_weight((rows, dim), initializer, name="positions", **regularizing)

    def _dense(self, kernel: str, bias: str, inputs: int, outputs: int) -> tuple[Any, Any]:
        initializer = get_initializer(self.kernel_initializer, kernel)
        made = self.add_weight((inputs, outputs), initializer, name=kernel, **self.regularizing("kernel"))
        initializer = get_initializer(self.bias_initializer, bias)
        return made, self.add_weight((outputs,), initializer, name=bias, **self.regularizing("bias"))

    def _sizes(self, shape: Shape) -> tuple[int | None, int]:
        """Return number and dimension of the steps."""
        if len(shape) != 3 or shape[2] is None:
            raise ShapeError(f"{self.name} takes a sequence (batch, steps, dim); received shape {tuple(shape)}")
        most = self.positions.shape[0] if self.built and self.positions is not None else self.length
        check_steps(self, shape[1], most)
        return shape[1], shape[2]

    def compute_output_shape(self, sequence_shape: Shape) -> Shape:
        """`(B, L, D)` gives `(B, J, D)`."""
        _, dim = self._sizes(sequence_shape)
        return (sequence_shape[0], self.capsules, dim)

    def compute_mask(self, sequence: Any, previous_mask: Any = None) -> None:
        """Interests are all there."""

    def call(self, sequence: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        self._sizes(tuple(sequence.shape))
        return interest_attention(
            sequence,
            self.hidden_kernel.value,
            self.hidden_bias.value,
            self.kernel.value,
            self.bias.value,
            positions=None if self.positions is None else self.positions.value,
            mask=step_mask(self, mask, sequence.shape[:2]),
        )
