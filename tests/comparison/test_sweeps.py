"""Sweeps: `compare` trains the networks of a spec's sweep, and TensorBoard's HParams shows them."""

import csv
import importlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support.commands import interrupted
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from encapkeras import load_spec
from encapkeras.comparison.compare import compare
from encapkeras.comparison.plan import make_plan
from encapkeras.comparison.result import Comparison
from encapkeras.errors import ArgumentError, EncapkerasError, RunFolderError, SpecError, TrainingError
from encapkeras.training import train

MODULE = importlib.import_module("encapkeras.comparison.compare")  # the package has the function under this name

UNITS, RATE = "model.nodes.hidden.units", "train.optimizer.learning_rate"
METRICS = {f"results/{name}" for name in ("best validation accuracy", "test accuracy", "final loss")}


def swept(name="tiny", seeds=2, **sweep):
    content = {**tiny_spec(epochs=1), "name": name}
    content["sweep"] = sweep or {"grid": {UNITS: [8, 16], RATE: [0.001, 0.01]}}
    return content if seeds is None else {**content, "sweep": {**content["sweep"], "seeds": seeds}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two networks with two seeds, the second network so that it fails."""
    path = tmp_path_factory.mktemp("swept") / "comparison"
    rows = [{UNITS: 8}, {UNITS: 16, "train.optimizer": {"kind": "sgd", "learning_rate": 1e30}, "train.epochs": 2}]
    return compare([swept(list=[*rows, {UNITS: 4, "train.clip_norm": 1}], seeds=[0, 5])], run_dir=path), path


@pytest.fixture
def trainings(monkeypatch):
    """What is trained, in order: units, learning rate, seed; nothing is."""
    done = []

    def record(spec, run_dir, overwrite, resume):
        done.append((spec.resolved["model"]["nodes"]["hidden"]["units"], Path(run_dir).name, spec.train.seed))
        raise TrainingError("not trained")

    monkeypatch.setattr(MODULE, "train", record)
    return done


def rows_of(file):
    return list(csv.DictReader(io.StringIO(file.read_text())))


def of_run(folder):
    """Hyperparameters, metrics and columns of a run, as TensorBoard's own reader finds them."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    content = events.PluginTagToContent("hparams")
    values = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG]).hparams
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    plain = {
        name: value.number_value if value.HasField("number_value") else value.string_value
        for name, value in values.items()
    }
    metrics = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"] if tag in METRICS}
    ended = metadata.SESSION_END_INFO_TAG in content
    return plain, metrics, [info.name for info in experiment.hparam_infos], ended


def test_every_network_is_trained_with_every_seed_of_the_sweep(trainings, tmp_path):
    comparison = compare([swept()], run_dir=tmp_path / "new")
    folders = [f"tiny_units_{units}_learning_rate_{rate}" for units in (8, 16) for rate in (0.001, 0.01)]
    assert trainings == [(int(f.split("_")[2]), f, seed) for seed in (0, 1) for f in folders]
    assert [n.label for n in comparison.networks][:2] == [
        "tiny units=8 learning_rate=0.001",
        "tiny units=8 learning_rate=0.01",
    ]
    assert [n.swept for n in comparison.networks][1] == {UNITS: 8, RATE: 0.01}


def test_given_seeds_go_before_those_of_the_sweep(tmp_path):
    def seeds(*sources, given=None):
        return list(make_plan(sources, given, [], tmp_path).seeds)

    three = swept(list=[{}], seeds=3)
    assert seeds(three) == [0, 1, 2]
    assert seeds(swept(list=[{}], seeds=[7])) == [7]
    assert seeds(three, given=[4]) == [4]
    assert seeds(swept(list=[{}], seeds=None)) == [0, 1, 2]
    assert seeds(swept(list=[{}], seeds=[7]), {**tiny_spec(), "name": "plain"}) == [7]
    with pytest.raises(ArgumentError, match=r"'0, 1, 2'.*'0, 1'.*; choose them with --seeds"):
        seeds(three, swept("b", list=[{}]))


