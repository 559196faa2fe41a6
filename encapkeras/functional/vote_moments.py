"""Sums of votes, and of their squares, from sums of input capsules; and the adjoints.

A vote is linear in its input capsule and the matrix is shared by the positions of a type, so weighted sums of votes
need only those of the capsules of each type, and sums of squared votes those of the products of their components.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, C = D + 1, K = C * (C + 1) / 2 products, J
output capsules, E their dimension, X = N * C, Y = N * K, j a piece of J.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from encapkeras.functional.routed import Term

_PIECE = 1 << 18
"""Numbers of weights in a piece: 1 MB in float32."""


class VoteMoments:
    """Sums of votes from sums of `u~ = [1, u]`, with `W~ = [bias, W]`.

    Args:
        weight_JNCE: The matrices `W~`.
    """

    def __init__(self, weight_JNCE: torch.Tensor) -> None:
        self._weight_JNCE = weight_JNCE
        self._weight_JXE = weight_JNCE.flatten(1, 2)

    def contract(self, gathered_JBX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of votes.

        Args:
            gathered_JBX: For each output capsule the weighted sums of `u~` of each type.

        Returns:
            Sums of votes `(J, B, E)`, and of their weights `(J, B, 1)`.
        """
        one_JBN = gathered_JBX.unflatten(2, self._weight_JNCE.shape[1:3])[..., 0]
        return gathered_JBX @ self._weight_JXE, one_JBN.sum(2, keepdim=True)

    def expand(self, vote_JBE: torch.Tensor, amount_JB1: torch.Tensor) -> torch.Tensor:
        """What the product of with `u~` is `vote . W~ u~ + amount`.

        Args:
            vote_JBE: Coefficients of the votes.
            amount_JB1: The constant.

        Returns:
            `(J, B, X)`.
        """
        out_JBX = vote_JBE @ self._weight_JXE.mT
        out_JBX.unflatten(2, self._weight_JNCE.shape[1:3])[..., 0] += amount_JB1
        return out_JBX

    def weight_gradient(self, terms: list[Term]) -> torch.Tensor:
        """See `Moments`."""
        gradient_JNCE = torch.zeros_like(self._weight_JNCE)
        for piece in _pieces(self._weight_JXE):
            for gathered_JBX, (vote_JBE, _) in terms:
                gradient_JNCE[piece].flatten(1, 2).baddbmm_(gathered_JBX[piece].mT, vote_JBE[piece])
        return gradient_JNCE


