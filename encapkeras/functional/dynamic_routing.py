"""Dynamic routing without votes (Sabour et al. 2017; Li et al. 2018).

A vote is linear in the input capsule and its matrix is shared by the positions of a type. So capsules are gathered
before they are mapped, `s_j = sum_n W~[n, j] (sum_p c_jnp u~_np)`, and the logits after some iterations are
`q_nj . u~_np` with `q_nj = W~[n, j]^T (v_j^1 + v_j^2 + ...)`: an iteration is cross-attention from output to input
capsules. Here `u~ = [u, 1]` and `W~ = [W, bias]`; the constant also gathers the denominator of the softmax.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, K = D + 1, J output capsules, E their
dimension, G = B * N.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError
from encapkeras.functional.attention import LOG2_E, attend_over_inputs, attend_over_outputs
from encapkeras.functional.routing_inputs import check_routing, routing_precision
from encapkeras.functional.squash import squash

SoftmaxAxis = Literal["inputs", "outputs"]


def dynamic_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    iterations: int = 3,
    softmax_over: SoftmaxAxis = "inputs",
) -> torch.Tensor:
    """Routes capsules by agreement: outputs are squashed means of the votes that agree with them.

    `vote_ij = W[n, j] u_i + bias[n, j]` for the input capsules `i = (n, p)`. Logits start at 0; T times:
    `c = softmax(logits)`, `s_j = sum_i c_ij vote_ij`, `v_j = squash(s_j)`, and between the iterations
    `logits_ij += vote_ij . v_j` (Sabour et al. 2017, procedure 1). Gradients flow through all iterations. Neither the
    votes nor the coefficients of all pairs ever exist.

    Args:
        capsules: Input capsules `(B, P, N, D)`: P positions of N types. Half precision is computed in float32.
        weight: Matrices of the votes `(N, J, E, D)`, shared by the positions of a type. Matrices of its own for each of
            I capsules: capsules `(B, 1, I, D)` and weight `(I, J, E, D)`.
        bias: Added to the votes, `(N, J, E)`.
        iterations: Number T of iterations, from 1.
        softmax_over: `inputs`: the coefficients of an output capsule sum to 1 (the encapsulation paper's code, which
            found this to converge); `outputs`: those of an input capsule do (the 2017 paper).

    Returns:
        Capsules `(B, J, E)` of lengths below 1, in the type of `capsules`.

    Raises:
        ArgumentError: `iterations` or `softmax_over` has a value that it cannot have.
        ShapeError: The sizes do not fit each other.

    Example:
        >>> capsules, weight = torch.rand(2, 36, 32, 8), torch.randn(32, 10, 16, 8)
        >>> dynamic_routing(capsules, weight, iterations=3).shape
        torch.Size([2, 10, 16])
    """
    check_routing(capsules, weight, bias, iterations)
    if softmax_over not in ("inputs", "outputs"):
        raise ArgumentError(f"softmax_over must be 'inputs' or 'outputs'; received {softmax_over!r}")
    types, outputs, dim, _ = weight.shape
    batch, positions = capsules.shape[:2]
    with routing_precision(capsules) as wide:
        weight_JXE = _with_bias(wide(weight), None if bias is None else wide(bias))
        key_GKP = F.pad(wide(capsules), (0, 1), value=1.0).permute(0, 2, 3, 1).flatten(0, 1).contiguous()
        equal = 1 / (types * positions if softmax_over == "inputs" else outputs)
        routed_JBE = (key_GKP.sum(2) * equal).view(batch, -1) @ weight_JXE
        agreement_JBE = torch.zeros_like(routed_JBE)
        for _ in range(iterations - 1):
            agreement_JBE = agreement_JBE + squash(routed_JBE)
            query_JBX = (agreement_JBE * LOG2_E) @ weight_JXE.mT
            query_JGK = query_JBX.view(outputs, batch * types, -1)
            if softmax_over == "inputs":
                gathered_JGK = attend_over_inputs(query_JGK, key_GKP, key_GKP, types)
                denominator_JB1 = gathered_JGK[:, :, -1].view(outputs, batch, types).sum(2, keepdim=True)
                routed_JBE = (gathered_JGK.view(query_JBX.shape) @ weight_JXE) / denominator_JB1
            else:
                routed_JBE = attend_over_outputs(query_JGK, key_GKP, key_GKP).view(query_JBX.shape) @ weight_JXE
        return squash(routed_JBE).transpose(0, 1).to(capsules.dtype)


def _with_bias(weight_NJED: torch.Tensor, bias_NJE: torch.Tensor | None) -> torch.Tensor:
    """`W~ = [W, bias]` as one matrix for each output capsule, `(J, N * K, E)`."""
    weight_JNDE = weight_NJED.permute(1, 0, 3, 2)
    if bias_NJE is None:
        return F.pad(weight_JNDE, (0, 0, 0, 1)).flatten(1, 2)
    return torch.cat([weight_JNDE, bias_NJE.transpose(0, 1).unsqueeze(2)], 2).flatten(1, 2)
