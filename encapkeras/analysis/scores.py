"""How well the scores of a network fit the labels, beyond the share of right answers: of all classes, and of each."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from encapkeras.analysis.probabilities import Probabilities, calibration_error

METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auc": "AUC",
    "calibration_error": "calibration error",
}
"""The metrics of all classes, in words."""
OF_CLASSES = tuple(METRICS)
OF_LABELS = ("macro_f1", "auc", "calibration_error")


@dataclass(frozen=True)
class ClassScores:
    """What a network makes of one class; a value is None where it is 0 / 0.

    Attributes:
        class_name: Its name.
        images: How many images have it, tp + fn.
        precision: The share of its images among those that the network gives it, `tp / (tp + fp)`.
        recall: The share of its images that the network gives it, `tp / (tp + fn)`.
        f1: `2 tp / (2 tp + fp + fn)`.
        auc: The probability that one of its images has a higher score for it than another image; 0.5 for equal ones.
    """

    class_name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None


@dataclass(frozen=True)
class Scores:
    """How well scores fit labels.

    Attributes:
        values: By name, each 0 to 1, None where it is not defined: `balanced_accuracy`, the mean recall of the classes
            that have images (of one class for each image); `macro_f1` and `auc`, the means of those values over the
            classes that have them; and `calibration_error`, see `calibration_error`.
        classes: Each class, in the order of the labels.
    """

    values: dict[str, float | None]
    classes: list[ClassScores]

    @classmethod
    def of(cls, probabilities: Probabilities, scores: Tensor, targets: Tensor) -> Scores:
        """Measure.

        Args:
            probabilities: What the scores mean, of a model with names of its classes.
            scores: `(N, K)`.
            targets: Labels `(N,)` as whole numbers; or `(N, K)`, 1 for each label of a sample.
        """
        names = probabilities.names
        columns = OF_CLASSES if probabilities.one_class else OF_LABELS
        present = torch.nn.functional.one_hot(targets, len(names)) == 1 if probabilities.one_class else targets > 0.5
        if not scores.isfinite().all():
            counts = zip(names, present.sum(0).tolist(), strict=True)
            return cls(dict.fromkeys(columns), [ClassScores(name, n, None, None, None, None) for name, n in counts])
        table = _per_class(present.numpy(), _given(probabilities, scores).numpy(), scores.double().numpy())
        means = {name: _mean(table[column]) for name, column in _MEANS.items()}
        means["calibration_error"] = calibration_error(probabilities(scores).numpy(), targets.numpy())
        rows = zip(names, *(values.tolist() for values in table.values()), strict=True)
        classes = [ClassScores(name, int(images), *map(_or_none, rest)) for name, images, *rest in rows]
        return cls({name: means[name] for name in columns}, classes)

    def rows(self) -> list[dict[str, Any]]:
        """Return the classes as plain data."""
        return [asdict(each) for each in self.classes]


_MEANS = {"balanced_accuracy": "recall", "macro_f1": "f1", "auc": "auc"}


def _given(probabilities: Probabilities, scores: Tensor) -> Tensor:
    """Return the classes `(N, K)`, bool, that the network gives each image: the best, or all that are probable."""
    if probabilities.classes_per_image is None:
        return probabilities.present(scores)
    places = scores.argsort(dim=1, descending=True, stable=True).argsort(1)
    return places < probabilities.classes_per_image


def _per_class(present: np.ndarray, given: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    precision, recall, f1, images = precision_recall_fscore_support(present, given, average=None, zero_division=np.nan)
    both = present.any(0) & ~present.all(0)
    auc = np.full(present.shape[1], np.nan)
    auc[both] = [roc_auc_score(present[:, k], scores[:, k]) for k in np.flatnonzero(both)]
    return {"images": images, "precision": precision, "recall": recall, "f1": f1, "auc": auc}


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
