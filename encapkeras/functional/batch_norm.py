"""Batch normalization with one statistic per channel, or per capsule type.

Shape suffixes: B batch, C channels, N capsule types, D capsule dimension, P positions (H * W).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.functional.torch_support.numbers_on import numbers_on
from encapkeras.functional.torch_support.precision import is_half
from encapkeras.functional.torch_support.shared_batch import SharedBatch, shared_batch
from encapkeras.torch_internals import is_in_backward

MOMENTUM = 0.1
"""Share of the new statistics in the moving ones, as torch means it: Keras' momentum 0.9."""
WARM_BATCHES = round(1 / MOMENTUM)
"""How many batches a warm average weighs alike."""

_restored_by_caller: ContextVar[bool] = ContextVar("restored_by_caller", default=False)


@contextlib.contextmanager
def restored_by_caller() -> Iterator[None]:
    """Leave statistics that are not finite to the caller, who restores those of all layers if it finds one."""
    token = _restored_by_caller.set(True)
    try:
        yield
    finally:
        _restored_by_caller.reset(token)


class NormWeights(NamedTuple):
    """Weights of a batch normalization, each `(C,)`, or `(N,)` for one statistic per capsule type.

    Attributes:
        scale: Factor after normalizing.
        offset: Added last.
        mean: Moving mean; training updates it in place.
        variance: Moving unbiased variance; training updates it in place.
        batches: How many the moving statistics have seen, `()`, for a warm average; training updates it in place. None:
            the average is exponential from the first batch on.
    """

    scale: torch.Tensor
    offset: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    batches: torch.Tensor | None = None

    def moving(self) -> list[torch.Tensor]:
        """What training updates in place."""
        return [each for each in (self.mean, self.variance, self.batches) if each is not None]


def batch_norm(
    map_BCP: torch.Tensor,
    weights: NormWeights,
    *,
    training: bool,
    bias: torch.Tensor | None = None,
    momentum: float = MOMENTUM,
    epsilon: float = 1e-5,
    unbiased: bool = True,
) -> torch.Tensor:
    """Normalize `map + bias` over all axes but the second: `scale * (x - mean) / sqrt(variance + epsilon) + offset`.

    The statistics are the batch's while training (Ioffe and Szegedy 2015, algorithm 1), the moving ones otherwise;
    those of the whole batch where several processes share one (`encapkeras.distribution`). A batch with one value per
    channel gives the offset and leaves the moving variance. A map in half precision is normalized in float32 and
    rounded once; if it is not finite, the moving statistics stay, since scaled losses skip such steps. They also stay
    where a forward pass is repeated for the backward pass (`torch.utils.checkpoint`).

    Batch t = 1, 2, ... moves each statistic by `moving += share * (batch's - moving)`, where `share = momentum`; of a
    warm average (`weights.batches`) `share = max(1 / t, momentum)`: up to `t = 1 / momentum` this is the plain mean of
    the batches' statistics, and the first values do not matter. A warm average leaves out batches with one value per
    channel, which have no variance.

    Args:
        map_BCP: Tensor `(B, C, ...)`.
        weights: Scale, offset and moving statistics, each `(C,)`, and perhaps the number of batches.
        training: Whether to use and record the batch's statistics.
        bias: The bias `(C,)` of the convolution before. While training it only moves the recorded mean, since a
            normalized batch does not depend on it: one pass over the map less.
        momentum: Share of the new statistics in the moving ones.
        epsilon: Added to the variance.
        unbiased: Whether the moving variance is that of unbiased ones, as torch has it; Keras' is of biased ones.

    Examples:
        >>> weights = NormWeights(torch.ones(3), torch.zeros(3), torch.zeros(3), torch.ones(3))
        >>> batch_norm(torch.rand(8, 3, 5), weights, training=True).mean().abs() < 1e-6
        tensor(True)
    """
    if training and map_BCP.dim() > 3 and 1 in (map_BCP.shape[0], *map_BCP.shape[2:]):
        # On CPUs torch cannot tell how the memory of such a map is laid out, and some gradients are wrong (2.14).
        flat_BCP = map_BCP.flatten(2)
        options: dict[str, Any] = {"bias": bias, "momentum": momentum, "epsilon": epsilon, "unbiased": unbiased}
        return batch_norm(flat_BCP, weights, training=True, **options).reshape(map_BCP.shape)
    # `requires_grad_(True)`, torch's way to unfreeze a layer, reaches statistics too; they have no gradients.
    # A count that prediction does not use must not be touched there: torch.export stumbles over it.
    weights = weights._replace(
        mean=weights.mean.detach(), variance=weights.variance.detach(), batches=weights.batches if training else None
    )
    repeated = training and is_in_backward()
    if repeated:
        weights = NormWeights(weights.scale, weights.offset, *(each.clone() for each in weights.moving()))
    if repeated or not is_half(map_BCP) or _restored_by_caller.get():
        return _batch_norm(map_BCP, weights, training, bias, momentum, epsilon, unbiased).to(map_BCP.dtype)
    before = [each.clone() for each in weights.moving()]
    normed = _batch_norm(map_BCP, weights, training, bias, momentum, epsilon, unbiased)
    if training:
        with torch.no_grad():
            finite = (weights.mean + weights.variance).isfinite().all()  # no answer is waited for
            # `.data`: torch has noted these tensors for its backward pass, which reads them only in prediction.
            for moving, kept in zip(weights.moving(), before, strict=True):
                moving.data.copy_(torch.where(finite, moving, kept))
    return normed.to(map_BCP.dtype)


