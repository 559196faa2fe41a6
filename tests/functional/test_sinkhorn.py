"""Sinkhorn's plans: POT's, the textbook's, known answers, both ways of computing, gradients, memory."""

import hypothesis
import numpy as np
import ot
import pytest
import torch
from hypothesis import strategies
from support.transport_problems import LargestTensor, clouds, diracs, normal, permutations, seeds
from torch.utils.checkpoint import checkpoint

from encapkeras.errors import ArgumentError, NotConvergedWarning, NotFiniteError, ShapeError
from encapkeras.functional import marginal_error, sinkhorn, transport_cost
from encapkeras.reference import transport

HARD = 1e4  # costs with which the factors leave every range, at epsilon 1


def uniform(size):
    return np.full(size, 1 / size)


@pytest.mark.parametrize("epsilon", [1.0, 0.1])
@pytest.mark.parametrize("iterations", [1, 10, 100])
@hypothesis.given(pair=clouds())
@hypothesis.settings(max_examples=15, deadline=None)
def test_equals_pot_at_equal_iterations(epsilon, iterations, pair):
    cost = transport_cost(*pair)
    plan = sinkhorn(cost, epsilon=epsilon, iterations=iterations)
    weight = uniform(len(cost))
    # POT updates the columns first.
    expected = ot.sinkhorn(weight, weight, cost.T.numpy(), epsilon, numItermax=iterations, stopThr=0, warn=False).T
    np.testing.assert_allclose(plan, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("epsilon", [1.0, 0.3, 0.1, 0.05])
@hypothesis.given(pair=clouds())
@hypothesis.settings(max_examples=10, deadline=None)
def test_equals_pot_when_converged(epsilon, pair):
    cost = transport_cost(*pair)
    cost = cost / cost.max()
    plan = sinkhorn(cost, epsilon=epsilon, iterations=20_000, tolerance=1e-9)
    weight = uniform(len(cost))
    expected = ot.sinkhorn2(
        weight, weight, cost.numpy(), epsilon, method="sinkhorn_log", numItermax=20_000, stopThr=1e-9
    )
    assert (plan * cost).sum().item() == pytest.approx(float(np.squeeze(expected)), abs=1e-6)
    assert marginal_error(plan) < 1e-6


@hypothesis.given(pair=clouds())
@hypothesis.settings(max_examples=10, deadline=None)
def test_tends_to_the_exact_cost(pair):
    cost = transport_cost(*pair)
    cost = cost / cost.max()
    exact = ot.emd2(uniform(len(cost)), uniform(len(cost)), cost.numpy())
    excess = []
    for epsilon in (0.1, 0.01, 0.003):
        plan = sinkhorn(cost, epsilon=epsilon, iterations=20_000, tolerance=1e-4)
        excess.append((plan * cost).sum().item() - exact)
    assert abs(excess[-1]) < 1e-2
    assert excess[2] <= excess[1] + 1e-4 <= excess[0] + 2e-4


@hypothesis.given(problem=diracs(), epsilon=strategies.sampled_from([1e-3, 0.1, 10]))
@hypothesis.settings(max_examples=20, deadline=None)
def test_between_two_points_every_plan_costs_their_distance(problem, epsilon):
    cost = transport_cost(problem.x, problem.y, cost=problem.cost)
    plan = sinkhorn(cost, epsilon=epsilon, iterations=3)
    assert (plan * cost).sum().item() == pytest.approx(problem.answer, abs=1e-9)
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / len(plan) ** 2))


@hypothesis.given(problem=permutations())
@hypothesis.settings(max_examples=20, deadline=None)
def test_finds_a_permutation(problem):
    (x, y, kind, _), order = problem
    plan = sinkhorn(transport_cost(x, y, cost=kind), epsilon=0.5, iterations=50)
    expected = torch.nn.functional.one_hot(order, len(x)).T / len(x)
    torch.testing.assert_close(plan, expected.double(), rtol=0, atol=1e-4)


