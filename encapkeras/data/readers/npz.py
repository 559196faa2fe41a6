"""The user's own images, in one NumPy .npz file."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from encapkeras.data.checks import label_problems, listed_error, missing_classes
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import DataError, suggest
from encapkeras.text import counted

PARTS = ("train", "test")
OWN_VALIDATION = "validation"
NAMES = "class_names"

Header = tuple[tuple[int, ...], np.dtype[Any]]


@register_dataset("npz")
class Npz(DatasetReader):
    """The user's own images in a .npz file with `train_images`, `train_labels`, `test_images` and `test_labels`.

    It may have a validation part, `validation_images` and `validation_labels`. Images are uint8, or floats in [0, 1],
    of shape (N, H, W) or (N, H, W, C); labels are whole numbers from 0. With `class_names`, an array of strings, there
    are as many classes as names; without, as many as the training labels say.

    Args:
        path: The file.
    """

    def __init__(self, path: DataPath) -> None:
        self.path = Path(os.path.expanduser(path))

    def describe(self) -> DatasetInfo:
        """Size and classes from the headers of the images and from the labels."""
        with _Archive(self.path) as archive:
            info, problems = _described(archive)
        if info is None or problems:
            raise listed_error(f"{self.path} cannot be used as a data set", problems)
        return info

    def read(self) -> ImageArrays:
        """All arrays, every pixel checked."""
        with _Archive(self.path) as archive:
            info, problems = _described(archive)
            images = {}
            for part in archive.parts:
                name = f"{part}_images"
                if name in archive.names and _is_image_type(archive.header(name)[1]):
                    images[part] = archive.read(name)
                    problems += _pixel_problems(name, images[part])
            if info is None or problems:
                raise listed_error(f"{self.path} cannot be used as a data set", problems)
            labels = {part: archive.read(f"{part}_labels").astype(np.int64) for part in archive.parts}
        shaped = {part: _with_channels(array) for part, array in images.items()}
        own = shaped.get(OWN_VALIDATION), labels.get(OWN_VALIDATION)
        return ImageArrays(shaped["train"], labels["train"], shaped["test"], labels["test"], *own)


class _Archive:
    """An open .npz file; headers are read without the values behind them."""

    def __init__(self, path: Path) -> None:
        if not os.path.isfile(path):  # also false for names that are too long
            raise DataError(f"{path}: there is no such file (data.path, seen from {Path.cwd()})")
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise DataError(f"{path} is not a .npz file: {error}. numpy.savez_compressed writes one.") from error
        self.names = {name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")}
        own = any(name.startswith(f"{OWN_VALIDATION}_") for name in self.names)
        self.parts = (*PARTS, OWN_VALIDATION) if own else PARTS

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def header(self, name: str) -> Header:
        with self._opened(name) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        return shape, dtype

    def read(self, name: str) -> Array:
        with self._opened(name) as file:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._zip.open(f"{name}.npy") as file:
                yield file
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error, RuntimeError, MemoryError) as error:
            raise DataError(f"{self.path}, array {name}: cannot be read: {error}") from error


def _described(archive: _Archive) -> tuple[DatasetInfo | None, list[str]]:
    """Return the description, None if it cannot be known, and all that is wrong apart from pixels."""
    needed, known = _arrays(archive.parts), {*_arrays((*PARTS, OWN_VALIDATION)), NAMES}
    there = ", ".join(sorted(archive.names)) or "nothing"
    problems = [f"{name}: missing; the file holds {there}" for name in needed if name not in archive.names]
    problems += [
        f"{name}: not an array of this format. {suggest(name, known)}" for name in sorted(archive.names - known)
    ]
    headers = {name: archive.header(name) for name in needed if name in archive.names}
    for name, header in headers.items():
        problems += _image_problems(name, *header) if name.endswith("images") else _label_problems(name, *header)
    problems += [*_length_problems(archive.parts, headers), *_size_problems(headers)]
    class_names, name_problems = _class_names(archive)
    value_problems, classes = _labels_and_classes(archive, headers, class_names)
    problems += name_problems + value_problems
    if problems or not classes:
        return None, problems
    count, height, width, *rest = headers["train_images"][0]
    names = class_names or tuple(map(str, range(classes)))
    validation = headers[f"{OWN_VALIDATION}_images"][0][0] if OWN_VALIDATION in archive.parts else None
    return DatasetInfo(height, width, rest[0] if rest else 1, classes, names, count, validation), []


def _arrays(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{part}_{what}" for part in parts for what in ("images", "labels"))


def _is_image_type(dtype: np.dtype[Any]) -> bool:
    return dtype == np.uint8 or dtype.kind == "f"


def _image_problems(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[str]:
    problems = []
    if not _is_image_type(dtype):
        problems.append(f"{name}: pixels are {dtype}; allowed are uint8, or floats in [0, 1]")
    if len(shape) not in (3, 4):
        problems.append(f"{name}: has shape {shape}; allowed are (N, H, W) and (N, H, W, C)")
    elif 0 in shape:
        problems.append(f"{name}: is empty, its shape is {shape}")
    return problems


def _label_problems(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[str]:
    problems = []
    if dtype.kind not in "iu":
        problems.append(f"{name}: labels are {dtype}; they must be integers, for example int64")
    if len(shape) != 1:
        problems.append(f"{name}: has shape {shape}; it must be (N,), one class index for each image")
    elif shape[0] == 0:
        problems.append(f"{name}: is empty")
    return problems


def _length_problems(parts: Iterable[str], headers: dict[str, Header]) -> list[str]:
    problems = []
    for part in parts:
        images, labels = (headers.get(f"{part}_{what}", ((), None))[0] for what in ("images", "labels"))
        if images and labels and images[0] != labels[0]:
            problems.append(f"{part}_labels: has {labels[0]} entries, {part}_images has {images[0]}")
    return problems


def _size_problems(headers: dict[str, Header]) -> list[str]:
    """Return which images have another height, width or channels than those of the training part."""
    sizes = {
        name: shape[1:] if len(shape) == 4 else (*shape[1:], 1)
        for name, (shape, _) in headers.items()
        if name.endswith("images") and len(shape) in (3, 4) and 0 not in shape
    }
    train = sizes.get("train_images")
    return [
        f"{name}: images are {size} (H, W, C), those of train_images {train}"
        for name, size in sizes.items()
        if train and size != train
    ]


def _class_names(archive: _Archive) -> tuple[tuple[str, ...] | None, list[str]]:
    if NAMES not in archive.names:
        return None, []
    shape, dtype = archive.header(NAMES)
    if dtype.kind != "U" or len(shape) != 1 or shape[0] == 0:
        text = f"{NAMES}: is {dtype} of shape {shape}; it must be strings, for example numpy.array(['cat', 'dog'])"
        return None, [text]
    names = tuple(map(str, archive.read(NAMES)))
    return names, [
        f"{NAMES}: '{name}' is given {times} times; class names must be unique"
        for name, times in Counter(names).items()
        if times > 1
    ]


def _labels_and_classes(
    archive: _Archive, headers: dict[str, Header], class_names: tuple[str, ...] | None
) -> tuple[list[str], int]:
    """Return what is wrong with the label values, and the number of classes (0 if it cannot be known)."""
    usable = [name for name in headers if name.endswith("labels") and not _label_problems(name, *headers[name])]
    labels = {name: archive.read(name) for name in usable}
    classes = len(class_names or ())
    if not classes and "train_labels" in labels:
        train = labels["train_labels"]
        index = int(train.argmax())
        classes = max(int(train[index]) + 1, 1)
        if classes > len(train):  # a slip, not a class
            text = (
                f"train_labels: the largest label is {train[index]}, at index {index}; there would be more classes "
                f"than images ({len(train)}), and every class from 0 needs a training image"
            )
            return [text], 0
    if not classes:
        return [], 0
    problems = [text for name, values in labels.items() for text in label_problems(name, values, classes)]
    if not problems and "train_labels" in labels:
        problems = missing_classes("train_labels", labels["train_labels"], classes)
    if not problems and classes == 1:
        found = f"{NAMES}: there is one name" if class_names else "train_labels: all labels are 0"
        problems = [f"{found}; a network needs at least two classes"]
    return problems, classes


def _pixel_problems(name: str, images: Array) -> list[str]:
    if images.dtype == np.uint8:
        return []
    wrong = ~np.isfinite(images)
    if wrong.any():
        first = tuple(int(index) for index in np.argwhere(wrong)[0])
        count = counted(int(wrong.sum()), "pixel")
        return [f"{name}: {count} not finite (NaN or infinite), the first at index {first}"]
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        hint = "; divide by 255, or save the images as uint8" if 1 < high <= 255 and low >= 0 else ""
        return [f"{name}: float pixels must be in [0, 1], these range from {low:g} to {high:g}{hint}"]
    return []


def _with_channels(images: Array) -> Array:
    images = images if images.ndim == 4 else images[..., np.newaxis]
    return np.ascontiguousarray(images if images.dtype == np.uint8 else images.astype(np.float32))
