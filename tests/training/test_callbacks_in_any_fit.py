"""The callbacks in every way to call `fit`: they work, or say in the first epoch that and why they cannot."""

import csv
import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras.callbacks import (
    Checkpoints,
    LossSchedule,
    MetricsFile,
    NonFiniteStop,
    Resume,
    RoutingAnalysis,
    Stopwatch,
    TensorBoard,
    ValidateAverage,
)
from encapkeras.errors import ArgumentError, TrainingError
from encapkeras.layers import CapsuleLength, DynamicCapsules

IMAGES = np.random.default_rng(0).random((12, 4, 4, 1), dtype=np.float32)
LABELS = np.arange(12) % 2
ONE_HOT = np.eye(2, dtype=np.float32)[LABELS]
VALIDATION = {"validation_data": (IMAGES, LABELS)}
ARRAYS = {"x": IMAGES, "y": LABELS, "batch_size": 4}
ACCURACY = keras.metrics.SparseCategoricalAccuracy
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*shuffle=True. was passed"),
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),  # said of data whose length is not known
]


def sparse_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def functional(metrics=("accuracy",), optimizer="adam", loss=None):
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    model.compile(optimizer, loss or sparse_loss(), metrics=metrics and list(metrics))
    return model


def of_two_outputs():
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(2, name="kind")(flat), keras.layers.Dense(2, name="place")(flat)])
    model.compile("adam", [sparse_loss(), sparse_loss()], metrics=[["accuracy"], ["accuracy"]])
    return model


def with_f1():
    return functional([keras.metrics.F1Score()], loss=keras.losses.CategoricalCrossentropy(from_logits=True))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **named):
        super().__init__(**named)
        self.flat, self.scores = keras.layers.Flatten(), keras.layers.Dense(2)

    def call(self, inputs, training=False):
        return self.scores(self.flat(inputs))


def subclassed():
    model = Subclassed()
    model.compile("adam", sparse_loss(), metrics=["accuracy"])
    return model


@keras.saving.register_keras_serializable("tests")
class OwnSteps(Subclassed):
    """Trains with an optimizer of its own, and logs a loss of another name, as networks with a critic do."""

    broken = False

    def __init__(self, **named):
        super().__init__(**named)
        self.critic_loss = keras.metrics.Mean("critic_loss")

    @property
    def metrics(self):
        return [self.critic_loss]

    def train_step(self, data):
        self.zero_grad()
        loss = (self(data[0]) ** 2).mean() * (math.nan if self.broken else 1.0)
        loss.backward()
        with torch.no_grad():
            self.own.apply([weight.value.grad for weight in self.trainable_weights], self.trainable_weights)
        return self.test_step(data)

    def test_step(self, data):
        self.critic_loss.update_state((self(data[0]) ** 2).mean() * (math.nan if self.broken else 1.0))
        return {"critic_loss": self.critic_loss.result()}


def with_own_steps(optimizer="adam"):
    model = OwnSteps()
    model.compile(optimizer)
    model.own = keras.optimizers.Adam()
    return model


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from zip(IMAGES, LABELS, strict=True)


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        part = slice(index % 3 * 4, index % 3 * 4 + 4)
        return IMAGES[part], LABELS[part]


def batches(rounds=1):
    for _ in range(rounds):
        for start in range(0, 12, 4):
            yield IMAGES[start : start + 4], LABELS[start : start + 4]


def stream():
    return {"x": torch.utils.data.DataLoader(Stream(), batch_size=4)}


@dataclass
class Way:
    """A model, and what `fit` is called with, once or twice; what is said of each callback."""

    fits: Any  # a list of arguments of `fit`
    model: Any = functional
    monitor: str = "val_accuracy"
    no_best: str = ""  # why there is no best model
    no_resume: str = ""  # why Resume is refused
    kept: dict[str, str] = field(default_factory=dict)  # logs of several numbers, and their columns


def both(**fit):
    return lambda: [{**ARRAYS, **VALIDATION, "epochs": 2, **fit}]


def in_steps(data):
    return lambda: [{"x": data(), "steps_per_epoch": 3, "epochs": 2}]


