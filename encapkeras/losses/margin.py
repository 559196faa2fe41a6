"""The margin loss of capsule networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import pydantic
import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional.torch_support.numbers_on import numbers_on
from encapkeras.losses.registry import CapsuleLoss, register_loss, scores_first
from encapkeras.losses.targets import one_hot_targets, smooth


@scores_first("loss=MarginLoss()")
def margin_loss(
    scores: torch.Tensor,
    targets: torch.Tensor,
    *,
    upper: float = 0.9,
    lower: float = 0.1,
    absent_weight: float = 0.5,
    class_weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """Return `sum_k w_k T_k max(0, upper - a_k)^2 + absent_weight (1 - T_k) max(0, a_k - lower)^2` of each sample.

    Sabour et al. 2017, equation 4; of pixels, with weights, LaLonde and Bagci 2018, arXiv:1804.04241, code.

    Args:
        scores: Lengths a `(B, K)`; or of each pixel, `(B, H, W, K)`.
        targets: T in the shape of the scores, 1 for each present class.
        upper: The length that a present class should reach.
        lower: The length that an absent class should not exceed.
        absent_weight: Weight of the absent classes.
        class_weights: Weight w of each class where it is present; None: 1.

    Returns:
        Losses `(B,)`, or of pixels `(B, H, W)`.

    Examples:
        >>> margin_loss(torch.tensor([[0.5, 0.3]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.1800])
    """
    present = targets * (upper - scores).clamp_min(0).square()
    if class_weights is not None:
        present = present * numbers_on(scores, class_weights)
    absent = (1 - targets) * (scores - lower).clamp_min(0).square()
    return (present + absent_weight * absent).sum(-1)


@register_loss("margin")
class MarginLoss(CapsuleLoss):
    """Margin loss on the lengths of class capsules (Sabour et al. 2017, equation 4).

    `sum_k w_k T_k max(0, upper - |v_k|)^2 + absent_weight (1 - T_k) max(0, |v_k| - lower)^2`, mean over the batch, with
    `T_k = (1 - label_smoothing) [k = t] + label_smoothing / K`. With masks it is the mean over all pixels; weights w of
    rare classes are then of use (LaLonde and Bagci 2018, arXiv:1804.04241).

    Args:
        upper: The length that the present class should reach.
        lower: The length that absent classes should not exceed.
        absent_weight: Weight of the absent classes, at least 0.
        label_smoothing: Fraction of the target that all classes share equally, from 0 to below 1.
        class_weights: Weight w of each class where it is present, at least 0, in the order of the labels; if not given,
            all are 1.
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.

    Call arguments:
        y_true: Labels `(B,)` as whole numbers, or targets `(B, K)` from 0 to 1, with any number of present classes.
            Masks `(B, H, W)` of images.
        y_pred: Lengths `(B, K)`; of each pixel `(B, H, W, K)`.
        sample_weight: Weights `(B,)` of samples; with masks also of pixels, `(B, H, W)`.

    Raises:
        ShapeError: Labels and lengths do not match.
        ArgumentError: Labels are outside of their range (checked on the CPU), or there are not as many weights as
            classes.

    Examples:
        >>> import torch
        >>> MarginLoss()(torch.tensor([0]), torch.tensor([[0.5, 0.3]]))
        tensor(0.1800)
    """

    several_classes = True
    of_lengths = True
    pixels = True

    def __init__(
        self,
        *,
        upper: float = 0.9,
        lower: float = 0.1,
        absent_weight: Annotated[float, pydantic.Field(ge=0)] = 0.5,
        label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0,
        class_weights: list[pydantic.NonNegativeFloat] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.upper = upper
        self.lower = lower
        self.absent_weight = absent_weight
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights

    def call(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return losses `(B,)`, or of pixels `(B, H, W)`; see the class."""
        targets = smooth(one_hot_targets(y_true, y_pred, several=True, pixels=True), self.label_smoothing)
        weights = self.class_weights
        if weights is not None and len(weights) != y_pred.shape[-1]:
            raise ArgumentError(f"class_weights has {len(weights)} numbers, and there are {y_pred.shape[-1]} classes")
        return margin_loss(
            y_pred,
            targets,
            upper=self.upper,
            lower=self.lower,
            absent_weight=self.absent_weight,
            class_weights=weights,
        )
