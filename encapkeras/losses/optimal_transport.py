"""The feedback-agreement unit: optimal transport brings two tensors of a network into agreement."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple

import keras
import pydantic
import torch

from encapkeras.errors import NotFiniteError, ShapeError
from encapkeras.functional import (
    CriticWeights,
    NormedConvolution,
    marginal_error,
    reverse_gradient,
    transport,
    transport_critic,
    transport_generator,
)
from encapkeras.functional.optimal_transport.transport_unit import generator_strides
from encapkeras.functional.torch_support.numbers_on import numbers_on
from encapkeras.functional.torch_support.shared_batch import shared_batch
from encapkeras.layers.block_weights import BlockBuilder, Weights
from encapkeras.layers.keras_objects import InitializerConfig
from encapkeras.layers.registry import Shape
from encapkeras.losses.registry import register_loss
from encapkeras.losses.side_loss import SideLoss


class _Map(NamedTuple):
    """The size of a tensor without its batch; `types` is None for an image."""

    height: int
    width: int
    channels: int
    types: int | None


@register_loss("optimal_transport")
class OptimalTransport(SideLoss):
    """Optimal transport between two tensors of the same images, high and low in a network, which should agree.

    A generator maps the latent tensor z to the target's shape, `x = relu(batch_norm(transposed convolution(z)))`; a
    critic f makes features of x and of the target y; the loss is the Sinkhorn divergence between the batch of f(x) and
    that of f(y): `2 V(x, y) - V(x, x) - V(y, y)`, where `V = sum_ij P_ij C_ij` is what it costs to carry one batch to
    the other by the plan P, and `C_ij` the distance between two samples.

    In training it reports the metrics `mean_cost`, the mean of `C_ij` over all pairs (a critic that is minimized can
    lower the loss by making all features alike: this shows it), `marginal_error`, `sum_i |sum_j P_ij - 1/B|` (how far
    the iterations are from their end), and `plan_entropy`, `-sum_ij P_ij log P_ij`, from `log B` where each sample goes
    to one other, to `2 log B` where it goes to all alike.

    Args:
        generator: `plain`, or `encapsulated`: each capsule type is mapped by itself and squashed; both tensors must
            then be capsules with the same number of types.
        critic: `minimized`: it learns with the rest of the network (the authors' way); `adversarial`: its weights
            follow the reversed gradient, so that it looks for what still differs; `none`: the cost is of x and y
            themselves.
        cost: Between two samples: `l2`, their distance; `cosine`, 1 minus their cosine; `sqeuclidean`, the squared
            distance.
        epsilon: Blur of the plan, in the unit of the cost: `K = exp(-C / epsilon)`.
        iterations: Number of Sinkhorn iterations.
        debiased: Whether to subtract the costs within each batch; otherwise the loss is `V(x, y)`.
        gradient: `unrolled`: through the iterations; `envelope`: the plan is held fixed; `implicit`: of the converged
            plan.
        gather: Whether processes that share a batch compare all of its samples, so that the loss does not depend on
            their number; otherwise each compares its own.
        kernel_initializer: Keras initializer of all convolution kernels, by name or as {class_name, config}.
        bias_initializer: Keras initializer of all convolution biases.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        latent: What is mapped, z: capsules `(B, H, W, N, D)` or an image `(B, H, W, C)`.
        target: What it is compared with, y: capsules or an image whose sides are those of the latent tensor, twice as
            large, or twice less 1. A critic needs channels (N * D, or C) that divide by 4.
        training: Whether batch norms use the batch's statistics.

    Returns:
        The loss of the whole batch, `()`; 0 for a batch of one.

    Raises:
        ShapeError: The tensors have shapes that they cannot have.

    Examples:
        >>> keras.utils.set_random_seed(0)
        >>> unit = OptimalTransport()
        >>> high, low = torch.rand(4, 4, 4, 8, 16), torch.rand(4, 8, 8, 8, 8)
        >>> unit(latent=high, target=low, training=True).shape
        torch.Size([])
        >>> sorted(unit.take_metrics())
        ['marginal_error', 'mean_cost', 'plan_entropy']
    """

    metric_names: ClassVar[tuple[str, ...]] = ("mean_cost", "marginal_error", "plan_entropy")
    # In evaluation the critic's moving statistics, a mixture of those of x and of y, would move both apart.
    training_only: ClassVar[bool] = True

    def __init__(
        self,
        *,
        generator: Literal["plain", "encapsulated"] = "plain",
        critic: Literal["minimized", "adversarial", "none"] = "minimized",
        cost: Literal["l2", "cosine", "sqeuclidean"] = "l2",
        epsilon: pydantic.PositiveFloat = 1.0,
        iterations: pydantic.PositiveInt = 10,
        debiased: bool = True,
        gradient: Literal["unrolled", "envelope", "implicit"] = "unrolled",
        gather: bool = True,
        kernel_initializer: InitializerConfig = "glorot_normal",
        bias_initializer: InitializerConfig = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.generator = generator
        self.critic = critic
        self.gather = gather
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self._transport: Any = dict(
            cost=cost, epsilon=epsilon, iterations=iterations, debiased=debiased, gradient=gradient
        )

    def build(self, latent_shape: Shape, target_shape: Shape) -> None:
        """Make the weights."""
        latent, target = _parse_shape("latent", latent_shape), _parse_shape("target", target_shape)
        self._built_for = tuple(latent_shape[1:]), tuple(target_shape[1:])
        generator_strides(latent[:2], target[:2])
        self._types = self._encapsulated_types(latent, target)
        builder = BlockBuilder(self, self.kernel_initializer, self.bias_initializer)
        kernel = builder.kernel("generator", (latent.channels, target.channels // (self._types or 1), 3, 3))
        bias = builder.bias("generator", target.channels)
        generator = NormedConvolution(kernel, bias, builder.norm("generator_norm", target.channels))
        self._weights = Weights((generator, self._build_critic(builder, target.channels)))

    def _encapsulated_types(self, latent: _Map, target: _Map) -> int | None:
        if self.generator == "plain":
            return None
        if latent.types is None or latent.types != target.types:
            received = " and ".join(f"{m.types} types" if m.types else "an image" for m in (latent, target))
            raise ShapeError(
                "an encapsulated generator takes capsules with the same number of types as latent and as target; "
                f"received {received}. Use generator: plain"
            )
        return latent.types

    def _build_critic(self, builder: BlockBuilder, channels: int) -> CriticWeights | None:
        if self.critic == "none":
            return None
        if channels % 4:
            raise ShapeError(
                f"the critic quarters the channels of the target (types * dim for capsules), and {channels} do not "
                "divide by 4; another number of channels, or critic: none, works"
            )

        def convolution(name: str, inputs: int, filters: int) -> NormedConvolution:
            return NormedConvolution(
                *builder.convolution(name, inputs, filters, 3), builder.norm(f"{name}_norm", filters)
            )

        return CriticWeights(
            convolution("critic_1", channels, channels // 4), convolution("critic_2", channels // 4, 1)
        )

    def compute_output_spec(self, latent: Any, target: Any, training: bool | None = None) -> keras.KerasTensor:
        """Return the spec of one number."""
        return keras.KerasTensor((), dtype=self.compute_dtype)

    def call(self, latent: torch.Tensor, target: torch.Tensor, training: bool | None = None) -> torch.Tensor:
        """See the class."""
        self._check_shapes(latent, target)
        x, y = self._features(latent, target, bool(training and self.trainable))
        shared = shared_batch()
        if self.gather and shared is not None:
            x, y = shared.joined(x), shared.joined(y)
        try:
            divergence, plan, cost = transport(x, y, **self._transport)
        except NotFiniteError:
            # The network has diverged. A loss that is not finite has the training name the layer it began in; the
            # transport would only say that its own input is wrong.
            self.report(**dict.fromkeys(self.metric_names, numbers_on(x, math.nan)))
            return math.nan * (x.sum() + y.sum())
        self.report(
            mean_cost=cost.mean(), marginal_error=marginal_error(plan), plan_entropy=torch.special.entr(plan).sum()
        )
        return divergence

    @torch.no_grad()
    def plan(self, latent: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the plan between two tensors as in training, without gradients; moving statistics stay as they are.

        Returns:
            How much of each latent sample (row) goes to each target sample (column), `(B, B)`; the sum is 1.

        Raises:
            NotFiniteError: A feature, or a distance, is not finite (only checked on the CPU).
            ShapeError: The tensors have other shapes than those that the unit was built for.
        """
        self._check_shapes(latent, target)
        statistics = [(variable, variable.value.clone()) for variable in self.non_trainable_variables]
        try:
            return transport(*self._features(latent, target, self.trainable), **self._transport).plan
        finally:
            for variable, value in statistics:
                variable.assign(value)

    def _check_shapes(self, latent: torch.Tensor, target: torch.Tensor) -> None:
        received = tuple(latent.shape[1:]), tuple(target.shape[1:])
        if received != self._built_for:
            raise ShapeError(
                f"{self.name} was built for latent {self._built_for[0]} and target {self._built_for[1]}, without the "
                f"batch; received {received[0]} and {received[1]}"
            )

    def _features(
        self, latent: torch.Tensor, target: torch.Tensor, training: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features by which samples are compared, `(B, F)` each."""
        generator, critic = self._weights.tensors()
        z, y = latent.flatten(3), target.flatten(3)
        x = transport_generator(z, generator, (y.shape[1], y.shape[2]), types=self._types, training=training)
        if critic is None:
            return x.flatten(1), y.flatten(1)
        if self.critic == "adversarial":
            critic = CriticWeights(*(_reverse_gradients(convolution) for convolution in critic))
        return transport_critic(x, critic, training=training), transport_critic(y, critic, training=training)


def _parse_shape(name: str, shape: Shape) -> _Map:
    if len(shape) not in (4, 5) or None in shape[1:]:
        raise ShapeError(
            f"{name} must be capsules (batch, height, width, types, dim) or an image (batch, height, width, channels) "
            f"of known size; received shape {tuple(shape)}"
        )
    height, width, *inner = (int(size) for size in shape[1:] if size is not None)
    return _Map(height, width, math.prod(inner), inner[0] if len(inner) == 2 else None)


def _reverse_gradients(weights: NormedConvolution) -> NormedConvolution:
    """Reverse the weights' gradients; moving statistics have none."""
    scale, offset = reverse_gradient(weights.norm.scale), reverse_gradient(weights.norm.offset)
    norm = weights.norm._replace(scale=scale, offset=offset)
    return NormedConvolution(reverse_gradient(weights.kernel), reverse_gradient(weights.bias), norm)
