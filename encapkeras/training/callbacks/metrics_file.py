"""Metrics as a table."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras

from encapkeras.distribution.processes import connected
from encapkeras.errors import TrainingError
from encapkeras.files import open_own, open_regular, reading, replacing, writing
from encapkeras.training.callbacks.callback_state import KeptTypes
from encapkeras.training.callbacks.first_process import in_first_process
from encapkeras.training.callbacks.log_values import single_values


@in_first_process
class MetricsFile(keras.callbacks.Callback):  # type: ignore[misc]
    """Appends one row per epoch to a CSV file: the epoch, from 1, and all logs of Keras, each below its name.

    Unlike Keras' `CSVLogger` it counts epochs from 1, has each row on the disk when the epoch ends, works with `Resume`
    and says which file cannot be written. When logs get a new name, as those of `validation_freq=2` in epoch 2, the
    file is replaced by one with a new column, empty in the rows before. A metric with a number for each class, as
    `keras.metrics.F1Score()`, has the columns `NAME_0`, `NAME_1` and so on. Times are left out: equal runs make equal
    files.

    Args:
        path: The file; one that exists is that of the epochs before.
    """

    KEPT: ClassVar[KeptTypes] = {"columns": (list,)}

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.appends_to = (self.path,)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        with reading(self.path, "a table of metrics", TrainingError, "Put that file back, or train in another folder."):
            if not os.path.lexists(self.path):
                return []
            with io.TextIOWrapper(open_regular(self.path, "r+b"), "utf-8", newline="") as file:
                return next(csv.reader(file), [])

    @columns.setter
    def columns(self, columns: list[str]) -> None:
        """Take off the columns of later epochs, so that the length of an earlier file is that of its rows again."""
        if not connected().is_first:
            return
        header = self.columns
        if header[: len(columns)] != columns[: len(header)]:
            raise TrainingError(
                f"{self.path} has the columns {', '.join(header)}; when the training was saved it had "
                f"{', '.join(map(str, columns))}. Put that file back, or train in another folder."
            )
        if 0 < len(columns) < len(header):
            self._replace([row[: len(columns)] for row in self._rows()])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the row; it is in the file, not in a buffer, when this returns."""
        row = {"epoch": epoch + 1, **single_values(logs)}
        row.pop("images_per_second", None)
        header = self.columns
        columns = [*header, *(name for name in row if name not in header)]
        cells = [row.get(name, "") for name in columns]
        if header and columns != header:
            missing = [""] * (len(columns) - len(header))
            self._replace([columns, *([*before, *missing] for before in self._rows()[1:]), cells])
            return
        with writing(self.path), open_own(self.path, "ab") as file:
            file.write(_csv([cells] if header else [columns, cells]))

    def _rows(self) -> list[list[str]]:
        with reading(self.path, "a table of metrics", TrainingError, "Put that file back, or train in another folder."):
            return list(csv.reader(io.StringIO(self.path.read_text(encoding="utf-8"), newline="")))

    def _replace(self, rows: Sequence[Sequence[Any]]) -> None:
        with replacing(self.path) as file:
            file.write_bytes(_csv(rows))


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
