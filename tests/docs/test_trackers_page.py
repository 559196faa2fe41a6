"""The examples for experiment trackers run, each where its package is installed; CI installs all of them."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys

import pytest
from support.pages import PROJECT, files

PAGE = files(PROJECT / "docs/trackers.md")
SHORT = """
import runpy, sys
from encapkeras.data import Batches
Batches.__len__ = lambda self, whole=Batches.__len__: min(1, whole(self))
runpy.run_path(sys.argv[1], run_name="__main__")
assert "tensorflow" not in sys.modules
"""


@pytest.fixture
def run_example(tmp_path):
    def run(name, package, before=""):
        if importlib.util.find_spec(package) is None and not os.environ.get("CI"):
            pytest.skip(f"{package} is not installed")
        (tmp_path / name).write_text(PAGE[name])
        quiet = {"WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        done = subprocess.run(
            [sys.executable, "-c", before + SHORT, name],
            cwd=tmp_path,
            env={**os.environ, **quiet},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.mark.slow
def test_optuna_searches(run_example, tmp_path):
    prune = "import optuna; optuna.Trial.should_prune = lambda self: self.number == 2"
    done = run_example("search.py", "optuna", prune)
    assert "learning_rate" in done.stdout
    assert done.stderr.count(" finished with value") == 2, done.stderr
    assert "Trial 2 pruned." in done.stderr
    assert not (tmp_path / "runs/search/2/results.json").exists()
    assert (tmp_path / "runs/search/2/metrics.csv").read_text().count("\n") == 2
    assert json.loads((tmp_path / "runs/search/0/results.json").read_text())["best_epoch"] in (1, 2)


@pytest.mark.slow
def test_mlflow_has_metrics_and_settings(run_example, tmp_path):
    run_example("with_mlflow.py", "mlflow")
    store = sqlite3.connect(tmp_path / "mlflow.db")
    try:
        steps = store.execute("select step from metrics where key = 'val_accuracy' order by step").fetchall()
        settings = dict(store.execute("select key, value from params").fetchall())
    finally:
        store.close()
    assert steps == [(1,), (2,)]
    assert (settings["dataset"], settings["optimizer"], settings["epochs"]) == ("digits", "adam", "2")
    assert list(tmp_path.glob("mlruns/**/best.keras"))


@pytest.mark.slow
def test_wandb_writes_an_offline_run(run_example, tmp_path):
    run_example("with_wandb.py", "wandb")
    [run] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    written = run.read_bytes()
    assert b"val_accuracy" in written
    assert b"learning_rate" in written
