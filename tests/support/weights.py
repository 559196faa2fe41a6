"""Weights that tell themselves apart."""

import numpy as np
import torch


def fill(model, seed=0):
    """Gives every weight of a model numbers of its own, moving statistics included; counts of batches are whole."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        numbers = rng.uniform(0.5, 1.5, tuple(variable.shape))
        variable.assign(torch.from_numpy(np.asarray(numbers)) if variable.shape else round(1000 * numbers))


def values(model):
    """Copies of all weights by their paths."""
    return {variable.path: variable.value.detach().clone() for variable in model.weights}


def assert_same(model, expected):
    """All weights are bit for bit those of `values`."""
    received = values(model)
    assert received.keys() == expected.keys()
    for path, value in expected.items():
        assert torch.equal(received[path], value), path
