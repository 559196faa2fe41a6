"""The images that the routing is analysed with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from encapkeras.data import Batches, DataSplits
from encapkeras.errors import DataError

Split = Literal["test", "validation", "train"]


def first_images(splits: DataSplits, split: Split, count: int) -> tuple[Tensor, Tensor]:
    """The first images of a split, in its own order and not augmented, and their labels.

    Args:
        splits: A data set.
        split: `test`, `validation` or `train`.
        count: How many at most.

    Returns:
        Images `(B, H, W, C)`, 0 to 1, and labels `(B,)`.

    Raises:
        DataError: There is no validation part.

    Example:
        >>> from encapkeras.data import DataSettings, load
        >>> images, labels = first_images(load(DataSettings(dataset="digits"), seed=0), "test", 100)
        >>> images.shape, len(labels)
        (torch.Size([100, 32, 32, 1]), 100)
    """
    batches = _unchanged(splits) if split == "train" else splits.validation if split == "validation" else splits.test
    if batches is None:
        raise DataError("there is no validation part (data.validation is 0) to analyse the routing with")
    needed = -(-min(count, batches.num_images) // (batches.batch_size or 1))
    images, labels = zip(*(batches.batch(index) for index in range(needed)), strict=True)
    return torch.cat(images)[:count], torch.cat(labels)[:count]


def _unchanged(splits: DataSplits) -> Batches:
    """The training images without the shuffling and augmentation."""
    images, labels = splits.train.dataset.tensors  # type: ignore[attr-defined]
    size = splits.train.batch_size or len(labels)
    return Batches(images, labels, height=splits.info.height, width=splits.info.width, batch_size=size)
