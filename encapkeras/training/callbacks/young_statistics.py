"""Why the first validations of a network with batch norms can be as bad as chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import torch

from encapkeras.keras_internals import layers_within, statistics_within
from encapkeras.training.optimizer.averaged_weights import keeps_average

ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy")
OUR_MOMENTUM = 0.9  # of batch norms that have no attribute for it
HORIZONS = 5  # after 5 / (1 - momentum) steps less than 1 % of a statistic is the value that it began with
CHANCE_MARGIN, LEAST_GAP = 0.1, 0.5  # of the way from chance to 1


class _Norm(NamedTuple):
    mean: torch.Tensor
    variance: torch.Tensor
    momentum: float
    can_be_warm: bool


def has_fresh_statistics(model: keras.Model) -> bool:
    """Return whether a batch norm of a model has the moving statistics that it was made with."""
    return any(not norm.mean.any() and (norm.variance == 1).all() for norm in _norms(model))


def why_at_chance(model: keras.Model, steps: int, logs: Mapping[str, Any]) -> str:
    """Return the line that says why validation is at chance while training is not; empty where this is not so.

    With K classes, chance is 1 / K. At chance is a validation accuracy of at most `1/K + 0.1 (1 - 1/K)`, and 2 / K;
    the training accuracy must be higher by `0.5 (1 - 1/K)`. Moving statistics are young for `5 / (1 - momentum)`
    steps.

    Args:
        model: A model whose statistics were fresh before these steps.
        steps: The steps since.
        logs: The logs of an epoch.
    """
    name = next((name for name in ACCURACIES if name in logs and f"val_{name}" in logs), None)
    classes = _classes(model)
    if name is None or classes is None or keeps_average(model.optimizer):
        return ""
    chance, trained, validated = 1 / classes, logs[name], logs[f"val_{name}"]
    at_chance = validated <= min(2 * chance, chance + CHANCE_MARGIN * (1 - chance))
    if not at_chance or trained - validated < LEAST_GAP * (1 - chance):
        return ""
    norms = [norm for norm in _norms(model) if norm.mean.any()]
    needed = max((round(HORIZONS / (1 - norm.momentum)) for norm in norms if norm.momentum < 1), default=0)
    if steps >= needed:
        return ""
    warm = ", or set moving_average: warm" if any(norm.can_be_warm for norm in norms) else ""
    return (
        f"val_{name} is at chance, {name} is not: the moving statistics of batch norms, used in validation, have seen "
        f"{steps} of the about {needed} steps that they need. Train for more steps{warm}."
    )


def _norms(model: keras.Model) -> Iterator[_Norm]:
    """Yield the batch norms with a moving average by momentum: it counts no batches, as a warm average does."""
    for layer in {id(each): each for top in model.layers for each in layers_within(top)}.values():
        if len(layers_within(layer)) > 1:
            continue
        found = {variable.name: variable.value.detach() for variable in statistics_within(layer)}
        for name, mean in found.items():
            norm = name.removesuffix("mean")
            if norm != name and f"{norm}variance" in found and f"{norm}count" not in found:
                momentum = float(getattr(layer, "momentum", OUR_MOMENTUM))
                yield _Norm(mean, found[f"{norm}variance"], momentum, hasattr(layer, "moving_average"))


def _classes(model: keras.Model) -> int | None:
    """Return the number of classes of a model with one output of scores; None for others."""
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or (outputs[0].shape[1] or 0) < 2:
        return None
    return int(outputs[0].shape[1])
