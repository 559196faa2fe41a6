"""EM routing: the literal loops, the textbook tensors, and the inputs on which others give NaN."""

import hypothesis
import pytest
import torch
from hypothesis import strategies
from support.routing import LargestTensor, gradients, largest_difference, random_inputs
from torch.utils.checkpoint import checkpoint

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import em_routing
from encapkeras.functional.routing.em_votes import votes_are_faster
from encapkeras.reference import routing_loops, routing_votes

SHAPES = {"shared": {"positions": 4, "types": 3}, "unshared": {"positions": 1, "types": 9}}
NORMALIZE = [False, True]


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("optional", [True, False])
def test_equals_the_literal_loops(normalize, iterations, shape, optional):
    inputs = random_inputs(**SHAPES[shape])
    bias, activations = (inputs.bias, inputs.activations) if optional else (None, None)
    leaves = [tensor for name, tensor in inputs._asdict().items() if optional or name not in ("bias", "activations")]
    out = em_routing(
        inputs.capsules,
        inputs.weight,
        bias,
        activations,
        inputs.beta_v,
        inputs.beta_a,
        iterations=iterations,
        normalize_distances=normalize,
    )
    expected = routing_loops.em_routing(
        inputs.capsules, inputs.weight, bias, activations, inputs.beta_v, inputs.beta_a, iterations, normalize
    )
    assert largest_difference(out, expected) < 1e-10
    assert largest_difference(gradients(out, leaves), gradients(expected, leaves)) < 1e-10


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.slow
def test_equals_the_textbook_version_over_many_pieces(normalize):
    inputs = random_inputs(batch=8, positions=64, types=12, dim=8, outputs=128, out_dim=16)
    out = em_routing(*inputs, normalize_distances=normalize)
    expected = routing_votes.em_routing(*inputs, normalize_distances=normalize)
    assert largest_difference(out, expected) < 1e-10
    assert largest_difference(gradients(out, inputs), gradients(expected, inputs)) < 1e-10


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("positions, types", [(64, 16), (2, 64)])
def test_float32_is_as_exact_as_the_textbook_version(normalize, positions, types):
    exact = random_inputs(batch=2, positions=positions, types=types, dim=8, outputs=16, out_dim=16, scale=0.5)
    expected = routing_votes.em_routing(*exact, normalize_distances=normalize)
    expected = [*expected, *gradients(expected, exact)]
    errors = []
    for function in (em_routing, routing_votes.em_routing):
        rough = exact.to(torch.float32)
        out = function(*rough, normalize_distances=normalize)
        found = gradients(tuple(part.double() for part in out), rough)
        errors.append(largest_difference([part.double() for part in (*out, *found)], expected))
    assert errors[0] <= 2 * errors[1]


# Batch, positions, types, outputs, dimensions of outputs and inputs; milliseconds of a forward and backward pass by
# votes and by sums of features, medians of 5 alternating rounds on two cores with AVX-512.
MEASURED = [
    (32, 16, 32, 10, 16, 16, 31.2, 55.0),
    (32, 1, 512, 10, 16, 16, 32.7, 452.3),
    (32, 1, 1152, 10, 16, 8, 90.8, 402.7),
    (32, 4, 64, 10, 16, 8, 15.3, 29.6),
    (32, 16, 32, 10, 16, 8, 30.6, 19.6),
    (32, 36, 32, 10, 16, 8, 84.6, 32.1),
    (8, 36, 32, 64, 16, 8, 133.0, 33.9),
    (8, 64, 32, 512, 16, 8, 2148.2, 219.0),
    (4, 4, 32, 256, 16, 8, 24.8, 63.3),
    (2, 16, 32, 10, 16, 8, 2.8, 5.9),
    (32, 49, 8, 10, 16, 8, 23.3, 12.2),
]


