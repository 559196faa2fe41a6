"""Sums of votes, and of their squares, from sums of input capsules; and the adjoints.

A vote is linear in its input capsule and the matrix is shared by the positions of a type, so weighted sums of votes
need only those of the capsules of each type, and sums of squared votes those of the products of their components.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, C = D + 1, K = C * (C + 1) / 2 products, J
output capsules, E their dimension, X = N * C, Y = N * K, j a piece of J.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

from encapkeras.functional.routing.deferred_weight_gradient import Tensors, Uses
from encapkeras.functional.torch_support.fake_tensors import has_values
from encapkeras.torch_internals import is_tracing

_PIECE = 1 << 20
"""Numbers in a piece: 4 MB in float32."""


class VoteMoments:
    """Sums of votes from sums of `u~ = [1, u]`, with `W~ = [bias, W]`."""

    def __init__(self, weight_JNCE: torch.Tensor) -> None:
        self._weight_JNCE = weight_JNCE
        self._weight_JXE = weight_JNCE.flatten(1, 2)

    def contract(self, gathered_JBX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sums of votes `(J, B, E)`, and of their weights `(J, B, 1)`."""
        one_JBN = gathered_JBX.unflatten(2, self._weight_JNCE.shape[1:3])[..., 0]
        return gathered_JBX @ self._weight_JXE, one_JBN.sum(2, keepdim=True)

    def expand(self, *coefficients: torch.Tensor) -> torch.Tensor:
        """Return the query `(J, B, X)` whose product with `u~` is `vote coefficient . vote + constant`."""
        vote_JBE, constant_JB1 = coefficients
        out_JBX = vote_JBE @ self._weight_JXE.transpose(1, 2)
        out_JBX.unflatten(2, self._weight_JNCE.shape[1:3])[..., 0] += constant_JB1
        return out_JBX

    def contract_backward(self, *gradients: torch.Tensor) -> torch.Tensor:
        """Return the gradient of `gathered`."""
        return self.expand(*gradients)

    def expand_backward(self, gradient: torch.Tensor, coefficients: Tensors) -> Tensors:
        """Return the gradients of the coefficients."""
        return self.contract(gradient)

    def weight_gradient(self, contracted: Uses, expanded: Uses) -> torch.Tensor:
        """Return the gradient of the matrices."""
        gradient_JXE = torch.empty_like(self._weight_JXE)
        for piece in _pieces(len(gradient_JXE), gradient_JXE[0].numel()):
            uses = [(feature_JBX[piece].mT, vote_JBE[piece]) for feature_JBX, (vote_JBE, _) in contracted + expanded]
            _sum_of_products(uses, out=gradient_JXE[piece])
        return gradient_JXE.view_as(self._weight_JNCE)


