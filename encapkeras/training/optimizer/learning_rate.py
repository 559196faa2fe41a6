"""Learning rates that follow the settings of `train.schedule`."""

from __future__ import annotations

import math
from typing import Any

import keras
import torch

from encapkeras.spec.train_settings import Cosine, OneCycle, Step
from encapkeras.spec.train_settings import Schedule as ScheduleSettings
from encapkeras.validation import Checker

_SETTINGS = Checker(ScheduleSettings)


@keras.saving.register_keras_serializable(package="encapkeras")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """The learning rate of each step, in closed form.

    With n steps an epoch, `w = warmup_epochs * n` steps of warm-up and `T = epochs * n` steps in all, step s (from 0)
    has the learning rate `learning_rate * rise(s) * shape(s)`: `rise(s) = min(1, (s + 1) / w)` and

    - constant: `shape = 1`
    - step: `shape = factor ** (milestones m with s >= m * n)`
    - cosine: `shape = final + (1 - final) * (1 + cos(pi * t)) / 2` with `t = (s - w) / (T - w)`, held in 0..1
    - one_cycle (torch's `OneCycleLR`): no `rise`; `shape` goes along half cosines from `start` at step 0 to 1 at step
      `w - 1`, and on to `final` at step `T - 1`.

    Args:
        settings: The `train.schedule` section.
        learning_rate: The optimizer's learning rate.
        epochs: Epochs of the whole training.
        steps_per_epoch: Batches in an epoch.

    Examples:
        >>> from encapkeras.spec.train_settings import Step
        >>> schedule = Schedule(Step(milestones=[2]), learning_rate=1.0, epochs=4, steps_per_epoch=10)
        >>> round(float(schedule(19)), 6), round(float(schedule(20)), 6)
        (1.0, 0.1)
    """

    def __init__(
        self, settings: ScheduleSettings | dict[str, Any], learning_rate: float, epochs: int, steps_per_epoch: int
    ) -> None:
        # a saved schedule has its settings as a map
        self.settings: ScheduleSettings = _SETTINGS.convert(settings) if isinstance(settings, dict) else settings
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: Any) -> torch.Tensor:
        """Return the learning rate of a step, from 0; a scalar on the step's device, so that no device has to wait."""
        step = keras.ops.cast(step, keras.config.floatx())
        if isinstance(self.settings, OneCycle):
            return self.learning_rate * self._one_cycle(step, self.settings)
        warmup = self.settings.warmup_epochs * self.steps_per_epoch
        rate = self.learning_rate * self._shape(step, warmup)
        return rate * ((step + 1) / warmup).clamp(max=1) if warmup else rate

    def _shape(self, step: torch.Tensor, warmup: float) -> torch.Tensor:
        if isinstance(self.settings, Step):
            passed = sum(step >= milestone * self.steps_per_epoch for milestone in self.settings.milestones)
            return torch.full_like(step, self.settings.factor) ** passed
        if isinstance(self.settings, Cosine):
            remaining = max(self.epochs * self.steps_per_epoch - warmup, 1)
            return _half_cosine(1.0, self.settings.final_factor, (step - warmup) / remaining)
        return torch.ones_like(step)

    def _one_cycle(self, step: torch.Tensor, settings: OneCycle) -> torch.Tensor:
        share = 0.3 * self.epochs if settings.warmup_epochs is None else settings.warmup_epochs
        last = self.epochs * self.steps_per_epoch - 1
        top = min(max(share * self.steps_per_epoch - 1, 0), last)
        rising = _half_cosine(settings.start_factor, 1.0, step / max(top, 1))
        falling = _half_cosine(1.0, settings.final_factor, (step - top) / max(last - top, 1))
        return torch.where(step < top, rising, falling)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this schedule again."""
        return {
            "settings": self.settings.model_dump(),
            "learning_rate": self.learning_rate,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
        }


def _half_cosine(start: float, end: float, progress: torch.Tensor) -> torch.Tensor:
    return end + (start - end) * (1 + torch.cos(math.pi * progress.clamp(0, 1))) / 2
