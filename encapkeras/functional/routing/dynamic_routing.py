"""Dynamic routing without votes (Sabour et al. 2017; Li et al. 2018).

A vote is linear in the input capsule and its matrix is shared by the positions of a type. So capsules are gathered
before they are mapped, `s_j = sum_n W~[n, j] (sum_p c_jnp u~_np)`, and the logits after some iterations are
`q_nj . u~_np` with `q_nj = W~[n, j]^T (v_j^1 + v_j^2 + ...)`: an iteration is cross-attention from output to input
capsules. Here `u~ = [1, u]` and `W~ = [bias, W]`; the constant also gathers the denominator of the softmax.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, C = D + 1, J output capsules, E their
dimension, G = B * N, X = N * C.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError
from encapkeras.functional.routing.attention import LOG2_E, attend_over_inputs, attend_over_outputs
from encapkeras.functional.routing.deferred_weight_gradient import Moments, route
from encapkeras.functional.routing.own_matrices import route_own_matrices
from encapkeras.functional.routing.routing_inputs import (
    check_capsule_mask,
    check_coefficients,
    check_output_bias,
    check_routing,
)
from encapkeras.functional.routing.vote_moments import VoteMoments, sums_by_type, with_bias
from encapkeras.functional.squash import SquashOptions, squash
from encapkeras.functional.torch_support.fake_tensors import is_traced
from encapkeras.functional.torch_support.optional_compile import compilable
from encapkeras.functional.torch_support.precision import full_precision

SoftmaxAxis = Literal["inputs", "outputs"]
_PAPER = SquashOptions()


@compilable
def dynamic_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    iterations: int = 3,
    softmax_over: SoftmaxAxis = "inputs",
    coefficients: torch.Tensor | None = None,
    output_bias: torch.Tensor | None = None,
    squash_options: SquashOptions = _PAPER,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Route capsules by agreement: outputs are squashed means of the votes that agree with them.

    `vote_ij = W[n, j] u_i + bias[n, j]` for the input capsules `i = (n, p)`. Logits start at 0; T times:
    `c = softmax(logits)`, `s_j = sum_i c_ij vote_ij`, `v_j = squash(s_j)`, and between the iterations
    `logits_ij += vote_ij . v_j` (Sabour et al. 2017, procedure 1). With `output_bias`, `v_j = squash(s_j +
    output_bias_j)` in each iteration (Rajasegaran et al. 2019, arXiv 1904.09546, code). Neither the votes nor the
    coefficients of all pairs ever exist.

    Args:
        capsules: `(B, P, N, D)`: P positions of N types. Half precision is computed in float32.
        weight: Matrices of the votes `(N, J, E, D)`, or one for each of I capsules: `(I, J, E, D)` with P = 1, N = I.
        bias: Added to the votes, `(N, J, E)`.
        iterations: Number T of iterations, from 1.
        softmax_over: `inputs`: the coefficients of an output capsule sum to 1 (Li et al. 2018, code); `outputs`: those
            of an input capsule do (Sabour et al. 2017).
        coefficients: Fixed c, `(N, J)`, the same for all positions of a type, in place of the softmax: there is one
            iteration. The first one of the softmax has `1 / J` over `outputs`, `1 / (N P)` over `inputs`. With a mask,
            those over `inputs` are multiplied by N P over the number of real capsules.
        output_bias: Added to the sums of votes of each output, `(J, E)`.
        squash_options: The squash of each iteration, as `squash` takes it.
        mask: True where a capsule is real, `(B, P, N)`; the others, such as padded steps, have coefficients 0. Where
            none is real, sums of votes are 0.

    Returns:
        Capsules `(B, J, E)` of lengths below 1, in the type of `capsules`.

    Raises:
        ArgumentError: `iterations` or `softmax_over` has an invalid value; or there are a mask and an output bias, and
            the softmax goes over the inputs.
        ShapeError: The sizes do not match.

    Examples:
        >>> capsules, weight = torch.rand(2, 36, 32, 8), torch.randn(32, 10, 16, 8)
        >>> dynamic_routing(capsules, weight, iterations=3).shape
        torch.Size([2, 10, 16])
    """
    check_routing(capsules, weight, bias, iterations)
    if softmax_over not in ("inputs", "outputs"):
        raise ArgumentError(f"softmax_over must be 'inputs' or 'outputs'; received {softmax_over!r}")
    if coefficients is not None:
        check_coefficients(coefficients, (weight.shape[0], weight.shape[1]))
    check_output_bias(output_bias, weight)
    check_capsule_mask(mask, capsules)
    if mask is not None and output_bias is not None and softmax_over == "inputs":
        raise ArgumentError(
            "a mask and a bias of the outputs need softmax_over 'outputs': over 'inputs', a bias can make the shares "
            "of all real capsules too small for floating-point numbers"
        )
    # Of own matrices, a softmax over the inputs counts all of them.
    own = capsules.shape[1] == 1 and coefficients is None and (mask is None or softmax_over == "outputs")
    with full_precision(capsules) as wide:
        added_JE = None if output_bias is None else wide(output_bias)
        if own and not is_traced():
            children = _with_constant(wide(capsules).squeeze(1), bias, None if mask is None else mask.squeeze(1))
            matrices = wide(weight) if bias is None else torch.cat([wide(bias).unsqueeze(3), wide(weight)], 3)
            out_MJE = route_own_matrices(
                children, matrices, added_JE, iterations=iterations, axis=softmax_over, options=squash_options
            )
            return out_MJE.to(capsules.dtype)
        vote_JNCE = with_bias(wide(weight), None if bias is None else wide(bias))
        component_BPNC = _with_constant(wide(capsules), 1, mask)
        if mask is not None and coefficients is not None and softmax_over == "inputs":
            real_B111 = mask.sum((1, 2)).clamp_min(1).to(component_BPNC)[:, None, None, None]
            component_BPNC = component_BPNC * (mask[0].numel() / real_B111)
        component_BNCP = component_BPNC.permute(0, 2, 3, 1).contiguous()
        routing = functools.partial(
            _iterate,
            outputs=weight.shape[1],
            iterations=iterations,
            axis=softmax_over,
            options=squash_options,
            masked=mask is not None,
        )
        fixed_NJ = None if coefficients is None else wide(coefficients)
        (out_JBE,) = route(VoteMoments, routing, vote_JNCE, component_BNCP, fixed_NJ, added_JE)
        return out_JBE.transpose(0, 1).to(capsules.dtype)


