"""A .csv file as numbers and classes, and all that is wrong with it, by line and column."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from encapkeras.data.checks import listed_error
from encapkeras.data.files import not_found
from encapkeras.data.registry import Array
from encapkeras.errors import DataError, printable, suggest
from encapkeras.files import open_regular, reading
from encapkeras.text import counted
from encapkeras.validation import shown

LABEL = "label"  # the column of the classes, if none is named
DELIMITERS = ",;\t|"  # that are looked for where the given one does not fit
LARGEST = float(np.finfo(np.float32).max)
LONGEST_CELL = 40  # characters of a cell in an error
MOST_NAMED = 20  # columns in advice
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")

Line = tuple[int, list[str]]  # its number, from 1, and its cells


class Table(NamedTuple):
    """Features `(N, F)`, float32, and classes as written, each with the line of its sample."""

    features: Array
    labels: list[str]
    lines: list[int]
    columns: list[str]


class Wanted(NamedTuple):
    """What is read of a file."""

    label: str
    features: list[str] | None  # None: all other columns
    given: bool  # whether the user named the features; else those of the test are all of the training file
    delimiter: str


class Problems:
    """What is wrong with the files, and what to do about it, once however often it would help."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.advice: list[str] = []

    def add(self, problem: str, *advice: str) -> None:
        """Add a problem, and advice unless it is there."""
        self.found.append(problem)
        self.advice = list(dict.fromkeys([*self.advice, *advice]))

    def error(self) -> DataError:
        """Return one error about all of it."""
        if len(self.found) == 1:
            return DataError(". ".join([*self.found, *self.advice]))
        return listed_error("the tables cannot be used as a data set", self.found, self.advice)


def read_lines(path: Path, key: str, delimiter: str, problems: Problems, fixed: bool = False) -> list[Line]:
    """Return the lines of a file that are not empty; of a sample that goes over several, the number of the first.

    A delimiter is fixed if no key of the section `data` chooses it.
    """
    if not os.path.isfile(path):
        problems.add(str(not_found(path, "file", key)))
        return []
    with reading(path, "a CSV file", DataError), open_regular(path) as binary:
        content = binary.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = len((content[: error.start] + b".").splitlines())
        byte = f"byte {content[error.start]:#04x} is not UTF-8"
        problems.add(f"{path}:{number}: {byte}", "Save the file as CSV in UTF-8")
        return []
    lines, number = [], 1
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in rows:
            lines += [(number, row)] if row else []
            number = rows.line_num + 1
    except csv.Error as error:
        other = other_delimiter(text.splitlines()[0], delimiter, fixed)
        if other:
            problems.add(f"{path}:1: {other}")
        else:
            quotes = 'A cell in quotes ends with a quote, and quotes in it are doubled: ""'
            problems.add(f"{path}:{number}: the sample that begins here cannot be read: {error}", quotes)
        return []
    if len(lines) < 2:
        problems.add(f"{path} has no samples: it needs a line with the names of columns, and one for each sample")
    return lines


def other_delimiter(line: str, delimiter: str, fixed: bool = False) -> str:
    """Return what to do where something else than the delimiter seems to separate the cells of a line."""
    other = max(DELIMITERS, key=line.count)
    if line.count(other) <= line.count(delimiter):
        return ""
    todo = f"save the table with {delimiter!r} between cells" if fixed else f"set data.delimiter: {json.dumps(other)}"
    return f"cells seem to be separated by {other!r}, not by {delimiter!r}: {todo}"


