"""A network of a spec with one batch, compiled as `encapkeras train` compiles it, and steps of its `model.fit`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import torch

from encapkeras.benchmarks.recorded import Operation, record
from encapkeras.benchmarks.runner import Way, synchronize
from encapkeras.errors import ArgumentError
from encapkeras.functional.torch_support.optional_compile import enable_compile
from encapkeras.model.precision import tf32
from encapkeras.model.spec_model import SpecModel, build_model
from encapkeras.spec.load import Source
from encapkeras.training.check import check_device
from encapkeras.training.measure import check_fits, compile_with_losses
from encapkeras.training.optimizer.make_optimizer import make_optimizer

STEPS_PER_EPOCH = 1000  # for schedules: so many that the learning rate is that of a training's start


@dataclass(frozen=True)
class Network:
    """A compiled network and a batch of random images on its device."""

    model: SpecModel
    images: torch.Tensor
    labels: torch.Tensor

    def fit(self, steps: int) -> Way:
        """Time steps of `model.fit`, from the first batch's end to the last's: fit's own start does not count."""

        def run() -> tuple[float]:
            ends = _BatchEnds(self.images.device.type, steps)
            self._fit(steps + 1, [ends])
            return ((ends.times[-1] - ends.times[0]) / steps,)

        return run

    def train_once(self) -> None:
        """Make one step of `model.fit`."""
        self._fit(1, [])

    def record(self) -> list[Operation]:
        """Return the convolutions and matrix products of one step, where nothing is compiled."""
        self.train_once()  # Keras makes the first step twice: it first tries it with tensors that have no values
        return record(lambda: self._fit(1, [], may_compile=False))

    def with_tf32(self, way: Way) -> Way:
        """Return a way that rounds products as the network's own steps do."""

        def run() -> tuple[float, ...]:
            with tf32(self.model.examined.spec.train.tf32):
                return way()

        return run

    def _fit(self, steps: int, callbacks: Sequence[keras.callbacks.Callback], may_compile: bool = True) -> None:
        def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            while True:
                yield self.images, self.labels

        with enable_compile(self.model.examined.spec.train.compile and may_compile):
            self.model.fit(
                batches(), steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0, callbacks=list(callbacks)
            )


def make_network(source: Source, batch_size: int, device: str, overrides: Sequence[str] = ()) -> Network:
    """Build a spec's network with seed 0, compile it with the spec's losses and optimizer, and make a random batch.

    Raises:
        SpecError: The spec has errors.
        ArgumentError: It does not say how large its images are.
        TrainingError: It cannot be trained, or not so on this device.
    """
    keras.utils.set_random_seed(0)
    model = build_model(source, overrides)
    spec = model.examined.spec
    if spec.info is not None:
        check_fits(model, spec.info)
    shapes = [tuple(tensor.shape[1:]) for tensor in (*model.inputs, *model.outputs)]
    if [len(shape) for shape in shapes] != [3, 1] or None in (*shapes[0], *shapes[1]) or not model.make_losses():
        raise ArgumentError(
            f"only a network with one input, an image of known size, and one output, a score per class with a loss, "
            f"can be timed. '{spec.name}' has inputs and outputs of shapes {', '.join(map(str, shapes))} and losses on "
            f"{', '.join(model.make_losses()) or 'none of them'}. Name another spec, or add data: to this one."
        )
    check_device(spec.train, torch.device(device))
    compile_with_losses(model, make_optimizer(spec.train, STEPS_PER_EPOCH, model))
    images = torch.rand(batch_size, *shapes[0], device=device)
    return Network(model, images, torch.randint(0, shapes[1][0], (batch_size,), device=device))


class _BatchEnds(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes when the first and the last batch ended; between them the GPU's queue is left alone."""

    def __init__(self, device: str, last: int) -> None:
        super().__init__()
        self.device = device
        self.last = last
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch in (0, self.last):
            synchronize(self.device)
            self.times.append(time.perf_counter())
