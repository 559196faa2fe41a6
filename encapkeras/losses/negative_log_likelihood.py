"""The negative log-likelihood of scores that are shares."""

from __future__ import annotations

from typing import Any

import torch

from encapkeras.losses.registry import CapsuleLoss, register_loss, scores_first
from encapkeras.losses.targets import check_scores, one_hot_targets


@scores_first("loss=NegativeLogLikelihoodLoss()")
def negative_log_likelihood(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `-sum_k T_k log(a_k / sum_j a_j)` of each sample, `(B,)`.

    Where a score is 0, the smallest normal number of its type stands for it, and its gradient is 0.

    Args:
        scores: Activations or lengths a `(B, K)`, at least 0.
        targets: One-hot T `(B, K)`.

    Examples:
        >>> negative_log_likelihood(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.6931])
    """
    floored = scores.clamp_min(torch.finfo(scores.dtype).tiny)
    return (targets * (floored.sum(-1, keepdim=True).log() - floored.log())).sum(-1)


@register_loss("negative_log_likelihood")
class NegativeLogLikelihoodLoss(CapsuleLoss):
    """Negative log-likelihood with the class scores' shares as probabilities (Hahn, Pyeon and Kim 2019).

    `-sum_k T_k log(a_k / sum_j a_j)`, mean over the batch: for activations that sum to 1, as those of self-routing, the
    mean of `-log a_t`. Unlike `cross_entropy`, it takes scores for probabilities, not for their logits.

    Args:
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.

    Call arguments:
        y_true: Labels `(B,)` as whole numbers, or targets `(B, K)`, one-hot or soft; their rows sum to 1.
        y_pred: Activations or lengths `(B, K)`, at least 0.

    Raises:
        ShapeError: Labels and scores do not match.
        ArgumentError: Labels are outside of their range, a row does not sum to 1, or a score is negative (checked on
            the CPU).

    Examples:
        >>> import torch
        >>> NegativeLogLikelihoodLoss()(torch.tensor([0]), torch.tensor([[0.25, 0.75]]))
        tensor(1.3863)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def call(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return losses `(B,)`; see the class."""
        demand = "negative_log_likelihood takes activations or lengths, at least 0; for other scores there is"
        check_scores(y_pred, f"{demand} cross_entropy")
        targets = one_hot_targets(y_true, y_pred, one_class="negative log-likelihood loss")
        return negative_log_likelihood(y_pred, targets)

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the shares `a_k / sum_j a_j` of scores a `(B, K)`."""
        floored = scores.clamp_min(torch.finfo(scores.dtype).tiny)
        return floored / floored.sum(-1, keepdim=True)
