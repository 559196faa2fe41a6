"""`--device`: the chosen device is used, and one that is not there is refused with what is."""

import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from support.commands import refused
from support.tiny_spec import tiny_spec
from support.trained import trained

from encapkeras.cli.arguments.device import check_device, torch_device
from encapkeras.cli.arguments.devices import print_unused_gpus, read_devices, refuse_second_launcher
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


def given(devices=None, processes=None):
    return Namespace(devices=devices, processes=processes, run_on=None)


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize(
    "word", ["a", "", "0,a", "0,,1", "0;1", "cuda:0,cuda:1", "-1", "\N{SUPERSCRIPT TWO}", "0,\x1b"]
)
def test_what_are_no_devices_is_refused(capsys, monkeypatch, word, gpus):
    with_gpus(monkeypatch, *["Blue"] * gpus) if gpus else without_gpus(monkeypatch)
    message = refused(capsys, "train", "quickstart", f"--devices={word}")
    assert "--devices must be numbers of GPUs with commas between them, such as 0,2, or all; received" in message
    assert f"This machine has cpu{', cuda:0 (Blue), cuda:1 (Blue)' * (gpus > 0)}" in message
    assert "\x1b" not in message


@pytest.mark.parametrize("word", ["0", "0,1", "all"])
def test_devices_without_a_gpu(capsys, monkeypatch, word):
    without_gpus(monkeypatch)
    message = refused(capsys, "train", "quickstart", "--devices", word)
    assert "torch finds no CUDA GPU. This machine has cpu; train on it with --processes 2" in message


@pytest.mark.parametrize(
    ("word", "what"),
    [("7", "no GPU with the number 7;"), ("0,2,9", "no GPU with the number 2, 9;"), ("1,1", "1 is there twice")],
)
def test_devices_that_are_not_there_or_there_twice(capsys, monkeypatch, word, what):
    with_gpus(monkeypatch, "Blue 1", "Blue 2")
    message = refused(capsys, "train", "quickstart", "--devices", word)
    assert what in message
    assert "This machine has cpu, cuda:0 (Blue 1), cuda:1 (Blue 2)" in message


@pytest.mark.parametrize("word", ["0", "a", "", "1.5", "-2", "1000000", "\N{SUPERSCRIPT TWO}"])
def test_no_number_of_processes(capsys, word):
    message = refused(capsys, "train", "quickstart", f"--processes={word}")
    assert "--processes must be a whole number from 1 to " in message
    assert f"received '{word}'" in message


@pytest.mark.parametrize("words", [["--devices", "0"], ["--processes", "2"]])
def test_one_way_to_choose_devices_excludes_the_others(capsys, words):
    message = refused(capsys, "train", "quickstart", "--device", "cpu", *words)
    assert f"argument {words[0]}: not allowed with argument --device" in message


def test_one_device_starts_nothing(monkeypatch):
    with_gpus(monkeypatch, "Blue 1", "Blue 2")
    for arguments, device in ((given("1"), "cuda:1"), (given(processes="1"), "cpu")):
        assert read_devices(arguments) is None
        assert arguments.run_on == device
    with_gpus(monkeypatch, "Blue")
    only = given("all")
    assert read_devices(only) is None and only.run_on == "cuda:0"


@pytest.mark.parametrize(
    ("visible", "word", "chosen"),
    [(None, "0,2", "0,2"), (None, "all", "0,1,2"), ("4,GPU-5a,6", "2, 0", "6,4"), ("4,GPU-5a,6", "all", "4,GPU-5a,6")],
)
def test_several_devices_are_a_process_each(monkeypatch, visible, word, chosen):
    with_gpus(monkeypatch, "Blue 1", "Blue 2", "Blue 3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    wanted = read_devices(given(word))
    assert wanted.processes == chosen.count(",") + 1
    assert wanted.environment == {"KERAS_TORCH_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": chosen}


def test_processes_on_the_cpu_leave_the_gpus_alone(monkeypatch):
    with_gpus(monkeypatch, "Blue 1", "Blue 2")
    assert read_devices(given(processes="2")) == (2, "--processes 2", {"KERAS_TORCH_DEVICE": "cpu"})


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "TORCHELASTIC_RUN_ID"])
def test_devices_under_torchrun(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert read_devices(given("0,1")) is None
    with pytest.raises(ArgumentError, match=rf"^--devices starts the processes itself.*{variable} is set"):
        refuse_second_launcher(given("0,1"))
    monkeypatch.setenv("ENCAPKERAS_LAUNCHED_WITH", "--devices 0,1")
    refuse_second_launcher(given("0,1"))


def test_gpus_that_are_not_used_are_pointed_out_unless_one_was_chosen(monkeypatch, capsys):
    monkeypatch.delenv("KERAS_TORCH_DEVICE", raising=False)
    with_gpus(monkeypatch, "Blue")
    print_unused_gpus(given())
    with_gpus(monkeypatch, "Blue 1", "Blue 2", "Blue 3")
    print_unused_gpus(Namespace(run_on="cuda:1"))
    assert capsys.readouterr().out == ""
    print_unused_gpus(given())
    assert capsys.readouterr().out.startswith("this training uses 1 of 3 GPUs; --devices all trains on all of them")
