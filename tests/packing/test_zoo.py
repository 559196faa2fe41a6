"""The packed models that come with encapkeras are what their cards say."""

import json
from pathlib import Path

import pytest
from support.dataset_files import digit_files

import encapkeras
from encapkeras import load_spec
from encapkeras.cli.main import main
from encapkeras.data import load
from encapkeras.packing.zoo import ZOO, zoo_models
from encapkeras.spec.bundled import bundled_names
from encapkeras.training.measure import compile_with_losses, measure_metrics
from encapkeras.training.run.identity import first_difference

MODELS = sorted(zoo_models())
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of a Debian package
NEEDS_FASHION_MNIST = [pytest.mark.slow, pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason=f"no {FASHION_MNIST}")]
LEAST = {"digits_dynamic": 0.97, "digits_em": 0.97, "fashion_mnist": 0.94}


def results_of(name):
    return json.loads((zoo_models()[name] / "results.json").read_text())


def test_these_are_packed():
    assert set(MODELS) == set(LEAST)


def test_together_they_are_small():
    assert sum(file.stat().st_size for file in ZOO.rglob("*") if file.is_file()) < 8_000_000


@pytest.mark.parametrize("name", MODELS)
def test_they_are_packed_from_the_specs_as_they_are_now(name):
    """After a change of its spec, train the model and pack it anew, as docs/ready_weights.md says."""
    packed = load_spec(zoo_models()[name] / "spec.yaml").resolved
    bundled = load_spec(bundled_names()[packed["name"]]).resolved
    assert not first_difference(packed, bundled)


@pytest.mark.parametrize("name", MODELS)
def test_their_licence_is_stated(name):
    assert "license: apache-2.0\n" in (zoo_models()[name] / "README.md").read_text()
    assert "Apache License" in (zoo_models()[name] / "LICENSE").read_text()


@pytest.mark.parametrize(
    "name", ["digits_dynamic", "digits_em", pytest.param("fashion_mnist", marks=NEEDS_FASHION_MNIST)]
)
def test_their_accuracy_is_the_stated_one(name):
    model, results = encapkeras.load(name), results_of(name)
    spec = load_spec(zoo_models()[name] / "spec.yaml")
    compile_with_losses(model)
    found = measure_metrics(model, load(spec.data, seed=spec.train.seed).test)
    assert found["accuracy"] == pytest.approx(results["packed"]["accuracy"], abs=1e-6)
    assert found["accuracy"] == pytest.approx(results["runs"][0]["test_accuracy"], abs=1e-6)
    assert found["accuracy"] >= LEAST[name]


def test_predict_takes_their_names_and_says_whose_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "digits_dynamic", str(digit_files(tmp_path / "images", 1)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == str(zoo_models()["digits_dynamic"] / "model.keras")
    assert len(found["images"][0]["classes"]) == 3
