"""The margin loss of capsule networks."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
import torch

from encapkeras.losses.registry import CapsuleLoss, register_loss, scores_first
from encapkeras.losses.targets import one_hot_targets, smooth


@scores_first("loss=MarginLoss()")
def margin_loss(
    scores: torch.Tensor, targets: torch.Tensor, *, upper: float = 0.9, lower: float = 0.1, absent_weight: float = 0.5
) -> torch.Tensor:
    """Return `sum_k T_k max(0, upper - a_k)^2 + absent_weight (1 - T_k) max(0, a_k - lower)^2` of each sample, `(B,)`.

    Sabour et al. 2017, equation 4.

    Args:
        scores: Lengths a `(B, K)`.
        targets: T `(B, K)`, 1 for each present class.
        upper: The length that a present class should reach.
        lower: The length that an absent class should not exceed.
        absent_weight: Weight of the absent classes.

    Examples:
        >>> margin_loss(torch.tensor([[0.5, 0.3]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.1800])
    """
    present = targets * (upper - scores).clamp_min(0).square()
    absent = (1 - targets) * (scores - lower).clamp_min(0).square()
    return (present + absent_weight * absent).sum(-1)


@register_loss("margin")
class MarginLoss(CapsuleLoss):
    """Margin loss on the lengths of class capsules (Sabour et al. 2017, equation 4).

    `sum_k T_k max(0, upper - |v_k|)^2 + absent_weight (1 - T_k) max(0, |v_k| - lower)^2`, mean over the batch, with
    `T_k = (1 - label_smoothing) [k = t] + label_smoothing / K`.

    Args:
        upper: The length that the present class should reach.
        lower: The length that absent classes should not exceed.
        absent_weight: Weight of the absent classes, at least 0.
        label_smoothing: Fraction of the target that all classes share equally, from 0 to below 1.
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.

    Call arguments:
        y_true: Labels `(B,)` as whole numbers, or targets `(B, K)` from 0 to 1, with any number of present classes.
        y_pred: Lengths `(B, K)`.

    Raises:
        ShapeError: Labels and lengths do not match.
        ArgumentError: Labels are outside of their range (checked on the CPU).

    Examples:
        >>> import torch
        >>> MarginLoss()(torch.tensor([0]), torch.tensor([[0.5, 0.3]]))
        tensor(0.1800)
    """

    several_classes = True
    of_lengths = True

    def __init__(
        self,
        *,
        upper: float = 0.9,
        lower: float = 0.1,
        absent_weight: Annotated[float, pydantic.Field(ge=0)] = 0.5,
        label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.upper = upper
        self.lower = lower
        self.absent_weight = absent_weight
        self.label_smoothing = label_smoothing

    def call(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return losses `(B,)`; see the class."""
        targets = smooth(one_hot_targets(y_true, y_pred), self.label_smoothing)
        return margin_loss(y_pred, targets, upper=self.upper, lower=self.lower, absent_weight=self.absent_weight)
