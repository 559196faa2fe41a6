"""A model's training, test and prediction steps, made by several processes together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import torch
from keras import tree

from encapkeras.distribution.batch_norm import synchronized
from encapkeras.distribution.gradients import GradientSum
from encapkeras.distribution.processes import Processes, all_gather, all_reduce_sum
from encapkeras.errors import DistributionError
from encapkeras.functional.torch_support.shared_batch import SharedBatch, part_of_batch, share_batch
from encapkeras.keras_internals import (
    replace_steps,
    replace_train_step,
    scale_gradients,
    seed_states,
    statistics_within,
)

SEED_DISTANCE = 0x2545F491  # between the seeds of two processes
_STEPS = ("training", "test", "prediction")


class _Part(NamedTuple):
    """The part of a batch that a process works on; `shared` is None where each has the whole batch."""

    data: Any
    share: float
    shared: SharedBatch | None


class ParallelSteps:
    """Steps that take the place of a model's own, for every `fit`; for arguments see `DataParallel`."""

    def __init__(self, model: keras.Model, processes: Processes, shard: bool, sync_batch_norm: bool) -> None:
        self.model = model
        self.processes = processes
        self.shard = shard
        self.sync_batch_norm = sync_batch_norm
        self._gradients: GradientSum | None = None

    def attach(self) -> None:
        """Replace the model's steps, or those of an earlier strategy."""
        earlier = getattr(replace_train_step(self.model), "__self__", None)
        if isinstance(earlier, ParallelSteps):
            earlier._stop_summing()
        replace_steps(self.model, self.train_step, self.test_step, self.predict_step)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train on this process' part; gradients, moving statistics and metrics are those of the whole batch."""
        part = self._part("training", data)
        self._follow_trainable_weights()
        with self._metrics_of_all(part), self._own_draws(), self._shared(part):
            with scale_gradients(self.model.optimizer, part.share):
                logs = type(self.model).train_step(self.model, part.data)
        self._average_statistics(part.share)
        return self._logs_of_all(logs)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate this process' part; metrics are those of the whole batch."""
        part = self._part("test", data)
        with self._metrics_of_all(part), self._shared(part):
            logs = type(self.model).test_step(self.model, part.data)
        return self._logs_of_all(logs)

    def predict_step(self, data: Any) -> Any:
        """Predict this process' part; return the whole batch's outputs where each process received all of it."""
        part = self._part("prediction", data)
        outputs = type(self.model).predict_step(self.model, part.data)
        if part.shared is None or not self.shard:
            return outputs
        return tree.map_structure(part.shared.joined, outputs)

    def _part(self, step: str, data: Any) -> _Part:
        size = _samples(data)
        every = all_gather([_STEPS.index(step), size])
        self._check_same_step(every)
        rank, count = self.processes.rank, self.processes.count
        if self.shard:
            if size < count:
                return _Part(data, 1 / count, None)
            parts = [part_of_batch(size, process, count) for process in range(count)]
            sizes, own = tuple(part.stop - part.start for part in parts), parts[rank]
            data = tree.map_structure(lambda samples: None if samples is None else samples[own], data)
        else:
            sizes = tuple(size for _, size in every)
        return _Part(data, sizes[rank] / sum(sizes), SharedBatch(sizes, rank, self.sync_batch_norm))

    def _check_same_step(self, every: list[list[int]]) -> None:
        alike = every if self.shard else [[step] for step, _ in every]
        if any(each != alike[0] for each in alike) or min(size for _, size in every) == 0:
            each = "; ".join(f"process {rank}: {_STEPS[step]}, {size}" for rank, (step, size) in enumerate(every))
            needs = (
                "Each needs the same batches in the same order (auto_shard_dataset=True)"
                if self.shard
                else "Each needs equally many batches, none of them empty (auto_shard_dataset=False)"
            )
            raise DistributionError(f"the processes are not at the same step (samples of the batch): {each}. {needs}.")

    def _follow_trainable_weights(self) -> None:
        parameters = [weight.value for weight in self.model.trainable_weights]
        known = self._gradients.parameters if self._gradients else []
        if len(known) != len(parameters) or any(a is not b for a, b in zip(known, parameters, strict=True)):
            self._stop_summing()
            self._gradients = GradientSum(parameters)

    def _stop_summing(self) -> None:
        if self._gradients:
            self._gradients.close()
            self._gradients = None

    @contextlib.contextmanager
    def _shared(self, part: _Part) -> Iterator[None]:
        with share_batch(part.shared), synchronized(self.model, part.shared):
            yield

    @contextlib.contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Have dropout and the like draw other numbers in each process; generators are equal in all afterwards."""
        # NumPy's generator is equal in all, and `Resume` saves it; torch's decides the order in which Keras shuffles.
        drawn = int(np.random.randint(1 << 62))
        states = seed_states(self.model)
        first = [state[0].clone() for state in states]
        # Keras adds the number of the draw to this: with adjacent seeds one process would repeat another's draws.
        for state in states:
            state[0] = (state[0].long() + self.processes.rank * SEED_DISTANCE) % (1 << 31)
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            torch.manual_seed(drawn + self.processes.rank)
            try:
                yield
            finally:
                for state, value in zip(states, first, strict=True):
                    state[0] = value

    @contextlib.contextmanager
    def _metrics_of_all(self, part: _Part) -> Iterator[None]:
        """Sum over processes what the step adds to metrics: sums and counts, as all of Keras' own metrics keep."""
        before = {id(each): each.value.detach().clone() for each in self.model.metrics_variables}
        yield
        variables = self.model.metrics_variables
        values = [each.value.detach() for each in variables]
        was = [before.get(id(each), torch.zeros_like(value)) for each, value in zip(variables, values, strict=True)]
        added = [(value - old).double() for value, old in zip(values, was, strict=True)]
        if part.shared is None:  # each has counted the same samples
            added = [each / self.processes.count for each in added]
        all_reduce_sum(added)
        for variable, old, new in zip(variables, was, added, strict=True):
            total = old.double() + new  # shares of whole numbers can add up to a little less
            variable.assign((total if old.is_floating_point() else total.round()).to(old.dtype))

    @torch.no_grad()
    def _average_statistics(self, share: float) -> None:
        statistics = statistics_within(self.model, frozen=False)  # the others are equal, and would be rounded
        for variable in statistics:
            # A count would be rounded, and is the same in all.
            of_first = variable.aggregation == "only_first_replica"
            variable.value.mul_(float(self.processes.is_first) if of_first else share)
        all_reduce_sum([variable.value for variable in statistics])

    def _logs_of_all(self, logs: dict[str, Any]) -> dict[str, Any]:
        results = self.model.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}


def _samples(data: Any) -> int:
    return int(next(each for each in tree.flatten(data) if each is not None).shape[0])
