"""Routing in windows literally as in the formulas: a loop over parents j and their children i. The oracle of the tests.

A parent is (row, column, type), a child likewise, and an edge is (j, i), where i lies in the window of j. The value of
a parent, a child or an edge has the batch as its first axis: a number is `(B, 1)`, a vector `(B, E)`. At the border,
padding means that windows have fewer children. Names, arguments and shapes are those of `encapkeras.functional`. There
are no floors but those of the papers, so that results are defined only where the formulas are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import product
from typing import Any

import torch

from encapkeras.reference.routing_loops import total

Place = tuple[int, int, int]
Edge = tuple[Place, Place]
OfPlaces = dict[Place, torch.Tensor]
OfEdges = dict[Edge, torch.Tensor]
Step = int | tuple[int, int]


class Windows:
    """The edges between the children of a map and the parents of the next.

    Args:
        capsules: Children `(B, H, W, N, D)`.
        weight: Anything by offset, child type and parent type, `(K_h, K_w, N, J, ...)`.
        strides: Step of the windows.
        padding: Rows and columns of nothing around the map.
    """

    def __init__(self, capsules: torch.Tensor, weight: torch.Tensor, strides: Step, padding: Step) -> None:
        _, height, width, types, _ = capsules.shape
        kernel_height, kernel_width, _, outputs = weight.shape[:4]
        down, right = (strides, strides) if isinstance(strides, int) else strides
        above, left = (padding, padding) if isinstance(padding, int) else padding
        self.rows = (height + 2 * above - kernel_height) // down + 1
        self.columns = (width + 2 * left - kernel_width) // right + 1
        self.outputs = outputs
        self.offset: dict[Edge, tuple[int, int]] = {}
        self.children: dict[Place, list[Place]] = defaultdict(list)
        for j in product(range(self.rows), range(self.columns), range(outputs)):
            for y, x, n in product(range(kernel_height), range(kernel_width), range(types)):
                i = (down * j[0] + y - above, right * j[1] + x - left, n)
                if 0 <= i[0] < height and 0 <= i[1] < width:
                    self.offset[j, i] = (y, x)
                    self.children[j].append(i)

    def rivals(self, competition: str) -> list[list[Edge]]:
        """Return groups of the edges from one child to parents that compete for it: of a position, or all."""
        groups: dict[Any, list[Edge]] = defaultdict(list)
        for j, i in self.offset:
            groups[i if competition == "child" else (j[:2], i)].append((j, i))
        return list(groups.values())

    def of_edges(self, weight: torch.Tensor) -> OfEdges:
        """Return `weight[y, x, n, type of j]` of each edge."""
        return {(j, i): weight[(*offset, i[2], j[2])] for (j, i), offset in self.offset.items()}

    def map(self, values: OfPlaces) -> torch.Tensor:
        """Return the values of parents as `(B, P, Q, J, E)`."""
        listed = torch.stack([values[j] for j in self.children], 1)
        return listed.unflatten(1, (self.rows, self.columns, self.outputs))  # type: ignore[no-any-return]


def of_places(values: torch.Tensor) -> OfPlaces:
    """Return `values[:, h, w, n]` of each place of a map."""
    return {(h, w, n): values[:, h, w, n] for h, w, n in product(*map(range, values.shape[1:4]))}


def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the dot products of the vectors of each sample, `(B, 1)`."""
    return (x * y).sum(-1, keepdim=True)


def votes(windows: Windows, capsules: torch.Tensor, weight: torch.Tensor, pose: str) -> OfEdges:
    """Return `W u` of each edge; of matrix poses, whose rows follow one another, `U W`."""
    u, vote = of_places(capsules), {}
    for (j, i), matrix in windows.of_edges(weight).items():
        if pose == "vector":
            vote[j, i] = u[i] @ matrix.T
        else:
            vote[j, i] = (u[i].unflatten(1, (-1, len(matrix))) @ matrix).flatten(1)
    return vote


def softmax(logit: OfEdges, groups: list[list[Edge]]) -> OfEdges:
    """Return the softmax of each group."""
    share: OfEdges = {}
    for group in groups:
        share.update(zip(group, torch.stack([logit[edge] for edge in group]).softmax(0), strict=True))
    return share


