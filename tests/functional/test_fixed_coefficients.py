"""Controls: coefficients that are fixed in place of a routing's own."""

import math
from collections import defaultdict

import pytest
import torch
from support.routing import gradients, largest_difference
from support.routing import random_inputs as random_list
from support.window_methods import METHODS, random_coefficients, random_inputs

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import (
    AttentionLayer,
    VectorRoutingWeights,
    dynamic_routing,
    em_routing,
    heinsen_2019_routing,
    heinsen_2022_routing,
    inverted_attention_routing,
    self_routing,
    squash,
    window_dynamic_routing,
)
from encapkeras.reference import window_routing_loops as loops
from encapkeras.reference.window_gaussian_loops import expected_log_determinant

WINDOWS = [
    ((3, 2), {}),
    ((3, 2), {"strides": (2, 1), "padding": 1}),
    ((5, 4), {}),
]


def first_coefficients(inputs, kernel):
    *_, types, outputs = inputs.routing_bias.shape
    return torch.full((*kernel, types, outputs), 1 / outputs, dtype=torch.float64)


def without_decisions(inputs):
    return inputs._replace(routing_weight=0 * inputs.routing_weight, routing_bias=0 * inputs.routing_bias)


@pytest.mark.parametrize("pose", ["vector", "matrix"])
@pytest.mark.parametrize(("kernel", "options"), WINDOWS)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "self_attention"])  # its one pass routes
def test_uniform_coefficients_are_one_iteration(name, kernel, options, pose):
    inputs = random_inputs(kernel=kernel, pose=pose)
    uniform = first_coefficients(inputs, kernel)
    received = METHODS[name](inputs, iterations=1, coefficients=uniform, pose=pose, **options)
    expected = METHODS[name](without_decisions(inputs), iterations=1, pose=pose, **options)
    tolerance = 1e-8 if name.startswith("em") else 1e-13  # EM adds an epsilon of 1e-9 to what first shares divide by
    assert largest_difference(received, expected) < tolerance
    of_leaves = [gradients(outputs, inputs, materialize=True) for outputs in (received, expected)]
    assert largest_difference(*of_leaves) < tolerance


@pytest.mark.parametrize("pose", ["vector", "matrix"])
@pytest.mark.parametrize(("kernel", "options"), WINDOWS)
def test_self_attention_adds_its_bias_to_fixed_coefficients(kernel, options, pose):
    inputs, coefficients = random_inputs(kernel=kernel, pose=pose), random_coefficients(kernel)
    received = METHODS["self_attention"](inputs, 1, coefficients=coefficients, pose=pose, **options)
    total, _ = sums(inputs, coefficients + inputs.routing_bias, pose=pose, **options)
    assert largest_difference(received, [squash(total, variant="exponential")]) < 1e-13


def given_shares(windows, coefficients, competition):
    """Coefficients of edges, each divided by the number of windows that hold the child if that competes."""
    fixed, held = windows.of_edges(coefficients), defaultdict(set)
    for j, i in windows.offset:
        held[i].add(j[:2])
    return {(j, i): c / len(held[i]) if competition == "child" else c for (j, i), c in fixed.items()}


def sums(inputs, coefficients, competition="position", *, active=False, pose="vector", strides=1, padding=0):
    """`sum_i c_ij vote_ij` and `sum_i c_ij`, of all parents; of active children, `c_ij a_i` in place of `c_ij`."""
    windows = loops.Windows(inputs.capsules, inputs.weight, strides, padding)
    share = given_shares(windows, coefficients, competition)
    activation = loops.of_places(inputs.activations.unsqueeze(-1))
    share = {(j, i): c * (activation[i] if active else torch.ones_like(activation[i])) for (j, i), c in share.items()}
    gathered = loops.gather(windows, share, loops.votes(windows, inputs.capsules, inputs.weight, pose))
    amount = {j: sum(share[j, i] for i in children) for j, children in windows.children.items()}
    return windows.map(gathered), windows.map(amount)


