"""Metrics as a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import keras

from encapkeras.files import writing
from encapkeras.training.callbacks.first_process import in_first_process


@in_first_process
class MetricsFile(keras.callbacks.Callback):  # type: ignore[misc]
    """Appends one row per epoch to a CSV file: the epoch, from 1, and all logs of Keras.

    Unlike Keras' `CSVLogger` it counts epochs from 1, has each row on the disk when the epoch ends, works with `Resume`
    and says which file cannot be written. Times are left out: equal runs make equal files.

    Args:
        path: The file; one that exists is that of the epochs before.
    """

    KEPT = ()

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.appends_to = (self.path,)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the row; it is in the file, not in a buffer, when this returns."""
        row = {"epoch": epoch + 1, **(logs or {})}
        row.pop("images_per_second", None)
        with writing(self.path), self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
