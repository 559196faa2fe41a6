"""Cross-entropy with lengths as logits."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
import torch

from encapkeras.losses.registry import CapsuleLoss, register_loss, scores_first
from encapkeras.losses.targets import one_hot_targets, smooth


@scores_first("loss=CrossEntropyLoss()")
def cross_entropy(scores: torch.Tensor, targets: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """Return `-sum_k T_k log softmax(scale * a)_k` of each sample, `(B,)`, or each pixel, `(B, H, W)`.

    Args:
        scores: Logits, or lengths, a `(B, K)`; or of each pixel, `(B, H, W, K)`.
        targets: One-hot T, in the shape of the scores.
        scale: Factor of the scores; without one, lengths below 1 make flat probabilities.

    Examples:
        >>> cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([0.6931])
    """
    return -(targets * torch.log_softmax(scale * scores, -1)).sum(-1)


@register_loss("cross_entropy")
class CrossEntropyLoss(CapsuleLoss):
    """Cross-entropy with the class scores as logits: capsule lengths, or the outputs of an ordinary classifier.

    `-sum_k T_k log softmax(scale * a)_k`, mean over the batch, with `T_k = (1 - label_smoothing) [k = t] +
    label_smoothing / K`. Without smoothing that is `-log softmax(scale * a)_t`, the manner of Neural Network
    Encapsulation's code.

    Args:
        scale: Factor of the scores, above 0; lengths are below 1, so without a factor no class gets a
            probability near 1.
        label_smoothing: Fraction of the target that all classes share equally, from 0 to below 1 (Szegedy et al.,
            arXiv:1512.00567).
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.

    Call arguments:
        y_true: Labels `(B,)` as whole numbers, or targets `(B, K)`, one-hot or soft; their rows sum to 1. Masks `(B, H,
            W)` of images.
        y_pred: Scores `(B, K)`; of each pixel `(B, H, W, K)`.
        sample_weight: Weights `(B,)` of samples; with masks also of pixels, `(B, H, W)`.

    Raises:
        ShapeError: Labels and scores do not match.
        ArgumentError: Labels are outside of their range, or a row does not sum to 1 (checked on the CPU).

    Examples:
        >>> import torch
        >>> CrossEntropyLoss()(torch.tensor([0]), torch.zeros(1, 2))
        tensor(0.6931)
    """

    pixels = True

    def __init__(
        self,
        *,
        scale: pydantic.PositiveFloat = 1.0,
        label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.label_smoothing = label_smoothing

    def call(self, y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        """Return losses `(B,)`, or of pixels `(B, H, W)`; see the class."""
        one_hot = one_hot_targets(y_true, y_pred, one_class="cross-entropy loss", pixels=True)
        targets = smooth(one_hot, self.label_smoothing)
        return cross_entropy(y_pred, targets, scale=self.scale)

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Return `softmax(scale * a)` of scores a `(B, K)`."""
        return torch.softmax(self.scale * scores, -1)
