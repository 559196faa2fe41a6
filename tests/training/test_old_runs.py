"""Run folders and models that an earlier version wrote are read, resumed, measured and predicted with."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from support.killed_training import MEASURED
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import encapkeras
import encapkeras.training  # its optimizers and schedules can be loaded then
from encapkeras.cli.main import main

OLD = Path(__file__).parents[1] / "old_files"
RENAMED = "'train.checkpoints' is now called 'train.resume_state'"


def copied(name, tmp_path):
    return Path(shutil.copytree(OLD / name, tmp_path / name))


def rows(text):
    return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(text.splitlines())]


def points(folder):
    """How often each curve has each epoch."""
    return Counter(
        (value.tag, event.step)
        for file in folder.glob("events.out.tfevents.*")
        if not file.name.endswith(".hparams")
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    )


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    run = copied("interrupted", tmp_path_factory.mktemp("old"))
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    return run


def test_an_interrupted_run_continues_as_if_it_had_not_been(resumed):
    written = (resumed / "metrics.csv").read_text()
    whole = (OLD / "whole/metrics.csv").read_text()
    for row, expected in zip(rows(written), rows(whole), strict=True):
        known = {name: row[name] for name in expected}  # later versions measure more
        assert known == pytest.approx(expected, rel=1e-3, abs=1e-3)
    results, expected = (json.loads((run / "results.json").read_text()) for run in (resumed, OLD / "whole"))
    names = expected.keys() - MEASURED
    assert {name: results[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-3)


def test_the_tensorboard_folder_of_an_interrupted_run_has_every_point_once(resumed):
    found = points(resumed / "tensorboard")
    assert set(found.values()) == {1}
    assert {(name, epoch) for name in ("loss/training", "accuracy/validation") for epoch in (1, 2, 3)} <= set(found)
    before = points(OLD / "interrupted/tensorboard")
    assert {tag for tag, _ in before} <= {tag for tag, _ in found}
    assert {tag for tag, step in before if step == 1} <= {tag for tag, step in found if step == 1}


def test_resuming_warns_of_the_old_name_and_takes_the_run_for_the_same(tmp_path, capsys):
    run = copied("interrupted", tmp_path)
    shutil.copy(OLD / "old.yaml", tmp_path)
    words = [str(tmp_path / "old.yaml"), "--set", "train.epochs=3", "--set", "train.analysis=null", "--device", "cpu"]
    assert main(["train", *words, "--set", "train.checkpoints.keep=3", "--resume", str(run)]) == 0
    said = capsys.readouterr()
    assert said.err.count(RENAMED) == 2  # in the file, and in --set
    assert "changed since the run was started: train.resume_state.keep is 2 there and 3 here" in said.out
    assert "checkpoints: {" not in (run / "spec.yaml").read_text()


def test_a_finished_run_is_measured_and_predicted_with(tmp_path, capsys):
    run = copied("finished", tmp_path)
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "is finished already" in said.out
    assert RENAMED in said.err
    assert main(["evaluate", str(run), "--json", "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = json.loads((run / "results.json").read_text())
    assert figures["accuracy"] == pytest.approx(expected["test_accuracy"], abs=1e-6)
    with np.load(OLD / "finished/predictions.npz") as saved:
        predicted = encapkeras.load_model(run / "checkpoints/best.keras").predict(saved["x"], verbose=0)
        np.testing.assert_allclose(predicted, saved["best"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["functional", "sequential"])
def test_saved_models_predict_the_same(name):
    model = encapkeras.load_model(OLD / f"models/{name}.keras")
    with np.load(OLD / f"models/{name}.npz") as saved:
        predicted = model.predict(saved["x"], verbose=0, batch_size=4)
        outputs = predicted if isinstance(predicted, list) else [predicted]
        for index, output in enumerate(outputs):
            np.testing.assert_allclose(output, saved[f"y{index}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["margin", "spread", "cross_entropy"])
def test_saved_models_with_losses_and_optimizers_are_trained_on(name):
    model = keras.saving.load_model(OLD / f"models/compiled_{name}.keras")
    with np.load(OLD / f"models/compiled_{name}.npz") as saved:
        images, labels = saved["x"], saved["labels"]
        close = {"rtol": 1e-3, "atol": 1e-4}
        np.testing.assert_allclose(model.predict(images, verbose=0, batch_size=8), saved["before"], **close)
        np.testing.assert_allclose(model.evaluate(images, labels, verbose=0, batch_size=8), saved["evaluate"], **close)
        model.fit(saved["more"], labels, batch_size=8, epochs=1, shuffle=False, verbose=0)
        np.testing.assert_allclose(model.predict(images, verbose=0, batch_size=8), saved["after"], **close)
