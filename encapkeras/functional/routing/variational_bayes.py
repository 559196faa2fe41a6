"""Variational-Bayes routing (De Sousa Ribeiro, Leontidis and Kollias 2020).

Shape suffixes: B batch, P Q map of the parents, J parent types, E their dimension, A rows and C columns of a pose, O
window offsets; n a piece of the children, M of the parents' positions.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional.routing.routing_inputs import check_activations, check_iterations
from encapkeras.functional.routing.window_gaussians import weighted_sums
from encapkeras.functional.routing.window_votes import Pose, WindowVotes, as_poses, distance
from encapkeras.functional.routing.windows import Tensors
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
    offsets: torch.Tensor | None = None,
    parent_offsets: torch.Tensor | None = None,
    strides: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    pose: Pose = "matrix",
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
            `(K_h, K_w, N, J, E, D)`.
        iterations: Number T of iterations, from 1.
        covariance: `diagonal`: of Psi only the diagonal counts. `full`: all of it.
        density_floor: Children whose density is lower for all parents count less; 0 for none.
        offsets: Added to all votes from an offset of the window, `(K_h, K_w, E)`.
        parent_offsets: Added to all votes for a position, `(P, Q, E)`.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `matrix`: a vote is the matrix product `U W`. `vector`: `W u`.

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
    check_activations(activations, capsules)
    if covariance not in ("diagonal", "full"):
        raise ArgumentError(f"covariance must be 'diagonal' or 'full'; received {covariance!r}")
    if not 0 <= density_floor < math.inf:
        raise ArgumentError(f"density_floor must be a finite number of at least 0; received {density_floor!r}")
    posterior: type[_Diagonal] = _Full if covariance == "full" else _Diagonal
    with full_precision(capsules, weight) as wide:
        votes = WindowVotes(wide(capsules), wide(weight), strides, padding, pose, offsets=offsets)
        if parent_offsets is None:
            parent_offsets = votes.capsules.new_zeros(*votes.size, votes.dim)
        shift_PQA1C = votes.by_position("parent_offsets", parent_offsets, votes.size)
        shift_BPQA1C = shift_PQA1C.expand(len(capsules), -1, -1, -1, -1, -1)
        center_BPQAJC = shift_BPQA1C.expand(-1, -1, -1, -1, votes.outputs, -1)
        active_BHWN = wide(activations)
        sums = votes.sum(posterior.first, [active_BHWN], parents=[shift_BPQA1C, center_BPQAJC])
        for iteration in range(iterations):
            found = posterior.fit(sums, center_BPQAJC)
            if iteration < iterations - 1:
                center_BPQAJC = found.mean_MAJC.detach()
                parents = [shift_BPQA1C, center_BPQAJC, *found.density()]
                total_BHWN = votes.log_total(posterior.log_density, parents)
                if density_floor:
                    total_BHWN = total_BHWN.clamp_min(math.log(density_floor))
                sums = votes.sum(posterior.expect, [active_BHWN, total_BHWN], parents=parents)
        return as_poses(found.prior_mean_MAJC).to(capsules.dtype), found.scores().to(capsules.dtype)


class _Diagonal(NamedTuple):
    """The posterior of the parents, whose covariance is diagonal."""

    amount_MJ: torch.Tensor
    mean_MAJC: torch.Tensor
    scatter: torch.Tensor  # Psi, or its Cholesky factor
    log_determinant_MJ: torch.Tensor  # of the inverse of Psi

    @classmethod
    def fit(cls, sums: Tensors, center_MAJC: torch.Tensor) -> _Diagonal:
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

    def density(self) -> list[torch.Tensor]:
        """Return what densities need: a constant, the mean, and the factor of squared distances."""
        log_share_MJ, log_precision_MJ = self.expectations()
        spread_MJ = self.dim / (1 + self.amount_MJ) + self.dim * math.log(2 * math.pi)
        constant_MJ = log_share_MJ + (log_precision_MJ - spread_MJ) / 2
        return [constant_MJ, self.prior_mean_MAJC, self.factor(self.dim + 1 + self.amount_MJ)]

    def factor(self, nu_MJ: torch.Tensor) -> torch.Tensor:
        return -0.5 * nu_MJ[..., None, :, None] / self.scatter

    @staticmethod
    def sums(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor) -> Tensors:
        return weighted_sums(share_nMJ, vote_nMAJC, center_MAJC)

    @staticmethod
    def away(vote_nMAJC: torch.Tensor, mean_MAJC: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return distance(vote_nMAJC, mean_MAJC, factor)

    @classmethod
    def first(cls, vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
        share_nMJ = (children[1] / vote_nMAJC.shape[3]).unsqueeze(2).expand(-1, -1, vote_nMAJC.shape[3])
        return cls.sums(share_nMJ, vote_nMAJC + parents[0], parents[1])

    @classmethod
    def log_density(cls, vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
        constant_MJ, mean_MAJC, factor = parents[2:]
        return (constant_MJ + cls.away(vote_nMAJC + parents[0], mean_MAJC, factor),)

    @classmethod
    def expect(cls, vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
        (logit_nMJ,) = cls.log_density(vote_nMAJC, children, weights, parents)
        share_nMJ = (logit_nMJ - children[2].unsqueeze(2)).exp() * children[1].unsqueeze(2)
        return cls.sums(share_nMJ, vote_nMAJC + parents[0], parents[1])


class _Full(_Diagonal):
    """The posterior of the parents, whose covariance is full; `scatter` is its Cholesky factor."""

    @classmethod
    def fit(cls, sums: Tensors, center_MAJC: torch.Tensor) -> _Full:
        amount_MJ, first_MAJC, second_MJEE = sums
        shift_MAJC = first_MAJC / amount_MJ[..., None, :, None].clamp_min(torch.finfo(amount_MJ.dtype).tiny)
        mean_MAJC = center_MAJC + shift_MAJC
        shift_MJE, mean_MJE = as_poses(shift_MAJC), as_poses(mean_MAJC)
        amount_MJ11 = amount_MJ[..., None, None]
        around_MJEE = second_MJEE - amount_MJ11 * _square(shift_MJE)
        identity_EE = torch.eye(mean_MJE.shape[-1], dtype=mean_MJE.dtype, device=mean_MJE.device)
        psi_MJEE = identity_EE + around_MJEE + amount_MJ11 / (1 + amount_MJ11) * _square(mean_MJE)
        factor_MJEE = torch.linalg.cholesky(psi_MJEE)
        log_determinant_MJ = -2 * factor_MJEE.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return cls(amount_MJ, mean_MAJC, factor_MJEE, log_determinant_MJ)

    def factor(self, nu_MJ: torch.Tensor) -> torch.Tensor:
        identity_EE = torch.eye(self.dim, dtype=nu_MJ.dtype, device=nu_MJ.device).expand_as(self.scatter)
        inverse_MJEE: Any = torch.linalg.solve_triangular(self.scatter, identity_EE, upper=False)
        return inverse_MJEE * (nu_MJ / 2).sqrt()[..., None, None]  # type: ignore[no-any-return]

    @staticmethod
    def sums(share_nMJ: torch.Tensor, vote_nMAJC: torch.Tensor, center_MAJC: torch.Tensor) -> Tensors:
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
