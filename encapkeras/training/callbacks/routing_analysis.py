"""Analyses of the routing layers during a training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
from torch.utils.tensorboard import SummaryWriter

from encapkeras.analysis import analyse_routing, append_csv, write_epoch
from encapkeras.analysis.analyse_routing import check_analysis
from encapkeras.errors import ArgumentError
from encapkeras.files import make_folder, writing
from encapkeras.training.callbacks.first_process import in_first_process
from encapkeras.training.tensorboard.event_file import open_event_file


@in_first_process
class RoutingAnalysis(keras.callbacks.Callback):  # type: ignore[misc]
    """Analyses the routing layers after every so many epochs, as `encapkeras.analyse_routing` does.

    Appends to `epochs.csv`, and to event files for TensorBoard below `epochs/`, with epochs as steps; all of it is
    on the disk when the epoch ends. The training itself is the same as without it.

    Args:
        folder: Where to write; made at the first analysis.
        images: Validation images `(B, H, W, C)`, tensor or array, as the model takes them.
        labels: Their classes `(B,)`; None if not known.
        every: Epochs from one analysis to the next.
        split: Name of the images in the table.

    Raises:
        ArgumentError: `every` is below 1, or, when training begins, the model has no routing layer or does not take the
            images, or images and labels do not match.

    Examples:
        >>> import encapkeras, torch
        >>> inputs = keras.Input((4, 4, 8, 6))
        >>> digits = encapkeras.layers.DynamicCapsules(capsules=3, dim=4, name="digits")(inputs)
        >>> model = keras.Model(inputs, encapkeras.layers.CapsuleLength()(digits))
        >>> model.compile(loss=encapkeras.losses.MarginLoss())
        >>> folder, images, labels = getfixture("tmp_path"), torch.rand(6, 4, 4, 8, 6), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> analysis = RoutingAnalysis(folder, images, labels, every=2)
        >>> _ = model.fit(images, labels, epochs=2, callbacks=[analysis], verbose=0)
        >>> [each.checkpoint for each in encapkeras.analysis.read_csv(folder / "epochs.csv")]
        ['epoch 2']
    """

    KEPT = ()

    def __init__(
        self, folder: str | Path, images: Any, labels: Any = None, *, every: int = 1, split: str = "validation"
    ) -> None:
        super().__init__()
        if every < 1:
            raise ArgumentError(f"every is a number of epochs, at least 1; received {every}")
        self.folder = Path(folder)
        self.appends_to = (self.folder / "epochs.csv", self.folder / "epochs")
        self.images = images
        self.labels = labels
        self.every = every
        self.split = split
        self._writer: SummaryWriter | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the model can be analysed."""
        check_analysis(self.model, self.images, self.labels)
        self._checked = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warn, in the first epoch, if no epoch is due."""
        epochs = self.params["epochs"]
        if not self._checked and epoch // self.every == epochs // self.every:
            warnings.warn(
                f"RoutingAnalysis writes nothing in {self.folder}: it is due every {self.every} epochs, and fit ends "
                f"after epoch {epochs}. Choose a smaller `every`.",
                stacklevel=2,
            )
        self._checked = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Analyse and write, if it is time."""
        number = epoch + 1
        if number % self.every:
            return
        analysis = analyse_routing(self.model, self.images, self.labels, checkpoint=f"epoch {number}", split=self.split)
        with writing(self.folder):
            if self._writer is None:
                make_folder(self.folder / "epochs")
                self._writer = open_event_file(self.folder / "epochs")
            write_epoch(self._writer, analysis, number)
            self._writer.flush()
            append_csv(self.folder / "epochs.csv", [analysis])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the event file."""
        self.close()

    def close(self) -> None:
        """Close the event file, also after an error."""
        if self._writer:
            with writing(self.folder):
                self._writer.close()
            self._writer = None
