"""The classes that a trained network sees in image files."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import torch
from torch import Tensor

from encapkeras.analysis.classify import Classified, Classifier
from encapkeras.data import DatasetInfo
from encapkeras.data.checks import range_hint
from encapkeras.data.files import files_below
from encapkeras.data.image_files import ENDINGS, read_image
from encapkeras.data.preprocess import prepare
from encapkeras.data.settings import OVERLAP_SHIFT
from encapkeras.errors import ArgumentError, DataError


@dataclass(frozen=True)
class ClassifiedFiles:
    """The scores of image files, and the errors of those that have none.

    Attributes:
        files: The files that could be read, in the order of the scores.
        classified: Their scores.
        problems: The others, each with its error.
    """

    files: Sequence[Path]
    classified: Classified
    problems: Mapping[Path, str]


def classify_files(
    model: keras.Model, paths: Iterable[str | os.PathLike[str]], *, batch_size: int = 64
) -> ClassifiedFiles:
    """Return the scores that a trained network gives image files; it needs only what the model has saved.

    Args:
        model: A network with one input and one output, made by `build_model` or `load_model`.
        paths: Files of the formats that `read_image` reads, and folders. Of a folder and its subfolders, all files
            count whose names end as those of images do, in the order of their names; hidden ones do not.
        batch_size: How many images are read and go through the network at once.

    Raises:
        ArgumentError: The network is of another kind.
    """
    classifier = Classifier(model)
    files, problems = image_paths(paths)
    read: list[Path] = []
    scores = [torch.empty(0, len(classifier.class_names))]
    hints = []
    for batch in _batched(files, batch_size):
        images = {}
        for file in batch:
            try:
                images[file] = prepared_image(model, file)
            except DataError as error:
                problems[file] = str(error)
        if images:
            prepared = torch.cat(list(images.values()))
            hints.append(range_hint(prepared.numpy()))
            scores.append(classifier.scores(prepared))
            read += images
    if hints and all(hints):
        warnings.warn(f"pixels of the images: {hints[0]}", stacklevel=2)
    return ClassifiedFiles(read, classifier.classified(torch.cat(scores)), problems)


def prepared_image(model: keras.Model, path: str | os.PathLike[str]) -> Tensor:
    """Read an image file as a network takes it: resized, cropped, gray or color as the test images of its training.

    Args:
        model: A network with one input and one output, made by `build_model` or `load_model`.
        path: A file of the formats that `read_image` reads.

    Returns:
        `(1, H, W, C)`, float32 in [0, 1].

    Raises:
        ArgumentError: The network is of another kind.
        DataError: The file does not exist, is damaged, or is not an image.
    """
    classifier = Classifier(model)
    height, width, channels = classifier.image_shape
    if None in classifier.image_shape or channels not in (1, 3):
        raise ArgumentError(
            f"'{model.name}' takes images of shape {classifier.image_shape}; files are for those of a known size "
            "with 1 or 3 channels. Give other images as arrays to classify."
        )
    names = classifier.class_names
    info = DatasetInfo(height, width, channels, len(names), names)
    data = classifier.model.spec.get("data") or {}
    resize, border = (data.get("augment") or {}).get("resize"), (data.get("affine") or {}).get("border", 0)
    margin = border + (OVERLAP_SHIFT if data.get("overlap") else 0)
    return prepare(read_image(path, channels), info, resize, margin)


def image_paths(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], dict[Path, str]]:
    """Return the files, each once, and the folders without any, with the reason.

    Args:
        paths: Files, and folders, as for `classify_files`.
    """
    files: list[Path] = []
    problems = {}
    for path in map(Path, paths):
        try:
            found = _images_in(path) if os.path.isdir(path) else [path]
        except DataError as error:
            problems[path] = str(error)
            continue
        if not found:
            problems[path] = f"{path}: there is no image in this folder; names of images end in {', '.join(ENDINGS)}"
        files += found
    return list(dict.fromkeys(files)), problems


def _images_in(folder: Path) -> list[Path]:
    return sorted(Path(path) for path in files_below(folder) if path.lower().endswith(ENDINGS))


def _batched(files: Sequence[Path], size: int) -> Iterator[list[Path]]:
    remaining = iter(files)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