def test_set_is_for_all_networks(trainings, tmp_path):
    compare(
        [swept()], overrides=["sweep.seeds=1", f"sweep.grid.{UNITS}=[4]", "data.batch_size=64"], run_dir=tmp_path / "n"
    )
    assert [units for units, *_ in trainings] == [4, 4]


def test_specs_with_and_without_a_sweep_are_mixed(trainings, tmp_path):
    plain = {**tiny_spec(epochs=3), "name": "tiny"}
    comparison = compare(
        [plain, swept("Tiny", list=[{UNITS: 8}]), swept("c", list=[{}, {RATE: 0.5}])], [0], run_dir=tmp_path / "n"
    )
    assert [n.label for n in comparison.networks] == ["tiny", "Tiny-2 units=8", "c", "c learning_rate=0.5"]
    rows = [list(comparison.cells(row).values())[:3] for row in comparison.rows()]
    assert rows == [["tiny", "-", "-"], ["Tiny-2", "8", "-"], ["c", "-", "0.01"], ["c", "-", "0.5"]]
    assert "Tiny-2 units=8 is &lt;dict&gt;" in comparison.as_markdown()


def test_labels_and_folders_are_distinct_whatever_the_values(trainings, tmp_path):
    texts = ["a/b", "a?b", "../../x", "a|b", "x" * 300]
    content = swept(grid={"data.root": texts}, seeds=1)
    comparison = compare([content], run_dir=tmp_path / "new")
    folders = [Path(run.folder) for run in comparison.runs]
    assert len({folder.name.casefold() for folder in folders}) == 5
    assert all(folder.parent == tmp_path / "new" / "seed_0" and len(folder.name) < 200 for folder in folders)
    table = comparison.as_markdown().splitlines()[:7]
    assert {line.replace("\\|", "").count("|") for line in table} == {13}


def test_a_sweep_that_makes_the_network_of_another_spec(trainings, tmp_path):
    with pytest.raises(ArgumentError, match="are the same spec, 'tiny'"):
        compare([{**tiny_spec(epochs=1), "name": "tiny"}, swept(list=[{}, {UNITS: 8}])], [0], run_dir=tmp_path / "new")


def test_what_cannot_be_trained_is_told_once(trainings, tmp_path):
    content = swept(grid={UNITS: [8, 16], "data.validation": [0, 0.1], "train.early_stopping": [{"patience": 1}]})
    with pytest.raises(EncapkerasError, match=r"data\.validation is 0") as told:
        compare([content, {**tiny_spec(), "name": "wrong", "losses": {}}], run_dir=tmp_path / "new")
    assert str(told.value).count("train.early_stopping watches") == 1
    assert not (tmp_path / "new").exists()


def test_a_mistake_in_a_shared_set_names_the_specs_that_it_belongs_to(tmp_path):
    with_vars = {**tiny_spec(), "name": "b", "vars": {"units": 8}}
    with_vars["model"]["nodes"]["hidden"]["units"] = "$units"
    with pytest.raises(SpecError) as caught:
        compare([tiny_spec(), with_vars], overrides=["vars.units=4", "train.epoch=3"], run_dir=tmp_path / "new")
    assert [(p.path, p.note) for p in caught.value.problems] == [("vars.units", "(for tiny)"), ("train.epoch", "")]


