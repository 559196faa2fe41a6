import csv
import io

import keras
import numpy as np
import pytest
import torch
from rich.console import Console

from encapkeras.errors import RunFolderError, TrainingError
from encapkeras.training import LossSchedule
from encapkeras.training.callbacks import (
    Checkpoints,
    LogTo,
    MetricsFile,
    NonFiniteStop,
    Progress,
    Stopwatch,
    TensorBoard,
)

IMAGES = np.random.default_rng(0).random((40, 4, 4, 1), dtype=np.float32)
LABELS = (IMAGES.mean((1, 2, 3)) > 0.5).astype("int64")


def small_model(**compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    settings = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]}
    model.compile(**{"optimizer": "adam", **settings, **compiled})
    return model


def fit(model, *callbacks, images=IMAGES, validation=True, **options):
    return model.fit(
        images,
        LABELS,
        batch_size=10,
        validation_data=(IMAGES, LABELS) if validation else None,
        callbacks=list(callbacks),
        verbose=0,
        **{"epochs": 3, **options},
    )


def with_scores(model, scores, checkpoints):
    """Ends one epoch for each `(val_accuracy, val_loss)`; each has weights that tell it."""
    checkpoints.set_model(model)
    for epoch, (accuracy, loss) in enumerate(scores):
        model.weights[0].assign(keras.ops.full(model.weights[0].shape, epoch + 1.0))
        checkpoints.on_epoch_end(epoch, {"val_accuracy": accuracy, "val_loss": loss})


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, 1.0), (0.9, 2.0), (0.7, 0.1)], 2),
        ([(0.5, 1.0), (0.5, 0.8), (0.5, 0.9)], 2),  # equal accuracy: the lower loss
        ([(0.5, 1.0), (0.5, 1.0)], 1),  # all equal: the first
    ],
)
def test_checkpoints_keep_the_best_and_the_last(tmp_path, scores, best):
    checkpoints = Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras")
    with_scores(small_model(), scores, checkpoints)
    kept = {name: keras.saving.load_model(tmp_path / f"{name}.keras").weights[0].value for name in ("best", "last")}
    assert (kept["best"] == best).all()
    assert (kept["last"] == len(scores)).all()
    assert (checkpoints.best_epoch, checkpoints.best_accuracy) == (best, scores[best - 1][0])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.keras", "last.keras"]


