"""Layers and training steps on a GPU: those of the CPU, without waiting, compiled, in half precision, by Triton."""

import contextlib
import importlib.util
import warnings

import keras
import pytest
import torch
from support.layer_cases import CASES
from support.training_steps import batch_of, compiled_model, steps

from encapkeras.functional.torch_support.optional_compile import enable_compile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # torch's notice that it may not see all
]
GPU = "cuda"
NETWORKS = ["quickstart", "encapnet_digits", "encapnet_ot_digits", "capsnet_em_digits"]


@contextlib.contextmanager
def no_waiting():
    """Have torch raise where it waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def outputs_and_gradients(layer, given, device, guard=contextlib.nullcontext):
    with keras.device(device):
        inputs = [tensor.to(device, copy=True).requires_grad_() for tensor in given]
        with guard():
            outputs = keras.tree.flatten(layer(inputs if len(inputs) > 1 else inputs[0], training=True))
            through = [output for output in outputs if output.requires_grad]
            sum(output.square().sum() for output in through).backward()
    weights = [weight.value.grad for weight in layer.trainable_weights]
    found = [*outputs, *(tensor.grad for tensor in inputs), *weights]
    assert all(tensor is None or tensor.device.type == device for tensor in found)
    return [None if tensor is None else tensor.detach().cpu() for tensor in found]


@pytest.mark.parametrize("name", CASES)
def test_a_layer_gives_what_it_gives_on_the_cpu_and_does_not_wait(name):
    kind, arguments, shape, *_ = CASES[name]
    shapes = shape if isinstance(shape, list) else [shape]
    generator = torch.Generator().manual_seed(0)
    given = [torch.rand(3, *each, generator=generator) for each in shapes]
    layers = {}
    for device in ("cpu", GPU):
        with keras.device(device):
            layers[device] = kind(**arguments)
            moved = [tensor.to(device) for tensor in given]
            layers[device](moved if len(moved) > 1 else moved[0], training=True)
    layers[GPU].set_weights(layers["cpu"].get_weights())
    expected = outputs_and_gradients(layers["cpu"], given, "cpu")
    received = outputs_and_gradients(layers[GPU], given, GPU, no_waiting)
    for number, (found, right) in enumerate(zip(received, expected, strict=True)):
        assert (found is None) == (right is None)
        if right is not None:
            scale = float(right.abs().max()) or 1.0
            assert float((found.double() - right.double()).abs().max()) < 1e-3 * scale, number


def losses_of(name, device, changes=(), count=3):
    keras.utils.set_random_seed(0)
    with keras.device("cpu"):
        start = compiled_model(name, changes)
    with keras.device(device):
        model = compiled_model(name, changes)
        model.set_weights(start.get_weights())
    return steps(model, device, count)


@pytest.mark.filterwarnings("default")  # what torch.compile warns about is not ours
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_are_those_on_the_cpu(name, compiled):
    expected = losses_of(name, "cpu")
    with enable_compile(compiled):
        received = losses_of(name, GPU)
    assert received == pytest.approx(expected, rel=5e-3)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_by_triton_are_those_of_torch(name, monkeypatch):
    expected = losses_of(name, GPU)
    monkeypatch.setenv("ENCAPKERAS_KERNELS", "triton")
    assert losses_of(name, GPU) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_in_half_precision(name, precision):
    first, *_ = losses_of(name, GPU, count=1)
    received = losses_of(name, GPU, [f"train.precision={precision}"])
    assert received[0] == pytest.approx(first, rel=5e-2)
    assert all(map(torch.isfinite, torch.tensor(received)))


def test_a_step_waits_for_no_more_than_numbers_of_keras():
    with keras.device(GPU):
        model = compiled_model("encapnet_ot_digits")
        batch = batch_of(model, GPU)
        model.train_step(batch)
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                model.train_step(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert len(waits) < 15, "\n".join(f"{wait.filename}:{wait.lineno} {wait.message}" for wait in waits)
