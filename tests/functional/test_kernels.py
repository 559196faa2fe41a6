"""Compiled kernels: equal to torch's operations, chosen by one switch, and never in the way."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from encapkeras.errors import ArgumentError
from encapkeras.functional import affine_relu_squash, batch_norm_relu_squash
from encapkeras.functional.kernels import choice, numba_chunks, numba_compiler, numba_steps
from encapkeras.functional.kernels.choice import chosen_kernels, kernels_in_words, runs_numba, use_kernels

BOUND = {torch.float32: 1e-6, torch.float64: 1e-12}


def largest(received, expected):
    return max(
        ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item() for a, b in zip(received, expected, strict=True)
    )


def random_map(shape, dtype, layout, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).contiguous(memory_format=layout)


@pytest.mark.smoke
@pytest.mark.parametrize("by_type", [False, True])
@pytest.mark.parametrize("dtype", BOUND)
def test_gradients_equal_those_of_torch(dtype, by_type):
    results = []
    for kernels in ("numba", "torch"):
        leaf = random_map((6, 32, 7, 5), dtype, torch.channels_last).requires_grad_()
        weights = torch.rand(2, 8 if by_type else 32, generator=torch.Generator().manual_seed(1)).to(dtype)
        scale, offset = (weight.requires_grad_() for weight in weights)
        with use_kernels(kernels):
            trained, *_ = batch_norm_relu_squash(leaf, scale, offset, 8)
            predicted = affine_relu_squash(leaf, *weights.repeat_interleave(32 // len(scale), 1), 8)
            upstream = random_map(leaf.shape, dtype, torch.contiguous_format, 3)
            loss = (trained * upstream).sum() + (predicted * upstream.flip(0)).sum()
            results.append((trained, predicted, *torch.autograd.grad(loss, [leaf, scale, offset])))
    assert largest(*results) < BOUND[dtype]


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so(broken):
    x = random_map((2, 4, 3, 3), torch.float32, torch.contiguous_format)
    x[1, 2, 0, 0] = broken
    with use_kernels("numba"):
        out, mean, _ = batch_norm_relu_squash(x, torch.ones(4), torch.zeros(4), 2)
    assert not mean[2].isfinite()
    assert not out.isfinite().all()


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_a_batch_of_none(kernels):
    with use_kernels(kernels):
        out = affine_relu_squash(torch.empty(0, 4, 2, 3), torch.ones(4), torch.zeros(4), 2)
    assert out.shape == (0, 4, 2, 3)


def test_squash_of_the_zero_vector_is_zero_and_so_is_its_gradient():
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    with use_kernels("numba"):
        out = affine_relu_squash(x, torch.ones(4), torch.zeros(4), 2, relu=False)
        (gradient,) = torch.autograd.grad(out.sum(), x)
    assert not out.any()
    assert not gradient.any()


@pytest.mark.parametrize("wrong", ["cuda", "Numba", "1"])
def test_an_impossible_choice(monkeypatch, wrong):
    monkeypatch.setenv("ENCAPKERAS_KERNELS", wrong)
    with pytest.raises(ArgumentError, match=f"ENCAPKERAS_KERNELS must be one of auto, torch, .*received '{wrong}'"):
        chosen_kernels()


@pytest.fixture
def fresh_choice():
    choice._numba_works.cache_clear()
    yield
    choice._numba_works.cache_clear()


def test_without_numba_torch_runs_in_silence_unless_numba_is_demanded(monkeypatch, fresh_choice):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with use_kernels("auto"):
        assert not runs_numba(torch.ones(1))
        assert kernels_in_words("cpu") == "torch"
    with use_kernels("numba"), pytest.raises(ArgumentError, match=r"pip install 'encapkeras\[fast\]'"):
        runs_numba(torch.ones(1))


@pytest.mark.parametrize("fault", [RuntimeError("no locator available"), ImportError("llvmlite"), OSError("full disk")])
def test_broken_numba_warns_once_and_torch_gives_the_results(monkeypatch, fresh_choice, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr("encapkeras.functional.kernels.numba_compiler.compile_kernels", fail)
    x = random_map((3, 4, 3, 3), torch.float32, torch.contiguous_format)
    arguments = (x, torch.ones(4), torch.zeros(4), 2)
    with use_kernels("torch"):
        expected = batch_norm_relu_squash(*arguments)[0]
    with use_kernels("auto"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [batch_norm_relu_squash(*arguments)[0] for _ in range(3)]
    assert [str(warning.message).count(str(fault)) for warning in caught] == [1]
    assert all(torch.equal(result, expected) for result in results)
    with use_kernels("numba"), pytest.raises(ArgumentError, match="cannot be compiled"):
        batch_norm_relu_squash(*arguments)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners of folders are a matter of POSIX")
def test_another_users_cache_is_not_used(tmp_path, monkeypatch):
    from encapkeras.functional.kernels.numba_compiler import check_cache

    check_cache(str(tmp_path))
    check_cache(str(tmp_path / "not yet there"))
    tmp_path.chmod(0o777)
    with pytest.raises(OSError, match="all may write there"):
        check_cache(str(tmp_path))
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(OSError, match="another user's"):
        check_cache(str(tmp_path))


FORK = """
import os
import torch
from encapkeras.functional import batch_norm_relu_squash
def run():
    torch.manual_seed(0)
    return batch_norm_relu_squash(torch.rand(2, 8, 4, 4), torch.ones(8), torch.zeros(8), 4)[0]
expected = run()
child = os.fork()
if not child:
    os._exit(0 if torch.allclose(run(), expected, atol=1e-6) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked")
def test_forked_processes_use_the_operations_of_torch():
    """Numba would end them."""
    environment = os.environ | {"ENCAPKERAS_KERNELS": "numba"}
    run = subprocess.run([sys.executable, "-c", FORK], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_kernels_file_changes_with_its_parts():
    """Else numba would go on with what it compiled before: copy the new value into `numba_steps.PARTS`."""
    sources = "".join(Path(module.__file__).read_text("utf-8") for module in (numba_chunks, numba_compiler))
    assert numba_steps.PARTS == hashlib.sha256(sources.encode()).hexdigest()[:12]


PROGRAM = """
import torch
torch.set_num_threads(1)
from encapkeras.functional import batch_norm_relu_squash
batch_norm_relu_squash(torch.rand(2, 8, 4, 4), torch.ones(8), torch.zeros(8), 4)
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""


@pytest.mark.slow
def test_compilation_is_announced_in_one_line_and_later_processes_read_the_cache(tmp_path):
    said = []
    for _ in range(2):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "ENCAPKERAS_KERNELS": "numba"}
        run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        said.append(run.stderr.splitlines())
    assert len(said[0]) == 1
    assert said[0][0].startswith("compiling kernels with numba, once on this machine")
    assert said[1] == []
