"""Routing of sequences to interests literally as in the formulas: loops over samples, steps t and interests j.

Names, arguments and shapes are those of `encapkeras.functional`. The oracle of the tests.
"""

from __future__ import annotations

import torch

from encapkeras.reference.routing_loops import total


def interest_routing(
    sequence: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    logits: torch.Tensor,
    mask: torch.Tensor,
    count: torch.Tensor | None = None,
    iterations: int = 3,
    stop_gradient: bool = True,
) -> torch.Tensor:
    """Return interests `(B, J, E)`; every vote is made, and each sample is routed by itself."""
    samples = []
    for sample, steps in enumerate(sequence):
        outputs = int(count[sample]) if count is not None else logits.shape[-1]
        real = [t for t in range(len(steps)) if mask[sample, t]]
        votes = {(t, j): _vote(steps[t], weight, bias, t, j) for t in real for j in range(outputs)}
        fixed = {pair: vote.detach() for pair, vote in votes.items()} if stop_gradient else votes
        start = logits if logits.dim() == 2 else logits[sample]
        logit = {(t, j): start[t, j] for t, j in votes}
        interests = []
        for iteration in range(iterations):
            given = votes if iteration == iterations - 1 else fixed
            share = _softmax(logit, real, outputs)
            nothing = sequence.new_zeros(weight.shape[-1])
            interests = [
                _squash(total([share[t, j] * given[t, j] for t in real])) if real else nothing for j in range(outputs)
            ]
            logit = {(t, j): logit[t, j] + interests[j] @ fixed[t, j] for t, j in votes}
            if stop_gradient:
                logit = {pair: value.detach() for pair, value in logit.items()}
        missing = [sequence.new_zeros(weight.shape[-1])] * (logits.shape[-1] - outputs)
        samples.append(torch.stack([*interests, *missing]))
    return torch.stack(samples)


def interest_attention(
    sequence: torch.Tensor,
    hidden_weight: torch.Tensor,
    hidden_bias: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    positions: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Return interests `(B, J, D)`: means of the real steps."""
    samples = []
    for sample, steps in enumerate(sequence):
        real = [t for t in range(len(steps)) if mask[sample, t]]
        logit = {t: torch.tanh((steps[t] + positions[t]) @ hidden_weight + hidden_bias) @ weight + bias for t in real}
        if not real:
            samples.append(sequence.new_zeros(len(bias), sequence.shape[2]))
            continue
        divisor = total([logit[t].exp() for t in real])
        mean = [total([logit[t][j].exp() / divisor[j] * steps[t] for t in real]) for j in range(len(bias))]
        samples.append(torch.stack(mean))
    return torch.stack(samples)


def _vote(step: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, t: int, j: int) -> torch.Tensor:
    if weight.dim() == 4:
        return step @ weight[t, j]
    matrix, offset = (weight[j], None if bias is None else bias[j]) if weight.dim() == 3 else (weight, bias)
    return step @ matrix if offset is None else step @ matrix + offset


def _softmax(
    logit: dict[tuple[int, int], torch.Tensor], real: list[int], outputs: int
) -> dict[tuple[int, int], torch.Tensor]:
    divisor = {t: total([logit[t, j].exp() for j in range(outputs)]) for t in real}
    return {(t, j): value.exp() / divisor[t] for (t, j), value in logit.items()}


def _squash(capsule: torch.Tensor) -> torch.Tensor:
    square = (capsule * capsule).sum()
    return square / (1 + square) * capsule / (square + 1e-9).sqrt()