@hypothesis.given(pair=clouds(), factor=strategies.sampled_from([1e-3, 7.0, 1e5]))
@hypothesis.settings(max_examples=20, deadline=None)
def test_only_the_ratio_of_cost_and_epsilon_counts(pair, factor):
    cost = transport_cost(*pair)
    plan = sinkhorn(cost, epsilon=0.2)
    torch.testing.assert_close(sinkhorn(factor * cost, epsilon=factor * 0.2), plan, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sinkhorn(cost + 3 * factor, epsilon=0.2), plan, rtol=1e-5, atol=1e-9)


@hypothesis.given(seed=seeds, sources=strategies.integers(1, 7), targets=strategies.integers(1, 7))
@hypothesis.settings(max_examples=20, deadline=None)
def test_weights_and_their_gradients(seed, sources, targets):
    cost = normal(seed, sources, targets).abs().requires_grad_()
    source, target = normal(seed + 1, sources).abs() + 0.1, normal(seed + 2, targets).abs() + 0.1
    source, target = (source / source.sum()).requires_grad_(), (target / target.sum()).requires_grad_()
    plan = sinkhorn(cost, epsilon=0.5, source=source, target=target, iterations=2000, tolerance=1e-12)
    assert marginal_error(plan, source=source, target=target) < 1e-9
    three = lambda cost, source, target: sinkhorn(cost, epsilon=0.5, iterations=3, source=source, target=target)  # noqa: E731
    assert torch.autograd.gradcheck(three, (cost, source, target), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, HARD])
def test_equals_the_textbook_as_far_as_that_reaches(scale):
    """The harder problem by the gradients' linearity: its costs times a small epsilon."""
    cost = (scale * normal(0, 9, 9).abs()).requires_grad_()
    plan = sinkhorn(cost, epsilon=scale, iterations=7)
    expected = transport.plan(cost, epsilon=scale, iterations=7)
    torch.testing.assert_close(plan, expected, rtol=1e-10, atol=1e-13)
    weights = normal(1, 9, 9)
    received = torch.autograd.grad((plan * weights).sum(), cost)
    torch.testing.assert_close(received, torch.autograd.grad((expected * weights).sum(), cost), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("range_of_costs", [1.0, 50, 500, 3000])
def test_both_ways_are_one_function(range_of_costs):
    """Small ranges are computed with the factors, large ones with their logarithms; here against logarithms alone."""
    cost = (range_of_costs * normal(2, 2, 6, 5).abs()).requires_grad_()
    plan = sinkhorn(cost, iterations=5)
    expected = logarithmic_plan(cost, iterations=5)
    torch.testing.assert_close(plan, expected, rtol=1e-9, atol=1e-12)
    weights = normal(3, 2, 6, 5)
    received = torch.autograd.grad((plan * weights).sum(), cost)
    torch.testing.assert_close(received, torch.autograd.grad((expected * weights).sum(), cost), rtol=1e-8, atol=1e-11)


def logarithmic_plan(cost, iterations):
    exponent, (sources, targets) = -cost, cost.shape[-2:]
    b = torch.full_like(cost[..., :1, :], 1 / targets).log()
    for _ in range(iterations):
        a = -np.log(sources) - torch.logsumexp(exponent + b, -1, keepdim=True)
        b = -np.log(targets) - torch.logsumexp(exponent + a, -2, keepdim=True)
    return (exponent + a + b).exp()


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_epsilon_and_the_largest_costs_stay_finite(seed):
    cost = (1e4 * torch.rand(40, 40, generator=torch.Generator().manual_seed(seed))).requires_grad_()
    plan = sinkhorn(cost, epsilon=1e-4, iterations=10)
    (gradient,) = torch.autograd.grad((plan * cost).sum(), cost)
    assert plan.dtype == gradient.dtype == torch.float32
    assert torch.isfinite(plan).all()
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(plan.sum(0), torch.full((40,), 1 / 40))  # columns are exact
    better = sinkhorn(cost.detach(), epsilon=1e-4, iterations=200)
    assert marginal_error(better) <= marginal_error(plan)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e30])
