"""Dynamic routing where each child has its own matrices, as in the CapsNet of Sabour et al. 2017.

Nothing is shared between the children, so a pass over their votes is the least that an iteration can do. The votes of
some children are made by a batched matrix product, with the samples last in memory: a coefficient, which has no
components, is then multiplied along memory. They are used, and made again in the next pass, so that all votes never
exist. What gradients are made of is collected in the backward pass: children and matrices get theirs in one pass.

Shape suffixes: M samples, N children, D their dimension, J outputs, E their dimension, n a piece of N.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from encapkeras.functional.squash import SquashOptions, squash
from encapkeras.functional.torch_support.fake_tensors import has_values
from encapkeras.functional.torch_support.plain_gradients import plain_gradients

Axis = Literal["inputs", "outputs"]
Use = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Of a pass: coefficients `(N, J, M)`, gradient of the sums `(J, E, M)`, gradient of the logits, query `(J, E, M)`."""

_PIECE = {"cpu": 1 << 19}
"""Numbers of votes in a piece: 2 MB in float32, for the cache; elsewhere as many as keep the device busy."""
_PIECE_ELSEWHERE = 1 << 26
_PAPER = SquashOptions()


def route_own_matrices(
    child_MND: torch.Tensor,
    weight_NJED: torch.Tensor,
    bias_JE: torch.Tensor | None = None,
    *,
    iterations: int,
    axis: Axis,
    options: SquashOptions = _PAPER,
) -> torch.Tensor:
    """Return outputs `(M, J, E)` of dynamic routing; the softmax goes over the children, or over the outputs.

    `bias_JE` is added to the sums of votes in each iteration.
    """
    child_NDM = child_MND.permute(1, 2, 0).contiguous()
    out_JEM: torch.Tensor = _Routed.apply(child_NDM, weight_NJED.contiguous(), bias_JE, iterations, axis, options)
    return out_JEM.permute(2, 0, 1)


class _Routed(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        child_NDM: torch.Tensor,
        weight_NJED: torch.Tensor,
        bias_JE: torch.Tensor | None,
        iterations: int,
        axis: Axis,
        options: SquashOptions,
    ) -> torch.Tensor:
        alike = 1 / (weight_NJED.shape[1] if axis == "outputs" else len(child_NDM))
        sum_JEM = _sum_alike(child_NDM, weight_NJED).mul_(alike)
        sums = [_add_bias(sum_JEM, bias_JE)]
        shares: list[torch.Tensor] = []
        queries: list[torch.Tensor] = []
        query_JEM = torch.zeros_like(sum_JEM)
        for _ in range(iterations - 1):
            query_JEM = query_JEM + squash(sums[-1], dim=1, **options._asdict())
            sum_JEM, share_NJM = _attend(child_NDM, weight_NJED, query_JEM, axis)
            for kept, tensor in ((sums, _add_bias(sum_JEM, bias_JE)), (shares, share_NJM), (queries, query_JEM)):
                kept.append(tensor)
        context.save_for_backward(child_NDM, weight_NJED, bias_JE, *sums, *shares, *queries)
        context.iterations, context.axis, context.options, context.alike = iterations, axis, options, alike
        return squash(sums[-1], dim=1, **options._asdict())

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        child_NDM, weight_NJED, bias_JE, *kept = context.saved_tensors
        count, axis, options = context.iterations, context.axis, context.options
        if torch.is_grad_enabled():  # with create_graph=True
            plain = functools.partial(_plain, iterations=count, axis=axis, options=options)
            return (*plain_gradients(plain, (child_NDM, weight_NJED, bias_JE), gradients[0]), None, None, None)
        sums, shares, queries = kept[:count], kept[count : 2 * count - 1], kept[2 * count - 1 :]
        out_gradient_JEM, uses = gradients[0].contiguous(), []
        of_queries_JEM, of_bias_JEM = (torch.zeros_like(out_gradient_JEM) for _ in range(2))
        for sum_JEM, share_NJM, query_JEM in reversed(list(zip(sums[1:], shares, queries, strict=True))):
            gradient_JEM = _through_squash(sum_JEM, out_gradient_JEM, options)
            query_gradient_JEM, slope_NJM = _attend_backward(
                child_NDM, weight_NJED, share_NJM, _without_bias(sum_JEM, bias_JE), gradient_JEM, axis
            )
            uses.append((share_NJM, gradient_JEM, slope_NJM, query_JEM))
            of_bias_JEM += gradient_JEM
            out_gradient_JEM = of_queries_JEM.add_(query_gradient_JEM)  # an output is in all later queries
        alike_JEM = _through_squash(sums[0], out_gradient_JEM, options)
        of_bias_JE = None if bias_JE is None else of_bias_JEM.add_(alike_JEM).sum(2)
        return *_gradients(child_NDM, weight_NJED, alike_JEM * context.alike, uses), of_bias_JE, None, None, None


