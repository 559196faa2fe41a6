"""Keras callbacks; each works in any `model.fit`."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.training.callbacks import (
    Checkpoints,
    LossSchedule,
    MetricsFile,
    NonFiniteStop,
    Progress,
    Resume,
    RoutingAnalysis,
    Stopwatch,
    TensorBoard,
    ValidateAverage,
)

__all__ = [
    "Checkpoints",
    "LossSchedule",
    "MetricsFile",
    "NonFiniteStop",
    "Progress",
    "Resume",
    "RoutingAnalysis",
    "Stopwatch",
    "TensorBoard",
    "ValidateAverage",
]
