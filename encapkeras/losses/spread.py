"""The spread loss of matrix capsules, with its growing margin."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pydantic
import torch

from encapkeras.losses.registry import CapsuleLoss, register_loss, scores_first
from encapkeras.losses.targets import one_hot_targets


@scores_first("loss=SpreadLoss()")
def spread_loss(scores: torch.Tensor, targets: torch.Tensor, *, margin: float) -> torch.Tensor:
    """Return `sum_{k != t} max(0, margin - (a_t - a_k))^2` of each sample, `(B,)` (Hinton et al. 2018, equation 3).

    Args:
        scores: Scores a `(B, K)`.
        targets: One-hot `(B, K)`; t is the present class.
        margin: The lead m that the present class should have.

    Examples:
        >>> spread_loss(torch.tensor([[0.5, 0.3, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]), margin=0.4)
        tensor([0.0400])
    """
    present = (targets * scores).sum(-1, keepdim=True)
    return ((1 - targets) * (margin - (present - scores)).clamp_min(0).square()).sum(-1)


@register_loss("spread")
class SpreadLoss(CapsuleLoss):
    """Spread loss (Hinton et al. 2018, equation 3): the present class should lead each other class by a margin.

    `sum_{k != t} max(0, m - (a_t - a_k))^2`, mean over the batch. m is `start` until epoch `start_epoch`, then grows,
    and is `end` from `final_epochs` epochs before the training's end. A training too short for both lets it grow
    from the first epoch to the last. Without calls of `set_epoch`, m is `end`.

    Args:
        start: Margin at the beginning.
        end: Margin at the end.
        start_epoch: First epoch, counted from 0, from which the margin grows.
        final_epochs: Number of last epochs with the full margin.
        growth: `linear`; or `sigmoid`, as in the code of Gritzman 2019: `start + (end - start) * sigmoid(14 p - 4)`
            where p goes from 0 to 1, so that m begins slightly above `start` and is close to `end` from p = 0.6 on.
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.

    Call arguments:
        y_true: Labels `(B,)` as whole numbers, or targets `(B, K)`, one-hot or soft; their rows sum to 1.
        y_pred: Scores `(B, K)`: lengths, or activations.

    Raises:
        ShapeError: Labels and scores do not match.
        ArgumentError: Labels are outside of their range, or a row does not sum to 1 (checked on the CPU).

    Examples:
        >>> loss = SpreadLoss()
        >>> loss.set_epoch(30, epochs=100)
        >>> round(loss.margin, 4)
        0.3167
    """

    def __init__(
        self,
        *,
        start: Annotated[float, pydantic.Field(ge=0)] = 0.2,
        end: Annotated[float, pydantic.Field(ge=0)] = 0.9,
        start_epoch: pydantic.NonNegativeInt = 20,
        final_epochs: pydantic.NonNegativeInt = 20,
        growth: Literal["linear", "sigmoid"] = "linear",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.start = start
        self.end = end
        self.start_epoch = start_epoch
        self.final_epochs = final_epochs
        self.growth = growth
        self.margin = end

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set the margin of the epoch that begins, from 0, of a training of so many epochs."""
        first, last = self.start_epoch, epochs - self.final_epochs
        if first >= last:
            first, last = 0, max(epochs - 1, 1)
        share = min(max((epoch - first) / (last - first), 0.0), 1.0)
        if self.growth == "sigmoid":
            share = 1 / (1 + math.exp(4 - 14 * share))
        self.margin = self.start + share * (self.end - self.start)

    def call(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return losses `(B,)`; see the class."""
        return spread_loss(y_pred, one_hot_targets(y_true, y_pred, one_class="spread loss"), margin=self.margin)