def _self_routing(inputs, coefficients, **options):
    gathered, amount = sums(inputs, coefficients, active=True, **options)
    return gathered / amount, (amount / amount.sum(3, keepdim=True)).squeeze(-1)


def _attention(inputs, coefficients, **options):
    return (loops.layer_norm(sums(inputs, coefficients, **options)[0]) * inputs.scale + 0.1 * inputs.scale,)


def edges(inputs, coefficients, competition, *, pose="vector", strides=1, padding=0):
    """Of each parent: the weights `c_ij a_i` of its children, and their votes."""
    windows = loops.Windows(inputs.capsules, inputs.weight, strides, padding)
    share = given_shares(windows, coefficients, competition)
    activation = loops.of_places(inputs.activations.unsqueeze(-1))
    vote = loops.votes(windows, inputs.capsules, inputs.weight, pose)
    of_parents = {
        j: (torch.stack([share[j, i] * activation[i] for i in children]), torch.stack([vote[j, i] for i in children]))
        for j, children in windows.children.items()
    }
    return windows, of_parents


def _em(competition):
    def route(inputs, coefficients, **options):
        windows, of_parents = edges(inputs, coefficients, competition, **options)
        scale = 0.1 * (1 - 0.95**3)  # the lambda of the third iteration
        factor = 100 * coefficients.shape[3] / coefficients[..., 0].numel()
        means, chances = {}, {}
        for j, (weight, vote) in of_parents.items():
            amount = weight.sum(0)
            means[j] = (weight * vote).sum(0) / (amount + 1e-9)
            variance = (weight * (vote - means[j]) ** 2).sum(0) / (amount + 1e-9) + 1e-9
            cost = factor * amount * (inputs.beta_v[j[2]] + variance.log() / 2).sum(-1, keepdim=True)
            chances[j] = (scale * (inputs.beta_a[j[2]] - cost)).sigmoid()
        return windows.map(means), windows.map(chances)[..., 0]

    return route


def _bayes(covariance):
    def route(inputs, coefficients, **options):
        windows, of_parents = edges(inputs, coefficients, "position", **options)
        dim = next(iter(of_parents.values()))[1].shape[-1]
        means, scores = {}, {}
        amount = {j: weight.sum(0) for j, (weight, _) in of_parents.items()}
        for j, (weight, vote) in of_parents.items():
            mean = (weight * vote).sum(0) / amount[j]
            means[j] = amount[j] / (1 + amount[j]) * mean
            scatter = torch.eye(dim, dtype=mean.dtype) + torch.einsum(
                "ibo,ibd,ibe->bde", weight, vote - mean, vote - mean
            )
            scatter = scatter + (amount[j] / (1 + amount[j])).unsqueeze(-1) * mean.unsqueeze(-1) * mean.unsqueeze(-2)
            if covariance == "diagonal":
                scatter = scatter.diagonal(dim1=-2, dim2=-1).diag_embed()
            alphas = sum(1 + amount[*j[:2], k] for k in range(coefficients.shape[3]))
            log_pi = torch.digamma(1 + amount[j]) - torch.digamma(alphas)
            entropy = dim * math.log(2 * math.pi * math.e) - expected_log_determinant(amount[j], scatter)
            scores[j] = -log_pi.exp() * entropy / 2
        return windows.map(means), windows.map(scores)[..., 0]

    return route


FORMULAS = {
    "em_position": _em("position"),
    "em_child": _em("child"),
    "bayes_position": _bayes("diagonal"),
    "bayes_child": _bayes("diagonal"),
    "bayes_full_position": _bayes("full"),
    "self_routing": _self_routing,
    "inverted_attention": _attention,
    "dynamic_position": lambda *given, **options: (squash(sums(*given, **options)[0]),),
    "dynamic_child": lambda *given, **options: (squash(sums(*given, "child", **options)[0]),),
}


