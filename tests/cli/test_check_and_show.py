"""`encapkeras check` and `encapkeras show`."""

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
        "2 errors found\n"
    )


def test_the_file_name_of_a_bundled_spec_leads_to_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "quickstart.yaml"]) == 2
    assert "The bundled spec is called 'quickstart', without '.yaml'." in capsys.readouterr().err
