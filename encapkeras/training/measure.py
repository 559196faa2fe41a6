"""Accuracy and loss of a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import keras

from encapkeras.data import Batches
from encapkeras.errors import TrainingError
from encapkeras.graph import load_model

if TYPE_CHECKING:
    from encapkeras.graph import SpecModel


def compile_with_losses(model: SpecModel, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compiles a model with the losses of its spec and with `accuracy`.

    Args:
        model: A model built from a spec.
        optimizer: What trains it; None for a model that is only measured.

    Raises:
        TrainingError: The data sets give one label per image, but the spec has not exactly one output with a loss.
    """
    losses = model.make_losses()
    if len(losses) != 1 or len(model.outputs) != 1:
        raise TrainingError(
            f"train needs a network with one output and one loss on it; '{model.name}' has the outputs "
            f"{', '.join(model.output_names)} and losses on {', '.join(losses) or 'none'}. Train it with your own "
            "model.compile and model.fit."
        )
    (loss,) = losses.values()
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer, loss=loss, metrics=[accuracy], jit_compile=False)


def measure(checkpoint: Path, batches: Batches) -> dict[str, float]:
    """The `accuracy` (0 to 1) and mean `loss` of a saved model.

    Args:
        checkpoint: A `.keras` file of a model built from a spec.
        batches: Images and labels.
    """
    model = load_model(checkpoint)
    compile_with_losses(model)
    figures = model.evaluate(batches, verbose=0, return_dict=True)
    return {"accuracy": figures["accuracy"], "loss": figures["loss"]}