def _batch_norm(
    map_BCP: torch.Tensor,
    weights: NormWeights,
    training: bool,
    bias: torch.Tensor | None,
    momentum: float,
    epsilon: float,
    unbiased: bool,
) -> torch.Tensor:
    """The computation; statistics, and the result where torch does not round it itself, have the weights' type."""
    scale, offset, mean, variance, batches = weights
    if not training:
        if bias is not None:
            offset = offset + bias * scale * (variance + epsilon).rsqrt()
        # Copies: a training step before the backward pass may change the moving statistics in place.
        return F.batch_norm(map_BCP, mean.clone(), variance.clone(), scale, offset, False, momentum, epsilon)
    if bias is not None:
        offset = offset + 0 * bias  # its gradient is 0, not absent: optimizers and weight decay expect one
    shared = shared_batch()
    if shared is not None and shared.batch_norm:
        map_BCP = map_BCP.to(mean.dtype) if is_half(map_BCP) else map_BCP
        weights = weights._replace(offset=offset)
        return _batch_norm_over_processes(map_BCP, weights, shared, bias, momentum, epsilon, unbiased)
    if map_BCP.numel() == map_BCP.shape[1]:
        if batches is None:
            with torch.no_grad():
                constant = map_BCP.flatten() if bias is None else map_BCP.flatten() + bias
                mean.lerp_(constant.to(mean.dtype), momentum)
        by_channel = (1, -1, *[1] * (map_BCP.dim() - 2))
        return map_BCP * (0 * scale).view(by_channel) + offset.view(by_channel)  # gradients are 0, not absent
    if batches is not None or not unbiased:
        own_mean, own_variance = torch.zeros_like(mean), torch.zeros_like(variance)
        result = F.batch_norm(map_BCP, own_mean, own_variance, scale, offset, True, 1.0, epsilon)
        if not unbiased:
            own_variance = own_variance * (1 - map_BCP.shape[1] / map_BCP.numel())
        _move(weights, own_mean, own_variance, bias, momentum)
        return result
    if bias is None:
        return F.batch_norm(map_BCP, mean, variance, scale, offset, True, momentum, epsilon)
    with torch.no_grad():
        mean_before_bias = mean - bias
    result = F.batch_norm(map_BCP, mean_before_bias, variance, scale, offset, True, momentum, epsilon)
    with torch.no_grad():
        mean.copy_(mean_before_bias + bias)
    return result


