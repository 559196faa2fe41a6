"""TensorBoard files, written by torch; TensorFlow is not needed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import torch
import torchvision
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from encapkeras.errors import ArgumentError
from encapkeras.files import writing
from encapkeras.model.spec_model import SpecModel
from encapkeras.spec.write import as_yaml
from encapkeras.torch_internals import file_writer
from encapkeras.training.callbacks.callback_state import KeptTypes
from encapkeras.training.callbacks.first_process import in_first_process
from encapkeras.training.callbacks.log_values import single_numbers
from encapkeras.training.optimizer.averaged_weights import averaged
from encapkeras.training.tensorboard.event_file import open_event_file
from encapkeras.training.tensorboard.gradient_norm import GradientNorm
from encapkeras.training.tensorboard.graph_tab import graph_definition
from encapkeras.training.tensorboard.hparams import write_settings
from encapkeras.training.tensorboard.pictures import write_pictures
from encapkeras.training.tensorboard.predictions import Predictor


@in_first_process
class TensorBoard(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes what TensorBoard shows of a training: curves, pictures, histograms, embeddings, the network.

    After every epoch, counted from 1, curves: `loss` and `val_loss` of the logs become `loss/training` and
    `loss/validation`, and so every other pair; `learning_rate` and `images_per_second`, where a `Stopwatch` comes
    before it; `gradient_norm/mean` and `/last`, of all trainable weights together, before clipping;
    `memory/process_peak_GB` and `memory/gpu_peak_GB`, the most so far, in 10^9 bytes.

    With `data`, what the network makes of it: predictions, confusion matrix, lengths of the class capsules, class
    capsules in the projector, and what reconstruction and optimal-transport losses do. This takes about as long as a
    validation, and a second for drawing. Of a model that was made from a spec, the spec and the graph. The training
    itself is the same: no random number is drawn and no statistic changed.

    Args:
        folder: Folder of the event files; made if it does not exist.
        data: Validation data of a classifier of images: arrays `(images, labels)`, a `torch.utils.data.DataLoader`, a
            `keras.utils.PyDataset`, or other batches that can be iterated over again, which is done once more at first,
            to choose images of all classes; None for no pictures. Each image has one class, or there are no pictures.
            Data that are shuffled come in the same order each time, unless by a generator of their own: then the
            pictures may show more of one class than of another.
        every: Epochs from one set of pictures to the next; None: after the epochs 1, 2, 4, 8, ...; always after the
            last.
        class_names: Names of the classes; those of a model that was made from a spec if not given, else numbers.
        settings: Numbers and texts, such as a learning rate, that distinguish runs under HParams.
        training_images: A batch of training images `(B, H, W, C)` as the network sees them, shown once.

    Raises:
        ArgumentError: `every` is below 1, or, in the first epoch, the model does not classify images, `data` does not
            hold its images and labels, or there are not as many names as classes.
        RunFolderError: The files cannot be written.

    Examples:
        >>> inputs = keras.Input((4, 4, 1))
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = torch.rand(8, 4, 4, 1), torch.tensor([0, 1] * 4)
        >>> board = TensorBoard(getfixture("tmp_path") / "board", data=(images, labels), class_names=["cat", "dog"])
        >>> _ = model.fit(images, labels, epochs=2, callbacks=[board], verbose=0)
    """

    KEPT: ClassVar[KeptTypes] = {"epoch": (int,), "introduced": (bool,), "pictured": (int,), "gradient_norms": (tuple,)}

    def __init__(
        self,
        folder: str | Path,
        data: Any = None,
        *,
        every: int | None = None,
        class_names: Sequence[str] = (),
        settings: Mapping[str, str | int | float | bool] | None = None,
        training_images: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if every is not None and every < 1:
            raise ArgumentError(f"every is a number of epochs, at least 1, or None; received {every}")
        self.folder = Path(folder)
        self.appends_to = (self.folder,)
        self.data = data
        self.every = every
        self.class_names = tuple(class_names)
        self.settings = settings
        self.training_images = training_images
        self.epoch = 0  # the last that is complete
        self.introduced = False  # whether there is what is written once
        self.pictured = 0  # the last epoch that has pictures
        self._norm = GradientNorm()
        self._predictor: Predictor | None = None
        self._writer: SummaryWriter | None = None

    @property
    def gradient_norms(self) -> tuple[float, float, float]:
        """Sum, last, and number of the gradient norms of the epoch so far."""
        return self._norm.state

    @gradient_norms.setter
    def gradient_norms(self, state: tuple[float, float, float]) -> None:
        self._norm.state = state

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that pictures are possible, and write the settings."""
        self._predictor = None if self.data is None else Predictor(self.model)
        self.epoch = self.pictured = 0
        self._weights = self.model.trainable_weights
        self._one = keras.ops.ones(())
        self._norm = GradientNorm()
        if self.settings is not None:
            write_settings(self.folder, self.settings)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write what does not change, once: spec, graph, training images."""
        if self.introduced:
            return
        if self._predictor is not None and not self._is_time(epoch + 1):  # an error should not come hours later
            self._names(self._predictor.check(self.data))
        with self._writing() as writer:
            if isinstance(self.model, SpecModel):
                writer.add_text("spec", f"```yaml\n{as_yaml(self.model.spec)}\n```")
                file_writer(writer).add_event(
                    Event(graph_def=graph_definition(self.model.examined).SerializeToString())
                )
            if self.training_images is not None:
                writer.add_image("training images", _grid(self.training_images))
        self.introduced = True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[SummaryWriter]:
        """Open the event file; all events are on the disk in the end."""
        with writing(self.folder):
            if self._writer is None:
                self._writer = open_event_file(self.folder)
            yield self._writer
            self._writer.flush()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the scale of the loss, which the step may change."""
        optimizer = getattr(self.model, "optimizer", None)
        self._scale = self._one if optimizer is None else optimizer.scale_loss(self._one)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take the norm of the gradients; a step without logs was made by an earlier process."""
        if logs:
            self._norm.add(self._weights, self._scale)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's curves, and pictures if it is time."""
        self.epoch = epoch + 1
        with self._writing() as writer:
            curves = {_tag(name): value for name, value in single_numbers(logs).items()}
            for tag, value in {**curves, **self._norm.scalars(), **_peak_memory()}.items():
                writer.add_scalar(tag, value, self.epoch)
        self._norm = GradientNorm()
        if self._is_time(self.epoch):
            self._write_pictures()

    def _is_time(self, epoch: int) -> bool:
        every = epoch % self.every == 0 if self.every else epoch & (epoch - 1) == 0
        return every or epoch == self.params["epochs"]

    def _write_pictures(self) -> None:
        if self._predictor is None:
            return
        with averaged(self.model):
            predictions = self._predictor.predict(self.data)
        with self._writing() as writer:
            if predictions is None:
                text = "There are no pictures: they need one class for each image, and some have several or none."
                writer.add_text("pictures", text, self.epoch)
            else:
                write_pictures(writer, self.folder, predictions, self._names(predictions.scores.shape[1]), self.epoch)
        self.pictured = self.epoch

    def _names(self, classes: int) -> Sequence[str]:
        names = self.class_names or (self.model.class_names if isinstance(self.model, SpecModel) else ())
        if names and len(names) != classes:
            raise ArgumentError(f"class_names holds {len(names)} names; the model has {classes} classes")
        return names or [str(index) for index in range(classes)]

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write the pictures if this was not known to be the last epoch, and close the file."""
        if self.pictured < self.epoch:
            self._write_pictures()
        if self.settings is not None:
            write_settings(self.folder, self.settings, finished=True)
        self.close()

    def close(self) -> None:
        """Close the file, also after an error."""
        if self._writer:
            with writing(self.folder):
                self._writer.close()
            self._writer = None


def _grid(images: torch.Tensor) -> torch.Tensor:
    """Put the first 64 images into one; of more or fewer than 3 channels the first is shown."""
    shown = images[:64, ..., : 3 if images.shape[-1] == 3 else 1]
    grid: torch.Tensor = torchvision.utils.make_grid(shown.permute(0, 3, 1, 2).cpu(), nrow=8)
    return grid


def _tag(name: str) -> str:
    if name in ("learning_rate", "images_per_second"):
        return name
    validation = name.startswith("val_")
    return f"{name.removeprefix('val_')}/{'validation' if validation else 'training'}"


def _peak_memory() -> dict[str, float]:
    """Return the peak memory of the process, and of torch on a GPU, so far, in 10^9 bytes."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes; what Linux counts in
        peaks["memory/process_peak_GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    if torch.cuda.is_initialized():
        peaks["memory/gpu_peak_GB"] = torch.cuda.max_memory_allocated() / 1e9
    return peaks
