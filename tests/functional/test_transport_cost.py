"""Costs between samples: the differences of all pairs, exact zeros, gradients, memory."""

import pytest
import torch
from support.transport_problems import LargestTensor, normal

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import transport_cost
from encapkeras.reference import transport

COSTS = ["l2", "cosine", "sqeuclidean"]
FEATURES = [1, 3, 32, 33, 200]


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("features", FEATURES)
def test_equals_the_textbook(cost, features):
    x, y = normal(0, 7, features).requires_grad_(), normal(1, 5, features).requires_grad_()
    received, expected = transport_cost(x, y, cost=cost), transport.cost(x, y, cost)
    torch.testing.assert_close(received, expected, rtol=1e-13, atol=1e-13)
    weights = normal(2, 7, 5)
    of_received = torch.autograd.grad((received * weights).sum(), [x, y])
    of_expected = torch.autograd.grad((expected * weights).sum(), [x, y])
    torch.testing.assert_close(of_received, of_expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("cost", COSTS)
def test_gradients_are_those_of_finite_differences(cost, features):
    x, y = normal(3, 3, features).requires_grad_(), normal(4, 2, features).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: transport_cost(x, y, cost=cost), (x, y), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [3, 200])
@pytest.mark.parametrize("cost", COSTS)
def test_equal_samples_have_distance_and_gradient_zero(cost, features, dtype):
    x = (1000 + normal(5, 6, features)).to(dtype).requires_grad_()
    y = x.detach().clone().requires_grad_()
    costs = transport_cost(x, y, cost=cost)
    assert (costs.diagonal() == 0).all()
    for gradient in torch.autograd.grad(costs.diagonal().sum(), [x, y]):
        assert (gradient == 0).all()


@pytest.mark.parametrize("features", [3, 200])
def test_float32_keeps_its_digits_far_from_the_origin_and_close_together(features):
    """Where `|x|^2 + |y|^2 - 2 x.y` would lose all of them."""
    centres = 100 * normal(6, 4, features)
    x, y = ((centres[:, None] + normal(7 + i, 4, 3, features) / 50).flatten(0, 1).float() for i in range(2))
    expected = transport.cost(x.double(), y.double())
    torch.testing.assert_close(transport_cost(x, y).double(), expected, rtol=1e-5, atol=0)


def test_gradients_of_close_pairs_keep_their_digits():
    x, y = (1 + normal(8, 6, 100) / 1000).float(), (1 + normal(9, 6, 100) / 1000).float()
    found = {}
    for dtype, function in ((torch.float32, transport_cost), (torch.float64, transport.cost)):
        leaves = [samples.to(dtype).requires_grad_() for samples in (x, y)]
        found[dtype] = torch.autograd.grad(function(*leaves).sum(), leaves)
    for received, expected in zip(*found.values(), strict=True):
        torch.testing.assert_close(received.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", [3, 200])
def test_a_vector_without_direction_has_cosine_zero(features):
    x = torch.stack([torch.zeros(features), torch.ones(features), torch.full((features,), 1e-14)]).requires_grad_()
    costs = transport_cost(x, x, cost="cosine")
    torch.testing.assert_close(costs, torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 1, 1]]))
    (gradient,) = torch.autograd.grad(costs.sum(), x)
    assert (gradient[[0, 2]] == 0).all()
    assert torch.isfinite(gradient).all()


def test_cosine_keeps_its_digits_of_nearly_parallel_vectors():
    x = torch.tensor([[1.0, 0.0, 0.0]])
    y = torch.tensor([[1.0, 1e-4, 0.0]])
    assert transport_cost(x, y, cost="cosine").item() == pytest.approx(5e-9, rel=1e-3)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("features", [3, 300])
def test_no_tensor_is_larger_than_the_inputs_and_the_result(cost, features):
    x, y = (normal(seed, 60, features).requires_grad_() for seed in (0, 1))
    with LargestTensor() as watch:
        transport_cost(x, y, cost=cost).sum().backward()
    assert watch.elements <= max(60 * 60, 60 * features)
    with LargestTensor() as watch:
        transport.cost(x, y).sum().backward()
    assert watch.elements == 60 * 60 * features  # what the watch must be able to see


def test_many_close_pairs_are_computed_in_pieces():
    x = (1 + normal(0, 100, 3000) / 1e4).float()
    y = (1 + normal(1, 100, 3000) / 1e4).float()
    y[::2] = -5 * y[::2]
    with LargestTensor() as watch:
        costs = transport_cost(x, y)
    assert watch.elements <= 100 * 3000
    torch.testing.assert_close(costs.double(), transport.cost(x.double(), y.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("features", [3, 50])
def test_cosines_of_the_longest_and_shortest_vectors(features):
    x, y = normal(0, 4, features).float(), normal(1, 4, features).float()
    expected = transport_cost(x, y, cost="cosine")
    for factor in (1e30, 1e-10):
        torch.testing.assert_close(transport_cost(factor * x, y, cost="cosine"), expected)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("features", [3, 50])
def test_a_backward_pass_within_autocast_keeps_its_precision(cost, features):
    x, y = (normal(seed, 8, features).float().requires_grad_() for seed in (0, 1))
    expected = torch.autograd.grad(transport_cost(x, y, cost=cost).square().sum(), [x, y])
    with torch.autocast("cpu", torch.bfloat16):
        received = torch.autograd.grad(transport_cost(x, y, cost=cost).square().sum(), [x, y])
    torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("features", [3, 50])
@pytest.mark.parametrize("cost", COSTS)
def test_a_second_derivative_is_refused(cost, features):
    x, y = (normal(seed, 4, features).requires_grad_() for seed in (0, 1))
    with pytest.raises(ArgumentError, match="can be differentiated once"):
        torch.autograd.grad(transport_cost(x, y, cost=cost).sum(), x, create_graph=True)


def test_float64_if_one_of_them_is():
    x, y = normal(0, 3, 4), normal(1, 3, 4)
    assert transport_cost(x.float(), y).dtype == transport_cost(x, y.float()).dtype == torch.float64


def test_half_precision_is_computed_in_float32():
    x = normal(0, 4, 50).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        costs = transport_cost(x, x.detach())
    assert costs.dtype == torch.float32
    torch.testing.assert_close(costs, transport_cost(x.float(), x.detach().float()), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(costs.sum(), x)
    assert gradient.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("x", "y", "cost", "error", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), "l1", ArgumentError, "cost must be one of 'l2', 'cosine', 'sqeuclidean'"),
        (torch.ones(2, 3), torch.ones(2, 4), "l2", ShapeError, "must have the same number of features"),
        (torch.ones(2, 3, 1), torch.ones(2, 3), "l2", ShapeError, r"x must be \(samples, features\).*\(2, 3, 1\)"),
        (torch.ones(2, 3), torch.ones(0, 3), "l2", ShapeError, r"y must be .* received \(0, 3\)"),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3), "l2", ArgumentError, "floating type; received torch"),
        (torch.ones(2, 3), [[1.0, 2.0, 3.0]], "l2", ArgumentError, "y must be a torch tensor; received list"),
    ],
)
def test_bad_input(x, y, cost, error, message):
    with pytest.raises(error, match=message):
        transport_cost(x, y, cost=cost)