@pytest.mark.parametrize("pose", ["vector", "matrix"])
@pytest.mark.parametrize(("kernel", "options"), WINDOWS)
@pytest.mark.parametrize("name", FORMULAS)
def test_equal_the_formulas_edge_by_edge(name, kernel, options, pose):
    inputs, coefficients = random_inputs(kernel=kernel, pose=pose), random_coefficients(kernel)
    received = METHODS[name](inputs, iterations=3, coefficients=coefficients, pose=pose, **options)
    expected = FORMULAS[name](inputs, coefficients, pose=pose, **options)
    assert largest_difference(received, expected) < 1e-10
    leaves = [*inputs, coefficients]
    of_leaves = [gradients(outputs, leaves, materialize=True) for outputs in (received, expected)]
    assert largest_difference(*of_leaves) < 1e-10


@pytest.mark.parametrize("name", METHODS)
def test_gradients(name):
    sizes = {"kernel": (2, 1), "types": 2, "outputs": 2}
    inputs = random_inputs(batch=1, height=3, width=2, **sizes)

    def route(coefficients, *tensors):
        return METHODS[name](type(inputs)(*tensors), iterations=2, coefficients=coefficients)

    leaves = (random_coefficients(**sizes), *inputs)
    assert torch.autograd.gradcheck(route, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(route, leaves, fast_mode=True)


@pytest.mark.parametrize("name", METHODS)
def test_must_be_of_each_matrix(name):
    inputs = random_inputs()
    with pytest.raises(ShapeError, match=r"coefficients must be \(window height, .*\) = \(3, 2, 3, 4\); received"):
        METHODS[name](inputs, iterations=2, coefficients=random_coefficients((2, 2)))


def test_self_routing_needs_no_routing_weights():
    inputs, coefficients = random_inputs(), random_coefficients()
    capsules, activations, weight, routing, bias, *_ = inputs
    expected = self_routing(capsules, activations, weight, routing, bias, coefficients=coefficients)
    received = self_routing(capsules, activations, weight, None, None, coefficients=coefficients)
    assert all(map(torch.equal, received, expected))
    none, out = self_routing(capsules, activations, None, None, None, coefficients=coefficients)
    assert none is None
    assert torch.equal(out, expected[1])
    with pytest.raises(ArgumentError, match="routing_weight and routing_bias must be given where coefficients are not"):
        self_routing(capsules, activations, weight, None, bias)
    with pytest.raises(ShapeError, match="coefficients must be"):
        self_routing(capsules, activations, None, None, None, coefficients=coefficients[0, 0])


@pytest.mark.parametrize("concurrent", [True, False])
@pytest.mark.parametrize("fixed", [(True, True), (True, False), (False, True)])
def test_a_stack_of_attention_routes_the_layers_that_are_not_fixed(fixed, concurrent):
    """The others follow from their children, whatever the passes."""
    inputs, second = random_inputs(kernel=(2, 2)), random_inputs(kernel=(2, 2), types=4, outputs=3)
    sizes = ({"types": 3, "outputs": 4}, {"types": 4, "outputs": 3})
    layers = [
        AttentionLayer(each.weight, each.scale, 0 * each.scale)
        if not given
        else AttentionLayer(each.weight, each.scale, 0 * each.scale, coefficients=random_coefficients((2, 2), **size))
        for each, given, size in zip((inputs, second), fixed, sizes, strict=True)
    ]
    received = inverted_attention_routing(inputs.capsules, layers, iterations=3, concurrent=concurrent)
    if concurrent:
        below = layers[0].route(inputs.capsules, None)
        values = [below, layers[1].route(below, None)]
        for _ in range(2):
            values = [layers[0].route(inputs.capsules, values[0]), layers[1].route(values[0], values[1])]
    else:
        values = [inverted_attention_routing(inputs.capsules, layers[0], iterations=3)]
        values.append(inverted_attention_routing(values[0], layers[1], iterations=3))
    assert largest_difference([received], values[1:]) < 1e-13


@pytest.mark.parametrize("axis", ["inputs", "outputs"])
def test_uniform_coefficients_of_dynamic_routing_are_one_iteration(axis):
    inputs = random_list().of_dynamic
    _, positions, types, _ = inputs[0].shape
    value = 1 / (positions * types) if axis == "inputs" else 1 / 3
    uniform = torch.full((types, 3), value, dtype=torch.float64)
    received = dynamic_routing(*inputs, softmax_over=axis, coefficients=uniform)
    expected = dynamic_routing(*inputs, softmax_over=axis, iterations=1)
    assert largest_difference([received], [expected]) < 1e-14
    assert largest_difference(gradients(received, inputs), gradients(expected, inputs)) < 1e-14


def votes(inputs):
    return torch.einsum("bpnd,njed->bpnje", inputs.capsules, inputs.weight) + inputs.bias[None, None]


@pytest.mark.parametrize("shape", [{"positions": 3, "types": 2}, {"positions": 1, "types": 5}])
def test_dynamic_routing_equals_the_formula(shape):
    inputs = random_list(**shape)
    coefficients = random_coefficients((), shape["types"], 3)
    leaves = [*inputs.of_dynamic, coefficients]
    received = dynamic_routing(*inputs.of_dynamic, coefficients=coefficients)
    expected = squash(torch.einsum("nj,bpnje->bje", coefficients, votes(inputs)))
    assert largest_difference([received], [expected]) < 1e-13
    assert largest_difference(gradients(received, leaves), gradients(expected, leaves)) < 1e-13

    def route(*given):
        return dynamic_routing(*given[:3], coefficients=given[3])

    assert torch.autograd.gradgradcheck(route, leaves, fast_mode=True)


@pytest.mark.parametrize("shape", [{"positions": 4, "types": 3}, {"positions": 1, "types": 9}])
@pytest.mark.parametrize("iterations", [1, 3])
def test_em_routing_equals_the_formula(shape, iterations):
    """One M-step, whose temperature is that of the last iteration."""
    inputs = random_list(**shape)
    coefficients = random_coefficients((), shape["types"], 3)
    received = em_routing(*inputs, iterations=iterations, coefficients=coefficients)
    vote, share = votes(inputs), coefficients * inputs.activations.unsqueeze(-1)
    amount = share.sum((1, 2)).unsqueeze(-1)
    mean = torch.einsum("bpnj,bpnje->bje", share, vote) / amount
    variance = torch.einsum("bpnj,bpnje->bje", share, (vote - mean[:, None, None]) ** 2) / amount
    cost = ((variance.log() / 2 + inputs.beta_v[:, None]) * amount).sum(2)
    low, high = cost.amin(1, keepdim=True), cost.amax(1, keepdim=True)
    ranged = 10 * (cost - low) / (high - low) - 5
    expected = (mean, (iterations * (inputs.beta_a - ranged)).sigmoid())
    leaves = [*inputs, coefficients]
    assert largest_difference(received, expected) < 1e-10
    assert largest_difference(gradients(received, leaves), gradients(expected, leaves)) < 1e-10


def test_uniform_coefficients_of_em_routing_are_one_iteration():
    inputs = random_list()
    uniform = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    received = em_routing(*inputs, iterations=1, coefficients=uniform)
    expected = em_routing(*inputs, iterations=1)
    assert largest_difference(received, expected) < 1e-13
    assert largest_difference(gradients(received, inputs), gradients(expected, inputs)) < 1e-13


def test_coefficients_without_windows_must_be_of_each_matrix():
    inputs = random_list()
    message = r"coefficients must be \(types, outputs\) = \(2, 3\); received \(3, 2\)"
    with pytest.raises(ShapeError, match=message):
        dynamic_routing(*inputs.of_dynamic, coefficients=torch.ones(3, 2))
    with pytest.raises(ShapeError, match=message):
        em_routing(*inputs, coefficients=torch.ones(3, 2))


def test_coefficients_of_vectors():
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (7,), (4, 5), (5, 6), (4, 6), (6, 5), (4, 5), (4, 5), (7, 4), (7, 4), (7, 4), (7, 4), (2, 7, 5)]
    *parts, use, ignore, inputs = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    weights = VectorRoutingWeights(*parts)
    expected = heinsen_2022_routing(inputs, weights, use, ignore, iterations=1)
    uniform = torch.full((7, 4), 0.25, dtype=torch.float64)
    for given in (uniform, uniform[:1], uniform.expand(2, 7, 4)):
        assert all(map(torch.equal, heinsen_2022_routing(inputs, weights, use, ignore, coefficients=given), expected))
    fixed = random_coefficients((), 7, 4)
    _, credit = heinsen_2022_routing(inputs, weights, use, ignore, iterations=3, coefficients=fixed)
    active = (inputs / 7**0.5 * weights.active_weight).sum(-1).add(weights.active_bias).sigmoid().unsqueeze(-1)
    assert largest_difference([credit], [active * (use * fixed - ignore * (1 - fixed))]) < 1e-13
    mask = torch.zeros(7, 4, dtype=torch.bool)
    mask[3] = True
    _, masked = heinsen_2022_routing(inputs, weights, use, ignore, coefficients=fixed, mask=mask)
    assert (masked[:, 3] == 0).all() and torch.equal(masked[:, ~mask], credit[:, ~mask])
    with pytest.raises(ShapeError, match="coefficients must be"):
        heinsen_2022_routing(inputs, weights, use, ignore, coefficients=fixed[:2])


