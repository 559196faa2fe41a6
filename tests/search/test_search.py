"""`encapkeras search` draws, trains and prunes; a search that was killed goes on with the same trials."""

import csv
import json
import re
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState
from support.commands import interrupted, refused
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python

from encapkeras import load_spec
from encapkeras.cli.main import main
from encapkeras.comparison.choice import DEFAULT
from encapkeras.errors import ArgumentError, DataError, DistributionError, RunFolderError, SpecError, TrainingError
from encapkeras.search import search as module
from encapkeras.search.search import ReportValue, search
from encapkeras.search.space import Space
from encapkeras.search.study import equal_trial, next_trial

UNITS, RATE = "model.nodes.hidden.units", "train.optimizer.learning_rate"
SWEEP = {"ranges": {RATE: {"low": 0.001, "high": 0.1, "log": True}}, "grid": {UNITS: [4, 8]}}


def searched(sweep=SWEEP, **train):
    return {**tiny_spec(**{"epochs": 1, **train}), "sweep": sweep}


@pytest.fixture
def trainings(monkeypatch):
    """Stand-ins for trainings: their folders; the learning rate gives accuracy and loss, which are high together."""
    done = []

    def pretend(spec, run_dir, resume, callbacks):
        assert resume
        done.append(run_dir.name)
        (report,) = callbacks
        accuracy = 1 - abs(0.02 - spec.train.optimizer.learning_rate)
        for epoch in range(spec.train.epochs):
            part = (epoch + 1) / spec.train.epochs
            report.on_epoch_end(epoch, {"val_accuracy": accuracy * part, "val_loss": accuracy * (2 - part)})
        return {"validation_accuracy": accuracy, "validation_loss": accuracy}

    monkeypatch.setattr(module, "train", pretend)
    return done


