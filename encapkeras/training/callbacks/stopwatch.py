"""Speed and learning rate as part of the logs."""

from __future__ import annotations

import inspect
import time
from types import NoneType
from typing import Any, ClassVar

import keras
import torch

from encapkeras.keras_internals import size_of_this_batch
from encapkeras.training.callbacks.callback_state import KeptTypes


class Stopwatch(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds `learning_rate` (of the epoch's first step) and `images_per_second` to each epoch's logs.

    The speed is that of training alone, without validation and what other callbacks do after the epoch. Put it before
    callbacks that use what it adds. There is no `learning_rate` where the model's optimizer has none, and nothing of an
    epoch without steps.

    Args:
        images: How many images an epoch trains on. None: counted in each step; of several processes, each its own.
    """

    KEPT: ClassVar[KeptTypes] = {
        "seconds": (float, int),
        "_images": (float, int),
        "_seconds": (float, int),
        "_learning_rate": (float, int, NoneType),
    }

    def __init__(self, images: int | None = None) -> None:
        super().__init__()
        self.images = images
        self._images = 0.0
        self._seconds = 0.0
        self._learning_rate: float | None = None  # of the current epoch
        self._before = 0.0
        self._began: float | None = None  # when `fit` began; None between two

    @property
    def seconds(self) -> float:
        """Duration of the whole training in seconds, validation and saving included."""
        return self._before + (0.0 if self._began is None else time.perf_counter() - self._began)

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._before, self._began = seconds, time.perf_counter()

    @property
    def images_per_second(self) -> float:
        """Mean over all epochs so far; 0 before the first."""
        return self._images / self._seconds if self._seconds else 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the watch of the whole training."""
        self._began = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the watch of the epoch."""
        self._skipped = self._steps = self._counted = 0
        self._start = self._stop = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the learning rate."""
        optimizer = getattr(self.model, "optimizer", None)
        if self._learning_rate is None and optimizer is not None:
            self._learning_rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take the time; the last batch's is the epoch's. A step without logs was made by an earlier process."""
        if not logs:
            self._skipped = batch + 1
            self._start = self._stop = time.perf_counter()
            return
        steps = self.params["steps"]
        if torch.cuda.is_initialized() and (steps is None or batch + 1 >= steps):
            torch.cuda.synchronize()  # a GPU works after the call that asked for it returned
        self._steps = batch + 1
        if self.images is None:
            self._counted += size_of_this_batch(self.model, inspect.currentframe())
        self._stop = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add to the logs."""
        seconds = self._stop - self._start
        images = float(self._counted)
        if self.images is not None and seconds:
            images = self.images * (1 - self._skipped / self._steps)
        self._images, self._seconds = self._images + images, self._seconds + seconds
        if logs is not None:
            if self._learning_rate is not None:
                logs["learning_rate"] = self._learning_rate
            if seconds:
                logs["images_per_second"] = images / seconds
        self._learning_rate = None

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Stop the watch of the whole training."""
        self._before, self._began = self.seconds, None
