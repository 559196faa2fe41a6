"""The images that the routing is analysed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from encapkeras.data import DataSplits
from encapkeras.data.splits import balanced_sample, describe_sample
from encapkeras.errors import DataError

Split = Literal["test", "validation", "train"]


@dataclass(frozen=True)
class Sample:
    """A balanced choice of the images of a split, not augmented."""

    images: Tensor  # `(B, H, W, C)`
    labels: Tensor  # `(B,)`
    name: str  # in tables: `balanced SPLIT`, or SPLIT if it is the whole; in old tables SPLIT may be its first images
    text: str  # for people


def sample_images(splits: DataSplits, split: Split, count: int) -> Sample:
    """Return so many images of a split, or all if there are fewer."""
    parts = {"train": splits.train.unchanged(), "validation": splits.validation, "test": splits.test}
    batches = parts[split]
    if batches is None:
        raise DataError("there is no validation part (data.validation is 0) to analyse the routing with")
    if splits.info.task == "segments":
        raise DataError(
            "the routing is analysed with images that have one class each, and these have masks, a class for each "
            "pixel: there is no analysis of those"
        )
    sample = balanced_sample(batches, count)
    images, labels = zip(*(sample.batch(index) for index in range(len(sample))), strict=True)
    name = f"balanced {split}" if sample.num_images < batches.num_images else split
    text = describe_sample(sample.num_images, batches.num_images, split, splits.info.classes)
    return Sample(torch.cat(images), torch.cat(labels), name, text)
