"""Matrices of one type for all offsets of a window, and of each position: both equal those of each offset."""

import pytest
import torch
from support.routing import LargestTensor, gradients, largest_difference
from support.window_methods import METHODS, random_coefficients, random_inputs

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import self_routing, window_dynamic_routing
from encapkeras.functional.routing import window_pieces

POSES = ["vector", "matrix"]
WINDOWS = {
    "plain": ((3, 2), {}),
    "padded": ((3, 2), {"strides": (2, 1), "padding": (1, 2)}),
    "whole": ((5, 4), {}),
}
BY_POSITION = [name for name in METHODS if not name.endswith("child")]


def of_type(inputs):
    """The same inputs with one matrix per type."""
    return inputs._replace(weight=inputs.weight[:1, :1].detach().requires_grad_())


def for_offsets(inputs, kernel):
    """The same matrices, for each offset."""
    return inputs._replace(weight=inputs.weight.expand(*kernel, *inputs.weight.shape[2:]).clone())


def compare(received, expected, leaves):
    assert largest_difference(received, expected) < 1e-10
    of_leaves = [gradients(outputs, leaves, materialize=True) for outputs in (received, expected)]
    assert largest_difference(*of_leaves) < 1e-10


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fixed", [False, True])
def test_one_matrix_per_type_equals_it_at_every_offset(name, window, pose, fixed):
    kernel, options = WINDOWS[window]
    inputs = of_type(random_inputs(kernel=kernel, pose=pose))
    coefficients = random_coefficients(kernel) if fixed else None
    options = {**options, "pose": pose, "coefficients": coefficients}
    received = METHODS[name](inputs, iterations=3, window=kernel, **options)
    expected = METHODS[name](for_offsets(inputs, kernel), iterations=3, **options)
    compare(received, expected, [*inputs, coefficients] if fixed else inputs)


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("competition", ["position", "child"])
def test_one_matrix_for_all_equals_it_for_each_type(competition, window, pose, iterations, fixed):
    kernel, options = WINDOWS[window]
    capsules, _, weight, *_ = random_inputs(kernel=kernel, pose=pose)
    weight = weight[:1, :1, :1].detach().requires_grad_()
    bias = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    options = {**options, "competition": competition, "pose": pose, "window": kernel, "iterations": iterations}
    options.update(output_bias=bias, coefficients=random_coefficients(kernel) if fixed else None)
    expected = window_dynamic_routing(capsules, weight.expand(-1, -1, 3, -1, -1, -1), **options)
    compare((window_dynamic_routing(capsules, weight, **options),), (expected,), (capsules, weight, bias))


def test_one_matrix_for_all_maps_nothing_but_the_sum():
    capsules, weight = torch.rand(2, 1, 1, 50, 4), torch.rand(1, 1, 1, 10, 16, 4)
    with LargestTensor() as largest:
        window_dynamic_routing(capsules, weight, window=1, iterations=1)
    assert largest.elements == 10 * 16 * 4  # the matrices


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("weights", ["offset", "type", "none"])
@pytest.mark.parametrize("window", WINDOWS)
def test_one_decision_per_type_equals_it_at_every_offset(window, weights, pose):
    kernel, options = WINDOWS[window]
    inputs = random_inputs(kernel=kernel, pose=pose)
    inputs = of_type(inputs) if weights == "type" else inputs
    capsules, activations, weight, *_ = inputs
    weight = None if weights == "none" else weight
    routing = random_inputs(kernel=(1, 1))[3:5]
    at_offsets = [part.expand(*kernel, *part.shape[2:]).clone() for part in routing]
    options = {**options, "pose": pose, "window": kernel}
    received = self_routing(capsules, activations, weight, *routing, **options)
    expected = self_routing(capsules, activations, weight, *at_offsets, **options)
    given = [index for index, part in enumerate(received) if part is not None]
    leaves = [capsules, activations, inputs.weight, *routing]
    compare(*(tuple(parts[index] for index in given) for parts in (received, expected)), leaves)


@pytest.mark.parametrize("name", METHODS)
def test_pieces_do_not_change_the_result(name, monkeypatch):
    inputs = of_type(random_inputs())
    options = {"iterations": 3, "window": (3, 2), "strides": (2, 1), "padding": (1, 0)}
    whole = METHODS[name](inputs, **options)
    expected = gradients(whole, inputs, materialize=True)
    monkeypatch.setattr(window_pieces, "_PIECE", {"cpu": 50})
    pieces = METHODS[name](inputs, **options)
    assert largest_difference(pieces, whole) < 1e-10
    assert largest_difference(gradients(pieces, inputs, materialize=True), expected) < 1e-8


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("name", METHODS)
def test_gradients_of_one_matrix_per_type(name, pose):
    kernel = (2, 1)
    inputs = of_type(random_inputs(batch=1, height=3, width=2, kernel=kernel, types=2, outputs=2, pose=pose))

    def route(*tensors):
        return METHODS[name](type(inputs)(*tensors), iterations=3, window=kernel, pose=pose)

    assert torch.autograd.gradcheck(route, tuple(inputs), fast_mode=True)
    assert torch.autograd.gradgradcheck(route, tuple(inputs), fast_mode=True)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith(("em", "bayes"))])
