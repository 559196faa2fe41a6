"""Several interests of a sequence by dynamic routing, as a Keras layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import keras
import pydantic
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import interest_count, interest_routing
from encapkeras.layers.initializers import get_initializer
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import CapsuleLayer, Shape, register_layer
from encapkeras.layers.sequence_masks import check_steps, step_mask

DRAWN_STEPS = 256
"""Rows of initial logits where the length of sequences is not known; later steps take them again from the first."""


@register_layer("interest_capsules")
class InterestCapsules(CapsuleLayer):
    """Capsules of a sequence's interests by dynamic routing (MIND, Li et al. 2019; ComiRec DR, Cen et al. 2020).

    `u_tj = x_t W_tj`; each iteration takes `c_t = softmax over the interests j of logits_t`, with weight 0 for padded
    steps, and `v_j = squash(sum_t c_tj u_tj)`, and adds `<v_j, u_tj>` to the logits. Where steps share their matrix,
    they are summed before they are mapped, and no votes are made. As published, coefficients are constants for the
    gradient.

    Args:
        capsules: Number J of interests.
        dim: Dimension E of the interests.
        iterations: Number of iterations.
        matrices: What has matrices of its own: `all`: nothing, all steps and interests share one, as in MIND;
            `interest`: each interest; `step`: each step and interest, as in ComiRec DR.
        logits: Logits at the start. `random`: normal, within 2 deviations; drawn anew in each training step, the same
            ones in prediction. `zeros`: with `matrices: all` all interests would stay equal. If not given, random for
            `all`, zeros for the others.
        length: Largest number of steps; longer sequences are refused. If not given, that of the input with `matrices:
            step`; with the others any number, and random logits of prediction repeat behind the steps of the first
            input, or behind 256 where their number was not known.
        count_by_length: Whether a sequence has `log2(1 + its length)` interests, rounded down, from 1 to J, as in MIND;
            the others are 0 and masked for the layers behind.
        use_bias: Whether votes have a bias; not with `matrices: step`.
        stop_gradient: Whether coefficients are constants for the gradient, as published.
        seed: Of the random logits. If not given, that of the model.
        kernel_initializer: Keras initializer of the matrices, by name or as {class_name, config}. If not given,
            `glorot_uniform` by the fans of one matrix, and normal with variance 1 for `step`, as published.
        bias_initializer: Keras initializer of the votes' biases.
        **kwargs: `kernel_regularizer`, `kernel_constraint`, the same of `bias`, and `activity_regularizer`; `name`,
            `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        sequence: Steps `(B, L, D)`.
        mask: True where a step is real, `(B, L)`; Keras hands on that of a `Masking` or an `Embedding`.
        training: Whether random logits are drawn anew.

    Returns:
        Interests `(B, J, E)`, shorter than 1; 0 where no step is real.

    Raises:
        ArgumentError: An argument has an invalid value, or all interests would be equal.
        ShapeError: The input is not a sequence, longer than `length`, or its mask is of another length.

    Examples:
        >>> import torch
        >>> sequence, mask = torch.randn(2, 50, 16), torch.arange(50) < torch.tensor([[50], [20]])
        >>> InterestCapsules(4, 8)(sequence, mask=mask).shape
        torch.Size([2, 4, 8])
        >>> InterestCapsules(4, 8, matrices="step", length=60)(sequence, mask=mask).shape
        torch.Size([2, 4, 8])
    """

    squashes = True
    drawn_as = "routing"
    regularizable: ClassVar[tuple[str, ...]] = ("kernel", "bias")

    def __init__(
        self,
        capsules: pydantic.PositiveInt,
        dim: pydantic.PositiveInt,
        *,
        iterations: pydantic.PositiveInt = 3,
        matrices: Literal["all", "interest", "step"] = "all",
        logits: Literal["random", "zeros"] | None = None,
        length: pydantic.PositiveInt | None = None,
        count_by_length: bool = False,
        use_bias: bool = False,
        stop_gradient: bool = True,
        seed: int | None = None,
        kernel_initializer: InitializerConfig | None = None,
        bias_initializer: InitializerConfig = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.capsules = capsules
        self.dim = dim
        self.iterations = iterations
        self.matrices = matrices
        self.logits = logits or ("random" if matrices == "all" else "zeros")
        self.length = length
        self.count_by_length = count_by_length
        self.use_bias = use_bias
        self.stop_gradient = stop_gradient
        self.seed = seed
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.supports_masking = True
        if matrices == "all" and self.logits == "zeros":
            raise ArgumentError(
                f"{self.name}: with matrices 'all' and logits 'zeros' all interests would stay equal. Take logits "
                "'random', or matrices 'interest' or 'step'"
            )
        if matrices == "step" and use_bias:
            raise ArgumentError(f"{self.name}: with matrices 'step', 'use_bias' must be false")
        self._seeds = keras.random.SeedGenerator(seed) if self.logits == "random" else None

    def build(self, sequence_shape: Shape) -> None:
        """Make the weights."""
        steps, dim = self._sizes(sequence_shape)
        self.rows = self.length or steps
        if self.matrices == "step" and self.rows is None:
            raise ShapeError(
                f"{self.name}: each step has own matrices, so the length of sequences must be known; received shape "
                f"{tuple(sequence_shape)}. Set 'length' to the longest sequence"
            )
        counts: dict[str, tuple[int, ...]] = {
            "all": (),
            "interest": (self.capsules,),
            "step": (self.rows or 0, self.capsules),
        }
        shape = (*counts[self.matrices], dim, self.dim)
        regularizing = self.regularizing("kernel", [len(shape) - 2])
        self.kernel = self.add_weight(shape, self._initializer(dim), name="kernel", **regularizing)
        self.bias = self.initial_logits = None
        if self.use_bias:
            initializer = get_initializer(self.bias_initializer, "bias")
            regularizing = self.regularizing("bias", [])
            self.bias = self.add_weight(shape[:-2] + shape[-1:], initializer, name="bias", **regularizing)
        if self.logits == "random":
            drawn = keras.initializers.TruncatedNormal(stddev=1.0, seed=self.seed)
            shape = (self.rows or DRAWN_STEPS, self.capsules)
            self.initial_logits = self.add_weight(shape, drawn, name="initial_logits", trainable=False)

    def _initializer(self, dim: int) -> Any:
        if self.kernel_initializer is not None:
            return get_initializer(self.kernel_initializer, "kernel")
        if self.matrices == "step":
            return keras.initializers.RandomNormal(stddev=1.0)
        bound = (6 / (dim + self.dim)) ** 0.5  # Keras would count a stack of matrices among the fans
        return keras.initializers.RandomUniform(-bound, bound)

    def _sizes(self, shape: Shape) -> tuple[int | None, int]:
        """Return number and dimension of the steps."""
        if len(shape) != 3 or shape[2] is None:
            raise ShapeError(f"{self.name} takes a sequence (batch, steps, dim); received shape {tuple(shape)}")
        most = self.kernel.shape[0] if self.built and self.matrices == "step" else self.length
        check_steps(self, shape[1], most)
        return shape[1], shape[2]

    def compute_output_shape(self, sequence_shape: Shape) -> Shape:
        """`(B, L, D)` gives `(B, J, E)`."""
        self._sizes(sequence_shape)
        return (sequence_shape[0], self.capsules, self.dim)

    def compute_output_spec(self, sequence: Any, mask: Any = None, training: bool | None = None) -> Any:
        """Return the symbolic output."""
        return keras.KerasTensor(self.compute_output_shape(sequence.shape), dtype=self.compute_dtype)

    def compute_mask(self, sequence: Any, previous_mask: Any = None) -> Any:
        """Return which interests a sequence has, `(B, J)`; None where it has all."""
        if not self.count_by_length or not isinstance(sequence, torch.Tensor):
            return None
        count = self._count(sequence, step_mask(self, previous_mask, sequence.shape[:2]))
        return torch.arange(self.capsules, device=count.device) < count.unsqueeze(1)

    def _count(self, sequence: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is None:
            mask = torch.ones_like(sequence[:, :, 0], dtype=torch.bool)
        return interest_count(mask.sum(1), self.capsules)

    def call(
        self, sequence: torch.Tensor, mask: torch.Tensor | None = None, training: bool | None = None
    ) -> torch.Tensor:
        """See the class."""
        self._sizes(tuple(sequence.shape))
        seen = step_mask(self, mask, sequence.shape[:2])
        return interest_routing(
            sequence,
            self.kernel.value,
            None if self.bias is None else self.bias.value,
            logits=self._initial_logits(sequence, bool(training)),
            mask=seen,
            count=self._count(sequence, seen) if self.count_by_length else None,
            iterations=self.iterations,
            stop_gradient=self.stop_gradient,
        )

    def _initial_logits(self, sequence: torch.Tensor, training: bool) -> torch.Tensor | None:
        if self.initial_logits is None:
            return None
        batch, steps, _ = sequence.shape
        drawn: torch.Tensor = self.initial_logits.value
        if training:
            shape = (batch, steps, self.capsules)
            drawn = keras.random.truncated_normal(shape, dtype=drawn.dtype, seed=self._seeds)
            return drawn
        return drawn[torch.arange(steps, device=drawn.device) % len(drawn)]
