"""The coupling coefficients of a routing in every iteration, made again from the routing's results.

The states after each iteration come from the routing functions, which need no votes; couplings follow from them, for
one chunk of votes at a time. What an iteration's couplings need of all input capsules at once (the denominators of
a softmax over them, the variances of EM) is gathered from the chunks of the iteration before.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, J output capsules, E their dimension; n,
b and p are those of a chunk.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from encapkeras.functional.routing.dynamic_routing import SoftmaxAxis, dynamic_routing
from encapkeras.functional.routing.em_routing import em_routing
from encapkeras.functional.routing.em_steps import EPSILON, VARIANCE_FLOOR


@dataclass(frozen=True)
class RoutingRecord(ABC):
    """What an analysis needs of a routing layer: its weights and options, and the couplings that they lead to."""

    weight_NJED: Tensor
    bias_NJE: Tensor | None
    iterations: int
    softmax_over: SoftmaxAxis

    kind: ClassVar[str]

    @abstractmethod
    def couplings(self, capsules_BPND: Tensor, activations_BPN: Tensor | None) -> Couplings:
        """Return the couplings of a batch, before its first iteration."""


@dataclass(frozen=True)
class DynamicRouting(RoutingRecord):
    """Weights and options of `dynamic_routing`."""

    output_bias_JE: Tensor | None = None

    kind = "dynamic"

    def couplings(self, capsules_BPND: Tensor, activations_BPN: Tensor | None) -> Couplings:
        """Return the couplings of a batch, before its first iteration."""
        return _DynamicCouplings(self, capsules_BPND)


@dataclass(frozen=True)
class EMRouting(RoutingRecord):
    """Weights and options of `em_routing`."""

    beta_v: Tensor
    beta_a: Tensor
    normalize_distances: bool
    density_floor: float

    kind = "em"

    def couplings(self, capsules_BPND: Tensor, activations_BPN: Tensor | None) -> Couplings:
        """Return the couplings of a batch, before its first iteration."""
        return _EMCouplings(self, capsules_BPND, activations_BPN)


class Couplings(ABC):
    """A batch's couplings: in each iteration, call `of` and then `gather` for every chunk of votes, then `advance`."""

    outputs_BJE: Tensor  # after the current iteration: `v_j`, or `mu_j` of EM
    activations_BJ: Tensor  # `|v_j|`, or `a_j` of EM

    @abstractmethod
    def of(self, votes_NBPJE: Tensor) -> Tensor:
        """Return the couplings `(n, b, p, J)` of the current iteration; they sum to 1 over the axis of the softmax."""

    @abstractmethod
    def gather(self, votes_NBPJE: Tensor, shares_NBPJ: Tensor) -> None:
        """Record what the next iteration needs; `shares_NBPJ` are the weights of the votes in their mean."""

    @abstractmethod
    def advance(self) -> None:
        """Advance to the next iteration."""


class _DynamicCouplings(Couplings):
    """`c = softmax(vote_ij . (v_j^1 + ... + v_j^(t-1)))`: the logits are made again for each chunk."""

    def __init__(self, routing: DynamicRouting, capsules_BPND: Tensor) -> None:
        weights = (capsules_BPND, routing.weight_NJED, routing.bias_NJE)
        self._states = [
            dynamic_routing(
                *weights,
                iterations=t + 1,
                softmax_over=routing.softmax_over,
                output_bias=routing.output_bias_JE,
            )
            for t in range(routing.iterations)
        ]
        self._over_inputs = routing.softmax_over == "inputs"
        self._iteration = 0
        first = self._states[0]
        self._query_BJE = torch.zeros_like(first)
        inputs = capsules_BPND.shape[1] * capsules_BPND.shape[2]
        self._log_total_BJ = first.new_full(first.shape[:2], math.log(inputs))
        self._set_state()

    def _set_state(self) -> None:
        self.outputs_BJE = self._states[self._iteration]
        self.activations_BJ = self.outputs_BJE.norm(dim=-1)
        self._next_query_BJE = self._query_BJE + self.outputs_BJE
        self._next_log_total_BJ = torch.full_like(self._log_total_BJ, -math.inf)

    def of(self, votes_NBPJE: Tensor) -> Tensor:
        logits_NBPJ = dot(votes_NBPJE, self._query_BJE)
        if not self._over_inputs:
            return logits_NBPJ.softmax(dim=-1)
        return (logits_NBPJ - self._log_total_BJ[:, None]).exp()

    def gather(self, votes_NBPJE: Tensor, shares_NBPJ: Tensor) -> None:
        if self._over_inputs:
            logits_NBPJ = dot(votes_NBPJE, self._next_query_BJE)
            self._next_log_total_BJ = torch.logaddexp(self._next_log_total_BJ, logits_NBPJ.logsumexp(dim=(0, 2)))

    def advance(self) -> None:
        self._iteration += 1
        self._query_BJE, self._log_total_BJ = self._next_query_BJE, self._next_log_total_BJ
        self._set_state()


