"""Dynamic routing: the literal loops, the textbook tensors, and what it must never do."""

import hypothesis
import pytest
import torch
from hypothesis import strategies
from support.routing import LargestTensor, gradients, largest_difference, random_inputs
from torch.utils.checkpoint import checkpoint

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import SquashOptions, dynamic_routing, squash
from encapkeras.reference import routing_loops, routing_votes

AXES = ["inputs", "outputs"]
SHAPES = {
    "shared": {"positions": 3, "types": 2},
    "unshared": {"positions": 1, "types": 5},
    "one": {"batch": 1, "positions": 1, "types": 1, "dim": 1, "outputs": 1, "out_dim": 1},
}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_the_literal_loops(axis, iterations, shape, with_bias):
    capsules, weight, bias = random_inputs(**SHAPES[shape]).of_dynamic
    leaves = (capsules, weight, bias) if with_bias else (capsules, weight)
    out = dynamic_routing(*leaves, iterations=iterations, softmax_over=axis)
    expected = routing_loops.dynamic_routing(capsules, weight, bias if with_bias else None, iterations, axis)
    assert largest_difference([out], [expected]) < 1e-13
    assert largest_difference(gradients(out, leaves), gradients(expected, leaves)) < 1e-13


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_of_the_outputs_is_in_each_iteration(axis, iterations, shape):
    capsules, weight, bias = random_inputs(**SHAPES[shape]).of_dynamic
    added = torch.randn(weight.shape[1:3], dtype=torch.float64, requires_grad=True)
    leaves = (capsules, weight, bias, added)

    def routed(capsules, weight, bias, added):
        return dynamic_routing(capsules, weight, bias, iterations=iterations, softmax_over=axis, output_bias=added)

    out = routed(*leaves)
    expected = routing_loops.dynamic_routing(capsules, weight, bias, iterations, axis, added)
    assert largest_difference([out], [expected]) < 1e-13
    assert largest_difference(gradients(out, leaves), gradients(expected, leaves)) < 1e-12
    assert torch.autograd.gradgradcheck(routed, leaves)
    assert torch.autograd.gradcheck(lambda added: routed(*(x.detach() for x in leaves[:3]), added), (added,))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", ["root", "length", "square"])
def test_any_squash(shape, place):
    """Of a large number in the divisor, which cannot be missed."""
    capsules, weight, bias = random_inputs(**SHAPES[shape]).of_dynamic
    options = SquashOptions(epsilon=0.5, epsilon_in=place, offset=0.1)
    votes = routing_votes.votes(capsules, weight, bias)
    logits = torch.zeros_like(votes[..., 0])
    for _ in range(3):
        expected = squash((logits.softmax(1).unsqueeze(3) * votes).sum(2), **options._asdict())
        logits = logits + (votes * expected.unsqueeze(2)).sum(3)
    out = dynamic_routing(capsules, weight, bias, softmax_over="outputs", squash_options=options)
    leaves = (capsules, weight, bias)
    assert largest_difference([out], [expected]) < 1e-13
    assert largest_difference(gradients(out, leaves), gradients(expected, leaves)) < 1e-12


def test_a_bias_of_the_outputs_of_another_size():
    with pytest.raises(ShapeError, match=r"output_bias must be \(outputs, output dim\) = \(3, 5\)"):
        dynamic_routing(*random_inputs().of_dynamic, output_bias=torch.zeros(5))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("positions, types", [(64, 12), (1, 77)])
def test_equals_the_textbook_version_over_many_pieces(axis, positions, types):
    inputs = random_inputs(batch=8, positions=positions, types=types, dim=8, outputs=128, out_dim=16)
    out = dynamic_routing(*inputs.of_dynamic, softmax_over=axis)
    expected = routing_votes.dynamic_routing(*inputs.of_dynamic, softmax_over=axis)
    assert largest_difference([out], [expected]) < 1e-10
    received = gradients(out, inputs.of_dynamic)
    assert largest_difference(received, gradients(expected, inputs.of_dynamic)) < 1e-10


def test_float32_is_as_exact_as_the_textbook_version():
    exact = random_inputs(batch=2, positions=16, types=8, dim=8, outputs=32, out_dim=16)
    expected = routing_votes.dynamic_routing(*exact.of_dynamic)
    expected_gradients = gradients(expected, exact.of_dynamic)
    errors = []
    for function in (dynamic_routing, routing_votes.dynamic_routing):
        rough = exact.to(torch.float32).of_dynamic
        out = function(*rough)
        found = gradients((out.double(),), rough)
        errors.append(largest_difference([out.double(), *(g.double() for g in found)], [expected, *expected_gradients]))
    assert errors[0] <= 1.5 * errors[1]