def test_checkpoints_hold_no_training_state_and_do_not_disturb_it(tmp_path):
    plain, saving = small_model(), small_model()
    fit(plain, shuffle=False)
    fit(saving, Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras"), shuffle=False)
    for one, other in zip(plain.weights, saving.weights, strict=True):
        assert (one.value == other.value).all()
    assert int(saving.optimizer.iterations) == 12
    assert not keras.saving.load_model(tmp_path / "last.keras").compiled


def test_without_validation_there_is_no_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras")
    with pytest.warns(UserWarning, match=r"no epoch is validated, .* They have: accuracy, loss\. Give fit validation"):
        fit(small_model(), checkpoints, validation=False)
    assert checkpoints.best_epoch is None
    assert checkpoints.last_epoch == 3
    assert [file.name for file in tmp_path.iterdir()] == ["last.keras"]


def test_a_failed_save_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras")
    model = small_model()
    with_scores(model, [(0.5, 1.0)], checkpoints)
    before = (tmp_path / "last.keras").read_bytes()

    def full_disk(file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save", full_disk)
    with pytest.raises(RunFolderError, match="No space left"):
        with_scores(model, [(0.6, 1.0)], checkpoints)
    assert (tmp_path / "last.keras").read_bytes() == before
    assert model.compiled


def test_metrics_file_has_a_row_per_epoch_and_no_times(tmp_path):
    history = fit(small_model(), Stopwatch(40), MetricsFile(tmp_path / "metrics.csv")).history
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert set(rows[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    assert [float(row["val_loss"]) for row in rows] == history["val_loss"]


def test_each_value_of_the_metrics_file_is_below_its_name(tmp_path):
    path = tmp_path / "metrics.csv"
    history = fit(small_model(), Stopwatch(40), MetricsFile(path), epochs=5, validation_freq=2).history
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert not any(None in row or None in row.values() for row in rows)
    for name in ("loss", "accuracy", "learning_rate", "val_loss", "val_accuracy"):
        assert [float(row[name]) for row in rows if row[name]] == history[name]
    assert [bool(row["val_loss"]) for row in rows] == [False, True, False, True, False]
    other = keras.metrics.SparseCategoricalAccuracy("other")
    fit(small_model(metrics=[other]), MetricsFile(path), epochs=1, validation=False)
    *before, last = csv.DictReader(path.read_text().splitlines())
    assert before == [{**row, "other": ""} for row in rows]
    assert {name for name, value in last.items() if value} == {"epoch", "loss", "other"}


def test_a_metrics_file_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "metrics.csv").symlink_to(tmp_path / "victim")
    with pytest.raises(TrainingError, match=r"metrics\.csv cannot be read .*: it is a symbolic link"):
        fit(small_model(), MetricsFile(tmp_path / "metrics.csv"))
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("metric", ["acc", "sparse_categorical_accuracy"])
def test_a_log_that_is_missing_is_said_in_the_first_epoch_and_may_be_another(tmp_path, metric):
    files = (tmp_path / "best.keras", tmp_path / "last.keras")
    with pytest.warns(UserWarning, match=f"no 'val_accuracy'. They have: .*val_{metric}") as warned:
        fit(small_model(metrics=[metric]), Checkpoints(*files))
    assert len([each for each in warned if "Checkpoints" in str(each.message)]) == 1 and not files[0].exists()
    checkpoints = Checkpoints(*files, monitor=f"val_{metric}")
    history = fit(small_model(metrics=[metric]), checkpoints).history
    assert checkpoints.best_accuracy == max(history[f"val_{metric}"]) and files[0].is_file()


def test_of_losses_the_lowest_is_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras", monitor="val_loss")
    history = fit(small_model(optimizer=keras.optimizers.SGD(20.0)), checkpoints, epochs=6).history["val_loss"]
    assert checkpoints.best_accuracy == min(history) < history[-1]


def test_metrics_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"metrics\.csv could not be written: No such file"):
        fit(small_model(), MetricsFile(tmp_path / "none" / "metrics.csv"))


def test_stopwatch_adds_rate_and_speed():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([7], [0.5, 0.25])
    watch = Stopwatch(40)
    history = fit(small_model(optimizer=keras.optimizers.SGD(schedule)), watch).history
    assert history["learning_rate"] == [0.5, 0.5, 0.25]
    assert min(history["images_per_second"]) <= watch.images_per_second <= max(history["images_per_second"])


def test_stopwatch_waits_for_the_gpu_once_an_epoch(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(watch.images_per_second))
    watch = Stopwatch(40)
    fit(small_model(), watch, validation=False)
    assert waited[0] == 0  # each before its epoch's time is taken
    assert len(set(waited)) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_names_epoch_and_step(bad):
    images = IMAGES.copy()
    images[25] = bad  # the third batch of ten
    with pytest.raises(TrainingError, match="epoch 1, step 3"):
        fit(small_model(), NonFiniteStop(), images=images, shuffle=False)


def test_a_weight_that_is_no_number_after_an_epoch_stops():
    model = small_model()
    stop = NonFiniteStop()
    stop.set_model(model)
    stop.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
    model.weights[1].assign([1.0, float("nan")])
    with pytest.raises(TrainingError, match=r"weight 'sequential.*bias' is not finite after epoch 2"):
        stop.on_epoch_end(1, {"loss": 1.0})
    with pytest.raises(TrainingError, match="validation loss became inf in epoch 2"):
        stop.on_epoch_end(1, {"val_loss": float("inf")})


class CountingLoss(keras.losses.Loss):
    def __init__(self):
        super().__init__()
        self.told = []

    def set_epoch(self, epoch, epochs):
        self.told.append((epoch, epochs))

    def call(self, y_true, y_pred):
        return keras.ops.mean(y_pred**2, axis=-1)


def test_a_function_gets_the_metrics_of_each_epoch_and_may_end_the_training():
    class Enough(Exception):
        """What an own function raises, as Optuna's TrialPruned."""

    got = []

    def function(metrics, epoch):
        got.append((epoch, metrics))
        if epoch == 2:
            raise Enough

    with pytest.raises(Enough):
        fit(small_model(), LogTo(function), epochs=3)
    assert [epoch for epoch, _ in got] == [1, 2]
    assert all(type(value) is float for _, metrics in got for value in metrics.values())
    assert {"loss", "val_loss"} <= set(got[0][1])


class Talks(keras.callbacks.Callback):
    """Logs what is not one number."""

    def __init__(self, **logged):
        super().__init__()
        self.logged = logged

    def on_train_batch_end(self, batch, logs=None):
        logs.update(self.logged)

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self.logged)


def test_texts_and_several_numbers_in_the_logs_end_no_training(tmp_path):
    talks = Talks(phase="warm-up", val_loss="none", text_loss=["a"], class_loss=np.ones(2, "float32"), nothing=None)
    got, output = [], io.StringIO()
    ours = (
        NonFiniteStop(),
        LogTo(lambda metrics, epoch: got.append(metrics)),
        MetricsFile(tmp_path / "metrics.csv"),
        Progress(console=Console(file=output)),
        TensorBoard(tmp_path / "events"),
        Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras", monitor="class_loss_1"),
    )
    fit(small_model(), talks, *ours, epochs=1)
    assert set(got[0]) == {"accuracy", "loss", "val_accuracy", "class_loss_0", "class_loss_1"}
    row = next(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert (row["phase"], row["text_loss_0"], row["class_loss_1"]) == ("warm-up", "a", "1.0")
    assert output.getvalue().startswith("epoch 1/1  accuracy") and "warm-up" not in output.getvalue()
    assert ours[-1].best_accuracy == 1.0


def test_one_of_several_losses_that_is_not_finite_ends_the_training():
    with pytest.raises(TrainingError, match="the class_loss_1 became inf in epoch 1, step 1"):
        fit(small_model(), Talks(class_loss=torch.tensor([1.0, float("inf")])), NonFiniteStop())


def test_loss_schedule_tells_every_loss_that_wants_it():
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(2, name="a")(flat), keras.layers.Dense(2, name="b")(flat)])
    losses = [CountingLoss(), CountingLoss()]
    model.compile(loss=losses)
    model.fit(IMAGES, [LABELS, LABELS], epochs=2, callbacks=[LossSchedule()], verbose=0)
    assert [loss.told for loss in losses] == [[(0, 2), (1, 2)]] * 2


def test_loss_schedule_leaves_other_losses_alone():
    fit(small_model(loss="sparse_categorical_crossentropy"), LossSchedule(), epochs=1)
