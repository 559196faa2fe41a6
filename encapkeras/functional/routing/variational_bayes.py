"""Variational-Bayes routing (De Sousa Ribeiro, Leontidis and Kollias 2020).

Shape suffixes: B batch, P Q map of the parents, J parent types, E their dimension, A rows and C columns of a pose, O
window offsets; n a piece of the children, M of the parents' positions.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional.routing.routing_inputs import (
    Competition,
    check_activations,
    check_competition,
    check_iterations,
)
from encapkeras.functional.routing.window_gaussians import Density, Sums, WindowGaussians, alike, fixed, of_child
from encapkeras.functional.routing.window_pieces import Tensors
from encapkeras.functional.routing.window_positions import has_positions, route_positions
from encapkeras.functional.routing.window_votes import Pose, Side, WindowVotes, as_poses
from encapkeras.functional.torch_support.cholesky import cholesky
from encapkeras.functional.torch_support.digamma import digamma
from encapkeras.functional.torch_support.precision import full_precision

Covariance = Literal["diagonal", "full"]


def variational_bayes_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor,
    *,
    iterations: int = 3,
    covariance: Covariance = "diagonal",
    density_floor: float = 1e-11,
    competition: Competition = "child",
    offsets: torch.Tensor | None = None,
    parent_offsets: torch.Tensor | None = None,
    strides: Side = 1,
    padding: Side = 0,
    pose: Pose = "matrix",
    window: Side | None = None,
    coefficients: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Route capsules by variational Bayes: parents are Gaussians of the votes, with priors on all their parameters.

    With `w_ij = r_ij a_i`, `R_j = sum_i w_ij`, `kappa = alpha = 1 + R`, `nu = E + 1 + R` and the weighted mean mu of
    the votes, a parent has the mean `m = R mu / kappa` and the scatter `Psi = I + sum_i w_i (vote_i - mu)(vote_i -
    mu)^T + R / kappa mu mu^T`. Then `log p_ij = E[log pi_j] + E[log |Lambda_j|] / 2 - (E / kappa_j + nu_j (vote_ij -
    m_j)^T Psi_j^-1 (vote_ij - m_j) + E log(2 pi)) / 2`, and the new `r_ij = p_ij / max(density_floor, sum of p over
    all parents that child i feeds, of every type and position)` (De Sousa Ribeiro et al. 2020).

    Args:
        capsules: Children `(B, H, W, N, D)`.
        activations: Their activations `(B, H, W, N)`, at least 0.
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, X, C)` of matrix poses, or
            `(K_h, K_w, N, J, E, D)`. One for all offsets of a `window`: `(1, 1, N, J, ...)`. For each position of the
            parents: `(P, Q, K_h, K_w, N, J, ...)`, with competition `position` alone if there are several.
        iterations: Number T of iterations, from 1.
        covariance: `diagonal`: of Psi only the diagonal counts. `full`: all of it.
        density_floor: Children whose density is lower for all parents count less; 0 for none.
        competition: Which parents compete for a child. `child`: all parents that the child feeds, of every type and
            position, as published. `position`: the J types of one position, in each window of a child anew.
        offsets: Added to all votes from an offset of the window, `(K_h, K_w, E)`.
        parent_offsets: Added to all votes for a position, `(P, Q, E)`.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `matrix`: a vote is the matrix product `U W`. `vector`: `W u`.
        window: Rows and columns of the windows, those of the weight if not given; one number, or rows and columns.
        coefficients: Fixed r, `(K_h, K_w, N, J)`, whose sum over J is 1, in every window, in place of the routing's
            own: parents are fitted once. 1/J is what the first iteration has.

    Returns:
        Means m `(B, P, Q, J, E)`, and activations before any norm `(B, P, Q, J)`: `-exp(E[log pi]) (E log(2 pi e) -
        E[log |Lambda|]) / 2`.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The sizes do not match, or a window is larger than the map.

    Examples:
        >>> capsules, activations = torch.randn(2, 8, 8, 4, 16), torch.rand(2, 8, 8, 4)
        >>> means, out = variational_bayes_routing(capsules, activations, torch.randn(3, 3, 4, 10, 4, 4), strides=2)
        >>> means.shape, out.shape
        (torch.Size([2, 3, 3, 10, 16]), torch.Size([2, 3, 3, 10]))
    """
    check_iterations(iterations)
    check_competition(competition, by_position=has_positions(weight) and weight.shape[:2] != (1, 1))
    check_activations(activations, capsules)
    if covariance not in ("diagonal", "full"):
        raise ArgumentError(f"covariance must be 'diagonal' or 'full'; received {covariance!r}")
    if not 0 <= density_floor < math.inf:
        raise ArgumentError(f"density_floor must be a finite number of at least 0; received {density_floor!r}")
    if has_positions(weight):
        named: dict[str, Any] = {"iterations": iterations, "covariance": covariance, "density_floor": density_floor}
        own: dict[str, Any] = {"pose": pose, "window": window, "coefficients": coefficients, "offsets": offsets}
        route = functools.partial(_route_position, competition=competition, **named, **own)
        windows: dict[str, Any] = {"strides": strides, "padding": padding, "window": window}
        added = [] if parent_offsets is None else [parent_offsets.unsqueeze(0)]
        return route_positions(route, [capsules, activations], {"weight": weight}, added, **windows)
    with full_precision(capsules, weight) as wide:
        active_BHWN = wide(activations)
        made = WindowVotes(wide(capsules), wide(weight), strides, padding, pose, offsets=offsets, window=window)
        votes, posterior = (_FullVotes(made), _Full) if covariance == "full" else (WindowGaussians(made), _Diagonal)
        shift_BPQA1C = _shift(votes.votes, parent_offsets)
        with torch.no_grad():
            center_BPQAJC = votes.mean_alike(active_BHWN)
        if coefficients is None:
            sums = votes.sums(alike, [active_BHWN / votes.votes.outputs], center_BPQAJC)
        else:
            iterations, fixed_ONJ = 1, votes.votes.fixed(coefficients)
            sums = votes.sums(fixed, [active_BHWN], center_BPQAJC, weights=[fixed_ONJ])
        for iteration in range(iterations):
            found = posterior.fit(sums, center_BPQAJC + shift_BPQA1C)
            if iteration < iterations - 1:
                center_BPQAJC = found.mean_MAJC.detach() - shift_BPQA1C.detach()
                density = found.density()
                density = density._replace(mean_BPQAJC=density.mean_BPQAJC - shift_BPQA1C)
                sums = _expectation(votes, active_BHWN, center_BPQAJC, density, competition, density_floor)
        return as_poses(found.prior_mean_MAJC).to(capsules.dtype), found.scores().to(capsules.dtype)


