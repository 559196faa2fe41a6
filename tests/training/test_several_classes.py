"""Training and measuring with images of two classes, which `data.overlap` makes."""

import json
import shlex

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from support.commands import refused
from support.dataset_files import random_images
from support.tiny_spec import tiny_spec, write_spec
from support.trained import trained

from encapkeras import build_model, check_spec, load_model, load_spec
from encapkeras.analysis import classify_files
from encapkeras.cli.main import main
from encapkeras.data import DatasetInfo, load
from encapkeras.errors import TrainingError
from encapkeras.training import train
from encapkeras.training.measure import check_fits, exact_match


def overlapped_spec(**changes):
    spec = tiny_spec(epochs=1)
    return {**spec, "data": {**spec["data"], "overlap": 2}, **changes}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlap") / "run"
    results = train(load_spec(overlapped_spec()), folder, verbose=0)
    return folder, results


@given(
    scores=st.lists(st.permutations(range(6)), min_size=1, max_size=8),
    data=st.data(),
)
def test_an_exact_match_is_a_set(scores, data):
    values = torch.tensor(scores, dtype=torch.float32)
    counts = data.draw(st.lists(st.integers(1, 3), min_size=len(scores), max_size=len(scores)))
    targets = torch.zeros(len(scores), 6)
    expected = []
    for row, (count, order) in enumerate(zip(counts, scores, strict=True)):
        present = data.draw(st.sets(st.integers(0, 5), min_size=count, max_size=count))
        targets[row, list(present)] = 1
        highest = sorted(range(6), key=lambda place, order=order: -order[place])[:count]
        expected.append(float(set(highest) == present))
    assert exact_match(targets, values).tolist() == expected


def test_the_accuracy_is_that_of_both_classes(run):
    folder, results = run
    spec = load_spec(overlapped_spec())
    splits = load(spec.data, seed=spec.train.seed)
    model = load_model(folder / "checkpoints" / "best.keras")
    right = [
        set(row.tolist()) == set(label.nonzero().flatten().tolist())
        for images, labels in splits.test
        for row, label in zip(torch.as_tensor(model.predict(images, verbose=0)).topk(2).indices, labels, strict=True)
    ]
    assert results["test_accuracy"] == pytest.approx(np.mean(right))
    assert len(right) == 360


def test_evaluate_gives_what_training_gave(run, capsys):
    folder, results = run
    assert main(["evaluate", str(folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["accuracy"], figures["loss"]) == (results["test_accuracy"], results["test_loss"])


def test_each_class_is_measured_as_a_label(run, capsys):
    folder, results = run
    assert main(["evaluate", str(folder), "--per-class", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["classes"]
    assert sum(row["images"] for row in rows) == 2 * 360
    assert [row["f1"] for row in rows] == [row["f1"] for row in results["test_classes"]]
    # As many labels are given as there are, so that each false one is missed elsewhere.
    given = [row["recall"] * row["images"] / row["precision"] for row in rows if row["precision"]]
    assert sum(given) <= 2 * 360 + 1e-6


@pytest.mark.parametrize(
    "closer", [["--per-class", "--top", "2"], ["--hardest", "2", "-o", "classes.txt"], ["--affine"]]
)
def test_measurements_of_single_classes_say_how_to_measure(run, tmp_path, capsys, closer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(run[0]), *closer]
    message = refused(capsys, *words)
    assert message.startswith(f"{closer[0]} needs images of one class, and data.overlap gives each two classes. To mea")
    changes = shlex.split(message[message.index("--change") : -2])
    output = ["-o", "affine", "--images", "10"] if closer == ["--affine"] else []
    assert main([*words, *changes, *output]) == 0


def test_measurements_of_single_classes_are_refused(run, tmp_path, capsys):
    corners = refused(capsys, "evaluate", run[0], "--ten-crop")
    assert "Leave it out: where the objects are is a shift, so images have no corners to crop" in corners
    single = trained(tmp_path, tiny_spec(epochs=1))
    capsys.readouterr()
    changes = ["--change", "data.overlap=2", "--change", "data.image_size=24"]
    assert "Leave out --change data.overlap" in refused(
        capsys, "evaluate", single, "--per-class", "--top", "2", *changes
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "spread", "negative_log_likelihood"])
def test_losses_of_one_class_are_refused_before_there_is_a_run(tmp_path, capsys, loss):
    path = write_spec(tmp_path, overlapped_spec(losses={"classes": {"loss": loss}}))
    message = refused(capsys, "train", path, "--run-dir", tmp_path / "run")
    wanted = "the loss on classes of 'tiny' is of images with one. Use the loss margin or binary_cross_entropy there"
    assert wanted in " ".join(message.split())
    assert not (tmp_path / "run").exists()


def test_a_loss_of_one_class_is_a_warning_of_the_spec():
    assert not check_spec(overlapped_spec()).warnings
    (warning,) = check_spec(overlapped_spec(losses={"classes": {"loss": "spread"}})).warnings
    assert warning.path == "losses.classes"
    assert "data.overlap gives each image 2 classes" in warning.message


def test_side_losses_that_take_labels(tmp_path):
    spec = overlapped_spec()
    spec["model"]["nodes"] |= {
        "capsules": {
            "layer": "primary_capsules",
            "inputs": "image",
            "types": 2,
            "dim": 4,
            "kernel_size": 9,
            "strides": 8,
        },
        "digits": {"layer": "dynamic_capsules", "inputs": "capsules", "capsules": "$classes", "dim": 4},
        "lengths": {"layer": "capsule_length", "inputs": "digits"},
    }
    for name in ("pool", "flat", "hidden", "drop"):
        del spec["model"]["nodes"][name]
    spec["losses"]["decoded"] = {
        "loss": "reconstruction",
        "capsules": "digits",
        "image": "image",
        "weight": 0.0005,
        "hidden": [8],
    }
    model = build_model(load_spec(spec))
    info = DatasetInfo(40, 40, 1, 10, tuple("0123456789"), classes_per_image=2)
    check_fits(model, info)
    results = train(load_spec({**spec, "data": {**spec["data"], "subset": 60}}), tmp_path / "run", verbose=0)
    assert np.isfinite(results["test_loss"])
    type(model.side_losses["decoded"]).several_classes = False
    try:
        with pytest.raises(TrainingError, match="the loss on decoded of 'tiny' is of images with one"):
            check_fits(model, info)
    finally:
        type(model.side_losses["decoded"]).several_classes = True


def test_the_routing_of_pairs_is_not_analysed_in_training(tmp_path, capsys):
    path = write_spec(tmp_path, overlapped_spec(train={"epochs": 1, "analysis": {"every": 1}}))
    assert "train.analysis needs images of one class each" in refused(capsys, "train", path)


def test_image_files_are_put_into_the_middle(run, tmp_path):
    pixels = random_images(1, 32, 32)[0]
    Image.fromarray(pixels).save(tmp_path / "one.png")
    model = load_model(run[0] / "checkpoints" / "best.keras")
    found = classify_files(model, [tmp_path / "one.png"]).classified.scores
    placed = np.pad(pixels, 4)[None, ..., None].astype(np.float32) / 255
    assert torch.allclose(found, torch.as_tensor(model.predict(placed, verbose=0)), atol=1e-6)
