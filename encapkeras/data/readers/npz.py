"""The user's own images or sequences, in one NumPy .npz file."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from encapkeras.data.checks import MOST_LISTED, label_problems, listed_error, missing_classes
from encapkeras.data.files import is_hidden, not_found, reading_arrays, user_path
from encapkeras.data.label_matrix import as_targets, matrix_problems, one_class_remark
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import suggest
from encapkeras.files import open_regular
from encapkeras.text import counted, cut

PARTS = ("train", "test")
OWN_VALIDATION = "validation"
NAMES = "class_names"
KINDS = {"images": "(N, H, W) and (N, H, W, C)", "sequences": "(N, T) and (N, T, F)"}
LONGEST_HEADER = 2**16  # bytes; NumPy refuses headers of more than 10,000 characters
LONGEST_LIST = 500  # characters

Header = tuple[tuple[int, ...], np.dtype[Any]]


@register_dataset("npz")
class Npz(DatasetReader):
    """The user's own images in a .npz file with `train_images`, `train_labels`, `test_images` and `test_labels`.

    Or sequences: `train_sequences` and `test_sequences`, finite numbers of shape (N, T) or (N, T, F), in place of the
    images. Where only the first steps of some are real, `train_lengths` and `test_lengths` say how many of each: the
    others, whatever they hold, become 0, which a `keras.Masking` masks.

    It may have a validation part, `validation_images` and `validation_labels`. Images are uint8, or floats in [0, 1],
    of shape (N, H, W) or (N, H, W, C); labels are whole numbers from 0. With `class_names`, an array of strings, there
    are as many classes as names; without, as many as the training labels say. Images of which each may have any number
    of labels have labels (N, K) of 0 and 1, a column for each label.

    Args:
        path: The file.
    """

    def __init__(self, path: DataPath) -> None:
        self.path = user_path(path)

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
            images, wrong = {}, {problem.partition("_")[0] for problem in problems}
            for part in archive.parts:
                name = f"{part}_{archive.kind}"
                if name in archive.names and _has_type(archive.kind, archive.header(name)[1]):
                    images[part] = archive.read(name)
                    if archive.kind == "images":
                        problems += _pixel_problems(name, images[part])
                    elif part not in wrong or f"{part}_lengths" not in archive.names:
                        images[part] = _without_padding(archive, part, images[part])
                        problems += _number_problems(name, images[part])
            if info is None or problems:
                raise listed_error(f"{self.path} cannot be used as a data set", problems)
            labels = {part: archive.read(f"{part}_labels") for part in archive.parts}
        labels = {part: as_targets(each) if each.ndim == 2 else each.astype(np.int64) for part, each in labels.items()}
        shape = _with_channels if archive.kind == "images" else _with_features
        shaped = {part: shape(array) for part, array in images.items()}
        own = shaped.get(OWN_VALIDATION), labels.get(OWN_VALIDATION)
        return ImageArrays(shaped["train"], labels["train"], shaped["test"], labels["test"], *own)

    def remarks(self) -> list[str]:
        """Say if images could have several labels, and all have one."""
        with _Archive(self.path) as archive:
            labels = archive.read("train_labels")
        return [f"{self.path}: {remark}" for remark in one_class_remark(labels)] if labels.ndim == 2 else []


class _Archive:
    """An open .npz file; headers are read without the values behind them."""

    def __init__(self, path: Path) -> None:
        if not os.path.isfile(path):  # also false for names that are too long
            raise not_found(path, "file", "data.path")
        self.path = path
        with reading_arrays(path, "a .npz file", "numpy.savez_compressed writes one."), contextlib.ExitStack() as stack:
            file = stack.enter_context(open_regular(path))
            self._zip = stack.enter_context(zipfile.ZipFile(file))
            _check_directory(file, self._zip)
            self._close = stack.pop_all().close
        members = [name for name in self._zip.namelist() if not any(map(is_hidden, name.split("/")))]
        self.names = {name.removesuffix(".npy") for name in members if name.endswith(".npy")}
        self.kind = "sequences" if any(name.endswith("_sequences") for name in self.names) else "images"
        own = any(name.startswith(f"{OWN_VALIDATION}_") for name in self.names)
        self.parts = (*PARTS, OWN_VALIDATION) if own else PARTS

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def header(self, name: str) -> Header:
        with self._opened(name) as file:
            return array_header(file, self._zip.getinfo(f"{name}.npy").file_size)

    def read(self, name: str) -> Array:
        self.header(name)  # refuses absurd sizes before there is memory for them
        with self._opened(name) as file:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array

    def strings(self, name: str) -> tuple[str, ...]:
        array = self.read(name)
        with self._reading(name):
            strings = tuple(map(str, array))
            "".join(strings).encode()  # fails for what is not text
        return strings

    def _reading(self, name: str) -> contextlib.AbstractContextManager[None]:
        return reading_arrays(f"{self.path}, array {name},", "an array of NumPy's")

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        with self._reading(name), warnings.catch_warnings(), self._zip.open(f"{name}.npy") as file:
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            yield file


def _check_directory(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Raise an error if the directory of a zip file hides members, or calls them other than their records do."""
    members = archive.infolist()
    for member in members:
        archive.open(member).close()
    file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16 - 22))
    end = file.read()
    place = end.rfind(b"PK\5\6") + 10
    counted_there = int.from_bytes(end[place : place + 2], "little")
    if counted_there not in (len(members), 2**16 - 1):
        raise ValueError(f"its directory shows {len(members)} members of {counted_there}")


