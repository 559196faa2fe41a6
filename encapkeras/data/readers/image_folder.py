"""The user's own image files, in folders named like their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from encapkeras.data.checks import listed_error
from encapkeras.data.files import user_path
from encapkeras.data.image_files import ImageFiles
from encapkeras.data.label_matrix import matrix_problems, one_class_remark
from encapkeras.data.readers.class_folders import LabeledFiles, classes_in, find_labeled_files, named, stray_files
from encapkeras.data.readers.label_table import LabelTable, read_label_table
from encapkeras.data.readers.part_folders import (
    TEST_SHARE,
    Folders,
    lacking_parts,
    meant_part,
    part_folders,
    unused_files,
    unused_folders,
)
from encapkeras.data.registry import DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.text import counted


@register_dataset("image_folder")
class ImageFolder(DatasetReader):
    """The user's own image files: `train/CLASS/IMAGE` and `test/CLASS/IMAGE`, and `val/CLASS/IMAGE` if present.

    Without these folders, `CLASS/IMAGE`: then a fifth of each class is set aside for the test, always the same images.
    Classes are called as their folders are, in the order of names; folders may hold further ones.

    With `labels`, images may have any number of labels, and folders of classes mean nothing. Images that the table does
    not name are not used, nor those outside of `train/`, `val/` and `test/`, if there are these.

    Args:
        root: The folder.
        channels: 3 for color, 1 for grayscale; all images are converted to that.
        labels: A .csv file with a line for each image: `file`, its path from the root, and a column of 0 and 1 for each
            label.
    """

    image_size = 64

    def __init__(self, root: DataPath, channels: Literal[1, 3] = 3, labels: DataPath | None = None) -> None:
        self.root = user_path(root)
        self.channels = channels
        self.labels = None if labels is None else user_path(labels)

    def describe(self) -> DatasetInfo:
        """Classes and numbers of images from the names of the files."""
        classes, parts = self._listed()
        validation = len(parts["val"].paths) if "val" in parts else None
        size, count = self.image_size, len(parts["train"].paths)
        per_image = None if self.labels else 1
        sizes = (size, size, self.channels, len(classes))
        return DatasetInfo(*sizes, classes, count, validation, classes_per_image=per_image)

    def read(self) -> ImageArrays:
        """All files, not decoded yet."""
        _, parts = self._listed()
        images = {name: ImageFiles(part.paths, self.channels) for name, part in parts.items()}
        labels = {name: part.labels for name, part in parts.items()}
        own = (images["val"], labels["val"]) if "val" in parts else (None, None)
        return ImageArrays(images["train"], labels["train"], images["test"], labels["test"], *own)

    def remarks(self) -> list[str]:
        """Say what beside the parts is not used, folders or files of a table; and if all its images have one label."""
        folders = part_folders(self.root)
        if self.labels:
            table = read_label_table(self.labels, self.root)
            _, parts = self._of_table(table, folders)
            remarks = [*unused_files(table.files, folders), *one_class_remark(parts["train"].labels)]
            return [f"{self.labels}: {remark}" for remark in remarks]
        classes = folders.get("train", self.root)
        if {name.lower() for name in classes_in(classes)} == {"images", "masks"}:
            text = "its folders are called images and masks, which would be the two classes"
            return [f"{classes}: {text}. For images with a class for each pixel, choose data set 'mask_folder'"]
        return unused_folders(self.root, folders)

    def _listed(self) -> tuple[tuple[str, ...], dict[str, LabeledFiles]]:
        """Return the classes, and the files of each part; raise `DataError` naming all that is wrong."""
        folders = part_folders(self.root)
        if self.labels:
            return self._of_table(read_label_table(self.labels, self.root), folders)
        classes = tuple(classes_in(folders.get("train", self.root)))
        problems = lacking_parts(folders)
        if not problems and len(classes) < 2:
            where = folders.get("train", self.root)
            problems = [f"{where} holds {counted(len(classes), 'folder')}, one for each class; at least two are needed"]
        meant = {part: name for name in classes if not folders and (part := meant_part(name))}
        if len(meant) > 1:
            renamed = ", ".join(f"'{name}' to '{part}'" for part, name in meant.items())
            problems = [f"its folders look like parts of a data set, not like classes: rename {renamed}"]
        if problems:
            raise listed_error(f"{self.root} cannot be used as a data set", problems)
        parts = {name: self._part(folder, classes, problems) for name, folder in folders.items()}
        parts = parts or _with_test_part(self._part(self.root, classes, problems))
        problems += _missing(parts, classes)
        if problems:
            raise listed_error(f"{self.root} cannot be used as a data set", problems)
        return classes, parts

    def _of_table(self, table: LabelTable, folders: Folders) -> tuple[tuple[str, ...], dict[str, LabeledFiles]]:
        """Return the labels of a table, and the files of each part that it names."""
        problems = lacking_parts(folders)
        if problems:
            raise listed_error(f"{self.root} cannot be used as a data set", problems)
        parts = {name: table.part(self.root, name) for name in folders}
        if not parts:
            every = table.part(self.root, "")
            tested = np.random.default_rng(0).permutation(len(every.paths)) < round(TEST_SHARE * len(every.paths))
            parts = {"train": every.chosen(~tested), "test": every.chosen(tested)}
        problems = [f"it names no image of {name}" for name, part in parts.items() if not part.paths]
        problems = problems or matrix_problems({name: part.labels for name, part in parts.items()}, table.names)
        if problems:
            raise listed_error(f"{self.labels} cannot be used as the labels of {self.root}", problems)
        return table.names, parts

    def _part(self, folder: Path, classes: tuple[str, ...], problems: list[str]) -> LabeledFiles:
        strays = stray_files(folder)
        if strays:
            problems.append(f"files outside the class folders: {named(strays)}")
        found = classes_in(folder)
        problems += [
            f"{folder} has a folder '{name}', which train/ does not have: no network could learn that class"
            for name in sorted(set(found) - set(classes))
        ]
        problems += [
            f"{folder} has no folder '{name}', which train/ has; make an empty one if there are no images of that class"
            for name in sorted(set(classes) - set(found))
        ]
        return find_labeled_files(folder, classes, problems)


def _with_test_part(files: LabeledFiles) -> dict[str, LabeledFiles]:
    """Set images of each class aside for the test: a choice that depends on nothing but their number."""
    random = np.random.default_rng(0)
    tested = np.zeros(len(files.labels), dtype=bool)
    for label in np.unique(files.labels):
        own = random.permutation(np.flatnonzero(files.labels == label))
        tested[own[: max(round(TEST_SHARE * len(own)), int(len(own) > 1))]] = True
    return {"train": files.chosen(~tested), "test": files.chosen(tested)}


def _missing(parts: dict[str, LabeledFiles], classes: tuple[str, ...]) -> list[str]:
    empty = parts["train"].empty(classes)
    problems = [f"classes without any training image: {named(empty)}"] if empty else []
    return problems + [f"{name}/ holds no image" for name, part in parts.items() if not part.paths and name != "train"]
