"""The distance between two sets of samples, by entropic optimal transport.

Shape suffixes: B samples, F features, K problems (x against y, x against itself, y against itself).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch

from encapkeras.errors import ArgumentError, NotFiniteError, ShapeError
from encapkeras.functional.optimal_transport.sinkhorn import all_finite, check_transport, sinkhorn
from encapkeras.functional.optimal_transport.transport_cost import Cost, check_samples, transport_cost
from encapkeras.functional.torch_support.cholesky import cholesky
from encapkeras.functional.torch_support.fake_tensors import has_values
from encapkeras.functional.torch_support.precision import full_precision

Gradient = Literal["unrolled", "envelope", "implicit"]


class Transport(NamedTuple):
    """A divergence, and what it was computed from.

    Attributes:
        divergence: The divergence `()`; differentiable.
        plan: The plan `(B, B)` of x against y, without gradients.
        cost: The costs `(B, B)` of x against y, without gradients.
    """

    divergence: torch.Tensor
    plan: torch.Tensor
    cost: torch.Tensor


def transport_divergence(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    cost: Cost = "l2",
    epsilon: float = 1.0,
    iterations: int = 10,
    debiased: bool = True,
    gradient: Gradient = "unrolled",
    tolerance: float | None = None,
) -> torch.Tensor:
    """Return the Sinkhorn divergence of two batches of features: `2 V(x, y) - V(x, x) - V(y, y)`.

    `V(x, y) = <P, C>` with the costs C between the samples and Sinkhorn's plan P for uniform weights (Li et al. 2018;
    Genevay et al. 2018). It is 0 at `x = y`, to rounding, and for batches of one sample; symmetric with converged
    plans. Differentiable once.

    Args:
        x: Features `(B, F)`. Half precision is computed in float32.
        y: Features `(B, F)`.
        cost: `l2`, `cosine` or `sqeuclidean`, as for `transport_cost`.
        epsilon: Strength of the entropy, in units of the cost; above 0.
        iterations: Number of Sinkhorn's iterations, from 1; with `tolerance` the largest number.
        debiased: Whether the terms of each batch against itself are subtracted; otherwise the result is `V(x, y)`.
        gradient: `unrolled`: through all iterations, exact for what is computed. `envelope`: plans are held fixed,
            `dV = <P, dC>`; cheaper, another direction. `implicit`: of converged plans; solves a linear system (B, B).
        tolerance: Stop when all plans are this close to their marginals, as for `sinkhorn`.

    Returns:
        The divergence `()`, in float32 or float64.

    Raises:
        ArgumentError: An argument has an invalid value, or a second derivative is asked for.
        NotFiniteError: A feature, or a distance, is not finite (only checked on the CPU).
        ShapeError: The sizes do not match.

    Warns:
        NotConvergedWarning: `tolerance` was not reached.

    Examples:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
        >>> transport_divergence(x, x), transport_divergence(x, x + 3) > 0
        (tensor(0.), tensor(True))
    """
    # fmt: off
    return transport(
        x, y, cost=cost, epsilon=epsilon, iterations=iterations, debiased=debiased, gradient=gradient,
        tolerance=tolerance,
    ).divergence
    # fmt: on


def transport(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    cost: Cost = "l2",
    epsilon: float = 1.0,
    iterations: int = 10,
    debiased: bool = True,
    gradient: Gradient = "unrolled",
    tolerance: float | None = None,
) -> Transport:
    """Return `transport_divergence` with its plan and costs; arguments and errors are the same.

    Examples:
        >>> x = torch.tensor([[0.0, 1.0], [9.0, 0.0]])
        >>> transport(x, x.flip(0), epsilon=0.1).plan
        tensor([[0.0000, 0.5000],
                [0.5000, 0.0000]])
    """
    _check(x, y, debiased, gradient)
    check_transport(epsilon, iterations, tolerance)
    with full_precision(x, y) as wide:
        x_BF, y_BF = wide(x), wide(y)
        pairs = [(x_BF, y_BF), (x_BF, x_BF), (y_BF, y_BF)] if debiased else [(x_BF, y_BF)]
        cost_KBB = torch.stack([transport_cost(*pair, cost=cost) for pair in pairs])
        _check_finite(x, y, cost_KBB)
        settled = cost_KBB if gradient == "unrolled" else cost_KBB.detach()
        plan_KBB = sinkhorn(settled, epsilon=epsilon, iterations=iterations, tolerance=tolerance)
        value_K = (plan_KBB * cost_KBB).sum((1, 2))
        if gradient == "implicit" and cost_KBB.requires_grad:
            response_KBB = _response(plan_KBB, settled, epsilon)
            value_K = value_K + (response_KBB * (cost_KBB - settled)).sum((1, 2))  # a 0 that has a gradient
        divergence = 2 * value_K[0] - value_K[1] - value_K[2] if debiased else value_K[0]
        if len(x) == 1:
            divergence = 0 * divergence
        return Transport(divergence, plan_KBB[0].detach(), settled[0].detach())


def _check(x: torch.Tensor, y: torch.Tensor, debiased: bool, gradient: str) -> None:
    check_samples(x, y)
    if len(x) != len(y):
        raise ShapeError(f"x {tuple(x.shape)} and y {tuple(y.shape)} must have the same number of samples")
    if not isinstance(debiased, bool):
        raise ArgumentError(f"debiased must be True or False; received {debiased!r}")
    if gradient not in get_args(Gradient):
        raise ArgumentError(
            f"gradient must be one of {', '.join(map(repr, get_args(Gradient)))}; received {gradient!r}"
        )


def _check_finite(x: torch.Tensor, y: torch.Tensor, cost: torch.Tensor) -> None:
    """Raise with the feature that makes a cost not finite; look through the features only then."""
    if cost.device.type != "cpu" or not has_values(cost) or all_finite(cost):
        return
    for name, samples in (("x", x), ("y", y)):
        for row, column in (~torch.isfinite(samples)).nonzero().tolist():
            received = samples[row, column].item()
            raise NotFiniteError(f"{name} must be finite; received {received} in sample {row}, feature {column}")
    largest = max(x.abs().max().item(), y.abs().max().item())
    raise NotFiniteError(f"features up to {largest:.3g} are too large: their squares exceed the range of {cost.dtype}")


def _response(plan_KBB: torch.Tensor, cost_KBB: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return how the value of a converged plan changes with the costs, in addition to the plan itself.

    The plan is `exp((f_i + g_j - C_ij) / epsilon)` with potentials that keep its marginals (Luise et al. 2018). So
    `dP = P (df_i + dg_j - dC_ij) / epsilon`, of which rows and columns sum to 0, and the response is
    `P (p_i + q_j - C_ij) / epsilon` with rows and columns of sum 0. Solved in float64 for q, without p.
    """
    plan, cost = plan_KBB.double(), cost_KBB.double()
    row_sum, column_sum = plan.sum(2, keepdim=True), plan.sum(1, keepdim=True)
    of_row, of_column = (plan * cost).sum(2, keepdim=True), (plan * cost).sum(1, keepdim=True)
    system = torch.diag_embed(column_sum[:, 0]) - plan.mT @ (plan / row_sum)
    # The potentials are only defined up to a constant: the mean of q is set to 0. The rest of the diagonal is for plans
    # that fall apart into blocks, each with such a constant.
    size = plan.shape[-1]
    system = system + 1 / size**2 + torch.eye(size, dtype=plan.dtype, device=plan.device) * (1e-12 / size)
    right = of_column.mT - plan.mT @ (of_row / row_sum)
    q = torch.cholesky_solve(right, cholesky(system))
    p = (of_row - plan @ q) / row_sum
    return (plan * (p + q.mT - cost) / epsilon).to(plan_KBB.dtype)
