"""From a resolved spec to a finished run folder."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.training.averaged_weights import averaged
from encapkeras.training.callbacks import LossSchedule
from encapkeras.training.compare import compare
from encapkeras.training.coupled_weight_decay import CoupledWeightDecay
from encapkeras.training.fit import train
from encapkeras.training.learning_rate import Schedule
from encapkeras.training.measure import measure
from encapkeras.training.recipe import make_optimizer
from encapkeras.training.run_folder import RunFolder

__all__ = [
    "CoupledWeightDecay",
    "LossSchedule",
    "RunFolder",
    "Schedule",
    "averaged",
    "compare",
    "make_optimizer",
    "measure",
    "train",
]