def test_train_refuses_a_sweep(tmp_path):
    spec = load_spec(swept())
    for source in (spec, load_spec(spec, ["train.epochs=1"])):
        with pytest.raises(
            TrainingError, match=r"'tiny' has a sweep, .* encapkeras compare or search, .* --set sweep=null"
        ):
            train(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_table_is_sorted_by_validation_and_has_what_was_swept(trained):
    comparison, path = trained
    rows = comparison.rows()
    assert [row.network.swept[UNITS] for row in rows][2] == 16  # failed: it has no accuracy
    assert rows[0].validation_accuracy.mean >= rows[1].validation_accuracy.mean
    assert [row.network.label for row in rows][
        2
    ] == "tiny units=16 optimizer={kind: sgd, learning_rate: 1e+30} epochs=2"
    content = json.loads((path / "comparison.json").read_text())
    assert [spec["swept"][UNITS] for spec in content["specs"]] == [row.network.swept[UNITS] for row in rows]
    assert content["specs"][2]["swept"]["train.optimizer"] == {"kind": "sgd", "learning_rate": 1e30}
    table = rows_of(path / "comparison.csv")
    assert [row[UNITS] for row in table] == [str(row.network.swept[UNITS]) for row in rows]
    assert json.loads(table[2]["train.optimizer"])["kind"] == "sgd"
    text = (path / "comparison.md").read_text()
    assert text.startswith("| spec | units | optimizer | epochs | clip_norm | runs |")
    assert "Sorted by mean validation accuracy, best first; test accuracies are not used." in text
    assert "| tiny units=4 clip_norm=1 | tiny units=8 | " in text


def test_the_metric_that_chooses_epochs_sorts_the_table(monkeypatch, tmp_path):
    """The network with the highest accuracy has the highest loss."""

    def pretend(spec, *arguments, **others):
        units = spec.resolved["model"]["nodes"]["hidden"]["units"]
        accuracies = dict.fromkeys(("test_accuracy", "validation_accuracy"), units / 32)
        return {**accuracies, "validation_loss": units / 8, "parameters": units, "seconds": 1.0}

    monkeypatch.setattr(MODULE, "train", pretend)
    content = swept(grid={UNITS: [8, 16, 4]}, seeds=1)
    compare([content], run_dir=tmp_path / "accuracy")
    content["train"]["select"] = "val_loss"
    comparison = compare([content], run_dir=tmp_path / "loss")
    by_accuracy, by_loss = (rows_of(tmp_path / name / "comparison.csv") for name in ("accuracy", "loss"))
    assert [row[UNITS] for row in by_accuracy] == ["16", "8", "4"]
    assert [(row[UNITS], row["validation_loss_mean"]) for row in by_loss] == [("4", "0.5"), ("8", "1.0"), ("16", "2.0")]
    assert "Sorted by mean validation loss, best first" in comparison.as_markdown()
    assert next(line.split()[-1] for line in repr(comparison).splitlines() if line.split()[:1] == ["tiny"]) == "0.5000"


def test_without_a_sweep_the_order_stays(trained):
    comparison, _ = trained
    bare = [type(n)(n.label, n.name, n.source, n.data) for n in comparison.networks]
    assert [row.network for row in Comparison(bare, comparison.seeds, comparison.runs).rows()] == bare


def test_tensorboard_reads_what_was_swept_and_what_came_of_it(trained):
    comparison, _ = trained
    for run in comparison.runs:
        values, metrics, columns, ended = of_run(Path(run.folder))
        network = next(n for n in comparison.networks if n.label == run.network)
        assert columns == ["spec", "seed", "units", "optimizer", "epochs", "clip_norm"]
        assert (values["spec"], values["seed"], values["units"]) == ("tiny", run.seed, network.swept[UNITS])
        assert values["clip_norm"] == ("1" if network.swept[UNITS] == 4 else "null")
        if run.results is None:
            assert (metrics, ended) == ({}, False)
            continue
        assert ended
        last = rows_of(Path(run.folder) / "metrics.csv")[-1]
        assert metrics == {
            "results/best validation accuracy": pytest.approx(run.results["validation_accuracy"]),
            "results/test accuracy": pytest.approx(run.results["test_accuracy"]),
            "results/final loss": pytest.approx(float(last["loss"])),
        }


def test_resuming_reuses_runs_and_brings_their_hparams_up_to_date(trained, trainings, tmp_path):
    copy = Path(shutil.copytree(trained[1], tmp_path / "comparison"))
    rows = [{UNITS: 8}, {UNITS: 16, "train.optimizer": {"kind": "sgd", "learning_rate": 1e30}, "train.epochs": 2}]
    rows += [{UNITS: 4, "train.clip_norm": 1}, {"data.batch_size": 64}]
    shutil.rmtree(copy / "seed_0" / "tiny_units_8" / "tensorboard")  # as if somebody had made room
    comparison = compare([swept(list=rows, seeds=[0, 5])], run_dir=copy, resume=True)
    assert [run.network for run in comparison.runs if run.reused] == ["tiny units=8", "tiny units=4 clip_norm=1"] * 2
    assert {units for units, *_ in trainings} == {16, 32}
    for run in comparison.runs:
        if run.reused:
            values, metrics, columns, _ = of_run(Path(run.folder))
            assert (values["batch_size"], columns[-1]) == (128, "batch_size")
            assert set(metrics) == METRICS
            assert len(list(Path(run.folder).glob("tensorboard/*.hparams"))) == 1


def test_resuming_never_loses_a_network_of_the_sweep(trained, trainings, tmp_path):
    copy = Path(shutil.copytree(trained[1], tmp_path / "comparison"))
    with pytest.raises(
        RunFolderError, match=r"has runs of tiny units=16 .*, tiny units=4 clip_norm=1, which the given"
    ):
        compare([swept(list=[{UNITS: 8}], seeds=[0, 5])], run_dir=copy, resume=True)


def figures(path):
    """The table without what is measured in seconds, and the memory."""
    rows = rows_of(path / "comparison.csv")
    return [
        {name: value for name, value in row.items() if "second" not in name and "memory" not in name} for row in rows
    ]


@pytest.mark.slow
def test_killed_and_resumed_the_table_is_that_of_an_undisturbed_sweep(tmp_path):
    spec = write_spec(tmp_path, swept(grid={UNITS: [8, 16]}))
    command = [*warm_python(), "-u", "-m", "encapkeras", "compare", str(spec)]
    stopped = interrupted([*command, "--run-dir", str(tmp_path / "stopped")], "run 3 of")
    assert stopped.returncode == 130
    assert f"Continue with:\nencapkeras compare {spec} --resume {tmp_path / 'stopped'}\n" in stopped.message
    again = subprocess.run(
        [*command, "--resume", str(tmp_path / "stopped")], capture_output=True, text=True, check=True
    )
    assert 2 <= again.stdout.count("reused: ") < 4
    compare([spec], run_dir=tmp_path / "whole")
    assert figures(tmp_path / "stopped") == figures(tmp_path / "whole")
    assert len(figures(tmp_path / "whole")) == 2


def post(address, content):
    request = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return json.load(answer)


@pytest.mark.slow
def test_a_tensorboard_server_shows_the_sweep(trained):
    comparison, path = trained
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--logdir", str(path), "--host", "127.0.0.1", "--port", str(port), "--load_fast=false"]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *words], stdout=-3, stderr=-3, start_new_session=True
    )
    try:
        plugin = f"http://127.0.0.1:{port}/data/plugin/hparams"
        columns = [{"hparam": "units", "order": "ORDER_ASC"}, *({"metric": {"tag": tag}} for tag in METRICS)]
        statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
        asked = {"allowedStatuses": statuses, "colParams": columns, "startIndex": 0, "sliceSize": 100}
        groups = []
        for _ in range(120):  # it answers at once, but reads the files in its own time
            try:
                groups = post(f"{plugin}/session_groups", asked)["sessionGroups"]
                if len(groups) == len(comparison.runs) and sum(len(g.get("metricValues", [])) for g in groups) == 12:
                    break
            except OSError:
                pass
            time.sleep(0.5)
        experiment = post(f"{plugin}/experiment", {})
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    assert {info["name"] for info in experiment["hparamInfos"]} >= {"spec", "seed", "units", "optimizer", "epochs"}
    assert {info["name"]["tag"] for info in experiment["metricInfos"]} == METRICS
    shown = sorted((g["hparams"]["units"], g["hparams"]["seed"], len(g.get("metricValues", []))) for g in groups)
    assert shown == [(4, 0, 3), (4, 5, 3), (8, 0, 3), (8, 5, 3), (16, 0, 0), (16, 5, 0)]
