"""Training and measuring with a class for each pixel."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from support.commands import refused
from support.tiny_spec import write_spec

from encapkeras import SpecError, build_model, check_spec, load_model, load_spec
from encapkeras.cli.main import main
from encapkeras.comparison import compare
from encapkeras.data import load
from encapkeras.errors import TrainingError
from encapkeras.training import train
from encapkeras.training.measure import compile_with_losses


def segments_spec(name="tiny", filters=4, epochs=2, loss="cross_entropy", **data):
    return {
        "spec": "encapkeras/1",
        "name": name,
        "data": {"dataset": "shapes", "images": 60, "size": 16, "batch_size": 20, **data},
        "model": {
            "nodes": {
                "hidden": {
                    "layer": "keras.Conv2D",
                    "inputs": "image",
                    "filters": filters,
                    "kernel_size": 3,
                    "padding": "same",
                    "activation": "relu",
                },
                "scores": {"layer": "keras.Conv2D", "inputs": "hidden", "filters": "$classes", "kernel_size": 1},
            },
            "outputs": {"classes": "scores"},
        },
        "losses": {"classes": {"loss": loss}},
        "train": {"epochs": epochs, "optimizer": {"kind": "adam", "learning_rate": 0.02}},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments") / "run"
    return folder, train(load_spec(segments_spec(epochs=3)), folder, verbose=0)


def test_mean_iou_is_that_of_scikit_learn(run):
    folder, results = run
    spec = load_spec(segments_spec(epochs=3))
    test = load(spec.data, seed=spec.train.seed).test
    model = load_model(folder / "checkpoints" / "best.keras")
    images, masks = (torch.cat(parts) for parts in zip(*test, strict=True))
    predicted = np.asarray(model.predict(images, verbose=0)).argmax(-1)
    present = sorted({*masks.unique().tolist(), *predicted.flat})
    expected = jaccard_score(masks.numpy().flat, predicted.flat, labels=present, average="macro", zero_division=0)
    assert results["test_mean_iou"] == pytest.approx(expected, abs=1e-6)
    assert results["test_accuracy"] == pytest.approx((predicted == masks.numpy()).mean(), abs=1e-6)


def test_the_best_epoch_is_that_of_the_best_mean_iou(run):
    folder, results = run
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: (float(row["val_mean_iou"]), -float(row["val_loss"])))
    assert rows.index(best) + 1 == results["best_epoch"]
    assert float(best["val_mean_iou"]) == pytest.approx(results["validation_mean_iou"], abs=1e-6)
    assert float(best["val_accuracy"]) == pytest.approx(results["validation_accuracy"], abs=1e-6)
    assert {"mean_iou", "accuracy"} <= rows[0].keys()
    assert json.loads((folder / "results.json").read_text()) == results


def test_evaluate_gives_what_training_gave(run, capsys):
    folder, results = run
    assert main(["evaluate", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {f"test_{name}": found[name] for name in ("accuracy", "loss", "mean_iou")} == {
        name: results[name] for name in ("test_accuracy", "test_loss", "test_mean_iou")
    }
    assert main(["evaluate", str(folder)]) == 0
    assert f"mean IoU {results['test_mean_iou']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize("closer", ["--per-class", "--ten-crop", "--affine"])
def test_measurements_of_images_of_one_class_are_refused(run, capsys, closer):
    assert "a class for each pixel" in refused(capsys, "evaluate", str(run[0]), closer)


def test_predict_and_analyse_are_refused(run, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "photo.png")
    message = refused(capsys, "predict", str(run[0]), str(tmp_path / "photo.png"))
    assert "for networks that give each image classes, and 'tiny' gives a class for each pixel" in message
    assert "encapkeras.load_model('RUN/checkpoints/best.keras').predict(images)" in message
    assert "these have masks, a class for each pixel" in refused(capsys, "analyse", str(run[0]))


def test_epoch_lines_and_the_list_of_runs_have_the_mean_iou(run, tmp_path, monkeypatch, capsys):
    folder, results = run
    assert main(["runs", str(folder.parent)]) == 0
    assert f"mean IoU {results['validation_mean_iou']:.4f}  mean IoU {results['test_mean_iou']:.4f}" in (
        capsys.readouterr().out
    )
    monkeypatch.setenv("COLUMNS", "80")
    train(load_spec(segments_spec(epochs=1)), tmp_path / "run", verbose=2)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1"))
    assert line.startswith("epoch 1/1  mean_iou ") and "  loss " in line and "accuracy" not in line


def test_settings_of_images_with_one_class_are_warned_about_and_refused(tmp_path):
    spec = segments_spec()
    spec["train"] |= {"class_weights": {"disk": 2.0}, "select": "val_auc", "analysis": {"every": 1}}
    paths = ["train.analysis", "train.class_weights", "train.select"]
    warnings = {warning.path: warning.message for warning in check_spec(spec).warnings}
    assert sorted(warnings) == paths
    with pytest.raises(TrainingError) as caught:
        train(load_spec(spec), tmp_path / "run", verbose=0)
    assert sorted(str(caught.value).splitlines()) == [f"{path} {warnings[path]}" for path in paths]
    with pytest.raises(SpecError, match="chooses the best epoch by itself: leave 'select' out"):
        check_spec(segments_spec(), ["train.select=val_mean_iou"])


def test_pack_is_refused_before_the_test(run, tmp_path, capsys):
    folder, _ = run
    message = refused(capsys, "pack", folder, "-o", tmp_path / "packed")
    assert message == (
        f"run {folder} cannot be packed: each pixel of its images has a class, and a packed network gives each image "
        f"classes. In Python, encapkeras.load_model reads {folder / 'checkpoints' / 'best.keras'}.\n"
    )
    assert not (tmp_path / "packed").exists()


def test_there_is_no_starter_spec(tmp_path, capsys):
    message = refused(capsys, "new", str(tmp_path / "mine.yaml"), "--dataset", "shapes")
    assert "has a class for each pixel. Begin with a copy of shapes_capsules or shapes_unet" in message


@pytest.mark.parametrize("loss", ["spread", "negative_log_likelihood"])
def test_losses_of_one_class_are_refused_before_there_is_a_run(tmp_path, capsys, loss):
    spec = write_spec(tmp_path, segments_spec(loss=loss))
    (warning,) = check_spec(segments_spec(loss=loss)).warnings
    assert "each pixel of the data set has a class, and this loss is of images with one class" in warning.message
    message = refused(capsys, "train", str(spec), "--run-dir", str(tmp_path / "run"))
    assert "each pixel of the data set has a class, and the loss on classes of 'tiny' is of images with one" in message
    assert not (tmp_path / "run").exists()


def test_weights_of_other_classes_are_refused_before_there_is_a_run(tmp_path):
    spec = segments_spec()
    spec["losses"]["classes"] = {"loss": "margin", "class_weights": [1.0, 2.0]}
    (warning,) = check_spec(spec).warnings
    assert "class_weights of this loss has 2 numbers; the data set has 4 classes: background, disk" in warning.message
    with pytest.raises(TrainingError, match="has 2 numbers; the data set has 4 classes: background, disk"):
        train(load_spec(spec), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_network_with_scores_of_images_is_warned_about_and_refused(tmp_path):
    spec = segments_spec()
    spec["model"]["nodes"]["pooled"] = {"layer": "keras.GlobalAveragePooling2D", "inputs": "scores"}
    spec["model"]["outputs"] = {"classes": "pooled"}
    (warning,) = check_spec(spec).warnings
    assert "outputs (4,), and the data set has masks of (16, 16) pixels and 4 classes" in warning.message
    message = r"has shape \(4,\); it must be \(16, 16, 4\), one score per class of the data set for each pixel"
    with pytest.raises(TrainingError, match=message):
        train(load_spec(spec), tmp_path / "run", verbose=0)


def test_analysis_while_training_is_refused(tmp_path):
    spec = segments_spec()
    spec["train"]["analysis"] = {"every": 1}
    with pytest.raises(TrainingError, match=r"train\.analysis needs images of one class each.*for each pixel"):
        train(load_spec(spec), tmp_path / "run", verbose=0)


def test_masks_of_any_size_are_measured_and_counted_in_64_bits():
    spec = {key: value for key, value in segments_spec().items() if key not in ("data", "train")}
    spec["model"]["inputs"] = {"image": [None, None, 1]}
    spec["model"]["nodes"]["scores"]["filters"] = 4
    model = build_model(load_spec(spec))
    compile_with_losses(model, segments=4)
    found = model.evaluate(torch.rand(2, 5, 6, 1), torch.randint(4, (2, 5, 6)), verbose=0, return_dict=True)
    assert 0 <= found["mean_iou"] <= 1
    assert "int64" in {variable.dtype for variable in model.metrics_variables}


def test_training_stops_when_mean_iou_no_longer_rises(tmp_path):
    spec = segments_spec(epochs=6)
    spec["train"] |= {"early_stopping": {"patience": 1, "min_delta": 1.0}}
    train(load_spec(spec), tmp_path / "run", verbose=0)
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.slow
def test_networks_are_compared_by_mean_iou(tmp_path):
    specs = [load_spec(segments_spec("small", 2, 1)), load_spec(segments_spec("large", 8, 1))]
    comparison = compare(specs, seeds=[0, 1], run_dir=tmp_path / "compared")
    large = comparison.rows()[1]
    of_runs = [run.results["test_mean_iou"] for run in comparison.runs if run.network == "large"]
    assert large.test_mean_iou.mean == pytest.approx(np.mean(of_runs))
    small = [run.results["test_mean_iou"] for run in comparison.runs if run.network == "small"]
    assert comparison.pairs()[0].difference.mean == pytest.approx(np.mean(of_runs) - np.mean(small))
    text = comparison.as_markdown()
    assert "test mean IoU" in text
    assert "Differences of test mean IoUs" in text
    assert "test_mean_iou_mean" in comparison.as_csv()
