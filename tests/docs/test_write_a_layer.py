"""The layer of write_a_layer.md, from its tests to a trained network."""

import json
import runpy

import pytest
from support.commands import refused
from support.pages import PROJECT, files
from support.plugins import without_plugins

from encapkeras.cli.main import main

PAGE = PROJECT / "docs" / "write_a_layer.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_tests_pass(folder):
    tests = runpy.run_path("test_my_layers.py")
    tests["test_numbers"]()
    tests["test_gradients"]()
    tests["test_saved_and_loaded"](folder)


def test_it_is_trained_and_measured_with_the_plugin_or_its_copy(folder, capsys):
    words = ["--set", "train.epochs=1", "--set", "data.validation=0.7", "--run-dir", "runs/mixed"]
    assert main(["train", "mixed.yaml", "--plugin", "my_layers.py", *words]) == 0
    capsys.readouterr()
    assert main(["evaluate", "runs/mixed", "--plugin", "my_layers.py", "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    with without_plugins():
        message = refused(capsys, "evaluate", "runs/mixed").replace(str(folder), "/home/you")
        assert " ".join(message.split()) in " ".join(PAGE.read_text().split())
        (folder / "my_layers.py").unlink()
        copy = "runs/mixed/plugins/my_layers.py"
        assert f"--plugin {copy}" in refused(capsys, "evaluate", "runs/mixed")
        assert main(["evaluate", "runs/mixed", "--plugin", copy, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == accuracy


def test_editors_know_it(folder):
    assert main(["schema", "--plugin", "my_layers.py", "-o", "mixed.schema.json"]) == 0
    text = (folder / "mixed.schema.json").read_text()
    assert "Mixes capsule types" in text
    assert "Number M of output types." in text


def test_a_plugin_of_a_loss_and_a_data_set_is_trained(folder, capsys):
    plugins = ["--plugin", "my_layers.py", "--plugin", "my_parts.py"]
    words = ["--set", "train.epochs=3", "--run-dir", "runs/stripes"]
    assert main(["train", "stripes.yaml", *plugins, *words]) == 0
    assert json.loads((folder / "runs/stripes/results.json").read_text())["test_accuracy"] > 0.5
    records = json.loads((folder / "runs/stripes/environment.json").read_text())["plugins"]
    assert [record["registers"] for record in records] == [
        {"layer": ["mix_types"]},
        {"loss": ["short_capsules"], "data set": ["stripes"]},
    ]
