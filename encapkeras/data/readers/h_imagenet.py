"""h-ImageNet: those classes of ImageNet that a network finds hardest, from the files of ImageNet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from encapkeras.data.checks import listed_error
from encapkeras.data.files import data_roots, files_below, user_path
from encapkeras.data.image_files import ImageFiles
from encapkeras.data.readers.class_folders import LabeledFiles, classes_in, find_labeled_files, named, stray_files
from encapkeras.data.registry import DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import DataError
from encapkeras.files import open_regular, reading

HOMEPAGE = "https://image-net.org/download.php (ILSVRC 2012)"
WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)


@register_dataset("h_imagenet")
class HImageNet(DatasetReader):
    """Photographs of ImageNet in the classes that a list names: h-ImageNet has the 200 that a ResNet-18 finds hardest.

    The folders are those of torchvision's `ImageNet`: `train/WNID/*.JPEG`, and `val/WNID/*.JPEG`, which is the test
    part, as ImageNet's own test part has no labels. Classes are called by their WordNet ids.

    Args:
        root: Folder with `train` and `val`, or with a folder `imagenet` of these.
        class_list: Text file of WordNet ids, one per line; empty lines, and what follows a `#`, are ignored. None: all
            classes that there are.
        boxes: Folder of ImageNet's annotations; images are cut to the box around the largest object. Those without a
            box are used whole.
        channels: 3 for color, 1 for grayscale; all images are converted to that.
    """

    image_size = 128

    def __init__(
        self,
        root: DataPath | None = None,
        class_list: DataPath | None = None,
        boxes: DataPath | None = None,
        channels: Literal[1, 3] = 3,
    ) -> None:
        self.root, self.class_list, self.boxes, self.channels = root, class_list, boxes, channels

    def describe(self) -> DatasetInfo:
        """The classes of the list; without one, those whose folders there are."""
        classes = tuple(self._classes())
        return DatasetInfo(self.image_size, self.image_size, self.channels, len(classes), classes)

    def remarks(self) -> list[str]:
        """Say which folders beside those of the classes are not used, where no list names the classes."""
        if self.class_list is not None:
            return []
        folder = self._folder() / "train"
        others = [name for name in classes_in(folder) if not WORDNET_ID.fullmatch(name)]
        text = f"{folder}: folders that are not used, since their names are not n and eight digits: {named(others)}"
        return [text] if others else []

    def read(self) -> ImageArrays:
        """All files, not decoded yet."""
        classes, root = self._classes(), self._folder()
        problems: list[str] = []
        parts = [self._part(root / name, classes, problems) for name in ("train", "val")]
        if problems:
            raise listed_error(f"{root} cannot be used as ImageNet", problems)
        boxes = [self._boxes(part) for part in ("train", "val")] if self.boxes is not None else [{}, {}]
        train, test = (self._images(part, found) for part, found in zip(parts, boxes, strict=True))
        if self.boxes is not None and not any([*(train.boxes or ()), *(test.boxes or ())]):
            raise DataError(
                f"{self.boxes} (data.boxes): there are no boxes of these images, which are files WNID/*.xml or "
                "train/WNID/*.xml, and val/*.xml, named as the images are"
            )
        return ImageArrays(train, parts[0].labels, test, parts[1].labels)

    def _folder(self) -> Path:
        folders = [folder / inner for folder in data_roots(self.root) for inner in ("imagenet", "")]
        for folder in folders:
            if os.path.isdir(folder / "train") and os.path.isdir(folder / "val"):
                return folder
        listed = "\n".join(f"  {folder}" for folder in folders)
        raise DataError(
            "The files of ImageNet are not on this machine, and cannot be downloaded without an account.\n"
            f"Folders 'train' and 'val', with a folder for each class, were looked for in:\n{listed}\n"
            f"Get them from {HOMEPAGE}, let torchvision.datasets.ImageNet sort them, and name the folder that holds "
            "them as data.root in the spec."
        )

    def _classes(self) -> list[str]:
        if self.class_list is not None:
            return read_class_list(user_path(self.class_list))
        found = [name for name in classes_in(self._folder() / "train") if WORDNET_ID.fullmatch(name)]
        if len(found) < 2:
            raise DataError(
                f"{self._folder() / 'train'} holds {len(found)} folders of classes (named n and eight digits); at "
                "least two are needed"
            )
        return found

    def _part(self, folder: Path, classes: Sequence[str], problems: list[str]) -> LabeledFiles:
        lacking = sorted(set(classes) - set(classes_in(folder)))
        if lacking:
            flat = " (its images are not in folders: sort them by class)" if stray_files(folder) else ""
            problems.append(f"{folder} has no folders of these classes{flat}: {named(lacking)}")
        files = find_labeled_files(folder, classes, problems)
        empty = [name for name in files.empty(classes) if name not in lacking]
        if empty:
            problems.append(f"{folder}: classes without any image: {named(empty)}")
        return files

    def _boxes(self, part: str) -> dict[str, str]:
        """Return the .xml files of a part by the names of their images."""
        root = user_path(self.boxes or "")
        if not os.path.isdir(root):
            raise DataError(f"{root}: there is no such folder (data.boxes)")
        inner = root / part if (root / part).is_dir() else root
        return {Path(path).stem: path for path in files_below(inner) if path.endswith(".xml")}

    def _images(self, part: LabeledFiles, boxes: dict[str, str]) -> ImageFiles:
        own = tuple(boxes.get(Path(path).stem) for path in part.paths) if boxes else None
        return ImageFiles(part.paths, self.channels, own)


def read_class_list(path: Path) -> list[str]:
    """Return the WordNet ids in a text file, one per line, sorted; what follows a `#` is ignored."""
    with reading(f"{path} (data.class_list)", "text", DataError):
        try:
            with open_regular(path) as file:
                lines = file.read().decode("utf-8").splitlines()
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such file (data.class_list)") from None
    places: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        if not WORDNET_ID.fullmatch(name):
            problems.append(f"{path}:{number}: '{name}' is not a WordNet id: n and eight digits, for example n02119789")
        elif name in places:
            problems.append(f"{path}:{number}: '{name}' is already on line {places[name]}")
        else:
            places[name] = number
    if problems:
        raise listed_error(f"{path} is not a list of classes", problems)
    if len(places) < 2:
        raise DataError(f"{path} (data.class_list) names {len(places)} classes; at least two are needed")
    return sorted(places)