def _route_position(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor,
    parent_offsets: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    own = None if parent_offsets is None else parent_offsets[0]
    return variational_bayes_routing(capsules, activations, weight, parent_offsets=own, **options)


def _shift(votes: WindowVotes, parent_offsets: torch.Tensor | None) -> torch.Tensor:
    """Return what is added to all votes for a position, `(1, P, Q, A, 1, C)`."""
    if parent_offsets is None:
        parent_offsets = votes.capsules.new_zeros(*votes.size, votes.dim)
    return votes.by_position("parent_offsets", parent_offsets, votes.size).unsqueeze(0)


def _expectation(
    votes: WindowGaussians,
    active_BHWN: torch.Tensor,
    center_BPQAJC: torch.Tensor,
    density: Density,
    competition: Competition,
    density_floor: float,
) -> Sums:
    floor = math.log(density_floor) if density_floor else -math.inf
    if competition == "position" or not votes.votes.windows.overlap(votes.votes.size):
        return votes.sums(functools.partial(_of_position, floor=floor), [active_BHWN], center_BPQAJC, density)
    logit_BPQONJ, total_BHWN = votes.rivals(density)
    return votes.sums(of_child, [active_BHWN, total_BHWN.clamp_min(floor)], center_BPQAJC, logit_BPQONJ)


def _of_position(logits: Tensors, children: Tensors, weights: Tensors, *, floor: float) -> torch.Tensor:
    total = logits[0].logsumexp(-1, keepdim=True).clamp_min(floor)
    return (logits[0] - total).exp() * children[0].unsqueeze(-1)


class _Diagonal(NamedTuple):
    """The posterior of the parents, whose covariance is diagonal."""

    amount_MJ: torch.Tensor
    mean_MAJC: torch.Tensor
    scatter: torch.Tensor  # Psi, or its Cholesky factor
    log_determinant_MJ: torch.Tensor  # of the inverse of Psi

    @classmethod
    def fit(cls, sums: Sums, center_MAJC: torch.Tensor) -> _Diagonal:
        amount_MJ, first_MAJC, second_MAJC = sums
        amount_M1J1 = amount_MJ[..., None, :, None]
        shift_MAJC = first_MAJC / amount_M1J1.clamp_min(torch.finfo(amount_MJ.dtype).tiny)
        mean_MAJC = center_MAJC + shift_MAJC
        around_MAJC = (second_MAJC - shift_MAJC * first_MAJC).clamp_min(0)
        psi_MAJC = 1 + around_MAJC + amount_M1J1 / (1 + amount_M1J1) * mean_MAJC * mean_MAJC
        return cls(amount_MJ, mean_MAJC, psi_MAJC, -psi_MAJC.log().sum((-3, -1)))

    @property
    def dim(self) -> int:
        return self.mean_MAJC.shape[-3] * self.mean_MAJC.shape[-1]

    @property
    def prior_mean_MAJC(self) -> torch.Tensor:
        """The mean `m = R mu / kappa`, drawn to 0 by the prior."""
        return self.mean_MAJC * (self.amount_MJ / (1 + self.amount_MJ))[..., None, :, None]

    def expectations(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `E[log pi]` and `E[log |Lambda|]`."""
        alpha_MJ, nu_MJ = 1 + self.amount_MJ, self.dim + 1 + self.amount_MJ
        log_share_MJ = digamma(alpha_MJ) - digamma(alpha_MJ.sum(-1, keepdim=True))
        degrees = torch.arange(self.dim, dtype=nu_MJ.dtype, device=nu_MJ.device)
        halves = digamma((nu_MJ.unsqueeze(-1) - degrees) / 2).sum(-1)
        return log_share_MJ, halves + self.dim * math.log(2) + self.log_determinant_MJ

    def scores(self) -> torch.Tensor:
        log_share_MJ, log_precision_MJ = self.expectations()
        return log_share_MJ.exp() * (log_precision_MJ - self.dim * math.log(2 * math.pi * math.e)) / 2

    def density(self) -> Density:
        log_share_MJ, log_precision_MJ = self.expectations()
        spread_MJ = self.dim / (1 + self.amount_MJ) + self.dim * math.log(2 * math.pi)
        constant_MJ = log_share_MJ + (log_precision_MJ - spread_MJ) / 2
        return Density(constant_MJ, self.prior_mean_MAJC, self.factor(self.dim + 1 + self.amount_MJ))

    def factor(self, nu_MJ: torch.Tensor) -> torch.Tensor:
        return -0.5 * nu_MJ[..., None, :, None] / self.scatter


class _Full(_Diagonal):
    """The posterior of the parents, whose covariance is full; `scatter` is its Cholesky factor."""

    @classmethod
    def fit(cls, sums: Sums, center_MAJC: torch.Tensor) -> _Full:
        amount_MJ, first_MAJC, second_MJEE = sums
        shift_MAJC = first_MAJC / amount_MJ[..., None, :, None].clamp_min(torch.finfo(amount_MJ.dtype).tiny)
        mean_MAJC = center_MAJC + shift_MAJC
        shift_MJE, mean_MJE = as_poses(shift_MAJC), as_poses(mean_MAJC)
        amount_MJ11 = amount_MJ[..., None, None]
        around_MJEE = second_MJEE - amount_MJ11 * _square(shift_MJE)
        identity_EE = torch.eye(mean_MJE.shape[-1], dtype=mean_MJE.dtype, device=mean_MJE.device)
        psi_MJEE = identity_EE + around_MJEE + amount_MJ11 / (1 + amount_MJ11) * _square(mean_MJE)
        factor_MJEE = cholesky(psi_MJEE)
        log_determinant_MJ = -2 * factor_MJEE.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return cls(amount_MJ, mean_MAJC, factor_MJEE, log_determinant_MJ)

    def factor(self, nu_MJ: torch.Tensor) -> torch.Tensor:
        identity_EE = torch.eye(self.dim, dtype=nu_MJ.dtype, device=nu_MJ.device).expand_as(self.scatter)
        inverse_MJEE: Any = torch.linalg.solve_triangular(self.scatter, identity_EE, upper=False)
        return inverse_MJEE * (nu_MJ / 2).sqrt()[..., None, None]  # type: ignore[no-any-return]


class _FullVotes(WindowGaussians):
    """Votes whose squares are matrices, and factors of distances Cholesky factors."""

    @staticmethod
    def weigh(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor) -> Tensors:
        away_nMJE = as_poses(vote_nMAJC - center_MAJC)
        weighted_nMJE = share_nMJ.unsqueeze(-1) * away_nMJE
        second_MJEE = torch.einsum("nmjd,nmje->mjde", weighted_nMJE, away_nMJE)
        first_MAJC = (share_nMJ[:, :, None, :, None] * (vote_nMAJC - center_MAJC)).sum(0)
        return share_nMJ.sum(0), first_MAJC, second_MJEE

    @staticmethod
    def away(vote_nMAJC: torch.Tensor, mean_MAJC: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        away_nMJE = as_poses(vote_nMAJC - mean_MAJC)
        return -torch.einsum("mjde,nmje->nmjd", factor, away_nMJE).square().sum(-1)


def _square(vector_MJE: torch.Tensor) -> torch.Tensor:
    return vector_MJE.unsqueeze(-1) * vector_MJE.unsqueeze(-2)
