"""From a spec to a trained network in a run folder.

Read `train` (check, open the run, train its epochs, test), with `check`, `open_run` and `measure`; `run/` (the folder,
and whether a run starts or resumes); `callbacks/` (what happens at each step and epoch); `optimizer/`, `memory/`,
`tensorboard/`, each with its own reading order. `non_finite` finds where a NaN comes from.
"""

from __future__ import annotations

import warnings
from typing import Any

import encapkeras
import encapkeras.backend  # refuses another Keras backend
from encapkeras.training.callbacks import LossSchedule
from encapkeras.training.measure import measure
from encapkeras.training.optimizer.averaged_weights import averaged
from encapkeras.training.optimizer.coupled_weight_decay import CoupledWeightDecay
from encapkeras.training.optimizer.learning_rate import Schedule
from encapkeras.training.optimizer.make_optimizer import make_optimizer
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.training.train import train

__all__ = [
    "CoupledWeightDecay",
    "LossSchedule",
    "RunFolder",
    "Schedule",
    "averaged",
    "make_optimizer",
    "measure",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "compare":
        warnings.warn("encapkeras.training.compare is now encapkeras.compare", DeprecationWarning, stacklevel=2)
        return encapkeras.compare
    raise AttributeError(f"module 'encapkeras.training' has no attribute '{name}'")
