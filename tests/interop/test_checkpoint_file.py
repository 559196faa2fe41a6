"""Files of `torch.save`, and files that are none."""

import gc
import os
import pickle
import shutil
import warnings
import zipfile

import numpy as np
import pytest
import torch

from encapkeras.errors import CheckpointError, RunFolderError, TrainingError
from encapkeras.interop import read_checkpoint, write_checkpoint

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def assert_weights(received):
    assert received.keys() == WEIGHTS.keys()
    assert all(torch.equal(received[name], tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.smoke
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as before torch 1.6"])
def test_a_plain_state_dict(tmp_path, zipped):
    torch.save(WEIGHTS, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_weights(read_checkpoint(tmp_path / "a.pth"))


@pytest.mark.parametrize("key", ["state_dict", "model", "net"])
def test_a_state_dict_among_other_things(tmp_path, key):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    content = {"epoch": 7, "error": torch.tensor(0.1), key: WEIGHTS, "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "a.pth")
    assert_weights(read_checkpoint(tmp_path / "a.pth"))


def test_weights_at_the_top_are_taken_whole(tmp_path):
    content = {**WEIGHTS, "more": {"c.weight": torch.ones(2)}}
    torch.save(content, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").keys() == content.keys()


def test_a_random_state_and_single_numbers_are_no_weights(tmp_path):
    content = {"rng": torch.get_rng_state(), "best": torch.tensor(0.1), "meters": {"loss": torch.tensor(0.1)}}
    torch.save({**content, "model": WEIGHTS}, tmp_path / "a.pth")
    assert_weights(read_checkpoint(tmp_path / "a.pth"))


def test_a_written_checkpoint_is_read_again(tmp_path):
    write_checkpoint(WEIGHTS, tmp_path / "a.pth")
    assert_weights(read_checkpoint(tmp_path / "a.pth"))
    assert_weights(torch.load(tmp_path / "a.pth"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    with pytest.raises(RunFolderError, match="could not be written"):
        write_checkpoint(WEIGHTS, tmp_path / "none" / "a.pth")
    gc.collect()  # a buffer that outlives its BytesIO is an error of its own since Python 3.13, and fails the test here


def refused(path):
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    return str(error.value)


def test_several_state_dicts_are_not_chosen_from(tmp_path):
    torch.save({"model": WEIGHTS, "average": WEIGHTS}, tmp_path / "a.pth")
    assert "holds several maps of tensors, under 'model', 'average'. Save the one you mean" in refused(
        tmp_path / "a.pth"
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"epoch": 3}, "but a map of 'epoch'"),
        ({}, "but a map of nothing"),
        ({"epoch": torch.tensor(3.0)}, "but a map of 'epoch'"),
        ([torch.zeros(1)], "but a list"),
        (torch.zeros(1), "but a Tensor"),
        ({f"key{i:04}": i for i in range(99)}, "and 79 more"),
    ],
)
def test_other_content(tmp_path, content, text):
    torch.save(content, tmp_path / "a.pth")
    message = refused(tmp_path / "a.pth")
    assert "holds no state dict (a map of floating-point tensors by name), but a" in message
    assert message.endswith(text)
    assert len(message) < 500


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):  # a function of Python's own code: modules of built-in ones depend on the version
        return shutil.copyfile, (__file__, str(self.path))


@pytest.mark.smoke
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path, zipped):
    torch.save({**WEIGHTS, "x": Runs(tmp_path / "ran")}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = refused(tmp_path / "a.pth")
    assert "holds more than numbers: it needs shutil.copyfile" in message
    assert "torch.save(model.state_dict(), file)" in message
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    assert "it needs torch.nn.modules.linear.Linear" in refused(tmp_path / "a.pth")


def text(path):
    path.write_text("epoch 1: loss 0.1")


def nothing(path):
    path.touch()


def half(path):
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-200])


def other_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "text")


def array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def plain_pickle(path):
    path.write_bytes(pickle.dumps({"weight": 3}))


@pytest.mark.parametrize("make", [text, nothing, half, other_zip, array, plain_pickle])
def test_other_files(tmp_path, make):
    make(tmp_path / "a.pth")
    assert refused(tmp_path / "a.pth") == f"'{tmp_path / 'a.pth'}' is not a file of torch.save, or is damaged"


def test_a_changed_byte_is_found(tmp_path):
    write_checkpoint(WEIGHTS, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    numbers = WEIGHTS["a.weight"].numpy().tobytes()
    assert content.count(numbers) == 1
    (tmp_path / "a.pth").write_bytes(content.replace(numbers, numbers[:-1] + bytes([numbers[-1] ^ 1])))
    message = refused(tmp_path / "a.pth")
    assert f"'{tmp_path / 'a.pth'}' is damaged: '" in message
    assert "in it does not have its checksum. Get the file again." in message


def as_folder(data, entry):
    """The attribute bit of a folder: torch then hands out memory as it finds it."""
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4 * entry) + 38
    return data[:at] + bytes([data[at] | 0x10]) + data[at + 1 :]


@pytest.mark.parametrize("entry", range(5))
def test_a_directory_that_says_otherwise_is_refused(tmp_path, entry):
    write_checkpoint(WEIGHTS, tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(as_folder((tmp_path / "a.pth").read_bytes(), entry))
    with zipfile.ZipFile(tmp_path / "a.pth") as file:
        assert file.testzip() is None
    assert "an entry in it is" in refused(tmp_path / "a.pth")


def parts(path):
    write_checkpoint(WEIGHTS, path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def compressed(path):
    content = parts(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)


def shorter(path):
    content = parts(path)
    name = next(name for name in content if name.endswith("data/0"))
    with zipfile.ZipFile(path, "w") as file:
        for each, data in content.items():
            file.writestr(each, data[:4] if each == name else data)


def longer(path):
    content = parts(path)
    name = next(name for name in content if name.endswith("data/1"))
    with zipfile.ZipFile(path, "w") as file:
        for each, data in content.items():
            file.writestr(each, data + b"1234" if each == name else data)


def doubled(path):
    content = parts(path)
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in [*content.items(), *content.items()]:
            file.writestr(name, data)


@pytest.mark.parametrize("make", [compressed, shorter, longer, doubled])
def test_what_torch_does_not_write_is_refused(tmp_path, make):
    make(tmp_path / "a.pth")
    assert "is damaged" in refused(tmp_path / "a.pth")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    assert "cannot be read: not a regular file" in refused(tmp_path / "a.pth")


def test_a_message_is_short_whatever_there_is(tmp_path):
    names = [f"{number}{'x' * 1000}" for number in range(2000)]
    torch.save({name: WEIGHTS for name in names}, tmp_path / "maps.pth")
    torch.save({name: 1 for name in names}, tmp_path / "others.pth")
    for name in ("maps.pth", "others.pth"):
        assert len(refused(tmp_path / name)) < 10_000


def test_files_that_cannot_be_read(tmp_path):
    assert "cannot be read: No such file" in refused(tmp_path / "none.pth")
    assert "cannot be read: not a regular file" in refused(tmp_path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=repr)
def test_too_little_memory_is_not_taken_for_damage(error, tmp_path, monkeypatch):
    def load(*arguments, **options):
        raise error

    write_checkpoint(WEIGHTS, tmp_path / "checkpoint.pth")
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(TrainingError, match=r"out of memory.* Free memory to read the checkpoint"):
        read_checkpoint(tmp_path / "checkpoint.pth")
