"""The strategy: each process trains on its part of every batch, and all have the same weights."""

from __future__ import annotations

from typing import Any

import keras

from encapkeras.distribution.parallel_steps import ParallelSteps
from encapkeras.distribution.processes import TIMEOUT, Processes, broadcast_state, initialize
from encapkeras.errors import ArgumentError


class DataParallel:
    """Train a compiled model in several processes as one process would train it on the whole batch.

    It is called like `keras.distribution.DataParallel`, which does not support PyTorch. In a script that torchrun
    starts, `attach` makes `fit`, `evaluate` and `predict` use all processes: gradients are those of the loss over the
    whole batch, metrics count every sample once, and `predict` returns the whole result in each process. In a process
    that was started alone nothing changes.

    Arithmetic: of P processes, process p has `n_p` of the `n` samples of a batch and their mean loss `L_p`. Its
    backward pass starts from `n_p / n * L_p`, and the gradients of all processes are summed, in buckets, while it
    runs. Clipping, accumulation, moving averages of weights and checks for finite numbers see the sums. After each
    step the moving statistics are the mean over processes, weighted by `n_p / n`. Each process trains on the whole of
    a batch that has fewer samples than there are processes.

    Args:
        auto_shard_dataset: True: each process receives the whole data, in the same order, and takes its part of each
            batch; `attach` therefore gives the random generators of Python, NumPy and torch the same state in all.
            False: each process receives its own part of the data, in equally many batches.
        sync_batch_norm: True: batch norms, Keras' own too, take their statistics over the whole batch, at the price of
            a small message for each. False: over the part of each process.
        timeout: Seconds, above 0, that a process waits for another before it ends with an error. It must be longer
            than any process works alone between two steps, for example to write a state.

    Attributes:
        processes: How many there are, and which this is.

    Raises:
        ArgumentError: The timeout is not above 0, or not finite.
        DistributionError: The processes cannot be connected.

    Examples:
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
        """Copy weights and optimizer of the first process to all, and train with all from now on.

        Compiling again, freezing layers, or loading the same weights in all processes is supported afterwards.

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
            broadcast_state([*model.variables, *self._optimizer_variables(model)])
            ParallelSteps(model, self.processes, self.auto_shard_dataset, self.sync_batch_norm).attach()
        return model

    @staticmethod
    def _optimizer_variables(model: keras.Model) -> list[Any]:
        if model.optimizer is None:  # compiled to be evaluated
            return []
        model.optimizer.build(model.trainable_variables)
        return list(model.optimizer.variables)