@pytest.mark.parametrize("axis", AXES)
def test_gradients_flow_through_all_iterations(axis):
    inputs = random_inputs(batch=2, positions=2, types=2, dim=2, outputs=2, out_dim=2).of_dynamic

    def function(*tensors):
        return dynamic_routing(*tensors, softmax_over=axis)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_a_second_backward_pass_gives_the_same():
    inputs = random_inputs().of_dynamic
    out = dynamic_routing(*inputs).sum()
    (of_capsules,) = torch.autograd.grad(out, inputs[:1], retain_graph=True)
    first = torch.autograd.grad(out, inputs, retain_graph=True)
    second = torch.autograd.grad(out, inputs)
    assert torch.equal(of_capsules, first[0])
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("axis", AXES)
def test_neither_votes_nor_coefficients_exist(axis):
    sizes = {"batch": 16, "positions": 36, "types": 16, "dim": 8, "outputs": 128, "out_dim": 16}
    inputs = random_inputs(**sizes, dtype=torch.float32).of_dynamic
    with LargestTensor() as largest:
        gradients(dynamic_routing(*inputs, softmax_over=axis), inputs)
    coefficients = sizes["batch"] * sizes["outputs"] * sizes["positions"] * sizes["types"]
    assert largest.elements < coefficients
    with LargestTensor() as largest:
        gradients(routing_votes.dynamic_routing(*inputs, softmax_over=axis), inputs)
    assert largest.elements >= coefficients * sizes["out_dim"]  # so that the watch would see them


@pytest.mark.parametrize("axis", AXES)
def test_compiles_without_a_break(axis):
    inputs = random_inputs().of_dynamic
    compiled = torch.compile(dynamic_routing, fullgraph=True, backend="eager")
    out, expected = compiled(*inputs, softmax_over=axis), dynamic_routing(*inputs, softmax_over=axis)
    assert largest_difference([out], [expected]) < 1e-12
    assert largest_difference(gradients(out, inputs), gradients(expected, inputs)) < 1e-12


@pytest.mark.parametrize("positions", [1, 3])
def test_a_bias_of_the_outputs_compiles_and_stays_in_half_precision(positions):
    capsules, weight, _ = random_inputs(positions=positions, dtype=torch.float32).of_dynamic
    added = torch.randn(weight.shape[1:3])
    expected = dynamic_routing(capsules, weight, output_bias=added)
    compiled = torch.compile(dynamic_routing, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(capsules, weight, output_bias=added), expected)
    half = dynamic_routing(capsules.bfloat16(), weight, output_bias=added.bfloat16())
    assert half.dtype == torch.bfloat16
    assert largest_difference([half.float()], [expected]) < 0.03


def test_half_precision_is_computed_in_float32():
    inputs = random_inputs(dtype=torch.float32).of_dynamic
    expected = dynamic_routing(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = dynamic_routing(*inputs)
        received = gradients(out, inputs)
    assert torch.equal(out, expected)
    assert largest_difference(received, gradients(expected, inputs)) < 1e-6
    half = dynamic_routing(inputs[0].bfloat16(), *inputs[1:])
    assert half.dtype == torch.bfloat16
    assert largest_difference([half.float()], [expected]) < 0.02


def test_keeps_nothing_where_no_gradient_is_wanted():
    inputs = random_inputs().of_dynamic
    expected = dynamic_routing(*inputs)
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(pytest.fail, pytest.fail):
        out = dynamic_routing(*inputs)
    assert torch.equal(out, expected)
    assert not out.requires_grad
    assert not dynamic_routing(*(tensor.detach() for tensor in inputs)).requires_grad


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_tensor_gets_no_gradient(frozen):
    inputs = list(random_inputs().of_dynamic)
    expected = gradients(dynamic_routing(*inputs), inputs)
    inputs[frozen] = inputs[frozen].detach()
    rest = [tensor for tensor in inputs if tensor.requires_grad]
    found = gradients(dynamic_routing(*inputs), rest)
    assert largest_difference(found, [g for index, g in enumerate(expected) if index != frozen]) < 1e-13


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_stays_finite(axis, scale):
    inputs = random_inputs(scale=scale, dtype=torch.float32).of_dynamic
    out = dynamic_routing(*inputs, iterations=5, softmax_over=axis)
    assert out.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(out, inputs))


def test_zero_votes_give_zero():
    capsules, weight, _ = random_inputs(scale=0.0).of_dynamic
    assert torch.equal(dynamic_routing(capsules, weight), torch.zeros(2, 3, 5, dtype=torch.float64))


@hypothesis.given(strategies.integers(0, 1000), strategies.sampled_from(AXES))
@hypothesis.settings(deadline=None, max_examples=20)
def test_does_not_depend_on_the_order_of_positions_types_and_samples(seed, axis):
    capsules, weight, bias = random_inputs(batch=3, positions=4, types=3, seed=seed).of_dynamic
    generator = torch.Generator().manual_seed(seed)
    samples, positions, types = (torch.randperm(size, generator=generator) for size in (3, 4, 3))
    out = dynamic_routing(capsules, weight, bias, softmax_over=axis)
    mixed = capsules[samples][:, positions][:, :, types]
    again = dynamic_routing(mixed, weight[types], bias[types], softmax_over=axis)
    assert largest_difference([again], [out[samples]]) < 1e-12


