"""Dynamic routing in windows (Sabour et al. 2017, as Hahn et al. 2019 use it in convolutions).

Shape suffixes: B batch, H W map of the children, P Q map of the parents, N child types, J parent types, E their
dimension, A rows and C columns of a pose.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from encapkeras.functional.routing.routing_inputs import (
    Competition,
    check_competition,
    check_iterations,
    check_window_bias,
)
from encapkeras.functional.routing.type_votes import votes_of
from encapkeras.functional.routing.window_positions import has_positions, route_positions
from encapkeras.functional.routing.window_votes import Pose, Side, as_poses
from encapkeras.functional.squash import SquashOptions, squash
from encapkeras.functional.torch_support.precision import full_precision

_PAPER = SquashOptions()


def window_dynamic_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    *,
    iterations: int = 3,
    competition: Competition = "position",
    strides: Side = 1,
    padding: Side = 0,
    pose: Pose = "vector",
    window: Side | None = None,
    coefficients: torch.Tensor | None = None,
    output_bias: torch.Tensor | None = None,
    squash_options: SquashOptions = _PAPER,
) -> torch.Tensor:
    """Route capsules by agreement, each parent with the children in its window.

    Logits start at 0; T times: `c = softmax(logits)`, `s_j = sum_i c_ij vote_ij`, `v_j = squash(s_j)`, and between the
    iterations `logits_ij += vote_ij . v_j` (Sabour et al. 2017, procedure 1). The softmax goes over parents. With
    `output_bias`, `v_j = squash(s_j + output_bias_j)` in each iteration: without one, the routing is an odd function of
    the children, and cannot distinguish them from their negatives (Peer et al. 2021, arXiv:1905.08744).

    Args:
        capsules: Children `(B, H, W, N, D)`.
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, E, D)`, or `(K_h, K_w, N, J, X,
            C)` of matrix poses. One for all offsets of a `window`: `(1, 1, N, J, ...)`, and for all types too: `(1, 1,
            1, J, ...)`; with one iteration the children are then summed before they are mapped. For each position of
            the parents: `(P, Q, K_h, K_w, N, J, ...)`, with competition `position` alone.
        iterations: Number T of iterations, from 1.
        competition: Which parents compete for a child. `position`: the J types of one position, in each window of a
            child anew. `child`: all parents that the child feeds, of every type and position.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.
        window: Rows and columns of the windows, those of the weight if not given; one number, or rows and columns.
        coefficients: Fixed c, `(K_h, K_w, N, J)`, whose sum over J is 1, in place of the softmax: there is one pass.
            With competition `child` each is divided by the number of windows that hold the child.
        output_bias: Added to the sums of votes of each parent, `(J, E)`.
        squash_options: The squash of each iteration, as `squash` takes it.

    Returns:
        Parents `(B, P, Q, J, E)`, of lengths below 1.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The sizes do not match, or a window is larger than the map.

    Examples:
        >>> capsules, weight = torch.randn(2, 8, 8, 4, 16), torch.randn(3, 3, 4, 10, 16, 16)
        >>> window_dynamic_routing(capsules, weight, strides=2, padding=1).shape
        torch.Size([2, 4, 4, 10, 16])

        One matrix per type for the whole window; and the control without routing:

        >>> window_dynamic_routing(capsules, weight[:1, :1], window=3).shape
        torch.Size([2, 6, 6, 10, 16])
        >>> window_dynamic_routing(capsules, weight, coefficients=torch.full((3, 3, 4, 10), 1 / 10)).shape
        torch.Size([2, 6, 6, 10, 16])
    """
    check_iterations(iterations)
    check_competition(competition, by_position=has_positions(weight))
    if has_positions(weight):
        route = functools.partial(
            window_dynamic_routing,
            iterations=iterations,
            pose=pose,
            window=window,
            coefficients=coefficients,
            output_bias=output_bias,
            squash_options=squash_options,
        )
        windows: dict[str, Any] = {"strides": strides, "padding": padding, "window": window}
        return route_positions(route, [capsules], {"weight": weight}, **windows)
    with full_precision(capsules, weight) as wide:
        child_BHWND, matrices = wide(capsules), wide(weight)
        if weight.dim() == 6 and weight.shape[2] == 1 < capsules.shape[3]:
            alike = iterations == 1 and coefficients is None
            if alike:
                child_BHWND = child_BHWND.sum(3, keepdim=True)  # one matrix for all, which maps their sum
            else:
                matrices = matrices.expand(-1, -1, capsules.shape[3], -1, -1, -1)
        votes = votes_of(child_BHWND, matrices, strides, padding, pose, window)
        check_window_bias(output_bias, (votes.outputs, votes.dim))
        added_JE = 0 if output_bias is None else wide(output_bias)

        def squashed(sum_BPQAJC: torch.Tensor) -> torch.Tensor:
            return squash(as_poses(sum_BPQAJC) + added_JE, **squash_options._asdict())

        share_BHWN = None
        if competition == "child":
            share_BHWN = (1 / votes.parents_of_child()).expand(votes.capsules.shape[:4])
        if coefficients is not None:
            return squashed(votes.sum_alike(share_BHWN, coefficients)).to(capsules.dtype)
        out_BPQJE = squashed(votes.sum_alike(share_BHWN) / votes.outputs)
        agreed_BPQJE = out_BPQJE
        for _ in range(iterations - 1):
            out_BPQJE = squashed(votes.attend(votes.by_rows(agreed_BPQJE), competition))
            agreed_BPQJE = agreed_BPQJE + out_BPQJE
        return out_BPQJE.to(capsules.dtype)
