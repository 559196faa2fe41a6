"""EM routing in windows (Hinton et al. 2018; Gritzman 2019; with options for the variant of Hahn et al. 2019).

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, J parent types, A rows and C
columns of a pose; n a piece of the children, M of the parents' positions.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import (
    Competition,
    check_activations,
    check_competition,
    check_iterations,
)
from encapkeras.functional.routing.window_gaussians import (
    Density,
    Gaussian,
    Sums,
    WindowGaussians,
    alike,
    fixed,
    gaussian,
    of_child,
    of_position,
    sums_about_mean,
)
from encapkeras.functional.routing.window_positions import has_positions, route_positions
from encapkeras.functional.routing.window_votes import Pose, Side, WindowVotes, as_poses
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
    strides: Side = 1,
    padding: Side = 0,
    pose: Pose = "matrix",
    window: Side | None = None,
    coefficients: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    count: torch.Tensor | None = None,
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
            C)` of matrix poses. One for all offsets of a `window`: `(1, 1, N, J, ...)`. For each position of the
            parents: `(P, Q, K_h, K_w, N, J, ...)`, with competition `position` alone if there are several.
        beta_v: Cost of one component of a parent of type j, `(J,)`.
        beta_a: What the cost is compared with, `(J,)`.
        iterations: Number T of iterations, from 1.
        competition: Which parents compete for a child. `child`: all parents that the child feeds, of every type and
            position (Hinton et al. 2018). `position`: the J types of one position, in each window of a child anew.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.
        window: Rows and columns of the windows, those of the weight if not given; one number, or rows and columns.
        coefficients: Fixed R, `(K_h, K_w, N, J)`, whose sum over J is 1, in place of the E-step: there is one M-step,
            with the last iteration's lambda. With competition `child` each is divided by the number of windows that
            hold the child.
        offsets: Added to all votes from an offset of the window, `(K_h, K_w, E)`: such as the coordinates of a child.
        count: Number of real children of each sample, `(B,)`, where the others are padding, with activation 0: what
            `normalize_cost` divides by.
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
    check_competition(competition, by_position=has_positions(weight) and weight.shape[:2] != (1, 1))
    check_activations(activations, capsules)
    _check_options(options)
    if has_positions(weight):
        named: dict[str, Any] = {"iterations": iterations, "competition": competition, "pose": pose, "options": options}
        own: dict[str, Any] = {"window": window, "coefficients": coefficients, "offsets": offsets, "count": count}
        route = functools.partial(window_em_routing, beta_v=beta_v, beta_a=beta_a, **named, **own)
        windows: dict[str, Any] = {"strides": strides, "padding": padding, "window": window}
        return route_positions(route, [capsules, activations], {"weight": weight}, **windows)
    with full_precision(capsules, weight) as wide:
        active_BHWN, betas = wide(activations), (wide(beta_v), wide(beta_a))
        made = WindowVotes(wide(capsules), wide(weight), strides, padding, pose, offsets=offsets, window=window)
        votes = WindowGaussians(made)
        _check_betas(votes.votes.outputs, beta_v=beta_v, beta_a=beta_a)
        steps = range(iterations)
        if coefficients is None:
            center_BPQAJC, sums = _first_sums(votes, active_BHWN, competition, options)
        else:
            steps = steps[-1:]
            center_BPQAJC, sums = _fixed_sums(votes, active_BHWN, competition, coefficients)
        for iteration in steps:
            found = gaussian(sums, center_BPQAJC, options.epsilon)
            found = found._replace(variance_MAJC=found.variance_MAJC + options.epsilon)
            chance_BPQJ, log_deviation_BPQJ = _chance(
                votes.votes, found, sums.amount_MJ, betas, iteration, options, count
            )
            if iteration < steps[-1]:
                prior_BPQJ = _log_sigmoid(chance_BPQJ, options.activation_floor) - log_deviation_BPQJ
                density = Density(prior_BPQJ, found.mean_MAJC, -0.5 / found.variance_MAJC)
                center_BPQAJC, sums = _expectation(votes, active_BHWN, density, competition, options.fillers)
        return as_poses(found.mean_MAJC).to(capsules.dtype), chance_BPQJ.sigmoid().to(capsules.dtype)


def _first_sums(
    votes: WindowGaussians, active_BHWN: torch.Tensor, competition: Competition, options: EmOptions
) -> tuple[torch.Tensor, Sums]:
    """Return the sums of the first iteration, about the mean of the votes, and that mean."""
    outputs, share_BHWN = votes.votes.outputs, active_BHWN
    if options.initial == "uniform" and competition == "position":
        share_BHWN = active_BHWN / (outputs + options.epsilon)
    elif options.initial == "uniform":
        share_BHWN = active_BHWN / ((votes.votes.parents_of_child() * outputs).clamp_min(1) + options.epsilon)
    with torch.no_grad():
        center_BPQAJC = votes.mean_alike(share_BHWN)
    return center_BPQAJC, votes.sums(alike, [share_BHWN], center_BPQAJC)


def _fixed_sums(
    votes: WindowGaussians, active_BHWN: torch.Tensor, competition: Competition, coefficients: torch.Tensor
) -> tuple[torch.Tensor, Sums]:
    """Return the sums by fixed coefficients, about the mean of the votes, and that mean."""
    weights = [votes.votes.fixed(coefficients)]
    if competition == "child":
        active_BHWN = active_BHWN / votes.votes.parents_of_child().clamp_min(1)
    return sums_about_mean(votes, fixed, [active_BHWN], weights=weights)


def _chance(
    votes: WindowVotes,
    found: Gaussian,
    amount_BPQJ: torch.Tensor,
    betas: tuple[torch.Tensor, torch.Tensor],
    iteration: int,
    options: EmOptions,
    count: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the activations, and the sums of the log deviations."""
    log_deviation_BPQJ = found.variance_MAJC.log().sum((-3, -1)) / 2
    cost_BPQJ = (votes.dim * betas[0] + log_deviation_BPQJ) * amount_BPQJ
    if options.normalize_cost:
        children: int | torch.Tensor = votes.windows.count * votes.capsules.shape[3]
        if count is not None:
            children = count.clamp_min(1).to(cost_BPQJ)[:, None, None, None]
        cost_BPQJ = cost_BPQJ * (100 * votes.outputs / children)
    inverse_temperature = options.final_lambda * (1 - 0.95 ** (iteration + 1))
    return inverse_temperature * (betas[1] - cost_BPQJ), log_deviation_BPQJ