def array_header(file: IO[bytes], size: int) -> Header:
    """Return shape and type of an array; raise `ValueError` if it does not fill the `size` bytes of its file."""
    start = io.BytesIO(file.read(LONGEST_HEADER))
    version = np.lib.format.read_magic(start)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"the version of its format, {version}, is unknown")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"its shape is {cut(str(shape), LONGEST_LIST)}")
    declared = start.tell() + math.prod(shape) * dtype.itemsize
    if declared != size and not dtype.hasobject:
        raise ValueError(f"it has {size} bytes, but its header (shape {cut(str(shape), 99)}) requires {declared}")
    return shape, dtype


def _described(archive: _Archive) -> tuple[DatasetInfo | None, list[str]]:
    """Return the description, None if it cannot be known, and all that is wrong apart from pixels."""
    kind, everywhere = archive.kind, (*PARTS, OWN_VALIDATION)
    needed, known = _arrays(archive.parts, kind, "labels"), {*_arrays(everywhere, kind, "labels"), NAMES}
    lengths = _arrays(everywhere, "lengths") if kind == "sequences" else ()
    known |= set(lengths)
    there = cut(", ".join(sorted(archive.names)) or "nothing", LONGEST_LIST)
    problems = [f"{name}: missing; the file holds {there}" for name in needed if name not in archive.names]
    problems += [
        f"{name}: not an array of this format. {_instead_of(name, known) if place < MOST_LISTED else ''}"
        for place, name in enumerate(sorted(archive.names - known))
    ]
    headers = {name: archive.header(name) for name in (*needed, *lengths) if name in archive.names}
    for name, header in headers.items():
        of_samples = name.endswith(kind)
        problems += _sample_problems(name, kind, *header) if of_samples else _label_problems(name, *header)
    problems += [*_count_problems(archive.parts, kind, headers), *_size_problems(kind, headers)]
    problems += _length_problems(archive, headers)
    class_names, name_problems = _class_names(archive)
    value_problems, classes = _labels_and_classes(archive, headers, class_names)
    problems += name_problems + value_problems
    if problems or not classes:
        return None, problems
    count, *size = headers[f"train_{kind}"][0]
    height, width, *rest = size if kind == "images" else (1, *size)
    names = class_names or tuple(map(str, range(classes)))
    validation = headers[f"{OWN_VALIDATION}_{kind}"][0][0] if OWN_VALIDATION in archive.parts else None
    channels = rest[0] if rest else 1
    samples: Any = kind
    per_image = None if len(headers["train_labels"][0]) == 2 else 1
    return DatasetInfo(height, width, channels, classes, names, count, validation, samples, per_image), []


def _arrays(parts: Iterable[str], *kinds: str) -> tuple[str, ...]:
    return tuple(f"{part}_{what}" for part in parts for what in kinds)


def _instead_of(name: str, known: Iterable[str]) -> str:
    """Return what to save instead of an array that is not known."""
    part = name.partition("_")[0] if name.startswith((*PARTS, OWN_VALIDATION)) else PARTS[0]
    lengths = f"{part}_lengths"
    if "mask" in name and lengths in known:
        return f"Save the number of real steps of each sequence, which come first: {lengths}"
    if name.endswith("_lengths"):
        return f"Lengths are of sequences: {part}_sequences"
    return suggest(name, known)


def _has_type(kind: str, dtype: np.dtype[Any]) -> bool:
    return dtype == np.uint8 or dtype.kind == "f" or (kind == "sequences" and dtype.kind in "iu")


