"""`train.compile`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.tiny_spec import tiny_spec, write_spec

from encapkeras import load_model, load_spec
from encapkeras.functional import squash
from encapkeras.functional.torch_support.optional_compile import enable_compile
from encapkeras.training import train

SMALL = ["data.subset=200", "data.batch_size=64", "train.epochs=1", "train.optimizer={kind: sgd, learning_rate: 0.01}"]
SMALL += ["vars.types=4", "vars.filters=16", "model.nodes.digits.iterations=2"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile causes it, and hides it from users
def test_a_compiled_training_is_the_same_but_for_rounding(tmp_path):
    weights = {}
    for wanted in ("false", "true"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        spec = load_spec("capsnet_dynamic_digits", [*SMALL, f"train.compile={wanted}"])
        train(spec, run_dir=tmp_path / wanted)
        weights[wanted] = load_model(tmp_path / wanted / "checkpoints" / "last.keras").get_weights()
        assert bool(torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)) == (wanted == "true")
    for one, other in zip(weights["false"], weights["true"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_gradients_of_what_is_compiled_are_those_of_what_is_not():
    capsules = torch.randn(6, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for wanted in (False, True):
        inputs = capsules.clone().requires_grad_()
        with enable_compile(wanted):
            outputs = squash(inputs)
        (outputs**3).sum().backward()
        found.append((outputs.detach(), inputs.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_without_a_compiler_it_is_said_what_is_needed(tmp_path):
    path = write_spec(tmp_path, tiny_spec(compile=True))
    environment = {
        **os.environ,
        "CXX": str(tmp_path / "no_compiler"),
        "KERAS_TORCH_DEVICE": "cpu",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "encapkeras", "train", str(path), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, json.dumps([done.stdout, done.stderr])
    assert "train.compile needs a C++ compiler such as g++, and torch.compile failed with:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
