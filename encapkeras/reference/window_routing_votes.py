"""Routing in windows the usual way, with the tensor of all votes: windows unfolded, then one batched matrix product.

The baseline of `encapkeras bench routing`, written as a careful engineer would: votes lie so that all that follows runs
along memory, each sum is one pass over them, deviations of a mean are made once an iteration. Names and arguments are
those of `encapkeras.functional`.

Shape suffixes: B batch, P Q map of the parents, O window offsets, N child types, I = O * N children of a parent,
M = B * P * Q parent positions, D dimension of a child, J parent types, E their dimension, A rows and C columns of a
pose (E = A * C), X columns of a child's pose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from encapkeras.reference.routing_votes import squash

Step = int | tuple[int, int]


@dataclass
class Trace:
    """What a routing did: its votes, and the states after its iterations.

    Attributes:
        votes: Of each iteration, `(I, M, E, J)`.
        states: Of each iteration: coefficients `(I, M, J)`, what the votes count in the parents' mean `(I, M, J)`,
            parents `(M, E, J)`, and their activations `(M, J)`.
        present: Which children count, `(I, M)`; all if not given.
        rivals: How many parents compete for each child, `(I, M)`; as many as the windows have if not given.
    """

    votes: list[torch.Tensor] = field(default_factory=list)
    states: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    present: torch.Tensor | None = None
    rivals: torch.Tensor | None = None

    def add(self, vote_IMEJ: torch.Tensor, *state: torch.Tensor) -> None:
        """Add the state after an iteration."""
        self.votes.append(vote_IMEJ)
        self.states.append(state)


class Windows:
    """A kernel that moves over a map: unfolds maps, and sums over all parents of a child."""

    def __init__(self, kernel_size: tuple[int, int], strides: Step, padding: Step) -> None:
        self.kernel_size = kernel_size
        self.strides = (strides, strides) if isinstance(strides, int) else strides
        self.padding = (padding, padding) if isinstance(padding, int) else padding

    def unfold(self, padded: torch.Tensor) -> torch.Tensor:
        """Return `(O, B, P, Q, ...)` of a padded map `(B, H, W, ...)`."""
        for axis in (0, 1):
            padded = padded.unfold(1 + axis, self.kernel_size[axis], self.strides[axis])
        return padded.movedim((-2, -1), (0, 1)).flatten(0, 1)

    def children(self, map_BHWN: torch.Tensor) -> torch.Tensor:
        """Return all children of all parents, `(I, M, ...)`, of a map `(B, H, W, N, ...)`."""
        vertical, horizontal = self.padding
        sides = [0, 0] * (map_BHWN.dim() - 3) + [horizontal, horizontal, vertical, vertical]
        return self.unfold(F.pad(map_BHWN, sides)).movedim(4, 1).flatten(2, 4).flatten(0, 1)

    def places(self, capsules: torch.Tensor) -> torch.Tensor:
        """Return where in the padded map each child of each position is, `(O * P * Q,)`, for all samples alike."""
        height, width = (size + 2 * side for size, side in zip(capsules.shape[1:3], self.padding, strict=True))
        number_1HW = torch.arange(height * width, device=capsules.device).view(1, height, width)
        return self.unfold(number_1HW).flatten()


class Rivals:
    """The parents that compete for a child: of its position, or all that it feeds."""

    def __init__(self, capsules: torch.Tensor, windows: Windows, competition: str) -> None:
        self.of_child = competition == "child"
        self.batch, self.types, self.offsets = len(capsules), capsules.shape[3], math.prod(windows.kernel_size)
        self.place = windows.places(capsules)

    def count(self, outputs: int) -> torch.Tensor:
        """Return how many parents compete for each child, `(I, M, 1)`."""
        windows_of_place = self.place.bincount() if self.of_child else torch.ones_like(self.place)
        number_OQ = (windows_of_place[self.place] if self.of_child else windows_of_place).view(self.offsets, -1)
        number_IQ = number_OQ.repeat_interleave(self.types, 0) * outputs
        return number_IQ.repeat(1, self.batch).unsqueeze(2)

    def log_total(self, logit_IMJ: torch.Tensor) -> torch.Tensor:
        """Return the log of the sum of exponentials over the parents that compete for each child, `(I, M, 1)`."""
        of_position_IM = logit_IMJ.logsumexp(2)
        if not self.of_child:
            return of_position_IM.unsqueeze(2)
        value_ONBQ = of_position_IM.view(self.offsets, self.types, self.batch, -1)
        value_RNB = value_ONBQ.movedim(3, 1).flatten(0, 1)
        zero_SNB = value_RNB.new_zeros(int(self.place.max()) + 1, self.types, self.batch)
        with torch.no_grad():
            places_RNB = self.place.view(-1, 1, 1).expand_as(value_RNB)
            highest_SNB = zero_SNB.scatter_reduce(0, places_RNB, value_RNB, "amax", include_self=False)
        exponential_RNB = (value_RNB - highest_SNB[self.place]).exp()
        total_RNB = zero_SNB.index_add(0, self.place, exponential_RNB)[self.place].log() + highest_SNB[self.place]
        total_ONBQ: torch.Tensor = total_RNB.unflatten(0, (self.offsets, -1)).movedim(1, 3)
        return total_ONBQ.reshape(*of_position_IM.shape, 1)

    def softmax(self, logit_IMJ: torch.Tensor) -> torch.Tensor:
        """Return the softmax over the parents that compete for each child."""
        return (logit_IMJ - self.log_total(logit_IMJ)).exp() if self.of_child else logit_IMJ.softmax(2)


def kernel_of(weight: torch.Tensor) -> tuple[int, int]:
    """Return rows and columns of the windows of vote matrices."""
    return weight.shape[-6], weight.shape[-5]


def votes(
    child_IMD: torch.Tensor, weight: torch.Tensor, pose: str, offsets: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `vote[i, m, :, j] = W[i, j] @ u[i, m]`, or of matrix poses `U[i, m] @ W[i, j]`: `(I, M, E, J)`.

    Matrices are `(K_h, K_w, N, J, ...)`, or `(P, Q, K_h, K_w, N, J, ...)` of each position of the parents.
    Offsets `(K_h, K_w, E)` are added to all votes from an offset of the window.
    """
    weight_QIJXY = (weight if weight.dim() == 8 else weight[None, None]).flatten(0, 1).flatten(1, 3)
    positions, outputs = len(weight_QIJXY), weight.shape[-3]
    child_IQBD = child_IMD.unflatten(1, (-1, positions)).transpose(1, 2)  # B is M where all positions share matrices
    axes = (1, 0, 4, 3, 2) if pose == "vector" else (1, 0, 3, 4, 2)
    matrix_IQXY = weight_QIJXY.permute(axes).flatten(3, 4)
    row_IQRX = child_IQBD.reshape(*child_IQBD.shape[:2], -1, matrix_IQXY.shape[2])
    vote_IQBEJ = (row_IQRX @ matrix_IQXY).view(*child_IQBD.shape[:3], -1, outputs)
    vote_IMEJ: torch.Tensor = vote_IQBEJ.transpose(1, 2).flatten(1, 2)
    if offsets is None:
        return vote_IMEJ
    return vote_IMEJ + offsets.flatten(0, 1).repeat_interleave(weight.shape[-4], 0)[:, None, :, None]


