"""Self-routing (Hahn, Pyeon and Kim 2019): each child decides by its own pose which parents it supports.

Shape suffixes: B batch, P Q map of the parents, J parent types, A rows and C columns of a pose; n a piece of the
children, M of the parents' positions, D dimension of a child.
"""

from __future__ import annotations

import math

import torch

from encapkeras.errors import ShapeError
from encapkeras.functional.routing.routing_inputs import check_activations
from encapkeras.functional.routing.window_votes import Pose, WindowVotes, as_poses, gather, pair
from encapkeras.functional.routing.windows import Tensors, Windows, sum_children
from encapkeras.functional.torch_support.precision import full_precision


def self_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor | None,
    routing_weight: torch.Tensor,
    routing_bias: torch.Tensor,
    *,
    strides: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    pose: Pose = "vector",
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Route capsules by themselves: coefficients are a function of the child alone, and there is no iteration.

    `r_i = softmax over the parents j of (routing_weight_ij . u_i + routing_bias_ij)`, `A_j = sum_i a_i r_ij`; the
    parents' activations are `A_j / sum_i a_i`, their poses `sum_i a_i r_ij vote_ij / A_j` (Hahn et al. 2019). Where the
    activations of a window are all 0, so are its parents.

    Args:
        capsules: Children `(B, H, W, N, D)`.
        activations: Their activations `(B, H, W, N)`, at least 0.
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, E, D)`, or `(K_h, K_w, N, J, X,
            C)` of matrix poses. None for a last layer, which has activations alone.
        routing_weight: `(K_h, K_w, N, J, D)`.
        routing_bias: `(K_h, K_w, N, J)`.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.

    Returns:
        Poses `(B, P, Q, J, E)`, None without `weight`, and activations `(B, P, Q, J)`, whose sum over J is 1.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The sizes do not match, or a window is larger than the map.

    Examples:
        >>> capsules, activations = torch.randn(2, 8, 8, 4, 16), torch.rand(2, 8, 8, 4)
        >>> weight, routing_weight = torch.randn(3, 3, 4, 10, 16, 16), torch.zeros(3, 3, 4, 10, 16)
        >>> routing_bias = torch.zeros(3, 3, 4, 10)
        >>> poses, out = self_routing(capsules, activations, weight, routing_weight, routing_bias, strides=2, padding=1)
        >>> poses.shape, out.shape
        (torch.Size([2, 4, 4, 10, 16]), torch.Size([2, 4, 4, 10]))
    """
    check_activations(activations, capsules)
    _check_routing_weights(capsules, weight, routing_weight, routing_bias)
    with full_precision(capsules, routing_weight) as wide:
        children = [wide(capsules), wide(activations)]
        weights = [wide(routing_weight).flatten(0, 1), wide(routing_bias).flatten(0, 1)]
        if weight is None:
            sides = (routing_weight.shape[0], routing_weight.shape[1])
            windows = Windows(sides, pair("strides", strides, 1), pair("padding", padding, 0))
            (amount_BPQJ,) = sum_children(_amounts, windows, routing_weight.shape[3], children, weights)
            return None, _shares(amount_BPQJ)[0].to(capsules.dtype)
        votes = WindowVotes(children[0], wide(weight), strides, padding, pose)
        amount_BPQJ, sum_BPQAJC = votes.sum(_amounts_and_votes, children[1:], weights)
        share_BPQJ, safe_BPQJ = _shares(amount_BPQJ)
        poses = as_poses(sum_BPQAJC / safe_BPQJ[..., None, :, None])
        return poses.to(capsules.dtype), share_BPQJ.to(capsules.dtype)


def _amounts(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    return (_coefficients(children, weights).sum(0),)


def _amounts_and_votes(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    share_nMJ = _coefficients(children, weights)
    return share_nMJ.sum(0), gather(share_nMJ, vote_nMAJC)


def _coefficients(children: Tensors, weights: Tensors) -> torch.Tensor:
    """Return `a_i r_ij`, `(n, M, J)`."""
    child_nMD, activation_nM = children
    routing_nJD, bias_nJ = weights
    logit_nMJ = torch.baddbmm(bias_nJ.unsqueeze(1), child_nMD, routing_nJD.mT)
    return logit_nMJ.softmax(2) * activation_nM.unsqueeze(2)


def _shares(amount_BPQJ: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each parent's share of the amounts, and amounts to divide by, above 0."""
    floor = math.sqrt(torch.finfo(amount_BPQJ.dtype).tiny)  # its square divides gradients
    return amount_BPQJ / amount_BPQJ.sum(-1, keepdim=True).clamp_min(floor), amount_BPQJ.clamp_min(floor)


def _check_routing_weights(
    capsules: torch.Tensor, weight: torch.Tensor | None, routing_weight: torch.Tensor, routing_bias: torch.Tensor
) -> None:
    window = tuple(routing_weight.shape[:4] if weight is None else weight.shape[:4])
    expected = (*window[:2], capsules.shape[3], *window[3:], capsules.shape[4])
    if tuple(routing_weight.shape) != expected:
        raise ShapeError(
            f"routing_weight must be (window height, window width, types, outputs, input dim) = {expected}; received "
            f"{tuple(routing_weight.shape)}"
        )
    if tuple(routing_bias.shape) != expected[:4]:
        raise ShapeError(f"routing_bias must be {expected[:4]}; received {tuple(routing_bias.shape)}")
