"""`encapkeras evaluate RUN --calibrate`, and the probabilities that `predict` then gives."""

import importlib
import json
import shutil

import pytest
from PIL import Image
from support.commands import refused
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras import load_model
from encapkeras.cli.main import main
from encapkeras.training.run.identity import mark_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    spec = tiny_spec(epochs=3)
    spec["data"]["validation"] = 0.3
    return trained(tmp_path_factory.mktemp("calibration"), spec)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def printed(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_temperature_is_kept_and_used(run, tmp_path, capsys):
    checkpoint = run / "checkpoints/best.keras"
    before, mark = printed(capsys, "evaluate", run, "--json"), mark_of(checkpoint)
    found = printed(capsys, "evaluate", run, "--calibrate", "--json")
    after = printed(capsys, "evaluate", run, "--json")
    assert found["before"]["calibration_error"] == pytest.approx(before["calibration_error"])
    assert found["after"]["calibration_error"] == pytest.approx(after["calibration_error"])
    assert found["after"]["cross_entropy"] < found["before"]["cross_entropy"]
    assert (found["validation_images"], found["images"]) == (431, 360)
    unchanged = {"accuracy", "loss", "balanced_accuracy", "macro_f1", "auc"}
    assert {name: before[name] for name in unchanged} == {name: after[name] for name in unchanged}
    assert load_model(checkpoint).temperature == found["temperature"]
    assert mark_of(checkpoint) == mark
    folder = run / "analysis/calibration"
    assert json.loads((folder / "calibration.json").read_text()) == found
    with Image.open(folder / "reliability.png") as picture:
        assert min(picture.size) > 300


def test_predict_gives_probabilities(run, tmp_path, capsys):
    Image.new("L", (32, 32), 128).save(tmp_path / "photo.png")
    words = ["predict", run, tmp_path / "photo.png", "--top", 10, "--json"]
    assert printed(capsys, *words)["scores"] == "score"
    temperature = printed(capsys, "evaluate", run, "--calibrate", "--json")["temperature"]
    found = printed(capsys, *words)
    assert found["scores"] == "probability"
    assert sum(each["probability"] for each in found["images"][0]["classes"]) == pytest.approx(1, abs=1e-6)
    assert main(["predict", str(run), str(tmp_path / "photo.png")]) == 0
    assert f"best.keras: probabilities (temperature {temperature:.4g})" in capsys.readouterr().out


def test_calibrating_again_gives_the_same(run, capsys):
    first = printed(capsys, "evaluate", run, "--calibrate", "--json")
    assert "has calibration.json and reliability.png already" in refused(capsys, "evaluate", run, "--calibrate")
    assert printed(capsys, "evaluate", run, "--calibrate", "--json", "--overwrite") == first


def test_a_temperature_that_does_harm_gets_a_warning(run, monkeypatch, capsys):
    module = importlib.import_module("encapkeras.analysis.calibrate")
    monkeypatch.setattr(module, "fit_temperature", lambda *_: 50.0)
    assert main(["evaluate", str(run), "--calibrate"]) == 0
    assert "the probabilities of the test images are worse with this temperature" in capsys.readouterr().err


def test_runs_that_cannot_be_calibrated(run, tmp_path, capsys):
    assert "leave out --split and --change" in refused(capsys, "evaluate", run, "--calibrate", "--split", "validation")
    content = (run / "checkpoints/best.keras").read_bytes()
    (run / "results.json").unlink()
    assert "is unfinished, and would not resume with a changed checkpoint" in refused(
        capsys, "evaluate", run, "--calibrate"
    )
    assert (run / "checkpoints/best.keras").read_bytes() == content
    assert not (run / "analysis").exists()


def test_a_run_without_validation_images(tmp_path, capsys):
    spec = tiny_spec(epochs=1)
    spec["data"]["validation"] = 0
    run = trained(tmp_path, spec)
    capsys.readouterr()
    assert refused(capsys, "evaluate", run, "--calibrate").endswith(
        f"--calibrate fits on validation images, and run {run} has none (data.validation is 0). Train with "
        "data.validation=0.1\n"
    )