def read_table(path: Path, lines: Sequence[Line], wanted: Wanted, problems: Problems) -> Table | None:
    """Return the samples of a file; None if it lacks columns."""
    header = [name.strip() for name in lines[0][1]]
    columns = wanted.features
    if columns is None:
        columns = [name for name in header if name != wanted.label]
    wrong = _wrong_names(header, columns, wanted)
    if wrong:
        other = other_delimiter(wanted.delimiter.join(lines[0][1]), wanted.delimiter)
        for problem in [other] if other else wrong:
            problems.add(f"{path}:1: {problem}")
        return None
    whole = [(line, row) for line, row in lines[1:] if len(row) == len(header)]
    found, advice = other_lengths(lines[1:], len(header), wanted.delimiter)
    numbers = [line for line, _ in whole]
    place = header.index(wanted.label)
    labels = [row[place].strip() for _, row in whole]
    missing = [(line, "the class is missing") for line, name in zip(numbers, labels, strict=True) if not name]
    found += _in_column(wanted.label, missing, len(whole))
    features, texts = np.zeros((len(whole), len(columns)), np.float32), []
    for column, name in enumerate(columns):
        place = header.index(name)
        cells = [row[place].strip() for _, row in whole]
        values = [_number(cell) for cell in cells]
        features[:, column] = [number for number, _ in values]
        bad = [(line, problem) for line, (_, problem) in zip(numbers, values, strict=True) if problem]
        found += _in_column(name, bad, len(whole))
        if bad and any(DECIMAL_COMMA.fullmatch(cell) for cell in cells):
            advice.append("Numbers have a decimal point, not a comma")
        elif bad and len(bad) == len(whole):
            texts.append(name)
    if texts:
        advice.append(_without(texts, columns, wanted))
    for line, problem in sorted(found, key=lambda each: each[0]):
        problems.add(f"{path}:{line}: {problem}", *advice)
    return Table(features, labels, numbers, columns)


def _wrong_names(header: list[str], columns: list[str], wanted: Wanted) -> list[str]:
    """Return what is wrong with the first line."""
    default = "the default of data.label, the column of the classes"
    sources = dict.fromkeys(columns, "data.features" if wanted.given else "a column of the training file")
    sources[wanted.label] = default if wanted.label == LABEL else "data.label"
    problems = []
    for name, source in sources.items():
        if name not in header:
            problems.append(f"no column is called {shown(name)} ({source}). {suggest(name, filter(None, header))}")
        elif not name:
            text = f"column {header.index(name) + 1} has no name"
            problems.append(f"{text}. Save the table without an index, or list data.features")
        elif header.count(name) > 1:
            problems.append(f"column {shown(name)} is there {header.count(name)} times")
    return problems or ([] if columns else ["there is no column but that of the classes"])


def other_lengths(lines: Sequence[Line], columns: int, delimiter: str) -> tuple[list[tuple[int, str]], list[str]]:
    """Return which lines have more or less cells than the first names columns, and what to do."""
    found = [
        (line, f"has {counted(len(row), 'cell')}; line 1 names {counted(columns, 'column')}")
        for line, row in lines
        if len(row) != columns
    ]
    point = ", and numbers a decimal point" if delimiter == "," else ""
    longer = any(len(row) > columns for _, row in lines)
    return _shortened(found, len(lines)), [f"Cells with {delimiter!r} in them need quotes{point}"] if longer else []


def _in_column(name: str, found: list[tuple[int, str]], samples: int) -> list[tuple[int, str]]:
    return [(line, f"column {shown(name)}: {problem}") for line, problem in _shortened(found, samples)]


def _shortened(found: list[tuple[int, str]], samples: int) -> list[tuple[int, str]]:
    """Return the first alone of problems that all samples have."""
    if len(found) < max(samples, 2):
        return found
    line, problem = found[0]
    return [(line, f"{problem} (all lines below are wrong too)")]


def _without(texts: list[str], columns: list[str], wanted: Wanted) -> str:
    """Return how to leave out columns that hold no number."""
    rest = [name for name in columns if name not in texts]
    if wanted.given or not rest:
        return "Features are numbers: leave such columns out of data.features, or write them as numbers"
    written = json.dumps(rest[:MOST_NAMED], ensure_ascii=False)
    more = f" and the other {len(rest) - MOST_NAMED}" if len(rest) > MOST_NAMED else ""
    return f"To leave out columns that are not numbers, list the others: data.features: {written}{more}"


def _number(cell: str) -> tuple[float, str]:
    """Return the number in a cell, and what is wrong with it."""
    if not cell:
        return 0.0, "the number is missing"
    try:
        number = float(cell if "_" not in cell else "")  # Python takes 1_000
    except ValueError:
        return 0.0, f"{shown(printable(cell[:LONGEST_CELL]))} is not a number"
    if not abs(number) <= LARGEST:  # NaN included
        return 0.0, f"{cell[:LONGEST_CELL]} is not finite in float32"
    return number, ""


def sorted_classes(labels: Sequence[str]) -> list[str]:
    """Return the names of the classes, in the order of numbers where all are."""
    names = sorted(set(labels))
    return names if any(_number(name)[1] for name in names) else sorted(names, key=float)
