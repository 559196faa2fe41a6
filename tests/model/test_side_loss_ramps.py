"""Weights of side losses that change with the epochs."""

import csv

import keras
import numpy as np
import pytest
import torch
from rich.console import Console
from support.side_loss_spec import IMAGES, LABELS, SPEC, compiled, parts, spec_with
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras import build_model, check_spec, load_model
from encapkeras.callbacks import MetricsFile, Progress, Resume, TensorBoard
from encapkeras.model.examine import examine_spec

RAMP = {"from": 0, "to": 20, "epochs": 2}


class Killed(Exception):
    """The process ends here."""


class Kill(keras.callbacks.Callback):
    KEPT = ()

    def on_epoch_end(self, epoch, logs=None):
        self.model.last_logs = dict(logs)

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 5:
            raise Killed


def ramped(ramp=RAMP):
    reconstruction = {**SPEC["losses"]["reconstruction"], "weight": ramp}
    return spec_with({"reconstruction": reconstruction})


def still(spec):
    """A model that does not change in training."""
    return compiled(spec, keras.optimizers.SGD(0.0))


def fit(model, *callbacks, epochs=4):
    return model.fit(IMAGES, LABELS, batch_size=3, epochs=epochs, callbacks=list(callbacks), verbose=0).history


def weights_of(model):
    return [weight.numpy().tobytes() for weight in model.weights]


def test_the_weight_of_each_epoch_counts_and_is_shown():
    model = compiled(ramped(), keras.optimizers.SGD(0.0))
    history = model.fit(IMAGES, LABELS, epochs=4, validation_data=(IMAGES, LABELS), verbose=0).history
    assert history["reconstruction_weight"] == [0, 10, 20, 20]
    for prefix in ("", "val_"):
        loss, side = (np.array(history[prefix + name]) for name in ("loss", "reconstruction_loss"))
        classes = loss - history["reconstruction_weight"] * side
        np.testing.assert_allclose(classes, classes[0], atol=0.02)  # moving statistics change
        assert loss[2] - loss[0] == pytest.approx(20 * side[2], rel=1e-2)


def test_it_falls_as_it_rises():
    falling = fit(still(ramped({"from": 1.5, "to": 0, "epochs": 3})), epochs=5)
    assert falling["reconstruction_weight"] == [1.5, 1.0, 0.5, 0, 0]


def test_outside_of_fit_it_is_the_last_one():
    model = still(ramped())
    margin, reconstruction = parts(model)
    whole = (margin.mean() + 20 * reconstruction.mean()).item()
    assert model.side_loss_weights == {"reconstruction": 20}
    fit(model, epochs=1)
    with pytest.raises(Killed):
        for _ in range(2):
            fit(model, Kill())
    assert model.side_loss_weights == {"reconstruction": 20}
    fresh = still(ramped())
    assert fresh.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)["loss"] == pytest.approx(whole, rel=1e-5)


def test_a_loop_of_the_users_own_says_which_epoch_it_is():
    model = still(ramped())
    losses = {}
    for epoch in (0, 1, None):
        model.set_epoch(epoch)
        prediction = model(IMAGES, training=True)
        losses[epoch] = model.compute_loss(IMAGES, torch.tensor(LABELS), prediction).item()
    assert losses[1] - losses[0] == pytest.approx(losses[None] - losses[1], rel=0.02)
    assert losses[1] - losses[0] > 10
    assert model.side_loss_weights == {"reconstruction": 20}


@pytest.mark.parametrize("as_given", [lambda kill: kill, lambda kill: keras.callbacks.CallbackList([kill])])
def test_callbacks_come_in_any_form(as_given):
    model = compiled(ramped())
    model.fit(IMAGES, LABELS, 3, 2, 0, as_given(Kill()))
    assert model.last_logs["reconstruction_weight"] == 10


def test_epochs_count_from_the_initial_one():
    model = still(ramped())
    history = model.fit(IMAGES, LABELS, epochs=3, initial_epoch=1, verbose=0).history
    assert history["reconstruction_weight"] == [10, 20]


def test_a_training_that_was_killed_in_a_ramp_ends_as_if_it_was_not(tmp_path, capsys):
    def trained(name, *more):
        model = compiled(ramped({"from": 0, "to": 0.7, "epochs": 3}), "adam")
        table = MetricsFile(tmp_path / name / "metrics.csv")
        table.path.parent.mkdir(exist_ok=True)
        board = TensorBoard(tmp_path / name / "board")
        resume = Resume(tmp_path / name / "resume", also=[table, board], minutes=0)
        fit(model, resume, table, board, Progress(6, Console()), *more)
        return weights_of(model), table.path.read_text(), tmp_path / name

    whole = trained("whole")
    with pytest.raises(Killed):
        trained("parts", Kill())
    parts = trained("parts")
    assert whole[:2] == parts[:2]
    rows = list(csv.DictReader(whole[1].splitlines()))
    assert [float(row["reconstruction_weight"]) for row in rows] == [0, pytest.approx(0.7 / 3), 0.7 * 2 / 3, 0.7]
    for _, _, folder in (whole, parts):
        curve = EventAccumulator(str(folder / "board")).Reload().Scalars("reconstruction_weight/training")
        assert [(event.step, round(event.value, 4)) for event in curve] == [(1, 0), (2, 0.2333), (3, 0.4667), (4, 0.7)]
    assert "reconstruction_weight" not in capsys.readouterr().out


def test_saved_and_cloned_models_have_the_ramp(tmp_path):
    model = build_model(ramped())
    model.save(tmp_path / "model.keras")
    for other in (load_model(tmp_path / "model.keras"), keras.models.clone_model(model)):
        assert other.spec["losses"]["reconstruction"]["weight"] == RAMP
        other.compile("sgd", other.make_losses())
        assert fit(other, epochs=3)["reconstruction_weight"] == [0, 10, 20]


def test_variables_overrides_and_sweeps_vary_it():
    spec = {**ramped({"from": 0, "to": "$most", "epochs": 2}), "vars": {"most": 5}}
    assert check_spec(spec).resolved["losses"]["reconstruction"]["weight"]["to"] == 5
    changed = check_spec(spec, ["losses.reconstruction.weight.epochs=7"]).side_losses[0]
    assert changed.weight.in_epoch(7) == 5
    assert check_spec(spec, ["losses.reconstruction.weight=0.5"]).side_losses[0].weight == 0.5
    swept = {**SPEC, "sweep": {"grid": {"losses.reconstruction.weight": [0.5, RAMP]}}}
    labels = [variant.label for variant in examine_spec(swept).variants]
    assert labels == ["weight=0.5", "weight={from: 0, to: 20, epochs: 2}"]
