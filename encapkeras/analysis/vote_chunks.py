"""The votes of a routing, one chunk at a time.

Shape suffixes: B batch, P positions, N capsule types, D capsule dimension, J output capsules, E their dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

CHUNK_ELEMENTS = 2**22  # 16 MB of float32


@dataclass(frozen=True)
class Chunk:
    """The votes of some input capsules of some images for all output capsules."""

    votes_NBPJE: Tensor
    activations_NBP: Tensor | None


@dataclass(frozen=True)
class ChunkSizes:
    """How many images, positions and types have their votes in a chunk."""

    images: int
    positions: int
    types: int


def chunk_sizes(capsules_BPND: Tensor, weight_NJED: Tensor, elements: int) -> ChunkSizes:
    """Return the largest chunks whose votes are at most `elements` numbers, or those of one input capsule."""
    batch, positions, types, dim = capsules_BPND.shape
    outputs, output_dim = weight_NJED.shape[1:3]
    capsules = max(1, elements // (outputs * output_dim))
    at_once = min(positions, capsules)
    pairs = outputs * types * max(positions, dim + 1)
    images = max(1, min(batch, capsules // at_once, elements // pairs))
    return ChunkSizes(images, at_once, max(1, min(types, capsules // (at_once * images))))


def vote_chunks(
    capsules_BPND: Tensor,
    weight_NJED: Tensor,
    bias_NJE: Tensor | None,
    activations_BPN: Tensor | None,
    sizes: ChunkSizes,
) -> Iterator[Chunk]:
    """Yield all votes of a batch of `sizes.images` images, chunk by chunk."""
    batch, positions, types, dim = capsules_BPND.shape
    outputs, output_dim = weight_NJED.shape[1:3]
    for n in range(0, types, sizes.types):
        weight = weight_NJED[n : n + sizes.types]
        for p in range(0, positions, sizes.positions):
            part = (slice(None), slice(p, p + sizes.positions), slice(n, n + sizes.types))
            capsules_NBPD = capsules_BPND[part].permute(2, 0, 1, 3)
            votes = capsules_NBPD.reshape(len(weight), -1, dim) @ weight.flatten(1, 2).mT
            if bias_NJE is not None:
                votes += bias_NJE[n : n + sizes.types].flatten(1)[:, None]
            activations = None if activations_BPN is None else activations_BPN[part].permute(2, 0, 1)
            yield Chunk(votes.view(len(weight), batch, -1, outputs, output_dim), activations)
