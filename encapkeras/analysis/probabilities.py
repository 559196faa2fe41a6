"""What the outputs of a network say as probabilities, and the temperature that makes them agree with how often."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from encapkeras.errors import ArgumentError
from encapkeras.losses import CapsuleLoss
from encapkeras.model.spec_model import SpecModel

ScoreKind = Literal["length", "activation", "probability", "score"]

SMALLEST = 1e-6  # of a length, which is float32, and of its distance from 1
LEAST, MOST = 0.01, 100.0  # temperatures


class Probabilities:
    """Turns the scores of a network into logits and probabilities.

    A score a becomes a logit z, and with the temperature T of the model (1 if it was not calibrated) a probability:

    - lengths and activations of class capsules, and scores of the margin loss, which say how probable it is that a
      class is present: `z = log(a / (1 - a))`, with a from 1e-6 to 1 - 1e-6;
    - outputs that the loss turns into probabilities p (`CapsuleLoss.probabilities`): `z = log p`, which is the logit
      but for a constant; of a loss on each class by itself, as `binary_cross_entropy`, `z = log(p / (1 - p))`;
    - all others as they are: `z = a`.

    Of classes that exclude each other, `p_k = exp(z_k / T) / sum_j exp(z_j / T)`: for lengths and T = 1 this is the
    probability that class k is the one that is present, if each were present with probability a, independently, and
    exactly one is. Of labels that do not, `p_k = 1 / (1 + exp(-z_k / T))`: the length itself for T = 1.

    Args:
        model: A network with one output `(B, K)` and one loss.
        classes_per_image: How many classes each image has; None for any number. Only of 1 they exclude each other.

    Attributes:
        kind: What the scores are; see `Classified`.
        names: Of the classes, in the order of the labels; the labels themselves if the model has none.

    Examples:
        >>> import encapkeras
        >>> probabilities = Probabilities(encapkeras.build_model("quickstart"), classes_per_image=1)
        >>> probabilities(torch.full((1, 10), 0.3))[0, 0]
        tensor(0.1000, dtype=torch.float64)
    """

    def __init__(self, model: SpecModel, classes_per_image: int | None) -> None:
        self.model = model
        self.classes_per_image = classes_per_image
        self.one_class = classes_per_image == 1
        self.names = model.class_names or tuple(map(str, range(model.outputs[0].shape[1])))
        self._loss = next(iter(model.make_losses().values()), None)
        self.kind = self._kind()

    def _kind(self) -> ScoreKind:
        (reference,) = self.model.examined.spec.outputs.values()
        layer = self.model.examined.graph.layers[reference.node]
        declared: ScoreKind | Literal[""] = getattr(layer, "scores_are", "")
        if declared:
            return declared
        return "score" if self.of_loss(torch.zeros(1, len(self.names))) is None else "probability"

    def of_loss(self, scores: Tensor) -> Tensor | None:
        """Return the probabilities by which the loss takes scores, None where it does not."""
        return self._loss.probabilities(scores) if isinstance(self._loss, CapsuleLoss) else None

    def logits(self, scores: Tensor) -> Tensor:
        """Return z `(B, K)`, float64, of scores `(B, K)`."""
        scores = scores.detach().double()
        shares = self.of_loss(scores)
        if shares is None:
            of_lengths = self.kind != "score" or getattr(self._loss, "of_lengths", False)
            return scores.clamp(SMALLEST, 1 - SMALLEST).logit() if of_lengths else scores
        alone = getattr(self._loss, "several_classes", False)  # each class by itself
        return shares.clamp(1e-15, 1 - 1e-15).logit() if alone else shares.clamp_min(1e-300).log()

    def __call__(self, scores: Tensor, temperature: float | None = None) -> Tensor:
        """Return probabilities `(B, K)`, float64, of scores `(B, K)`; with the temperature of the model if None."""
        chosen = (self.model.temperature or 1.0) if temperature is None else temperature
        logits = self.logits(scores) / chosen
        return logits.softmax(1) if self.one_class else logits.sigmoid()

    def present(self, scores: Tensor) -> Tensor:
        """Return which labels `(B, K)`, bool, a network sees: those at least as probable as not, at any temperature."""
        return self.logits(scores) >= 0


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature T with the least cross-entropy of `softmax(z / T)`, or of `sigmoid(z / T)` for labels.

    Guo et al. 2017 (arXiv:1706.04599), section 4.2. In `1 / T` the cross-entropy is convex, so that there is one
    minimum; it is sought from 0.01 to 100.

    Args:
        logits: z `(N, K)`.
        targets: Labels `(N,)` as whole numbers; or `(N, K)`, 1 for each label of a sample.

    Raises:
        ArgumentError: A logit is not a finite number; or there is no minimum, as where all classes are right: the
            surest probabilities are the best then.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 4)  # 2 / T = log 3
        1.8205
    """
    from scipy.optimize import minimize_scalar

    others = int((~logits.isfinite()).any(1).sum())
    if others:
        raise ArgumentError(
            f"a temperature needs finite scores; those of {others:,} of {len(logits):,} images have NaN or infinity"
        )
    loss = torch.nn.functional.cross_entropy if targets.dim() == 1 else _binary_cross_entropy
    logits = logits.double()

    def of(log_factor: float) -> float:
        return float(loss(logits * math.exp(log_factor), targets))

    vaguest, surest = -math.log(MOST), -math.log(LEAST)
    found = minimize_scalar(of, bounds=(vaguest, surest), method="bounded", options={"xatol": 1e-6}).x
    sure = of(surest) <= of(found)
    if sure or of(vaguest) <= of(found):
        why = "they are right wherever they are sure: use more for validation" if sure else "scores do not fit them"
        raise ArgumentError(f"no temperature from {LEAST:g} to {MOST:g} fits these {len(targets):,} images, as {why}")
    return math.exp(-float(found))


def _binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.double())


def calibration_bins(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> list[tuple[int, float, float]]:
    """Return for each of some equally wide bins of confidence its size, mean confidence and share of right ones.

    Of one class for each image, the confidence is the largest probability of each image, and right is an image whose
    class has it. Of several labels, each probability of each image counts, and right is a label that is present.

    Args:
        probabilities: `(N, K)`.
        targets: Labels `(N,)` as whole numbers; or `(N, K)`, 1 for each label of a sample.
        bins: How many; confidence c is in bin b if `b / bins < c <= (b + 1) / bins`, 0 in the first.

    Examples:
        >>> calibration_bins(np.array([[0.75, 0.25]]), np.array([0]), bins=2)
        [(0, 0.0, 0.0), (1, 0.75, 1.0)]
    """
    if targets.ndim == 1:
        confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    else:
        confidence, right = probabilities.ravel(), targets.ravel() > 0.5
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts, sums, rights = (np.bincount(place, weight, bins) for weight in (None, confidence, right.astype(float)))
    there = np.maximum(counts, 1)
    return list(zip(counts.tolist(), (sums / there).tolist(), (rights / there).tolist(), strict=True))


def calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error `sum_b n_b / N |right_b - confidence_b|` over `calibration_bins`, 0 to 1.

    Guo et al. 2017 (arXiv:1706.04599), equation 3.

    Examples:
        >>> calibration_error(np.array([[0.75, 0.25], [0.75, 0.25]]), np.array([0, 1]))
        0.25
    """
    parts = calibration_bins(probabilities, targets, bins)
    total = sum(count for count, _, _ in parts)
    return sum(count / total * abs(right - confidence) for count, confidence, right in parts)
