"""`encapkeras import-weights` and `export-weights`."""

import sys

import pytest
import torch
from support.commands import refused
from support.weights import assert_same, fill, values

from encapkeras import build_model, load_model, load_spec
from encapkeras.cli.main import main
from encapkeras.data import load
from encapkeras.interop import original_state_dict, read_checkpoint
from encapkeras.training import measure

SPEC = "capsnet_dynamic_digits"


@pytest.fixture(scope="module")
def network():
    model = build_model(SPEC)
    fill(model)
    return model


@pytest.fixture
def checkpoint(network, tmp_path):
    """As the original saves one on several GPUs."""
    content = {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in original_state_dict(network).items()}}
    torch.save(content, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_checkpoint_becomes_a_model_and_a_checkpoint_again(network, checkpoint, tmp_path, capsys):
    made, back = tmp_path / "made.keras", tmp_path / "back.pth"
    assert main(["import-weights", SPEC, str(checkpoint), "-o", str(made)]) == 0
    assert capsys.readouterr().out == f"{made}: 'capsnet_dynamic_digits' with 14 tensors, 102,528 parameters\n"
    assert_same(load_model(made), values(network))

    assert main(["export-weights", str(made), "-o", str(back)]) == 0
    assert capsys.readouterr().out == f"{back}: 'capsnet_dynamic_digits' with 14 tensors, 102,528 parameters\n"
    expected = original_state_dict(network)
    received = read_checkpoint(back)
    assert received.keys() == expected.keys()
    assert all(torch.equal(received[name], tensor) for name, tensor in expected.items())
    assert names(tmp_path) == ["back.pth", "made.keras", "model.pth"]


def test_an_imported_model_is_evaluated(checkpoint, tmp_path):
    made = tmp_path / "made.keras"
    assert main(["import-weights", SPEC, str(checkpoint), "-o", str(made)]) == 0
    splits = load(load_spec(SPEC).data, seed=0)
    assert 0 <= measure(made, splits.test, splits.info)["accuracy"] <= 1


def test_set_changes_the_network(checkpoint, tmp_path, capsys):
    words = ["import-weights", SPEC, checkpoint, "-o", tmp_path / "made.keras", "--set", "vars.filters=32"]
    message = refused(capsys, *words)
    assert "tranfer_conv.weight: has shape (64, 1, 9, 9); the network needs (32, 1, 9, 9)" in message
    assert names(tmp_path) == ["model.pth"]


def test_an_output_that_exists_is_replaced_only_if_asked(network, checkpoint, tmp_path, capsys):
    made = tmp_path / "made.keras"
    made.write_text("mine")
    words = ["import-weights", SPEC, str(checkpoint), "-o", str(made)]
    assert "already exists. Name another file with -o, or replace it with --overwrite." in refused(capsys, *words)
    assert made.read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert_same(load_model(made), values(network))


def test_a_link_that_leads_nowhere_exists(checkpoint, tmp_path, capsys):
    made = tmp_path / "made.keras"
    made.symlink_to(tmp_path / "gone.keras")
    assert "already exists" in refused(capsys, "import-weights", SPEC, checkpoint, "-o", made)
    assert made.is_symlink()


def test_the_file_to_read_is_not_written(network, tmp_path, capsys):
    both, link = tmp_path / "both.keras", tmp_path / "link.keras"
    torch.save(original_state_dict(network), both)
    link.symlink_to(both)
    content = both.read_bytes()
    for output in (both, link):
        message = refused(capsys, "import-weights", SPEC, both, "-o", output, "--overwrite")
        assert message.strip().endswith(f"'{output}' is the file to read. Name another file with -o.")
    assert both.read_bytes() == content


def test_a_spec_comes_first(checkpoint, tmp_path, capsys):
    for first in (checkpoint, tmp_path / "model.keras"):
        message = refused(capsys, "import-weights", first, checkpoint, "-o", tmp_path / "made.keras")
        assert "takes a spec first, a YAML file or the name of a bundled spec, then the checkpoint" in message
        assert f"received '{first}' as the spec" in message


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("made.h5", "-o must name a .keras file; received"),
        ("made", "-o must name a .keras file; received"),
        ("none/made.keras", "is not a folder. Create it first."),
        ("folder.keras", "is a folder. Name a file in it with -o."),
    ],
)
def test_outputs_that_cannot_be(output, text, checkpoint, tmp_path, capsys):
    (tmp_path / "folder.keras").mkdir()
    assert text in refused(capsys, "import-weights", SPEC, checkpoint, "-o", tmp_path / output, "--overwrite")
    assert names(tmp_path) == ["folder.keras", "model.pth"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a folder that takes no files from anybody")
def test_a_folder_that_takes_no_files(checkpoint, capsys):
    assert "could not be written" in refused(capsys, "import-weights", SPEC, checkpoint, "-o", "/proc/made.keras")


def test_a_failed_write_leaves_the_old_file(checkpoint, tmp_path, capsys, monkeypatch):
    made = tmp_path / "made.keras"
    made.write_text("mine")

    def full(self, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("encapkeras.model.SpecModel.save", full)
    words = ["import-weights", SPEC, checkpoint, "-o", made, "--overwrite"]
    assert "could not be written: No space left on device" in refused(capsys, *words)
    assert made.read_text() == "mine"
    assert names(tmp_path) == ["made.keras", "model.pth"]


def test_checkpoints_that_cannot_be(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("text")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    for file, text in {
        "none.pth": "cannot be read",
        "text.pth": "is not a file of torch.save",
        "module.pth": "could run code from the file, so it is refused",
    }.items():
        assert text in refused(capsys, "import-weights", SPEC, tmp_path / file, "-o", tmp_path / "made.keras")
    assert names(tmp_path) == ["module.pth", "text.pth"]


def test_specs_that_cannot_be(checkpoint, tmp_path, capsys):
    message = refused(capsys, "import-weights", "capsnet_sabour", checkpoint, "-o", tmp_path / "made.keras")
    assert "node 'conv' (keras.Conv2D) has no counterpart" in message
    assert "none.yaml" in refused(capsys, "import-weights", "none.yaml", checkpoint, "-o", tmp_path / "made.keras")


def test_models_that_cannot_be_exported(tmp_path, capsys):
    import keras

    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "plain.keras")
    (tmp_path / "text.keras").write_text("text")
    for file, text in {
        "none.keras": "there is no such file",
        "text.keras": "it is not a .keras file, or is damaged",
        "plain.keras": "make the model with encapkeras.build_model",
    }.items():
        assert text in refused(capsys, "export-weights", tmp_path / file, "-o", tmp_path / "out.pth")
    assert "-o must name a .pth or .pt file" in refused(capsys, "export-weights", "any.keras", "-o", "out.keras")
    assert names(tmp_path) == ["plain.keras", "text.keras"]
