"""The user's own numbers in a table: a sample for each line of a .csv file."""

from __future__ import annotations

import numpy as np

from encapkeras.data.files import user_path
from encapkeras.data.readers.csv_table import LABEL, Problems, Table, Wanted, read_lines, read_table, sorted_classes
from encapkeras.data.registry import DataPath, DatasetInfo, DatasetReader, ImageArrays, register_dataset
from encapkeras.errors import DataError, printable
from encapkeras.text import listed
from encapkeras.validation import shown


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
        label: str = LABEL,
        features: list[str] | None = None,
        delimiter: str = ",",
    ) -> None:
        self.path, self.test_path = user_path(path), user_path(test_path)
        self.label, self.features, self.delimiter = label, features, delimiter
        self._info: DatasetInfo | None = None
        if len(delimiter) != 1 or delimiter.isalnum() or delimiter in '"\r\n\0.+-':
            raise DataError(
                "data.delimiter must be one character, and no quote, end of a line, letter or digit, nor one of . + -, "
                f"which are in numbers; received {shown(delimiter)}"
            )
        names = features or []
        twice = [name for place, name in enumerate(names) if name in names[:place]]
        if twice:
            raise DataError(f"data.features names column {shown(twice[0])} twice; name each column once")
        if features == [] or label in names:
            raise DataError(
                f"data.features must name at least one column, and not that of the classes, {shown(label)}; received "
                f"{shown(features)}"
            )

    def describe(self) -> DatasetInfo:
        """Columns and classes, after all cells of both files have been checked."""
        return self._info or self._described_and_read()[0]

    def read(self) -> ImageArrays:
        """All samples, every cell checked."""
        return self._described_and_read()[1]

    def _described_and_read(self) -> tuple[DatasetInfo, ImageArrays]:
        train, test = self._tables()
        classes = sorted_classes(train.labels)
        if len(classes) < 2:
            raise DataError(
                f"{self.path}: all samples are of class {shown(classes[0])}; a network needs at least two classes"
            )
        self._check_known(test, classes)
        columns = len(train.columns)
        self._info = DatasetInfo(1, 1, columns, len(classes), tuple(classes), len(train.labels), samples="vectors")
        numbers = {name: number for number, name in enumerate(classes)}
        parts = []
        for table in (train, test):
            labels = np.array([numbers[name] for name in table.labels], dtype=np.int64)
            parts += [table.features[:, np.newaxis, np.newaxis], labels]
        return self._info, ImageArrays(*parts)

    def _tables(self) -> tuple[Table, Table]:
        """Return training and test samples, or raise an error that lists all that is wrong with both files."""
        problems = Problems()
        train_lines = read_lines(self.path, "data.path", self.delimiter, problems)
        test_lines = read_lines(self.test_path, "data.test_path", self.delimiter, problems)
        if problems.found:
            raise problems.error()
        wanted = Wanted(self.label, self.features, self.features is not None, self.delimiter)
        train = read_table(self.path, train_lines, wanted, problems)
        if train is None:
            raise problems.error()
        test = read_table(self.test_path, test_lines, wanted._replace(features=train.columns), problems)
        if test is None or problems.found:
            raise problems.error()
        return train, test

    def _check_known(self, test: Table, classes: list[str]) -> None:
        """Check that no test sample is of a class of which there is none to train on."""
        problems = Problems()
        first = dict(zip(reversed(test.labels), reversed(test.lines), strict=True))
        for name in sorted(first.keys() - set(classes), key=lambda name: first[name]):
            text = f"column {shown(self.label)}: no training sample is of class {shown(name)}"
            known = f"The classes of {self.path} are {listed(map(printable, classes))}"
            problems.add(f"{self.test_path}:{first[name]}: {text}", known)
        if problems.found:
            raise problems.error()
