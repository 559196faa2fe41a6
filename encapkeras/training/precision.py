"""The precision of a training: what the device can do."""

from __future__ import annotations

import torch

from encapkeras.errors import TrainingError
from encapkeras.spec.train_settings import TrainSettings


def check_precision(settings: TrainSettings, device: torch.device) -> None:
    """Checks that the device can train in the precision of a spec.

    Raises:
        TrainingError: float16 on a CPU.
    """
    if settings.precision == "float16" and device.type == "cpu":
        raise TrainingError(
            "train.precision is float16, which needs a GPU; this training would be on the CPU. Set train.precision to "
            "bfloat16 or float32, or choose a GPU with --device."
        )
