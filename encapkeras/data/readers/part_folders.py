"""The folders `train`, `val` and `test` of the user's own files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from encapkeras.data.files import not_found
from encapkeras.data.readers.class_folders import classes_in, named
from encapkeras.text import counted

PARTS = ("train", "val", "test")
OTHER_NAMES = {  # in lower case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
TEST_SHARE = 0.2  # of all files, or of each class, where there are no parts

Folders = Mapping[str, Path]  # by the names of parts


def part_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the parts that are there, maybe none."""
    if not os.path.isdir(root):
        raise not_found(root, "folder", "data.root")
    return {name: root / name for name in PARTS if (root / name).is_dir()}


def lacking_parts(folders: Folders) -> list[str]:
    """Return what is wrong where some parts are there without those that belong to them."""
    return [
        f"there is a folder '{given}', but none called '{lacking}'{hint}"
        for given, lacking, hint in (
            ("train", "test", "; if you test with 'val', rename it to 'test'"),
            ("test", "train", ""),
            ("val", "train", ""),
        )
        if given in folders and lacking not in folders
    ]


def unused_folders(root: Path, folders: Folders) -> list[str]:
    """Return a remark on folders beside the parts."""
    beside = classes_in(root) if folders else []
    others = [name for name in beside if not any(os.path.samefile(root / name, folder) for folder in folders.values())]
    return [f"{root}: folders that are not used: {_with_advice(others, folders)}"] if others else []


def unused_files(files: Sequence[str], folders: Folders) -> list[str]:
    """Return a remark on files, by their paths from the root, that are in none of the parts."""
    unused = [file for file in files if file.partition("/")[0] not in folders] if folders else []
    if not unused:
        return []
    inside = dict.fromkeys(file.partition("/")[0] for file in unused if "/" in file)
    where = f". Folders that are not used: {_with_advice(inside, folders)}" if inside else ""
    return [f"{counted(len(unused), 'file')} outside of the parts not used: {named(unused)}{where}"]


def _with_advice(names: Iterable[str], folders: Folders) -> str:
    """Return names of folders, first those that are likely meant to be parts."""
    meant, others = [], []
    for name in names:
        part = meant_part(name)
        if part and part not in folders:
            meant.append(f"'{name}' (call it '{part}' to use it)")
        else:
            others.append(f"'{name}'")
    return named(meant + others)


def meant_part(name: str) -> str | None:
    """Return the part that a folder is likely meant to be."""
    return next((part for part, names in OTHER_NAMES.items() if name.lower() in names), None)
