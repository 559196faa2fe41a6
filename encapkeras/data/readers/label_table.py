"""A table of image files with a column of 0 and 1 for each label: of images that may have any number of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encapkeras.data.checks import listed_error
from encapkeras.data.label_matrix import MOST_NAMED
from encapkeras.data.readers.class_folders import LabeledFiles
from encapkeras.data.readers.csv_table import LONGEST_CELL, Problems, other_delimiter, other_lengths, read_lines
from encapkeras.errors import DataError
from encapkeras.text import counted, cut, listed
from encapkeras.validation import shown

FILE = "file"  # the column of names
DELIMITER = ","
VALUES = {"0": 0.0, "1": 1.0, "": 0.0}


@dataclass(frozen=True)
class LabelTable:
    """The names of the labels; and the files of the table, as they are written in it, with labels `(N, K)`."""

    names: tuple[str, ...]
    files: tuple[str, ...]
    targets: np.ndarray

    def part(self, root: Path, folder: str) -> LabeledFiles:
        """Return the files below a folder of the root, all for the root itself."""
        inside = [not folder or file.startswith(f"{folder}/") for file in self.files]
        chosen = np.flatnonzero(inside)
        return LabeledFiles(tuple(str(root / self.files[index]) for index in chosen), self.targets[chosen])


def read_label_table(path: Path, root: Path) -> LabelTable:
    """Read a table whose files are below a folder.

    Raises:
        DataError: It is missing or cannot be read; or naming all that is wrong: cells other than 0, 1 or nothing by
            line and column, files that are missing, given twice or outside of the folder.
    """
    unreadable = Problems()
    (_, first), *lines = read_lines(path, "data.labels", DELIMITER, unreadable, fixed=True) or [(0, [])]
    if unreadable.found:
        raise unreadable.error()
    header = [name.strip() for name in first]
    twice = listed(dict.fromkeys(name for name in header if header.count(name) > 1), MOST_NAMED)
    if FILE not in header or twice or not all(header) or len(header) < 3:
        wrong = f"'{twice}' is there twice" if twice else f"received {cut(', '.join(header), 200)}"
        wrong = other_delimiter(DELIMITER.join(first), DELIMITER, fixed=True) or wrong
        raise DataError(
            f"{path}:1: the first line names the columns: '{FILE}', and at least two labels, each once; {wrong}"
        )
    at = header.index(FILE)
    names = tuple(name for name in header if name != FILE)
    short, advice = other_lengths(lines, len(header), DELIMITER)
    files, rows, problems = [], [], [f"{path}:{line}: {text}" for line, text in short]
    for line, row in lines:
        if len(row) != len(header):
            continue
        cells = [cell.strip() for cell in row]
        files.append(cells.pop(at))
        rows.append([VALUES.get(cell, 0.0) for cell in cells])
        problems += [
            f"{path}:{line}: column {shown(name)} is {shown(cell[:LONGEST_CELL])}; allowed are 1, 0 and nothing for 0"
            for name, cell in zip(names, cells, strict=True)
            if cell not in VALUES
        ]
    problems += _file_problems(path, root, files)
    if problems:
        raise listed_error(f"{path} cannot be used as the labels of {root}", problems, advice)
    return LabelTable(
        names, tuple(os.path.normpath(file).replace(os.sep, "/") for file in files), np.array(rows, dtype=np.float32)
    )


def _file_problems(path: Path, root: Path, files: Sequence[str]) -> list[str]:
    places = [os.path.normpath(file) for file in files]
    outside = [file for file, place in zip(files, places, strict=True) if os.path.isabs(place) or place[:2] == ".."]
    seen: set[str] = set()
    twice = [place for place in places if place in seen or seen.add(place)]  # type: ignore[func-returns-value]
    missing = [place for place in places if place not in outside and not os.path.isfile(root / place)]
    found = {"outside of that folder": outside, "given twice": twice, "that do not exist": dict.fromkeys(missing)}
    return [
        f"{path}: {counted(len(names), 'file')} {what}: {listed(names, MOST_NAMED, None)}"
        for what, names in found.items()
        if names
    ]
