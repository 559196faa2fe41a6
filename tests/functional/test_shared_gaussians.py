"""EM and variational-Bayes routing by one matrix per type for a window, by matrices of positions, and with fixed shares."""

import itertools

import pytest
import torch
from support.routing import LargestTensor, gradients, largest_difference

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import EmOptions, heinsen_2019_routing, variational_bayes_routing, window_em_routing
from encapkeras.functional.routing import windows as windows_module

TYPES, OUTPUTS = 3, 4
WINDOWS = {  # map, window, strides, padding
    "whole": ((3, 4), (3, 4), 1, 0),
    "overlapping": ((5, 4), (3, 2), 1, 0),
    "padded": ((4, 3), (2, 3), (2, 1), 1),
    "skipping": ((4, 5), (1, 2), (2, 3), 0),
}
SIZES = {"vector": (4, (3, 4)), "matrix": (6, (3, 2))}  # of a child, and of its matrix
METHODS = {
    "em_position": (window_em_routing, {"competition": "position"}),
    "em_child": (window_em_routing, {"competition": "child"}),
    "bayes_position": (variational_bayes_routing, {"competition": "position"}),
    "bayes_child": (variational_bayes_routing, {}),
    "bayes_full": (variational_bayes_routing, {"covariance": "full"}),
}


class Case:
    """Random tensors for a method, where the matrices of a type are the same at all offsets of a window."""

    def __init__(self, method, *, window="overlapping", pose="matrix", seed=0, dtype=torch.float64, scale=1.0, **more):
        self.routing, self.options = METHODS[method]
        self.generator = torch.Generator().manual_seed(seed)
        size, self.kernel, strides, padding = WINDOWS[window]
        dim, matrix = SIZES[pose]
        self.dtype = dtype
        capsules = self.normal(2, *size, TYPES, dim, scale=scale)
        self.activations = torch.rand(2, *size, TYPES, generator=self.generator, dtype=torch.float64).to(dtype)
        self.weight = self.normal(1, 1, TYPES, OUTPUTS, *matrix, scale=0.5)
        self.leaves = [tensor.requires_grad_() for tensor in (capsules, self.activations, self.weight)]
        self.betas = []
        if self.routing is window_em_routing:
            self.betas = [self.normal(OUTPUTS).requires_grad_(), self.normal(OUTPUTS).requires_grad_()]
            self.options = {**self.options, "options": EmOptions(final_lambda=0.1)}
        self.leaves += self.betas
        self.named = {**self.options, "strides": strides, "padding": padding, "pose": pose, **more}
        self.out_dim = 4 if pose == "matrix" else 3

    def normal(self, *shape, scale=1.0):
        return (scale * torch.randn(shape, generator=self.generator, dtype=torch.float64)).to(self.dtype)

    def expanded(self, *leaves):
        """Route with votes: the matrices are copies for each offset."""
        capsules, activations, weight, *betas = leaves or self.leaves
        each = weight.expand(*self.kernel, -1, -1, -1, -1)
        return self.routing(capsules, activations, each, *betas, **self.named)

    def __call__(self, *leaves):
        return self.routing(*(leaves or self.leaves), window=self.kernel, **self.named)

    def offsets(self, kind):
        """What is added to the votes of each offset: as published coordinates, a constant, or anything."""
        height, width = self.kernel
        added = torch.zeros(height, width, self.out_dim, dtype=self.dtype)
        if kind == "coordinates":
            added[..., 1] = (torch.arange(width) + 0.5) / width
            added[..., self.out_dim - 1] = (torch.arange(height)[:, None] + 0.5) / height
        elif kind == "constant":
            added[..., 1] = 0.1
        else:
            added = self.normal(height, width, self.out_dim).requires_grad_()
            self.leaves.append(added)
        return added


def check_equal(case):
    received, expected = case(), case.expanded()
    assert largest_difference(received, expected) < 1e-9
    of_leaves = [gradients(outputs, case.leaves, materialize=True) for outputs in (received, expected)]
    assert largest_difference(*of_leaves) < 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("window", "pose"), list(itertools.product(WINDOWS, SIZES)))
def test_one_matrix_per_type_equals_copies_for_each_offset(method, window, pose):
    check_equal(Case(method, window=window, pose=pose))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["coordinates", "constant", "learned"])
@pytest.mark.parametrize("window", ["whole", "padded"])
def test_offsets_of_the_votes(method, kind, window):
    case = Case(method, window=window)
    leaves, offsets = len(case.leaves), case.offsets(kind)
    case.named["offsets"] = offsets
    received, expected = case(*case.leaves[:leaves]), case.expanded(*case.leaves[:leaves])
    assert largest_difference(received, expected) < 1e-9
    of_leaves = [gradients(outputs, case.leaves, materialize=True) for outputs in (received, expected)]
    assert largest_difference(*of_leaves) < 1e-9
