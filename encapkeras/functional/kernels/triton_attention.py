"""The two passes of routing as Triton kernels: coefficients `(G, J, P)` exist in a processor's registers alone.

What is computed, and why gradients are as they are, is in `routing.attention`, of which these are the same functions.
Kernels that sum over positions belong to a group and a block of output capsules; those that sum over output capsules,
to a group and a block of positions. No kernel adds to what another wrote, so that results are the same in each run.

Shape suffixes: G groups, J output capsules, P positions of a group, K numbers of a key, L numbers of a value. Blocks
have them too: their sides are powers of two, filled up with zeros. Products are in full precision ("ieee").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from encapkeras.functional.kernels.triton_compiler import (
    blocks,
    constexpr,
    kernel,
    on_device_of,
    power_of_two,
    tensor,
    tl,
)
from encapkeras.functional.torch_support.plain_gradients import plain_gradients

_WIDEST = 512
"""Bytes of the widest key or value: sums as wide must fit into registers. Torch's operations take wider ones."""
_BLOCK = 8192
"""Bytes of a block of keys: blocks share the some 100 KB that a processor of a small GPU has."""
_SMALLEST = 16  # side of a product of blocks
LN_2 = None if tl is None else constexpr(math.log(2))


def fits(query_JGK: torch.Tensor, *parts_GKP: torch.Tensor) -> bool:
    """Return whether the kernels take tensors of these sizes and types."""
    tensors = (query_JGK, *parts_GKP)
    full = query_JGK.dtype in (torch.float32, torch.float64)
    alike = all(tensor.dtype == query_JGK.dtype and tensor.numel() > 0 for tensor in tensors)
    widest = max(power_of_two(part_GKP.shape[1]) for part_GKP in parts_GKP)
    return full and alike and widest * query_JGK.element_size() <= _WIDEST


