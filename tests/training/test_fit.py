import importlib
import json
import re

import keras
import pytest
import torch
import yaml
from support.tiny_spec import tiny_spec, write_spec

from encapkeras.analysis.scores import METRICS
from encapkeras.data import Batches, DatasetInfo
from encapkeras.errors import DataError, RunFolderError, SpecError, TrainingError
from encapkeras.model.load_model import load_model
from encapkeras.spec.load import load_spec
from encapkeras.training import callbacks, train
from encapkeras.training.measure import check_fits, measure_metrics
from encapkeras.training.run.run_folder import RunFolder

MODULE = importlib.import_module("encapkeras.training.train")  # the package has the function under this name


def trained(folder, run="run", data=None, **settings):
    spec = tiny_spec(**settings)
    spec["data"].update(data or {})
    path = folder / run
    return train(load_spec(write_spec(folder, spec)), run_dir=path), RunFolder(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("finished"), epochs=4)


def test_results_hold_what_the_documentation_says(finished):
    results, folder = finished
    assert json.loads(folder.results.read_text()) == results
    assert list(results) == [
        "test_accuracy",
        "test_loss",
        *(f"test_{name}" for name in METRICS),
        "test_classes",
        "validation_accuracy",
        "validation_loss",
        *(f"validation_{name}" for name in METRICS),
        "best_epoch",
        "parameters",
        "images_per_second",
        "seconds",
        "peak_memory_mib",
    ]
    assert results["parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert results["test_accuracy"] > 0.5
    assert results["images_per_second"] > 0
    assert 0 < results["seconds"] < 60


def test_the_run_folder_is_complete(finished):
    _, folder = finished
    names = {str(file.relative_to(folder.path)) for file in folder.path.rglob("*") if file.is_file()}
    shown = {name for name in names if name.startswith("tensorboard/")}
    events = {name for name in shown if re.fullmatch(r"tensorboard/events\.out\.tfevents\..*", name)}
    assert len(events) == 2  # HParams are in a file of their own
    assert names - shown == {
        "spec.yaml",
        "environment.json",
        "metrics.csv",
        "results.json",
        "checkpoints/best.keras",
        "checkpoints/last.keras",
    }
    environment = json.loads(folder.environment.read_text())
    assert {"encapkeras", "python", "keras", "torch", "device", "seed", "threads", "command"} <= set(environment)


def test_another_type_of_keras_weights_is_said_and_recorded(tmp_path, capsys):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float16")  # as "floatx": "float16" in ~/.keras/keras.json does
    try:
        _, folder = trained(tmp_path, epochs=1)
    finally:
        keras.config.set_dtype_policy(before)
    assert json.loads(folder.environment.read_text())["dtype"] == "float16"
    assert "Keras' dtype is float16, not float32: weights have it" in capsys.readouterr().out


def test_the_saved_spec_trains_the_same_network(finished):
    _, folder = finished
    spec = load_spec(folder.spec)
    assert spec.train.epochs == 4
    assert spec.resolved == yaml.safe_load(folder.spec.read_text())


def test_the_best_epoch_is_the_one_of_the_metrics(finished):
    results, folder = finished
    header, *rows = [line.split(",") for line in folder.metrics.read_text().splitlines()]
    table = [dict(zip(header, map(float, row), strict=True)) for row in rows]
    best = max(table, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert (results["best_epoch"], results["validation_accuracy"]) == (best["epoch"], best["val_accuracy"])
    assert results["validation_loss"] == best["val_loss"]
    assert len(table) == 4


def test_the_test_part_is_measured_once_with_the_best_weights(tmp_path, monkeypatch):
    measured = []

    def loading(checkpoint):
        measured.append(checkpoint.name)
        return load_model(checkpoint)

    def recording(model, batches, *progress):
        measured.append(batches.num_images)
        return measure_metrics(model, batches, *progress)

    monkeypatch.setattr(MODULE, "load_model", loading)
    monkeypatch.setattr(MODULE, "measure_metrics", recording)
    trained(tmp_path)
    assert measured == ["best.keras", 360]


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(tmp_path):
    augment = {"augment": {"resize": 34, "crop": True, "brightness": 0.2}}
    (_, first), (_, again), (_, other) = (
        trained(tmp_path, run, augment, seed=seed) for run, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first.metrics.read_bytes() == again.metrics.read_bytes()
    assert first.metrics.read_bytes() != other.metrics.read_bytes()
    for one, same in zip(load_model(first.last).weights, load_model(again.last).weights, strict=True):
        assert (one.value == same.value).all()


def test_without_validation_the_last_weights_are_tested_and_it_is_said(tmp_path, capsys):
    results, folder = trained(tmp_path, data={"validation": 0})
    assert (results["best_epoch"], results["validation_accuracy"]) == (None, None)
    assert "no validation part" in capsys.readouterr().out
    assert not folder.best.exists()
    assert folder.chosen(validated=False) == folder.last
    assert "val_" not in folder.metrics.read_text()


def test_the_introduction_names_parameters_device_and_folder(tmp_path, capsys):
    _, folder = trained(tmp_path, epochs=1)
    text = capsys.readouterr().out
    assert "tiny: 2,410 parameters on " in text
    assert "1,293 images for training, 144 for validation, 360 for testing" in text
    assert str(folder.path) in text


def test_early_stopping_ends_when_accuracy_no_longer_rises(tmp_path):
    settings = {"optimizer": {"kind": "sgd", "learning_rate": 1e-30}, "early_stopping": {"patience": 2}}
    _, folder = trained(tmp_path, epochs=20, **settings)
    assert len(folder.metrics.read_text().splitlines()) == 1 + 3


def test_early_stopping_needs_a_validation_part(tmp_path):
    with pytest.raises(TrainingError, match=r"data\.validation is 0"):
        trained(tmp_path, data={"validation": 0}, early_stopping={"patience": 2})
    assert not (tmp_path / "run").exists()


def test_mistakes_in_the_shapes_are_found_before_the_run_folder_is_made(tmp_path):
    spec = tiny_spec()
    spec["model"]["nodes"]["pool"]["pool_size"] = 64
    with pytest.raises(SpecError, match=r"nodes\.pool"):
        train(load_spec(write_spec(tmp_path, spec)), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def without_data(spec):
    del spec["data"]
    spec["model"]["inputs"] = {"image": [32, 32, 1]}
    spec["model"]["nodes"]["lengths"]["units"] = 10


def with_five_scores(spec):
    spec["model"]["nodes"]["lengths"]["units"] = 5


def with_a_larger_image(spec):
    spec["model"]["inputs"] = {"image": [64, 64, 1]}


def with_two_outputs(spec):
    spec["model"]["outputs"]["hidden"] = "hidden"


def without_losses(spec):
    del spec["losses"]


def with_everything_frozen(spec):
    for name in ("hidden", "lengths"):
        spec["model"]["nodes"][name]["trainable"] = False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_data, "names no data"),
        (with_five_scores, r"output 'classes' of 'tiny' has shape \(5,\); it must be \(10,\)"),
        (with_a_larger_image, r"inputs of shape \(64, 64, 1\); the images of the data set are \(32, 32, 1\)"),
        (with_two_outputs, "the outputs classes, hidden, and losses on classes"),
        (without_losses, "losses on none of them"),
        (with_everything_frozen, "no trainable weights"),
    ],
)
def test_a_network_that_does_not_fit_its_data_is_refused(tmp_path, change, message):
    spec = tiny_spec()
    change(spec)
    with pytest.raises(TrainingError, match=message):
        train(load_spec(write_spec(tmp_path, spec)), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_weight_of_a_loss_counts(tmp_path):
    losses = []
    for weight in (1.0, 3.0):
        spec = tiny_spec(epochs=1, optimizer={"kind": "sgd", "learning_rate": 1e-30})
        spec["losses"]["classes"]["weight"] = weight
        results = train(load_spec(write_spec(tmp_path, spec)), run_dir=tmp_path / str(weight))
        losses.append(results["test_loss"])
    assert losses[1] == pytest.approx(3 * losses[0])


def test_data_that_cannot_be_had_leaves_no_run_folder(tmp_path, monkeypatch):
    def missing(settings, seed):
        raise DataError("the files are not there")

    monkeypatch.setattr(MODULE, "load", missing)
    with pytest.raises(DataError):
        trained(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_run_is_replaced_only_on_demand(tmp_path):
    _, folder = trained(tmp_path, epochs=2)
    before = folder.metrics.read_bytes()
    spec = load_spec(write_spec(tmp_path, tiny_spec(epochs=1)))
    with pytest.raises(RunFolderError, match="--overwrite"):
        train(spec, run_dir=folder.path)
    assert folder.metrics.read_bytes() == before
    train(spec, run_dir=folder.path, overwrite=True)
    assert len(folder.metrics.read_text().splitlines()) == 2
    assert len(list(folder.tensorboard.glob("events.*"))) == 2


def test_a_loss_that_is_no_number_keeps_the_last_good_weights(tmp_path, monkeypatch):
    def poison(self, epoch, logs=None):
        self.model.weights[0].assign(self.model.weights[0] * float("nan"))

    monkeypatch.setattr(callbacks.MetricsFile, "on_epoch_end", poison)  # comes after the checkpoints
    with pytest.raises(TrainingError, match=r"not finite at the start of epoch 2\. .*after epoch 1 are saved"):
        trained(tmp_path)
    folder = RunFolder(tmp_path / "run")
    assert all(weight.value.isfinite().all() for weight in load_model(folder.last).weights)
    assert not folder.results.exists()


def test_an_interrupted_run_says_what_is_kept(tmp_path, monkeypatch):
    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.MetricsFile, "on_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted\. The weights after epoch 1 are saved in .*last\.keras"):
        trained(tmp_path)
    RunFolder(tmp_path / "run").check_run()


def test_an_explosion_in_the_first_epoch_says_that_nothing_is_kept(tmp_path):
    with pytest.raises(TrainingError, match=r"epoch 1, step \d+: .* Try .*No epoch was complete"):
        trained(tmp_path, optimizer={"kind": "sgd", "learning_rate": 1e38})


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("Keras could not do it\n[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("not enough memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_in_an_epoch_says_what_to_do_and_what_is_kept(tmp_path, monkeypatch, error):
    def fail(self, epoch, logs=None):
        raise error

    monkeypatch.setattr(callbacks.MetricsFile, "on_epoch_end", fail)
    with pytest.raises(
        TrainingError, match=r"out of memory.*data\.batch_size.*after epoch 1 are saved in .*last\.keras"
    ):
        trained(tmp_path)


def test_of_a_long_error_only_the_line_about_memory_is_shown(tmp_path, monkeypatch):
    def fail(settings, seed):  # so Keras wraps errors of its layers
        raise RuntimeError("Exception encountered.\n\n\x1b[1mDefaultCPUAllocator: can't allocate memory\x1b[0m\n\nMore")

    monkeypatch.setattr(MODULE, "load", fail)
    with pytest.raises(
        TrainingError, match=r"^out of memory \(DefaultCPUAllocator: can't allocate memory\)\. Set data"
    ):
        trained(tmp_path)


def test_out_of_memory_before_the_first_epoch_leaves_no_run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "load", lambda settings, seed: torch.empty(2**50))
    with pytest.raises(TrainingError, match=r"out of memory.*data\.image_size"):
        trained(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(Batches, "batch", lambda self, index, epoch=None: torch.empty(2**50))
    with pytest.raises(TrainingError, match=r"out of memory.*data\.batch_size"):
        trained(tmp_path)


def test_other_errors_of_torch_are_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    def fail(settings, seed):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(MODULE, "load", fail)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        trained(tmp_path)


@pytest.mark.parametrize("batch_size", [500, 2000])  # the latter makes a whole epoch one batch
def test_the_first_epoch_is_epoch_0(tmp_path, monkeypatch, batch_size):
    drawn = []
    draw = Batches._draws_for

    def recording(self, index, epoch):
        if self.seed is not None:
            drawn.append(epoch)
        return draw(self, index, epoch)

    monkeypatch.setattr(Batches, "_draws_for", recording)
    trained(tmp_path, data={"batch_size": batch_size}, epochs=3)
    steps = -(-1293 // batch_size)
    assert drawn[-3 * steps :] == [epoch for epoch in range(3) for _ in range(steps)]


def test_a_folder_has_to_be_named_where_a_restart_could_not_know_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="Name the folder with --resume DIR"):
        train(load_spec(tiny_spec()))
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_spec_is_refused():
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    with pytest.raises(TrainingError, match="was not built from a spec"):
        check_fits(model, DatasetInfo(8, 8, 1, 10, tuple("0123456789")))
