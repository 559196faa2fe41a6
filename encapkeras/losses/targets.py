"""Labels as one-hot targets, and what labels and scores may be."""

from __future__ import annotations

import math
from typing import Any

import keras
import torch
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional.torch_support.fake_tensors import has_values

ROUNDING = 0.01  # by which a sum of soft labels may differ from 1, also in bfloat16


def one_hot_targets(
    labels: torch.Tensor, scores: torch.Tensor, *, one_class: str = "", several: bool = False, pixels: bool = False
) -> torch.Tensor:
    """Return one-hot targets `(B, K)` from labels `(B,)` or `(B, 1)`, or from (soft) targets `(B, K)`.

    A loss that is about one class of each sample gives its name as `one_class`: rows must then sum to 1. With `several`
    classes, or none, labels `(B, 1)` of scores `(B, 1)` are targets. A loss that may be about `pixels` takes scores
    `(B, H, W, K)` too, with labels `(B, H, W)`.
    """
    fits = scores.dim() == 2 or (pixels and scores.dim() == 4)
    if fits and labels.shape == scores.shape and (several or scores.shape[-1] > 1):
        _check_range(labels, 1, "one-hot targets must lie between 0 and 1")
        if one_class:
            _check_sums(labels, one_class)
        return labels.to(scores.dtype)
    if fits and labels.shape in (scores.shape[:-1], (*scores.shape[:-1], 1)):
        last = scores.shape[-1] - 1
        _check_range(labels, last, f"labels must be whole numbers from 0 to {last}, one less than the classes")
        return F.one_hot(labels.reshape(scores.shape[:-1]).long(), scores.shape[-1]).to(scores.dtype)
    raise ShapeError(
        f"a capsule loss takes scores (batch, classes) and labels (batch,) or one-hot (batch, classes)"
        f"{', or scores (batch, height, width, classes) and masks (batch, height, width)' if pixels else ''}; received "
        f"scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)}"
    )


def sample_weights(weights: Any, scores: Any, *, by_pixel: bool) -> Any:
    """Return weights as Keras has to multiply losses with them: those of pixels with one for each pixel.

    Keras itself would give weights `(B,)` of images to the columns of their losses `(B, H, W)`.
    """
    sizes = tuple(scores.shape[:-1])
    if len(sizes) != 3:
        return weights
    weights = keras.ops.convert_to_tensor(weights)
    shape = tuple(weights.shape)
    if shape in (sizes[:1], (sizes[0], 1)):
        return keras.ops.broadcast_to(keras.ops.reshape(weights, (-1, 1, 1)), sizes) if by_pixel else weights
    if shape and not (by_pixel and shape in (sizes, (*sizes, 1))):
        raise ShapeError(
            f"sample weights of images with masks must be (batch,), here {sizes[:1]}"
            f"{f', or (batch, height, width), here {sizes}' if by_pixel else ''}; received shape {shape}"
        )
    return weights


def smooth(targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return `(1 - smoothing) T_k + smoothing / K`."""
    return targets * (1 - smoothing) + smoothing / targets.shape[-1] if smoothing else targets


def sum_to_1(targets: torch.Tensor) -> torch.Tensor:
    """Return which rows `(B,)` of targets `(B, K)` sum to 1, as those of one class and of soft labels do."""
    return (targets.sum(-1, dtype=torch.float32) - 1).abs() <= ROUNDING


def check_scores(scores: torch.Tensor, demand: str, largest: float = math.inf) -> None:
    """Check that scores lie between 0 and the largest one, but for rounding: beyond, a loss of these may be constant.

    What is not a number passes: a training says more about it.
    """
    if not _can_check(scores):
        return
    wrong = (scores < -ROUNDING) | (scores > largest + ROUNDING)
    if wrong.any():
        raise ArgumentError(f"{demand}; received {scores[wrong][0].item():g}")


def _check_sums(targets: torch.Tensor, loss: str) -> None:
    if not _can_check(targets):
        return
    wrong = ~sum_to_1(targets)
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        index = place[0] if len(place) == 1 else place
        raise ArgumentError(
            f"the {loss} needs one class for each sample: one-hot targets, or soft ones that sum to 1; row {index} "
            f"sums to {targets[place].sum().item():g}. Use the margin loss for samples of several classes or none"
        )


def _can_check(labels: torch.Tensor) -> bool:
    return labels.device.type == "cpu" and has_values(labels)  # on a GPU, a check would wait for it


def _check_range(labels: torch.Tensor, largest: int, demand: str) -> None:
    if not _can_check(labels):
        return
    wrong = ~((labels >= 0) & (labels <= largest))
    if "whole" in demand:
        wrong |= labels != labels.round() if labels.is_floating_point() else False
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise ArgumentError(f"{demand}; received {labels[index].item()} at index {index}")
