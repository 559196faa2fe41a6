"""The user's own image files with a mask each, whose pixels are the numbers of classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pydantic

from encapkeras.data.checks import listed_error
from encapkeras.data.files import files_below, user_path
from encapkeras.data.image_files import ENDINGS, ImageFiles
from encapkeras.data.mask_files import MOST_CLASSES, MaskFiles
from encapkeras.data.readers.class_folders import named
from encapkeras.data.readers.part_folders import TEST_SHARE, lacking_parts, part_folders, unused_folders
from encapkeras.data.registry import DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.text import counted

IMAGES, MASKS = "images", "masks"


class _Pairs(NamedTuple):
    """Images and their masks, in the order of names."""

    images: list[str]
    masks: list[str]


@register_dataset("mask_folder")
class MaskFolder(DatasetReader):
    """The user's own images with masks, of which each pixel is the number of a class.

    `train/images/NAME.jpg` has the mask `train/masks/NAME.png`, and so in `test/`, and in `val/` if present. Without
    these folders, `images/` and `masks/`: then a fifth is set aside for the test, always the same images. Masks are
    gray PNG images, or PNG images with a palette, as large as their images: 0 is the first of the `classes`, 1 the
    second. Where images are resized, masks take the nearest pixel.

    Args:
        root: The folder.
        classes: The names of the classes, in the order of the numbers in masks, from 0; often `background` first.
        channels: 3 for color, 1 for grayscale; all images are converted to that.
    """

    image_size = 64

    def __init__(
        self,
        root: DataPath,
        classes: Annotated[list[str], pydantic.Field(min_length=2, max_length=MOST_CLASSES)],
        channels: Literal[1, 3] = 3,
    ) -> None:
        self.root = user_path(root)
        self.classes = tuple(classes)
        self.channels = channels

    def describe(self) -> DatasetInfo:
        """Numbers of images from the names of the files."""
        parts, size = self._parts(), self.image_size
        validation = len(parts["val"].images) if "val" in parts else None
        count = len(parts["train"].images)
        return DatasetInfo(
            size, size, self.channels, len(self.classes), self.classes, count, validation, task="segments"
        )

    def read(self) -> ImageArrays:
        """All files, not decoded yet."""
        parts = self._parts()
        images = {name: ImageFiles(tuple(pairs.images), self.channels) for name, pairs in parts.items()}
        masks = {
            name: MaskFiles(tuple(pairs.masks), tuple(pairs.images), len(self.classes)) for name, pairs in parts.items()
        }
        own = (images["val"], masks["val"]) if "val" in parts else (None, None)
        return ImageArrays(images["train"], masks["train"], images["test"], masks["test"], *own)

    def remarks(self) -> list[str]:
        """Say which folders beside the parts are not used."""
        return unused_folders(self.root, part_folders(self.root))

    def _parts(self) -> dict[str, _Pairs]:
        """Return the pairs of each part; raise `DataError` naming all that is wrong."""
        folders = part_folders(self.root)
        problems = lacking_parts(folders)
        parts = {} if problems else {name: _pairs(folder, problems) for name, folder in folders.items()}
        if not problems and not folders:
            parts = _with_test_part(_pairs(self.root, problems))
        problems += [
            f"{name}: there are no images" for name, pairs in parts.items() if not pairs.images and not problems
        ]
        if problems:
            raise listed_error(f"{self.root} cannot be used as a data set", problems)
        return parts


def _pairs(folder: Path, problems: list[str]) -> _Pairs:
    """Return images and masks whose names are the same without their endings; add a problem for those left over."""
    missing = [name for name in (IMAGES, MASKS) if not (folder / name).is_dir()]
    if missing:
        problems.append(f"{folder} has no folder {' and no folder '.join(map(repr, missing))}")
        return _Pairs([], [])
    images = _by_name(folder / IMAGES, ENDINGS, "images", problems)
    masks = _by_name(folder / MASKS, (".png",), "masks, which are PNG files,", problems)
    for what, lacking, given, others in (("image", "mask", images, masks), ("mask", "image", masks, images)):
        alone = [given[name] for name in sorted(given.keys() - others.keys())]
        if alone:
            problems.append(
                f"{counted(len(alone), what)} without a{'n' * (lacking == 'image')} {lacking}: {named(alone)}"
            )
    common = sorted(images.keys() & masks.keys())
    return _Pairs([images[name] for name in common], [masks[name] for name in common])


def _by_name(folder: Path, endings: tuple[str, ...], what: str, problems: list[str]) -> dict[str, str]:
    """Return the files below a folder by their names without endings, folders included."""
    found: dict[str, str] = {}
    others, twice = [], []
    for path in files_below(folder):
        name = os.path.splitext(os.path.relpath(path, folder))[0]
        if not path.lower().endswith(endings):
            others.append(path)
        elif name in found:
            twice.append(path)
        else:
            found[name] = path
    if others:
        problems.append(f"{counted(len(others), 'file')} whose names do not end as those of {what} do: {named(others)}")
    if twice:
        problems.append(f"{counted(len(twice), 'file')} with the name of another but for the ending: {named(twice)}")
    return found


def _with_test_part(pairs: _Pairs) -> dict[str, _Pairs]:
    """Set pairs aside for the test: a choice that depends on nothing but their number."""
    count = len(pairs.images)
    chosen = np.random.default_rng(0).permutation(count)[: max(round(TEST_SHARE * count), int(count > 1))]
    tested = set(chosen.tolist())

    def taken(test: bool) -> _Pairs:
        places = [place for place in range(count) if (place in tested) is test]
        return _Pairs([pairs.images[place] for place in places], [pairs.masks[place] for place in places])

    return {"train": taken(False), "test": taken(True)}
