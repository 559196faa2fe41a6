"""A training or measuring that runs out of memory: one message with the estimate, and a run that can go on."""

import re

import pytest
import torch
from support.commands import refused
from support.tiny_spec import tiny_spec, write_spec

import encapkeras
from encapkeras.cli.main import main
from encapkeras.model.spec_model import SpecModel
from encapkeras.summary.cost import memory_estimate
from encapkeras.text import memory_text
from encapkeras.training import train
from encapkeras.training.memory import advice as memory_advice
from encapkeras.training.memory.advice import largest_batch
from encapkeras.training.run.run_folder import RunFolder

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to"),
]


def failing_after(monkeypatch, error, steps):
    compute_loss, done = SpecModel.compute_loss, []

    def compute(self, *args, training=True, **options):
        done.append(training)
        if sum(done) > steps:
            raise error
        return compute_loss(self, *args, training=training, **options)

    monkeypatch.setattr(SpecModel, "compute_loss", compute)


@pytest.mark.parametrize("error", ERRORS, ids=["GPU", "CPU"])
def test_a_step_without_memory_tells_the_estimate_and_the_run_goes_on(tmp_path, capsys, monkeypatch, error):
    spec = write_spec(tmp_path, tiny_spec())
    whole = train(encapkeras.load_spec(spec), tmp_path / "whole")
    with monkeypatch.context() as patch:
        failing_after(patch, error, steps=15)  # in the second epoch
        capsys.readouterr()
        assert main(["train", str(spec), "--run-dir", str(tmp_path / "run")]) == 2
        message = capsys.readouterr().err
    estimate = memory_estimate(encapkeras.build_model(spec).examined, 128, "cpu")
    assert message.startswith("out of memory (") and message.count("\n") == 1
    assert f"holds at least {memory_text(estimate.total)} with data.batch_size 128" in message
    assert re.search(r"cpu has [\d.]+ [MGT]iB for it; batches of at most [\d,]+ would fit", message)
    assert "--set data.batch_size=64" in message
    assert f"--resume {tmp_path / 'run'}" in message
    assert "after epoch 1 are saved" in message
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    resumed = train(encapkeras.load_spec(spec), tmp_path / "run", resume=True)
    assert resumed["test_loss"] == whole["test_loss"]


def test_measuring_without_memory(tmp_path, capsys, monkeypatch):
    spec = write_spec(tmp_path, tiny_spec(epochs=1))
    train(encapkeras.load_spec(spec), tmp_path / "run")
    capsys.readouterr()

    def fail(self, *args, **options):
        raise ERRORS[0]

    monkeypatch.setattr(SpecModel, "compute_loss", fail)
    message = refused(capsys, "evaluate", tmp_path / "run")
    assert message.startswith("out of memory (CUDA out of memory")
    assert "with data.batch_size 128" in message and "--device" in message
    RunFolder(tmp_path / "run").check_run()


def test_what_would_not_fit_even_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory_advice, "available_bytes", lambda device: 10)
    failing_after(monkeypatch, ERRORS[0], steps=0)
    message = refused_training(tmp_path, capsys)
    assert "not even a batch of one image would fit" in message and "data.image_size" in message


def test_the_batch_that_would_fit_is_the_one_advised(tmp_path, capsys, monkeypatch):
    model = encapkeras.build_model(tiny_spec())
    available = memory_estimate(model.examined, 20, "cpu").total
    monkeypatch.setattr(memory_advice, "available_bytes", lambda device: available)
    failing_after(monkeypatch, ERRORS[0], steps=0)
    message = refused_training(tmp_path, capsys)
    assert "batches of at most 20 would fit" in message and "--set data.batch_size=16" in message


def test_where_the_memory_is_not_known_half_the_batch_is_advised(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory_advice, "available_bytes", lambda device: None)
    failing_after(monkeypatch, ERRORS[0], steps=0)
    message = refused_training(tmp_path, capsys)
    assert "would fit" not in message and "--set data.batch_size=64" in message


def test_the_largest_batch_is_the_last_that_fits():
    fixed, each = 1000, 7
    for available in (0, 1006, 1007, 1013, 1014, 5000):
        found = largest_batch(fixed + each, fixed + each * 64, 64, available)
        assert found == max(0, (available - fixed) // each)


@pytest.mark.gpu
def test_a_batch_that_a_real_gpu_cannot_hold(tmp_path, capsys):
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        message = refused_training(tmp_path, capsys)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory" in message


def refused_training(folder, capsys):
    spec = write_spec(folder, tiny_spec())
    assert main(["train", str(spec), "--run-dir", str(folder / "run")]) == 2
    return capsys.readouterr().err
