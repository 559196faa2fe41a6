"""Inverted dot-product attention routing (Tsai, Srivastava, Goh and Salakhutdinov 2020).

Shape suffixes: B batch, P Q map of the parents, J parent types, E their dimension, A rows and C columns of a pose; n a
piece of the children, M of the parents' positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.routing.routing_inputs import check_iterations
from encapkeras.functional.routing.window_votes import Pose, WindowVotes, agreement, as_poses, gather
from encapkeras.functional.routing.windows import Tensors
from encapkeras.functional.torch_support.precision import full_precision


@dataclass(frozen=True)
class AttentionLayer:
    """One layer of inverted dot-product attention.

    Args:
        weight: Matrices of the votes, for each offset of the window: `(K_h, K_w, N, J, E, D)`, or `(K_h, K_w, N, J, X,
            C)` of matrix poses. A window as large as the map makes the layer fully connected.
        scale: Scale of the layer norm, `(E,)`.
        offset: Offset of the layer norm, `(E,)`.
        strides: Step of the windows; one number, or rows and columns.
        padding: Rows and columns of nothing around the map; one number, or rows and columns.
        pose: `vector`: a vote is `W u`. `matrix`: the matrix product `U W`.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor
    strides: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    pose: Pose = "vector"

    def route(self, capsules: torch.Tensor, parents: torch.Tensor | None) -> torch.Tensor:
        """Make one pass: the parents of the children `(B, H, W, N, D)` from those of the pass before, if any."""
        with full_precision(capsules, self.weight) as wide:
            votes = WindowVotes(wide(capsules), wide(self.weight), self.strides, self.padding, self.pose)
            scale, offset = wide(self.scale), wide(self.offset)
            if scale.shape != (votes.dim,) or offset.shape != (votes.dim,):
                shapes = f"{tuple(scale.shape)} and {tuple(offset.shape)}"
                raise ShapeError(
                    f"scale and offset must be ({votes.dim},), the dimension of the parents; received {shapes}"
                )
            if parents is None:
                sum_BPQAJC = votes.sum_alike() / votes.outputs
            else:
                query_BPQAJC = votes.by_rows(wide(parents) / math.sqrt(votes.dim))
                (sum_BPQAJC,) = votes.sum(attend, parents=[query_BPQAJC])
                sum_BPQAJC = sum_BPQAJC / (1 + 1e-10)  # as in the authors' code; it counts where no layer norm follows
            out_BPQJE = as_poses(sum_BPQAJC)
            if votes.dim > 1:
                out_BPQJE = F.layer_norm(out_BPQJE, (votes.dim,), scale, offset)
            return out_BPQJE.to(capsules.dtype)


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
    competes with those of its position; where E is 1, there is no layer norm.

    Several layers are routed one by one, each T times on its finished children; or concurrently, as published: after a
    first pass from below, all layers at once make T - 1 passes, from children and parents of the pass before. One
    iteration is no routing, in either way.

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
    """
    check_iterations(iterations)
    stack = [layers] if isinstance(layers, AttentionLayer) else list(layers)
    if not stack:
        raise ArgumentError("layers must hold at least one layer; received none")
    values = [capsules]
    for layer in stack:
        value = layer.route(values[-1], None)
        for _ in range(0 if concurrent else iterations - 1):
            value = layer.route(values[-1], value)
        values.append(value)
    for left in range(iterations - 1 if concurrent else 0, 0, -1):
        # Only these layers can still reach the top one in the passes that are left.
        first = max(0, len(stack) - left)
        routed = [layer.route(values[i], values[i + 1]) for i, layer in enumerate(stack) if i >= first]
        values[first + 1 :] = routed
    return values[-1]


def attend(vote_nMAJC: torch.Tensor, children: Tensors, weights: Tensors, parents: Tensors) -> Tensors:
    """Gather votes by a softmax, over the parents of a position, of their products with these parents."""
    return (gather(agreement(vote_nMAJC, parents[0]).softmax(2), vote_nMAJC),)