@pytest.mark.parametrize("case", MEASURED)
def test_the_way_that_was_faster_is_chosen(case):
    *sizes, by_votes, by_features = case
    assert votes_are_faster(*sizes) == (by_votes < by_features)


def test_many_votes_are_made_for_some_samples_at_a_time():
    inputs = random_inputs(batch=40, positions=1, types=300, dim=4, outputs=24, out_dim=16)
    with LargestTensor() as largest:
        out = em_routing(*inputs)
        received = gradients(out, inputs)
    assert largest.elements <= 2**20
    expected = routing_votes.em_routing(*inputs)
    assert largest_difference(out, expected) < 1e-10
    assert largest_difference(received, gradients(expected, inputs)) < 1e-10


def test_float32_is_exact_where_one_capsule_has_nearly_all_activation():
    """Variances are then far smaller than squares of votes, whose difference would leave float32 no digit."""
    exact = random_inputs(batch=2, positions=16, types=8, dim=8, outputs=10, out_dim=16)
    activations = 1e-6 * exact.activations.detach()
    activations[:, 3, 5] = 1.0
    exact = exact._replace(activations=activations.requires_grad_())
    expected, _ = routing_votes.em_routing(*exact)
    errors = []
    for function in (em_routing, routing_votes.em_routing):
        mean, _ = function(*exact.to(torch.float32))
        errors.append(largest_difference([mean.double()], [expected]))
    assert errors[0] <= 1.5 * errors[1]


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_gradients_flow_through_all_iterations(normalize):
    inputs = random_inputs(batch=2, positions=3, types=2, dim=2, outputs=2, out_dim=2)

    def function(*tensors):
        return em_routing(*tensors, normalize_distances=normalize)

    assert torch.autograd.gradcheck(function, tuple(inputs), atol=1e-4)


def test_can_be_differentiated_twice():
    inputs = random_inputs(batch=1, positions=3, types=2, dim=2, outputs=2, out_dim=2)

    def function(*tensors):
        return em_routing(*tensors, iterations=2)

    assert torch.autograd.gradgradcheck(function, tuple(inputs), atol=1e-4)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_neither_votes_nor_responsibilities_exist(normalize):
    sizes = {"batch": 24, "positions": 64, "types": 8, "dim": 4, "outputs": 128, "out_dim": 8}
    inputs = random_inputs(**sizes, dtype=torch.float32)
    with LargestTensor() as largest:
        gradients(em_routing(*inputs, normalize_distances=normalize), inputs)
    pairs = sizes["batch"] * sizes["outputs"] * sizes["positions"] * sizes["types"]
    assert largest.elements < pairs
    with LargestTensor() as largest:
        gradients(routing_votes.em_routing(*inputs, normalize_distances=normalize), inputs)
    assert largest.elements >= pairs * sizes["out_dim"]  # so that the watch would see them


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_compiles_without_a_break(normalize):
    inputs = random_inputs()
    compiled = torch.compile(em_routing, fullgraph=True, backend="eager")
    out = compiled(*inputs, normalize_distances=normalize)
    expected = em_routing(*inputs, normalize_distances=normalize)
    assert largest_difference(out, expected) < 1e-10
    assert largest_difference(gradients(out, inputs), gradients(expected, inputs)) < 1e-9


