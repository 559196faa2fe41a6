"""From the `data:` section to training, validation and test batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from encapkeras.data import augment
from encapkeras.data.batches import Batches
from encapkeras.data.registry import Array, DatasetInfo, DatasetReader
from encapkeras.data.settings import AugmentSettings, DataSettings
from encapkeras.errors import ArgumentError


@dataclass(frozen=True)
class DataSplits:
    """A data set, ready for training.

    Args:
        info: Size of the images as the network takes them, and the classes.
        train: Shuffled and augmented.
        validation: The held-out part of the training images, in their own order, not augmented; None if there is none.
        test: In its own order, not augmented.
    """

    info: DatasetInfo
    train: Batches
    validation: Batches | None
    test: Batches


def describe(settings: DataSettings) -> DatasetInfo:
    """What a network has to know about the images it will be given; nothing is downloaded and no pixel is read.

    Args:
        settings: The `data:` section.

    Raises:
        ArgumentError: The augmentation does not suit the images.
        DataError: The description cannot be had: the user's file is missing or wrong.

    Example:
        >>> info = describe(DataSettings(dataset="digits"))
        >>> (info.height, info.width, info.channels, info.classes)
        (32, 32, 1, 10)
    """
    return _as_given_to_the_network(settings, settings.reader())


def load(settings: DataSettings, *, seed: int) -> DataSplits:
    """Reads (and if need be downloads) a data set, holds out the validation part, and makes batches.

    Args:
        settings: The `data:` section.
        seed: At least 0. Decides which images are held out, the order of the training images and their augmentation.

    Raises:
        ArgumentError: The seed is negative, the augmentation does not suit the images, or the held-out part would be
            empty or leave nothing to train on.
        DataError: Files are missing and cannot be downloaded, are damaged, or hold impossible values.

    Example:
        >>> splits = load(DataSettings(dataset="digits", batch_size=32), seed=0)
        >>> splits.train.num_images, splits.validation.num_images, splits.test.num_images
        (1293, 144, 360)
        >>> images, labels = splits.train.batch(0)
        >>> images.shape, labels.dtype
        (torch.Size([32, 32, 32, 1]), torch.int64)
    """
    if seed < 0:
        raise ArgumentError(f"the seed must be at least 0; received {seed}")
    reader = settings.reader()
    arrays = reader.read()  # before the description: it finds all that is wrong, the description only a part
    info = _as_given_to_the_network(settings, reader)
    held_out = held_out_indices(len(arrays.train_labels), settings.validation, seed)
    kept = np.setdiff1d(np.arange(len(arrays.train_labels)), held_out)

    train_images, train_labels = _prepared(arrays.train_images, info, settings), torch.from_numpy(arrays.train_labels)
    test_images, test_labels = _prepared(arrays.test_images, info, settings), torch.from_numpy(arrays.test_labels)

    def batches(images: Tensor, labels: Tensor, *, training: bool = False) -> Batches:
        return Batches(
            images,
            labels,
            height=info.height,
            width=info.width,
            batch_size=settings.batch_size,
            seed=seed if training else None,
            settings=settings.augment if training else None,
        )

    return DataSplits(
        info=info,
        train=batches(train_images[kept], train_labels[kept], training=True),
        validation=batches(train_images[held_out], train_labels[held_out]) if len(held_out) else None,
        test=batches(test_images, test_labels),
    )


def held_out_indices(count: int, fraction: float, seed: int) -> Array:
    """Which training images are held out for validation: a random choice that ignores the classes.

    Args:
        count: Number of training images.
        fraction: Part to hold out, from 0 to below 1; rounded to whole images.
        seed: At least 0; nothing else decides the choice.

    Returns:
        Their indices, ascending.

    Raises:
        ArgumentError: The fraction is not 0 and would hold out no image, or all of them.

    Example:
        >>> len(held_out_indices(50, 0.1, seed=0))
        5
    """
    held_out = round(fraction * count)
    if fraction > 0 and held_out in (0, count):
        what = "no image" if held_out == 0 else "all images"
        raise ArgumentError(
            f"data.validation = {fraction:g} of {count} training images would hold out {what}; choose a fraction "
            f"between {1 / count:.2g} and {1 - 1 / count:.2g}, or 0 for no validation"
        )
    return np.sort(np.random.default_rng([seed, 0]).permutation(count)[:held_out])


def _as_given_to_the_network(settings: DataSettings, reader: DatasetReader) -> DatasetInfo:
    size = settings.image_size or reader.image_size
    stored = reader.describe()
    info = replace(stored, height=size, width=size) if size else stored
    if settings.augment is not None:
        settings.augment.check(info.height, info.width, info.channels)
    return info


def _prepared(images: Array, info: DatasetInfo, settings: DataSettings) -> Tensor:
    """The images in the size from which batches are cut."""
    larger = (settings.augment or AugmentSettings()).resize
    height, width = (larger, larger) if larger else (info.height, info.width)
    return augment.resize(
        torch.from_numpy(np.require(images, requirements=["C_CONTIGUOUS", "WRITEABLE"])), height, width
    )
