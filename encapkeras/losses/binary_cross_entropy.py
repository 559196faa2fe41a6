"""Binary cross-entropy of each class by itself, for images of several labels."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
import torch
from torch.nn import functional as F

from encapkeras.functional.torch_support.precision import full_precision
from encapkeras.losses.registry import CapsuleLoss, register_loss, scores_first
from encapkeras.losses.targets import check_scores, one_hot_targets

SMALLEST = 1e-7  # of a length and of its distance from 1, as in Keras


@scores_first("loss=BinaryCrossEntropyLoss()")
def binary_cross_entropy(
    scores: torch.Tensor, targets: torch.Tensor, *, from_logits: bool = False, absent_weight: float = 1.0
) -> torch.Tensor:
    """Return `-sum_k T_k log p_k + absent_weight (1 - T_k) log(1 - p_k)` of each sample, `(B,)`.

    Args:
        scores: Lengths p `(B, K)`, 0 to 1, of which values within 1e-7 of 0 and 1 count as that; or logits. Half
            precision is computed in float32.
        targets: T `(B, K)`, 1 for each present class.
        from_logits: Whether scores are logits: `p = sigmoid(scores)`.
        absent_weight: Weight of the absent classes.

    Examples:
        >>> binary_cross_entropy(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
        tensor([1.3863])
    """
    with full_precision(scores) as wide:
        if from_logits:
            present, absent = F.logsigmoid(wide(scores)), F.logsigmoid(-wide(scores))
        else:
            shares = wide(scores).clamp(SMALLEST, 1 - SMALLEST)  # in half precision, 1 - SMALLEST would be 1
            present, absent = shares.log(), (1 - shares).log()
        return -(targets * present + absent_weight * (1 - targets) * absent).sum(-1).to(scores.dtype)


@register_loss("binary_cross_entropy")
class BinaryCrossEntropyLoss(CapsuleLoss):
    """Binary cross-entropy of each class by itself: of images with several labels, or none.

    `-sum_k T_k log p_k + absent_weight (1 - T_k) log(1 - p_k)`, mean over the batch. p are lengths of class capsules or
    activations, from 0 to 1, of which values within 1e-7 of the ends count as that; with `from_logits` `p =
    sigmoid(a)` of scores a, the outputs of an ordinary network.

    Args:
        from_logits: Whether scores are logits, without bounds.
        absent_weight: Weight of the absent classes, at least 0: below 1 where most are absent.
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.

    Call arguments:
        y_true: Labels `(B,)` as whole numbers, or targets `(B, K)` from 0 to 1, with any number of present classes.
        y_pred: Scores `(B, K)`.

    Raises:
        ShapeError: Labels and scores do not match.
        ArgumentError: Labels are outside of their range, or scores without `from_logits` are (checked on the CPU).

    Examples:
        >>> import torch
        >>> BinaryCrossEntropyLoss(from_logits=True)(torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2))
        tensor(1.3863)
    """

    several_classes = True

    def __init__(
        self,
        *,
        from_logits: bool = False,
        absent_weight: Annotated[float, pydantic.Field(ge=0)] = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.from_logits = from_logits
        self.absent_weight = absent_weight

    def call(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return losses `(B,)`; see the class."""
        if not self.from_logits:
            demand = "binary_cross_entropy takes lengths or probabilities; for other scores, set from_logits: true"
            check_scores(y_pred, demand, 1)
        targets = one_hot_targets(y_true, y_pred, several=True)
        return binary_cross_entropy(y_pred, targets, from_logits=self.from_logits, absent_weight=self.absent_weight)

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Return p of scores `(B, K)`, each by itself."""
        return scores.sigmoid() if self.from_logits else scores
