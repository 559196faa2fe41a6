"""Figures that side losses report beside their values: in the history, metrics.csv and TensorBoard, not in the way."""

import csv

import keras
import pytest
import torch
from support.side_loss_spec import IMAGES, LABELS, compiled, spec_with
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras import load_spec
from encapkeras.errors import ArgumentError, TrainingError
from encapkeras.losses import SideLoss
from encapkeras.training import train

ALIGN = {"loss": "optimal_transport", "latent": "stage", "target": "stage/input", "critic": "none", "weight": 0.1}
FIGURES = ("align_mean_cost", "align_marginal_error", "align_plan_entropy")


@pytest.fixture
def activity(registered):
    @registered("test_activity")
    class Activity(SideLoss):
        """Mean square of a tensor; reports its extremes.

        Call arguments:
            features: Any tensor.
        """

        metric_names = ("largest", "smallest")

        def call(self, features):
            self.report(smallest=features.min(), largest=features.max())
            return features.square().flatten(1).mean(1)

    return Activity


def test_figures_are_means_over_the_batches(activity):
    model = compiled(spec_with({"mine": {"loss": "test_activity", "features": "stage"}}))
    assert model.side_figures == ["mine_largest", "mine_smallest"]
    logs = model.evaluate(IMAGES, LABELS, batch_size=4, return_dict=True, verbose=0)
    stage = keras.Model(model.input, model.port("stage"))(IMAGES)
    largest = [stage[:4].max().item(), stage[4:].max().item()]
    assert logs["mine_largest"] == pytest.approx((4 * largest[0] + 2 * largest[1]) / 6, rel=1e-5)
    history = model.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS), verbose=0).history
    shown = {"mine_loss", "mine_largest", "mine_smallest"}
    assert shown | {f"val_{name}" for name in shown} <= set(history)


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}], ids=str)
def test_however_the_model_is_compiled(how, activity):
    spec = spec_with({"mine": {"loss": "test_activity", "features": "stage"}, "align": ALIGN})
    usual, model = compiled(spec), compiled(spec)
    model.compile(optimizer="sgd", loss=model.make_losses(), loss_weights=model.loss_weights, **how)
    expected = usual.fit(IMAGES, LABELS, batch_size=3, shuffle=False, verbose=0).history
    received = model.fit(IMAGES, LABELS, batch_size=3, shuffle=False, verbose=0).history
    for name in ("loss", "mine_loss", "align_loss", *usual.side_figures):
        assert received[name] == pytest.approx(expected[name])


def test_names_that_were_not_announced_are_refused(activity):
    class Other(activity):
        metric_names = ("largest",)

    message = r"other must report the metrics \['largest'\]; it reported \['largest', 'smallest'\]"
    with pytest.raises(ArgumentError, match=message):
        Other(name="other")(features=torch.ones(2, 3))


def test_an_announced_figure_must_be_reported(activity, registered):
    @registered("test_silent")
    class Silent(activity):
        """As its base, but silent.

        Call arguments:
            features: Any tensor.
        """

        def call(self, features):
            return features.square().flatten(1).mean(1)

    model = compiled(spec_with({"mine": {"loss": "test_silent", "features": "stage"}}))
    message = r"loss 'mine' has metrics \['largest', 'smallest'\] but reports none of them"
    with pytest.raises(TrainingError, match=message):
        model.fit(IMAGES, LABELS, verbose=0)


def test_a_figure_is_not_the_loss(activity):
    with pytest.raises(TypeError, match="a metric cannot be called 'loss'"):

        class Other(activity):
            metric_names = ("loss",)


def test_a_run_writes_them_and_the_console_does_not_show_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # room for all that is shown
    spec = spec_with({"align": ALIGN})
    del spec["losses"]["reconstruction"]
    spec["data"]["batch_size"] = 256
    spec["train"] = {"epochs": 2}
    train(load_spec(spec), tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    for name in ("align_loss", *FIGURES):
        points = accumulator.Scalars(f"{name}/training")
        assert [point.step for point in points] == [1, 2]
        assert [float(row[name]) for row in rows] == pytest.approx([point.value for point in points], rel=1e-5)
    printed = capsys.readouterr().out
    assert printed.count(" align_loss ") == 2
    assert not any(name in printed for name in FIGURES)
