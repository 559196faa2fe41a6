"""The divergence of two batches: the textbook's, its laws, the three kinds of gradient, memory."""

import hypothesis
import pytest
import torch
from hypothesis import strategies
from support.transport_problems import LargestTensor, clouds, diracs, lines, normal, permutations, shifts

from encapkeras.errors import ArgumentError, NotConvergedWarning, NotFiniteError, ShapeError
from encapkeras.functional import sinkhorn, transport, transport_cost, transport_divergence
from encapkeras.reference import transport as textbook

COSTS = ["l2", "cosine", "sqeuclidean"]
CONVERGED = {"iterations": 20_000, "tolerance": 1e-9}


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("features", [4, 80])
def test_equals_the_textbook(cost, debiased, features):
    x, y = (normal(seed, 9, features).requires_grad_() for seed in (0, 1))
    received = transport_divergence(x, y, cost=cost, epsilon=0.7, iterations=4, debiased=debiased)
    expected = (textbook.divergence if debiased else textbook.value)(x, y, cost, 0.7, 4)
    torch.testing.assert_close(received, expected, rtol=1e-11, atol=1e-11)
    of_received, of_expected = (torch.autograd.grad(value, [x, y]) for value in (received, expected))
    torch.testing.assert_close(of_received, of_expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cost", COSTS)
@hypothesis.given(pair=clouds())
@hypothesis.settings(max_examples=10, deadline=None)
def test_is_zero_between_equal_batches(cost, dtype, pair):
    x = pair[0].to(dtype).requires_grad_()
    y = x.detach().clone().requires_grad_()
    value = transport_divergence(x, y, cost=cost)
    accuracy = 1e-6 if dtype == torch.float32 else 1e-14
    assert abs(value.item()) <= accuracy * (1 + transport_cost(x, x, cost=cost).max().item())
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(value, [x, y]))


@pytest.mark.parametrize("cost", COSTS)
@hypothesis.given(pair=clouds(), epsilon=strategies.sampled_from([0.5, 1.0, 3.0]))
@hypothesis.settings(max_examples=15, deadline=None)
def test_laws_of_converged_divergences(cost, pair, epsilon):
    x, y = pair
    epsilon *= 0.1 + transport_cost(x, y, cost=cost).mean().item()
    there = transport_divergence(x, y, cost=cost, epsilon=epsilon, **CONVERGED)
    back = transport_divergence(y, x, cost=cost, epsilon=epsilon, **CONVERGED)
    assert there.item() == pytest.approx(back.item(), abs=1e-6)
    assert there.item() >= -1e-7
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    mixed = transport_divergence(x[order], y, cost=cost, epsilon=epsilon, **CONVERGED)
    assert mixed.item() == pytest.approx(there.item(), abs=1e-6)


@hypothesis.given(problem=diracs())
@hypothesis.settings(max_examples=15, deadline=None)
def test_between_two_points_it_is_twice_their_distance(problem):
    x, y, cost, answer = problem
    assert transport_divergence(x, y, cost=cost, debiased=False).item() == pytest.approx(answer, abs=1e-9)
    assert transport_divergence(x, y, cost=cost).item() == pytest.approx(2 * answer, abs=1e-9)


@hypothesis.given(problem=strategies.one_of(shifts(), lines(), permutations().map(lambda pair: pair[0])))
@hypothesis.settings(max_examples=30, deadline=None)
@pytest.mark.slow
def test_tends_to_twice_the_exact_cost(problem):
    x, y, cost, answer = problem
    largest = transport_cost(x, y, cost=cost).max().item()
    value = transport_divergence(x, y, cost=cost, epsilon=0.003 * largest, iterations=60_000, tolerance=1e-4)
    assert abs(value.item() / 2 - answer) < 1e-2 * largest


