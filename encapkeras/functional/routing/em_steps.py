"""The steps of EM routing that need no votes: from Gaussians to costs, activations and priors.

Shape suffixes: B batch, J output capsules, E their dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.torch_internals import is_tracing

EPSILON = 2.220446049250313e-16
"""The original's, in float32 too: what divisors are increased by."""

VARIANCE_FLOOR = 1e-12
"""Smallest variance of votes: equal votes have a logarithm and a gradient."""

EQUAL_DISTANCES = 1e-12
"""Distances that differ by less are equal: what separates them is rounding."""


class Options(NamedTuple):
    """Of an EM routing; see `em_routing`."""

    iterations: int
    normalize_distances: bool
    density_floor: float


class Gaussian(NamedTuple):
    """The distribution of the votes that an output capsule explains."""

    mean_JBE: torch.Tensor
    variance_JBE: torch.Tensor
    amount_JB1: torch.Tensor
    explained_JB1: torch.Tensor


def iterate(
    gaussian: Gaussian,
    refit: Callable[[Gaussian, torch.Tensor], Gaussian],
    beta_v_J: torch.Tensor,
    beta_a_J: torch.Tensor,
    options: Options,
    *,
    fixed: bool,
) -> tuple[Gaussian, torch.Tensor]:
    """Run the iterations from the first Gaussians; return the last, and the logits of the activations `(J, B)`.

    `refit` runs an E-step and the next M-step, from Gaussians and the logarithms of the priors `(J, B, 1)`. With fixed
    shares, the last iteration is the only one.
    """
    last = options.iterations - 1
    for iteration in range(last if fixed else 0, options.iterations):
        cost_JBE = gaussian.variance_JBE.log() / 2 + beta_v_J[:, None, None]
        cost_JB = (cost_JBE.sum(2, keepdim=True) * gaussian.amount_JB1).squeeze(2)
        chance_JB = (1 + iteration) * (beta_a_J[:, None] - _scale_range(cost_JB))
        if iteration < last:
            prior_JB1 = F.logsigmoid(chance_JB).unsqueeze(2) - _log_divisor(gaussian, options.density_floor)
            gaussian = refit(gaussian, prior_JB1)
    return gaussian, chance_JB


def inverse_amount(amount_JB1: torch.Tensor) -> torch.Tensor:
    """`1 / amount`; 0 where an output explains nothing: `1 / EPSILON` would give gradients of 1e15."""
    return torch.where(amount_JB1 > EPSILON, 1 / (amount_JB1 + EPSILON), 0)


def _scale_range(cost_JB: torch.Tensor) -> torch.Tensor:
    """`10 (x - min) / (max - min) - 5` over the output capsules; 0 where all are equal."""
    low_B, high_B = cost_JB.amin(0), cost_JB.amax(0)
    spread_B = high_B - low_B
    differ_B = spread_B > EPSILON
    return torch.where(differ_B, 10 * (cost_JB - low_B) / torch.where(differ_B, spread_B, 1) - 5, 0)


def _log_divisor(gaussian: Gaussian, density_floor: float) -> torch.Tensor:
    """`log(sqrt(prod_d 2 pi sigma_d^2) + density_floor)`, `(J, B, 1)`."""
    divisor_JB1 = (2 * math.pi * gaussian.variance_JBE).log().sum(2, keepdim=True) / 2
    floor = math.log(density_floor) if density_floor else -math.inf
    floor_JB1 = torch.full_like(divisor_JB1, floor)
    if is_tracing():  # ONNX has no logaddexp
        return torch.stack([divisor_JB1, floor_JB1]).logsumexp(0)
    return torch.logaddexp(divisor_JB1, floor_JB1)