@hypothesis.given(strategies.integers(0, 1000), strategies.sampled_from(AXES))
@hypothesis.settings(deadline=None, max_examples=20)
def test_a_position_listed_twice_counts_as_its_own_type(seed, axis):
    """Shared matrices are unshared ones that are equal."""
    capsules, weight, bias = random_inputs(positions=3, types=2, seed=seed).of_dynamic
    listed = capsules.transpose(1, 2).flatten(1, 2).unsqueeze(1)
    unshared = [tensor.repeat_interleave(3, 0) for tensor in (weight, bias)]
    shared = dynamic_routing(capsules, weight, bias, softmax_over=axis)
    assert largest_difference([dynamic_routing(listed, *unshared, softmax_over=axis)], [shared]) < 1e-12


def test_an_empty_batch():
    capsules, weight, bias = random_inputs().of_dynamic
    assert dynamic_routing(capsules[:0], weight, bias).shape == (0, 3, 5)


@pytest.mark.parametrize("iterations", [0, -1, 2.5, True, "3"])
def test_impossible_iterations(iterations):
    with pytest.raises(
        ArgumentError, match=f"iterations must be a whole number of at least 1; received {iterations!r}"
    ):
        dynamic_routing(*random_inputs().of_dynamic, iterations=iterations)


def test_impossible_axis():
    with pytest.raises(ArgumentError, match="softmax_over must be 'inputs' or 'outputs'; received 'both'"):
        dynamic_routing(*random_inputs().of_dynamic, softmax_over="both")


def test_sizes_that_disagree_are_both_named():
    capsules, weight, bias = random_inputs().of_dynamic
    with pytest.raises(
        ShapeError, match=r"weight \(1, 3, 5, 4\) takes 1 types of dimension 4, but capsules \(2, 3, 2, 4\)"
    ):
        dynamic_routing(capsules, weight[:1], bias)
    with pytest.raises(ShapeError, match="takes 2 types of dimension 3, but"):
        dynamic_routing(capsules, weight[..., :3], bias)
    with pytest.raises(
        ShapeError, match=r"bias must be \(2, 3, 5\), as weight is \(2, 3, 5, 4\); received \(2, 3, 4\)"
    ):
        dynamic_routing(capsules, weight, bias[..., :4])
    with pytest.raises(ShapeError, match=r"capsules must be \(batch, positions, types, dim\)"):
        dynamic_routing(capsules[0], weight, bias)
    with pytest.raises(ShapeError, match="weight must be"):
        dynamic_routing(capsules, weight[0], bias)


@pytest.mark.parametrize("axis", AXES)
def test_gradients_that_can_be_differentiated_equal_the_textbook_version(axis):
    inputs = random_inputs().of_dynamic
    penalties, firsts = [], []
    for function in (dynamic_routing, routing_votes.dynamic_routing):
        out = function(*inputs, softmax_over=axis)
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        firsts.append(first)
        penalties.append(torch.autograd.grad(sum(part.square().sum() for part in first), inputs))
    assert largest_difference(*firsts) < 1e-12
    assert largest_difference(*penalties) < 1e-11


@pytest.mark.parametrize("axis", AXES)
def test_checkpointing(axis):
    inputs = random_inputs().of_dynamic
    expected = gradients(dynamic_routing(*inputs, softmax_over=axis), inputs)
    out = checkpoint(dynamic_routing, *inputs, softmax_over=axis, use_reentrant=False)
    assert largest_difference(gradients(out, inputs), expected) < 1e-13


def test_a_backward_pass_frees_what_it_needed():
    inputs = random_inputs().of_dynamic
    out = dynamic_routing(*inputs).sum()
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_whole_numbers_are_refused():
    capsules, weight, bias = random_inputs().of_dynamic
    with pytest.raises(ArgumentError, match=r"capsules must be of a floating type; received torch\.int64"):
        dynamic_routing(capsules.long(), weight, bias)


def test_a_mask_and_an_output_bias_need_a_softmax_over_the_outputs():
    capsules, weight, bias = torch.randn(2, 5, 1, 4), torch.randn(1, 3, 2, 4), torch.randn(3, 2)
    mask = torch.ones(2, 5, 1, dtype=torch.bool)
    with pytest.raises(ArgumentError, match="need softmax_over 'outputs'"):
        dynamic_routing(capsules, weight, output_bias=bias, mask=mask)
    out = dynamic_routing(capsules, weight, output_bias=bias, mask=mask, softmax_over="outputs")
    torch.testing.assert_close(out, dynamic_routing(capsules, weight, output_bias=bias, softmax_over="outputs"))
