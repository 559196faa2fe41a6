"""From the `data:` section to training, validation and test batches, in `load`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from encapkeras.data import augment
from encapkeras.data.affine import AffineImages, DataPart
from encapkeras.data.batches import Batches
from encapkeras.data.checks import label_problems, layout_hint, listed_error, range_hint
from encapkeras.data.description import as_given_to_the_network, too_few
from encapkeras.data.fingerprint import Fingerprint, fingerprint
from encapkeras.data.image_files import ImageFiles
from encapkeras.data.label_matrix import MOST_NAMED, as_targets, matrix_problems
from encapkeras.data.mask_files import MaskFiles
from encapkeras.data.overlap import MARGIN, check_parts
from encapkeras.data.registry import SAMPLE_AXES, Array, DatasetInfo, ImageArrays
from encapkeras.data.settings import AugmentSettings, DataSettings
from encapkeras.data.windows import FileWindows, Layout, Windows, decoded, decoded_masks
from encapkeras.data.worker_processes import default_workers
from encapkeras.errors import ArgumentError, DataError
from encapkeras.text import listed

IN_MEMORY = 2**30  # bytes; image files that take no more, resized, are decoded once


class Part(NamedTuple):
    """The images of training, validation or test."""

    images: Array | ImageFiles
    labels: Array | MaskFiles
    numbers: Array  # of the images, in the part of the data set that they were read from
    source: DataPart  # that part


@dataclass(frozen=True)
class DataSplits:
    """A data set, ready for training.

    Args:
        info: Size of the images as the network takes them, and the classes.
        train: Shuffled and augmented.
        validation: The held-out part of the training images, or the data set's own validation part, in its own order,
            not augmented; None if there is none.
        test: In its own order, not augmented.
        fingerprint: Of all images as read, by which `train` and others see whether they are the same later.
    """

    info: DatasetInfo
    train: Batches
    validation: Batches | None
    test: Batches
    fingerprint: Fingerprint = field(default_factory=dict)

    def only_part(self, process: int, processes: int) -> DataSplits:
        """Return the same splits for one of several processes, which makes only its part of each batch."""
        train, test = (batches.only_part(process, processes) for batches in (self.train, self.test))
        validation = self.validation.only_part(process, processes) if self.validation else None
        return replace(self, train=train, validation=validation, test=test)


def load(settings: DataSettings, *, seed: int) -> DataSplits:
    """Read (and if need be download) a data set, hold out the validation part, and make batches.

    Args:
        settings: The `data:` section.
        seed: At least 0. Decides which images are used and held out, the order of the training images and their
            augmentation.

    Raises:
        ArgumentError: The seed is negative, the augmentation does not suit the images, there are fewer of them than
            `subset` asks for, there is no validation part of the data set's own, or the held-out part would be empty or
            leave nothing to train on.
        DataError: Files are missing and cannot be downloaded, are damaged, or contain invalid values.

    Examples:
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
    info = as_given_to_the_network(settings, reader)
    arrays = _with_checked_labels(settings.dataset, arrays, info)
    for part, images in {"training": arrays.train_images, "test": arrays.test_images}.items():
        if info.samples == "images" and len(images) and (hint := range_hint(images)):
            warnings.warn(f"pixels of the {part} images of data set '{settings.dataset}': {hint}", stacklevel=2)
    train, validation, test = _parts(arrays, settings, seed)
    if settings.overlap:
        parts = {"training": train, "validation": validation, "test": test}
        labels_of = {name: part.labels for name, part in parts.items() if isinstance(part.labels, np.ndarray)}
        check_parts(labels_of, info.class_names)
    make = _BatchesMaker(settings, info, [part.images for part in (train, validation, test)])
    train_batches = make(train, settings.augment, seed)
    if info.task == "segments":
        _warn_of_absent_classes(settings.dataset, train_batches.labels, info.class_names)
    return DataSplits(
        info=info,
        train=train_batches,
        validation=make(validation) if len(validation.labels) else None,
        test=make(test),
        fingerprint=fingerprint(info.class_names, arrays),
    )


def _with_checked_labels(dataset: str, arrays: ImageArrays, info: DatasetInfo) -> ImageArrays:
    """Return the arrays with labels as losses take them; raise `DataError` for others than the description says."""
    parts = {
        "train_labels": (arrays.train_images, arrays.train_labels),
        "validation_labels": (arrays.validation_images, arrays.validation_labels),
        "test_labels": (arrays.test_images, arrays.test_labels),
    }
    given = {}
    for name, (images, labels) in parts.items():
        if images is None or labels is None:
            continue
        if isinstance(labels, np.ndarray):
            _check_kind(dataset, labels, info)
            given[name] = labels
        if len(images) != len(labels):
            raise DataError(f"data set '{dataset}' gives {len(labels)} {name} for {len(images)} images; each needs one")
        if not len(labels) and name != "validation_labels":
            raise DataError(f"data set '{dataset}' gives no {name}; training and test need at least one image each")
    if info.task == "segments":
        return arrays
    several = info.classes_per_image is None
    problems = matrix_problems(given, info.class_names) if several else []
    for name, labels in given.items():
        problems += [] if several else label_problems(name, labels, info.classes)
    if problems:
        raise listed_error(f"data set '{dataset}' gives labels that cannot be used", problems)
    return replace(
        arrays, **{name: as_targets(each) if several else each.astype(np.int64) for name, each in given.items()}
    )


