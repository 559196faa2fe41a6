"""`train.py SPEC` under torchrun, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.commands import started
from support.dataset_files import write_image_folder
from support.processes import ENVIRONMENT, children, largest_difference, rows, wait_for
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python, warm_torchrun

from encapkeras import load_model

ROOT = Path(__file__).parents[2]


def command(processes, *words, script=ROOT / "train.py", restarts=0):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    options = [f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    return [sys.executable, *([*launcher, *options] if processes else []), str(script), *map(str, words)]


def warm_command(processes, *words, script=ROOT / "train.py"):
    launcher = warm_torchrun(processes, "--max-restarts=0", "--monitor-interval=0.1") if processes else warm_python()
    return [*launcher, str(script), *map(str, words)]


def ran(processes, *words, code=0, environment=ENVIRONMENT, **options):
    """What the processes said."""
    started = (command if "KERAS_HOME" in environment else warm_command)(processes, *words, **options)
    done = subprocess.run(started, env=environment, capture_output=True, text=True, timeout=300)
    assert bool(done.returncode) == bool(code), done.stdout + done.stderr[-4000:]
    return done


def assert_same_figures(one, other, tolerance):
    assert len(rows(one)) == len(rows(other)) > 0
    for row, same in zip(rows(one), rows(other), strict=True):
        assert row.keys() == same.keys()
        for name, value in row.items():
            assert float(value) == pytest.approx(float(same[name]), abs=tolerance), name


def without_dropout(**train):
    spec = tiny_spec(**{"optimizer": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9}, **train})
    spec["model"]["nodes"]["drop"]["rate"] = 0.0
    return spec


def test_a_spec_is_trained_by_two_processes_as_by_one(tmp_path):
    augmented = {"augment": {"resize": 34, "crop": True, "brightness": 0.2}}
    spec = without_dropout(ema={"momentum": 0.9}, early_stopping={"patience": 2})
    spec["data"].update(augmented)
    path = write_spec(tmp_path, spec)
    alone, two = tmp_path / "alone", tmp_path / "two"
    ran(0, path, "--run-dir", alone)
    said = ran(2, path, "--run-dir", two).stdout
    assert largest_difference(alone, two) < 1e-5
    assert_same_figures(alone, two, 1e-4)
    assert said.count("epoch 2/2") == said.count("test accuracy") == said.count("run folder") == 1
    assert "2 processes, each with 64 images of a batch" in said
    files = [{path.relative_to(run).parts[0] for path in run.rglob("*")} for run in (alone, two)]
    assert files[0] == files[1]
    assert len(list((two / "tensorboard").glob("events.out.tfevents.*"))) == 2  # HParams are in a file of their own
    results = [json.loads((run / "results.json").read_text()) for run in (alone, two)]
    assert results[0]["test_accuracy"] == pytest.approx(results[1]["test_accuracy"], abs=0.003)
    assert json.loads((two / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_a_capsule_network_is_trained_by_two_processes_as_by_one(tmp_path):
    settings = {
        "vars.types": 4,
        "vars.sub_layers": 1,
        "data.subset": 150,
        "data.batch_size": 32,
        "train.epochs": 2,
        "train.optimizer": "{kind: sgd, learning_rate: 0.005}",
        "train.schedule": "{kind: constant}",
        "train.sync_batch_norm": "true",
        "train.accumulate": 2,
        "train.clip_norm": 1.0,
    }
    words = ["encapnet_ot_digits", *(word for item in settings.items() for word in ("--set", "{}={}".format(*item)))]
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": "float64", "backend": "torch"}))
    float64 = {**ENVIRONMENT, "KERAS_HOME": str(tmp_path)}
    ran(0, *words, "--run-dir", tmp_path / "alone", environment=float64)
    ran(2, *words, "--run-dir", tmp_path / "two", environment=float64)
    assert largest_difference(tmp_path / "alone", tmp_path / "two") < 1e-11


@pytest.mark.slow
def test_a_network_of_keras_is_trained_by_two_processes_as_by_one(tmp_path):
    settings = {
        "data.subset": 150,
        "model.nodes.trunk.until": "conv_pw_3_relu",
        "model.nodes.trunk.expect": "null",
        "model.nodes.trunk.trainable": "[conv_pw_3*]",
        "train.epochs": 2,
        "train.learning_rates": "{trunk: 0.1}",
        "train.ema": "{momentum: 0.9}",
        "train.sync_batch_norm": "true",
    }
    words = ["mobilenet_digits", *(word for item in settings.items() for word in ("--set", "{}={}".format(*item)))]
    ran(0, *words, "--run-dir", tmp_path / "alone")
    ran(2, *words, "--run-dir", tmp_path / "two")
    assert largest_difference(tmp_path / "alone", tmp_path / "two") < 1e-5
    assert_same_figures(tmp_path / "alone", tmp_path / "two", 1e-4)
    models = [load_model(tmp_path / run / "checkpoints/last.keras") for run in ("alone", "two")]
    frozen = [model.get_layer("trunk").network.get_layer("conv1_bn").get_weights() for model in models]
    assert all(map(np.array_equal, *frozen))  # its statistics are those that it began with, to the bit


@pytest.mark.slow
def test_image_files_are_decoded_by_parts(tmp_path):
    write_image_folder(tmp_path / "images", {"train": 9, "test": 4})
    spec = without_dropout()
    spec["model"]["nodes"]["pool"]["pool_size"] = 1
    data = {"dataset": "image_folder", "root": str(tmp_path / "images"), "batch_size": 4, "image_size": 16}
    spec["data"] = {**data, "workers": 1, "validation": 0.25, "augment": {"mirror": True}}
    path = write_spec(tmp_path, spec)
    ran(0, path, "--run-dir", tmp_path / "alone")
    ran(2, path, "--run-dir", tmp_path / "two")
    assert largest_difference(tmp_path / "alone", tmp_path / "two") < 1e-5
    assert_same_figures(tmp_path / "alone", tmp_path / "two", 1e-4)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_by_itself(tmp_path):
    path = write_spec(tmp_path, tiny_spec(epochs=6, resume_state={"minutes": 1e-9}))
    ran(2, path, "--run-dir", tmp_path / "whole")
    words = command(2, path, restarts=1)
    with started(words, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as torchrun:
        parts = wait_for(lambda: third_epoch(tmp_path / "runs/tiny"))
        os.kill(children(torchrun)[-1], signal.SIGKILL)
        said, _ = torchrun.communicate(timeout=300)
    assert torchrun.returncode == 0
    assert "resumes at " in said
    assert largest_difference(tmp_path / "whole", parts) == 0
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (parts / "metrics.csv").read_bytes()
    assert len(list(tmp_path.glob("**/metrics.csv"))) == 2  # no run was begun a second time


@pytest.mark.slow
def test_ctrl_c_ends_all_after_the_step_and_the_run_goes_on(tmp_path):
    path = write_spec(tmp_path, tiny_spec(epochs=200))
    parts = tmp_path / "parts"
    options = {"env": ENVIRONMENT, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with started(command(2, path, "--run-dir", parts), **options) as torchrun:
        wait_for(lambda: len(rows(parts)) > 2 if (parts / "metrics.csv").is_file() else None)
        os.killpg(torchrun.pid, signal.SIGINT)  # as a terminal does: to torchrun and to its processes
        _, said = torchrun.communicate(timeout=60)
    assert said.count("ended by SIGINT at ") == 1
    done = len(rows(parts))
    assert "resumes at" in ran(2, "--resume", parts, "--set", f"train.epochs={done + 3}").stdout
    assert len(rows(parts)) == done + 3


def third_epoch(runs):
    """The run in which that epoch has begun. Only its own folder is read: files beside it come and go."""
    states = runs.glob("*/checkpoints/resume/epoch_3_step_*.pt")
    return next((state.parents[2] for state in states), None)


@pytest.mark.slow
def test_batches_that_cannot_be_divided_are_refused_before_anything_is_written(tmp_path):
    path = write_spec(tmp_path, tiny_spec())
    said = ran(3, path, "--run-dir", tmp_path / "run", code=2).stderr
    assert said.count("128 images cannot be divided equally among 3. Set it to 126 or 129, or start one of 1, 2,") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mistake_is_told_once(tmp_path):
    path = write_spec(tmp_path, tiny_spec(epochz=3))
    said = ran(2, path, code=2).stderr
    assert said.count("Did you mean 'epochs'?") == 1
    assert said.count("1 error found") == 1
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.txt").touch()
    said = ran(2, write_spec(tmp_path, tiny_spec()), "--run-dir", occupied, code=2).stderr
    assert said.count("holds files that do not belong to a run") == 1


def failed(out, *options, code=2):
    return ran(2, out, *options, script=Path(__file__).with_name("failing_together.py"), code=code)


@pytest.mark.slow
def test_a_bad_batch_of_one_process_is_left_out_by_all(tmp_path):
    said = failed(tmp_path, "--nan-in", 1, "--left-out", code=0).stderr
    assert said.count("skipped: the loss became nan in epoch 1, step 3 (1 of at most 1). The batch is in") == 1
    first, second = (np.load(tmp_path / f"rank_{rank}.npz") for rank in (0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        assert np.isfinite(first[name]).all()
    assert first["left_out"].tolist() == [[1, 3]]
    part = np.load(tmp_path / "bad" / "epoch_1_step_3.npz")["x"]
    assert np.isnan(part).any()
    assert len(part) == 5  # what the process with the bad image had


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_bad_batch_of_one_process_ends_all_and_its_cause_is_told_once(tmp_path, process):
    said = failed(tmp_path, "--nan-in", process).stderr
    sample = (23, 27)[process] - 20 - 5 * process
    assert said.count("the loss became nan in epoch 1, step 3: the input 'image' of 1 of 5 samples is not finite") == 1
    assert said.count(f"first that of sample {sample}.") == 1
    assert said.count("process 0 says") == 1
    assert "process 1 says" not in said


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_told_once(tmp_path):
    said = failed(tmp_path, "--refuses").stderr
    assert said.count("process 1 says: this machine has no data") == 1
    assert "process 0 says" not in said


@pytest.mark.slow
def test_a_process_that_is_killed_is_noticed(tmp_path):
    said = failed(tmp_path, "--killed").stderr
    assert said.count("process 0 says: process 0 of 2 has lost the others") == 1
    assert "__main__" not in said.partition("Root Cause")[0].rpartition("process 0 says")[0]


REFUSES_IN_THE_SECOND = """
import importlib
import os
import sys

