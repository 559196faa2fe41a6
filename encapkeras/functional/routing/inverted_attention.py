"""Inverted dot-product attention routing (Tsai, Srivastava, Goh and Salakhutdinov 2020).

Shape suffixes: B batch, P Q map of the parents, J parent types, E their dimension, A rows and C columns of a pose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import check_iterations
from encapkeras.functional.routing.type_votes import votes_of
from encapkeras.functional.routing.window_positions import has_positions, route_positions
from encapkeras.functional.routing.window_votes import Pose, Side, as_poses
from encapkeras.functional.torch_support.precision import full_precision


@dataclass(frozen=True)
class AttentionLayer:
    """One layer of inverted dot-product attention.

    Args:
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, E, D)`, or `(K_h, K_w, N, J, X,
            C)` of matrix poses. One for all offsets of a `window`: `(1, 1, N, J, ...)`. For each position of the
            parents: `(P, Q, K_h, K_w, N, J, ...)`. A window as large as the map makes the layer fully connected.
        scale: Scale of the layer norm, `(E,)`.
        offset: Offset of the layer norm, `(E,)`.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.
        window: Rows and columns of the windows, those of the weight if not given; one number, or rows and columns.
        coefficients: Fixed r, `(K_h, K_w, N, J)`, whose sum over J is 1, in place of the softmax: the layer's parents
            follow from its children alone.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor
    strides: Side = 1
    padding: Side = 0
    pose: Pose = "vector"
    window: Side | None = None
    coefficients: torch.Tensor | None = None

    def route(self, capsules: torch.Tensor, parents: torch.Tensor | None) -> torch.Tensor:
        """Make one pass: the parents of the children `(B, H, W, N, D)` from those of the pass before, if any."""
        if has_positions(self.weight):
            queries = [] if parents is None else [parents]
            windows: dict[str, Any] = {"strides": self.strides, "padding": self.padding, "window": self.window}
            return route_positions(self._route_position, [capsules], {"weight": self.weight}, queries, **windows)
        with full_precision(capsules, self.weight) as wide:
            votes = votes_of(wide(capsules), wide(self.weight), self.strides, self.padding, self.pose, self.window)
            scale, offset = wide(self.scale), wide(self.offset)
            if scale.shape != (votes.dim,) or offset.shape != (votes.dim,):
                shapes = f"{tuple(scale.shape)} and {tuple(offset.shape)}"
                raise ShapeError(
                    f"scale and offset must be ({votes.dim},), the dimension of the parents; received {shapes}"
                )
            if self.coefficients is not None:
                sum_BPQAJC = votes.sum_alike(coefficients=self.coefficients)
            elif parents is None:
                sum_BPQAJC = votes.sum_alike() / votes.outputs
            else:
                sum_BPQAJC = votes.attend(votes.by_rows(wide(parents) / math.sqrt(votes.dim)))
                sum_BPQAJC = sum_BPQAJC / (1 + 1e-10)  # as in the authors' code; it counts where no layer norm follows
            out_BPQJE = as_poses(sum_BPQAJC)
            if votes.dim > 1:
                out_BPQJE = F.layer_norm(out_BPQJE, (votes.dim,), scale, offset)
            return out_BPQJE.to(capsules.dtype)

    def _route_position(
        self, capsules: torch.Tensor, weight: torch.Tensor, parents: torch.Tensor | None = None
    ) -> torch.Tensor:
        return replace(self, weight=weight, strides=1, padding=0).route(capsules, parents)


def inverted_attention_routing(
    capsules: torch.Tensor,
    layers: AttentionLayer | Sequence[AttentionLayer],
    *,
    iterations: int = 2,
    concurrent: bool = True,
) -> torch.Tensor:
    """Route capsules by inverted dot-product attention: parents compete for each child, as queries for a key.

    In the first pass `r_ij = 1/J`; then `r_i = softmax over the parents j of vote_ij . p_j / sqrt(E)`, with p the
    parents of the pass before. Each pass sets `p_j = layer_norm(sum_i r_ij vote_ij)` (Tsai et al. 2020). A parent
    competes with those of its position. If E is 1, the layer norm is left out.

    Several layers are routed one by one, each T times on its finished children; or concurrently, as published: after a
    first pass from below, all layers at once make T - 1 passes, from children and parents of the pass before. One
    iteration is no routing, in either way. A layer of fixed coefficients makes no passes but those that its children
    need.

    Args:
        capsules: Children `(B, H, W, N, D)`.
        layers: One layer, or a stack of them.
        iterations: Number T of passes, from 1.
        concurrent: Whether the layers of a stack are routed at once.

    Returns:
        The last layer's parents `(B, P, Q, J, E)`.

    Raises:
        ArgumentError: An argument has an invalid value.
        ShapeError: The sizes do not match, or a window is larger than the map.

    Examples:
        >>> capsules, weight = torch.randn(2, 7, 7, 8, 16), torch.randn(3, 3, 8, 4, 16, 16)
        >>> layer = AttentionLayer(weight, torch.ones(16), torch.zeros(16), strides=2)
        >>> inverted_attention_routing(capsules, layer, iterations=2).shape
        torch.Size([2, 3, 3, 4, 16])

        Matrices of each position, as in a map whose places differ:

        >>> weight = torch.randn(3, 3, 3, 3, 8, 4, 16, 16)
        >>> layer = AttentionLayer(weight, torch.ones(16), torch.zeros(16), strides=2)
        >>> inverted_attention_routing(capsules, layer, iterations=2).shape
        torch.Size([2, 3, 3, 4, 16])
    """
    check_iterations(iterations)
    stack = [layers] if isinstance(layers, AttentionLayer) else list(layers)
    if not stack:
        raise ArgumentError("layers must hold at least one layer; received none")
    values = [capsules]
    for layer in stack:
        value = layer.route(values[-1], None)
        for _ in range(0 if concurrent or layer.coefficients is not None else iterations - 1):
            value = layer.route(values[-1], value)
        values.append(value)
    finished = len(list(itertools.takewhile(lambda layer: layer.coefficients is not None, stack)))
    for left in range(iterations - 1 if concurrent else 0, 0, -1):
        # Only these layers can still reach the top one in the passes that are left.
        first = max(finished, len(stack) - left)
        routed = [layer.route(values[i], values[i + 1]) for i, layer in enumerate(stack) if i >= first]
        values[first + 1 :] = routed
    return values[-1]