def _log_sigmoid(chance: torch.Tensor, floor: float) -> torch.Tensor:
    return (chance.sigmoid() + floor).log() if floor else F.logsigmoid(chance)


def _expectation(
    votes: WindowGaussians, active_BHWN: torch.Tensor, density: Density, competition: Competition, fillers: bool
) -> tuple[torch.Tensor, Sums]:
    """Run the E-step, and return the sums of the next M-step about the mean of the votes, and that mean."""
    if competition == "position" or not (fillers or votes.votes.windows.overlap(votes.votes.size)):
        return sums_about_mean(votes, of_position, [active_BHWN], density)
    logit_BPQONJ, total_BHWN = votes.rivals(density)
    if fillers:
        total_BHWN = _with_fillers(votes.votes, total_BHWN, logit_BPQONJ)
    return sums_about_mean(votes, of_child, [active_BHWN, total_BHWN], logit_BPQONJ)


def _with_fillers(windows: WindowVotes, total_BHWN: torch.Tensor, logit_BPQONJ: torch.Tensor) -> torch.Tensor:
    least_BPQON = logit_BPQONJ.amin(5)
    constant = windows.dim * math.log(2 * math.pi) / 2  # which the densities here lack
    filler = (least_BPQON.where(windows.exist(), math.inf).amin() - constant).clamp_max(-100.0) + constant
    unconnected_1HW1 = (math.prod(windows.size) - windows.parents_of_child()) * windows.outputs
    return torch.logaddexp(total_BHWN, filler + unconnected_1HW1.log())


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
