"""TensorBoard files, written by torch; TensorFlow is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import torch
import torchvision
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from encapkeras.graph import SpecModel
from encapkeras.training.callbacks.graph_tab import graph_definition
from encapkeras.training.run_folder import writing


class TensorBoard(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes every epoch's logs as scalars over epochs, from 1.

    `loss` and `val_loss` become the curves `loss/training` and `loss/validation`, and so every other pair;
    `learning_rate` and `images_per_second` stand alone. The network is under Graphs.

    Args:
        folder: Where the event files go.
        spec: The resolved spec as YAML text, shown under Text; None for none.
        images: A batch of training images (B, H, W, C), 0 to 1, shown under Images; None for none.
    """

    def __init__(self, folder: Path, spec: str | None = None, images: torch.Tensor | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.spec = spec
        self.images = images
        self._writer: SummaryWriter | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the file and writes the spec, the graph of a model that was made from one, and the images."""
        with writing(self.folder):
            self._writer = SummaryWriter(str(self.folder))
            if self.spec is not None:
                self._writer.add_text("spec", f"```yaml\n{self.spec}\n```")
            if isinstance(self.model, SpecModel):
                file: Any = self._writer.file_writer
                file.add_event(Event(graph_def=graph_definition(self.model.examined).SerializeToString()))
            if self.images is not None:
                self._writer.add_image("training images", _grid(self.images))
            self._writer.flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the epoch's scalars."""
        if self._writer is None:
            return
        with writing(self.folder):
            for name, value in (logs or {}).items():
                self._writer.add_scalar(_tag(name), value, epoch + 1)
            self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the file."""
        self.close()

    def close(self) -> None:
        """Closes the file, also after an error."""
        if self._writer:
            with writing(self.folder):
                self._writer.close()


def _grid(images: torch.Tensor) -> torch.Tensor:
    """One picture of the first 64 images; of those that are neither grey nor in colour, their first channel."""
    shown = images[:64, ..., : 3 if images.shape[-1] == 3 else 1]
    grid: torch.Tensor = torchvision.utils.make_grid(shown.permute(0, 3, 1, 2).cpu(), nrow=8)
    return grid


def _tag(name: str) -> str:
    if name in ("learning_rate", "images_per_second"):
        return name
    validation = name.startswith("val_")
    return f"{name.removeprefix('val_')}/{'validation' if validation else 'training'}"
