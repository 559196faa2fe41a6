"""What a newcomer does first: run with the oldest versions, too, it shows that the package works with them at all."""

import json

import numpy as np
import pytest
from support.tiny_spec import tiny_spec
from support.trained import trained

import encapkeras
from encapkeras.cli.main import main

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("smoke"), tiny_spec(epochs=2))


def test_a_run_has_results_metrics_pictures_and_weights(run):
    results = json.loads((run / "results.json").read_text())
    assert results["test_accuracy"] > 0.1 and np.isfinite(results["test_loss"])
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    model = encapkeras.load_model(run / "checkpoints" / "best.keras")
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_a_run_is_evaluated_to_the_same_accuracy(run, capsys):
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert json.loads((run / "results.json").read_text())["test_accuracy"] == pytest.approx(evaluated["accuracy"])


@pytest.mark.parametrize("command", [["check"], ["show"], ["show", "--mermaid"]], ids=" ".join)
def test_a_bundled_spec_is_checked_and_shown(command, capsys):
    assert main([command[0], "capsnet_dynamic_digits", *command[1:]]) == 0
    assert "digits" in capsys.readouterr().out


def test_a_mistake_is_shown_at_its_place(tmp_path, capsys):
    file = tmp_path / "spec.yaml"
    file.write_text("name: [not closed\n")
    assert main(["check", str(file)]) != 0
    assert "spec.yaml:" in capsys.readouterr().err
    file.write_text("train: {epochs: many}\n")
    assert main(["check", str(file)]) != 0
    assert "must be an integer; received 'many'" in capsys.readouterr().err
