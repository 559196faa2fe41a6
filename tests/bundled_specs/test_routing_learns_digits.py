"""The routing networks for digits learn them, whatever the seed."""

import pytest

from encapkeras import load_spec
from encapkeras.training import train


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["capsnet_dynamic_digits", "capsnet_em_digits"])
def test_routing_learns_digits(name, seed, tmp_path):
    results = train(load_spec(name, [f"train.seed={seed}", "train.epochs=6"]), tmp_path / "run")
    assert results["test_accuracy"] >= 0.96  # with all 12 epochs 0.97
