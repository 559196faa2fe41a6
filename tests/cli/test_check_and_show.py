"""`encapkeras check` and `encapkeras show`."""

import json

import pytest

from encapkeras.cli.main import main


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("extends: quickstart.yaml\nmodel: {nodes: {stem: {fliters: 3}}}\n")
    return "wrong.yaml"


def test_check_says_how_large_a_sound_network_is(capsys):
    assert main(["check", "encapnet_master"]) == 0
    assert capsys.readouterr().out == "encapnet_master: ok, 7 nodes, 1,757,440 parameters\n"


def test_check_takes_overrides(capsys):
    assert main(["check", "quickstart", "--set", "vars.types=4", "--set", "model.nodes.stem.filters=8"]) == 0
    assert "quickstart: ok, 5 nodes" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "show"])
def test_mistakes_are_reported_without_a_traceback(command, wrong, capsys):
    assert main([command, wrong, "--set", "train.epohcs=3"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "--set  train.epohcs\n    'epohcs' is not allowed here. Did you mean 'epochs'?\n"
        "wrong.yaml:2:24  model.nodes.stem.fliters\n"
        "    2 | model: {nodes: {stem: {fliters: 3}}}\n"
        "      |                        ^^^^^^^\n"
        "    'fliters' is not an argument of layer 'conv_bn_relu'. Did you mean 'filters'?\n"
        "2 mistakes found\n"
    )


def test_show_prints_every_node_with_its_shape_and_weights(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["show", "resnet14"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("keras.BatchNormalization" in line for line in lines) == 8
    assert any("projected3" in line and "16 x 16 x 32" in line and "64" in line for line in lines)
    assert "parameters: 175,258" in lines


def test_show_prints_json(capsys):
    assert main(["show", "quickstart", "--json", "--set", "model.nodes.stem.trainable=false"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [node["name"] for node in shown["nodes"]] == ["stem", "stage1", "stage2", "digits", "lengths"]
    assert shown["nodes"][1]["output_shape"] == [8, 8, 8, 4]
    assert shown["nodes"][1]["inputs"] == ["stem"]
    assert (shown["nodes"][0]["weights"], shown["nodes"][0]["fixed_weights"]) == (0, 9 * 16 + 16 + 4 * 16)
    assert shown["parameters"] == sum(node["weights"] for node in shown["nodes"])
    assert shown["fixed_parameters"] == sum(node["fixed_weights"] for node in shown["nodes"])


UNUSED = ["--set", "model.outputs.classes=stage1"]  # and with it stage2, digits and lengths reach no output


def test_show_names_the_nodes_that_reach_no_output(capsys):
    line = "unused: stage2, digits, lengths (reach no output)"
    assert main(["show", "quickstart", *UNUSED]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == line
    assert main(["show", "quickstart", "--json", *UNUSED]) == 0
    assert json.loads(capsys.readouterr().out)["unused"] == ["stage2", "digits", "lengths"]


def test_the_file_name_of_a_bundled_spec_leads_to_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "quickstart.yaml"]) == 2
    assert "The bundled spec is called 'quickstart', without '.yaml'." in capsys.readouterr().err
