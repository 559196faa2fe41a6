"""Metrics for an experiment tracker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from encapkeras.training.callbacks.first_process import in_first_process
from encapkeras.training.callbacks.log_values import single_numbers


@in_first_process
class LogTo(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls a function, of an experiment tracker or your own, with the metrics of each epoch and its number, from 1.

    `LogTo(mlflow.log_metrics)` and `LogTo(wandb_run.log)` are all that MLflow and Weights & Biases need; neither needs
    TensorFlow, as the Keras callbacks that come with them do. What the function raises ends the training, such as
    Optuna's `TrialPruned`. A metric with a number for each class, as `keras.metrics.F1Score()`, has the names `NAME_0`,
    `NAME_1` and so on; texts are left out. Of several processes, the first calls it.

    Args:
        function: What is called as `function(metrics, epoch)`, with the logs of Keras as a new dict of floats.

    Examples:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        >>> model.compile("sgd", "mse")
        >>> ones = keras.ops.ones((4, 1))
        >>> printing = LogTo(lambda metrics, epoch: print(epoch, metrics))
        >>> _ = model.fit(ones, ones, epochs=2, callbacks=[printing], verbose=0)
        1 {'loss': 1.0}
        2 {'loss': 0.92...}
    """

    KEPT = ()

    def __init__(self, function: Callable[[dict[str, float], int], object]) -> None:
        super().__init__()
        self.function = function

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Call the function."""
        self.function(single_numbers(logs), epoch + 1)