def _with_constant(capsules: torch.Tensor, constant: object, mask: torch.Tensor | None) -> torch.Tensor:
    """Put a 1 before the components, if there is a constant; set those of capsules that are not real to 0.

    Their votes are 0 then, biases included, and they add nothing to the sums and to the denominator, which the 1
    gathers. Their logits are 0 too. Of an output, the largest logit of a real capsule is at least that: the logarithm
    of the sum of their exponentials rises with each iteration. So no denominator is too small for a float.
    """
    components = capsules if constant is None else F.pad(capsules, (1, 0), value=1.0)
    return components if mask is None else components.masked_fill(~mask.bool().unsqueeze(-1), 0)


def _iterate(
    moments: Moments,
    component_BNCP: torch.Tensor,
    fixed_NJ: torch.Tensor | None,
    added_JE: torch.Tensor | None,
    *,
    outputs: int,
    iterations: int,
    axis: SoftmaxAxis,
    options: SquashOptions,
    masked: bool,
) -> tuple[torch.Tensor]:
    batch, types, components, _ = component_BNCP.shape
    key_GCP = component_BNCP.flatten(0, 1)

    def squashed(sum_JBE: torch.Tensor) -> torch.Tensor:
        return squash(sum_JBE if added_JE is None else sum_JBE + added_JE.unsqueeze(1), **options._asdict())

    if fixed_NJ is not None:
        return (squashed(moments.contract(sums_by_type(component_BNCP, fixed_NJ))[0]),)
    gathered_BX = component_BNCP.sum(3).flatten(1)
    gathered_JBX = (gathered_BX if axis == "inputs" else gathered_BX / outputs).expand(outputs, -1, -1)
    agreement_JBE: torch.Tensor | float = 0.0
    for iteration in range(iterations):
        routed_JBE, amount_JB1 = moments.contract(gathered_JBX)
        if masked:
            amount_JB1 = torch.where(amount_JB1 > 0, amount_JB1, 1)
        out_JBE = squashed(routed_JBE / amount_JB1 if axis == "inputs" else routed_JBE)
        if iteration < iterations - 1:
            agreement_JBE = agreement_JBE + out_JBE
            query_JBX = moments.expand(agreement_JBE * LOG2_E, torch.zeros_like(amount_JB1))
            query_JGC = query_JBX.view(outputs, batch * types, components)
            if axis == "inputs":
                gathered_JGC = attend_over_inputs(query_JGC, key_GCP, types)
            else:
                gathered_JGC = attend_over_outputs(query_JGC, key_GCP, key_GCP)
            gathered_JBX = gathered_JGC.reshape(query_JBX.shape)
    return (out_JBE,)