def moving_affine(
    weights: NormWeights, bias: torch.Tensor | None, epsilon: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return slope and shift with which prediction normalizes `map + bias`: `slope * map + shift`."""
    slope = weights.scale * (weights.variance.detach() + epsilon).rsqrt()
    mean = weights.mean.detach().clone()  # a training step before the backward pass may change it in place
    if bias is not None:
        mean = mean - bias
    return slope, weights.offset - mean * slope


def join_moments(map_BCP: torch.Tensor, axes: list[int], shared: SharedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and biased variance `(C,)` over some axes of the maps of all processes; differentiable.

    From those of each process, `m_p` and `v_p`, and its share `a_p` of the batch: `m = sum_p a_p m_p` and
    `v = sum_p a_p (v_p + (m_p - m)^2)` (Chan, Golub and LeVeque 1983): no difference of large numbers.
    """
    own_variance, own_mean = torch.var_mean(map_BCP, axes, correction=0)
    mean_PC, variance_PC = shared.stacked(torch.stack([own_mean, own_variance])).unbind(1)
    share_P1 = numbers_on(mean_PC, shared.shares).unsqueeze(1)
    mean = (share_P1 * mean_PC).sum(0)
    return mean, (share_P1 * (variance_PC + (mean_PC - mean).square())).sum(0)


def _batch_norm_over_processes(
    map_BCP: torch.Tensor,
    weights: NormWeights,
    shared: SharedBatch,
    bias: torch.Tensor | None,
    momentum: float,
    epsilon: float,
    unbiased: bool,
) -> torch.Tensor:
    mean, variance = join_moments(map_BCP, [0, *range(2, map_BCP.dim())], shared)
    values = map_BCP.numel() // map_BCP.shape[1] // shared.sizes[shared.rank] * sum(shared.sizes)
    moved: dict[str, Any] = {"values": values, "bias": bias, "momentum": momentum, "unbiased": unbiased}
    record_statistics(weights, mean.detach(), variance.detach(), **moved)
    slope = weights.scale * (variance + epsilon).rsqrt()
    by_channel = (1, -1, *[1] * (map_BCP.dim() - 2))
    return torch.addcmul((weights.offset - mean * slope).view(by_channel), map_BCP, slope.view(by_channel))


def record_statistics(
    weights: NormWeights,
    mean: torch.Tensor,
    biased_variance: torch.Tensor,
    *,
    values: int,
    bias: torch.Tensor | None,
    momentum: float = MOMENTUM,
    unbiased: bool = True,
) -> None:
    """Move the moving statistics towards a batch's of (at least 2) values a channel, in place; see `batch_norm`."""
    if not is_in_backward():
        variance = biased_variance * (values / (values - 1)) if unbiased else biased_variance
        _move(weights, mean, variance, bias, momentum)


@torch.no_grad()
def _move(
    weights: NormWeights, mean: torch.Tensor, variance: torch.Tensor, bias: torch.Tensor | None, momentum: float
) -> None:
    share: Any = momentum
    if weights.batches is not None:
        # A tensor: no device is waited for.
        share = weights.batches.add_(1).reciprocal().clamp_min(momentum).to(weights.mean.dtype)
    weights.mean.lerp_(mean if bias is None else mean + bias, share)
    weights.variance.lerp_(variance, share)


def capsule_batch_norm(
    capsules_BNDP: torch.Tensor,
    weights: NormWeights,
    *,
    training: bool,
    momentum: float = MOMENTUM,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    """Batch normalization with one mean and variance per capsule type: over all axes but the second.

    Args:
        capsules_BNDP: Tensor `(B, N, D, ...)`.
        weights: Scale, offset and moving statistics, each `(N,)`.
        training: Whether to use and record the batch's statistics.
        momentum: Share of the new statistics in the moving ones.
        epsilon: Added to the variance.

    Examples:
        >>> weights = NormWeights(torch.ones(4), torch.zeros(4), torch.zeros(4), torch.ones(4))
        >>> capsule_batch_norm(torch.rand(2, 4, 8, 3, 3), weights, training=True).shape
        torch.Size([2, 4, 8, 3, 3])
    """
    flat_BNP = capsules_BNDP.flatten(2)
    normed = batch_norm(flat_BNP, weights, training=training, momentum=momentum, epsilon=epsilon)
    return normed.view(capsules_BNDP.shape)
