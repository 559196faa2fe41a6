"""What a network has to know about a data set, in `describe`; it needs no torch, so that specs are read without it."""

from __future__ import annotations

import warnings
from dataclasses import replace

from encapkeras.data.checks import layout_hint
from encapkeras.data.registry import DatasetInfo, DatasetReader
from encapkeras.data.settings import DataSettings
from encapkeras.errors import ArgumentError

FOR_IMAGES = ("image_size", "augment", "affine", "overlap")  # settings


def describe(settings: DataSettings) -> DatasetInfo:
    """Return what a network has to know about the images it will be given; download nothing and read no pixel.

    Args:
        settings: The `data:` section.

    Raises:
        ArgumentError: The augmentation does not suit the images, there are fewer of them than `subset` asks for, or
            there is no validation part of the data set's own.
        DataError: There is no description: the user's file is missing or wrong.

    Examples:
        >>> info = describe(DataSettings(dataset="digits"))
        >>> (info.height, info.width, info.channels, info.classes)
        (32, 32, 1, 10)
    """
    return as_given_to_the_network(settings, settings.reader())


def as_given_to_the_network(settings: DataSettings, reader: DatasetReader) -> DatasetInfo:
    """Return the description after resizing, checked against the settings; the reader's remarks become warnings."""
    size = settings.image_size or reader.image_size
    stored = reader.describe()
    if stored.classes_per_image is None:
        for name, what in (("overlap", "merges images of one class each"), ("balance", "draws images by their class")):
            if getattr(settings, name):
                raise ArgumentError(f"data.{name} {what}; those of data set '{settings.dataset}' have several labels")
    if stored.samples != "images":
        return _without_images(settings, stored, reader.remarks())
    remarks = reader.remarks()
    if hint := layout_hint((-1, stored.height, stored.width, stored.channels)):
        shape = f"{stored.height} x {stored.width} pixels of {stored.channels} channels"
        remarks.append(f"data set '{settings.dataset}': images have {shape}. {hint}")
    for remark in remarks:
        warnings.warn(remark, stacklevel=3)
    height, width = (size, size) if size else (stored.height, stored.width)
    height, width = height + 2 * settings.margin, width + 2 * settings.margin
    info = replace(stored, height=height, width=width, classes_per_image=settings.overlap or stored.classes_per_image)
    if info.task == "segments":
        _check_suits_masks(settings)
    if settings.overlap and info.classes <= settings.overlap:
        raise ArgumentError(
            f"data.overlap is {settings.overlap}, and there are {info.classes} classes: all images would have the same "
            "ones. Use more classes, or remove data.overlap"
        )
    if settings.augment is not None:
        settings.augment.check(info.height, info.width, info.channels)
    if settings.validation == "own" and info.validation_images is None:
        raise _no_validation(settings, remarks)
    return info if settings.subset is None else replace(info, train_images=_subset_size(settings.subset, info))


def _check_suits_masks(settings: DataSettings) -> None:
    """Refuse changes that move images alone, or add pixels that have no class; and a choice by the class of images."""
    if settings.balance:
        raise ArgumentError(
            f"data.balance draws images by their class; in those of data set '{settings.dataset}', each pixel has a "
            "class. Remove it; a loss of pixels can have class_weights"
        )
    moved = [name for name in ("affine", "overlap") if getattr(settings, name) is not None]
    moved += ["augment.pad"] if settings.augment and settings.augment.pad else []
    if moved:
        raise ArgumentError(
            f"data.{moved[0]} does not fit masks: it moves images without their masks, or adds pixels without a class. "
            f"Remove it; data set '{settings.dataset}' can be changed by augment.resize with crop, mirror, and what "
            "changes colors"
        )


def _without_images(settings: DataSettings, info: DatasetInfo, remarks: list[str]) -> DatasetInfo:
    """Return the description of sequences or vectors, which are given as they are."""
    for_images = [f"data.{name}" for name in FOR_IMAGES if getattr(settings, name) is not None]
    if for_images:
        verb = "changes" if len(for_images) == 1 else "change"
        raise ArgumentError(
            f"{' and '.join(for_images)} {verb} images; data set '{settings.dataset}' has {info.samples}: remove "
            f"{'it' if len(for_images) == 1 else 'them'}"
        )
    for remark in remarks:
        warnings.warn(remark, stacklevel=4)
    if settings.validation == "own" and info.validation_images is None:
        raise _no_validation(settings, remarks)
    return info if settings.subset is None else replace(info, train_images=_subset_size(settings.subset, info))


def _no_validation(settings: DataSettings, remarks: list[str]) -> ArgumentError:
    return ArgumentError(
        f"data.validation is 'own', but data set '{settings.dataset}' has no validation part; choose the fraction "
        f"of the training images to hold out, for example 0.1. {' '.join(remarks)}".rstrip()
    )


def _subset_size(count: int, info: DatasetInfo) -> int:
    if count < info.classes:
        raise ArgumentError(f"data.subset is {count}, less than one image for each of {info.classes} classes")
    if info.train_images is not None and count > info.train_images:
        raise too_few(count, info.train_images)
    return count


def too_few(count: int, total: int) -> ArgumentError:
    """Return the error about a `subset` that is larger than the data set."""
    return ArgumentError(f"data.subset is {count:,}, but there are {total:,} training images; choose at most that many")
