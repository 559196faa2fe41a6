"""`--device`: the chosen device is used, and one that is not there is refused with what is."""

import subprocess
import sys

import pytest
import torch
from support.commands import refused
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras.cli.arguments.device import check_device, torch_device
from encapkeras.cli.main import main
from encapkeras.errors import ArgumentError

HAS_GPU = torch.cuda.is_available()
NEEDS_TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has not two CUDA GPUs")


@pytest.fixture
def run(tiny_run):
    return tiny_run


def without_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def with_gpus(monkeypatch, *names):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number=0: names[number])


@pytest.mark.parametrize("word", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "xla", "", "cuda:\x1b"])
def test_what_is_no_device_is_refused(capsys, word):
    message = refused(capsys, "train", "quickstart", "--device", word)
    assert "--device must be cpu, cuda, cuda:N or mps; received" in message
    assert "This machine has cpu" in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    "command", [["train"], ["evaluate"], ["predict", "a.png"], ["explain", "a.png"], ["analyse"], ["compare"]]
)
def test_a_gpu_that_is_not_there(run, capsys, monkeypatch, command):
    without_gpus(monkeypatch)
    name, *rest = command
    message = refused(capsys, name, run, *rest, "--device", "cuda")
    assert "torch finds no CUDA GPU. This machine has cpu" in message
    assert "leave out --device" in message


def test_a_benchmark_on_a_gpu_that_is_not_there(capsys, monkeypatch):
    without_gpus(monkeypatch)
    assert "no CUDA GPU" in refused(capsys, "bench", "routing", "--device", "cuda:0")


def test_a_torch_that_is_built_without_cuda_is_named(monkeypatch):
    without_gpus(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(ArgumentError, match=r"built without CUDA: install one"):
        check_device("cuda")


def test_a_number_beyond_the_last_gpu(monkeypatch):
    with_gpus(monkeypatch, "Blue 1", "Blue 2")
    check_device("cuda:1")
    with pytest.raises(
        ArgumentError, match=r"--device cuda:2: .*This machine has cpu, cuda:0 \(Blue 1\), cuda:1 \(Blue 2\)"
    ):
        check_device("cuda:2")


def test_mps_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ArgumentError, match=r"no Apple GPU"):
        check_device("mps")


def test_measuring_says_where_it_was(run, capsys):
    assert main(["evaluate", str(run), "--device", "cpu", "--json"]) == 0
    assert capsys.readouterr().err == "computed on cpu\n"


def test_nothing_stays_set(run, monkeypatch):
    monkeypatch.setenv("KERAS_TORCH_DEVICE", "cpu")
    main(["evaluate", str(run), "--device", "cpu"])
    assert torch_device() == "cpu"
    monkeypatch.delenv("KERAS_TORCH_DEVICE")
    main(["evaluate", str(run), "--device", "cpu"])
    assert torch_device() == ("cuda" if HAS_GPU else "cpu")


def test_it_is_set_before_keras_is_imported():
    code = (
        "import sys; from encapkeras.cli.arguments.device import use_device\n"
        "with use_device('cpu'):\n"
        "    assert 'keras' not in sys.modules\n"
        "    import keras\n"
        "print(keras.src.backend.torch.core.DEFAULT_DEVICE)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "cpu\n"


@pytest.mark.gpu
def test_training_on_the_cpu_of_a_machine_with_a_gpu(tmp_path, capsys):
    trained(tmp_path, tiny_spec(epochs=1))
    assert "parameters on cuda" in capsys.readouterr().out
    spec = tmp_path / "tiny.yaml"
    assert main(["train", str(spec), "--run-dir", str(tmp_path / "cpu"), "--device", "cpu"]) == 0
    assert "parameters on cpu" in capsys.readouterr().out


@pytest.mark.gpu
@NEEDS_TWO
def test_training_on_the_second_gpu(tmp_path, capsys):
    spec = trained(tmp_path, tiny_spec(epochs=1)).parent / "tiny.yaml"
    command = [sys.executable, "-m", "encapkeras", "train", str(spec), "--device", "cuda:1"]
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "second")], capture_output=True, text=True, check=True)
    assert "parameters on cuda:1" in done.stdout
