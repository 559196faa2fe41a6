"""The two passes of routing: cross-attention from output capsules (queries) to input capsules (keys and values).

Routing needs its coefficients `(G, J, P)` only to gather input capsules. Here they exist in pieces that stay in the
processor's cache: a piece is made, used and overwritten, and made again in the backward pass, for which nothing of that
size is kept. Logits are in base 2, since `exp2` is the cheaper exponential.

Shape suffixes: B batch, N capsule types, G = B * N groups, J output capsules, P positions of a group, K numbers of
a key, L numbers of a value, I = N * P, g a piece of G.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from encapkeras.functional.kernels.choice import runs_triton
from encapkeras.functional.torch_support.fake_tensors import has_values, is_traced
from encapkeras.functional.torch_support.plain_gradients import plain_gradients

LOG2_E = math.log2(math.e)
"""Factor from a natural logarithm to one of base 2."""

_PIECE = {"cpu": 1 << 20}
"""Coefficients in a piece: on CPUs 4 MB in float32, for the cache; elsewhere as many as keep the device busy."""
_PIECE_ELSEWHERE = 1 << 24


def attend_over_inputs(query_JGK: torch.Tensor, capsule_GKP: torch.Tensor, types: int) -> torch.Tensor:
    """Return numerators `(J, G, K)` of a softmax over all positions of all types: `sum_p 2^(q_jg . u_gp - m) u_gp`.

    `m`, the largest logit of an output capsule in a sample, is a constant without gradient: it cancels when the result
    is divided by the denominator, which is the result's first component. Capsules are keys and values; their first
    component must be 1, and gets no gradient.
    """
    if is_traced():  # fuses by itself, and could only unroll the pieces
        return _plain_over_inputs(query_JGK, capsule_GKP, types)
    if runs_triton(query_JGK):
        from encapkeras.functional.kernels import triton_attention

        if triton_attention.fits(query_JGK, capsule_GKP):
            return triton_attention.attend_over_inputs(query_JGK, capsule_GKP, types, _plain_over_inputs)
    return _OverInputs.apply(query_JGK, capsule_GKP, types)  # type: ignore[no-any-return]


def attend_over_outputs(query_JGK: torch.Tensor, key_GKP: torch.Tensor, value_GLP: torch.Tensor) -> torch.Tensor:
    """Return `sum_p c_jgp value_gp`, `(J, G, L)`, with `c` a softmax over the output capsules j."""
    if is_traced():
        return _plain_over_outputs(query_JGK, key_GKP, value_GLP)
    if runs_triton(query_JGK):
        from encapkeras.functional.kernels import triton_attention

        if triton_attention.fits(query_JGK, key_GKP, value_GLP):
            return triton_attention.attend_over_outputs(query_JGK, key_GKP, value_GLP, _plain_over_outputs)
    return _OverOutputs.apply(query_JGK, key_GKP, value_GLP)  # type: ignore[no-any-return]


def spread_over_outputs(query_JGK: torch.Tensor, key_GKP: torch.Tensor) -> torch.Tensor:
    """Return `max_j q_jg . k_gp - min_j q_jg . k_gp`, `(G, P)`: how far the output capsules differ."""
    if is_traced():
        return _plain_spread(query_JGK, key_GKP)
    return _Spread.apply(query_JGK, key_GKP)  # type: ignore[no-any-return]


class _OverInputs(torch.autograd.Function):
    """`e = 2^(l - m)`; with `h` the gradient of the result `dl = ln 2 (h . u) e`, `dq = dl u`, `du = q dl + h e`."""

    @staticmethod
    def forward(context: Any, query_JGK: torch.Tensor, capsule_GKP: torch.Tensor, types: int) -> torch.Tensor:
        outputs, groups, _ = query_JGK.shape
        query_GJK = query_JGK.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        gathered_JGK = torch.empty_like(query_JGK)
        peak_GJ = query_JGK.new_empty(groups, outputs)
        padded_GLP = _padded(capsule_GKP)
        for piece, (exp_gJP,) in _pieces(query_JGK, capsule_GKP):
            torch.bmm(query_GJK[piece], capsule_GKP[piece], out=exp_gJP)
            peak_gJ = torch.amax(exp_gJP, 2, out=peak_GJ[piece])
            exp_gJP.sub_(peak_gJ.unsqueeze(2)).exp2_()
            _gather(exp_gJP, padded_GLP[piece], out=gathered_JGK[:, piece])
        peak_BNJ = peak_GJ.unflatten(0, (-1, types))
        highest_B1J = peak_BNJ.amax(1, keepdim=True)
        gathered_JGK.mul_((peak_BNJ - highest_B1J).exp2_().flatten(0, 1).T.unsqueeze(2))
        query_GJK.unflatten(0, (-1, types))[..., 0] -= highest_B1J  # then their logits are `l - m`
        context.save_for_backward(query_JGK, capsule_GKP, query_GJK)
        context.types = types
        return gathered_JGK

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_JGK, capsule_GKP, query_GJK = context.saved_tensors
        if torch.is_grad_enabled():  # with create_graph=True
            plain = functools.partial(_plain_over_inputs, types=context.types)
            return (*plain_gradients(plain, (query_JGK, capsule_GKP), gradients[0]), None)
        gradient_GJK = gradients[0].transpose(0, 1).contiguous()
        query_gradient_JGK, capsule_gradient_GKP = torch.empty_like(query_JGK), torch.empty_like(capsule_GKP)
        padded_GLP = _padded(capsule_GKP) * math.log(2)
        for piece, (exp_gJP, slope_gJP) in _pieces(query_JGK, capsule_GKP, 2):
            torch.bmm(query_GJK[piece], capsule_GKP[piece], out=exp_gJP).exp2_()
            torch.bmm(gradient_GJK[piece], capsule_GKP[piece], out=slope_gJP).mul_(exp_gJP)
            out_gKP = torch.bmm(gradient_GJK[piece].mT, exp_gJP, out=capsule_gradient_GKP[piece])
            out_gKP.baddbmm_(query_GJK[piece].mT, slope_gJP, alpha=math.log(2))
            _gather(slope_gJP, padded_GLP[piece], out=query_gradient_JGK[:, piece])
        capsule_gradient_GKP[:, 0] = 0
        return query_gradient_JGK, capsule_gradient_GKP, None


class _OverOutputs(torch.autograd.Function):
    """With `h` the gradient of the result: `dvalue = h^T c`, `dl = ln 2 c (h . value - value . dvalue)`."""

    @staticmethod
    def forward(context: Any, query_JGK: torch.Tensor, key_GKP: torch.Tensor, value_GLP: torch.Tensor) -> torch.Tensor:
        outputs, groups, _ = query_JGK.shape
        gathered_JGL = query_JGK.new_empty(outputs, groups, value_GLP.shape[1])
        logsumexp_G1P = query_JGK.new_empty(groups, 1, key_GKP.shape[2])
        padded_GLP = _padded(value_GLP)
        for piece, (exp_gJP,) in _pieces(query_JGK, key_GKP):
            torch.bmm(_of_groups(query_JGK, piece), key_GKP[piece], out=exp_gJP)
            peak_g1P = exp_gJP.amax(1, keepdim=True)
            exp_gJP.sub_(peak_g1P).exp2_()
            total_g1P = exp_gJP.sum(1, keepdim=True)
            _gather(exp_gJP, padded_GLP[piece] / total_g1P, out=gathered_JGL[:, piece])
            logsumexp_G1P[piece] = peak_g1P.add_(total_g1P.log2_())
        context.save_for_backward(query_JGK, key_GKP, value_GLP, logsumexp_G1P)
        return gathered_JGL

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_JGK, key_GKP, value_GLP, logsumexp_G1P = context.saved_tensors
        if torch.is_grad_enabled():
            return tuple(plain_gradients(_plain_over_outputs, (query_JGK, key_GKP, value_GLP), gradients[0]))
        gradient_JGL = gradients[0].contiguous()
        result = tuple(torch.empty_like(tensor) for tensor in (query_JGK, key_GKP, value_GLP))
        padded_GKP, scaled_GLP = _padded(key_GKP), value_GLP * math.log(2)
        for piece, (share_gJP, slope_gJP) in _pieces(query_JGK, key_GKP, 2):
            torch.bmm(_of_groups(query_JGK, piece), key_GKP[piece], out=share_gJP)
            share_gJP.sub_(logsumexp_G1P[piece]).exp2_()
            gradient_gJL = _of_groups(gradient_JGL, piece)
            scaled_gLP, value_gradient_gLP = scaled_GLP[piece], result[2][piece]
            torch.bmm(gradient_gJL.mT, share_gJP, out=value_gradient_gLP)
            torch.bmm(gradient_gJL, scaled_gLP, out=slope_gJP)
            mean_g1P = (scaled_gLP * value_gradient_gLP).sum(1, keepdim=True)
            slope_gJP.sub_(mean_g1P).mul_(share_gJP)
            _gather(slope_gJP, padded_GKP[piece], out=result[0][:, piece])
            torch.bmm(_of_groups(query_JGK, piece).mT, slope_gJP, out=result[1][piece])
        return result


class _Spread(torch.autograd.Function):
    """The gradient reaches the largest and the smallest alone."""

    @staticmethod
    def forward(context: Any, query_JGK: torch.Tensor, key_GKP: torch.Tensor) -> torch.Tensor:
        groups, _, positions = key_GKP.shape
        spread_GP = key_GKP.new_empty(groups, positions)
        extreme_2GP = torch.empty(2, groups, positions, dtype=torch.long, device=key_GKP.device)
        for piece, (logit_gJP,) in _pieces(query_JGK, key_GKP):
            torch.bmm(_of_groups(query_JGK, piece), key_GKP[piece], out=logit_gJP)
            high_gP, extreme_2GP[0, piece] = logit_gJP.max(1)
            low_gP, extreme_2GP[1, piece] = logit_gJP.min(1)
            torch.sub(high_gP, low_gP, out=spread_GP[piece])
        context.save_for_backward(query_JGK, key_GKP, extreme_2GP)
        return spread_GP

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_JGK, key_GKP, extreme_2GP = context.saved_tensors
        if torch.is_grad_enabled():
            return tuple(plain_gradients(_plain_spread, (query_JGK, key_GKP), gradients[0]))
        gradient_GP1 = gradients[0].unsqueeze(2)
        query_GJK = query_JGK.transpose(0, 1)
        index_2GPK = extreme_2GP.unsqueeze(3).expand(-1, -1, -1, query_JGK.shape[2])
        difference_GPK = query_GJK.gather(1, index_2GPK[0]) - query_GJK.gather(1, index_2GPK[1])
        query_gradient_GJK = torch.zeros_like(query_GJK)
        through_GPK = key_GKP.mT * gradient_GP1
        query_gradient_GJK.scatter_add_(1, index_2GPK[0], through_GPK)
        query_gradient_GJK.scatter_add_(1, index_2GPK[1], -through_GPK)
        return query_gradient_GJK.transpose(0, 1), (difference_GPK * gradient_GP1).mT


def _pieces(
    query_JGK: torch.Tensor, key_GKP: torch.Tensor, buffers: int = 1
) -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
    """Yield slices of the groups, each with buffers `(g, J, P)` that are the same memory for every slice."""
    outputs, (groups, _, positions) = query_JGK.shape[0], key_GKP.shape
    piece = _PIECE.get(key_GKP.device.type, _PIECE_ELSEWHERE)
    size = max(1, min(groups, piece // (outputs * positions * buffers))) if has_values(key_GKP) else groups
    memory = tuple(key_GKP.new_empty(size, outputs, positions) for _ in range(buffers))
    for start in range(0, groups, size):
        stop = min(start + size, groups)
        yield slice(start, stop), tuple(buffer[: stop - start] for buffer in memory)


def _of_groups(tensor_JGK: torch.Tensor, piece: slice) -> torch.Tensor:
    return tensor_JGK[:, piece].transpose(0, 1)


def _padded(value_GLP: torch.Tensor) -> torch.Tensor:
    """Zeros up to a multiple of 16 values: matrix products that narrow are several times faster at even widths."""
    return F.pad(value_GLP, (0, 0, 0, -value_GLP.shape[1] % 16))


def _gather(weight_gJP: torch.Tensor, padded_gLP: torch.Tensor, out: torch.Tensor) -> None:
    """`out_jgl = sum_p weight_gjp value_glp`; J outside is what sums of votes read along memory."""
    out.copy_((weight_gJP @ padded_gLP.mT)[..., : out.shape[2]].transpose(0, 1))


def _plain_over_inputs(query_JGK: torch.Tensor, capsule_GKP: torch.Tensor, types: int) -> torch.Tensor:
    logit_JGP = torch.einsum("jgk,gkp->jgp", query_JGK, capsule_GKP)
    logit_JBI = logit_JGP.unflatten(1, (-1, types)).flatten(2)
    exp_JBI = 2.0 ** (logit_JBI - logit_JBI.detach().amax(2, keepdim=True))  # ONNX has no exp2
    return torch.einsum("jgp,gkp->jgk", exp_JBI.view(logit_JGP.shape), capsule_GKP)


def _plain_over_outputs(query_JGK: torch.Tensor, key_GKP: torch.Tensor, value_GLP: torch.Tensor) -> torch.Tensor:
    logit_JGP = torch.einsum("jgk,gkp->jgp", query_JGK, key_GKP)
    return torch.einsum("jgp,glp->jgl", (logit_JGP * math.log(2)).softmax(0), value_GLP)


def _plain_spread(query_JGK: torch.Tensor, key_GKP: torch.Tensor) -> torch.Tensor:
    logit_JGP = torch.einsum("jgk,gkp->jgp", query_JGK, key_GKP)
    return logit_JGP.max(0).values - logit_JGP.min(0).values
