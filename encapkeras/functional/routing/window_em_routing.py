"""EM routing in windows (Hinton et al. 2018; Gritzman 2019; with options for the variant of Hahn et al. 2019).

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, J parent types, A rows and C
columns of a pose; n a piece of the children, M of the parents' positions.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import (
    Competition,
    check_activations,
    check_competition,
    check_iterations,
)
from encapkeras.functional.routing.window_gaussians import Gaussian, Sums, gaussian, weighted_sums
from encapkeras.functional.routing.window_votes import Pose, WindowVotes, as_poses, distance
from encapkeras.functional.routing.windows import Tensors
from encapkeras.functional.torch_support.precision import full_precision


class EmOptions(NamedTuple):
    """Details in which published variants of EM routing differ.

    Attributes:
        final_lambda: Inverse temperature that the iterations approach: `lambda_t = final_lambda (1 - 0.95^t)`.
        epsilon: Added to the sums of weights, to the variances and to what `uniform` shares divide by.
        activation_floor: Added to the parents' activations in the E-step.
        normalize_cost: Whether costs are multiplied by `100 J / I`, so that they do not grow with the number I of
            children (Gritzman 2019).
        initial: Coefficients of the first iteration: `uniform`, equal shares that sum to 1; or `one`.
        fillers: With competition `child`: whether parents that a child does not feed stay in its softmax with the
            smallest log density of the batch, at most -100, as in Gritzman's code. Not recommended: a sample then
            depends on its batch.
    """

    final_lambda: float = 0.01
    epsilon: float = 1e-9
    activation_floor: float = 1e-9
    normalize_cost: bool = True
    initial: Literal["uniform", "one"] = "uniform"
    fillers: bool = False


_DEFAULTS = EmOptions()


def window_em_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor,
    beta_v: torch.Tensor,
    beta_a: torch.Tensor,
    *,
    iterations: int = 3,
    competition: Competition = "child",
    strides: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    pose: Pose = "matrix",
    offsets: torch.Tensor | None = None,
    options: EmOptions = _DEFAULTS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Route capsules by EM, each parent with the children in its window: parents are Gaussians of the votes.

    M-step, with `w_ij = R_ij a_i`: mean `mu_j` and variance `var_j` of the votes weighted by `w_ij / (sum_i w_ij +
    epsilon)`, `cost_j = sum_i w_ij sum_e (beta_v_j + log(var_je) / 2)` and `a_j = sigmoid(lambda_t (beta_a_j -
    cost_j))`. E-step, but for the last iteration: `R = softmax over parents of (log a_j - sum_e ((vote_ije - mu_je)^2 /
    var_je + log var_je) / 2)` (Hinton et al. 2018; Gritzman 2019).

    Args:
        capsules: Children `(B, H, W, N, D)`.
        activations: Their activations `(B, H, W, N)`, at least 0.
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, E, D)`, or `(K_h, K_w, N, J, X,
            C)` of matrix poses.
        beta_v: Cost of one component of a parent of type j, `(J,)`.
        beta_a: What the cost is compared with, `(J,)`.
        iterations: Number T of iterations, from 1.
        competition: Which parents compete for a child. `child`: all parents that the child feeds, of every type and
            position (Hinton et al. 2018). `position`: the J types of one position, in each window of a child anew.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.
        offsets: Added to all votes from an offset of the window, `(K_h, K_w, E)`: such as the coordinates of a child.
        options: Details in which published variants differ.

    Returns:
        Means `(B, P, Q, J, E)` and activations `(B, P, Q, J)`.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The sizes do not match, or a window is larger than the map.

    Examples:
        >>> capsules, activations = torch.randn(2, 8, 8, 4, 16), torch.rand(2, 8, 8, 4)
        >>> weight, beta = torch.randn(3, 3, 4, 10, 4, 4), torch.zeros(10)
        >>> means, out = window_em_routing(capsules, activations, weight, beta, beta, strides=2)
        >>> means.shape, out.shape
        (torch.Size([2, 3, 3, 10, 16]), torch.Size([2, 3, 3, 10]))
    """
    check_iterations(iterations)
    check_competition(competition)
    check_activations(activations, capsules)
    _check_options(options)
    with full_precision(capsules, weight) as wide:
        votes = WindowVotes(wide(capsules), wide(weight), strides, padding, pose, offsets=offsets)
        _check_betas(votes.outputs, beta_v=beta_v, beta_a=beta_a)
        active_BHWN, betas = wide(activations), (wide(beta_v), wide(beta_a))
        center_BPQAJC, sums = _first_sums(votes, active_BHWN, _first_shares(votes, competition, options))
        for iteration in range(iterations):
            found = gaussian(sums, center_BPQAJC, options.epsilon)
            found = found._replace(variance_MAJC=found.variance_MAJC + options.epsilon)
            chance_BPQJ, log_deviation_BPQJ = _chance(votes, found, sums.amount_MJ, betas, iteration, options)
            if iteration < iterations - 1:
                prior_BPQJ = _log_sigmoid(chance_BPQJ, options.activation_floor) - log_deviation_BPQJ
                parents = [prior_BPQJ, found.mean_MAJC, -0.5 / found.variance_MAJC]
                center_BPQAJC, sums = _expectation(votes, active_BHWN, parents, competition, options.fillers)
        return as_poses(found.mean_MAJC).to(capsules.dtype), chance_BPQJ.sigmoid().to(capsules.dtype)


def _first_shares(votes: WindowVotes, competition: Competition, options: EmOptions) -> torch.Tensor:
    """Return the coefficients of the first iteration `(1, H, W, 1)`."""
    if options.initial == "one":
        return torch.ones_like(votes.capsules[:1, :, :, :1, 0])
    if competition == "position":
        return torch.full_like(votes.capsules[:1, :, :, :1, 0], 1 / (votes.outputs + options.epsilon))
    return 1 / ((votes.parents_of_child() * votes.outputs).clamp_min(1) + options.epsilon)


