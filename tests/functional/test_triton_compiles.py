"""Triton's kernels can be translated for GPUs, and fit into them: no GPU is needed for this."""

import importlib.util
import os

import pytest
import torch
from support.triton_compilation import compiled, noted_launches

from encapkeras.functional.kernels import triton_attention, triton_norm

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="kernels are interpreted"),
]
SHARED_BYTES = 99 * 1024  # that a block of threads may have on the smaller GPUs of the last generations
FLOATS = {torch.float32: 4, torch.float64: 8}
SIZES = [(10, 2, 36, 9), (1, 1, 1, 1), (512, 1, 1024, 17), (33, 1, 100, None)]  # J, G, P, K; None: the widest


def attention(dtype, outputs, groups, positions, numbers):
    """The launches of both passes, forward and backward."""
    numbers = numbers or 512 // FLOATS[dtype]
    query = torch.zeros(outputs, groups, numbers, dtype=dtype, requires_grad=True)
    key = torch.zeros(groups, numbers, positions, dtype=dtype, requires_grad=True)
    assert triton_attention.fits(query, key, key)
    triton_attention.attend_over_inputs(query, key, groups, None).sum().backward()
    triton_attention.attend_over_outputs(query, key, key, None).sum().backward()


def norm(dtype, shape, types, layout):
    """The launches of the four passes."""
    x, out = (torch.zeros(*shape, dtype=dtype).contiguous(memory_format=layout) for _ in range(2))
    vector = torch.zeros(shape[1], dtype=dtype)
    triton_norm.moments(x)
    for relu in (True, False):
        triton_norm.apply(x, vector, vector, types, relu, out)
        triton_norm.apply_backward(x, out, vector, vector, vector, types, relu, out)
    triton_norm.through_statistics(x, vector, vector, vector, vector, out)


def check(launches, kernels, capability):
    assert {launch.kernel.__name__ for launch in launches} == {kernel.__name__ for kernel in kernels}
    for launch in launches:
        assert compiled(launch, capability).metadata.shared <= SHARED_BYTES, launch.kernel.__name__


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("run, module", [(attention, triton_attention), (norm, triton_norm)])
def test_a_kernel_is_launched_with_what_it_takes(run, module, monkeypatch):
    sizes = SIZES[0] if run is attention else ((2, 8, 3, 3), 4, torch.contiguous_format)
    with noted_launches(module, monkeypatch) as launches:
        run(torch.float32, *sizes)
    for launch in launches:
        assert len(launch.given) + len(launch.sides) == len(launch.kernel.arg_names), launch.kernel.__name__
    check(launches[:1], [launches[0].kernel], 90)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_is_translated_for_gpus(dtype, sizes, capability, monkeypatch):
    with noted_launches(triton_attention, monkeypatch) as launches:
        attention(dtype, *sizes)
    check(launches, triton_attention.KERNELS, capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 32, 4, 4), (3, 15, 5, 7), (1, 5, 1, 1), (2, 5 * 1000, 2, 2)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_batch_norm_is_translated_for_gpus(dtype, shape, layout, capability, monkeypatch):
    with noted_launches(triton_norm, monkeypatch) as launches:
        norm(dtype, shape, 5 if shape[1] % 5 == 0 else 4, layout)
    check(launches, triton_norm.KERNELS, capability)
