"""From the `train:` section to a Keras optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import keras

from encapkeras.keras_internals import scale_rates, update_at_once
from encapkeras.model.spec_model import SpecModel
from encapkeras.spec.train_settings import Constant, TrainSettings
from encapkeras.training.optimizer.coupled_weight_decay import CoupledWeightDecay
from encapkeras.training.optimizer.learning_rate import Schedule

_KINDS = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop, "sgd": keras.optimizers.SGD}


def make_optimizer(
    settings: TrainSettings, steps_per_epoch: int, model: SpecModel | None = None
) -> keras.optimizers.Optimizer:
    """Make the optimizer with its schedule, accumulation, weight decay, clipping and moving average.

    Args:
        settings: The `train:` section of a spec.
        steps_per_epoch: Batches in an epoch.
        model: The model whose nodes `learning_rates` names; None for one rate for all weights.

    Returns:
        One of Keras' own optimizers; with coupled weight decay, that optimizer inside a `CoupledWeightDecay`;
        for float16 all of it inside Keras' `LossScaleOptimizer`.

    Examples:
        >>> optimizer = make_optimizer(TrainSettings(), steps_per_epoch=100)
        >>> isinstance(optimizer, keras.optimizers.Adam), round(float(optimizer.learning_rate), 6)
        (True, 0.001)
    """
    chosen = settings.optimizer
    schedule, decay = settings.schedule, settings.weight_decay
    rate = float(chosen.learning_rate)
    common = {
        "learning_rate": (
            Schedule(schedule, rate, settings.epochs, steps_per_epoch) if has_schedule(settings) else rate
        ),
        "weight_decay": decay.rate if decay and decay.kind == "decoupled" else None,
        "global_clipnorm": settings.clip_norm,
        "use_ema": settings.ema is not None,
        "gradient_accumulation_steps": settings.accumulate if settings.accumulate > 1 else None,
        "ema_momentum": settings.ema.momentum if settings.ema else 0.0,
    }
    # The settings of an optimizer have the names of Keras' arguments.
    own = chosen.model_dump(exclude={"kind", "learning_rate"})
    optimizer = _KINDS[chosen.kind](**own, **common)
    update_at_once(optimizer)
    if model is not None and settings.learning_rates:
        _scale_rates_of_nodes(optimizer, model, settings.learning_rates)
    if decay and decay.kind == "coupled":
        optimizer = CoupledWeightDecay(optimizer, decay.rate)
    if settings.precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _scale_rates_of_nodes(
    optimizer: keras.optimizers.Optimizer, model: SpecModel, factors: Mapping[str, float]
) -> None:
    by_weight: dict[int, float] = {}
    for node, layer in model.nodes():
        matching = [factor for pattern, factor in factors.items() if fnmatchcase(node.name, pattern)]
        if matching:
            by_weight |= dict.fromkeys(map(id, layer.weights), matching[-1])
    scale_rates(optimizer, by_weight)


def has_schedule(settings: TrainSettings) -> bool:
    """Whether the learning rate changes during a training."""
    schedule = settings.schedule
    return not isinstance(schedule, Constant) or bool(schedule.warmup_epochs)


class ConstantRate(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets a learning rate without a schedule: that of the resume state is another if the setting has changed."""

    KEPT = ()

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set it."""
        self.model.optimizer.learning_rate = self.rate