def gather(windows: Windows, share: OfEdges, vote: OfEdges) -> OfPlaces:
    """Return `sum_i share_ij vote_ij` of each parent."""
    return {j: total([share[j, i] * vote[j, i] for i in children]) for j, children in windows.children.items()}


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
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Self-routing (Hahn et al. 2019)."""
    windows = Windows(capsules, routing_weight, strides, padding)
    u, a = of_places(capsules), of_places(activations.unsqueeze(-1))
    w, b = windows.of_edges(routing_weight), windows.of_edges(routing_bias)
    logit = {(j, i): dot(w[j, i], u[i]) + b[j, i] for j, i in windows.offset}
    share = softmax(logit, windows.rivals("position"))
    received = {(j, i): a[i] * share[j, i] for j, i in share}
    amount = {j: total([received[j, i] for i in children]) for j, children in windows.children.items()}
    present = {j: total([a[i] for i in children]) for j, children in windows.children.items()}
    out = windows.map({j: amount[j] / present[j] for j in amount})[..., 0]
    if weight is None:
        return None, out
    gathered = gather(windows, received, votes(windows, capsules, weight, pose))
    return windows.map({j: gathered[j] / amount[j] for j in amount}), out


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
) -> torch.Tensor:
    """Dynamic routing (Sabour et al. 2017, procedure 1), in windows."""
    windows = Windows(capsules, weight, strides, padding)
    vote = votes(windows, capsules, weight, pose)
    logit = {edge: 0 * vote[edge][:, :1] for edge in vote}
    for _ in range(iterations):
        routed = {}
        for j, s in gather(windows, softmax(logit, windows.rivals(competition)), vote).items():
            biased = s if output_bias is None else s + output_bias[j[2]]
            length = dot(biased, biased).sqrt()
            routed[j] = length**2 / (1 + length**2) * biased / length
        logit = {(j, i): logit[j, i] + dot(vote[j, i], routed[j]) for j, i in vote}
    return windows.map(routed)


def self_attention_routing(
    capsules: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    strides: Step = 1,
    padding: Step = 0,
    pose: str = "vector",
) -> torch.Tensor:
    """Self-attention routing (Mazzia et al. 2021): each vote's mean agreement with all votes for the same parent."""
    windows = Windows(capsules, weight, strides, padding)
    vote = votes(windows, capsules, weight, pose)
    logit = {}
    for j, i in vote:
        root = math.sqrt(vote[j, i].shape[1])
        logit[j, i] = total([dot(vote[j, i], vote[j, k]) / root for k in windows.children[j]])
    share = softmax(logit, windows.rivals("position"))
    if bias is not None:
        added = windows.of_edges(bias)
        share = {edge: c + added[edge] for edge, c in share.items()}
    routed = {}
    for j, s in gather(windows, share, vote).items():
        length = dot(s, s).sqrt()
        routed[j] = (1 - 1 / length.exp()) * s / length
    return windows.map(routed)


def attention_pass(capsules: torch.Tensor, layer: Any, parents: torch.Tensor | None = None) -> torch.Tensor:
    """Return the parents of a layer, an `AttentionLayer`, by those of the pass before; None in the first.

    Parents of one number have no layer norm.
    """
    windows = Windows(capsules, layer.weight, layer.strides, layer.padding)
    vote = votes(windows, capsules, layer.weight, layer.pose)
    share = {edge: torch.full_like(vote[edge][:, :1], 1 / windows.outputs) for edge in vote}
    if parents is not None:
        p = of_places(parents)
        logit = {(j, i): dot(vote[j, i], p[j]) / math.sqrt(parents.shape[-1]) for j, i in vote}
        share = softmax(logit, windows.rivals("position"))
        share = {edge: r / (1 + 1e-10) for edge, r in share.items()}  # as the code: it divides by their sum + 1e-10
    gathered = windows.map(gather(windows, share, vote))
    return gathered if gathered.shape[-1] == 1 else layer_norm(gathered) * layer.scale + layer.offset


def layer_norm(s: torch.Tensor) -> torch.Tensor:
    """Return `(s - mean) / sqrt(variance + 1e-5)` along the last axis."""
    centered = s - s.mean(-1, keepdim=True)
    return centered / ((centered**2).mean(-1, keepdim=True) + 1e-5).sqrt()


def inverted_attention_routing(
    capsules: torch.Tensor, layers: Any, *, iterations: int = 2, concurrent: bool = True
) -> torch.Tensor:
    """Inverted dot-product attention routing (Tsai et al. 2020): `layers` is an `AttentionLayer`, or a stack of them.

    The updates that do not reach the last layer any more are made nevertheless.
    """
    layers = layers if isinstance(layers, list | tuple) else [layers]
    values = [capsules]
    for layer in layers:
        values.append(attention_pass(values[-1], layer))
        for _ in range(0 if concurrent else iterations - 1):
            values[-1] = attention_pass(values[-2], layer, values[-1])
    for _ in range(iterations - 1 if concurrent else 0):
        passes = zip(values[:-1], layers, values[1:], strict=True)
        values = [capsules, *(attention_pass(below, layer, own) for below, layer, own in passes)]
    return values[-1]
