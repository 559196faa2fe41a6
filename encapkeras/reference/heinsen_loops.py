"""Heinsen's two routings literally as in the formulas: loops over samples, inputs i and outputs j. The oracle of tests.

Names, arguments and shapes are those of `encapkeras.functional`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from encapkeras.reference.routing_loops import total
from encapkeras.reference.window_routing_loops import layer_norm

EPSILON = 1e-5


def heinsen_2019_routing(
    scores: torch.Tensor,
    matrices: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    beta_use: torch.Tensor,
    beta_ignore: torch.Tensor,
    *,
    iterations: int = 3,
    density: str = "gaussian",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Heinsen's first routing (2019)."""
    samples = []
    inputs, outputs = range(scores.shape[1]), range(bias.shape[1])
    size = (len(inputs), len(outputs))
    weight, bias = weight.expand(*size, -1, -1), bias.expand(*size, -1, -1)
    beta_use, beta_ignore = beta_use.expand(size), beta_ignore.expand(size)
    for score, sample in zip(scores, matrices, strict=True):
        vote = [[sample[i] @ weight[i, j] + bias[i, j] for j in outputs] for i in inputs]
        share = [[torch.full_like(score[i], 1 / len(outputs)) for j in outputs] for i in inputs]
        for _ in range(iterations):
            out, mean, variance = [], [], []
            for j in outputs:
                use = [score[i].sigmoid() * share[i][j] for i in inputs]
                ignore = [score[i].sigmoid() - use[i] for i in inputs]
                amount = total(use) + EPSILON
                out.append(total([beta_use[i, j] * use[i] - beta_ignore[i, j] * ignore[i] for i in inputs]))
                mean.append(total([use[i] * vote[i][j] for i in inputs]) / amount)
                variance.append(total([use[i] * (vote[i][j] - mean[j]) ** 2 for i in inputs]) / amount + EPSILON)
            for i in inputs:
                logs = log_densities(vote[i], mean, variance, density)
                share[i] = list(torch.stack([logsigmoid(out[j]) + logs[j] for j in outputs]).softmax(0))
        samples.append([torch.stack(out), torch.stack(mean), torch.stack(variance)])
    score, mean_of_all, variance_of_all = (torch.stack(parts) for parts in zip(*samples, strict=True))
    return score, mean_of_all, variance_of_all


def log_densities(
    vote: list[torch.Tensor], mean: list[torch.Tensor], variance: list[torch.Tensor], density: str
) -> list[torch.Tensor]:
    """Return the logarithm of what an input's votes say for each output."""
    outputs = range(len(vote))
    distance = [(vote[j] - mean[j]) ** 2 for j in outputs]
    if density == "skm":
        return list(torch.stack([-distance[j].sum() for j in outputs]).log_softmax(0))
    return [-(distance[j] / (2 * variance[j])).sum() - variance[j].log().sum() / 2 for j in outputs]


def heinsen_2022_routing(
    inputs: torch.Tensor,
    weights: Any,
    beta_use: torch.Tensor,
    beta_ignore: torch.Tensor,
    *,
    iterations: int = 2,
    normalize: bool = True,
    mask: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Heinsen's second routing (2022), with `VectorRoutingWeights`."""
    batch, count, _ = inputs.shape
    size = (batch, count, len(weights.vote_bias))
    beta_use, beta_ignore = beta_use.expand(size), beta_ignore.expand(size)
    hidden = torch.zeros(size, dtype=torch.bool) if mask is None else mask.expand(size)
    samples = []
    for b in range(batch):
        scale = 1 / math.sqrt(count if length is None else length[b])
        samples.append(
            sample_2022(inputs[b], scale, weights, beta_use[b], beta_ignore[b], hidden[b].tolist(), iterations)
        )
    outputs, credit = (torch.stack(parts) for parts in zip(*samples, strict=True))
    return norm_of_vectors(outputs) if normalize else outputs, credit


def sample_2022(
    x: torch.Tensor,
    scale: float,
    weights: Any,
    beta_use: torch.Tensor,
    beta_ignore: torch.Tensor,
    hidden: list[list[bool]],
    iterations: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Route the inputs `(I, D)` of one sample; return the outputs before the last layer norm, and the credit."""
    inputs, outputs, zero = range(len(x)), range(len(weights.vote_bias)), torch.zeros((), dtype=x.dtype)
    active_weight, active_bias = weights.active_weight.expand(len(x), -1), weights.active_bias.expand(len(x))
    score_scale, score_bias = weights.score_scale.expand(len(x), -1), weights.score_bias.expand(len(x), -1)
    active = [torch.sigmoid(scale * x[i] @ active_weight[i] + active_bias[i]) for i in inputs]
    scaled = [[scale * x[i] * weights.vote_input_scale[j] for j in outputs] for i in inputs]
    vote = [[scaled[i][j] @ weights.vote_weight + weights.vote_bias[j] for j in outputs] for i in inputs]
    score = [[zero for _ in outputs] for _ in inputs]
    for _ in range(iterations):
        credit = [[zero for _ in outputs] for _ in inputs]
        for i in inputs:
            seen = [j for j in outputs if not hidden[i][j]]
            for j in seen:
                share = score[i][j].exp() / total([score[i][k].exp() for k in seen])
                use = active[i] * share
                credit[i][j] = beta_use[i, j] * use - beta_ignore[i, j] * (active[i] - use)
        y = [total([credit[i][j] * vote[i][j] for i in inputs]) for j in outputs]
        for j in outputs:
            predicted = norm_of_vectors(y[j]) @ weights.prediction_weight
            predicted = predicted * weights.prediction_scale[j] + weights.prediction_bias[j]
            for i in inputs:
                score[i][j] = logsigmoid(x[i] @ predicted * score_scale[i, j] + score_bias[i, j])
    return torch.stack(y), torch.stack([torch.stack(row) for row in credit])


def norm_of_vectors(y: torch.Tensor) -> torch.Tensor:
    """Return the layer norm, or single numbers as they are."""
    return y if y.shape[-1] == 1 else layer_norm(y)


def end_to_end_credit(credits: list[torch.Tensor], *, of_sample: bool = True) -> torch.Tensor:
    """Return the product of the layers' credits, each divided by its standard deviation before the next."""
    product = by_deviation(credits[0].detach(), of_sample)
    for credit in credits[1:]:
        product = by_deviation(product @ credit.detach(), of_sample)
    return product


def by_deviation(credit: torch.Tensor, of_sample: bool) -> torch.Tensor:
    """Divide each sample by its standard deviation + 1e-5, or by that of the batch."""
    return torch.stack([sample / ((sample if of_sample else credit).std() + EPSILON) for sample in credit])