class SquareMoments:
    """Sums of votes `W u` of each type and sums of their squares, from sums of `products`.

    Args:
        weight_JNDE: The matrices W.
    """

    def __init__(self, weight_JNDE: torch.Tensor) -> None:
        self._half_JNDE = weight_JNDE / 2  # `products` has u_d twice, as 1 * u_d and u_d * 1
        self._component_JNCE = F.pad(weight_JNDE, (0, 0, 1, 0))
        self._square_JYE = _pairs(self._component_JNCE, 2).flatten(1, 2)

    def contract(self, gathered_JBY: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sums of votes and of squares.

        Args:
            gathered_JBY: For each output capsule the weighted sums of the products of each type.

        Returns:
            Sums of votes of each type `(J, N, B, E)`; of squared votes of all types `(J, B, E)`; of weights
            `(J, N, B, 1)`.
        """
        one_JNBC = self._components(gathered_JBY)
        return one_JNBC[..., 1:] @ self._half_JNDE, gathered_JBY @ self._square_JYE, one_JNBC[..., :1].contiguous()

    def expand(self, vote_JNBE: torch.Tensor, square_JBE: torch.Tensor, amount_JNB1: torch.Tensor) -> torch.Tensor:
        """What the product of with `products` is `vote_n . W u + square . (W u)^2 + amount_n`.

        Args:
            vote_JNBE: Coefficients of the votes.
            square_JBE: Coefficients of their squares.
            amount_JNB1: The constants.

        Returns:
            `(J, B, Y)`.
        """
        out_JBY = square_JBE @ self._square_JYE.mT
        one_JNBC = self._components(out_JBY)
        one_JNBC[..., :1] += amount_JNB1
        one_JNBC[..., 1:] += vote_JNBE @ self._half_JNDE.mT
        return out_JBY

    def weight_gradient(self, terms: list[Term]) -> torch.Tensor:
        """See `Moments`."""
        gradient_JNCE = torch.zeros_like(self._component_JNCE)
        for piece in _pieces(self._square_JYE):
            gradient_jNCE = gradient_JNCE[piece]
            for gathered_JBY, (vote_JNBE, _, _) in terms:
                component_jNBD = self._components(gathered_JBY[piece])[..., 1:]
                gradient_jNCE[:, :, 1:] += component_jNBD.mT @ vote_JNBE[piece]
            gradient_jNCE /= 2
            square_jYE = torch.zeros_like(self._square_JYE[piece])
            for gathered_JBY, (_, square_JBE, _) in terms:
                square_jYE.baddbmm_(gathered_JBY[piece].mT, square_JBE[piece])
            component_jNCE = self._component_JNCE[piece]
            _through_pairs(component_jNCE, square_jYE.unflatten(1, (component_jNCE.shape[1], -1)), gradient_jNCE)
        return gradient_JNCE[:, :, 1:]

    def _components(self, features_JBY: torch.Tensor) -> torch.Tensor:
        """Of the products, those with 1."""
        types, components = self._component_JNCE.shape[1:3]
        by_type: torch.Tensor = features_JBY.unflatten(2, (types, -1))
        return by_type[..., :components].transpose(1, 2)


def products(capsules_BNDP: torch.Tensor) -> torch.Tensor:
    """`x_a x_b` for all a <= b and `x = [1, u]`: 1, then the components, then their products.

    Those of two different components, 1 included, are there twice: `a < b` stands for `b < a` too.

    Args:
        capsules_BNDP: Capsules `(B, N, D, P)`.

    Returns:
        `(B, N, K, P)`.

    Example:
        >>> products(torch.tensor([3.0, 5.0]).view(1, 1, 2, 1)).flatten()
        tensor([ 1.,  6., 10.,  9., 30., 25.])
    """
    component_BNCP = F.pad(capsules_BNDP, (0, 0, 1, 0), value=1.0)
    size = component_BNCP.shape[2]
    times = torch.cat([torch.tensor([1.0] + [2.0] * (size - a - 1)) for a in range(size)])
    return _pairs(component_BNCP, 2) * times.to(component_BNCP).unsqueeze(1)


def _pairs(component: torch.Tensor, dim: int) -> torch.Tensor:
    """`x_a x_b` for all a <= b, in the order of a."""
    size = component.shape[dim]
    pairs = [(component.narrow(dim, a, 1), component.narrow(dim, a, size - a)) for a in range(size)]
    if component.requires_grad:
        return torch.cat([left * right for left, right in pairs], dim)
    shape = list(component.shape)
    shape[dim] = size * (size + 1) // 2
    out, start = component.new_empty(shape), 0
    for left, right in pairs:  # written in place: for matrices, the largest tensor of a routing
        torch.mul(left, right, out=out.narrow(dim, start, right.shape[dim]))
        start += right.shape[dim]
    return out


def _through_pairs(component_jNCE: torch.Tensor, gradient_jNKE: torch.Tensor, out_jNCE: torch.Tensor) -> None:
    """Adds the backward of `_pairs` to `out`."""
    start, size = 0, component_jNCE.shape[2]
    for a in range(size):
        row_jNCE = gradient_jNKE[:, :, start : start + size - a]
        out_jNCE[:, :, a] += (row_jNCE * component_jNCE[:, :, a:]).sum(2)
        out_jNCE[:, :, a:].addcmul_(row_jNCE, component_jNCE[:, :, a : a + 1])
        start += size - a


def _pieces(weight_JXE: torch.Tensor) -> Iterator[slice]:
    size = max(1, _PIECE // weight_JXE[0].numel())
    return (slice(start, start + size) for start in range(0, len(weight_JXE), size))
