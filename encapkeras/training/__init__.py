"""From a resolved spec to a finished run folder."""

from encapkeras.training.coupled_weight_decay import CoupledWeightDecay
from encapkeras.training.learning_rate import Schedule
from encapkeras.training.recipe import make_optimizer

__all__ = ["CoupledWeightDecay", "Schedule", "make_optimizer"]
