"""EM and variational-Bayes routing by one matrix per type for a window, and offsets of the votes."""

import itertools

import pytest
import torch
from support.routing import gradients, largest_difference

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import EmOptions, variational_bayes_routing, window_em_routing
from encapkeras.functional.routing import window_pieces

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


def check_equal(case, leaves=()):
    received, expected = case(*leaves), case.expanded(*leaves)
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
    leaves, case.named["offsets"] = list(case.leaves), case.offsets(kind)
    check_equal(case, leaves)


@pytest.mark.parametrize("method", ["bayes_position", "bayes_child"])
def test_offsets_of_the_parents(method):
    case = Case(method, window="padded")
    leaves, case.named["offsets"] = list(case.leaves), case.offsets("learned")
    case.named["parent_offsets"] = case.normal(*case(*leaves)[0].shape[1:3], case.out_dim).requires_grad_()
    case.leaves.append(case.named["parent_offsets"])
    check_equal(case, leaves)


def test_fillers_are_the_same():
    """Votes so far from each other that their densities are near those of fillers."""
    case = Case("em_child", scale=1e10)
    case.named["options"] = EmOptions(final_lambda=0.1, fillers=True)
    assert largest_difference(case(), case.expanded()) < 1e-6


@pytest.mark.parametrize("method", ["em_child", "bayes_position"])
def test_pieces_do_not_change_the_result(method, monkeypatch):
    case = Case(method, window="padded")
    leaves, case.named["offsets"] = list(case.leaves), case.offsets("learned")
    whole = case(*leaves)
    expected = gradients(whole, case.leaves, materialize=True)
    monkeypatch.setattr(window_pieces, "_PIECE", {"cpu": 50})
    pieces = case(*leaves)
    assert largest_difference(pieces, whole) < 1e-10
    assert largest_difference(gradients(pieces, case.leaves, materialize=True), expected) < 1e-9


@pytest.mark.parametrize("method", ["em_position", "em_child", "bayes_child"])
def test_float32_keeps_its_digits_far_from_0(method):
    """Children around 100 have squares of 10,000, of which float32 has 3 digits behind the point."""
    exact = Case(method, window="whole")
    leaves = [leaf.detach() for leaf in exact.leaves]
    leaves[0] = leaves[0] + 100
    expected = exact(*leaves)
    received = exact(*(leaf.float() for leaf in leaves))
    assert largest_difference([part.double() for part in received], expected) < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["zeros", "constant", "large", "one child", "no activations"])
def test_stays_finite(method, kind):
    case = Case(method, window="padded", dtype=torch.float32)
    capsules, activations, *rest = (leaf.detach() for leaf in case.leaves)
    if kind in ("zeros", "constant"):
        capsules = torch.full_like(capsules, float(kind == "constant"))
    elif kind == "large":
        capsules = capsules * 1e4
    else:
        activations = torch.zeros_like(activations)
        activations[:, 2, 1, 0] = float(kind == "one child")
    leaves = [leaf.requires_grad_() for leaf in (capsules, activations, *rest)]
    outputs = case(*leaves)
    assert all(part.isfinite().all() for part in outputs)
    assert all(part.isfinite().all() for part in gradients(outputs, leaves, materialize=True))


@pytest.mark.parametrize("competition", ["position", "child"])
def test_children_of_the_padding_do_not_count_however_likely_they_are(competition):
    """Equal votes have the least variance, so that the density of 16 numbers exceeds what float32 holds."""
    capsules, activations = torch.zeros(1, 3, 3, 2, 16), torch.ones(1, 3, 3, 2)
    weight, beta = torch.ones(2, 2, 2, 3, 4, 4), torch.zeros(3)
    options = {"competition": competition, "padding": 1}
    parts = window_em_routing(capsules, activations, weight, beta, beta, **options)
    assert all(part.isfinite().all() for part in parts)


def test_parents_of_one_position_compete_as_all_do_where_no_window_overlaps():
    case = Case("bayes_child", window="skipping")
    for covariance, density_floor in itertools.product(["diagonal", "full"], [0, 0.01]):
        case.named.update(covariance=covariance, density_floor=density_floor)
        expected = case()
        case.named["competition"] = "position"
        assert largest_difference(case(), expected) < 1e-12
        del case.named["competition"]


@pytest.mark.parametrize("method", ["em_child", "bayes_child"])
def test_all_parents_of_one_position_may_have_own_matrices(method):
    case = Case(method, window="whole")
    expected = case()
    case.leaves[2] = case.weight.expand(1, 1, *case.kernel, -1, -1, -1, -1)
    assert largest_difference(case(), expected) < 1e-12


def test_errors_name_what_does_not_fit():
    case = Case("bayes_position")
    with pytest.raises(ShapeError, match=r"offsets must be \(3, 2, 4\); received \(2, 2, 4\)"):
        case.routing(*case.leaves, window=case.kernel, offsets=torch.zeros(2, 2, 4), **case.named)
    with pytest.raises(ArgumentError, match="competition must be 'position' or 'child'"):
        variational_bayes_routing(*case.leaves, window=case.kernel, competition="all")
    each = case.weight.expand(3, 3, 3, 2, -1, -1, -1, -1)
    with pytest.raises(ArgumentError, match="competition must be 'position' where weight has matrices for each"):
        variational_bayes_routing(*case.leaves[:2], each)
