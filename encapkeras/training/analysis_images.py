"""The images that the routing is analysed with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from encapkeras.data import DataSplits
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
    parts = {"train": splits.train.unchanged(), "validation": splits.validation, "test": splits.test}
    batches = parts[split]
    if batches is None:
        raise DataError("there is no validation part (data.validation is 0) to analyse the routing with")
    needed = -(-min(count, batches.num_images) // (batches.batch_size or 1))
    images, labels = zip(*(batches.batch(index) for index in range(needed)), strict=True)
    return torch.cat(images)[:count], torch.cat(labels)[:count]
