"""Dynamic routing to a larger map whose votes are a transposed convolution, with one kernel for all child types.

The upsampling of SegCaps. Votes, unless they are few, are made for some samples at a time, and again in the
backward pass: neither they nor what an iteration makes are kept.

Shape suffixes: B batch, H W map of the children, N child types, D their dimension, J parent types, E their dimension, K
kernel, P positions of the parents.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.convolution_dynamic_routing import by_types, route_votes, types_as_samples
from encapkeras.functional.routing.routing_inputs import check_coefficients, check_iterations, check_map
from encapkeras.functional.torch_support.precision import full_precision
from encapkeras.functional.torch_support.sample_pieces import call_by_samples


def transposed_convolution_dynamic_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    strides: int = 2,
    iterations: int = 3,
    coefficients: torch.Tensor | None = None,
) -> torch.Tensor:
    """Route a map to one that is `strides` times as high and wide, by agreement.

    The votes `v_nj(p)` of type n are the transposed convolution of its D components with `weight`: `sum of W_j,q-ps
    u_n(p)` over the positions p whose kernel, laid at `p * strides`, covers q. Logits start at 0; T times: `c =
    softmax(logits)` over the parent types of a position, `s_j(q) = sum_n c_nj(q) v_nj(q) + bias_j`, `a_j(q) =
    squash(s_j(q))`, and between the iterations `logits_nj(q) += v_nj(q) . a_j(q)` (LaLonde and Bagci 2018,
    arXiv:1804.04241, section 2, and its code).

    Args:
        capsules: `(B, H, W, N, D)`. Half precision is computed in float32.
        weight: The kernel, `(D, J * E, K, K)`, as torch has that of a transposed convolution. The `K - strides` rows
            and columns that it makes beyond the larger map are cut off: half in front, rounded down, the rest behind.
        bias: `(J, E)`, the same at all positions.
        strides: By which height and width are multiplied, from 1 to K.
        iterations: Number T of iterations, from 1.
        coefficients: Fixed shares of the parents, `(N, J)`, in place of the softmax: there is one iteration.

    Returns:
        Capsules `(B, strides * H, strides * W, J, E)` of lengths below 1, in the type of `capsules`.

    Raises:
        ArgumentError: `iterations` or `strides` has an invalid value.
        ShapeError: The sizes do not match.

    Examples:
        >>> capsules, weight, bias = torch.rand(2, 4, 4, 6, 8), torch.randn(8, 15, 4, 4), torch.full((3, 5), 0.1)
        >>> transposed_convolution_dynamic_routing(capsules, weight, bias).shape
        torch.Size([2, 8, 8, 3, 5])
    """
    _check(capsules, weight, bias, strides, iterations)
    _, height, width, types, _ = capsules.shape
    size = (strides * height, strides * width)
    if coefficients is not None:
        check_coefficients(coefficients, (types, len(bias)))
    with full_precision(capsules) as wide:
        of_all = (wide(weight), wide(bias), None if coefficients is None else wide(coefficients))
        route = functools.partial(
            _route, strides=strides, size=size, iterations=1 if coefficients is not None else iterations
        )
        numbers = size[0] * size[1] * types * bias.numel()
        (out_BPJE,) = call_by_samples(route, (wide(capsules),), of_all, numbers)
        out_BPQJE: torch.Tensor = out_BPJE.unflatten(1, size)
        return out_BPQJE.to(capsules.dtype)


def _route(
    capsules_BHWND: torch.Tensor,
    weight: torch.Tensor,
    bias_JE: torch.Tensor,
    fixed_NJ: torch.Tensor | None,
    *,
    strides: int,
    size: tuple[int, int],
    iterations: int,
) -> tuple[torch.Tensor]:
    cut = [(side - strides) // 2 for side in weight.shape[2:]]  # on all sides
    vote = F.conv_transpose2d(types_as_samples(capsules_BHWND), weight, None, strides, cut)
    vote_BNJEP = by_types(vote[:, :, : size[0], : size[1]], capsules_BHWND.shape[3], len(bias_JE))
    return (route_votes(vote_BNJEP, bias_JE, fixed_NJ, iterations=iterations),)


def _check(capsules: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, strides: int, iterations: int) -> None:
    check_iterations(iterations)
    check_map(capsules)
    sizes = tuple(weight.shape)
    if weight.dim() != 4 or bias.dim() != 2 or sizes[1] != bias.numel() or sizes[0] != capsules.shape[4]:
        raise ShapeError(
            f"weight must be (dim, outputs * output dim, kernel, kernel) and bias (outputs, output dim), with dim "
            f"{capsules.shape[4]} as of capsules {tuple(capsules.shape)}; received {sizes} and {tuple(bias.shape)}"
        )
    if not 1 <= strides <= min(sizes[2:]):
        raise ArgumentError(
            f"strides must be from 1 to the kernel's side, {min(sizes[2:])}: a larger one would leave rows without "
            f"votes; received {strides!r}"
        )