UNROLLED = {"gradient": "unrolled", "iterations": 10}
IMPLICIT = {"gradient": "implicit", "iterations": 20_000, "tolerance": 1e-13}
SETTINGS = [
    {**UNROLLED, "iterations": 1},
    UNROLLED,
    {**UNROLLED, "debiased": False},
    IMPLICIT,
    {**IMPLICIT, "debiased": False},
]
PAIRS = [  # any two of cost, number of features and settings; many features take long
    pytest.param(cost, features, settings, marks=pytest.mark.slow if settings is SETTINGS[-1] else ())
    for row, settings in enumerate(SETTINGS)
    for column, cost in enumerate(COSTS)
    for features in ([2, 34] if (row + column) % len(COSTS) == 0 else [2])
]


@pytest.mark.parametrize(("cost", "features", "settings"), PAIRS, ids=str)
def test_gradients_are_those_of_finite_differences(cost, features, settings):
    x, y = (normal(seed, 3, features).div(features**0.5).requires_grad_() for seed in (0, 1))

    def divergence(x, y):
        return transport_divergence(x, y, cost=cost, epsilon=0.8, **settings)

    assert torch.autograd.gradcheck(divergence, (x, y), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_implicit_gradients_are_the_unrolled_ones_of_many_iterations(epsilon):
    x, y = (normal(seed, 6, 3).requires_grad_() for seed in (2, 3))
    found = []
    for gradient in ("unrolled", "implicit"):
        value = transport_divergence(x, y, epsilon=epsilon, iterations=3000, gradient=gradient)
        found.append(torch.autograd.grad(value, [x, y]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


def test_implicit_gradients_of_a_plan_that_is_a_permutation():
    """Where the linear system falls apart: each point only pulls at its own."""
    x = (10 * torch.eye(4, dtype=torch.float64)).requires_grad_()
    y = (x.detach() + 1).requires_grad_()
    value = transport_divergence(x, y, epsilon=0.01, iterations=50, debiased=False, gradient="implicit")
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(gradient, torch.full((4, 4), -0.5 / 4, dtype=torch.float64))


@pytest.mark.parametrize("debiased", [True, False])
def test_envelope_gradients_hold_the_plan_fixed(debiased):
    x, y = (normal(seed, 5, 3).requires_grad_() for seed in (0, 1))
    value = transport_divergence(x, y, debiased=debiased, gradient="envelope")

    def fixed(a, b):
        cost = transport_cost(a, b)
        return (sinkhorn(cost.detach()) * cost).sum()

    expected = 2 * fixed(x, y) - fixed(x, x) - fixed(y, y) if debiased else fixed(x, y)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, [x, y]), torch.autograd.grad(expected, [x, y]))


@pytest.mark.parametrize("gradient", ["unrolled", "envelope", "implicit"])
def test_the_value_does_not_depend_on_the_gradient(gradient):
    x, y = normal(0, 2, 6, 3)
    assert transport_divergence(x, y, gradient=gradient) == transport_divergence(x, y)


@pytest.mark.parametrize("gradient", ["unrolled", "envelope", "implicit"])
@pytest.mark.parametrize("debiased", [True, False])
def test_a_batch_of_one_has_no_divergence(gradient, debiased):
    x, y = (normal(seed, 1, 3).requires_grad_() for seed in (0, 1))
    value = transport_divergence(x, y, gradient=gradient, debiased=debiased)
    assert value.item() == 0
    for of_features in torch.autograd.grad(value, [x, y]):
        assert (of_features == 0).all()


@pytest.mark.parametrize("gradient", ["unrolled", "envelope", "implicit"])
@pytest.mark.parametrize("cost", COSTS)
def test_tiny_epsilon_and_huge_costs_stay_finite_in_float32(cost, gradient):
    scale = 60 if cost == "sqeuclidean" else 1e4  # for costs above 10,000
    x, y = (scale * normal(seed, 30, 5, dtype=torch.float32) for seed in (0, 1))
    x[3] = y[4] = x[5] = 0
    x, y = x.requires_grad_(), y.requires_grad_()
    value = transport_divergence(x, y, cost=cost, epsilon=1e-4, gradient=gradient)
    assert torch.isfinite(value)
    assert all(torch.isfinite(of_features).all() for of_features in torch.autograd.grad(value, [x, y]))


def test_what_the_divergence_is_made_of():
    x, y = (normal(seed, 6, 3).requires_grad_() for seed in (0, 1))
    divergence, plan, cost = transport(x, y, debiased=False)
    assert not plan.requires_grad
    assert not cost.requires_grad
    torch.testing.assert_close(cost, transport_cost(x, y).detach())
    torch.testing.assert_close(plan, sinkhorn(cost))
    torch.testing.assert_close(divergence.detach(), (plan * cost).sum())


@pytest.mark.parametrize("gradient", ["unrolled", "envelope", "implicit"])
@pytest.mark.parametrize("features", [3, 400])
def test_memory_does_not_grow_with_iterations_times_the_plan(features, gradient):
    batch, iterations = 50, 60
    x, y = (normal(seed, batch, features).requires_grad_() for seed in (0, 1))
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with LargestTensor() as watch, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        transport_divergence(x, y, iterations=iterations, gradient=gradient).backward()
    assert watch.elements <= max(3 * batch**2, batch * features, 6 * iterations * batch)
    assert sum(kept.values()) < 8 * (30 * batch**2 + 12 * batch * features + 8 * iterations * batch)


def test_half_precision_is_computed_in_float32():
    x, y = (normal(seed, 8, 40).bfloat16().requires_grad_() for seed in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        value = transport_divergence(x, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, transport_divergence(x.float(), y.float()), rtol=0, atol=0)
    value.backward()
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("gradient", ["unrolled", "envelope", "implicit"])
@pytest.mark.parametrize("features", [3, 50])
def test_a_second_derivative_is_refused(gradient, features):
    x, y = (normal(seed, 4, features).requires_grad_() for seed in (0, 1))
    with pytest.raises(ArgumentError, match="can be differentiated once"):
        torch.autograd.grad(transport_divergence(x, y, gradient=gradient), x, create_graph=True)


def test_says_that_it_has_not_converged():
    x, y = normal(0, 2, 6, 3)
    with pytest.warns(NotConvergedWarning, match="after 3 iterations"):
        transport_divergence(x, y, epsilon=0.01, iterations=3, tolerance=1e-8)


@pytest.mark.slow
def test_compiles_as_a_whole():
    x, y = (normal(seed, 8, 40).requires_grad_() for seed in (0, 1))
    compiled = torch.compile(transport_divergence, fullgraph=True)
    for function in (compiled, transport_divergence):
        torch.testing.assert_close(function(x, y), textbook.divergence(x, y), rtol=1e-10, atol=1e-10)
    received = torch.autograd.grad(compiled(x, y), [x, y])
    torch.testing.assert_close(received, torch.autograd.grad(textbook.divergence(x, y), [x, y]), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"debiased": "no"}, ArgumentError, "debiased must be True or False; received 'no'"),
        ({"gradient": "exact"}, ArgumentError, "gradient must be one of 'unrolled', 'envelope', 'implicit'; received"),
        ({"cost": "l1"}, ArgumentError, "cost must be one of"),
        ({"epsilon": 0.0}, ArgumentError, "epsilon must be a finite number above 0; received 0.0"),
        ({"y": torch.ones(3, 2)}, ShapeError, r"x \(2, 2\) and y \(3, 2\) must have the same number of samples"),
        ({"y": torch.ones(2, 3)}, ShapeError, "must have the same number of features"),
        (
            {"y": torch.tensor([[1.0, 0.0], [float("nan"), 0.0]])},
            NotFiniteError,
            "y must be .* nan in sample 1, feature 0",
        ),
        ({"x": torch.full((2, 2), 1e30)}, NotFiniteError, r"features up to 1e\+30 are too large"),
    ],
)
def test_bad_input(arguments, error, message):
    given = {"x": torch.ones(2, 2), "y": torch.zeros(2, 2), "cost": "sqeuclidean", **arguments}
    with pytest.raises(error, match=message):
        transport_divergence(**given)


def test_transport_is_debiased_by_default():
    x, y = normal(0, 6, 3), normal(1, 6, 3)
    torch.testing.assert_close(transport(x, y).divergence, transport_divergence(x, y))