def test_the_smallest_epsilon_there_is(scale):
    cost = scale * normal(0, 6, 5).abs()
    widest = (cost - cost.amin(1, keepdim=True)).max().item()
    plan = sinkhorn(cost, epsilon=1.01e-12 * widest, iterations=20)
    torch.testing.assert_close(plan.sum(0), torch.full_like(plan[0], 1 / 5), rtol=1e-3, atol=0)
    with pytest.raises(ArgumentError, match=r"epsilon must be at least .* for costs so far apart; received"):
        sinkhorn(cost, epsilon=0.99e-12 * widest)


def test_several_problems_at_once():
    cost = normal(0, 2, 3, 5, 4).abs()
    plans = sinkhorn(cost, epsilon=0.3)
    for index in np.ndindex(2, 3):
        torch.testing.assert_close(plans[index], sinkhorn(cost[index], epsilon=0.3), rtol=1e-12, atol=0)
    assert marginal_error(plans).shape == (2, 3)


def test_stops_when_it_is_as_close_as_asked():
    cost = normal(1, 10, 10).abs()
    plan = sinkhorn(cost, epsilon=0.1, iterations=10_000, tolerance=1e-3)
    assert 1e-5 < marginal_error(plan) <= 1e-3
    for iterations in range(1, 10_000):
        if marginal_error(sinkhorn(cost, epsilon=0.1, iterations=iterations)) <= 1e-3:
            break
    torch.testing.assert_close(plan, sinkhorn(cost, epsilon=0.1, iterations=iterations), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, HARD])
def test_says_that_it_has_not_converged(scale):
    with pytest.warns(NotConvergedWarning, match=r"still 0\.\d+ from their weights after 2 iterations, above the tol"):
        plan = sinkhorn(scale * normal(1, 10, 10).abs(), epsilon=0.1, iterations=2, tolerance=1e-9)
    assert torch.isfinite(plan).all()


@pytest.mark.parametrize("scale", [1.0, HARD])
def test_memory_is_that_of_the_plan_and_the_factors(scale):
    """All that the backward pass keeps, and every tensor on the way."""
    size, iterations = 60, 40
    cost = (scale * normal(0, size, size).abs()).requires_grad_()
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with LargestTensor() as watch, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        plan = sinkhorn(cost, iterations=iterations)
        plan.square().sum().backward()
    assert sum(kept.values()) < 8 * (4 * size**2 + 3 * iterations * 2 * size)
    assert watch.elements <= max(size**2, 2 * iterations * size)


def test_checkpointing_and_repeated_backward():
    cost = normal(0, 6, 6).abs().requires_grad_()
    plain = sinkhorn(cost).square().sum()
    (first,) = torch.autograd.grad(plain, cost, retain_graph=True)
    (again,) = torch.autograd.grad(plain, cost)
    (through,) = torch.autograd.grad(checkpoint(sinkhorn, cost, use_reentrant=False).square().sum(), cost)
    assert torch.equal(first, again)
    assert torch.equal(first, through)


def test_a_second_derivative_is_refused():
    cost = normal(0, 3, 3).abs().requires_grad_()
    with pytest.raises(ArgumentError, match="can be differentiated once; create_graph=True requires more"):
        torch.autograd.grad(sinkhorn(cost).square().sum(), cost, create_graph=True)


