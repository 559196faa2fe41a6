"""The user's own numbers in a table: a sample for each line of a .csv file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from encapkeras.data.checks import listed_error
from encapkeras.data.files import not_found, user_path
from encapkeras.data.registry import Array, DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import DataError, printable, suggest
from encapkeras.files import open_regular, reading
from encapkeras.validation import shown

LONGEST_CELL = 40  # characters of a cell in an error


class _Table(NamedTuple):
    """Features `(N, F)`, float32, and labels as written."""

    features: Array
    labels: list[str]
    columns: list[str]


@register_dataset("csv")
class Csv(DatasetReader):
    """The user's own numbers in a .csv file: a line for each sample, a column with its class, all others features.

    The first line names the columns. Cells of features are numbers; classes are any text, and are sorted, as numbers
    where all are. A network takes vectors `(F,)`.

    Args:
        path: The file with the training samples.
        test_path: The file with the test samples, of the same columns.
        label: The column of the classes.
        features: The columns of the features, in this order. If not given, all others, in the order of the file.
        delimiter: What separates cells.
    """

    def __init__(
        self,
        path: DataPath,
        test_path: DataPath,
        label: str = "label",
        features: list[str] | None = None,
        delimiter: str = ",",
    ) -> None:
        self.path, self.test_path = user_path(path), user_path(test_path)
        self.label, self.features, self.delimiter = label, features, delimiter
        if len(delimiter) != 1:
            raise DataError(f"data.delimiter must be one character; received {shown(delimiter)}")

    def describe(self) -> DatasetInfo:
        """Columns and classes of the training file."""
        train = self._read(self.path, "data.path", self.features)
        return self._described(train, _classes(self.path, train))

    def _described(self, train: _Table, classes: Sequence[str]) -> DatasetInfo:
        columns = len(train.columns)
        return DatasetInfo(1, 1, columns, len(classes), tuple(classes), len(train.labels), samples="vectors")

    def read(self) -> ImageArrays:
        """All samples, every cell checked."""
        train = self._read(self.path, "data.path", self.features)
        classes = _classes(self.path, train)
        test = self._read(self.test_path, "data.test_path", train.columns)
        numbers = {name: number for number, name in enumerate(classes)}
        unknown = sorted(set(test.labels) - set(classes))
        if unknown:
            raise DataError(f"{self.test_path}: no training sample is of class {shown(unknown[0])}")
        parts = []
        for table in (train, test):
            labels = np.array([numbers[name] for name in table.labels], dtype=np.int64)
            parts += [table.features[:, np.newaxis, np.newaxis], labels]
        return ImageArrays(*parts)

    def _read(self, path: Path, key: str, features: list[str] | None) -> _Table:
        """Return a file's samples; raise a `DataError` that lists each wrong cell by line and column."""
        if not os.path.isfile(path):
            raise not_found(path, "file", key)
        advice = "Save it as CSV in UTF-8."
        with reading(path, "a CSV file", DataError, advice), open_regular(path) as binary:
            text = binary.read().decode("utf-8-sig")
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True)
            lines = [(rows.line_num, row) for row in rows if row]
        if len(lines) < 2:
            raise DataError(
                f"{path} has no samples: it needs a line with the names of columns, and one for each sample"
            )
        header = [name.strip() for name in lines[0][1]]
        columns = self._columns(path, header, features)
        return self._table(path, header, columns, lines[1:])

    def _columns(self, path: Path, header: list[str], features: list[str] | None) -> list[str]:
        twice = [name for name in header if header.count(name) > 1]
        nameless = [number for number, name in enumerate(header, 1) if not name.strip()]
        if nameless and features is None:
            raise DataError(
                f"{path}:1: column {nameless[0]} has no name. Save the table without an index, or list data.features"
            )
        if twice:
            raise DataError(f"{path}:1: column {shown(twice[0])} is there twice")
        columns = [name for name in header if name != self.label] if features is None else features
        for name, key in ((self.label, "label"), *((name, "features") for name in columns)):
            if name not in header:
                raise DataError(f"{path}:1: no column is called {shown(name)} (data.{key}). {suggest(name, header)}")
        if not columns or self.label in columns:
            raise DataError(f"{path}: data.features must be columns other than that of the label, at least one")
        return columns

    def _table(self, path: Path, header: list[str], columns: list[str], lines: list[tuple[int, list[str]]]) -> _Table:
        problems: list[str] = []
        places = [header.index(name) for name in columns]
        label_at = header.index(self.label)
        features, labels = np.zeros((len(lines), len(columns)), np.float32), []
        for sample, (line, row) in enumerate(lines):
            if len(row) != len(header):
                problems.append(f"{path}:{line}: has {len(row)} cells; line 1 names {len(header)} columns")
                continue
            labels.append(row[label_at].strip())
            if not labels[-1]:
                problems.append(f"{path}:{line}: column {shown(self.label)}: the class is missing")
            for column, place in enumerate(places):
                number, problem = _number(row[place])
                features[sample, column] = number
                if problem:
                    problems.append(f"{path}:{line}: column {shown(columns[column])}: {problem}")
        if problems:
            raise listed_error(f"{path} cannot be used as a data set", problems)
        return _Table(features, labels, columns)


def _number(cell: str) -> tuple[float, str]:
    """Return the number in a cell, and what is wrong with it."""
    text = cell.strip()
    if not text:
        return 0.0, "the number is missing"
    try:
        number = float(text)
    except ValueError:
        return 0.0, f"{shown(printable(text[:LONGEST_CELL]))} is not a number"
    if not abs(number) <= float(np.finfo(np.float32).max):  # NaN included
        return 0.0, f"{text[:LONGEST_CELL]} is not finite in float32"
    return number, ""


def _classes(path: Path, table: _Table) -> list[str]:
    """Return the names of the classes, in the order of numbers where all are."""
    names = sorted(set(table.labels))
    if len(names) < 2:
        raise DataError(f"{path}: all samples are of class {shown(names[0])}; a network needs at least two classes")
    try:
        return sorted(names, key=float)
    except ValueError:
        return names