def _add_bias(sum_JEM: torch.Tensor, bias_JE: torch.Tensor | None) -> torch.Tensor:
    return sum_JEM if bias_JE is None else sum_JEM + bias_JE.unsqueeze(2)


def _without_bias(sum_JEM: torch.Tensor, bias_JE: torch.Tensor | None) -> torch.Tensor:
    return sum_JEM if bias_JE is None else sum_JEM - bias_JE.unsqueeze(2)


def _sum_alike(child_NDM: torch.Tensor, weight_NJED: torch.Tensor) -> torch.Tensor:
    """The sums of all votes, `(J, E, M)`: one matrix product."""
    weight_JEX = weight_NJED.permute(1, 2, 0, 3).flatten(2)
    return weight_JEX @ child_NDM.flatten(0, 1)


def _attend(
    child_NDM: torch.Tensor, weight_NJED: torch.Tensor, query_JEM: torch.Tensor, axis: Axis
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `sum_n c vote`, `(J, E, M)`, with `c` a softmax of `vote . query`, and `c`, `(N, J, M)`."""
    shares_NJM = child_NDM.new_empty(len(child_NDM), *query_JEM.shape[::2])
    sum_JEM = torch.zeros_like(query_JEM)
    peak_JM = query_JEM.new_full(query_JEM.shape[::2], -torch.inf)
    total_JM = torch.zeros_like(peak_JM)
    for piece, vote_nJEM in _votes(child_NDM, weight_NJED):
        logit_nJM = (vote_nJEM * query_JEM).sum(2)
        if axis == "outputs":
            share_nJM = torch.softmax(logit_nJM, 1)
            shares_NJM[piece] = share_nJM
        else:
            shares_NJM[piece] = logit_nJM
            higher_JM = torch.maximum(peak_JM, logit_nJM.amax(0))
            rescale_JM = (peak_JM - higher_JM).exp_()
            share_nJM = logit_nJM.sub_(higher_JM).exp_()
            total_JM.mul_(rescale_JM).add_(share_nJM.sum(0))
            sum_JEM.mul_(rescale_JM.unsqueeze(1))
            peak_JM = higher_JM
        sum_JEM += vote_nJEM.mul_(share_nJM.unsqueeze(2)).sum(0)
    if axis == "inputs":
        sum_JEM.div_(total_JM.unsqueeze(1))
        shares_NJM.sub_(peak_JM.add_(total_JM.log_())).exp_()
    return sum_JEM, shares_NJM


def _attend_backward(
    child_NDM: torch.Tensor,
    weight_NJED: torch.Tensor,
    share_NJM: torch.Tensor,
    sum_JEM: torch.Tensor,
    gradient_JEM: torch.Tensor,
    axis: Axis,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of the query, and of the logits, `(N, J, M)`: `c (h . vote - mean of it)`."""
    slope_NJM = torch.empty_like(share_NJM)
    query_gradient_JEM = torch.zeros_like(gradient_JEM)
    mean_JM = (gradient_JEM * sum_JEM).sum(1)  # over all children, which share 1
    for piece, vote_nJEM in _votes(child_NDM, weight_NJED):
        slope_nJM = torch.sum(vote_nJEM * gradient_JEM, 2, out=slope_NJM[piece])
        share_nJM = share_NJM[piece]
        slope_nJM.sub_((slope_nJM * share_nJM).sum(1, keepdim=True) if axis == "outputs" else mean_JM).mul_(share_nJM)
        query_gradient_JEM += vote_nJEM.mul_(slope_nJM.unsqueeze(2)).sum(0)
    return query_gradient_JEM, slope_NJM


def _gradients(
    child_NDM: torch.Tensor, weight_NJED: torch.Tensor, alike_JEM: torch.Tensor, uses: Sequence[Use]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of children and matrices, of sums of all votes alike and of all uses."""
    child_gradient_NDM, weight_gradient_NJED = torch.empty_like(child_NDM), torch.empty_like(weight_NJED)
    for piece in _pieces(child_NDM, weight_NJED):
        through_nJEM = alike_JEM.expand(piece.stop - piece.start, -1, -1, -1).contiguous()
        for share_NJM, gradient_JEM, slope_NJM, query_JEM in uses:
            through_nJEM.addcmul_(share_NJM[piece].unsqueeze(2), gradient_JEM)
            through_nJEM.addcmul_(slope_NJM[piece].unsqueeze(2), query_JEM)
        through_nXM = through_nJEM.flatten(1, 2)
        torch.bmm(through_nXM, child_NDM[piece].mT, out=weight_gradient_NJED[piece].flatten(1, 2))
        torch.bmm(weight_NJED[piece].flatten(1, 2).mT, through_nXM, out=child_gradient_NDM[piece])
    return child_gradient_NDM, weight_gradient_NJED


def _through_squash(sum_JEM: torch.Tensor, gradient_JEM: torch.Tensor, options: SquashOptions) -> torch.Tensor:
    with torch.enable_grad():
        leaf = sum_JEM.detach().requires_grad_()
        return torch.autograd.grad(squash(leaf, dim=1, **options._asdict()), leaf, gradient_JEM)[0]


def _votes(child_NDM: torch.Tensor, weight_NJED: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield pieces of the children and their votes, which are the same memory for every piece."""
    outputs, dim = weight_NJED.shape[1:3]
    memory = None
    for piece in _pieces(child_NDM, weight_NJED):
        if memory is None:
            memory = child_NDM.new_empty(piece.stop, outputs * dim, child_NDM.shape[2])
        vote_nXM = memory[: piece.stop - piece.start]
        torch.bmm(weight_NJED[piece].flatten(1, 2), child_NDM[piece], out=vote_nXM)
        yield piece, vote_nXM.unflatten(1, (outputs, dim))


def _pieces(child_NDM: torch.Tensor, weight_NJED: torch.Tensor) -> Iterator[slice]:
    children, _, samples = child_NDM.shape
    most = _PIECE.get(child_NDM.device.type, _PIECE_ELSEWHERE)
    votes = weight_NJED[0, ..., 0].numel() * samples
    size = max(1, most // votes) if has_values(child_NDM) and votes else children
    return (slice(start, min(start + size, children)) for start in range(0, children, size))


def _plain(
    child_NDM: torch.Tensor,
    weight_NJED: torch.Tensor,
    bias_JE: torch.Tensor | None,
    iterations: int,
    axis: Axis,
    options: SquashOptions,
) -> torch.Tensor:
    vote_NJEM = torch.einsum("njed,ndm->njem", weight_NJED, child_NDM)
    logit_NJM = torch.zeros_like(vote_NJEM[:, :, 0])
    for _ in range(iterations):
        share_NJM = logit_NJM.softmax(0 if axis == "inputs" else 1)
        sum_JEM = _add_bias((share_NJM.unsqueeze(2) * vote_NJEM).sum(0), bias_JE)
        out_JEM = squash(sum_JEM, dim=1, **options._asdict())
        logit_NJM = logit_NJM + (vote_NJEM * out_JEM).sum(2)
    return out_JEM