def test_one_matrix_per_type_never_makes_all_votes(name):
    sizes = {"batch": 4, "height": 7, "width": 7, "kernel": (3, 3), "types": 4, "outputs": 24, "dim": 10}
    inputs = of_type(random_inputs(**sizes, dtype=torch.float32))
    with LargestTensor() as largest:
        gradients(METHODS[name](inputs, iterations=2, window=(3, 3)), inputs, materialize=True)
    assert largest.elements <= 4 * 5 * 5 * 4 * 24 * 10  # the votes of one offset


@pytest.mark.parametrize("name", METHODS)
def test_one_matrix_per_type_needs_no_values(name):
    inputs = of_type(random_inputs())
    options = {"iterations": 2, "window": (3, 2)}
    expected = METHODS[name](inputs, **options)
    abstract = type(inputs)(*(tensor.detach().to("meta") for tensor in inputs))
    assert [part.shape for part in METHODS[name](abstract, **options)] == [part.shape for part in expected]
    none = type(inputs)(*(part[:0] if part.dim() in (4, 5) and len(part) == 2 else part for part in inputs))
    assert all(len(part) == 0 for part in METHODS[name](none, **options))


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_computed_in_float32(name):
    inputs = of_type(random_inputs(dtype=torch.float32))
    options = {"iterations": 2, "window": (3, 2)}
    expected = METHODS[name](inputs, **options)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, METHODS[name](inputs, **options), expected))
    half = inputs._replace(capsules=inputs.capsules.bfloat16())
    assert all(part.dtype == torch.bfloat16 for part in METHODS[name](half, **options))


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", BY_POSITION)
@pytest.mark.parametrize("fixed", [False, True])
def test_equal_matrices_of_all_positions_are_those_of_the_offsets(name, window, pose, fixed):
    kernel, options = WINDOWS[window]
    inputs = random_inputs(kernel=kernel, pose=pose)
    options = {**options, "pose": pose, "coefficients": random_coefficients(kernel) if fixed else None}
    expected = METHODS[name](inputs, iterations=3, **options)
    size = expected[0].shape[1:3]
    repeated = inputs.by_position(lambda part: part.expand(*size, *part.shape))
    compare(METHODS[name](repeated, iterations=3, **options), expected, inputs)


@pytest.mark.parametrize("name", BY_POSITION)
def test_each_position_has_its_own_matrices(name):
    options = {"iterations": 3, "strides": 2, "padding": 1}
    inputs = random_inputs(positions=(3, 3))
    received = METHODS[name](inputs, **options)
    for p, q in ((0, 0), (1, 2), (2, 1)):
        alone = METHODS[name](inputs.by_position(lambda part, at=(p, q): part[at]), **options)
        assert largest_difference([part[:, p, q] for part in received], [part[:, p, q] for part in alone]) < 1e-12


@pytest.mark.parametrize("name", BY_POSITION)
def test_gradients_of_matrices_of_each_position(name):
    sizes = {"batch": 1, "height": 3, "width": 1, "kernel": (2, 1), "types": 2, "outputs": 2}
    inputs = random_inputs(**sizes, positions=(2, 1))

    def route(*tensors):
        return METHODS[name](type(inputs)(*tensors), iterations=2)

    assert torch.autograd.gradcheck(route, tuple(inputs), fast_mode=True)
    assert torch.autograd.gradgradcheck(route, tuple(inputs), fast_mode=True)


def test_the_last_layer_of_self_routing_has_decisions_of_each_position():
    capsules, activations, _, *routing = random_inputs(kernel=(2, 2))[:5]
    _, expected = self_routing(capsules, activations, None, *routing)
    repeated = [part.expand(4, 3, *part.shape) for part in routing]
    none, received = self_routing(capsules, activations, None, *repeated)
    assert none is None
    assert largest_difference([received], [expected]) < 1e-12


def test_errors_name_what_does_not_fit():
    inputs = random_inputs()
    capsules, activations, weight, routing, bias, *_ = inputs
    with pytest.raises(ShapeError, match=r"window must be \(3, 2\), as weight .* has matrices for each offset"):
        window_dynamic_routing(capsules, weight, window=(2, 2))
    with pytest.raises(ArgumentError, match="window must be a whole number of at least 1"):
        window_dynamic_routing(capsules, weight[:1, :1], window=0)
    with pytest.raises(ShapeError, match=r"a window of 7 x 7 does not fit a map of 5 x 4"):
        window_dynamic_routing(capsules, weight[:1, :1], window=7)
    with pytest.raises(ShapeError, match=r"routing_weight must be .* = \(3, 2, 3, 4, 4\), or \(1, 1, \.\.\.\)"):
        self_routing(capsules, activations, weight[:1, :1], routing[:2], bias, window=(3, 2))
    own = inputs.by_position(lambda part: part.expand(3, 3, *part.shape))
    with pytest.raises(ArgumentError, match="competition must be 'position' where weight has matrices for each"):
        window_dynamic_routing(capsules, own.weight, competition="child")
    with pytest.raises(ShapeError, match=r"routing_bias must be .* of each of 3 x 3 positions"):
        self_routing(capsules, activations, own.weight, own.routing_weight, bias)
    with pytest.raises(ShapeError, match=r"weight must be .* of each of 2 x 3 positions"):
        window_dynamic_routing(capsules, own.weight, strides=(2, 1))
    with pytest.raises(ShapeError, match=r"takes 3 types of dimension 4, but capsules .* are 2 types"):
        window_dynamic_routing(capsules[..., :2, :], own.weight)
    with pytest.raises(ShapeError, match=r"capsules must be \(batch, height, width, types, dim\)"):
        window_dynamic_routing(capsules[0], own.weight)
