"""Metrics of all scores, against scikit-learn and closed forms; probabilities and their temperature."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from support.tiny_spec import tiny_spec

from encapkeras import build_model
from encapkeras.analysis.probabilities import (
    Probabilities,
    calibration_bins,
    calibration_error,
    fit_temperature,
)
from encapkeras.analysis.scores import Scores
from encapkeras.errors import ArgumentError

CLASSES = 10


@pytest.fixture(scope="module")
def model():
    return build_model(tiny_spec())


def drawn(count=500, classes=CLASSES):
    random = np.random.default_rng(0)
    labels = random.integers(classes, size=count)
    scores = random.random((count, classes), dtype=np.float32)
    scores[np.arange(count), labels] += 0.3
    return torch.from_numpy(scores.clip(0, 1)), torch.from_numpy(labels)


def test_means_are_those_of_scikit_learn(model):
    scores, labels = drawn()
    found = Scores.of(Probabilities(model, 1), scores, labels)
    best = scores.argmax(1)
    assert found.values["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, best))
    assert found.values["macro_f1"] == pytest.approx(metrics.f1_score(labels, best, average="macro"))
    shares = scores / scores.sum(1, keepdim=True)  # one order of each class only if rows have equal sums
    each = [metrics.roc_auc_score(labels == k, scores[:, k]) for k in range(CLASSES)]
    assert found.values["auc"] == pytest.approx(np.mean(each))
    assert metrics.roc_auc_score(labels, shares, multi_class="ovr") != pytest.approx(np.mean(each))


def test_figures_of_each_class_by_hand(model):
    scores = torch.zeros(4, CLASSES)
    scores[[0, 1, 2, 3], [0, 0, 1, 1]] = torch.tensor([0.9, 0.8, 0.9, 0.7])
    found = Scores.of(Probabilities(model, 1), scores, torch.tensor([0, 0, 0, 1]))
    first, second, third = found.rows()[:3]
    close = pytest.approx
    assert first == {"class_name": "0", "images": 3, "precision": 1, "recall": 2 / 3, "f1": 0.8, "auc": close(2.5 / 3)}
    assert second == {
        **{"class_name": "1", "images": 1, "precision": 0.5, "recall": 1},
        **{"f1": close(2 / 3), "auc": close(2 / 3)},
    }
    assert third == {"class_name": "2", "images": 0, "precision": None, "recall": None, "f1": None, "auc": None}
    assert found.values["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found.values["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_several_labels_are_those_of_scikit_learn(model):
    random = np.random.default_rng(1)
    targets = torch.from_numpy(random.integers(2, size=(300, CLASSES)))
    scores = (0.3 * targets + 0.7 * torch.from_numpy(random.random((300, CLASSES)))).float()
    found = Scores.of(Probabilities(model, None), scores, targets.double())
    assert "balanced_accuracy" not in found.values
    assert found.values["macro_f1"] == pytest.approx(metrics.f1_score(targets, scores >= 0.5, average="macro"))
    assert found.values["auc"] == pytest.approx(metrics.roc_auc_score(targets, scores, average="macro"))


def test_of_two_labels_the_two_highest_scores_count(model):
    scores, targets = torch.zeros(1, CLASSES), torch.zeros(1, CLASSES)
    scores[0, :3] = torch.tensor([0.4, 0.3, 0.2])
    targets[0, :2] = 1
    assert Scores.of(Probabilities(model, 2), scores, targets).values["macro_f1"] == 1
    assert Scores.of(Probabilities(model, None), scores, targets).values["macro_f1"] == 0


def test_scores_that_are_not_finite_have_no_metrics(model):
    scores, labels = drawn(20)
    scores[3, 3] = math.nan
    found = Scores.of(Probabilities(model, 1), scores, labels)
    assert set(found.values.values()) == {None}
    assert sum(row["images"] for row in found.rows()) == 20


def test_probabilities_of_lengths_are_those_of_exactly_one_class(model):
    """Of independent classes with probabilities a: all others are absent, given that one is present."""
    lengths = torch.rand(5, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.98 + 0.01
    alone = torch.stack([lengths[:, k] / (1 - lengths[:, k]) * (1 - lengths).prod(1) for k in range(CLASSES)], 1)
    torch.testing.assert_close(Probabilities(model, 1)(lengths), alone / alone.sum(1, keepdim=True))
    torch.testing.assert_close(Probabilities(model, None)(lengths), lengths)


def test_logits_of_a_loss_stay_what_they_are():
    spec = tiny_spec()
    spec["losses"]["classes"] = {"loss": "cross_entropy", "scale": 4.0}
    spec["model"]["nodes"]["lengths"].pop("activation")
    scores = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Probabilities(build_model(spec), 1)
    torch.testing.assert_close(found(scores), torch.softmax(4 * scores, 1))
    torch.testing.assert_close(found(scores, 2.0), torch.softmax(2 * scores, 1))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 5, generator=random, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=random)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)
    present = torch.bernoulli((logits / temperature).sigmoid(), generator=random)
    assert fit_temperature(logits, present) == pytest.approx(temperature, rel=0.03)


def test_no_temperature_fits_scores_that_are_always_right_or_never():
    logits = torch.eye(4) * 5
    with pytest.raises(ArgumentError, match="right wherever they are sure"):
        fit_temperature(logits, torch.arange(4))
    with pytest.raises(ArgumentError, match="do not fit them"):
        fit_temperature(logits, (torch.arange(4) + 1) % 4)
    logits[1, 2] = math.nan
    with pytest.raises(ArgumentError, match="needs finite scores; those of 1 of 4 images have NaN or infinity"):
        fit_temperature(logits, torch.tensor([0, 1, 2, 0]))


def test_calibration_error_of_a_known_case():
    """Four at 0.9 of which three are right, one at 0.6 that is wrong: 0.8 * 0.15 + 0.2 * 0.6."""
    shares = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    labels = np.array([0, 0, 0, 1, 0])
    assert calibration_error(shares, labels) == pytest.approx(0.24)
    assert [count for count, _, _ in calibration_bins(shares, labels) if count] == [1, 4]
    assert calibration_error(np.array([[0.25, 0.75]] * 4), np.array([[0, 1], [1, 1], [0, 0], [0, 1]])) == 0
    assert calibration_bins(np.array([[0.0, 1.0]]), np.array([1]))[-1] == (1, 1.0, 1.0)
