"""Entropic optimal transport as textbooks write it: all differences of all pairs at once, plain Sinkhorn, autograd.

Shape suffixes: B samples, F features.
"""

from __future__ import annotations

import torch


def cost(x_BF: torch.Tensor, y_BF: torch.Tensor, kind: str = "l2") -> torch.Tensor:
    """`|x_i - y_j|`, its square, or `1 - cosine`, for all pairs: `(B, B)`."""
    if kind == "cosine":
        return 1 - torch.nn.functional.normalize(x_BF) @ torch.nn.functional.normalize(y_BF).T
    square_BB = (x_BF[:, None] - y_BF[None]).square().sum(2)
    # The root has no gradient at 0; samples that are equal get 0 by a detour.
    return square_BB if kind == "sqeuclidean" else torch.where(square_BB > 0, square_BB, 1).sqrt() * (square_BB > 0)


def plan(cost_BB: torch.Tensor, epsilon: float = 1.0, iterations: int = 10) -> torch.Tensor:
    """Sinkhorn's plan for uniform weights, from the start `b = 1 / B`."""
    weight = 1 / len(cost_BB)
    kernel_BB = torch.exp(-cost_BB / epsilon)
    b_B = torch.full_like(kernel_BB[0], weight)
    for _ in range(iterations):
        a_B = weight / (kernel_BB @ b_B)
        b_B = weight / (kernel_BB.T @ a_B)
    return a_B[:, None] * kernel_BB * b_B


def value(
    x_BF: torch.Tensor, y_BF: torch.Tensor, kind: str = "l2", epsilon: float = 1.0, iterations: int = 10
) -> torch.Tensor:
    """`V(x, y) = <P, C>`."""
    cost_BB = cost(x_BF, y_BF, kind)
    return (plan(cost_BB, epsilon, iterations) * cost_BB).sum()


def divergence(
    x_BF: torch.Tensor, y_BF: torch.Tensor, kind: str = "l2", epsilon: float = 1.0, iterations: int = 10
) -> torch.Tensor:
    """`2 V(x, y) - V(x, x) - V(y, y)`."""
    both = value(x_BF, y_BF, kind, epsilon, iterations)
    each = [value(samples_BF, samples_BF, kind, epsilon, iterations) for samples_BF in (x_BF, y_BF)]
    return 2 * both - each[0] - each[1]