def table(folder):
    with (folder / "study.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_real_trainings_are_recorded(tmp_path, capsys):
    folder = tmp_path / "search"
    spec = write_spec(tmp_path, searched())
    assert main(["search", str(spec), "--trials", "2", "--run-dir", str(folder)]) == 0
    rows = table(folder)
    assert [row["state"] for row in rows] == ["finished", "finished"]
    for row in rows:
        run = folder / f"trial_{int(row['trial']):03}"
        results = json.loads((run / "results.json").read_text())
        assert float(row["validation accuracy"]) == pytest.approx(results["validation_accuracy"], abs=1e-4)
    assert (folder / "study.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    best = re.search(r"Train the best one as a run of its own with:\n(.*)\n", printed)[1]
    assert best.startswith(f"encapkeras train {spec} --set sweep=null --set {RATE}=")
    assert "| trial | learning\\_rate | units |".replace("\\", "") in (folder / "study.md").read_text().replace(
        "\\", ""
    )


def test_optuna_reads_the_study(trainings, tmp_path):
    trials = search(searched(), trials=3, run_dir=tmp_path / "s")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 's' / 'study.db'}")
    assert study.best_value == trials[0].value == max(trial.value for trial in trials)
    study._storage._backend.engine.dispose()


def test_the_same_spec_and_seed_give_the_same_trials_and_another_seed_others(trainings, tmp_path):
    first, again, other = (
        search(searched(seed=seed), trials=4, run_dir=tmp_path / name)
        for name, seed in zip("abc", (0, 0, 1), strict=True)
    )
    assert [trial.params for trial in first] == [trial.params for trial in again]
    assert [trial.params for trial in first] != [trial.params for trial in other]


@pytest.mark.parametrize("ended", [0, 1, 7])
def test_a_search_that_was_killed_goes_on_with_the_same_trials(ended, trainings, monkeypatch, tmp_path):
    """Killed in training: nothing of that trial is in the study yet, and its run is resumed."""
    whole = search(searched(), trials=8, run_dir=tmp_path / "whole")
    pretend = module.train

    def killed(spec, run_dir, **others):
        if run_dir.name == f"trial_{ended:03}":
            raise MemoryError
        return pretend(spec, run_dir, **others)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(module, "train", killed)
        search(searched(), trials=8, run_dir=tmp_path / "parts")
    resumed = search(searched(), trials=8, run_dir=tmp_path / "parts", resume=True)
    assert [(t.number, t.params, t.value, t.state) for t in resumed] == [
        (t.number, t.params, t.value, t.state) for t in whole
    ]
    assert (tmp_path / "parts" / "study.csv").read_text() == (tmp_path / "whole" / "study.csv").read_text()


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    """Killed in the second epoch of the second trial."""
    spec = write_spec(tmp_path, searched(epochs=3))
    command = [*warm_python(), "-m", "encapkeras", "search", str(spec), "--trials", "3", "--run-dir"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    epochs = 0
    killed = [sys.executable, *command[len(warm_python()) :], str(tmp_path / "parts")]  # dead at once
    with subprocess.Popen(killed, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            epochs += line.startswith("epoch ")
            if epochs == 5:
                process.kill()
                break
    assert len(table(tmp_path / "parts")) == 1
    assert main(["search", str(spec), "--trials", "3", "--resume", str(tmp_path / "parts")]) == 0
    for name in ("study.csv", "trial_001/metrics.csv", "trial_002/metrics.csv"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.slow
def test_ctrl_c_says_how_to_continue(tmp_path):
    spec = write_spec(tmp_path, searched(epochs=3))
    folder = tmp_path / "s"
    command = [*warm_python(), "-m", "encapkeras", "search", str(spec), "--trials", "3", "--run-dir", str(folder)]
    stopped = interrupted(command, "epoch ")
    assert stopped.returncode == 130
    last = stopped.message.splitlines()[-1]
    again = f"Continue with the same command and --resume {folder}, in the place of --run-dir"
    assert last.endswith(f"0 of 3 trials are finished. {again}")


def test_a_finished_search_can_have_more_trials(trainings, tmp_path):
    search(searched(), trials=2, run_dir=tmp_path / "s")
    trials = search(searched(), trials=3, run_dir=tmp_path / "s", resume=True)
    assert sorted(trial.number for trial in trials) == [0, 1, 2]
    assert trainings == ["trial_000", "trial_001", "trial_002"]


def test_bad_trials_are_pruned_by_all_their_epochs(trainings, monkeypatch, tmp_path):
    trials = search(searched(epochs=8), trials=12, run_dir=tmp_path / "s")
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned and all(trial.number >= 5 for trial in pruned)
    assert all(2 <= len(trial.intermediate_values) < 8 for trial in pruned)
    assert "pruned" in (tmp_path / "s" / "study.md").read_text()
    everything = search(searched(epochs=8), trials=12, run_dir=tmp_path / "t", prune=False)
    assert {trial.state for trial in everything} == {TrialState.COMPLETE}


def test_a_resumed_training_is_judged_by_the_epochs_before():
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    before = [next_trial([], space, 0, None, DEFAULT)]
    report = ReportValue(before[0], DEFAULT)
    report.values = {1: 0.5, 2: 0.75}  # as the resume state has them
    report.on_epoch_end(2, {"val_accuracy": 0.625})
    assert before[0].study.trials[0].intermediate_values == {1: 0.5, 2: 0.75, 3: 0.625}


def test_a_trial_that_fails_is_noted_and_the_others_go_on(trainings, monkeypatch, tmp_path, capsys):
    pretend = module.train

    def fail_first(spec, run_dir, **others):
        if run_dir.name == "trial_000":
            raise TrainingError("the loss is not finite")
        return pretend(spec, run_dir, **others)

    monkeypatch.setattr(module, "train", fail_first)
    folder, spec = tmp_path / "s", write_spec(tmp_path, searched())
    assert main(["search", str(spec), "--trials", "1", "--run-dir", str(folder)]) == 2
    assert main(["search", str(spec), "--trials", "2", "--resume", str(folder)]) == 0
    assert [(row["state"], row["error"]) for row in table(folder)] == [
        ("finished", ""),
        ("failed", "the loss is not finite"),
    ]


@pytest.mark.parametrize("error", [RunFolderError, DataError, DistributionError])
def test_an_error_of_the_machine_ends_the_search_and_its_trial_is_resumed(error, trainings, monkeypatch, tmp_path):
    folder = tmp_path / "s"

    def fail(*arguments, **others):
        raise error("the disk is full. Continue with: train(...)")

    with monkeypatch.context() as patch, pytest.raises(error) as caught:
        patch.setattr(module, "train", fail)
        search(searched(), trials=2, run_dir=folder)
    advice = f"Continue with the same command and --resume {folder}, in the place of --run-dir"
    assert str(caught.value) == f"the disk is full. 0 of 2 trials are finished. {advice}"
    assert {trial.state for trial in search(searched(), trials=2, run_dir=folder, resume=True)} == {TrialState.COMPLETE}
    assert trainings == ["trial_000", "trial_001"]


@pytest.mark.parametrize("select", ["val_accuracy", "val_loss"])
def test_trials_are_compared_by_the_metric_that_chooses_epochs(select, trainings, tmp_path):
    trials = search(searched(epochs=8, select=select), trials=12, run_dir=tmp_path / "s")
    finished = [trial.value for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [trial.intermediate_values for trial in trials if trial.state == TrialState.PRUNED]
    words, best = ("lowest validation loss", min) if select == "val_loss" else ("highest validation accuracy", max)
    assert finished == sorted(finished, reverse=best is max)
    assert pruned and all(best(*values.values(), finished[0]) == finished[0] for values in pruned)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 's' / 'study.db'}")
    assert study.best_value == finished[0]
    study._storage._backend.engine.dispose()
    column = [float(row[words.partition(" ")[2]]) for row in table(tmp_path / "s")]
    assert column[: len(finished)] == pytest.approx(finished, abs=1e-4)
    assert column[len(finished) :] == pytest.approx([best(values.values()) for values in pruned], abs=1e-4)
    assert f"The {words} of all epochs decides" in (tmp_path / "s" / "study.md").read_text()


def test_trials_with_masks_are_compared_by_their_mean_iou():
    spec = load_spec("shapes_capsules", ["sweep={grid: {train.epochs: [1, 2]}}"])
    assert Space.of(spec).choice.log == "val_mean_iou"


def test_equal_draws_are_trained_once(trainings, tmp_path):
    trials = search(searched({"grid": {UNITS: [4, 8]}}), trials=4, run_dir=tmp_path / "s")
    assert len(trainings) == 2
    assert len({trial.value for trial in trials}) == 1  # the stand-in depends on the rate alone
    assert sum("equal_to" in trial.user_attrs for trial in trials) == 2
    assert equal_trial([], next_trial([], {}, 0, None, DEFAULT)) is None


def test_what_cannot_be_searched(tmp_path):
    def refuses(match, spec, error=ArgumentError, **others):
        with pytest.raises(error, match=match):
            search(spec, run_dir=tmp_path / "s", **others)
        assert not (tmp_path / "s").exists()

    refuses("has no sweep to draw from", tiny_spec())
    refuses("has a 'list'", searched({"list": [{UNITS: 4}]}))
    refuses("has 'seeds'", searched({**SWEEP, "seeds": 2}))
    refuses("at least 1 trial; received 0", searched(), trials=0)
    by_others = searched({"grid": {"train.select": ["val_accuracy", "val_auc"]}})
    refuses("their validation accuracy; with some values of the sweep it would be their validation AUC", by_others)
    refuses("has no validation part", {**searched(), "data": {"dataset": "digits", "validation": 0}})
    refuses("must be greater than 0", searched({"ranges": {"train.epochs": {"low": 0, "high": 3}}}), SpecError)
    refuses("low must be below high", searched({"ranges": {RATE: {"low": 1, "high": 0.1}}}), SpecError)


def test_folders_that_are_refused(trainings, tmp_path):
    search(searched(), trials=1, run_dir=tmp_path / "s")
    with pytest.raises(RunFolderError, match=r"already holds a search. Continue it with --resume"):
        search(searched(), trials=2, run_dir=tmp_path / "s")
    with pytest.raises(RunFolderError, match="is not the folder of a search"):
        search(searched(), trials=2, run_dir=tmp_path / "gone", resume=True)
    with pytest.raises(RunFolderError, match=r"is another one: spec.train.epochs is 1 there and 2 here"):
        search(searched(epochs=2), trials=2, run_dir=tmp_path / "s", resume=True)
    (tmp_path / "s" / "study.db").write_bytes(b"SQLite format 3\0 and nothing more")
    with pytest.raises(RunFolderError, match=r"study.db cannot be read as a study"):
        search(searched(), trials=2, run_dir=tmp_path / "s", resume=True)


def test_no_lock_is_left(trainings, monkeypatch, tmp_path):
    search(searched(), trials=1, run_dir=tmp_path / "s")
    assert not (tmp_path / "s" / ".lock").exists()

    def fail(*arguments):
        raise RunFolderError("the disk is full")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "StudyFile", fail)
    with pytest.raises(RunFolderError, match="the disk is full"):
        search(searched(), trials=1)
    assert not (tmp_path / "runs").exists()


def test_the_command_says_that_optuna_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused(capsys, "search", write_spec(tmp_path, searched()))
    assert message == "a search needs Optuna: pip install 'encapkeras[search]'\n"


def test_compare_leaves_ranges_to_search(tmp_path, capsys):
    message = refused(capsys, "compare", write_spec(tmp_path, searched()), "--run-dir", tmp_path / "c")
    assert "has sweep.ranges, from which 'encapkeras search' draws" in message
