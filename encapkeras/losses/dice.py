"""The Dice loss of segmentations."""

from __future__ import annotations

from typing import Any

import pydantic
import torch

from encapkeras.errors import ShapeError
from encapkeras.losses.registry import CapsuleLoss, register_loss, scores_first
from encapkeras.losses.targets import check_scores, one_hot_targets


@scores_first("loss=DiceLoss()")
def dice_loss(scores: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 1.0) -> torch.Tensor:
    """Return `1 - mean_k (2 sum_p T_pk a_pk + s) / (sum_p T_pk + sum_p a_pk + s)` of each image, `(B,)`; pixels p.

    One minus the coefficient of Sorensen and Dice, with scores in the place of sets, as Milletari et al. 2016,
    arXiv:1606.04797, have it, but for their squares.

    Args:
        scores: Lengths or probabilities a `(B, H, W, K)`, 0 to 1.
        targets: T `(B, H, W, K)`, 1 for the class of each pixel.
        smoothing: The number s, above 0: a class that an image neither has nor gets counts as found.

    Examples:
        >>> scores = torch.tensor([[[[0.75, 0.25], [0.25, 0.75]]]])
        >>> dice_loss(scores, torch.eye(2).view(1, 1, 2, 2))
        tensor([0.1667])
    """
    both = (targets * scores).sum((1, 2))
    either = targets.sum((1, 2)) + scores.sum((1, 2))
    return 1 - ((2 * both + smoothing) / (either + smoothing)).mean(-1)


@register_loss("dice")
class DiceLoss(CapsuleLoss):
    """Dice loss of segmentations: how little the pixels of each class overlap with those of the mask.

    `1 - mean_k (2 sum_p T_pk a_pk + s) / (sum_p T_pk + sum_p a_pk + s)` with the scores a and targets T of the pixels p
    of an image, mean over the batch (Milletari et al. 2016, arXiv:1606.04797, without squares). All classes count the
    same, however few pixels they have.

    Args:
        smoothing: The number s, above 0: a class that an image neither has nor gets counts as found.
        from_logits: Whether scores are logits, whose softmax is taken; otherwise they are lengths or probabilities.
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.

    Call arguments:
        y_true: Masks `(B, H, W)` as whole numbers, or targets `(B, H, W, K)`.
        y_pred: Scores `(B, H, W, K)`.
        sample_weight: Weights `(B,)` of images.

    Raises:
        ShapeError: Masks and scores do not match.
        ArgumentError: Pixels of masks are outside of their range, or scores without `from_logits` are (checked on the
            CPU).

    Examples:
        >>> import torch
        >>> DiceLoss()(torch.tensor([[[0, 1]]]), torch.tensor([[[[0.75, 0.25], [0.25, 0.75]]]]))
        tensor(0.1667)
    """

    pixels = True
    by_pixel = False

    def __init__(self, *, smoothing: pydantic.PositiveFloat = 1.0, from_logits: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.smoothing = smoothing
        self.from_logits = from_logits

    def call(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return losses `(B,)`; see the class."""
        if y_pred.dim() != 4:
            raise ShapeError(
                "the Dice loss takes scores of pixels (batch, height, width, classes) and masks (batch, height, "
                f"width); received scores of shape {tuple(y_pred.shape)}"
            )
        if not self.from_logits:
            check_scores(y_pred, "dice takes lengths or probabilities; for other scores, set from_logits: true", 1)
        targets = one_hot_targets(y_true, y_pred, several=True, pixels=True)
        scores = y_pred.softmax(-1) if self.from_logits else y_pred
        return dice_loss(scores, targets, smoothing=self.smoothing)

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Return the softmax of scores that are logits, otherwise None."""
        return scores.softmax(-1) if self.from_logits else None