STEPS = "does not work with steps_per_epoch"
WAYS = {
    "arrays": Way(both()),
    "no validation": Way(both(validation_data=None), no_best="no epoch is validated"),
    "validated every second epoch": Way(both(validation_freq=2, epochs=3)),
    "never validated": Way(both(validation_freq=5), no_best="no epoch is validated"),
    "a part for validation": Way(both(validation_split=0.5, validation_data=None)),
    "class weights": Way(both(class_weight={0: 1.0, 1: 2.0})),
    "sample weights": Way(both(sample_weight=np.ones(12))),
    "no epochs": Way(both(epochs=0)),
    "one epoch": Way(both(epochs=1)),
    "later epochs": Way(both(initial_epoch=2, epochs=4)),
    "steps of arrays": Way(both(steps_per_epoch=2), no_resume=STEPS),
    "steps of a generator": Way(in_steps(lambda: batches(2)), monitor="loss", no_resume=STEPS),
    "steps of endless data": Way(in_steps(Endless), monitor="loss", no_resume=STEPS),
    "steps of the validation": Way(both(validation_steps=2), no_resume="does not work with validation_steps"),
    "a generator for validation": Way(
        lambda: [{**ARRAYS, "validation_data": batches(2), "validation_steps": 3, "epochs": 2}], no_resume="_steps of"
    ),
    "a generator": Way(lambda: [{"x": batches(), **VALIDATION}]),
    "a generator for two epochs": Way(
        lambda: [{"x": batches(), "epochs": 2}], monitor="loss", no_resume="a generator for several epochs, here 2"
    ),
    "data of unknown length": Way(lambda: [{**stream(), **VALIDATION, "epochs": 2}]),
    "acc": Way(both(), lambda: functional(["acc"]), no_best="They have: acc, loss, val_acc, val_loss"),
    "acc, chosen": Way(both(), lambda: functional(["acc"]), monitor="val_acc"),
    "a metric object": Way(both(), lambda: functional([ACCURACY("mine")]), no_best="val_mine"),
    "loss alone": Way(both(), lambda: functional(None), no_best="They have: loss, val_loss"),
    "a number for each class": Way(
        both(y=ONE_HOT, validation_data=(IMAGES, ONE_HOT)), with_f1, "val_f1_score_1",
        kept={f"{v}f1_score": f"{v}f1_score_1" for v in ("", "val_")},
    ),
    "two outputs": Way(
        both(y=[LABELS, LABELS], validation_data=(IMAGES, [LABELS, LABELS])), of_two_outputs, "val_kind_accuracy"
    ),
    "two fits": Way(lambda: [*both()(), *both(epochs=4, initial_epoch=2)()]),
    "a subclass": Way(both(), subclassed),
    "own steps": Way(both(), with_own_steps, "val_critic_loss", no_resume="also has own, whose state"),
    "own steps, no optimizer": Way(both(), lambda: with_own_steps(None), "critic_loss", no_resume="has none"),
    "averaged weights": Way(both(), lambda: functional(optimizer=keras.optimizers.Adam(use_ema=True))),
}  # fmt: skip


def run(way, *callbacks, model=None):
    """Call `fit` as the way says; return the history of all calls and what was warned of."""
    keras.utils.set_random_seed(0)
    model, history = model or way.model(), {}
    with warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("always", message="(Checkpoints|Resume|RoutingAnalysis) ")
        for fit in way.fits():
            for name, values in model.fit(**fit, callbacks=list(callbacks), verbose=0).history.items():
                history.setdefault(name, []).extend(values)
    return history, [str(each.message) for each in told]


@pytest.fixture(scope="module", params=WAYS)
def trained(request, tmp_path_factory):
    way, folder = WAYS[request.param], tmp_path_factory.mktemp("run")
    best, last = folder / "best.keras", folder / "last.keras"
    kept, table = Checkpoints(best, last, way.monitor), MetricsFile(folder / "metrics.csv")
    resume = [] if way.no_resume else [Resume(folder / "resume", also=[kept, table])]
    averages = [ValidateAverage(), ValidateAverage()]
    rest = (*resume, NonFiniteStop(), LossSchedule(), *averages, Stopwatch(), kept, table)
    return way, folder, kept, *run(way, *rest, TensorBoard(folder / "board"))


def test_each_epoch_has_its_row_its_points_and_its_checkpoint(trained):
    way, folder, kept, history, told = trained
    epochs = len(history.get("loss", history.get("critic_loss", [])))
    assert (folder / "last.keras").exists() == bool(epochs)
    assert [each for each in told if way.no_best in each] == told and len(told) == bool(way.no_best)
    if not epochs:
        return
    has_best = not way.no_best
    assert (folder / "best.keras").exists() == has_best and (kept.best_epoch is not None) == has_best
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    points = EventAccumulator(str(folder / "board")).Reload()
    tags = {name: f"{name.removeprefix('val_')}/{'validation' if 'val_' in name else 'training'}" for name in history}
    for name, values in history.items():
        column = way.kept.get(name, name)
        numbers = [float(value if column == name else value[-1]) for value in values]
        if name != "images_per_second":
            assert [float(row[column]) for row in rows if row[column]] == numbers
        if name not in ("images_per_second", "learning_rate"):
            tag = tags[name].replace(name.removeprefix("val_"), column.removeprefix("val_"))
            assert [point.value for point in points.Scalars(tag)] == pytest.approx(numbers)
    assert len(rows) == epochs