def _first_sums(votes: WindowVotes, active_BHWN: torch.Tensor, share_1HW1: torch.Tensor) -> tuple[torch.Tensor, Sums]:
    """Return the sums of the first iteration, about the mean of the votes, and that mean."""
    share_BHWN = active_BHWN * share_1HW1
    with torch.no_grad():
        total_BPQAJC = votes.sum_alike(share_BHWN)
        amount_BPQ = votes.windows.sums(share_BHWN.sum(3))
        center_BPQAJC = total_BPQAJC / amount_BPQ[..., None, None, None].clamp_min(torch.finfo(amount_BPQ.dtype).tiny)
    sums = votes.sum(_alike, [share_BHWN], parents=[center_BPQAJC])
    return center_BPQAJC, Sums(*sums)


def _chance(
    votes: WindowVotes,
    found: Gaussian,
    amount_BPQJ: torch.Tensor,
    betas: tuple[torch.Tensor, torch.Tensor],
    iteration: int,
    options: EmOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the activations, and the sums of the log deviations."""
    log_deviation_BPQJ = found.variance_MAJC.log().sum((-3, -1)) / 2
    cost_BPQJ = (votes.dim * betas[0] + log_deviation_BPQJ) * amount_BPQJ
    if options.normalize_cost:
        cost_BPQJ = cost_BPQJ * (100 * votes.outputs / (votes.windows.count * votes.capsules.shape[3]))
    inverse_temperature = options.final_lambda * (1 - 0.95 ** (iteration + 1))
    return inverse_temperature * (betas[1] - cost_BPQJ), log_deviation_BPQJ


def _log_sigmoid(chance: torch.Tensor, floor: float) -> torch.Tensor:
    return (chance.sigmoid() + floor).log() if floor else F.logsigmoid(chance)


def _expectation(
    votes: WindowVotes,
    active_BHWN: torch.Tensor,
    parents: list[torch.Tensor],
    competition: Competition,
    fillers: bool,
) -> tuple[torch.Tensor, Sums]:
    """Run the E-step, and return the sums of the next M-step about the mean of the votes, and that mean.

    About the mean before, variances lose the digits that shares decide: in float32 all, if a parent gets one child.
    """
    expect, children = _expect_of_position, [active_BHWN]
    if competition == "child":
        total_BHWN = votes.log_total(_log_density, parents)
        if fillers:
            total_BHWN = _with_fillers(votes, total_BHWN, parents)
        expect, children = _expect_of_child, [active_BHWN, total_BHWN]
    center_BPQAJC = parents[1].detach()
    with torch.no_grad():
        sums = Sums(*votes.sum(expect, children, parents=[*parents, center_BPQAJC]))
        center_BPQAJC = gaussian(sums, center_BPQAJC, torch.finfo(center_BPQAJC.dtype).tiny).mean_MAJC
    return center_BPQAJC, Sums(*votes.sum(expect, children, parents=[*parents, center_BPQAJC]))


def _with_fillers(votes: WindowVotes, total_BHWN: torch.Tensor, parents: list[torch.Tensor]) -> torch.Tensor:
    (least_BPQON,) = votes.each(_least, parents)
    constant = votes.dim * math.log(2 * math.pi) / 2  # which the densities here lack
    filler = (least_BPQON.where(votes.exist(), math.inf).amin() - constant).clamp_max(-100.0) + constant
    unconnected_1HW1 = (math.prod(votes.size) - votes.parents_of_child()) * votes.outputs
    return torch.logaddexp(total_BHWN, filler + unconnected_1HW1.log())


def _alike(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    share_nMJ = children[1].unsqueeze(2).expand(-1, -1, vote_nMAJC.shape[3])
    return weighted_sums(share_nMJ, vote_nMAJC, parents[0])


def _log_density(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    """Return `log a_j` and the log density, up to a constant."""
    prior_MJ, mean_MAJC, factor_MAJC = parents[:3]
    return (prior_MJ + distance(vote_nMAJC, mean_MAJC, factor_MAJC),)


def _least(*arguments: torch.Tensor | Tensors) -> Tensors:
    return (_log_density(*arguments)[0].amin(2),)  # type: ignore[arg-type]


def _expect_of_position(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    (logit_nMJ,) = _log_density(vote_nMAJC, children, weights, parents)
    return weighted_sums(logit_nMJ.softmax(2) * children[1].unsqueeze(2), vote_nMAJC, parents[3])


def _expect_of_child(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    (logit_nMJ,) = _log_density(vote_nMAJC, children, weights, parents)
    share_nMJ = (logit_nMJ - children[2].unsqueeze(2)).exp() * children[1].unsqueeze(2)
    return weighted_sums(share_nMJ, vote_nMAJC, parents[3])


def _check_betas(outputs: int, **betas: torch.Tensor) -> None:
    for name, beta in betas.items():
        if tuple(beta.shape) != (outputs,):
            raise ShapeError(
                f"{name} must be ({outputs},), one number for each parent type; received {tuple(beta.shape)}"
            )


def _check_options(options: EmOptions) -> None:
    for name in ("final_lambda", "epsilon"):
        if not 0 < getattr(options, name) < math.inf:
            raise ArgumentError(f"{name} must be a finite number above 0; received {getattr(options, name)!r}")
    if not 0 <= options.activation_floor < math.inf:
        raise ArgumentError(
            f"activation_floor must be a finite number of at least 0; received {options.activation_floor!r}"
        )
    if options.initial not in ("uniform", "one"):
        raise ArgumentError(f"initial must be 'uniform' or 'one'; received {options.initial!r}")
