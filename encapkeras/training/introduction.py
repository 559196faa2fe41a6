"""What a training says before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encapkeras.data import DataSplits
from encapkeras.distribution.processes import connected
from encapkeras.training.run.start import on_device

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec


def introduction(
    spec: Spec, parameters: int, splits: DataSplits, folder: Path, environment: dict[str, Any]
) -> Iterator[str]:
    """Yield the lines about a network of so many parameters, its images and its run."""
    count = connected().count
    validation = f"{splits.validation.num_images:,} for validation" if splits.validation else "none for validation"
    yield f"{spec.name}: {parameters:,} parameters on {on_device(environment)}"
    yield f"{splits.train.num_images:,} images for training, {validation}, {splits.test.num_images:,} for testing"
    yield f"run folder {folder}"
    if environment["dtype"] != "float32":
        yield (
            f"Keras' dtype is {environment['dtype']}, not float32: weights have it, whatever train.precision is "
            "(set in code, or as floatx in ~/.keras/keras.json)"
        )
    if count > 1:
        yield f"{count} processes, each with {(splits.train.batch_size or 0) // count} images of a batch"
    if splits.validation is None:
        yield "no validation part (data.validation is 0): the last epoch's weights will be tested"
