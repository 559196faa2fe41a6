"""By which number of the validation networks are chosen: that by which `train` chooses its best epoch."""

from __future__ import annotations

from dataclasses import dataclass

from encapkeras.analysis import scores
from encapkeras.spec.spec import Spec
from encapkeras.training.callbacks.checkpoints import LOWEST
from encapkeras.training.measure import MEAN_IOU, selecting_metric

_WORDS = {"accuracy": "accuracy", "loss": "loss", MEAN_IOU: "mean IoU", **scores.METRICS}


@dataclass(frozen=True)
class Choice:
    """What decides, by its name in the logs, such as `val_accuracy`."""

    log: str

    @classmethod
    def of(cls, spec: Spec) -> Choice:
        """Return what decides in the trainings of a spec."""
        return cls(selecting_metric(spec.info, spec.train.select) if spec.info else spec.train.select)

    @property
    def result(self) -> str:
        """Its name in `results.json`."""
        return f"validation_{self.log.removeprefix('val_')}"

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"validation {_WORDS[self.log.removeprefix('val_')]}"

    @property
    def lowest(self) -> bool:
        """Whether the lowest is the best."""
        return self.log.endswith(LOWEST)

    def rank(self, value: float) -> float:
        """Return a number by which values are sorted, the best first."""
        return value if self.lowest else -value


DEFAULT = Choice("val_accuracy")
