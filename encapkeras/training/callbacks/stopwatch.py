"""Speed and learning rate as part of the logs."""

from __future__ import annotations

import time
from typing import Any

import keras
import torch


class Stopwatch(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds `learning_rate` (of the epoch's first step) and `images_per_second` to each epoch's logs.

    Only training counts: not validation, and not what other callbacks do after the epoch. Put it first, so that the
    others see what it adds.

    Args:
        images: How many images an epoch trains on.
    """

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        self._seconds: list[float] = []

    @property
    def images_per_second(self) -> float:
        """The mean over all epochs so far."""
        return self.images * len(self._seconds) / sum(self._seconds)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the watch."""
        self._learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes the time; the last batch's is the epoch's."""
        steps = self.params["steps"]
        if torch.cuda.is_initialized() and (steps is None or batch + 1 >= steps):
            torch.cuda.synchronize()  # a GPU works after the call that asked for it returned
        self._stop = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds to the logs."""
        self._seconds.append(self._stop - self._start)
        if logs is not None:
            logs["learning_rate"] = self._learning_rate
            logs["images_per_second"] = self.images / self._seconds[-1]
