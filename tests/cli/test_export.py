"""`encapkeras export`."""

import pytest
import torch
from support.commands import refused

from encapkeras import load_model
from encapkeras.cli.main import main


@pytest.fixture
def run(tiny_run):
    return tiny_run


def test_the_network_that_training_chose_is_written(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "--format", "torch"]) == 0
    assert "tiny.pt2: 'tiny'," in capsys.readouterr().out
    images = torch.rand(5, 32, 32, 1)
    best = load_model(run / "checkpoints" / "best.keras")
    found = torch.export.load("tiny.pt2").module()(images)
    torch.testing.assert_close(found, best(images, training=False), rtol=0, atol=1e-6)


def test_a_keras_file_is_enough(run, tmp_path):
    model = run / "checkpoints" / "last.keras"
    assert main(["export", str(model), "-o", str(tmp_path / "copy.keras")]) == 0
    assert load_model(tmp_path / "copy.keras").count_params() == load_model(model).count_params()


def test_mistakes_are_told(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.onnx").touch()
    assert "'tiny.onnx' already exists" in refused(capsys, "export", run, "--format", "onnx")
    wrong = refused(capsys, "export", run, "--format", "torch", "-o", "tiny.onnx")
    assert wrong.startswith(
        "-o must name a .pt2 file for --format torch; received 'tiny.onnx'. Without --format torch,"
    )
    assert "-o must name a .keras or .pt2 or .onnx file" in refused(capsys, "export", run, "-o", "tiny.h5")
    assert "such as -o network.onnx" in refused(capsys, "export", run)
    assert "nowhere" in refused(capsys, "export", "nowhere", "--format", "torch")
    assert (tmp_path / "tiny.onnx").read_bytes() == b""