def _sample_problems(name: str, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[str]:
    problems = []
    if not _has_type(kind, dtype):
        allowed = "pixels are {}; allowed are uint8, or floats in [0, 1]" if kind == "images" else "is {}, not numbers"
        problems.append(f"{name}: {allowed.format(dtype)}")
    axes = (3, 4) if kind == "images" else (2, 3)
    if len(shape) not in axes:
        problems.append(f"{name}: has shape {shape}; allowed are {KINDS[kind]}")
    elif 0 in shape:
        problems.append(f"{name}: is empty, its shape is {shape}")
    return problems


def _label_problems(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[str]:
    problems: list[str] = []
    if name.endswith("labels") and len(shape) == 2 and dtype.kind in "biu" and 0 not in shape:
        return problems  # of several labels
    if dtype.kind not in "iu":
        problems.append(f"{name}: {name.partition('_')[2]} are {dtype}; they must be integers, for example int64")
    if len(shape) != 1:
        what = "class index for each image" if name.endswith("labels") else "number of real steps for each sequence"
        problems.append(f"{name}: has shape {shape}; it must be (N,), one {what}")
    elif shape[0] == 0:
        problems.append(f"{name}: is empty")
    return problems


def _count_problems(parts: Iterable[str], kind: str, headers: dict[str, Header]) -> list[str]:
    problems = []
    for part, what in itertools.product(parts, ("labels", "lengths")):
        images, labels = (headers.get(f"{part}_{each}", ((), None))[0] for each in (kind, what))
        if images and labels and images[0] != labels[0]:
            problems.append(f"{part}_{what}: has {labels[0]} entries, {part}_{kind} has {images[0]}")
    return problems


def _length_problems(archive: _Archive, headers: dict[str, Header]) -> list[str]:
    """Return which lengths are missing, though those of another part are there, or impossible."""
    given = [name for name in headers if name.endswith("_lengths")]
    problems = []
    for part in archive.parts if given else ():
        name, (shape, _) = f"{part}_lengths", headers.get(f"{part}_sequences", ((), None))
        if name not in given:
            full = f"numpy.full({shape[0]}, {shape[1]})" if len(shape) > 1 else "numpy.full(N, T)"
            problems.append(f"{name}: missing, and the file has {given[0]}. If all steps are real, save {full}")
        elif len(shape) > 1 and not _label_problems(name, *headers[name]):
            lengths, steps = archive.read(name), shape[1]
            outside = np.flatnonzero((lengths < 1) | (lengths > steps))
            if len(outside):
                text = f"{counted(len(outside), 'length')} outside 1..{steps}, the first is {lengths[outside[0]]}"
                problems.append(f"{name}: {text} at index {outside[0]}")
    return problems


def _size_problems(kind: str, headers: dict[str, Header]) -> list[str]:
    """Return which samples have another size than those of the training part."""
    axes, letters = (4, "(H, W, C)") if kind == "images" else (3, "(T, F)")
    sizes = {
        name: shape[1:] if len(shape) == axes else (*shape[1:], 1)
        for name, (shape, _) in headers.items()
        if name.endswith(kind) and len(shape) in (axes - 1, axes) and 0 not in shape
    }
    train = sizes.get(f"train_{kind}")
    return [
        f"{name}: {kind} are {size} {letters}, those of train_{kind} {train}"
        for name, size in sizes.items()
        if train and size != train
    ]


def _class_names(archive: _Archive) -> tuple[tuple[str, ...] | None, list[str]]:
    if NAMES not in archive.names:
        return None, []
    shape, dtype = archive.header(NAMES)
    if dtype.kind != "U" or not dtype.itemsize or len(shape) != 1 or shape[0] == 0:
        text = f"{NAMES}: is {dtype} of shape {shape}; it must be strings, for example numpy.array(['cat', 'dog'])"
        return None, [text]
    names = archive.strings(NAMES)
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
    if any(each.ndim == 2 for each in labels.values()):
        return _label_matrices(labels, class_names)
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


def _label_matrices(labels: dict[str, Array], class_names: tuple[str, ...] | None) -> tuple[list[str], int]:
    """As `_labels_and_classes`, where images have any number of labels."""
    columns = next(each.shape[1] for each in labels.values() if each.ndim == 2)
    names = class_names or tuple(map(str, range(columns)))
    return matrix_problems(labels, names), len(names)


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


def _number_problems(name: str, sequences: Array) -> list[str]:
    wrong = ~(np.abs(sequences) <= np.finfo(np.float32).max)
    if not wrong.any():
        return []
    first = tuple(int(index) for index in np.argwhere(wrong)[0])
    kind = "not finite, or too large for float32"
    return [f"{name}: {counted(int(wrong.sum()), 'number')} {kind}, the first at index {first}"]


def _without_padding(archive: _Archive, part: str, sequences: Array) -> Array:
    """Return sequences whose steps behind their lengths are 0."""
    name = f"{part}_lengths"
    if name not in archive.names:
        return sequences
    real = np.arange(sequences.shape[1]) < archive.read(name)[:, np.newaxis]
    return np.where(real[..., np.newaxis] if sequences.ndim == 3 else real, sequences, 0)


def _with_features(sequences: Array) -> Array:
    """Return sequences as images of height 1."""
    steps = sequences if sequences.ndim == 3 else sequences[..., np.newaxis]
    return np.ascontiguousarray(steps[:, np.newaxis], dtype=np.float32)


def _with_channels(images: Array) -> Array:
    images = images if images.ndim == 4 else images[..., np.newaxis]
    return np.ascontiguousarray(images if images.dtype == np.uint8 else images.astype(np.float32))
