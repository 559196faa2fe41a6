"""Dynamic routing of maps whose votes are a convolution, with one kernel for all child types, as in DeepCaps.

The vote of a child type at a position is linear in the patch of its map under the kernel, and all types share the
kernel. So patches are gathered before they are mapped, `s_j(p) = W_j sum_n c_nj(p) patch_n(p)`, and logits are
products of patches with queries, `patch_n(p) . (W_j^T v_j(p))`. Where the votes of a child are fewer numbers than its
patch, as with few parent types and large kernels, votes are made instead. Unless they are few, neither they nor what
an iteration makes are kept for the backward pass: it makes them again, some samples at a time.

Shape suffixes: B batch, H W map of the children, N child types, D their dimension, P positions of the parents, J
parent types, E their dimension, K kernel, G = K * K * D numbers of a patch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.convolution import Padding, padding_of
from encapkeras.functional.routing.routing_inputs import check_coefficients, check_iterations, check_map
from encapkeras.functional.routing.windows import Windows
from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.precision import full_precision
from encapkeras.functional.torch_support.sample_pieces import call_by_samples

Layout = Literal["reference", "transposed"]
NormalizeOver = Literal["parents_and_positions", "parents"]
SquashOver = Literal["map", "capsule"]

_PIECE = 1 << 18
"""Numbers of the patches of a piece, for the cache; where a device needs more to be busy, a quarter of the batch."""
_PIECE_ELSEWHERE = 1 << 26


def convolution_dynamic_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    iterations: int = 3,
    strides: int = 1,
    padding: Padding = "same",
    layout: Layout = "transposed",
    normalize_over: NormalizeOver = "parents_and_positions",
    squash_over: SquashOver = "map",
    coefficients: torch.Tensor | None = None,
) -> torch.Tensor:
    """Route a map to a map by agreement; one kernel makes the votes of all child types.

    The votes `v_nj(p)` of type n are the convolution of its D components with `weight`. Logits start at 0; T times:
    `c = softmax(logits)`, `s_j(p) = sum_n c_nj(p) v_nj(p) + bias_j`, `a_j = squash(s_j)`, and between the iterations
    `logits_nj(p) += v_nj(p) . a_j(p)` (Rajasegaran et al. 2019, arXiv 1904.09546, section 3.2, and its code).

    Args:
        capsules: `(B, H, W, N, D)`. Half precision is computed in float32.
        weight: The kernel, `(J * E, D, K, K)`.
        bias: `(J, E)`, the same at all positions.
        iterations: Number T of iterations, from 1.
        strides: Stride of the convolution.
        padding: `same` or `valid`, as `convolution_capsules` has it.
        layout: `transposed`: the channels of a type are its components. `reference`: the memory of the capsules, in the
            order of their axes, is read as channels, rows and columns, as the authors' code does. Positions and types
            are then mixed up; for comparison with that code alone.
        normalize_over: `parents_and_positions`: the coefficients of a child type sum to 1 over all parents at all
            positions together, as published; `parents`: at each position by itself.
        squash_over: Whose length is squashed: that of a parent type's whole `map`, by whose factor all its positions
            are scaled, as published; or that of each `capsule`.
        coefficients: Fixed shares of the parents, `(N, J)`, in place of the softmax: there is one iteration. With
            `parents_and_positions` each is divided by the number of positions.

    Returns:
        Capsules `(B, H', W', J, E)` of lengths below 1, in the type of `capsules`.

    Raises:
        ArgumentError: An option has an invalid value.
        ShapeError: The sizes do not match.

    Examples:
        >>> capsules, weight, bias = torch.rand(2, 4, 4, 32, 8), torch.randn(256, 8, 3, 3), torch.full((32, 8), 0.1)
        >>> convolution_dynamic_routing(capsules, weight, bias).shape
        torch.Size([2, 4, 4, 32, 8])
    """
    _check(capsules, weight, bias, iterations, layout, normalize_over, squash_over)
    types, outputs = capsules.shape[3], len(bias)
    if coefficients is not None:
        check_coefficients(coefficients, (types, outputs))
    with full_precision(capsules) as wide:
        map_BHWND = wide(capsules if layout == "transposed" else _read_again(capsules))
        kernel = (weight.shape[2], weight.shape[3])
        zeros = padding_of((capsules.shape[1], capsules.shape[2]), kernel, strides, padding)
        padded_BHWND = F.pad(map_BHWND, [0, 0, 0, 0, *zeros])
        windows = Windows(kernel, (strides, strides))
        size = windows.output_size(*padded_BHWND.shape[1:3])
        of_all = (wide(weight), wide(bias), None if coefficients is None else wide(coefficients))
        options: dict[str, Any] = {
            "iterations": 1 if coefficients is not None else iterations,
            "over_positions": normalize_over == "parents_and_positions",
            "over_map": squash_over == "map",
        }
        patch = kernel[0] * kernel[1] * capsules.shape[4]
        route: Callable[..., tuple[torch.Tensor]]
        sizes: dict[str, int] = {}
        if bias.numel() < patch:
            route = functools.partial(_route_votes, strides=strides, **options)
            numbers = size[0] * size[1] * types * bias.numel()
        else:
            route = functools.partial(_route_patches, windows=windows, size=size, **options)
            numbers = size[0] * size[1] * max(types, outputs) * patch
            sizes = {"little": _PIECE, "piece": _piece(capsules, numbers)}
        (out_BPJE,) = call_by_samples(route, (padded_BHWND,), of_all, numbers, **sizes)
        out_BPQJE: torch.Tensor = out_BPJE.unflatten(1, size)
        return out_BPQJE.to(capsules.dtype)


def _route_patches(
    padded_BHWND: torch.Tensor,
    weight: torch.Tensor,
    bias_JE: torch.Tensor,
    fixed_NJ: torch.Tensor | None,
    *,
    windows: Windows,
    size: tuple[int, int],
    iterations: int,
    over_positions: bool,
    over_map: bool,
) -> tuple[torch.Tensor]:
    parts = [padded_BHWND[:, *windows.at(offset, size)] for offset in windows.offsets()]
    patch_BPNG = torch.cat(parts, -1).flatten(1, 2)
    outputs, positions = len(bias_JE), size[0] * size[1]
    weight_JGE = weight.permute(2, 3, 1, 0).flatten(0, 2).unflatten(1, (outputs, -1)).transpose(0, 1)
    squash_dims = (1, 3) if over_map else (3,)
    alike = 1 / (outputs * positions) if over_positions else 1 / outputs
    if fixed_NJ is None:  # all coefficients are equal
        sum_BPJE = torch.einsum("bpg,jge->bpje", patch_BPNG.sum(2) * alike, weight_JGE)
    else:
        share_JN = fixed_NJ.T / positions if over_positions else fixed_NJ.T
        sum_BPJE = torch.einsum("bpjg,jge->bpje", share_JN @ patch_BPNG, weight_JGE)
    agreement_BPJE: torch.Tensor | float = 0.0
    for _ in range(iterations - 1):
        agreement_BPJE = agreement_BPJE + squash(sum_BPJE + bias_JE, dim=squash_dims)
        query_BPGJ = torch.einsum("bpje,jge->bpgj", agreement_BPJE, weight_JGE)
        logit_BPNJ = patch_BPNG @ query_BPGJ
        share_BPNJ = _softmax(logit_BPNJ) if over_positions else logit_BPNJ.softmax(3)
        sum_BPJE = torch.einsum("bpjg,jge->bpje", share_BPNJ.mT @ patch_BPNG, weight_JGE)
    return (squash(sum_BPJE + bias_JE, dim=squash_dims),)


def _softmax(logit_BPNJ: torch.Tensor) -> torch.Tensor:
    """The softmax of each type over positions and parents together."""
    by_type_BNX = logit_BPNJ.transpose(1, 2).flatten(2).softmax(2)
    by_type_BNPJ: torch.Tensor = by_type_BNX.unflatten(2, (-1, logit_BPNJ.shape[3]))
    return by_type_BNPJ.transpose(1, 2)


def _route_votes(
    padded_BHWND: torch.Tensor,
    weight: torch.Tensor,
    bias_JE: torch.Tensor,
    fixed_NJ: torch.Tensor | None,
    *,
    strides: int,
    **options: Any,
) -> tuple[torch.Tensor]:
    vote = F.conv2d(types_as_samples(padded_BHWND), weight, stride=strides)
    return (route_votes(by_types(vote, padded_BHWND.shape[3], len(bias_JE)), bias_JE, fixed_NJ, **options),)


def types_as_samples(map_BHWND: torch.Tensor) -> torch.Tensor:
    """Return `(B * N, D, H, W)`: one kernel is for all types."""
    return map_BHWND.permute(0, 3, 4, 1, 2).flatten(0, 1).contiguous()


def by_types(vote: torch.Tensor, types: int, outputs: int) -> torch.Tensor:
    """Return votes `(B * N, J * E, rows, columns)` as `(B, N, J, E, P)`."""
    vote_BNJEP: torch.Tensor = vote.flatten(2).unflatten(1, (outputs, -1)).unflatten(0, (-1, types))
    return vote_BNJEP


def route_votes(
    vote_BNJEP: torch.Tensor,
    bias_JE: torch.Tensor,
    fixed_NJ: torch.Tensor | None,
    *,
    iterations: int,
    over_positions: bool = False,
    over_map: bool = False,
) -> torch.Tensor:
    """Return capsules `(B, P, J, E)`; positions are last in the votes, so that all steps take them in turn."""
    outputs, positions = vote_BNJEP.shape[2], vote_BNJEP.shape[4]
    alike = 1 / (outputs * positions) if over_positions else 1 / outputs
    bias_JE1, squash_dims = bias_JE.unsqueeze(2), (2, 3) if over_map else (2,)
    if fixed_NJ is None:  # all coefficients are equal
        sum_BJEP = vote_BNJEP.sum(1) * alike
    else:
        share_NJ = fixed_NJ / positions if over_positions else fixed_NJ
        sum_BJEP = (share_NJ[:, :, None, None] * vote_BNJEP).sum(1)
    agreement_BJEP: torch.Tensor | float = 0.0
    for _ in range(iterations - 1):
        agreement_BJEP = agreement_BJEP + squash(sum_BJEP + bias_JE1, dim=squash_dims)
        logit_BNJP = (vote_BNJEP * agreement_BJEP.unsqueeze(1)).sum(3)
        if over_positions:
            share_BNJP = logit_BNJP.flatten(2).softmax(2).view_as(logit_BNJP)
        else:
            share_BNJP = logit_BNJP.softmax(2)
        sum_BJEP = (share_BNJP.unsqueeze(3) * vote_BNJEP).sum(1)
    return squash(sum_BJEP + bias_JE1, dim=squash_dims).permute(0, 3, 1, 2)


def _read_again(capsules_BHWND: torch.Tensor) -> torch.Tensor:
    """The memory of capsules read as channels, rows and columns."""
    batch, height, width, types, dim = capsules_BHWND.shape
    image_BCHW = capsules_BHWND.reshape(batch, types * dim, height, width)
    again_BHWND: torch.Tensor = image_BCHW.permute(0, 2, 3, 1).unflatten(3, (types, dim))
    return again_BHWND


def _piece(capsules: torch.Tensor, numbers: int) -> int:
    if capsules.device.type == "cpu":
        return _PIECE
    return min(_PIECE_ELSEWHERE, max(_PIECE, len(capsules) * numbers // 4))


def _check(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    iterations: int,
    layout: str,
    normalize_over: str,
    squash_over: str,
) -> None:
    check_iterations(iterations)
    check_map(capsules)
    options = {
        "layout": (layout, Layout),
        "normalize_over": (normalize_over, NormalizeOver),
        "squash_over": (squash_over, SquashOver),
    }
    for name, (value, kind) in options.items():
        values = get_args(kind)
        if value not in values:
            raise ArgumentError(f"{name} must be {' or '.join(map(repr, values))}; received {value!r}")
    sizes = tuple(weight.shape)
    if weight.dim() != 4 or bias.dim() != 2 or sizes[0] != bias.numel() or sizes[1] != capsules.shape[4]:
        raise ShapeError(
            f"weight must be (outputs * output dim, dim, kernel, kernel) and bias (outputs, output dim), with dim "
            f"{capsules.shape[4]} as of capsules {tuple(capsules.shape)}; received {sizes} and {tuple(bias.shape)}"
        )