from encapkeras.cli.main import main
from encapkeras.errors import TrainingError


def refuse(*arguments):
    raise TrainingError("no room here")


if os.environ.get("RANK") == "1":
    importlib.import_module("encapkeras.training.train").check_fits = refuse
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_a_run_is_not_replaced_where_one_process_refuses_to_start(tmp_path):
    path, run, script = write_spec(tmp_path, without_dropout(epochs=1)), tmp_path / "run", tmp_path / "refuses.py"
    ran(0, path, "--run-dir", run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    script.write_text(REFUSES_IN_THE_SECOND)
    said = ran(2, path, "--run-dir", run, "--overwrite", code=2, script=script)
    assert said.stderr.count("no room here") == 1
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


DIFFERS_IN_THE_SECOND = """
import os
import sys

from encapkeras.cli.main import main

words = ["--set", sys.argv[1]] if os.environ.get("RANK") == "1" else []
sys.exit(main(["train", *sys.argv[2:], *words]))
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.optimizer.learning_rate=0.2", "train.optimizer.learning_rate is 0.1 there and 0.2 here"),
        ("model.nodes.hidden.units=16", "model.nodes.hidden.units is 32 there and 16 here"),
    ],
)
@pytest.mark.slow
def test_processes_with_another_spec_are_refused(tmp_path, change, said):
    path, script = write_spec(tmp_path, without_dropout(epochs=1)), tmp_path / "differs.py"
    script.write_text(DIFFERS_IN_THE_SECOND)
    done = ran(2, change, path, "--run-dir", tmp_path / "run", code=2, script=script)
    assert done.stderr.count(f"process 1 of 2 (here) has another spec than the first (there): {said}") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_with_other_images_are_refused(tmp_path):
    for rank in (0, 1):
        write_image_folder(tmp_path / f"images_{rank}", {"train": 9, "test": 4 + rank})
    spec = without_dropout(epochs=1)
    spec["data"] = {"dataset": "image_folder", "root": str(tmp_path / "images_0"), "batch_size": 4, "image_size": 32}
    path, script = write_spec(tmp_path, spec), tmp_path / "differs.py"
    script.write_text(DIFFERS_IN_THE_SECOND)
    words = [f"data.root={tmp_path / 'images_1'}", path, "--run-dir", tmp_path / "run"]
    said = ran(2, *words, code=2, script=script).stderr
    assert said.count("process 1 of 2 (here) has other images than the first (there): 12 test images there, 15") == 1
    assert not (tmp_path / "run").exists()
