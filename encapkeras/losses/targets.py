"""Labels as one-hot targets, however they come."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from encapkeras.errors import ShapeError


def one_hot_targets(labels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """One-hot targets `(B, K)` of the scores' type.

    Args:
        labels: Whole numbers `(B,)` or `(B, 1)` of any type, or one-hot (or soft) targets `(B, K)`.
        scores: `(B, K)`.

    Raises:
        ShapeError: The shapes do not fit each other.

    Example:
        >>> one_hot_targets(torch.tensor([2, 0]), torch.zeros(2, 3))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    if scores.dim() == 2 and labels.shape == scores.shape and scores.shape[1] > 1:
        return labels.to(scores.dtype)
    if scores.dim() == 2 and labels.shape in ((len(scores),), (len(scores), 1)):
        return F.one_hot(labels.reshape(-1).long(), scores.shape[1]).to(scores.dtype)
    raise ShapeError(
        f"a capsule loss takes scores (batch, classes) and labels (batch,) or one-hot (batch, classes); received "
        f"scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)}"
    )