def test_iterations_are_checked_though_there_is_one_pass():
    inputs = random_inputs()
    with pytest.raises(ArgumentError, match="iterations must be"):
        window_dynamic_routing(inputs.capsules, inputs.weight, iterations=0, coefficients=random_coefficients())


@pytest.mark.parametrize("density", ["gaussian", "skm"])
def test_coefficients_of_matrices_with_scores(density):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5), (2, 5, 2, 3), (5, 3, 3, 4), (5, 3, 2, 4), (5, 3), (5, 3)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    expected = heinsen_2019_routing(*tensors, iterations=1)
    of_expected = gradients(expected, tensors)
    uniform = torch.full((5, 3), 1 / 3, dtype=torch.float64)
    for given in (uniform, uniform[:1], uniform[:, :1], uniform[:1, :1]):
        received = heinsen_2019_routing(*tensors, density=density, coefficients=given)
        assert largest_difference(received, expected) < 1e-12
        assert largest_difference(gradients(received, tensors), of_expected) < 1e-12
    with pytest.raises(ShapeError, match=r"coefficients must be \(5, 3\), or 1 in place of the first sizes"):
        heinsen_2019_routing(*tensors, coefficients=uniform[:2])


def test_matrices_with_scores_equal_the_formula():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5), (2, 5, 2, 3), (5, 3, 3, 4), (5, 3, 2, 4), (5, 3), (5, 3)]
    scores, matrices, weight, bias, worth, cost = (
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    )
    leaves = [scores, matrices, weight, bias, worth, cost, random_coefficients((), 5, 3)]
    received = heinsen_2019_routing(*leaves[:-1], iterations=3, coefficients=leaves[-1])
    vote = torch.einsum("bird,ijde->bijre", matrices, weight) + bias
    use = scores.sigmoid().unsqueeze(-1) * leaves[-1]
    score = (worth * use - cost * (scores.sigmoid().unsqueeze(-1) - use)).sum(1)
    share = (use / (use.sum(1, keepdim=True) + 1e-5))[..., None, None]
    mean = (share * vote).sum(1)
    expected = (score, mean, (share * (vote - mean.unsqueeze(1)) ** 2).sum(1) + 1e-5)
    assert largest_difference(received, expected) < 1e-12
    assert largest_difference(gradients(received, leaves), gradients(expected, leaves)) < 1e-12