def _check_kind(dataset: str, labels: Array, info: DatasetInfo) -> None:
    """Check that there is one class for each image, a matrix of labels, or one class for each pixel."""
    gives = f"data set '{dataset}' gives"
    if info.task == "segments" and labels.ndim != 3:
        raise DataError(
            f"{gives} labels of shape {labels.shape}; its description says that each pixel has a class: give masks "
            "(N, H, W)"
        )
    axes = 2 if info.classes_per_image is None else 1
    if info.task == "classes" and labels.ndim != axes:
        wanted = "one class for each image, (N,)" if axes == 1 else "(N, K), 1 for each label of an image"
        raise DataError(
            f"{gives} labels of shape {labels.shape}; its description says {wanted}. Images of any number of labels "
            "have classes_per_image=None in the DatasetInfo"
        )
    if labels.ndim != 2 and labels.dtype.kind not in "biu":
        what = "labels" if info.task == "classes" else "masks"
        raise DataError(f"{gives} {what} of {labels.dtype}; classes are whole numbers: give int64, or uint8 for masks")
    if info.task == "segments" and labels.size and not 0 <= labels.min() <= labels.max() < info.classes:
        raise DataError(
            f"{gives} masks with values from {labels.min()} to {labels.max()}; there are {info.classes} classes, from "
            f"0 to {info.classes - 1}"
        )


def _warn_of_absent_classes(dataset: str, masks: Tensor, class_names: Sequence[str]) -> None:
    """Warn of classes without a pixel to train on: a subset, or other sizes of images, may have lost them."""
    pixels = masks.flatten().bincount(minlength=len(class_names)).tolist()
    absent = [name for name, count in zip(class_names, pixels, strict=True) if not count]
    if absent:
        warnings.warn(
            f"data set '{dataset}': no mask of the training images has a pixel of {listed(absent, MOST_NAMED)}, so "
            "that no network could learn it",
            stacklevel=3,
        )


class _BatchesMaker:
    """Makes the batches of each part; files are decoded at once if those of all parts fit into memory."""

    def __init__(self, settings: DataSettings, info: DatasetInfo, images: Sequence[Array | ImageFiles]) -> None:
        self._settings, self._info = settings, info
        larger = settings.augment and settings.augment.resize
        margin = 2 * settings.margin
        self._whole = (larger, larger) if larger else (info.height - margin, info.width - margin)  # as resized
        files = [part for part in images if isinstance(part, ImageFiles)]
        self._stay_files = sum(len(part) * math.prod(self._whole) * part.channels for part in files) > IN_MEMORY
        self._workers = default_workers() if settings.workers is None else settings.workers

    def __call__(self, part: Part, augmented: AugmentSettings | None = None, seed: int | None = None) -> Batches:
        height, width = self._info.height, self._info.width
        settings = self._settings
        pad = MARGIN if settings.overlap else augmented.pad if augmented else 0
        border = settings.affine.border if settings.affine else 0
        layout = Layout(self._whole, border, self._affine(part), pad)
        source: Tensor | Windows
        if isinstance(part.images, ImageFiles) and self._stay_files:
            source = FileWindows(part.images, height, width, layout)
        else:
            source = layout.placed(self._in_memory(part.images), np.arange(len(part.labels)))
        return Batches(
            source,
            self._labels(part),
            height=height,
            width=width,
            batch_size=settings.batch_size,
            seed=seed,
            settings=augmented,
            workers=self._workers if self._stay_files else 0,
            axes=SAMPLE_AXES[self._info.samples],
            overlap_classes=self._info.classes if settings.overlap else None,
            balance=settings.balance and seed is not None,
        )

    def _labels(self, part: Part) -> Tensor:
        """Return labels `(N,)`, or masks in the size of the images from which windows are cut."""
        labels, images = part.labels, part.images
        if isinstance(labels, MaskFiles):
            return decoded_masks(labels, self._whole, self._settings.dataset, self._workers)
        if self._info.task == "classes":
            return torch.from_numpy(labels)
        if not isinstance(images, ImageFiles) and labels.shape != images.shape[:3]:
            raise DataError(
                f"data set '{self._settings.dataset}' gives masks {labels.shape} of images {images.shape}; a mask has "
                "a class for each pixel of its image"
            )
        masks = torch.from_numpy(np.require(labels, np.uint8, ["C_CONTIGUOUS", "WRITEABLE"]))
        return augment.fit(masks[..., None], *self._whole, nearest=True)[..., 0]

    def _affine(self, part: Part) -> AffineImages | None:
        settings = self._settings.affine
        if settings is None or (part.source != "test" and not settings.training):
            return None
        canvas = (self._whole[0] + 2 * settings.border, self._whole[1] + 2 * settings.border)
        return AffineImages(settings, part.source, part.numbers, canvas)

    def _in_memory(self, images: Array | ImageFiles) -> Tensor:
        if isinstance(images, ImageFiles):
            return decoded(images, self._whole, self._workers)
        if images.ndim != 4 or images.shape[3] != self._info.channels:
            text = f"data set '{self._settings.dataset}' describes images (N, H, W, {self._info.channels}), and returns"
            raise DataError(f"{text} {images.shape}. {layout_hint(images.shape)}".rstrip())
        writable = np.require(images, requirements=["C_CONTIGUOUS", "WRITEABLE"])
        if self._info.samples != "images":
            return torch.from_numpy(writable)
        return augment.fit(torch.from_numpy(writable), *self._whole)