def test_the_speed_counts_what_a_step_trains_on(trained):
    way, *_, history, _ = trained
    speeds = history.get("images_per_second", [])
    assert all(speed > 0 for speed in speeds)
    assert len(speeds) >= (1 if history else 0)
    assert ("learning_rate" in history) == (bool(history) and way.no_resume != "has none")


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if way.no_resume])
def test_resume_refuses_what_it_cannot_repeat(tmp_path, name):
    with pytest.raises(ArgumentError, match=WAYS[name].no_resume):
        run(WAYS[name], Resume(tmp_path / "resume"), MetricsFile(tmp_path / "metrics.csv"))
    assert not any(tmp_path.rglob("*.pt")) and not any(tmp_path.glob("*.csv"))


def test_resume_has_nothing_left_to_train_of_what_has_ended(trained):
    way, folder, kept, *_ = trained
    if way.no_resume or way.model is not functional:
        return
    found, files = Checkpoints(kept.best, kept.last, way.monitor), [kept.last, folder / "metrics.csv"]
    before = [file.read_bytes() for file in files if file.exists()]
    history, _ = run(way, Resume(folder / "resume"), found, MetricsFile(files[1]))
    assert not history and found.best_epoch == kept.best_epoch
    assert before == [file.read_bytes() for file in files if file.exists()]


class Killed(Exception):
    """The process ends here."""


def kill_in(step):
    def count(batch, logs=None):
        seen.append(batch)
        if len(seen) == step:
            raise Killed

    seen = []
    killing = keras.callbacks.LambdaCallback()
    killing.on_train_batch_end = count
    return killing


def started(way, folder, killing):
    resume, table, watch = Resume(folder / "resume", minutes=0), MetricsFile(folder / "metrics.csv"), Stopwatch()
    try:
        history, _ = run(way, resume, watch, table, *killing)
    except Killed:
        history = {}
    resume.close()
    return history, table.path.read_text() if table.path.exists() else ""


@pytest.mark.parametrize("name", ["data of unknown length", "validated every second epoch", "a subclass"])
def test_resume_goes_on_with_the_same_numbers(tmp_path, name):
    _, whole = started(WAYS[name], tmp_path / "whole", [])
    started(WAYS[name], tmp_path / "parts", [kill_in(5)])
    _, parts = started(WAYS[name], tmp_path / "parts", [])
    assert parts == whole


def test_resume_says_when_data_of_unknown_length_have_become_shorter(tmp_path, monkeypatch):
    started(WAYS["data of unknown length"], tmp_path, [kill_in(3)])
    monkeypatch.setattr(Stream, "__iter__", lambda self: zip(IMAGES[:4], LABELS[:4], strict=True))
    with pytest.raises(TrainingError, match="is at epoch 1, step 2; now the epoch has 1 steps"):
        started(WAYS["data of unknown length"], tmp_path, [])


def test_two_resumes_and_another_first_epoch_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="more than one Resume"):
        run(WAYS["arrays"], Resume(tmp_path / "a"), Resume(tmp_path / "b"))
    started(WAYS["arrays"], tmp_path, [kill_in(2)])
    with pytest.raises(TrainingError, match="is at epoch 1, step 1; initial_epoch of fit is 2"):
        started(WAYS["later epochs"], tmp_path, [])


def test_resume_finds_the_callbacks_of_fit_that_keep_something(tmp_path):
    kept, stopping = Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras"), keras.callbacks.EarlyStopping()
    resume = Resume(tmp_path / "resume")
    run(WAYS["arrays"], resume, LossSchedule(), kept, stopping)
    assert resume.also == [kept, stopping]


def test_two_callbacks_that_validate_the_average_change_no_weights():
    way = Way(both(shuffle=False), WAYS["averaged weights"].model)
    plain, averaging = way.model(), way.model()
    averaging.set_weights(plain.get_weights())
    run(way, model=plain)
    run(way, ValidateAverage(), ValidateAverage(), model=averaging)
    assert all(map(np.array_equal, plain.get_weights(), averaging.get_weights()))


def test_a_validation_that_failed_leaves_nothing_that_a_later_fit_would_put_back():
    model, average = WAYS["averaged weights"].model(), ValidateAverage()
    with pytest.raises(ValueError):
        model.fit(**ARRAYS, validation_data=(IMAGES[..., 0], LABELS[:4]), callbacks=[average], verbose=0)
    model.set_weights([np.full_like(weight, 7.0) for weight in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.0), sparse_loss())
    model.fit(**ARRAYS, **VALIDATION, callbacks=[average], verbose=0)
    assert all((weight == 7.0).all() for weight in model.get_weights())