class _EMCouplings(Couplings):
    """`R_ij = p_ij a_j / sum_j p_ij a_j`, with the densities `p_ij` of the iteration before."""

    def __init__(self, routing: EMRouting, capsules_BPND: Tensor, activations_BPN: Tensor | None) -> None:
        weights = (capsules_BPND, routing.weight_NJED, routing.bias_NJE, activations_BPN)
        self._states = [
            em_routing(
                *weights,
                routing.beta_v,
                routing.beta_a,
                iterations=t + 1,
                normalize_distances=routing.normalize_distances,
                density_floor=routing.density_floor,
            )
            for t in range(routing.iterations)
        ]
        self._routing = routing
        self._iteration = 0
        self._set_state()

    def _set_state(self) -> None:
        self.outputs_BJE, self.activations_BJ = self._states[self._iteration]
        self._deviation_BJE = torch.zeros_like(self.outputs_BJE)
        self._amount_BJ = torch.zeros_like(self.activations_BJ)

    def of(self, votes_NBPJE: Tensor) -> Tensor:
        if self._iteration == 0:
            return votes_NBPJE.new_full(votes_NBPJE.shape[:-1], 1 / votes_NBPJE.shape[-2])
        distances_NBPJ = dot(squared_distance(votes_NBPJE, self._mean_BJE), 1 / (2 * self._variance_BJE + EPSILON))
        if self._routing.normalize_distances:
            distances_NBPJ = _scale_range(distances_NBPJ)
        return (self._log_weight_BJ[:, None] - distances_NBPJ).softmax(dim=-1)

    def gather(self, votes_NBPJE: Tensor, shares_NBPJ: Tensor) -> None:
        squares_NBPJE = squared_distance(votes_NBPJE, self.outputs_BJE)
        self._deviation_BJE += torch.einsum("nbpj,nbpje->bje", shares_NBPJ, squares_NBPJE)
        self._amount_BJ += shares_NBPJ.sum(dim=(0, 2))

    def advance(self) -> None:
        self._mean_BJE = self.outputs_BJE
        variance_BJE = self._deviation_BJE / (self._amount_BJ[..., None] + EPSILON)
        self._variance_BJE = variance_BJE.clamp_min(VARIANCE_FLOOR)
        # What every input capsule's logit for j has in common: log a_j minus the logarithm of the density's divisor.
        log_root_BJ = 0.5 * (2 * math.pi * self._variance_BJE).log().sum(dim=-1)
        if self._routing.density_floor > 0:
            log_root_BJ = torch.logaddexp(
                log_root_BJ, torch.full_like(log_root_BJ, math.log(self._routing.density_floor))
            )
        smallest = torch.finfo(log_root_BJ.dtype).tiny
        self._log_weight_BJ = self.activations_BJ.clamp_min(smallest).log() - log_root_BJ
        self._iteration += 1
        self._set_state()


def dot(votes_NBPJE: Tensor, query_BJE: Tensor) -> Tensor:
    """Return the inner product `(n, b, p, J)` of each vote with its output capsule's query."""
    return torch.einsum("nbpje,bje->nbpj", votes_NBPJE, query_BJE)


def squared_distance(votes_NBPJE: Tensor, mean_BJE: Tensor) -> Tensor:
    """Return `(vote_ijd - mu_jd)^2`."""
    return (votes_NBPJE - mean_BJE[:, None]).square_()


def _scale_range(distances_NBPJ: Tensor) -> Tensor:
    """`10 (x - min) / (max - min) - 5` over j; 0 where all are equal."""
    low, high = distances_NBPJ.aminmax(dim=-1, keepdim=True)
    width = high - low
    ranged = 10 * (distances_NBPJ - low) / width.where(width > 0, 1) - 5
    return ranged.where(width > 0, 0)
