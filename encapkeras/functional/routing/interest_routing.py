"""Routing of sequences to interests (MIND, ComiRec DR): dynamic routing, a softmax over the interests, masked steps.

Shape suffixes: B batch, L steps, D their dimension, J interests, E their dimension; M is J, or 1 for one matrix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from encapkeras.errors import ShapeError
from encapkeras.functional.routing.routing_inputs import check_iterations, check_sequence, check_step_mask
from encapkeras.functional.squash import squash
from encapkeras.functional.torch_support.precision import full_precision

SQUASH_EPSILON = 1e-9
"""The published code's: added to the square below the root."""


def interest_routing(
    sequence: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    logits: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    count: torch.Tensor | None = None,
    iterations: int = 3,
    stop_gradient: bool = True,
) -> torch.Tensor:
    """Route the steps of a sequence to interests by agreement; padded steps have weight 0.

    `u_tj = x_t W_tj + bias_j`; T times `c_t = softmax over the interests j of logits_t`, 0 where the mask is, then
    `v_j = squash(sum_t c_tj u_tj)` and, between the iterations, `logits_tj += <v_j, u_tj>`: B2I of MIND (Li et al.
    2019, arXiv 1904.08030) with one matrix for all, ComiRec DR (Cen et al. 2020, arXiv 2005.09347) with one for each
    step and interest. Squash is `|s|^2 / (1 + |s|^2) * s / sqrt(|s|^2 + 1e-9)`. Where steps share a matrix, they are
    summed before they are mapped, and no votes exist.

    Args:
        sequence: Steps `(B, L, D)`. Half precision is computed in float32.
        weight: Matrices of the votes: `(D, E)` for all steps and interests, `(J, D, E)` for each interest, or `(S, J,
            D, E)` for each of S steps and each interest; of a shorter sequence the first L are taken.
        bias: Added to the votes: `(E,)` or `(J, E)`; None with matrices for each step.
        logits: Those at the start, `(L, J)` or `(B, L, J)`; 0 if not given. With one matrix they must be given, and
            differ: all votes of a step are equal, so equal logits would keep all interests equal.
        mask: True where a step is real, `(B, L)`; all are if not given.
        count: Number of interests of each sample, `(B,)`: the others are 0. See `interest_count`.
        iterations: Number T of iterations, from 1.
        stop_gradient: Whether coefficients are constants, as published: gradients flow through the votes of the last
            iteration alone.

    Returns:
        Interests `(B, J, E)` of lengths below 1, in the type of `sequence`; 0 where no step is real.

    Raises:
        ArgumentError: `iterations` has an invalid value.
        ShapeError: The sizes do not match, or the sequence is longer than the matrices for its steps.

    Examples:
        >>> sequence, mask = torch.randn(2, 50, 16), torch.arange(50) < torch.tensor([[50], [20]])
        >>> weight, logits = torch.randn(16, 8) / 4, torch.randn(50, 4)
        >>> interest_routing(sequence, weight, logits=logits, mask=mask).shape
        torch.Size([2, 4, 8])
        >>> interest_routing(sequence, torch.randn(50, 4, 16, 8) / 4, mask=mask).shape
        torch.Size([2, 4, 8])
    """
    check_iterations(iterations)
    check_sequence(sequence)
    check_step_mask(mask, sequence)
    outputs = _check_sizes(sequence, weight, bias, logits, count)
    with full_precision(sequence, weight) as wide:
        step_BLD = wide(sequence)
        if mask is not None:
            step_BLD = step_BLD.masked_fill(~mask.bool().unsqueeze(2), 0)
        votes = _votes(step_BLD, wide(weight), None if bias is None else wide(bias))
        fixed = votes.detach() if stop_gradient else votes
        logit_BLJ = step_BLD.new_zeros(1, 1, outputs) if logits is None else wide(logits)
        logit_BLJ = logit_BLJ.expand(*sequence.shape[:2], outputs)
        for iteration in range(iterations):
            share_BLJ = _shares(logit_BLJ, mask, count)
            last = iteration == iterations - 1
            out_BJE = squash((votes if last else fixed).gather(share_BLJ), epsilon=SQUASH_EPSILON)
            if not last:
                logit_BLJ = logit_BLJ + fixed.agreement(out_BJE)
        return out_BJE.to(sequence.dtype)


def interest_count(length: torch.Tensor, most: int) -> torch.Tensor:
    """Return how many interests a sequence gets: `floor(log2(1 + length))`, from 1 to `most` (MIND, Li et al. 2019).

    Args:
        length: Numbers of real steps, whole numbers of any shape.
        most: The largest number of interests, from 1.

    Examples:
        >>> interest_count(torch.tensor([0, 1, 2, 3, 7, 200]), 4)
        tensor([1, 1, 1, 2, 3, 4])
    """
    count = torch.ones_like(length)
    for number in range(2, min(most, 62) + 1):  # in whole numbers: a logarithm of a power of 2 may be below it
        count = count + (length >= 2**number - 1)
    return count