def test_of_metrics_that_keras_minimizes_the_lowest_is_best_and_nan_never_is(tmp_path):
    kept = Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras", "val_mse")
    one_hot = Way(both(y=ONE_HOT, validation_data=(IMAGES, ONE_HOT)), lambda: functional(["mse"], loss="mse"))
    run(one_hot, kept)
    kept.best_epoch = kept.best_accuracy = None
    for epoch, value in enumerate([math.nan, 3.0, 2.0, math.nan, 4.0]):
        kept.on_epoch_end(epoch, {"val_mse": value})
    assert (kept.best_epoch, kept.best_accuracy) == (3, 2.0)


def test_the_best_of_another_model_does_not_count(tmp_path):
    kept = Checkpoints(tmp_path / "best.keras", tmp_path / "last.keras")
    run(WAYS["arrays"], kept)
    kept.best_accuracy = 2.0
    run(WAYS["one epoch"], kept)
    assert kept.best_accuracy <= 1.0


class Unwritable(Subclassed):
    def __init__(self, function):
        super().__init__()


def test_a_model_that_cannot_be_saved_is_refused_before_the_first_step(tmp_path):
    model = Unwritable(lambda: None)
    model.compile("adam", sparse_loss())
    with pytest.raises(ArgumentError, match="its class Unwritable takes arguments that Keras cannot write"):
        run(WAYS["arrays"], Checkpoints(None, tmp_path / "last.keras"), kill_in(1), model=model)


def test_losses_of_other_names_are_checked_and_batches_not_left_out_where_that_is_impossible(monkeypatch):
    with pytest.raises(ArgumentError, match="cannot leave batches out: the train_step of OwnSteps"):
        run(WAYS["own steps"], NonFiniteStop(max_bad_batches=1))
    monkeypatch.setattr(OwnSteps, "broken", True)
    with pytest.raises(TrainingError, match="the critic_loss became nan in epoch 1, step 1"):
        run(WAYS["own steps"], NonFiniteStop())


def test_each_fit_may_leave_out_as_many_batches():
    stop, images = NonFiniteStop(max_bad_batches=1), IMAGES.copy()
    images[5] = math.nan
    way = Way(lambda: [{**ARRAYS, "x": images, "y": ONE_HOT, "shuffle": False}] * 2, with_f1)
    run(way, stop)
    assert stop.bad_batches == [(1, 2)]


def routed():
    inputs = keras.Input((4, 4, 8, 6))
    return keras.Model(inputs, CapsuleLength()(DynamicCapsules(capsules=2, dim=4)(inputs)))


def test_routing_that_cannot_be_analysed_is_said_before_the_first_step(tmp_path):
    with pytest.raises(ArgumentError, match="has no routing layer"):
        run(WAYS["arrays"], RoutingAnalysis(tmp_path, IMAGES, every=2), kill_in(1))
    model = routed()
    model.compile("sgd", sparse_loss())
    capsules = np.ones((4, 4, 4, 8, 6), np.float32)
    way = Way(lambda: [{"x": capsules, "y": LABELS[:4], "epochs": 2}])
    with pytest.raises(ArgumentError, match="one whole number for each of the 4 images"):
        run(way, RoutingAnalysis(tmp_path, capsules, LABELS, every=2), kill_in(1), model=model)
    _, told = run(way, RoutingAnalysis(tmp_path, capsules, every=3), model=model)
    assert len(told) == 1 and "is due every 3 epochs, and fit ends after epoch 2" in told[0]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((IMAGES, LABELS), {"class_names": ["a", "b", "c"]}, "holds 3 names; the model has 2"),
        ((IMAGES, LABELS + 1), {}, "from 0 to 1"),
        ((IMAGES[..., 0], LABELS), {}, "must hold images"),
        (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(IMAGES))), {}, "such pairs"),
    ],
)
@pytest.mark.parametrize("model", [functional, subclassed])
def test_pictures_that_are_not_possible_are_said_before_the_first_step(tmp_path, model, data, options, message):
    board = TensorBoard(tmp_path, data, every=2, **options)
    with pytest.raises(ArgumentError, match=message):
        run(Way(both(epochs=3), model), board, kill_in(1))


def test_a_second_shorter_fit_has_the_pictures_of_its_last_epoch(tmp_path, monkeypatch):
    written = []
    board = TensorBoard(tmp_path, (IMAGES, LABELS), every=9)
    monkeypatch.setattr(board, "_write_pictures", lambda: written.append(board.epoch))
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", True))
    run(Way(lambda: [*both()(), {**both(epochs=5)()[0]}]), board, stop)
    assert written == [1, 1]
