"""The images that the routing is analysed with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from encapkeras.data import DataSplits
from encapkeras.errors import DataError

Split = Literal["test", "validation", "train"]


def first_images(splits: DataSplits, split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Return the first images of a split `(B, H, W, C)`, 0 to 1, not augmented, and their labels `(B,)`."""
    parts = {"train": splits.train.unchanged(), "validation": splits.validation, "test": splits.test}
    batches = parts[split]
    if batches is None:
        raise DataError("there is no validation part (data.validation is 0) to analyse the routing with")
    needed = -(-min(count, batches.num_images) // (batches.batch_size or 1))
    images, labels = zip(*(batches.batch(index) for index in range(needed)), strict=True)
    return torch.cat(images)[:count], torch.cat(labels)[:count]
