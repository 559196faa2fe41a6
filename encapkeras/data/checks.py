"""Checks that arrays read from files can be a data set, and what about them is likely a slip."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from encapkeras.data.image_files import ImageFiles
from encapkeras.data.registry import Array, ImageArrays
from encapkeras.errors import DataError
from encapkeras.text import counted

MOST_LISTED = 50
NEARLY_BLACK = 16 / 255  # what is left of 12 bits in 16
LOOKED_AT = 16  # files
AT_ONCE = 1024  # images


def label_problems(name: str, labels: Array, classes: int) -> list[str]:
    """Return what is wrong with integer labels `(N,)`."""
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if not len(outside):
        return []
    first, count = outside[0], counted(len(outside), "label")
    return [f"{name}: {count} outside 0..{classes - 1}, the first is {labels[first]} at index {first}"]


def missing_classes(name: str, labels: Array, classes: int) -> list[str]:
    """Return which classes have no image; their number may be absurdly large, from a wrong label."""
    present = np.unique(labels)
    if len(present) == classes:
        return []
    missing = np.setdiff1d(np.arange(min(classes, len(present) + 5)), present)[:5].tolist()
    count = classes - len(present)
    listed = ", ".join(map(str, missing)) + (", ..." if count > len(missing) else "")
    hint = "; labels count from 0" if missing[0] == 0 else ""
    return [f"{name}: {count} of {classes} classes without any image: {listed}{hint}"]


def check_arrays(dataset: str, arrays: ImageArrays, classes: int) -> ImageArrays:
    """Return the arrays of a built-in data set; raise `DataError` for impossible labels and classes without images."""
    problems = []
    labels: dict[str, Any] = {"training labels": arrays.train_labels, "test labels": arrays.test_labels}
    for name, each in labels.items():
        problems += [f"{name}: there are none"] if not len(each) else label_problems(name, each, classes)
    problems = problems or missing_classes("training labels", labels["training labels"], classes)
    if problems:
        raise listed_error(f"the files of data set '{dataset}' contain invalid values", problems)
    return arrays


def check_no_image_in_both(dataset: str, train: Array, test: Array) -> None:
    """Raise `DataError` if an image `(N, ...)` of the test, pixel by pixel, is one of the training."""
    places = {_digest(image): place for place, image in enumerate(train)}
    found = [(index, places[key]) for index, key in enumerate(map(_digest, test)) if key in places]
    if found:
        count, (index, place) = counted(len(found), "test image"), found[0]
        raise DataError(
            f"the files of data set '{dataset}' have {count} among the training images: test image {index} is training "
            f"image {place}. A test with them would measure nothing; replace the files with intact copies."
        )


def _digest(image: Array) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def layout_hint(shape: Sequence[int]) -> str:
    """Return what to do with images, or with one, of a shape that is likely (N, C, H, W) instead of (N, H, W, C)."""
    if len(shape) not in (3, 4) or shape[-3] not in (1, 3) or shape[-1] in (1, 3, 4):
        return ""
    axes, order = ("(N, C, H, W)", "0, 2, 3, 1") if len(shape) == 4 else ("(C, H, W)", "1, 2, 0")
    return f"This looks like {axes}, but channels come last: use images.transpose({order})"


def range_hint(images: Array | ImageFiles) -> str:
    """Return what to do with images that are nearly black, or outside [0, 1]; of files, some are looked at."""
    if isinstance(images, ImageFiles):
        chosen = np.linspace(0, len(images) - 1, min(LOOKED_AT, len(images)), dtype=int)
        parts = (images.read(index) for index in chosen.tolist())
    else:
        parts = (images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE))
    largest, white = 0.0, 255
    for part in parts:
        white = 255 if part.dtype == np.uint8 else 1
        largest = max(largest, float(part.max()))
        if white == 255 and largest > NEARLY_BLACK * white:
            return ""
    if largest > white:
        return f"the largest is {largest:g}; pixels that are not uint8 must be in [0, 1]: divide them by 255"
    if largest > NEARLY_BLACK * white:
        return ""
    return (
        f"the largest is {largest:g} of {white}, which is nearly black; multiply them if the files hold 8 or 12 bits "
        "in 16, or 0 and 1 for black and white"
    )


def listed_error(text: str, problems: Sequence[str], advice: Sequence[str] = ()) -> DataError:
    """Return an error that lists what is wrong, and what to do about all of it, a line each."""
    more = [f"and {counted(len(problems) - MOST_LISTED, 'more problem')}"] if len(problems) > MOST_LISTED else []
    return DataError("\n  ".join([f"{text}:", *problems[:MOST_LISTED], *more, *advice]))