def gather(share_IMJ: torch.Tensor, vote_IMEJ: torch.Tensor) -> torch.Tensor:
    """Return `sum_i share_ij vote_ij`, `(M, E, J)`."""
    return (share_IMJ.unsqueeze(2) * vote_IMEJ).sum(0)


def dot(vote_IMEJ: torch.Tensor, parent_MEJ: torch.Tensor) -> torch.Tensor:
    """Return the products of votes with their parents, `(I, M, J)`."""
    return (vote_IMEJ * parent_MEJ).sum(2)


def as_map(parent_MEJ: torch.Tensor, capsules: torch.Tensor, windows: Windows) -> torch.Tensor:
    """Return what the parents have as a map `(B, P, Q, J, ...)`."""
    height, padding = capsules.shape[1], windows.padding[0]
    rows = (height + 2 * padding - windows.kernel_size[0]) // windows.strides[0] + 1
    parent_BPQJ: torch.Tensor = parent_MEJ.unflatten(0, (len(capsules), rows, -1)).movedim(-1, 3)
    return parent_BPQJ


def self_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor | None,
    routing_weight: torch.Tensor,
    routing_bias: torch.Tensor,
    *,
    strides: Step = 1,
    padding: Step = 0,
    pose: str = "vector",
    trace: Trace | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Self-routing (Hahn et al. 2019)."""
    decision = routing_weight.unsqueeze(-2)
    windows = Windows(kernel_of(decision), strides, padding)
    child_IMD, active_IM = windows.children(capsules), windows.children(activations)
    bias_QIJ = (routing_bias if decision.dim() == 8 else routing_bias[None, None]).flatten(0, 1).flatten(1, 3)
    product_IMJ = votes(child_IMD, decision, "vector")[:, :, 0]
    logit_IBQJ = product_IMJ.unflatten(1, (-1, len(bias_QIJ))) + bias_QIJ.transpose(0, 1).unsqueeze(1)
    coefficient_IMJ = logit_IBQJ.flatten(1, 2).softmax(2)
    share_IMJ = coefficient_IMJ * active_IM.unsqueeze(2)
    amount_MJ = share_IMJ.sum(0)
    no_votes_IMEJ = share_IMJ.unsqueeze(2)[:, :, :0]
    vote_IMEJ = no_votes_IMEJ if weight is None else votes(child_IMD, weight, pose)
    mean_MEJ = gather(share_IMJ, vote_IMEJ) / amount_MJ.unsqueeze(1)
    out_MJ = amount_MJ / amount_MJ.sum(1, keepdim=True)
    if trace:
        trace.add(vote_IMEJ, coefficient_IMJ, share_IMJ, mean_MEJ, out_MJ)
    return as_map(mean_MEJ, capsules, windows), as_map(out_MJ, capsules, windows)


def window_dynamic_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    *,
    iterations: int = 3,
    competition: str = "position",
    strides: Step = 1,
    padding: Step = 0,
    pose: str = "vector",
    output_bias: torch.Tensor | None = None,
    trace: Trace | None = None,
) -> torch.Tensor:
    """Dynamic routing (Sabour et al. 2017, procedure 1), in windows."""
    windows = Windows(kernel_of(weight), strides, padding)
    rivals = Rivals(capsules, windows, competition)
    vote_IMEJ = votes(windows.children(capsules), weight, pose)
    share_IMJ = 1 / rivals.count(weight.shape[-3]).to(vote_IMEJ)
    logit_IMJ = torch.zeros_like(vote_IMEJ[:, :, 0])
    for iteration in range(iterations):
        sum_MJE = gather(share_IMJ, vote_IMEJ).mT
        out_MEJ = squash(sum_MJE if output_bias is None else sum_MJE + output_bias).mT
        if trace:
            trace.add(vote_IMEJ, share_IMJ, share_IMJ, out_MEJ, out_MEJ.norm(dim=1))
        if iteration < iterations - 1:
            logit_IMJ = logit_IMJ + dot(vote_IMEJ, out_MEJ)
            share_IMJ = rivals.softmax(logit_IMJ)
    return as_map(out_MEJ, capsules, windows)


def inverted_attention_routing(
    capsules: torch.Tensor, layer: Any, *, iterations: int = 2, trace: Trace | None = None
) -> torch.Tensor:
    """Inverted dot-product attention routing (Tsai et al. 2020) of one layer, an `AttentionLayer`."""
    windows = Windows(kernel_of(layer.weight), layer.strides, layer.padding)
    vote_IMEJ = votes(windows.children(capsules), layer.weight, layer.pose)
    share_IMJ = torch.ones_like(vote_IMEJ[:, :, 0]) / layer.weight.shape[-3] if trace else None
    sum_MEJ = vote_IMEJ.sum(0) / layer.weight.shape[-3]
    for iteration in range(iterations):
        out_MJE = attention_norm(sum_MEJ, layer)
        if trace and share_IMJ is not None:
            trace.add(vote_IMEJ, share_IMJ, share_IMJ, out_MJE.mT, out_MJE.norm(dim=2))
        if iteration < iterations - 1:
            logit_IMJ = dot(vote_IMEJ, out_MJE.mT / math.sqrt(out_MJE.shape[2]))
            share_IMJ = logit_IMJ.softmax(2)
            sum_MEJ = gather(share_IMJ, vote_IMEJ) / (1 + 1e-10)
    return as_map(out_MJE.mT, capsules, windows)


def attention_norm(sum_MEJ: torch.Tensor, layer: Any) -> torch.Tensor:
    """Return the layer norm of the sums, or single numbers as they are, `(M, J, E)`."""
    if sum_MEJ.shape[1] == 1:
        return sum_MEJ.mT
    return F.layer_norm(sum_MEJ.mT, layer.scale.shape, layer.scale, layer.offset)


def inverted_attention_stack(
    capsules: torch.Tensor, layers: Sequence[Any], traces: Sequence[Trace], *, iterations: int, concurrent: bool
) -> list[torch.Tensor]:
    """Inverted dot-product attention routing of a stack; return the map of children, and the parents of each layer.

    Concurrent layers route the children of the pass before; passes that cannot reach the top are left out.
    """
    values = [capsules]
    for layer, trace in zip(layers, traces, strict=True):
        value = attention_pass(values[-1], layer, None, trace)
        for _ in range(0 if concurrent else iterations - 1):
            value = attention_pass(values[-1], layer, value, trace)
        values.append(value)
    for left in range(iterations - 1 if concurrent else 0, 0, -1):
        first = max(0, len(layers) - left)
        routed = [attention_pass(values[i], layers[i], values[i + 1], traces[i]) for i in range(first, len(layers))]
        values[first + 1 :] = routed
    return values


def attention_pass(
    capsules: torch.Tensor, layer: Any, parents: torch.Tensor | None, trace: Trace | None = None
) -> torch.Tensor:
    """Return the parents `(B, P, Q, J, E)` of a map of children by those of the pass before, if any."""
    windows = Windows(kernel_of(layer.weight), layer.strides, layer.padding)
    vote_IMEJ = votes(windows.children(capsules), layer.weight, layer.pose)
    share_IMJ = torch.full_like(vote_IMEJ[:, :, 0], 1 / layer.weight.shape[-3])
    sum_MEJ = gather(share_IMJ, vote_IMEJ)
    if parents is not None:
        parent_MEJ = parents.flatten(0, 2).mT
        share_IMJ = dot(vote_IMEJ, parent_MEJ / math.sqrt(parent_MEJ.shape[1])).softmax(2)
        sum_MEJ = gather(share_IMJ, vote_IMEJ) / (1 + 1e-10)
    out_MJE = attention_norm(sum_MEJ, layer)
    if trace:
        trace.add(vote_IMEJ, share_IMJ, share_IMJ, out_MJE.mT, out_MJE.norm(dim=2))
    return as_map(out_MJE.mT, capsules, windows)


def window_em_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor,
    beta_v_J: torch.Tensor,
    beta_a_J: torch.Tensor,
    offsets: torch.Tensor | None = None,
    *,
    iterations: int = 3,
    competition: str = "child",
    strides: Step = 1,
    padding: Step = 0,
    pose: str = "matrix",
    options: Any,
    trace: Trace | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """EM routing (Hinton et al. 2018, procedure 1), in windows, with `EmOptions` but for fillers."""
    windows = Windows(kernel_of(weight), strides, padding)
    rivals = Rivals(capsules, windows, competition)
    active_IM1 = windows.children(activations).unsqueeze(2)
    vote_IMEJ = votes(windows.children(capsules), weight, pose, offsets)
    inputs, _, dim, outputs = vote_IMEJ.shape
    share_IMJ = torch.ones_like(active_IM1)
    if options.initial == "uniform":
        share_IMJ = 1 / (rivals.count(outputs).to(vote_IMEJ) + options.epsilon)
    factor = 100 * outputs / inputs if options.normalize_cost else 1
    for iteration in range(iterations):
        coefficient_IMJ, share_IMJ = share_IMJ, share_IMJ * active_IM1
        amount_MJ = share_IMJ.sum(0)
        share_IMJ = share_IMJ / (amount_MJ + options.epsilon)
        mean_MEJ = gather(share_IMJ, vote_IMEJ)
        square_IMEJ = (vote_IMEJ - mean_MEJ) ** 2
        variance_MEJ = gather(share_IMJ, square_IMEJ) + options.epsilon
        log_deviation_MJ = variance_MEJ.log().sum(1) / 2
        cost_MJ = factor * amount_MJ * (dim * beta_v_J + log_deviation_MJ)
        out_MJ = torch.sigmoid(options.final_lambda * (1 - 0.95 ** (iteration + 1)) * (beta_a_J - cost_MJ))
        if trace:
            trace.add(vote_IMEJ, coefficient_IMJ, share_IMJ, mean_MEJ, out_MJ)
        if iteration < iterations - 1:
            prior_MJ = (out_MJ + options.activation_floor).log() - log_deviation_MJ
            share_IMJ = rivals.softmax(prior_MJ - dot(square_IMEJ, 0.5 / variance_MEJ))
    return as_map(mean_MEJ, capsules, windows), as_map(out_MJ, capsules, windows)


def variational_bayes_routing(
    capsules: torch.Tensor,
    activations: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None = None,
    *,
    iterations: int = 3,
    density_floor: float = 1e-11,
    competition: str = "child",
    strides: Step = 1,
    padding: Step = 0,
    pose: str = "matrix",
    trace: Trace | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Variational-Bayes routing (De Sousa Ribeiro et al. 2020) with diagonal covariance.

    The scatter is about m, not mu: `Psi = I + sum_i w_i (vote_i - m)^2 + m^2` is the same.
    """
    windows = Windows(kernel_of(weight), strides, padding)
    rivals = Rivals(capsules, windows, competition)
    active_IM1 = windows.children(activations).unsqueeze(2)
    vote_IMEJ = votes(windows.children(capsules), weight, pose, offsets)
    dim, outputs = vote_IMEJ.shape[2:]
    degree_E11 = torch.arange(dim, dtype=vote_IMEJ.dtype, device=vote_IMEJ.device).view(-1, 1, 1)
    coefficient_IMJ = torch.full_like(active_IM1, 1 / outputs).expand(-1, -1, outputs)
    for iteration in range(iterations):
        share_IMJ = coefficient_IMJ * active_IM1
        amount_MJ = share_IMJ.sum(0)
        mean_MEJ = gather(share_IMJ, vote_IMEJ) / (1 + amount_MJ).unsqueeze(1)
        square_IMEJ = (vote_IMEJ - mean_MEJ) ** 2
        scatter_MEJ = 1 + gather(share_IMJ, square_IMEJ) + mean_MEJ**2
        degrees_MJ = dim + 1 + amount_MJ
        log_share_MJ = torch.digamma(1 + amount_MJ) - torch.digamma((1 + amount_MJ).sum(1, keepdim=True))
        halves_MJ = torch.digamma((degrees_MJ - degree_E11) / 2).sum(0)
        log_precision_MJ = halves_MJ + dim * math.log(2) - scatter_MEJ.log().sum(1)
        if trace:
            trace.add(vote_IMEJ, coefficient_IMJ, share_IMJ, mean_MEJ, log_share_MJ.exp())
        if iteration < iterations - 1:
            spread_MJ = dim / (1 + amount_MJ) + dim * math.log(2 * math.pi)
            distance_IMJ = dot(square_IMEJ, degrees_MJ.unsqueeze(1) / scatter_MEJ)
            logit_IMJ = log_share_MJ + (log_precision_MJ - spread_MJ - distance_IMJ) / 2
            total_IM1 = rivals.log_total(logit_IMJ)
            if density_floor:
                total_IM1 = total_IM1.clamp_min(math.log(density_floor))
            coefficient_IMJ = (logit_IMJ - total_IM1).exp()
    score_MJ = log_share_MJ.exp() * (log_precision_MJ - dim * math.log(2 * math.pi * math.e)) / 2
    return as_map(mean_MEJ, capsules, windows), as_map(score_MJ, capsules, windows)
