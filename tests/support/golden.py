"""Reads the golden numbers: float64 results of the method's original code."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

FOLDER = Path(__file__).parent.parent / "golden"


class Golden(NamedTuple):
    inputs: dict[str, torch.Tensor]
    parameters: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    input_gradients: dict[str, torch.Tensor]
    parameter_gradients: dict[str, torch.Tensor]
    meta: dict


def load(name: str, folder: str = "layers") -> Golden:
    """One layer's golden file; tensors in the original's layouts."""
    with np.load(FOLDER / folder / f"{name}.npz") as file:
        parts = {prefix: {} for prefix in ("in", "param", "out", "grad", "gradparam")}
        meta = {}
        for key in file.files:
            if key == "meta":
                meta = json.loads(str(file[key]))
                continue
            prefix, _, rest = key.partition("/")
            parts[prefix][rest] = torch.from_numpy(file[key])
    return Golden(*parts.values(), meta)


def weights_of_sum(seed: int, shape) -> torch.Tensor:
    """The fixed random weights whose weighted sum of outputs was differentiated."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape)))


def assert_equal(received: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    """Shapes equal, values within the tolerance, absolutely."""
    assert received.shape == expected.shape
    assert (received - expected).abs().max().item() <= tolerance
