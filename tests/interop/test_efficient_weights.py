"""Published weights of Efficient-CapsNet: named arrays, and files of Keras 2 with names that Keras gave."""

import h5py
import numpy as np
import pytest
import torch
from support.weights import assert_same, fill, values

from encapkeras import build_model, load_model
from encapkeras.cli.main import main
from encapkeras.errors import CheckpointError
from encapkeras.interop import load_original_state_dict, original_state_dict, read_checkpoint

SPECS = ["efficient_capsnet", "efficient_capsnet_small_norb"]


@pytest.fixture(scope="module", params=SPECS)
def network(request):
    model = build_model(request.param)
    fill(model)
    return model


def arrays(model):
    return {name: tensor.numpy() for name, tensor in original_state_dict(model).items()}


def in_keras_2(name, first=0):
    """The path of an array in a file of Keras 2, whose program made `first` layers of each kind before."""
    *places, leaf = name.split(".")
    decodes, part = places[0] == "decoder", places[-1]
    kind, number = part.rstrip("0123456789"), int(part.lstrip("abcdefghijklmnopqrstuvwxyz") or 1)
    network = "Generator" if decodes else "Efficient_CapsNet"
    if part == "caps":
        return f"{network}/fc_caps/{leaf}:0"
    if part == "primary":
        return f"{network}/primary_caps/conv2d_{first + 4}/{leaf}:0"
    kinds = {"conv": "conv2d", "bn": "batch_normalization", "in": "instance_normalization", "dense": "dense"}
    number += first - 1 + (5 if decodes and kind == "conv" else 0)
    return f"{network}/{kinds[kind]}{f'_{number}' if number else ''}/{leaf}:0"


def write_keras_2(path, found, first=0, root=""):
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.4.0"
        file.create_group("top_level_model_weights")
        for name, array in found.items():
            file[root + in_keras_2(name, first)] = array
        if root:
            file["optimizer_weights/Adam/conv2d/kernel/m:0"] = np.zeros((5, 5, 1, 32), np.float32)


def test_names_and_layouts_are_those_of_published_weights(network):
    found = {name: array.shape for name, array in arrays(network).items()}
    height = 9 if "bn1.gamma" in found else 8
    assert found["primary.kernel"] == (height, height, 1, 128)
    assert found["caps.W"] == ((10 if height == 9 else 5), 16, 8, 16)
    assert found["caps.b"] == (found["caps.W"][0], 16, 1)
    assert found["conv1.kernel"] == ((5, 5, 1, 32) if height == 9 else (7, 7, 2, 32))
    decoder = {name for name in found if name.startswith("decoder.")}
    assert len(decoder) == (6 if height == 9 else 10)
    assert found["decoder.dense1.kernel"] == ((160, 512) if height == 9 else (80, 64))
    if height == 8:
        assert found["decoder.conv4.kernel"] == (3, 3, 128, 2)


@pytest.mark.parametrize("kind", ["npz", "h5", "h5 of a long program", "hdf5 with an optimizer"])
def test_files_are_read_by_the_command(network, kind, tmp_path, capsys):
    path, made = tmp_path / f"weights.{kind.split()[0]}", tmp_path / "made.keras"
    if kind == "npz":
        np.savez(path, **arrays(network))
    else:
        first, root = (7, "") if "long" in kind else (0, "model_weights/" if "optimizer" in kind else "")
        write_keras_2(path, arrays(network), first, root)
    assert main(["import-weights", network.name, str(path), "-o", str(made)]) == 0
    assert f"'{network.name}' with {len(network.weights)} tensors" in capsys.readouterr().out
    assert_same(load_model(made), values(network))


def test_layers_that_are_called_as_parts_keep_their_names(network, tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for name, array in arrays(network).items():
            *layer, leaf = name.split(".")
            file["/".join([*layer, *layer, f"{leaf}:0"])] = array
    read = read_checkpoint(tmp_path / "weights.h5")
    assert read.keys() == arrays(network).keys()


def test_weights_of_another_network_are_named_all_at_once(tmp_path, capsys):
    other = build_model("efficient_capsnet_small_norb")
    for file in ("weights.npz", "weights.h5"):
        path = tmp_path / file
        np.savez(path, **arrays(other)) if file.endswith("npz") else write_keras_2(path, arrays(other))
        assert main(["import-weights", "efficient_capsnet", str(path), "-o", str(tmp_path / "made.keras")]) == 2
        error = capsys.readouterr().err
        for line in (
            "bn1.gamma: missing; the network needs shape (32,)",
            "conv1.kernel: has shape (7, 7, 2, 32); the network needs (5, 5, 1, 32)",
            "caps.W: has shape (5, 16, 8, 16); the network needs (10, 16, 8, 16)",
            "decoder.conv4.bias: the network has no such tensor",
            "in4.beta: the network has no such tensor",
        ):
            assert line in error
        assert not (tmp_path / "made.keras").exists()


def test_a_decoder_that_only_one_has_is_named():
    whole, encoder = build_model(SPECS[0]), build_model(SPECS[0], ["losses.reconstruction=null"])
    with pytest.raises(CheckpointError, match=r"The file has no decoder.*--set losses\.reconstruction=null"):
        load_original_state_dict(whole, original_state_dict(encoder))
    with pytest.raises(CheckpointError, match="The network has no decoder: the spec needs a reconstruction loss"):
        load_original_state_dict(encoder, original_state_dict(whole))
    state_dict = original_state_dict(encoder)
    state_dict["bn2.moving_variance"] = -state_dict["bn2.moving_variance"]
    with pytest.raises(CheckpointError, match=r"bn2\.moving_variance: has variances below 0"):
        load_original_state_dict(encoder, state_dict)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    good = tmp_path / "good.npz"
    np.savez(good, a=np.zeros(3, np.float32))
    assert torch.equal(read_checkpoint(good)["a"], torch.zeros(3))
    for name, content, message in [
        ("cut.npz", good.read_bytes()[:-30], "cannot be read as a .npz file"),
        ("text.h5", b"no file of arrays", "cannot be read as an .h5 file of Keras 2"),
        ("missing.npz", None, "cannot be read as a .npz file"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / name)
    np.savez(tmp_path / "whole.npz", labels=np.arange(3), names=np.array(["a"]))
    with pytest.raises(CheckpointError, match="holds no arrays of floating-point numbers, but labels, names"):
        read_checkpoint(tmp_path / "whole.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(CheckpointError, match=r"cannot be read as a \.npz file"):
        read_checkpoint(tmp_path / "objects.npz")
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("kernel:0", shape=(1 << 20, 1 << 20), dtype="f4", chunks=(1, 1 << 20))
    with pytest.raises(CheckpointError, match="it says that it holds 1,099,511,627,776 numbers"):
        read_checkpoint(tmp_path / "huge.h5")
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file.create_dataset("kernel:0", shape=(3,), dtype="f4", external=[(str(good), 0, 12)])
    with pytest.raises(CheckpointError, match="refers to other files, which are not read: kernel:0"):
        read_checkpoint(tmp_path / "outside.h5")


def test_what_the_original_does_not_have_is_named():
    with pytest.raises(CheckpointError) as error:
        original_state_dict(
            build_model(SPECS[0], ["model.nodes.primary.depthwise=false", "model.nodes.caps.matrices=type"])
        )
    assert "node 'primary' (primary_capsules) is not depthwise" in str(error.value)
    assert "node 'caps' (self_attention_capsules) has other matrices" in str(error.value)