@pytest.mark.parametrize("offset", [1e6, 1e8, -1e8])
@pytest.mark.parametrize("epsilon", [1e-3, 1.0])
def test_an_offset_of_all_costs_costs_no_digits(offset, epsilon):
    """With logarithms: the factors of these problems leave the range of plain ones."""
    cost = (1000 * epsilon * normal(4, 5, 6)).float().double() + offset
    near = (cost - offset).requires_grad_()
    far = cost.requires_grad_()
    plans = [sinkhorn(costs, epsilon=epsilon, iterations=8) for costs in (near, far)]
    torch.testing.assert_close(*plans, rtol=1e-6, atol=1e-10)
    of_near, of_far = (
        torch.autograd.grad(plan.square().sum(), costs)[0] for plan, costs in zip(plans, (near, far), strict=True)
    )
    torch.testing.assert_close(of_near, of_far, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, HARD])
def test_a_backward_pass_within_autocast_keeps_its_precision(scale):
    cost = (scale * normal(0, 16, 16).abs()).float().requires_grad_()
    (expected,) = torch.autograd.grad(sinkhorn(cost).square().sum(), cost)
    with torch.autocast("cpu", torch.bfloat16):
        (received,) = torch.autograd.grad(sinkhorn(cost).square().sum(), cost)
    torch.testing.assert_close(received, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epsilon": 0}, ArgumentError, "epsilon must be a finite number above 0; received 0"),
        ({"epsilon": -1.0}, ArgumentError, "received -1.0"),
        ({"epsilon": float("nan")}, ArgumentError, "received nan"),
        ({"epsilon": "1"}, ArgumentError, "received '1'"),
        ({"epsilon": True}, ArgumentError, "received True"),
        ({"tolerance": "1e-3"}, ArgumentError, "tolerance must be a finite number above 0, or None; received '1e-3'"),
        ({"cost": np.ones((2, 2))}, ArgumentError, "cost must be a torch tensor; received ndarray"),
        ({"cost": torch.ones(2, 2).to_sparse()}, ArgumentError, "cost must be a dense tensor of a floating type"),
        ({"source": torch.tensor([0.5, float("inf")])}, ArgumentError, "source must be .* received inf"),
        ({"iterations": 0}, ArgumentError, "iterations must be a whole number of at least 1; received 0"),
        ({"iterations": 2.0}, ArgumentError, "received 2.0"),
        ({"tolerance": 0.0}, ArgumentError, "tolerance must be a finite number above 0, or None; received 0.0"),
        ({"cost": torch.ones(3)}, ShapeError, r"cost must be \(sources, targets\).* received \(3,\)"),
        ({"cost": torch.ones(0, 3)}, ShapeError, r"received \(0, 3\)"),
        ({"cost": torch.ones(2, 2, dtype=torch.int64)}, ArgumentError, "floating type; received torch.int64"),
        ({"cost": torch.tensor([[0.0, 1.0], [float("inf"), 0.0]])}, NotFiniteError, r"received inf at index \(1, 0\)"),
        ({"cost": torch.tensor([[0.0, float("nan")]])}, NotFiniteError, r"received nan at index \(0, 1\)"),
        ({"source": torch.ones(3)}, ShapeError, r"source must be a tensor \(2,\), as the cost has it; received \(3,\)"),
        ({"target": [0.5, 0.5]}, ShapeError, "target must be a tensor"),
        ({"source": torch.tensor([1.0, 0.0])}, ArgumentError, "source must be finite and above 0; received 0.0"),
        ({"target": torch.tensor([1.0, 2.0])}, ArgumentError, "must have the same sum; received 1.0 and 3.0"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        sinkhorn(**{"cost": torch.ones(2, 2), **arguments})


def test_numbers_of_numpy_are_numbers():
    plan = sinkhorn(torch.ones(2, 2), epsilon=np.float32(0.5), iterations=np.int64(3), tolerance=np.float64(1e-3))
    torch.testing.assert_close(plan, torch.full((2, 2), 0.25))


def test_the_error_of_what_is_no_plan():
    with pytest.raises(ShapeError, match=r"plan must be \(sources, targets\)"):
        marginal_error(torch.ones(3))
