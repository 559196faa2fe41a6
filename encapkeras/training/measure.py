"""Accuracy and loss of a saved model."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import torch

from encapkeras.data import Batches, DatasetInfo, DataSettings
from encapkeras.data.fingerprint import class_differences, classes_moved
from encapkeras.distribution.processes import connected
from encapkeras.errors import TrainingError
from encapkeras.model.load_model import load_model
from encapkeras.model.shape_warnings import loss_fault
from encapkeras.model.spec_model import SpecModel
from encapkeras.training.memory.advice import advice_for_measuring
from encapkeras.training.memory.out_of_memory import explain_out_of_memory
from encapkeras.training.score_metrics import EvaluationScores

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec
    from encapkeras.training.callbacks.checkpoints import Checkpoints


MEAN_IOU = "mean_iou"


def data_of(spec: Spec) -> DataSettings:
    """Return the `data:` section of a spec that is to be trained or measured; a TrainingError if it has none."""
    if spec.data is None:
        raise TrainingError(
            f"spec '{spec.name}' names no data, so there are no images to train or measure with. Add for "
            "example data: {dataset: digits}."
        )
    return spec.data


def check_fits(model: keras.Model, info: DatasetInfo) -> None:
    """Check that a network takes the images of a data set and gives one score per class, with one loss on it."""
    if not isinstance(model, SpecModel):
        raise TrainingError(f"'{model.name}' was not built from a spec, so it has no losses to measure")
    losses = model.make_losses()
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(losses) != 1:
        raise TrainingError(
            "training and measuring need a network with one input, one output and a loss on that output, since a data "
            f"set has one image and one label per sample. '{model.name}' has {len(model.inputs)} inputs, the outputs "
            f"{', '.join(model.output_names)}, and losses on {', '.join(losses) or 'none of them'}. A network of "
            "another kind can be trained with your own model.compile and model.fit."
        )
    if not model.trainable_weights:
        raise TrainingError(f"'{model.name}' has no trainable weights: there is nothing to train")
    given = tuple(model.inputs[0].shape[1:])
    if not info.fits(given):
        raise TrainingError(
            f"'{model.name}' takes inputs of shape {given}; the {info.samples} of the data set are {info.input_shape}"
        )
    scores = tuple(model.outputs[0].shape[1:])
    if not info.takes(scores):
        raise TrainingError(
            f"output '{model.output_names[0]}' of '{model.name}' has shape {scores}; it must be {info.output_shape}, "
            f"one score per class of the data set{' for each pixel' if info.task == 'segments' else ''}"
        )
    for name, loss in {**losses, **model.side_losses}.items():
        if fault := loss_fault(loss, info, f"the loss on {name} of '{model.name}'"):
            raise TrainingError(". ".join(fault))
    if model.class_names and classes_moved(model.class_names, info.class_names):
        raise TrainingError(
            f"the classes of '{model.name}' (there) are not those of the data set (here), so its outputs mean other "
            f"classes: {class_differences(model.class_names, info.class_names)}. Give the classes the names that they "
            "had."
        )


def exact_match(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    """Return 1 where the classes with the highest scores are just those of the target, in any order, else 0, `(B,)`.

    Args:
        y_true: Targets `(B, K)`, 1 for each class of the image. Of two ones, the two highest scores count.
        y_pred: Scores `(B, K)`.

    Examples:
        >>> exact_match(torch.tensor([[1, 0, 1], [1, 1, 0]]), torch.tensor([[0.9, 0.1, 0.8], [0.9, 0.1, 0.8]]))
        tensor([1., 0.])
    """
    places = torch.argsort(y_pred, dim=1, descending=True, stable=True).argsort(1)
    chosen = places < y_true.sum(1, keepdim=True)
    matches: torch.Tensor = (chosen == (y_true > 0.5)).all(1)
    return matches.to(torch.float32)


def compile_with_losses(
    model: SpecModel,
    optimizer: keras.optimizers.Optimizer | None = None,
    classes_per_image: int | None = 1,
    segments: int | None = None,
    shown: str = "",
) -> None:
    """Compile a model with the losses of its spec and with `accuracy`; without optimizer it is only measured.

    Of images of several classes, the accuracy is `exact_match`; of any number, the part whose labels are just those
    that the network sees. Evaluations, those of `fit` too, have the means of `Scores` as well, of which progress shows
    the one that is called `shown`. Of pixels with one of `segments` classes the accuracy is the share of pixels, and
    there is `mean_iou` in place of these.
    """
    scores = EvaluationScores(model, classes_per_image, shown) if segments is None else None
    metrics = [_accuracy(classes_per_image, scores)]
    if segments is not None:  # Keras' default, int32, is too small for the pixels of many images
        metrics.append(keras.metrics.MeanIoU(segments, name=MEAN_IOU, dtype="int64", sparse_y_pred=False))
    model.score_metrics = scores
    model.compile(
        optimizer, loss=model.make_losses(), loss_weights=model.loss_weights, metrics=metrics, jit_compile=False
    )


def _accuracy(classes_per_image: int | None, scores: EvaluationScores | None) -> keras.metrics.Metric:
    if scores is None or classes_per_image == 1:
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    probabilities = scores.probabilities

    def all_labels_match(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
        return (probabilities.present(y_pred) == (y_true > 0.5)).all(1).to(torch.float32)

    return keras.metrics.MeanMetricWrapper(exact_match if classes_per_image else all_labels_match, name="accuracy")


def segments_of(info: DatasetInfo) -> int | None:
    """Return how many classes pixels have; None if images have one."""
    return info.classes if info.task == "segments" else None


def selecting_metric(info: DatasetInfo, select: str = "val_accuracy") -> str:
    """Return the log of the validation that chooses the best epoch; of pixels the mean IoU in place of the accuracy."""
    return f"val_{MEAN_IOU}" if info.task == "segments" and select == "val_accuracy" else select


def measure(checkpoint: Path, batches: Batches, info: DatasetInfo) -> dict[str, float | None]:
    """Measure the `accuracy` (0 to 1), the mean `loss` and the means of `Scores`, or `mean_iou`, of a saved model.

    Args:
        checkpoint: A `.keras` file of a model built from a spec.
        batches: Images and labels.
        info: The description of their data set, as `encapkeras.data.describe` returns it.

    Raises:
        EncapkerasError: The file is not a model.
        TrainingError: The model and the data set do not fit each other, or out of memory.
    """
    model = loaded(checkpoint, info)
    with explain_out_of_memory(advice_for_measuring(model, batches.batch_size or batches.num_images)):
        return measure_metrics(model, batches)


def loaded(checkpoint: Path, info: DatasetInfo) -> SpecModel:
    """Load a saved model to measure it; a `TrainingError` if it does not fit the data set."""
    model: SpecModel = load_model(checkpoint)
    check_fits(model, info)
    compile_with_losses(model, classes_per_image=info.classes_per_image, segments=segments_of(info))
    return model


def measure_metrics(
    model: SpecModel, batches: Batches, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> dict[str, float | None]:
    """Return the metrics of a model that `compile_with_losses` has compiled; None where one is not defined."""
    found = model.evaluate(batches, verbose=0, return_dict=True, callbacks=list(callbacks))
    scores = {name: _defined(found[name]) for name in score_names(model)}
    return {"accuracy": found["accuracy"], "loss": found["loss"], **scores}


def measure_scores(model: SpecModel, batches: Batches) -> EvaluationScores:
    """Return all scores that a model, which `loaded` returned, gives images."""
    with explain_out_of_memory(advice_for_measuring(model, batches.batch_size or batches.num_images)):
        measure_metrics(model, batches)
    return copy.copy(model.score_metrics)  # type: ignore[return-value]  # the next evaluation replaces its scores


def score_names(model: SpecModel) -> tuple[str, ...]:
    """Return the names of the metrics that `compile_with_losses` adds to accuracy and loss."""
    return model.score_metrics.names if isinstance(model.score_metrics, EvaluationScores) else (MEAN_IOU,)


def validation_results(best: Checkpoints, model: SpecModel) -> dict[str, float | None]:
    """Return the metrics of the best epoch on the validation images, None without any; the first process has them."""
    if connected().is_first and best.best is not None and best.best_epoch is None:
        raise TrainingError(
            f"train.select: {best.monitor} is not a number in any epoch, so there is no best one. Choose another metric"
        )
    # States of earlier versions have no `best_metrics`.
    found = {"val_loss": best.best_loss, best.monitor: best.best_accuracy, **best.best_metrics}
    names = ("accuracy", "loss", *score_names(model))
    return {f"validation_{name}": _defined(found.get(f"val_{name}")) for name in names}


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
