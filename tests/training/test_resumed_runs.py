import json
import shutil
import subprocess
import sys

import keras
import pytest
from support.commands import refused
from support.killed_training import differences, killed_and_resumed, trained_in_one_go
from support.tiny_spec import tiny_spec, write_spec

from encapkeras import load_spec
from encapkeras.callbacks import MetricsFile
from encapkeras.cli.main import main
from encapkeras.errors import ArgumentError
from encapkeras.training import train


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("rebalanced", [False, True])
def test_train_goes_on_with_the_run_in_a_folder(tmp_path, monkeypatch, capsys, rebalanced):
    content = tiny_spec(epochs=3, resume_state={"minutes": 1e-9})
    if rebalanced:
        content["data"]["balance"] = True
        content["train"] |= {"class_weights": {"3": 2.5}, "select": "val_auc"}
    spec = write_spec(tmp_path, content)
    assert main(["train", str(spec), "--run-dir", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "on_epoch_end", _killed)
        with pytest.raises(Killed):
            main(["train", str(spec), "--resume", str(tmp_path / "parts")])
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "parts")]) == 0
    assert "resumes at epoch 1, step 11" in capsys.readouterr().out
    assert differences_of_tiny(tmp_path / "whole", tmp_path / "parts") == []
    assert not (tmp_path / "parts/checkpoints/resume").exists()
    [resumed] = json.loads((tmp_path / "parts/environment.json").read_text())["resumed"]
    assert resumed["changes"] == []


def _killed(*arguments, **options):
    raise Killed


def differences_of_tiny(whole, parts):
    files = [(run / "metrics.csv").read_bytes() for run in (whole, parts)]
    weights = [
        [weight.numpy().tobytes() for weight in keras.saving.load_model(run / "checkpoints/last.keras").weights]
        for run in (whole, parts)
    ]
    return [name for name, pair in {"metrics": files, "weights": weights}.items() if pair[0] != pair[1]]


def test_a_finished_run_tells_its_figures(tmp_path, capsys):
    spec = load_spec(tiny_spec(epochs=1))
    results = train(spec, tmp_path / "run")
    assert train(spec, tmp_path / "run", resume=True) == results
    assert "is finished already" in capsys.readouterr().out


