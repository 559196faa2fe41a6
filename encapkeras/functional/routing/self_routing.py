"""Self-routing (Hahn, Pyeon and Kim 2019): each child decides by its own pose which parents it supports.

Shape suffixes: B batch, H W map of the children, N child types, D dimension of a child, O window offsets, P Q map of
the parents, J parent types, A rows and C columns of a pose; n a piece of the children, M of the parents' positions.
"""

from __future__ import annotations

import functools
import math

import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import check_activations, check_coefficients, check_map
from encapkeras.functional.routing.type_votes import TypeVotes, votes_of
from encapkeras.functional.routing.vote_sums import gather
from encapkeras.functional.routing.window_pieces import Tensors, sum_children
from encapkeras.functional.routing.window_positions import has_positions, route_positions
from encapkeras.functional.routing.window_votes import Pose, Side, WindowVotes, as_poses, windows_of
from encapkeras.functional.routing.windows import Windows
from encapkeras.functional.torch_support.precision import full_precision


def self_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor | None,
    routing_weight: torch.Tensor | None,
    routing_bias: torch.Tensor | None,
    *,
    strides: Side = 1,
    padding: Side = 0,
    pose: Pose = "vector",
    window: Side | None = None,
    coefficients: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Route capsules by themselves: coefficients are a function of the child alone, and there is no iteration.

    `r_i = softmax over the parents j of (routing_weight_ij . u_i + routing_bias_ij)`, `A_j = sum_i a_i r_ij`; the
    parents' activations are `A_j / sum_i a_i`, their poses `sum_i a_i r_ij vote_ij / A_j` (Hahn et al. 2019). Where the
    activations of a window are all 0, so are its parents.

    Args:
        capsules: Children `(B, H, W, N, D)`.
        activations: Their activations `(B, H, W, N)`, at least 0.
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, E, D)`, or `(K_h, K_w, N, J, X,
            C)` of matrix poses. One for all offsets of a `window`: `(1, 1, N, J, ...)`. For each position of the
            parents: `(P, Q, K_h, K_w, N, J, ...)`. None for a last layer, which has activations alone.
        routing_weight: `(K_h, K_w, N, J, D)`; or, as `weight`, one for all offsets, or for each position. May be None
            where coefficients are fixed.
        routing_bias: `(K_h, K_w, N, J)`, likewise.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.
        window: Rows and columns of the windows, those of the weights if not given; one number, or rows and columns.
        coefficients: Fixed r, `(K_h, K_w, N, J)`, whose sum over J is 1, in place of the softmax.

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

        One matrix per type for the whole window; and the control without routing:

        >>> poses, out = self_routing(capsules, activations, weight[:1, :1], routing_weight, routing_bias, window=3)
        >>> poses.shape
        torch.Size([2, 6, 6, 10, 16])
        >>> uniform = torch.full((3, 3, 4, 10), 1 / 10)
        >>> poses, out = self_routing(capsules, activations, weight, None, None, coefficients=uniform)
        >>> poses.shape
        torch.Size([2, 6, 6, 10, 16])
    """
    check_map(capsules)
    check_activations(activations, capsules)
    if coefficients is not None:
        routing_weight = routing_bias = None
    elif routing_weight is None or routing_bias is None:
        raise ArgumentError("routing_weight and routing_bias must be given where coefficients are not; received None")
    if _have_positions(weight, routing_weight):
        route = functools.partial(self_routing, pose=pose, window=window, coefficients=coefficients)
        weights = {"weight": weight, "routing_weight": routing_weight, "routing_bias": routing_bias}
        maps = [capsules, activations]
        return route_positions(route, maps, weights, strides=strides, padding=padding, window=window)
    given = [part for part in (coefficients, routing_weight, routing_bias) if part is not None]
    sized = given[0] if weight is None else weight
    windows = windows_of(sized, strides, padding, window)
    outputs = sized.shape[3] if sized.dim() > 3 else sized.shape[-1]
    _check_decisions(given, (*windows.kernel_size, capsules.shape[3], outputs), capsules.shape[4])
    with full_precision(capsules, sized) as wide:
        children, decisions = [wide(capsules), wide(activations)], [wide(part) for part in given]
        if weight is None:
            return None, _shares(_amounts_of(windows, children, decisions))[0].to(capsules.dtype)
        votes = votes_of(children[0], wide(weight), strides, padding, pose, window)
        amount_BPQJ, sum_BPQAJC = _gather(votes, children, decisions)
        share_BPQJ, safe_BPQJ = _shares(amount_BPQJ)
        poses = as_poses(sum_BPQAJC / safe_BPQJ[..., None, :, None])
        return poses.to(capsules.dtype), share_BPQJ.to(capsules.dtype)


def _amounts_of(windows: Windows, children: list[torch.Tensor], decisions: list[torch.Tensor]) -> torch.Tensor:
    """Return sums of activations times coefficients, `(B, P, Q, J)`."""
    outputs = decisions[0].shape[3]
    (amount_BPQJ,) = sum_children(_amounts, windows, outputs, children, _by_offset(windows, decisions))
    return amount_BPQJ


def _gather(votes: WindowVotes, children: list[torch.Tensor], decisions: list[torch.Tensor]) -> Tensors:
    """Return sums of activations times coefficients, and of votes by them."""
    if len(decisions) == 1:
        return _amounts_of(votes.windows, children, decisions), votes.sum_alike(children[1], decisions[0])
    if isinstance(votes, TypeVotes) and all(part.shape[:2] == (1, 1) for part in decisions):
        # A child decides the same in all windows.
        at_child = tuple(part.movedim(3, 0).flatten(1, 3) for part in children)
        share_NMJ = _coefficients(at_child, tuple(part[0, 0] for part in decisions))
        share_BHWNJ = share_NMJ.unflatten(1, children[0].shape[:3]).movedim(0, 3)
        return votes.sum_shares(_shares_of_child, [share_BHWNJ])
    by_offset = _by_offset(votes.windows, decisions)
    if isinstance(votes, TypeVotes):
        return votes.sum_shares(_shares_of_window, children[1:], [part.transpose(0, 1) for part in by_offset])
    return votes.sum(_amounts_and_votes, children[1:], by_offset)


def _by_offset(windows: Windows, decisions: list[torch.Tensor]) -> list[torch.Tensor]:
    """View what is given for each offset, or once for all, as `(O, N, ...)`."""
    return [part.expand(*windows.kernel_size, *part.shape[2:]).flatten(0, 1) for part in decisions]


def _amounts(children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    return (_coefficients(children, weights).sum(0),)


def _amounts_and_votes(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    share_nMJ = _coefficients(children, weights)
    return share_nMJ.sum(0), gather(share_nMJ, vote_nMAJC)


def _coefficients(children: Tensors, weights: Tensors) -> torch.Tensor:
    """Return `a_i r_ij`, `(n, M, J)`."""
    child_nMD, activation_nM = children
    if len(weights) == 1:
        return activation_nM.unsqueeze(2) * weights[0].unsqueeze(1)
    routing_nJD, bias_nJ = weights
    logit_nMJ = torch.baddbmm(bias_nJ.unsqueeze(1), child_nMD, routing_nJD.mT)
    return logit_nMJ.softmax(2) * activation_nM.unsqueeze(2)


def _shares_of_child(children: Tensors, weights: Tensors, parents: Tensors) -> torch.Tensor:
    return children[1]


def _shares_of_window(children: Tensors, weights: Tensors, parents: Tensors) -> torch.Tensor:
    """Return `a_i r_ij`, `(M, n, O, J)`."""
    child_MnOD, activation_MnO = children
    _, routing_nOJD, bias_nOJ = weights
    logit_MnOJ = torch.einsum("mnod,nojd->mnoj", child_MnOD, routing_nOJD) + bias_nOJ
    return logit_MnOJ.softmax(3) * activation_MnO.unsqueeze(3)


def _shares(amount_BPQJ: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each parent's share of the amounts, and amounts to divide by, above 0."""
    floor = math.sqrt(torch.finfo(amount_BPQJ.dtype).tiny)  # its square divides gradients
    return amount_BPQJ / amount_BPQJ.sum(-1, keepdim=True).clamp_min(floor), amount_BPQJ.clamp_min(floor)


def _have_positions(weight: torch.Tensor | None, routing_weight: torch.Tensor | None) -> bool:
    if weight is not None:
        return has_positions(weight)
    return routing_weight is not None and routing_weight.dim() == 7


def _check_decisions(given: list[torch.Tensor], expected: tuple[int, ...], dim: int) -> None:
    if len(given) == 1:
        check_coefficients(given[0], expected)
        return
    for name, part, sizes in zip(("routing_weight", "routing_bias"), given, ((*expected, dim), expected), strict=True):
        if tuple(part.shape) not in (sizes, (1, 1, *sizes[2:])):
            axes = "window height, window width, types, outputs"
            axes += ", input dim" if name == "routing_weight" else ""
            raise ShapeError(
                f"{name} must be ({axes}) = {sizes}, or (1, 1, ...) for all offsets; received {tuple(part.shape)}"
            )
