"""The strategy: each process trains on its part of every batch, and all have the same weights."""

from __future__ import annotations

from typing import Any

import keras

from encapkeras.distribution.parallel_steps import ParallelSteps
from encapkeras.distribution.processes import TIMEOUT, Processes, begin_alike, initialize
from encapkeras.errors import ArgumentError


class DataParallel:
    """Trains a compiled model in several processes as one would train on the whole batch.

    The call shape is that of `keras.distribution.DataParallel`, which has no PyTorch backend to run on. In a script
    that torchrun starts, `attach` makes `fit`, `evaluate` and `predict` of the model use all processes: gradients are
    those of the loss over the whole batch, also where the parts are of different sizes; metrics count every sample
    once; `predict` gives the whole result to each process. In a process that was started alone nothing changes.

    Arithmetic: of P processes, process p has `n_p` of the `n` samples of a batch and the loss `L_p`, their mean. It
    goes back from `n_p / n * L_p`, and the gradients of all processes are summed, in buckets, while the backward pass
    goes on. Clipping, accumulation, moving averages of weights and checks for finite numbers see the sums. After each
    step the moving statistics are the mean of all processes', weighted by `n_p / n`. A batch of fewer samples than
    processes is trained on whole by each.

    Args:
        auto_shard_dataset: Whether each process is given the whole data and takes its own part of each batch. The
            order must then be the same in all: `attach` gives Python's, NumPy's and torch's random generators one
            state. Otherwise each process is given its own part of the data, in equally many batches.
        sync_batch_norm: Whether batch norms, Keras' own too, take their statistics over the whole batch, at the price
            of a small message a batch norm; otherwise over the part of each process.
        timeout: Seconds, above 0, that a process waits for another one before it ends with an error; more than any of
            them takes alone, between two steps, for example to write a state or an extra evaluation of your own.

    Attributes:
        processes: How many there are, and which this is.

    Raises:
        ArgumentError: The timeout is not above 0, or not finite.
        DistributionError: The processes cannot be connected.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> strategy = DataParallel()
        >>> strategy.attach(model) is model
        True
        >>> strategy.processes.count
        1
    """

    def __init__(
        self, *, auto_shard_dataset: bool = True, sync_batch_norm: bool = False, timeout: float = TIMEOUT
    ) -> None:
        self.auto_shard_dataset = auto_shard_dataset
        self.sync_batch_norm = sync_batch_norm
        self.processes: Processes = initialize(timeout)

    def attach(self, model: keras.Model) -> keras.Model:
        """Gives all processes the first one's weights and optimizer, and has the model train with all from now on.

        It lasts until the end: compiling again, freezing layers, or loading the same weights everywhere are fine.

        Args:
            model: Compiled and built.

        Returns:
            The model itself.

        Raises:
            ArgumentError: The model is not compiled, or not built.
        """
        if not model.compiled or not model.built:
            lacks = "built: give it an Input, or call it once" if model.compiled else "compiled: call compile"
            raise ArgumentError(f"model '{model.name}' is not {lacks} before attach")
        if self.processes.count > 1:
            begin_alike([*model.variables, *self._optimizer_variables(model)])
            ParallelSteps(model, self.processes, self.auto_shard_dataset, self.sync_batch_norm).attach()
        return model

    @staticmethod
    def _optimizer_variables(model: keras.Model) -> list[Any]:
        if model.optimizer is None:  # compiled to be evaluated
            return []
        model.optimizer.build(model.trainable_variables)
        return list(model.optimizer.variables)