def cut_short(tmp_path, monkeypatch, **settings):
    """A run folder whose training ended in its first validation."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MetricsFile, "on_epoch_end", _killed)
        train(load_spec(tiny_spec(**settings)), tmp_path / "run")
    return tmp_path / "run"


def test_settings_of_the_training_may_change(tmp_path, monkeypatch, capsys):
    run = cut_short(tmp_path, monkeypatch)
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--set", "train.clip_norm=1.5"]) == 0
    change = "train.clip_norm is null there and 1.5 here"
    assert f"changed since the run was started: {change}" in capsys.readouterr().out
    assert json.loads((run / "environment.json").read_text())["resumed"][0]["changes"] == [change]
    assert load_spec(run / "spec.yaml").train.clip_norm == 1.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.batch_size=32", "data.batch_size is 128 there and 32 here"),
        ("model.nodes.hidden.units=16", "model.nodes.hidden.units is 32 there and 16 here"),
        ("train.seed=1", "train.seed is 0 there and 1 here"),
        ("train.early_stopping={patience: 2}", "train.early_stopping"),
        ("train.ema={momentum: 0.5}", "variables of its optimizer; this one has"),
        ("train.optimizer={kind: rmsprop, beta_1: null, beta_2: null}", "train.optimizer.kind is 'adam' there"),
    ],
)
def test_the_network_and_the_data_may_not_change(tmp_path, monkeypatch, capsys, change, told):
    run = cut_short(tmp_path, monkeypatch)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--set", change]) == 2
    assert told in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_what_resume_cannot_be_told(tmp_path, capsys):
    assert "train needs a spec" in refused(capsys, "train")
    assert "leave out --run-dir" in refused(capsys, "train", "--resume", tmp_path / "a", "--run-dir", tmp_path / "b")
    assert "is not a folder" in refused(capsys, "train", "--resume", tmp_path / "none")
    with pytest.raises(ArgumentError, match="needs the run's folder"):
        train(load_spec(tiny_spec()), resume=True)


def test_another_learning_rate_counts_from_where_the_run_goes_on(tmp_path, monkeypatch):
    run = cut_short(tmp_path, monkeypatch, epochs=2)
    assert main(["train", "--resume", str(run), "--set", "train.optimizer.learning_rate=0.0005"]) == 0
    first, second = (row.split(",")[-1] for row in (run / "metrics.csv").read_text().splitlines()[1:])
    assert (float(first), float(second)) == pytest.approx((0.0005, 0.0005))


def test_a_run_that_has_lost_its_states_is_neither_continued_nor_replaced(tmp_path, monkeypatch, capsys):
    run = cut_short(tmp_path, monkeypatch)
    shutil.rmtree(run / "checkpoints/resume")
    capsys.readouterr()
    assert "has no resume state, though there are weights" in refused(capsys, "train", "--resume", run)
    assert (run / "checkpoints/last.keras").is_file()


def test_a_run_that_is_refused_in_the_end_is_not_noted_as_resumed(tmp_path, monkeypatch, capsys):
    run = cut_short(tmp_path, monkeypatch, resume_state={"minutes": 1e-9})
    for file in (run / "tensorboard").glob("events*"):
        file.write_bytes(b"")
    before = {name: (run / name).read_bytes() for name in ("environment.json", "spec.yaml")}
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--set", "train.clip_norm=1.5"]) == 2
    said = capsys.readouterr().err
    assert "has 0 bytes; when the training was saved it had" in said
    assert f"The weights of earlier epochs are saved in {run / 'checkpoints'}" in said
    assert {name: (run / name).read_bytes() for name in before} == before
    (run / "metrics.csv").symlink_to(tmp_path / "victim")
    assert "metrics.csv is a symbolic link" in refused(capsys, "train", "--resume", run)
    assert not (tmp_path / "victim").exists()


def test_a_training_that_failed_leaves_its_folder_free(tmp_path, monkeypatch):
    run = cut_short(tmp_path, monkeypatch)
    code = "import sys; from pathlib import Path; from encapkeras.training.run.run_folder import RunFolder; "
    code += f"RunFolder({str(run)!r}).hold()"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("left", [["environment.json"], ["environment.json", "spec.yaml"]])
def test_a_run_that_was_killed_before_it_saved_anything_begins_anew(tmp_path, left):
    spec = load_spec(tiny_spec(epochs=1))
    train(spec, tmp_path / "run")
    run = tmp_path / "begun"
    run.mkdir()
    for name in left:
        shutil.copy(tmp_path / "run" / name, run)
    assert train(spec, run, resume=True)["best_epoch"] == 1


def test_fewer_epochs_than_there_were_are_refused(tmp_path, monkeypatch, capsys):
    run = cut_short(tmp_path, monkeypatch, resume_state={"minutes": 1e-9})
    assert main(["train", "--resume", str(run), "--set", "train.epochs=1"]) == 0  # it is in the first
    run = cut_short(tmp_path / "again", monkeypatch, epochs=1, resume_state={"minutes": 1e-9})
    (run / "checkpoints/resume/epoch_1_step_11.pt").rename(run / "checkpoints/resume/epoch_3_step_1.pt")
    capsys.readouterr()
    assert "has reached epoch 3, step 1, beyond the 1 epochs" in refused(capsys, "train", "--resume", run)


@pytest.mark.slow
def test_a_training_that_was_killed_at_any_moment_ends_as_if_it_was_not(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    killed_and_resumed(parts, 5, trained_in_one_go(whole, 5), seed=1)
    assert differences(whole, parts) == []
