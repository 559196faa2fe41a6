"""Triton's kernels equal torch's operations: in Triton's interpreter, which needs no GPU, and on a GPU."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from support.triton_cases import CASES, FUNCTIONS, TOLERANCE, check

from encapkeras.errors import ArgumentError
from encapkeras.functional import batch_norm_relu_squash, dynamic_routing
from encapkeras.functional.kernels import choice, torch_norm, triton_attention, triton_norm
from encapkeras.functional.kernels.choice import use_kernels

HAS_TRITON = importlib.util.find_spec("triton") is not None
NEEDS_TRITON = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


@NEEDS_TRITON
@pytest.mark.parametrize("amount", ["quick", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted_kernels_equal_torch(amount):
    # Triton reads the variable where its functions are defined: no process that has imported it can be used.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-m", "support.triton_cases", amount]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(CASES[amount]) * len(TOLERANCE)
    for name, _, dtype, differences in found:
        check(name, dtype, differences)


@pytest.mark.gpu
@NEEDS_TRITON
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name, sizes", CASES["quick"] + CASES["slow"])
def test_kernels_on_a_gpu_equal_torch(name, sizes, dtype):
    found = FUNCTIONS[name](sizes, getattr(torch, dtype), "cuda")
    check(name, dtype, found, times=5)  # the exponentials of GPUs are approximations


@pytest.mark.gpu
@NEEDS_TRITON
def test_no_coefficients_reach_the_memory_of_a_gpu():
    outputs, groups, positions = 256, 64, 1024
    query = torch.randn(outputs, groups, 9, device="cuda", requires_grad=True)
    key = torch.randn(groups, 9, positions, device="cuda", requires_grad=True)
    with use_kernels("triton"):
        triton_attention.attend_over_outputs(query, key, key, None).sum().backward()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        triton_attention.attend_over_outputs(query, key, key, None).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < outputs * groups * positions * 4 / 4


def test_what_no_kernel_takes_is_left_to_torch():
    empty, wide = torch.zeros(2, 0, 3), torch.zeros(2, 3, 1000)
    assert not triton_attention.fits(empty, torch.zeros(0, 3, 4))
    assert not triton_attention.fits(wide, torch.zeros(3, 1000, 4))
    assert not triton_attention.fits(wide.half()[..., :9], torch.zeros(3, 9, 4).half())
    assert triton_attention.fits(wide[..., :128], torch.zeros(3, 128, 4))
    assert not triton_attention.fits(wide[..., :128].double(), torch.zeros(3, 128, 4).double())


def test_longer_capsules_than_fit_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(triton_norm, "_WIDEST", 3)
    x, vector = torch.randn(2, 8, 3, 3), torch.rand(8)
    found = []
    for passes in (triton_norm, torch_norm):
        out, through = torch.empty_like(x), torch.empty_like(x)
        passes.apply(x, vector, vector, 2, True, out)
        found.append((out, through, *passes.apply_backward(x, out, vector, vector, vector, 2, True, through)))
    assert all(map(torch.equal, *found))


def test_tensors_of_the_cpu_are_left_to_torch(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if not HAS_TRITON:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    capsules, weight = torch.rand(2, 4, 3, 5), torch.rand(3, 4, 6, 5)
    x, vector = torch.rand(2, 4, 3, 3), torch.rand(4)
    results = []
    for kernels in ("torch", "triton"):
        with use_kernels(kernels):
            routed = dynamic_routing(capsules, weight)
            results.append((routed, *batch_norm_relu_squash(x, vector, vector, 2)))
    assert all(map(torch.equal, *results))


def test_triton_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    with use_kernels("triton"), pytest.raises(ArgumentError, match="ENCAPKERAS_KERNELS=triton needs Triton"):
        dynamic_routing(torch.rand(2, 4, 3, 5), torch.rand(3, 4, 6, 5))