def attend_over_inputs(
    query_JGK: torch.Tensor, capsule_GKP: torch.Tensor, types: int, plain: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Return `sum_p 2^(q_jg . u_gp - m) u_gp`, `(J, G, K)`, as `routing.attention.attend_over_inputs`.

    Args:
        query_JGK: Queries.
        capsule_GKP: Keys and values; their first component is 1, and gets no gradient.
        types: Number of neighboring groups that are one sample, with one `m`.
        plain: The same function of torch's operations, for second derivatives.
    """
    return _OverInputs.apply(query_JGK, capsule_GKP, types, plain)  # type: ignore[no-any-return]


def attend_over_outputs(
    query_JGK: torch.Tensor, key_GKP: torch.Tensor, value_GLP: torch.Tensor, plain: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Return `sum_p c_jgp value_gp`, `(J, G, L)`, as `routing.attention.attend_over_outputs`.

    Args:
        query_JGK: Queries.
        key_GKP: Keys; c is a softmax over the output capsules j.
        value_GLP: Values.
        plain: The same function of torch's operations, for second derivatives.
    """
    return _OverOutputs.apply(query_JGK, key_GKP, value_GLP, plain)  # type: ignore[no-any-return]


class _OverInputs(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, query_JGK: torch.Tensor, capsule_GKP: torch.Tensor, types: int, plain: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        queries, capsules = query_JGK.contiguous(), capsule_GKP.contiguous()
        gathered_JGK, peak_JG = torch.empty_like(queries), queries.new_empty(queries.shape[:2])
        sizes = Sizes(queries, capsules, capsules)
        with on_device_of(queries):
            _gather_inputs[sizes.by_outputs](queries, capsules, gathered_JGK, peak_JG, *sizes.sizes, **sizes.sides)
        peak_JBN = peak_JG.unflatten(1, (-1, types))
        highest_JB1 = peak_JBN.amax(2, keepdim=True)
        gathered_JGK.mul_((peak_JBN - highest_JB1).exp2_().flatten(1).unsqueeze(2))
        shifted_JGK = queries.clone()
        shifted_JGK.unflatten(1, (-1, types))[..., 0] -= highest_JB1  # then their logits are `l - m`
        context.save_for_backward(query_JGK, capsule_GKP, shifted_JGK)
        context.plain = lambda query, capsule: plain(query, capsule, types)
        return gathered_JGK

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_JGK, capsule_GKP, shifted_JGK = context.saved_tensors
        if torch.is_grad_enabled():  # with create_graph=True
            return (*plain_gradients(context.plain, (query_JGK, capsule_GKP), gradients[0]), None, None)
        capsules, gradient_JGK = capsule_GKP.contiguous(), gradients[0].contiguous()
        query_gradient, capsule_gradient = torch.empty_like(shifted_JGK), torch.empty_like(capsules)
        sizes = Sizes(shifted_JGK, capsules, capsules)
        given = (shifted_JGK, capsules, gradient_JGK)
        with on_device_of(capsules):
            _input_query_gradient[sizes.by_outputs](*given, query_gradient, *sizes.sizes, **sizes.sides)
            _input_capsule_gradient[sizes.by_positions](*given, capsule_gradient, *sizes.sizes, **sizes.sides)
        return query_gradient, capsule_gradient, None, None


class _OverOutputs(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        query_JGK: torch.Tensor,
        key_GKP: torch.Tensor,
        value_GLP: torch.Tensor,
        plain: Callable[..., torch.Tensor],
    ) -> torch.Tensor:
        queries, keys, values = query_JGK.contiguous(), key_GKP.contiguous(), value_GLP.contiguous()
        gathered_JGL = queries.new_empty(*queries.shape[:2], values.shape[1])
        total_GP = keys.new_empty(keys.shape[0], keys.shape[2])
        sizes = Sizes(queries, keys, values)
        with on_device_of(queries):
            _total_outputs[sizes.by_positions](queries, keys, total_GP, *sizes.sizes, **sizes.sides)
            given = (queries, keys, values, total_GP)
            _gather_outputs[sizes.by_outputs](*given, gathered_JGL, *sizes.sizes, **sizes.sides)
        context.save_for_backward(query_JGK, key_GKP, value_GLP, total_GP)
        context.plain = plain
        return gathered_JGL

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *inputs, total_GP = context.saved_tensors
        if torch.is_grad_enabled():
            return (*plain_gradients(context.plain, inputs, gradients[0]), None)
        queries, keys, values, gradient_JGL = (tensor.contiguous() for tensor in (*inputs, gradients[0]))
        found = tuple(torch.empty_like(tensor) for tensor in (queries, keys, values))
        mean_GP = torch.empty_like(total_GP)
        sizes = Sizes(queries, keys, values)
        given = (queries, keys, values, gradient_JGL, total_GP, mean_GP)
        with on_device_of(queries):
            _output_key_gradients[sizes.by_positions](*given, found[1], found[2], *sizes.sizes, **sizes.sides)
            _output_query_gradient[sizes.by_outputs](*given, found[0], *sizes.sizes, **sizes.sides)
        return (*found, None)


class Sizes:
    """The sizes that all kernels get, the sides of their blocks, and how many programs there are."""

    def __init__(self, query_JGK: torch.Tensor, key_GKP: torch.Tensor, value_GLP: torch.Tensor) -> None:
        (outputs, groups, numbers), (_, values, positions) = query_JGK.shape, value_GLP.shape
        wide, long = (max(_SMALLEST, power_of_two(size)) for size in (numbers, values))
        side_J = min(max(_SMALLEST, power_of_two(outputs)), 32)
        most = max(_SMALLEST, _BLOCK // (max(wide, long) * query_JGK.element_size()))
        side_P = min(max(_SMALLEST, power_of_two(positions)), most)
        self.sizes = (outputs, groups, positions, numbers, values)
        self.sides = {"SIDE_J": side_J, "SIDE_P": side_P, "SIDE_K": wide, "SIDE_L": long}
        self.by_outputs = (groups, blocks(outputs, side_J))
        self.by_positions = (groups, blocks(positions, side_P))


@kernel
def _load_by_output(
    pointer: tensor, group: tensor, index_J: tensor, J: tensor, G: tensor, width: tensor, SIDE: constexpr
) -> tensor:
    """Queries or their gradients of a group, `(J, K)` of `(J, G, K)`."""
    index_K = tl.arange(0, SIDE)
    place_JK = (index_J.to(tl.int64) * G + group)[:, None] * width + index_K[None, :]
    return tl.load(pointer + place_JK, mask=(index_J < J)[:, None] & (index_K < width)[None, :], other=0.0)


@kernel
def _store_by_output(
    pointer: tensor,
    block_JK: tensor,
    group: tensor,
    index_J: tensor,
    J: tensor,
    G: tensor,
    width: tensor,
    SIDE: constexpr,
) -> None:
    index_K = tl.arange(0, SIDE)
    place_JK = (index_J.to(tl.int64) * G + group)[:, None] * width + index_K[None, :]
    tl.store(pointer + place_JK, block_JK, mask=(index_J < J)[:, None] & (index_K < width)[None, :])


@kernel
def _load_by_position(
    pointer: tensor, group: tensor, index_P: tensor, P: tensor, width: tensor, SIDE: constexpr
) -> tensor:
    """Keys or values of a group, `(K, P)` of `(G, K, P)`."""
    index_K = tl.arange(0, SIDE)
    place_KP = (group * width + index_K)[:, None] * P + index_P[None, :]
    return tl.load(pointer + place_KP, mask=(index_K < width)[:, None] & (index_P < P)[None, :], other=0.0)


@kernel
def _store_by_position(
    pointer: tensor,
    block_KP: tensor,
    group: tensor,
    index_P: tensor,
    P: tensor,
    first: tensor,
    width: tensor,
    SIDE: constexpr,
) -> None:
    """Zeros in the rows before `first`."""
    index_K = tl.arange(0, SIDE)
    place_KP = (group * width + index_K)[:, None] * P + index_P[None, :]
    kept_KP = tl.where((index_K >= first)[:, None], block_KP, 0.0)
    tl.store(pointer + place_KP, kept_KP, mask=(index_K < width)[:, None] & (index_P < P)[None, :])


@kernel
def _product(left: tensor, right: tensor) -> tensor:
    return tl.dot(left, right, input_precision="ieee", out_dtype=left.dtype)


@kernel
def _gather_inputs(
    query_JGK: tensor, capsule_GKP: tensor, gathered_JGK: tensor, peak_JG: tensor,
    J: tensor, G: tensor, P: tensor, K: tensor, L: tensor,
    SIDE_J: constexpr, SIDE_P: constexpr, SIDE_K: constexpr, SIDE_L: constexpr,
) -> None:  # fmt: skip
    """Sums with the largest logit of the group so far as m; each larger one that comes scales them down."""
    group = tl.program_id(0).to(tl.int64)
    index_J = tl.program_id(1) * SIDE_J + tl.arange(0, SIDE_J)
    query_JK = _load_by_output(query_JGK, group, index_J, J, G, K, SIDE_K)
    gathered_JK = tl.zeros([SIDE_J, SIDE_K], query_JK.dtype)
    peak_J = tl.full([SIDE_J], float("-inf"), query_JK.dtype)
    for start in range(0, P, SIDE_P):
        index_P = start + tl.arange(0, SIDE_P)
        capsule_KP = _load_by_position(capsule_GKP, group, index_P, P, K, SIDE_K)
        logit_JP = tl.where((index_P < P)[None, :], _product(query_JK, capsule_KP), float("-inf"))
        higher_J = tl.maximum(peak_J, tl.max(logit_JP, 1))
        exp_JP = tl.exp2(logit_JP - higher_J[:, None])
        gathered_JK = gathered_JK * tl.exp2(peak_J - higher_J)[:, None] + _product(exp_JP, tl.trans(capsule_KP))
        peak_J = higher_J
    _store_by_output(gathered_JGK, gathered_JK, group, index_J, J, G, K, SIDE_K)
    tl.store(peak_JG + index_J.to(tl.int64) * G + group, peak_J, mask=index_J < J)


@kernel
def _input_query_gradient(
    query_JGK: tensor, capsule_GKP: tensor, gradient_JGK: tensor, result_JGK: tensor,
    J: tensor, G: tensor, P: tensor, K: tensor, L: tensor,
    SIDE_J: constexpr, SIDE_P: constexpr, SIDE_K: constexpr, SIDE_L: constexpr,
) -> None:  # fmt: skip
    """`dq = ln 2 sum_p (h . u) e u`."""
    group = tl.program_id(0).to(tl.int64)
    index_J = tl.program_id(1) * SIDE_J + tl.arange(0, SIDE_J)
    query_JK = _load_by_output(query_JGK, group, index_J, J, G, K, SIDE_K)
    gradient_JK = _load_by_output(gradient_JGK, group, index_J, J, G, K, SIDE_K) * LN_2
    result_JK = tl.zeros([SIDE_J, SIDE_K], query_JK.dtype)
    for start in range(0, P, SIDE_P):
        index_P = start + tl.arange(0, SIDE_P)
        capsule_KP = _load_by_position(capsule_GKP, group, index_P, P, K, SIDE_K)
        slope_JP = tl.exp2(_product(query_JK, capsule_KP)) * _product(gradient_JK, capsule_KP)
        result_JK += _product(slope_JP, tl.trans(capsule_KP))
    _store_by_output(result_JGK, result_JK, group, index_J, J, G, K, SIDE_K)


@kernel
def _input_capsule_gradient(
    query_JGK: tensor, capsule_GKP: tensor, gradient_JGK: tensor, result_GKP: tensor,
    J: tensor, G: tensor, P: tensor, K: tensor, L: tensor,
    SIDE_J: constexpr, SIDE_P: constexpr, SIDE_K: constexpr, SIDE_L: constexpr,
) -> None:  # fmt: skip
    """`du = sum_j (ln 2 (h . u) e q + e h)`; none for the first component."""
    group = tl.program_id(0).to(tl.int64)
    index_P = tl.program_id(1) * SIDE_P + tl.arange(0, SIDE_P)
    capsule_KP = _load_by_position(capsule_GKP, group, index_P, P, K, SIDE_K)
    result_KP = tl.zeros([SIDE_K, SIDE_P], capsule_KP.dtype)
    for start in range(0, J, SIDE_J):
        index_J = start + tl.arange(0, SIDE_J)
        query_JK = _load_by_output(query_JGK, group, index_J, J, G, K, SIDE_K)
        gradient_JK = _load_by_output(gradient_JGK, group, index_J, J, G, K, SIDE_K)
        exp_JP = tl.exp2(_product(query_JK, capsule_KP))
        slope_JP = _product(gradient_JK, capsule_KP) * exp_JP * LN_2
        result_KP += _product(tl.trans(query_JK), slope_JP) + _product(tl.trans(gradient_JK), exp_JP)
    _store_by_position(result_GKP, result_KP, group, index_P, P, 1, K, SIDE_K)


@kernel
def _total_outputs(
    query_JGK: tensor, key_GKP: tensor, total_GP: tensor,
    J: tensor, G: tensor, P: tensor, K: tensor, L: tensor,
    SIDE_J: constexpr, SIDE_P: constexpr, SIDE_K: constexpr, SIDE_L: constexpr,
) -> None:  # fmt: skip
    """`log2 sum_j 2^l`."""
    group = tl.program_id(0).to(tl.int64)
    index_P = tl.program_id(1) * SIDE_P + tl.arange(0, SIDE_P)
    key_KP = _load_by_position(key_GKP, group, index_P, P, K, SIDE_K)
    peak_P = tl.full([SIDE_P], float("-inf"), key_KP.dtype)
    sum_P = tl.zeros([SIDE_P], key_KP.dtype)
    for start in range(0, J, SIDE_J):
        index_J = start + tl.arange(0, SIDE_J)
        query_JK = _load_by_output(query_JGK, group, index_J, J, G, K, SIDE_K)
        logit_JP = tl.where((index_J < J)[:, None], _product(query_JK, key_KP), float("-inf"))
        higher_P = tl.maximum(peak_P, tl.max(logit_JP, 0))
        sum_P = sum_P * tl.exp2(peak_P - higher_P) + tl.sum(tl.exp2(logit_JP - higher_P[None, :]), 0)
        peak_P = higher_P
    tl.store(total_GP + group * P + index_P, peak_P + tl.log2(sum_P), mask=index_P < P)


@kernel
def _share(query_JK: tensor, key_KP: tensor, total_P: tensor, index_J: tensor, J: tensor) -> tensor:
    """Coefficients; 0 for rows that are no output capsules, of which the total knows nothing."""
    return tl.exp2(tl.where((index_J < J)[:, None], _product(query_JK, key_KP) - total_P[None, :], float("-inf")))


@kernel
def _gather_outputs(
    query_JGK: tensor, key_GKP: tensor, value_GLP: tensor, total_GP: tensor, gathered_JGL: tensor,
    J: tensor, G: tensor, P: tensor, K: tensor, L: tensor,
    SIDE_J: constexpr, SIDE_P: constexpr, SIDE_K: constexpr, SIDE_L: constexpr,
) -> None:  # fmt: skip
    group = tl.program_id(0).to(tl.int64)
    index_J = tl.program_id(1) * SIDE_J + tl.arange(0, SIDE_J)
    query_JK = _load_by_output(query_JGK, group, index_J, J, G, K, SIDE_K)
    gathered_JL = tl.zeros([SIDE_J, SIDE_L], query_JK.dtype)
    for start in range(0, P, SIDE_P):
        index_P = start + tl.arange(0, SIDE_P)
        key_KP = _load_by_position(key_GKP, group, index_P, P, K, SIDE_K)
        value_LP = _load_by_position(value_GLP, group, index_P, P, L, SIDE_L)
        total_P = tl.load(total_GP + group * P + index_P, mask=index_P < P, other=0.0)
        gathered_JL += _product(_share(query_JK, key_KP, total_P, index_J, J), tl.trans(value_LP))
    _store_by_output(gathered_JGL, gathered_JL, group, index_J, J, G, L, SIDE_L)


@kernel
def _output_key_gradients(
    query_JGK: tensor, key_GKP: tensor, value_GLP: tensor, gradient_JGL: tensor, total_GP: tensor, mean_GP: tensor,
    key_result_GKP: tensor, value_result_GLP: tensor,
    J: tensor, G: tensor, P: tensor, K: tensor, L: tensor,
    SIDE_J: constexpr, SIDE_P: constexpr, SIDE_K: constexpr, SIDE_L: constexpr,
) -> None:  # fmt: skip
    """`dvalue = sum_j c h`; `dl = ln 2 c (h . value - mean)`, with `mean = value . dvalue`; `dkey = sum_j dl q`."""
    group = tl.program_id(0).to(tl.int64)
    index_P = tl.program_id(1) * SIDE_P + tl.arange(0, SIDE_P)
    key_KP = _load_by_position(key_GKP, group, index_P, P, K, SIDE_K)
    value_LP = _load_by_position(value_GLP, group, index_P, P, L, SIDE_L)
    total_P = tl.load(total_GP + group * P + index_P, mask=index_P < P, other=0.0)
    result_LP = tl.zeros([SIDE_L, SIDE_P], key_KP.dtype)
    for start in range(0, J, SIDE_J):
        index_J = start + tl.arange(0, SIDE_J)
        query_JK = _load_by_output(query_JGK, group, index_J, J, G, K, SIDE_K)
        gradient_JL = _load_by_output(gradient_JGL, group, index_J, J, G, L, SIDE_L)
        result_LP += _product(tl.trans(gradient_JL), _share(query_JK, key_KP, total_P, index_J, J))
    mean_P = tl.sum(result_LP * value_LP, 0)
    result_KP = tl.zeros([SIDE_K, SIDE_P], key_KP.dtype)
    for start in range(0, J, SIDE_J):
        index_J = start + tl.arange(0, SIDE_J)
        query_JK = _load_by_output(query_JGK, group, index_J, J, G, K, SIDE_K)
        gradient_JL = _load_by_output(gradient_JGL, group, index_J, J, G, L, SIDE_L)
        slope_JP = (_product(gradient_JL, value_LP) - mean_P[None, :]) * LN_2
        slope_JP *= _share(query_JK, key_KP, total_P, index_J, J)
        result_KP += _product(tl.trans(query_JK), slope_JP)
    tl.store(mean_GP + group * P + index_P, mean_P, mask=index_P < P)
    _store_by_position(value_result_GLP, result_LP, group, index_P, P, 0, L, SIDE_L)
    _store_by_position(key_result_GKP, result_KP, group, index_P, P, 0, K, SIDE_K)


@kernel
def _output_query_gradient(
    query_JGK: tensor, key_GKP: tensor, value_GLP: tensor, gradient_JGL: tensor, total_GP: tensor, mean_GP: tensor,
    result_JGK: tensor,
    J: tensor, G: tensor, P: tensor, K: tensor, L: tensor,
    SIDE_J: constexpr, SIDE_P: constexpr, SIDE_K: constexpr, SIDE_L: constexpr,
) -> None:  # fmt: skip
    """`dq = sum_p dl key`."""
    group = tl.program_id(0).to(tl.int64)
    index_J = tl.program_id(1) * SIDE_J + tl.arange(0, SIDE_J)
    query_JK = _load_by_output(query_JGK, group, index_J, J, G, K, SIDE_K)
    gradient_JL = _load_by_output(gradient_JGL, group, index_J, J, G, L, SIDE_L)
    result_JK = tl.zeros([SIDE_J, SIDE_K], query_JK.dtype)
    for start in range(0, P, SIDE_P):
        index_P = start + tl.arange(0, SIDE_P)
        key_KP = _load_by_position(key_GKP, group, index_P, P, K, SIDE_K)
        value_LP = _load_by_position(value_GLP, group, index_P, P, L, SIDE_L)
        total_P = tl.load(total_GP + group * P + index_P, mask=index_P < P, other=0.0)
        mean_P = tl.load(mean_GP + group * P + index_P, mask=index_P < P, other=0.0)
        slope_JP = (_product(gradient_JL, value_LP) - mean_P[None, :]) * LN_2
        slope_JP *= _share(query_JK, key_KP, total_P, index_J, J)
        result_JK += _product(slope_JP, tl.trans(key_KP))
    _store_by_output(result_JGK, result_JK, group, index_J, J, G, K, SIDE_K)


KERNELS = (
    _gather_inputs,
    _input_query_gradient,
    _input_capsule_gradient,
    _total_outputs,
    _gather_outputs,
    _output_key_gradients,
    _output_query_gradient,
)
"""All that are launched, for tests that translate them for GPUs."""
