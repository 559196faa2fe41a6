"""Keras callbacks; each works in any `model.fit`."""

from encapkeras.training.callbacks.checkpoints import Checkpoints
from encapkeras.training.callbacks.log_to import LogTo
from encapkeras.training.callbacks.loss_schedule import LossSchedule
from encapkeras.training.callbacks.metrics_file import MetricsFile
from encapkeras.training.callbacks.non_finite_stop import NonFiniteStop
from encapkeras.training.callbacks.progress import Progress
from encapkeras.training.callbacks.resume import Resume
from encapkeras.training.callbacks.routing_analysis import RoutingAnalysis
from encapkeras.training.callbacks.stopwatch import Stopwatch
from encapkeras.training.callbacks.tensorboard import TensorBoard
from encapkeras.training.callbacks.validate_average import ValidateAverage

__all__ = [
    "Checkpoints",
    "LogTo",
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
