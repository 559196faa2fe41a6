"""Image files as a trained network takes them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from encapkeras.analysis.classify import Classified, Classifier
from encapkeras.data import DatasetInfo
from encapkeras.data.registry import Array
from encapkeras.errors import ArgumentError, DataError

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L", "LA", "La")


@dataclass(frozen=True)
class ClassifiedFiles:
    """The scores of image files, and what is wrong with those that have none.

    Args:
        files: The files that could be read, in the order of the scores.
        classified: Their scores.
        problems: The others, with what is wrong with each.
    """

    files: Sequence[Path]
    classified: Classified
    problems: Mapping[Path, str]


def classify_files(
    model: keras.Model, paths: Iterable[str | os.PathLike[str]], *, batch_size: int = 64
) -> ClassifiedFiles:
    """The scores that a trained network gives image files; it needs nothing but what the model has saved.

    Args:
        model: A network with one input and one output, made by `build_model` or `load_model`.
        paths: Files of any format that PIL reads, and folders. Of a folder, and of those in it, all files count whose
            names end as those of images do, in the order of their names; hidden ones do not.
        batch_size: How many images are read and go through the network at once.

    Raises:
        ArgumentError: The network is of another kind.
    """
    classifier = Classifier(model)
    files, problems = _files_of(paths)
    read: list[Path] = []
    scores = [torch.empty(0, len(classifier.class_names))]
    for batch in _batched(files, batch_size):
        images = {}
        for file in batch:
            try:
                images[file] = prepared_image(model, file)
            except DataError as error:
                problems[file] = str(error)
        if images:
            scores.append(classifier.scores(torch.cat(list(images.values()))))
            read += images
    return ClassifiedFiles(read, Classified(classifier.kind, classifier.class_names, torch.cat(scores)), problems)


def prepared_image(model: keras.Model, path: str | os.PathLike[str]) -> Tensor:
    """An image file as a network takes it: resized, cut and in grey or colour as the test images of its training were.

    Args:
        model: A network with one input and one output, made by `build_model` or `load_model`.
        path: A file of any format that PIL reads.

    Returns:
        `(1, H, W, C)`, float32 in [0, 1].

    Raises:
        ArgumentError: The network is of another kind.
        DataError: There is no such file, it is damaged, or no image; the message does not name it.
    """
    from encapkeras.data.preprocess import prepare

    classifier = Classifier(model)
    height, width, channels = classifier.image_shape
    if None in classifier.image_shape:
        raise ArgumentError(
            f"'{model.name}' takes images of any size, so that files cannot be brought to the right one"
        )
    names = classifier.class_names
    info = DatasetInfo(height, width, channels, len(names), names)
    augment = (classifier.model.spec.get("data") or {}).get("augment") or {}
    return prepare(_read(Path(path)), info, augment.get("resize"))


def _files_of(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], dict[Path, str]]:
    """The files, each once, and the folders without any."""
    files: list[Path] = []
    problems = {}
    for path in map(Path, paths):
        found = _images_in(path) if path.is_dir() else [path]
        if not found:
            problems[path] = f"there is no image in this folder; names of images end in {', '.join(IMG_EXTENSIONS)}"
        files += found
    return list(dict.fromkeys(files)), problems


def _images_in(folder: Path) -> list[Path]:
    inner = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
    return [folder / path for path in inner if not any(part.startswith(".") for part in path.parts)]


def _batched(files: Sequence[Path], size: int) -> Iterator[list[Path]]:
    remaining = iter(files)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _read(file: Path) -> Array:
    """The pixels of an image file: grey `(H, W, 1)` or colour `(H, W, 3)`, uint8."""
    try:
        with Image.open(file) as image:
            return _pixels(image)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError("there is no such file") from error
    except UnidentifiedImageError as error:
        raise DataError("it is no image that can be read") from error
    except Exception as error:  # whatever a decoder stumbles over in a damaged file: PIL's have no error in common
        raise DataError(f"it cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error


def _pixels(image: Image.Image) -> Array:
    if image.mode in _SIXTEEN_BITS:  # which PIL would cut off at 255
        return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    if image.mode in ("I", "F"):
        raise DataError(
            f"its pixels are {'32-bit numbers' if image.mode == 'I' else 'floats'}, of which nothing says "
            "what is white; save it with 8 or 16 bits"
        )
    if image.mode in _GREY:
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))
