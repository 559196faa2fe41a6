"""Dynamic routing in windows (Sabour et al. 2017, as Hahn et al. 2019 use it in convolutions).

Shape suffixes: B batch, P Q map of the parents, J parent types, E their dimension, A rows and C columns of a pose; n a
piece of the children, M of the parents' positions.
"""

from __future__ import annotations

import torch

from encapkeras.functional.routing.inverted_attention import attend
from encapkeras.functional.routing.routing_inputs import Competition, check_competition, check_iterations
from encapkeras.functional.routing.window_votes import Pose, WindowVotes, agreement, as_poses, gather
from encapkeras.functional.routing.windows import Tensors
from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.precision import full_precision


def window_dynamic_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    *,
    iterations: int = 3,
    competition: Competition = "position",
    strides: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    pose: Pose = "vector",
) -> torch.Tensor:
    """Route capsules by agreement, each parent with the children in its window.

    Logits start at 0; T times: `c = softmax(logits)`, `s_j = sum_i c_ij vote_ij`, `v_j = squash(s_j)`, and between the
    iterations `logits_ij += vote_ij . v_j` (Sabour et al. 2017, procedure 1). The softmax goes over parents.

    Args:
        capsules: Children `(B, H, W, N, D)`.
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, E, D)`, or `(K_h, K_w, N, J, X,
            C)` of matrix poses.
        iterations: Number T of iterations, from 1.
        competition: Which parents compete for a child. `position`: the J types of one position, in each window of a
            child anew. `child`: all parents that the child feeds, of every type and position.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.

    Returns:
        Parents `(B, P, Q, J, E)`, of lengths below 1.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The sizes do not match, or a window is larger than the map.

    Examples:
        >>> capsules, weight = torch.randn(2, 8, 8, 4, 16), torch.randn(3, 3, 4, 10, 16, 16)
        >>> window_dynamic_routing(capsules, weight, strides=2, padding=1).shape
        torch.Size([2, 4, 4, 10, 16])
    """
    check_iterations(iterations)
    check_competition(competition)
    with full_precision(capsules, weight) as wide:
        votes = WindowVotes(wide(capsules), wide(weight), strides, padding, pose)
        children = [1 / votes.parents_of_child()] if competition == "child" else []
        share = children[0].expand(votes.capsules.shape[:4]) if children else None
        out_BPQJE = squash(as_poses(votes.sum_alike(share) / votes.outputs))
        agreed_BPQJE = out_BPQJE
        for _ in range(iterations - 1):
            parents = [votes.by_rows(agreed_BPQJE)]
            if competition == "child":
                total_BHWN = votes.log_total(_agreement, parents)
                (sum_BPQAJC,) = votes.sum(_compete, [total_BHWN], parents=parents)
            else:
                (sum_BPQAJC,) = votes.sum(attend, parents=parents)
            out_BPQJE = squash(as_poses(sum_BPQAJC))
            agreed_BPQJE = agreed_BPQJE + out_BPQJE
        return out_BPQJE.to(capsules.dtype)


def _agreement(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    return (agreement(vote_nMAJC, parents[0]),)


def _compete(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    logit_nMJ = agreement(vote_nMAJC, parents[0]) - children[1].unsqueeze(2)
    return (gather(logit_nMJ.exp(), vote_nMAJC),)
