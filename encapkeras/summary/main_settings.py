"""The settings of a spec that distinguish runs."""

from __future__ import annotations

from encapkeras.spec.spec import Spec
from encapkeras.summary.cost import batch_size_of


def main_settings(spec: Spec) -> dict[str, str | int | float]:
    """Return the settings that distinguish runs which are trained from specs, for TensorBoard or another tracker.

    Args:
        spec: A loaded spec.

    Examples:
        >>> import encapkeras
        >>> settings = main_settings(encapkeras.load_spec("quickstart"))
        >>> settings["spec"], settings["dataset"], settings["optimizer"], settings["learning_rate"]
        ('quickstart', 'digits', 'adam', 0.002)
    """
    train, decay = spec.train, spec.train.weight_decay
    return {
        "spec": spec.name,
        "dataset": spec.data.dataset if spec.data else "none",
        "batch_size": batch_size_of(spec),
        "seed": train.seed,
        "epochs": train.epochs,
        "optimizer": train.optimizer.kind,
        "learning_rate": train.optimizer.learning_rate,
        "schedule": train.schedule.kind,
        "weight_decay": f"{decay.kind} {decay.rate:g}" if decay else "none",
    }