class _SharedVotes(NamedTuple):
    """Votes of steps that share one matrix, or one for each interest: steps are summed before they are mapped."""

    step_BLD: torch.Tensor
    weight_MDE: torch.Tensor
    bias_ME: torch.Tensor | None

    def detach(self) -> _SharedVotes:
        bias_ME = None if self.bias_ME is None else self.bias_ME.detach()
        return _SharedVotes(self.step_BLD.detach(), self.weight_MDE.detach(), bias_ME)

    def gather(self, share_BLJ: torch.Tensor) -> torch.Tensor:
        """Return sums over the steps of shares times votes, `(B, J, E)`."""
        sum_BJE = _map(share_BLJ.mT @ self.step_BLD, self.weight_MDE)
        return sum_BJE if self.bias_ME is None else sum_BJE + share_BLJ.sum(1).unsqueeze(2) * self.bias_ME

    def agreement(self, out_BJE: torch.Tensor) -> torch.Tensor:
        """Return products of votes and interests, `(B, L, J)`."""
        logit_BLJ = self.step_BLD @ _map(out_BJE, self.weight_MDE.mT).mT
        return logit_BLJ if self.bias_ME is None else logit_BLJ + (out_BJE * self.bias_ME).sum(2).unsqueeze(1)


class _OwnVotes(NamedTuple):
    """Votes of steps that have own matrices."""

    vote_LBJE: torch.Tensor

    def detach(self) -> _OwnVotes:
        return _OwnVotes(self.vote_LBJE.detach())

    def gather(self, share_BLJ: torch.Tensor) -> torch.Tensor:
        """Return sums over the steps of shares times votes, `(B, J, E)`."""
        return torch.einsum("blj,lbje->bje", share_BLJ, self.vote_LBJE)

    def agreement(self, out_BJE: torch.Tensor) -> torch.Tensor:
        """Return products of votes and interests, `(B, L, J)`."""
        return torch.einsum("bje,lbje->blj", out_BJE, self.vote_LBJE)


def _map(vector_BJX: torch.Tensor, weight_MXY: torch.Tensor) -> torch.Tensor:
    """Map vectors by the one matrix, or each by its interest's."""
    if len(weight_MXY) == 1:
        return vector_BJX @ weight_MXY[0]
    return (vector_BJX.unsqueeze(2) @ weight_MXY).squeeze(2)


def _votes(step_BLD: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> _SharedVotes | _OwnVotes:
    if weight.dim() < 4:
        bias_ME = None if bias is None else bias.reshape(-1, bias.shape[-1])
        return _SharedVotes(step_BLD, weight.reshape(-1, *weight.shape[-2:]), bias_ME)
    weight_LDX = weight[: step_BLD.shape[1]].transpose(1, 2).flatten(2)
    vote_LBX = step_BLD.transpose(0, 1) @ weight_LDX
    return _OwnVotes(vote_LBX.unflatten(2, (weight.shape[1], weight.shape[3])))


def _shares(logit_BLJ: torch.Tensor, mask: torch.Tensor | None, count: torch.Tensor | None) -> torch.Tensor:
    """Return the coefficients: a softmax over the interests that a sample has, 0 for padded steps."""
    if count is not None:
        number_J = torch.arange(logit_BLJ.shape[2], device=logit_BLJ.device)
        logit_BLJ = logit_BLJ.masked_fill(number_J >= count.reshape(-1, 1, 1), -math.inf)
    share_BLJ = logit_BLJ.softmax(2)
    return share_BLJ if mask is None else share_BLJ.masked_fill(~mask.bool().unsqueeze(2), 0)


def _check_sizes(
    sequence: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    logits: torch.Tensor | None,
    count: torch.Tensor | None,
) -> int:
    """Return the number of interests."""
    batch, steps, dim = sequence.shape
    if weight.dim() not in (2, 3, 4) or weight.shape[-2] != dim or 0 in weight.shape:
        raise ShapeError(
            "weight must be (input dim, output dim), with interests before, and steps before these, if they have own "
            f"matrices; the steps of sequence {tuple(sequence.shape)} have dim {dim}; received {tuple(weight.shape)}"
        )
    if weight.dim() == 4 and steps > len(weight):
        raise ShapeError(f"weight has matrices for {len(weight)} steps; received a sequence of {steps}")
    if weight.dim() == 2 and logits is None:
        raise ShapeError("logits must be given where all interests share one matrix; received None")
    outputs = logits.shape[-1] if weight.dim() == 2 and logits is not None else weight.shape[-3]
    biases = {2: (weight.shape[-1],), 3: (outputs, weight.shape[-1])}
    if bias is not None and tuple(bias.shape) != biases.get(weight.dim()):
        allowed = biases.get(weight.dim(), "None, as each step has own matrices")
        raise ShapeError(f"bias must be {allowed}; received {tuple(bias.shape)}")
    if logits is not None and tuple(logits.shape) not in ((steps, outputs), (batch, steps, outputs)):
        expected = f"(steps, interests) = {(steps, outputs)}, or (batch, steps, interests)"
        raise ShapeError(f"logits must be {expected}; received {tuple(logits.shape)}")
    if count is not None and tuple(count.shape) != (batch,):
        raise ShapeError(f"count must be ({batch},), one number for each sample; received {tuple(count.shape)}")
    return outputs
