"""What the routing layers do in the course of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from encapkeras.analysis import RoutingAnalysis, analyse_routing, write_csv, write_epoch
from encapkeras.training.run_folder import replacing, writing


class AnalyseRouting(keras.callbacks.Callback):  # type: ignore[misc]
    """Analyses the routing layers after every so many epochs.

    Writes `epochs.csv`, with all analyses so far, and event files for TensorBoard below `epochs/`, with epochs as
    steps. The training itself goes on as without it.

    Args:
        folder: Where to write; made when the first analysis is.
        every: Epochs from one analysis to the next.
        images: Validation images `(B, H, W, C)`.
        labels: Their classes `(B,)`.
    """

    def __init__(self, folder: Path, every: int, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.folder = folder
        self.every = every
        self.images = images
        self.labels = labels
        self._analyses: list[RoutingAnalysis] = []
        self._writer: SummaryWriter | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Analyses and writes, if it is time."""
        number = epoch + 1
        if number % self.every:
            return
        name = f"epoch {number}"
        analysis = analyse_routing(self.model, self.images, self.labels, checkpoint=name, split="validation")
        self._analyses.append(analysis)
        with writing(self.folder):
            if self._writer is None:
                self._writer = SummaryWriter(str(self.folder / "epochs"))
            write_epoch(self._writer, analysis, number)
            self._writer.flush()
        with replacing(self.folder / "epochs.csv") as file:
            write_csv(file, self._analyses)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the event file."""
        self.close()

    def close(self) -> None:
        """Closes the event file, also after an error."""
        if self._writer:
            with writing(self.folder):
                self._writer.close()