def test_half_precision_is_computed_in_float32():
    inputs = random_inputs(dtype=torch.float32)
    expected = em_routing(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = em_routing(*inputs)
    received = gradients(out, inputs)
    assert all(torch.equal(x, y) for x, y in zip(out, expected, strict=True))
    assert largest_difference(received, gradients(expected, inputs)) < 1e-6
    mean, activation = em_routing(inputs.capsules.bfloat16(), *inputs[1:])
    assert mean.dtype == activation.dtype == torch.bfloat16


def test_keeps_nothing_where_no_gradient_is_wanted():
    inputs = random_inputs()
    expected = em_routing(*inputs)
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(pytest.fail, pytest.fail):
        out = em_routing(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(out, expected, strict=True))


def zero_activations(inputs):
    return inputs._replace(activations=torch.zeros_like(inputs.activations).requires_grad_())


def one_dead_sample(inputs):
    dead = inputs.activations.detach().clone()
    dead[0] = 0
    return inputs._replace(activations=dead.requires_grad_())


def constant_capsules(inputs):
    return inputs._replace(capsules=torch.full_like(inputs.capsules, 0.37).requires_grad_())


def zero_capsules(inputs):
    return inputs._replace(capsules=torch.zeros_like(inputs.capsules).requires_grad_())


def large_capsules(inputs):
    return inputs._replace(capsules=(1e4 * inputs.capsules).detach().requires_grad_())


def tiny_capsules(inputs):
    return inputs._replace(capsules=(1e-4 * inputs.capsules).detach().requires_grad_())


def far_capsules(inputs):
    return inputs._replace(capsules=(1e3 + inputs.capsules).detach().requires_grad_())


def equal_votes(inputs):
    weight, bias = torch.zeros_like(inputs.weight), torch.ones_like(inputs.bias)
    return inputs._replace(weight=weight.requires_grad_(), bias=bias.requires_grad_())


HOSTILE = [
    zero_activations,
    one_dead_sample,
    constant_capsules,
    zero_capsules,
    large_capsules,
    tiny_capsules,
    far_capsules,
    equal_votes,
]


@pytest.mark.parametrize("change", HOSTILE)
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
@pytest.mark.parametrize("out_dim", [5, 16])
def test_stays_finite(change, normalize, iterations, out_dim):
    inputs = change(random_inputs(positions=9, types=4, out_dim=out_dim, dtype=torch.float32))
    out = em_routing(*inputs, iterations=iterations, normalize_distances=normalize)
    assert all(part.isfinite().all() for part in out)
    assert all(gradient.isfinite().all() for gradient in gradients(out, inputs))


def test_what_nothing_activates_is_zero():
    mean, activation = em_routing(*zero_activations(random_inputs()))
    assert torch.equal(mean, torch.zeros_like(mean))
    assert ((activation >= 0) & (activation <= 1)).all()


def test_far_capsules_cost_no_accuracy():
    """Squares of votes around 1,000 would leave float32 nothing of a variance of 1."""
    inputs = far_capsules(random_inputs(positions=16, types=4))
    expected = em_routing(*inputs)
    received = em_routing(*inputs.to(torch.float32))
    assert largest_difference([part.double() for part in received], expected) < 1e-4


def test_density_floor():
    """It matters where variances are small: their product is then far below it."""
    narrow, wide = (random_inputs(positions=16, types=4, out_dim=16, scale=scale) for scale in (0.01, 1.0))
    narrow = narrow._replace(bias=0 * narrow.bias)
    assert largest_difference(em_routing(*wide, density_floor=0.0), em_routing(*wide)) < 1e-5
    assert largest_difference(em_routing(*narrow, density_floor=0.0), em_routing(*narrow)) > 1e-3


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_impossible_density_floor(wrong):
    with pytest.raises(ArgumentError, match="density_floor must be a finite number of at least 0; received"):
        em_routing(*random_inputs(), density_floor=wrong)


@hypothesis.given(strategies.integers(0, 1000), strategies.floats(-100, 100))
@hypothesis.settings(deadline=None, max_examples=20)
def test_moves_with_the_votes(seed, offset):
    """A constant added to all votes is added to the means, and changes no activation."""
    inputs = random_inputs(seed=seed, positions=6)
    moved = inputs._replace(bias=inputs.bias + offset)
    (mean, activation), (moved_mean, moved_activation) = em_routing(*inputs), em_routing(*moved)
    torch.testing.assert_close(moved_mean - offset, mean, atol=1e-8, rtol=1e-7)
    torch.testing.assert_close(moved_activation, activation, atol=1e-8, rtol=1e-7)


@hypothesis.given(strategies.integers(0, 1000))
@hypothesis.settings(deadline=None, max_examples=20)
def test_does_not_depend_on_the_order_of_positions_types_and_samples(seed):
    inputs = random_inputs(batch=3, positions=4, types=3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    samples, positions, types = (torch.randperm(size, generator=generator) for size in (3, 4, 3))
    out = em_routing(*inputs)
    mixed = inputs._replace(
        capsules=inputs.capsules[samples][:, positions][:, :, types],
        activations=inputs.activations[samples][:, positions][:, :, types],
        weight=inputs.weight[types],
        bias=inputs.bias[types],
    )
    for received, expected in zip(em_routing(*mixed), out, strict=True):
        torch.testing.assert_close(received, expected[samples], atol=1e-8, rtol=1e-7)


def test_sizes_that_disagree_are_both_named():
    inputs = random_inputs()
    with pytest.raises(ShapeError, match=r"activations must be \(batch, positions, types\) = \(2, 3, 2\)"):
        em_routing(*inputs._replace(activations=inputs.activations[:, :2]))
    with pytest.raises(ShapeError, match=r"beta_a must be \(3,\), one number for each output capsule of weight \(2, 3"):
        em_routing(*inputs._replace(beta_a=inputs.beta_a[:2]))
    with pytest.raises(ShapeError, match="takes 1 types of dimension 4, but capsules"):
        em_routing(*inputs._replace(weight=inputs.weight[:1]))
    with pytest.raises(ArgumentError, match="iterations must be a whole number of at least 1; received 0"):
        em_routing(*inputs, iterations=0)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_gradients_that_can_be_differentiated_equal_the_textbook_version(normalize):
    inputs = random_inputs(positions=6, types=3)
    penalties, firsts = [], []
    for function in (em_routing, routing_votes.em_routing):
        mean, activation = function(*inputs, iterations=2, normalize_distances=normalize)
        first = torch.autograd.grad(mean.square().sum() + activation.sum(), inputs, create_graph=True)
        firsts.append(first)
        penalties.append(torch.autograd.grad(sum(part.square().sum() for part in first), inputs))
    assert largest_difference(*firsts) < 1e-10
    assert largest_difference(*penalties) < 1e-8


def test_one_tensor_may_be_both_betas():
    inputs = random_inputs()
    inputs = inputs._replace(beta_a=inputs.beta_v)
    for create_graph in (False, True):
        received, expected = (
            torch.autograd.grad(function(*inputs)[1].square().sum(), inputs.beta_v, create_graph=create_graph)
            for function in (em_routing, routing_votes.em_routing)
        )
        assert largest_difference(received, expected) < 1e-10


@pytest.mark.parametrize("leaf", ["weight", "bias", "beta_v", "beta_a"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_one_iteration_with_one_tensor_to_learn(leaf, create_graph):
    inputs = random_inputs()
    inputs = type(inputs)(*(t if name == leaf else t.detach() for name, t in inputs._asdict().items()))
    loss = sum(part.sum() for part in em_routing(*inputs, iterations=1))
    (gradient,) = torch.autograd.grad(loss, [getattr(inputs, leaf)], create_graph=create_graph)
    assert gradient.isfinite().all()


def test_checkpointing_and_repeating():
    inputs = random_inputs()
    expected = gradients(em_routing(*inputs), inputs)
    out = checkpoint(em_routing, *inputs, use_reentrant=False)
    assert largest_difference(gradients(out, inputs), expected) < 1e-13
    loss = sum(part.sum() for part in em_routing(*inputs))
    first, second = (torch.autograd.grad(loss, inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_an_empty_batch():
    inputs = random_inputs()
    inputs = inputs._replace(capsules=inputs.capsules[:0], activations=inputs.activations[:0])
    mean, activation = em_routing(*inputs)
    assert (mean.shape, activation.shape) == ((0, 3, 5), (0, 3))
