"""Metrics of all scores in trainings, and what depends on the classes: selection, weights, balanced batches."""

import csv
import json

import numpy as np
import pytest
import torch
from support.tiny_spec import tiny_spec, write_spec

from encapkeras import SpecError, load_model, load_spec
from encapkeras.analysis.scores import METRICS
from encapkeras.cli.main import main
from encapkeras.data import DataSettings, load
from encapkeras.errors import ArgumentError, TrainingError
from encapkeras.training import train
from encapkeras.training.class_weights import with_class_weights
from encapkeras.training.measure import measure


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def by_auc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auc") / "run"
    spec = tiny_spec(epochs=3, select="val_auc", early_stopping={"patience": 3})
    return train(load_spec(spec), folder, verbose=0), folder


def test_every_epoch_has_the_metrics_and_the_chosen_one_decides(by_auc):
    results, folder = by_auc
    rows = rows_of(folder)
    assert {f"val_{name}" for name in METRICS} <= set(rows[0])
    assert not set(METRICS) & set(rows[0])  # of training batches, nothing of all scores is known
    best = max(rows, key=lambda row: float(row["val_auc"]))
    assert results["best_epoch"] == int(best["epoch"])
    assert results["validation_auc"] == float(best["val_auc"])
    assert results["validation_accuracy"] == float(best["val_accuracy"])


def test_results_are_what_evaluate_measures(by_auc, capsys):
    results, folder = by_auc
    assert main(["evaluate", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in METRICS} == {name: results[f"test_{name}"] for name in METRICS}
    rows = results["test_classes"]
    assert [row["class_name"] for row in rows] == list("0123456789")
    assert results["test_balanced_accuracy"] == pytest.approx(np.mean([row["recall"] for row in rows]))
    right = sum(row["recall"] * row["images"] for row in rows)
    assert results["test_accuracy"] == pytest.approx(right / sum(row["images"] for row in rows))


def test_only_the_chosen_metric_is_printed(tmp_path, capsys):
    train(load_spec(tiny_spec(epochs=1, select="val_macro_f1")), tmp_path / "run")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert "val_macro_f1" in line
    assert "auc" not in line


@pytest.mark.parametrize("metric", ["val_loss", "val_calibration_error"])
def test_the_lowest_is_the_best_of_what_should_be_low(tmp_path, metric):
    results = train(load_spec(tiny_spec(epochs=3, select=metric)), tmp_path / "run", verbose=0)
    values = [float(row[metric]) for row in rows_of(tmp_path / "run")]
    assert results["best_epoch"] == 1 + int(np.argmin(values))


def test_a_metric_that_needs_validation(tmp_path):
    spec = tiny_spec(select="val_auc")
    spec["data"]["validation"] = 0
    with pytest.raises(TrainingError, match=r"train.select is val_auc, but data.validation is 0"):
        train(load_spec(spec), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_balanced_weights_are_those_of_the_formula():
    splits = load(DataSettings(dataset="digits", subset=300), seed=0)
    weighted = with_class_weights(splits, "balanced").train
    counts = torch.bincount(splits.train.labels, minlength=10)
    for (images, labels, weights), (same, _) in zip(weighted, splits.train, strict=True):
        assert torch.equal(images, same)
        torch.testing.assert_close(weights, (splits.train.num_images / (10 * counts[labels])).float())
    assert splits.train.num_images == 270


def test_a_weight_multiplies_the_losses_of_its_class(tmp_path):
    """With weights 2 for all, the loss is twice that of none; validation and test stay as they are."""
    of = {}
    for name, weights in {"none": None, "two": dict.fromkeys("0123456789", 2.0)}.items():
        spec = tiny_spec(epochs=1, class_weights=weights, optimizer={"kind": "sgd", "learning_rate": 1e-12})
        results = train(load_spec(spec), tmp_path / name, verbose=0)
        of[name] = float(rows_of(tmp_path / name)[0]["loss"]), results["test_loss"]
    assert of["two"][0] == pytest.approx(2 * of["none"][0], rel=1e-5)
    assert of["two"][1] == pytest.approx(of["none"][1], rel=1e-5)


def test_classes_that_do_not_exist_have_no_weight(tmp_path, capsys):
    path = write_spec(tmp_path, tiny_spec(class_weights={"3": 2.0, "eleven": 3.0}))
    with pytest.raises(SpecError, match="'eleven' is not a class of the data set") as error:
        load_spec(path)
    [problem] = error.value.problems
    assert path.read_text().splitlines()[problem.line - 1].strip() == "eleven: 3.0"


def test_balanced_batches_draw_each_class_equally():
    settings = DataSettings(dataset="digits", subset=300, balance=True)
    batches = load(settings, seed=1).train
    epochs = [torch.cat([labels for _, labels in batches]) for _ in range(2)]
    for labels in epochs:
        counts = torch.bincount(labels, minlength=10)
        assert counts.sum() == batches.num_images == 270
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(*epochs)
    again = load(settings, seed=1).train
    assert torch.equal(again.batch(2, epoch=1)[1], epochs[1][128:192])


def test_balance_and_weights_are_for_one_class_and_one_of_them(tmp_path):
    spec = tiny_spec(class_weights="balanced")
    spec["data"]["balance"] = True
    with pytest.raises(TrainingError, match="Use one of them"):
        train(load_spec(spec), tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"data.overlap gives them two"):
        DataSettings(dataset="digits", balance=True, overlap=2)
    spec = tiny_spec(class_weights={"1": 2.0})
    spec["data"]["overlap"] = 2
    with pytest.raises(TrainingError, match=r"train.class_weights weighs images by their class"):
        train(load_spec(spec), tmp_path / "run")
    spec = tiny_spec(select="val_balanced_accuracy")
    spec["data"]["overlap"] = 2
    with pytest.raises(TrainingError, match="Choose one of val_accuracy, val_loss, val_macro_f1, val_auc"):
        train(load_spec(spec), tmp_path / "run")


def test_a_calibrated_network_is_measured_with_its_temperature(by_auc, tmp_path):
    results, folder = by_auc
    splits = load(DataSettings(dataset="digits", batch_size=128), seed=0)
    model = load_model(folder / "checkpoints/best.keras")
    model.temperature = 100.0
    model.save(tmp_path / "hot.keras")
    hot = measure(tmp_path / "hot.keras", splits.test, splits.info)
    assert hot["accuracy"] == pytest.approx(results["test_accuracy"])
    assert hot["calibration_error"] == pytest.approx(hot["accuracy"] - 0.1, abs=0.02)  # all classes are as probable


def test_a_temperature_does_not_outlive_the_weights_that_it_belongs_to(by_auc):
    _, folder = by_auc
    model, other = (load_model(folder / "checkpoints/best.keras") for _ in range(2))
    model.temperature = 2.0
    model.copy_weights(other)
    assert model.temperature is None
    model.temperature = 2.0
    model.compile("sgd", loss=model.make_losses())
    model.fit(torch.rand(4, 32, 32, 1), torch.arange(4), verbose=0)
    assert model.temperature is None
