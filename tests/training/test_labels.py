"""Trainings on images of which each may have any number of labels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_spec import tiny_spec, write_spec

from encapkeras import SpecError, check_spec, load_model, load_spec
from encapkeras.analysis import classify
from encapkeras.cli.main import main
from encapkeras.errors import TrainingError
from encapkeras.losses import BinaryCrossEntropyLoss
from encapkeras.training import train

NAMES = ("left", "right", "bottom")


def bars(count, seed):
    """Images of up to three bright bars, and which there are; of these, none may be there."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=(count, 3))
    images = random.integers(60, size=(count, 16, 16), dtype=np.uint8)
    for place, box in enumerate([np.s_[:, :, :3], np.s_[:, :, 13:], np.s_[:, 13:, 3:13]]):
        images[box] = np.maximum(images[box], (200 * labels[:, place, None, None]).astype(np.uint8))
    return images, labels


def labels_spec(folder, loss="binary_cross_entropy", **training):
    images, labels = bars(300, 0)
    test_images, test_labels = bars(120, 1)
    arrays = {"train_images": images, "train_labels": labels, "test_images": test_images, "test_labels": test_labels}
    np.savez(folder / "bars.npz", class_names=np.array(NAMES), **arrays)
    spec = tiny_spec(epochs=8, **training)
    spec["data"] = {"dataset": "npz", "path": "bars.npz", "batch_size": 30, "validation": 0.2}
    spec["losses"]["classes"] = {"loss": loss}
    return spec


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    spec = write_spec(folder, labels_spec(folder, select="val_macro_f1"))
    return train(load_spec(spec), folder / "run", verbose=0), folder


def test_labels_are_learned_and_measured(finished):
    results, folder = finished
    assert results["test_accuracy"] > 0.9  # all three right
    assert results["test_macro_f1"] >= results["test_accuracy"]
    assert results["test_auc"] > 0.95
    assert "test_balanced_accuracy" not in results
    assert [row["class_name"] for row in results["test_classes"]] == list(NAMES)
    images, labels = bars(120, 1)
    model = load_model(folder / "run/checkpoints/best.keras")
    scores = model.predict(images[..., None].astype(np.float32) / 255, verbose=0)
    assert ((scores >= 0.5) == labels).all(1).mean() == pytest.approx(results["test_accuracy"])


def test_commands_show_labels(finished, tmp_path, capsys):
    results, folder = finished
    run = str(folder / "run")
    assert main(["evaluate", run, "--per-class", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["classes"]
    assert [row["f1"] for row in rows] == [row["f1"] for row in results["test_classes"]]
    assert main(["evaluate", run, "--per-class"]) == 0
    assert "labels of the test images" in capsys.readouterr().out
    assert main(["evaluate", run, "--per-class", "--top", "2"]) == 2
    assert "several labels" in capsys.readouterr().err
    assert main(["evaluate", run, "--hardest", "2", "-o", str(tmp_path / "x.txt")]) == 2
    assert "several labels" in capsys.readouterr().err


def test_predict_names_the_labels_that_are_there(finished, tmp_path, capsys):
    images, labels = bars(120, 1)
    places = [int(np.flatnonzero((labels == row).all(1))[0]) for row in ([1, 1, 0], [0, 0, 0])]
    for name, place in zip("ab", places, strict=True):
        Image.fromarray(images[place]).save(tmp_path / f"{name}.png")
    model = str(finished[1] / "run/checkpoints/best.keras")
    words = ["predict", model, str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert main(words) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert "a.png: left, right (" in first
    assert "b.png: no label (" in second
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["images"]
    assert [each["labels"] for each in found] == [["left", "right"], []]
    classified = classify(load_model(model), images[places][..., None])
    assert classified.labels() == [["left", "right"], []]


def test_a_loss_on_one_class_is_refused(tmp_path):
    spec = write_spec(tmp_path, labels_spec(tmp_path, loss="cross_entropy"))
    [warning] = check_spec(spec).warnings
    assert "images have several labels each, and this loss is of images with one" in str(warning)
    with pytest.raises(TrainingError, match="Use the loss margin or binary_cross_entropy there"):
        train(load_spec(spec), tmp_path / "run")


def test_a_metric_of_one_class_is_refused(tmp_path):
    spec = write_spec(tmp_path, labels_spec(tmp_path, select="val_balanced_accuracy"))
    with pytest.raises(TrainingError, match=r"these have several labels each. Choose one of val_accuracy"):
        train(load_spec(spec), tmp_path / "run")
    spec = write_spec(tmp_path, labels_spec(tmp_path, class_weights={"left": 2.0}))
    with pytest.raises(TrainingError, match=r"these have several labels each. Remove it"):
        train(load_spec(spec), tmp_path / "run")


def test_labels_that_no_image_has_are_an_error_of_the_spec(tmp_path):
    spec = labels_spec(tmp_path)
    images, labels = bars(300, 0)
    arrays = {"train_images": images, "train_labels": labels * [1, 1, 0], "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "bars.npz", class_names=np.array(NAMES), **arrays)
    with pytest.raises(SpecError, match="1 of 3 labels in no image, so that no network could learn them: bottom"):
        load_spec(write_spec(tmp_path, spec))


@pytest.mark.parametrize("absent_weight", [1.0, 0.25])
def test_binary_cross_entropy_by_hand(absent_weight):
    lengths = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.6, 0.7]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    rows = -(targets * lengths.log() + absent_weight * (1 - targets) * (1 - lengths).log()).sum(1)
    for scores, from_logits in ((lengths, False), (lengths.logit(), True)):
        loss = BinaryCrossEntropyLoss(from_logits=from_logits, absent_weight=absent_weight, dtype="float64")
        torch.testing.assert_close(loss(targets, scores), rows.mean(), check_dtype=False)
        torch.testing.assert_close(loss.probabilities(scores), lengths)
    ends = BinaryCrossEntropyLoss()(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert ends == pytest.approx(2 * np.log(1e7), rel=0.02)