def subset_indices(labels: Array | MaskFiles, count: int | None, seed: int) -> Array:
    """Return a random choice of training images, ascending; with the same seed, a smaller one is part of a larger."""
    total = len(labels)
    if count is None:
        return np.arange(total)
    if count > total:
        raise too_few(count, total)
    if isinstance(labels, MaskFiles) or labels.ndim > 1:  # of masks or several labels any choice is as good
        labels = np.zeros(total, np.int64)
    return np.sort(_in_shares(labels, seed)[:count])


def balanced_order(labels: Array) -> Array:
    """Return the indices of labels `(N,)` in an order, always the same, whose beginnings all are balanced choices.

    In the first M of them, for any M, each class has the share that it has in the whole.
    """
    names, classes = np.unique(labels, return_inverse=True)
    # Some classes have an image more than others where shares are not whole: random ones, not always the first.
    return _in_shares(np.random.default_rng(0).permutation(len(names))[classes], seed=0)


def balanced_sample(batches: Batches, count: int) -> Batches:
    """Return `count` of the images (all if there are fewer), always the same, each class with its share.

    The images are in their own order, cut at the center and not augmented.
    """
    return batches.take(np.sort(balanced_order(batches.classes.numpy())[:count]))


def describe_sample(count: int, total: int, split: str, classes: int) -> str:
    """Return how many images of a split are used, in words.

    Examples:
        >>> describe_sample(40, 120, "test", classes=3)
        '40 of 120 test images, balanced over 3 classes'
    """
    sample = f"{count:,} of {total:,} {split} images, balanced over {classes:,} classes"
    return sample if count < total else f"{total:,} {split} images"


def _in_shares(labels: Array, seed: int) -> Array:
    """Return a random order of the indices of labels `(N,)` in which all beginnings hold the shares of the classes."""
    total = len(labels)
    mixed = np.random.default_rng([seed, 0, 1]).permutation(total)
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    sizes = np.bincount(labels)
    ranks = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # The image of rank r among n of its class comes after the r / n-th part of all: the first of every class at once.
    return by_class[np.argsort(ranks / np.repeat(sizes, sizes), kind="stable")]


def held_out_indices(count: int, fraction: float, seed: int) -> Array:
    """Return which training images are held out for validation, ascending: a random choice that ignores classes."""
    held_out = round(fraction * count)
    if fraction > 0 and held_out in (0, count):
        what = "no image" if held_out == 0 else "all images"
        raise ArgumentError(
            f"data.validation = {fraction:g} of {count} training images would hold out {what}; choose a fraction "
            f"between {1 / count:.2g} and {1 - 1 / count:.2g}, or 0 for no validation"
        )
    return np.sort(np.random.default_rng([seed, 0]).permutation(count)[:held_out])


def _parts(arrays: ImageArrays, settings: DataSettings, seed: int) -> tuple[Part, Part, Part]:
    """Return images and labels for training, validation (none, if there is no such part) and test."""
    used = subset_indices(arrays.train_labels, settings.subset, seed)
    if settings.validation == "own" and arrays.validation_images is not None and arrays.validation_labels is not None:
        kept = used
        validation = _whole_part(arrays.validation_images, arrays.validation_labels, "validation")
    else:
        held_out = held_out_indices(len(used), float(settings.validation), seed)
        kept = np.delete(used, held_out)
        validation = _taken(arrays, used[held_out])
    return _taken(arrays, kept), validation, _whole_part(arrays.test_images, arrays.test_labels, "test")


def _whole_part(images: Array | ImageFiles, labels: Array | MaskFiles, source: DataPart) -> Part:
    return Part(images, labels, np.arange(len(labels)), source)


def _taken(arrays: ImageArrays, indices: Array) -> Part:
    images, labels = arrays.train_images, arrays.train_labels
    chosen = images.take(indices) if isinstance(images, ImageFiles) else images[indices]
    own = labels.take(indices) if isinstance(labels, MaskFiles) else labels[indices]
    return Part(chosen, own, indices, "training")
