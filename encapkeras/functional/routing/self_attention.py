"""Self-attention routing (Mazzia, Salvetti and Chiaberge 2021): what agrees with the mean of the votes counts more.

One pass, without iterations: the query of a parent is the sum of all its votes. Where each child has its own matrices
and there is one parent position, votes exist in pieces of the children: see `own_matrices`.

Shape suffixes: B batch, H W map of the children, O window offsets, N child types, D their dimension, P Q map of the
parents, J parent types, E their dimension; M samples, I = O * N children of a parent.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from encapkeras.errors import ShapeError
from encapkeras.functional.routing.own_matrices import attend, attend_backward, sum_alike, vote_gradients
from encapkeras.functional.routing.routing_inputs import check_coefficients
from encapkeras.functional.routing.type_votes import TypeVotes, votes_of
from encapkeras.functional.routing.window_positions import has_positions, route_positions
from encapkeras.functional.routing.window_votes import Pose, Side, WindowVotes, as_poses
from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.fake_tensors import is_traced
from encapkeras.functional.torch_support.plain_gradients import plain_gradients
from encapkeras.functional.torch_support.precision import full_precision


def self_attention_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    strides: Side = 1,
    padding: Side = 0,
    pose: Pose = "vector",
    window: Side | None = None,
    coefficients: torch.Tensor | None = None,
) -> torch.Tensor:
    """Route capsules in one pass, by how well each vote agrees with the sum of all votes for the same parent.

    `m_j = sum_i vote_ij`, `c_i = softmax over the parents j of (vote_ij . m_j / sqrt(E))`, `s_j = sum_i (c_ij +
    bias_ij) vote_ij`, and the parent is `(1 - exp(-|s_j|)) s_j / |s_j|` (Mazzia, Salvetti and Chiaberge 2021,
    arXiv:2101.12491, with the square root of the parents' dimension, as in their code).

    Args:
        capsules: Children `(B, H, W, N, D)`.
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, E, D)`, or `(K_h, K_w, N, J, X,
            C)` of matrix poses. One for all offsets of a `window`: `(1, 1, N, J, ...)`. For each position of the
            parents: `(P, Q, K_h, K_w, N, J, ...)`.
        bias: Added to the coefficients behind the softmax, `(K_h, K_w, N, J)`; or, as `weight`, one for all offsets, or
            for each position. None adds nothing.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.
        window: Rows and columns of the windows, those of the weights if not given; one number, or rows and columns.
        coefficients: Fixed c, `(K_h, K_w, N, J)`, whose sum over J is 1, in place of the softmax.

    Returns:
        Parents `(B, P, Q, J, E)`, of lengths below 1.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The sizes do not match, or a window is larger than the map.

    Examples:
        >>> capsules, weight = torch.randn(2, 1, 1, 16, 8), torch.randn(1, 1, 16, 10, 16, 8)
        >>> self_attention_routing(capsules, weight, torch.zeros(1, 1, 16, 10)).shape
        torch.Size([2, 1, 1, 10, 16])

        In windows; and the control without routing:

        >>> capsules, weight = torch.randn(2, 8, 8, 4, 16), torch.randn(3, 3, 4, 10, 16, 16)
        >>> self_attention_routing(capsules, weight, strides=2, padding=1).shape
        torch.Size([2, 4, 4, 10, 16])
        >>> self_attention_routing(capsules, weight, coefficients=torch.full((3, 3, 4, 10), 1 / 10)).shape
        torch.Size([2, 6, 6, 10, 16])
    """
    if has_positions(weight):
        route = functools.partial(self_attention_routing, pose=pose, window=window, coefficients=coefficients)
        windows: dict[str, Any] = {"strides": strides, "padding": padding, "window": window}
        return route_positions(route, [capsules], {"weight": weight, "bias": bias}, **windows)
    with full_precision(capsules, weight) as wide:
        votes = votes_of(wide(capsules), wide(weight), strides, padding, pose, window)
        bias_KKNJ = None if bias is None else _of_offsets(votes, wide(bias))
        if coefficients is not None:
            check_coefficients(coefficients, _sizes(votes))
            fixed_KKNJ = wide(coefficients) if bias_KKNJ is None else wide(coefficients) + bias_KKNJ
            sum_BPQJE = as_poses(votes.sum_alike(None, fixed_KKNJ))
        elif votes.size == (1, 1) and pose == "vector" and not (isinstance(votes, TypeVotes) or is_traced()):
            sum_BPQJE = _of_own_matrices(votes, wide(weight), bias_KKNJ)
        else:
            query_BPQAJC = votes.sum_alike() / math.sqrt(votes.dim)
            sum_BPQJE = as_poses(votes.attend(query_BPQAJC))
            if bias_KKNJ is not None:
                sum_BPQJE = sum_BPQJE + as_poses(votes.sum_alike(None, bias_KKNJ))
        return squash(sum_BPQJE, variant="exponential").to(capsules.dtype)


def _of_offsets(votes: WindowVotes, bias: torch.Tensor) -> torch.Tensor:
    """View what belongs to each offset of the window, or once to all, as `(K_h, K_w, N, J)`."""
    sizes = _sizes(votes)
    if tuple(bias.shape) not in (sizes, (1, 1, *sizes[2:])):
        raise ShapeError(
            f"bias must be (window height, window width, types, outputs) = {sizes}, or (1, 1, ...) for all offsets; "
            f"received {tuple(bias.shape)}"
        )
    return bias.expand(sizes)


def _sizes(votes: WindowVotes) -> tuple[int, ...]:
    return (*votes.windows.kernel_size, votes.capsules.shape[3], votes.outputs)


def _of_own_matrices(votes: WindowVotes, weight: torch.Tensor, bias_KKNJ: torch.Tensor | None) -> torch.Tensor:
    """Return the sums `(B, 1, 1, J, E)` of all children of a window that has the only parents."""
    child_BIND = votes.windows.unfold(votes.windows.pad(votes.capsules), (1, 1))
    child_IDM = child_BIND[:, 0, 0].permute(1, 2, 0).contiguous()
    weight = weight.expand(*votes.windows.kernel_size, *weight.shape[2:])
    bias_IJ = None if bias_KKNJ is None else bias_KKNJ.flatten(0, 2)
    sum_JEM: torch.Tensor = _Attended.apply(child_IDM, weight.flatten(0, 2).contiguous(), bias_IJ)
    return sum_JEM.permute(2, 0, 1)[:, None, None]


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, child_NDM: torch.Tensor, weight_NJED: torch.Tensor, bias_NJ: torch.Tensor | None
    ) -> torch.Tensor:
        query_JEM = sum_alike(child_NDM, weight_NJED).div_(math.sqrt(weight_NJED.shape[2]))
        sum_JEM, share_NJM = attend(child_NDM, weight_NJED, query_JEM, "outputs", bias_NJ)
        context.save_for_backward(child_NDM, weight_NJED, bias_NJ, query_JEM, share_NJM)
        return sum_JEM

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        child_NDM, weight_NJED, bias_NJ, query_JEM, share_NJM = context.saved_tensors
        if torch.is_grad_enabled():  # with create_graph=True
            inputs = (child_NDM, weight_NJED) if bias_NJ is None else (child_NDM, weight_NJED, bias_NJ)
            found = plain_gradients(_plain, inputs, gradients[0])
            return (*found, None) if bias_NJ is None else tuple(found)
        gradient_JEM = gradients[0].contiguous()
        bias_gradient_NJ = None if bias_NJ is None else torch.empty_like(bias_NJ)
        query_gradient_JEM, slope_NJM = attend_backward(
            child_NDM, weight_NJED, share_NJM, query_JEM, gradient_JEM, "outputs", bias_gradient_NJ
        )
        if bias_NJ is not None:
            share_NJM = share_NJM + bias_NJ.unsqueeze(2)
        alike_JEM = query_gradient_JEM.div_(math.sqrt(weight_NJED.shape[2]))
        use = (share_NJM, gradient_JEM, slope_NJM, query_JEM)
        return *vote_gradients(child_NDM, weight_NJED, alike_JEM, [use]), bias_gradient_NJ


def _plain(child_NDM: torch.Tensor, weight_NJED: torch.Tensor, bias_NJ: torch.Tensor | None = None) -> torch.Tensor:
    vote_NJEM = torch.einsum("njed,ndm->njem", weight_NJED, child_NDM)
    query_JEM = vote_NJEM.sum(0) / math.sqrt(weight_NJED.shape[2])
    share_NJM = (vote_NJEM * query_JEM).sum(2).softmax(1)
    if bias_NJ is not None:
        share_NJM = share_NJM + bias_NJ.unsqueeze(2)
    return (share_NJM.unsqueeze(2) * vote_NJEM).sum(0)