class SquareMoments:
    """Sums of votes and of their squares from sums of `products` of capsules that are relative to an origin.

    With o the origin of a type in a sample, u a capsule relative to it and `V = W~ [1, o] - shift` its vote, a vote is
    `W u + V`, reduced by a constant. What belongs to the votes of each type exists in pieces of the output capsules.
    """

    def __init__(self, weight_JNCE: torch.Tensor, origin_BNC: torch.Tensor, shift_JBE: torch.Tensor) -> None:
        self._component_JNCE = F.pad(weight_JNCE[:, :, 1:], (0, 0, 1, 0))
        self._half_JNDE = weight_JNCE[:, :, 1:] / 2  # `products` has u_d twice, as 1 * u_d and u_d * 1
        self._square_JYE = pairs(self._component_JNCE, 2).flatten(1, 2)
        self._origin_NBC = origin_BNC.transpose(0, 1)
        self._vote_JNBE = self._origin_NBC @ weight_JNCE - shift_JBE.unsqueeze(1)

    def contract(self, gathered_JBY: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return sums of reduced votes `(J, B, E)`, of their squares, and of their weights `(J, B, 1)`."""
        parts = []
        for piece in self._pieces(gathered_JBY.shape[1]):
            one_jNB1, linear_jNBE = self._linear(gathered_JBY, piece)
            vote_jNBE = self._vote_JNBE[piece]
            moved_jNBE = vote_jNBE * one_jNB1
            square_jBE = gathered_JBY[piece] @ self._square_JYE[piece]
            square_jBE = square_jBE + (vote_jNBE * (2 * linear_jNBE + moved_jNBE)).sum(1)
            parts.append(((linear_jNBE + moved_jNBE).sum(1), square_jBE, one_jNB1.sum(1)))
        first_JBE, second_JBE, amount_JB1 = (torch.cat(part) for part in zip(*parts, strict=True))
        return first_JBE, second_JBE, amount_JB1

    def contract_backward(self, *gradients: torch.Tensor) -> torch.Tensor:
        """Return the gradient of `gathered`."""
        first_JBE, square_JBE, amount_JB1 = gradients

        def of_votes(piece: slice) -> tuple[torch.Tensor, torch.Tensor]:
            vote_jNBE, first_jNBE = self._vote_JNBE[piece], first_JBE[piece].unsqueeze(1)
            pull_jNBE = square_JBE[piece].unsqueeze(1) * vote_jNBE
            constant_jNB1 = ((pull_jNBE + first_jNBE) * vote_jNBE).sum(3, keepdim=True)
            return first_jNBE + 2 * pull_jNBE, constant_jNB1 + amount_JB1[piece].unsqueeze(1)

        return self._expand_features(square_JBE, of_votes)

    def expand(self, *coefficients: torch.Tensor) -> torch.Tensor:
        """Return the query `(J, B, Y)` whose product with `products` is `square . (vote - center)^2 + constant`."""
        square_JBE, center_JBE, constant_JB1 = coefficients

        def of_votes(piece: slice) -> tuple[torch.Tensor, torch.Tensor]:
            away_jNBE = self._vote_JNBE[piece] - center_JBE[piece].unsqueeze(1)
            pull_jNBE = square_JBE[piece].unsqueeze(1) * away_jNBE
            constant_jNB1 = (pull_jNBE * away_jNBE).sum(3, keepdim=True)
            return 2 * pull_jNBE, constant_jNB1 + constant_JB1[piece].unsqueeze(1)

        return self._expand_features(square_JBE, of_votes)

    def expand_backward(self, gradient: torch.Tensor, coefficients: Tensors) -> Tensors:
        """Return the gradients of the coefficients."""
        square_JBE, center_JBE, _ = coefficients
        parts = []
        for piece in self._pieces(gradient.shape[1]):
            one_jNB1, linear_jNBE = self._linear(gradient, piece)
            away_jNBE = self._vote_JNBE[piece] - center_JBE[piece].unsqueeze(1)
            moved_jNBE = away_jNBE * one_jNB1
            of_square_jBE = gradient[piece] @ self._square_JYE[piece]
            of_square_jBE = of_square_jBE + (away_jNBE * (2 * linear_jNBE + moved_jNBE)).sum(1)
            of_center_jBE = -2 * square_JBE[piece] * (linear_jNBE + moved_jNBE).sum(1)
            parts.append((of_square_jBE, of_center_jBE, one_jNB1.sum(1)))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def weight_gradient(self, contracted: Uses, expanded: Uses) -> torch.Tensor:
        """Return the gradient of the matrices."""
        uses = [(feature, first, square) for feature, (first, square, _) in contracted]
        uses += [(feature, -2 * square * center, square) for feature, (square, center, _) in expanded]
        gradient_JNCE = torch.empty_like(self._component_JNCE)
        for piece in self._pieces(self._origin_NBC.shape[1]):
            vote_jNBE = self._vote_JNBE[piece]
            of_vote_jNBE = torch.zeros_like(vote_jNBE)
            of_half_jNDE = torch.zeros_like(self._half_JNDE[piece])
            for feature_JBY, first_JBE, square_JBE in uses:
                one_jNB1, linear_jNBE = self._linear(feature_JBY, piece)
                twice_j1BE = 2 * square_JBE[piece].unsqueeze(1)
                pull_jNBE = torch.addcmul(first_JBE[piece].unsqueeze(1), twice_j1BE, vote_jNBE)
                of_vote_jNBE.addcmul_(pull_jNBE, one_jNB1).addcmul_(twice_j1BE, linear_jNBE)
                of_half_jNDE += self._components(feature_JBY[piece])[..., 1:].mT @ pull_jNBE
            square_jYE = torch.empty_like(self._square_JYE[piece])
            products = [(feature_JBY[piece].mT, square_JBE[piece]) for feature_JBY, _, square_JBE in uses]
            _sum_of_products(products, out=square_jYE)
            gradient_jNCE = torch.matmul(self._origin_NBC.mT, of_vote_jNBE)
            gradient_jNCE[:, :, 1:].add_(of_half_jNDE, alpha=0.5)
            components = gradient_jNCE.shape[2]  # the products with 1 are not squares
            product_jNKE = square_jYE.unflatten(1, (gradient_jNCE.shape[1], -1))[:, :, components:]
            _backward_pairs(self._component_JNCE[piece][:, :, 1:], product_jNKE, gradient_jNCE[:, :, 1:])
            gradient_JNCE[piece] = gradient_jNCE
        return gradient_JNCE

    def _pieces(self, batch: int) -> Iterator[slice]:
        outputs, width, dim = self._square_JYE.shape
        return _pieces(outputs, width * (batch + dim) if has_values(self._square_JYE) else 1)

    def _components(self, features_jBY: torch.Tensor) -> torch.Tensor:
        """Of the products, those with 1, `(j, N, B, C)`."""
        types, components = self._component_JNCE.shape[1:3]
        by_type: torch.Tensor = features_jBY.unflatten(2, (types, -1))
        return by_type[..., :components].transpose(1, 2)

    def _linear(self, features_JBY: torch.Tensor, piece: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of 1 `(j, N, B, 1)` and of `W u` `(j, N, B, E)`."""
        one_jNBC = self._components(features_JBY[piece])
        return one_jNBC[..., :1], one_jNBC[..., 1:] @ self._half_JNDE[piece]

    def _expand_features(
        self, square_JBE: torch.Tensor, of_votes: Callable[[slice], tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Coefficients of the features from those of `(W u)^2`, and of `W u` and 1 of each type, `of_votes`."""
        out_JBY = square_JBE.new_empty(*square_JBE.shape[:2], self._square_JYE.shape[1])
        for piece in self._pieces(square_JBE.shape[1]):
            linear_jNBE, constant_jNB1 = of_votes(piece)
            part_jBY = square_JBE[piece] @ self._square_JYE[piece].transpose(1, 2)
            if is_tracing():  # in one piece; ONNX loses what is written into views
                linear_jNBD = linear_jNBE @ self._half_JNDE.transpose(2, 3)
                added_jBNC = torch.cat([constant_jNB1, linear_jNBD], 3).transpose(1, 2)
                features = part_jBY.shape[2] // added_jBNC.shape[2]
                return part_jBY + F.pad(added_jBNC, (0, features - added_jBNC.shape[3])).flatten(2)
            one_jNBC = self._components(part_jBY)
            one_jNBC[..., 1:] += linear_jNBE @ self._half_JNDE[piece].transpose(2, 3)
            one_jNBC[..., :1] += constant_jNB1
            out_JBY[piece] = part_jBY
        return out_JBY


def with_bias(weight_NJED: torch.Tensor, bias_NJE: torch.Tensor | None) -> torch.Tensor:
    """Return `W~ = [bias, W]`, `(J, N, C, E)`, in the order in which sums of votes use it."""
    weight_JNDE = weight_NJED.permute(1, 0, 3, 2)
    if bias_NJE is None:
        return F.pad(weight_JNDE, (0, 0, 1, 0))
    return torch.cat([bias_NJE.transpose(0, 1).unsqueeze(2), weight_JNDE], 2)


def sums_by_type(feature_BNKP: torch.Tensor, fixed_NJ: torch.Tensor) -> torch.Tensor:
    """Return the sums of all positions' features, weighted by type, `(J, B, Y)`."""
    return (feature_BNKP.sum(3) * fixed_NJ.T[:, None, :, None]).flatten(2)


def products(capsules_BNDP: torch.Tensor) -> torch.Tensor:
    """Return `x_a x_b`, `(B, N, K, P)`, for all a <= b and `x = [1, u]`; doubled for a < b, which represents both."""
    component_BNCP = F.pad(capsules_BNDP, (0, 0, 1, 0), value=1.0)
    size = component_BNCP.shape[2]
    one, two = component_BNCP.new_ones(1), component_BNCP.new_full((size - 1,), 2.0)
    times = torch.cat([part for a in range(size) for part in (one, two[a:])])
    return pairs(component_BNCP, 2) * times.unsqueeze(1)


def pairs(component: torch.Tensor, dim: int) -> torch.Tensor:
    """Return `x_a x_b` for all a <= b, in the order of a."""
    size = component.shape[dim]
    factors = [(component.narrow(dim, a, 1), component.narrow(dim, a, size - a)) for a in range(size)]
    if component.requires_grad or is_tracing():
        return torch.cat([left * right for left, right in factors], dim)
    shape = list(component.shape)
    shape[dim] = size * (size + 1) // 2
    out, start = component.new_empty(shape), 0
    for left, right in factors:  # written in place: for matrices, the largest tensor of a routing
        torch.mul(left, right, out=out.narrow(dim, start, right.shape[dim]))
        start += right.shape[dim]
    return out


def _backward_pairs(component_jNCE: torch.Tensor, gradient_jNKE: torch.Tensor, out_jNCE: torch.Tensor) -> None:
    """Add the backward of `pairs` to `out`."""
    start, size = 0, component_jNCE.shape[2]
    for a in range(size):
        row_jNCE = gradient_jNKE[:, :, start : start + size - a]
        out_jNCE[:, :, a] += (row_jNCE * component_jNCE[:, :, a:]).sum(2)
        out_jNCE[:, :, a:].addcmul_(row_jNCE, component_jNCE[:, :, a : a + 1])
        start += size - a


def _sum_of_products(pairs: list[tuple[torch.Tensor, torch.Tensor]], out: torch.Tensor) -> None:
    torch.bmm(*pairs[0], out=out)
    for left, right in pairs[1:]:
        out.baddbmm_(left, right)


def _pieces(outputs: int, numbers: int) -> Iterator[slice]:
    """Yield slices of the output capsules, each of which takes at most this many numbers."""
    size = max(1, _PIECE // numbers)
    return (slice(start, start + size) for start in range(0, outputs, size))
