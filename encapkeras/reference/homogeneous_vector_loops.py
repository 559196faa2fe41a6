"""Homogeneous vector capsules and merged branches with a loop for every index (Byerly et al. 2020)."""

from __future__ import annotations

import torch


def homogeneous_vectors(
    image: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    *,
    capsules_of: str,
    epsilon: float = 1e-3,
    moments: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return capsules `(B, J, D)` of a map `(B, H, W, C)`; weights are `(D, I, J)`.

    Mean and variance are the batch's, or the given `moments`.
    """
    batch, height, width, channels = image.shape
    positions = [(row, column) for row in range(height) for column in range(width)]
    samples = []
    for sample in range(batch):
        if capsules_of == "position":
            capsules = [[image[sample, y, x, c] for c in range(channels)] for y, x in positions]
        else:
            capsules = [[image[sample, y, x, c] for y, x in positions] for c in range(channels)]
        outputs = []
        for j in range(weight.shape[2]):
            components = []
            for d in range(len(capsules[0])):
                products = [weight[d, i, j] * capsule[d] for i, capsule in enumerate(capsules)]
                components.append(torch.stack(products).sum())
            outputs.append(torch.stack(components))
        samples.append(torch.stack(outputs))
    return _normalized(torch.stack(samples), offset, epsilon, moments).clamp_min(0)


def merged_branches(
    scores: list[torch.Tensor], weight: torch.Tensor, offset: torch.Tensor, *, epsilon: float = 1e-3
) -> torch.Tensor:
    """Return the sum of K branches' scores `(B, J)`, each weighted and normalized over batch and classes."""
    weighted = torch.stack([score * weight[k] for k, score in enumerate(scores)], -1)
    normed = _normalized(weighted, offset, epsilon, None)
    return sum((normed[..., k] for k in range(len(scores))), torch.zeros(()))


def _normalized(
    values: torch.Tensor, offset: torch.Tensor, epsilon: float, moments: tuple[torch.Tensor, torch.Tensor] | None
) -> torch.Tensor:
    """Normalize `(B, J, D)` by one mean and one variance for each d."""
    columns = []
    for d in range(values.shape[2]):
        column = values[..., d]
        mean = column.sum() / column.numel() if moments is None else moments[0][d]
        variance = ((column - mean) ** 2).sum() / column.numel() if moments is None else moments[1][d]
        columns.append((column - mean) / (variance + epsilon) ** 0.5 + offset[d])
    return torch.stack(columns, -1)
