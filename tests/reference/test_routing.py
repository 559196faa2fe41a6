"""The two references of routing agree with each other."""

import pytest
from support.routing import gradients, largest_difference, random_inputs

from encapkeras.reference import routing_loops, routing_votes


@pytest.mark.parametrize("axis", ["inputs", "outputs"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_dynamic(axis, iterations):
    inputs = random_inputs().of_dynamic
    tensors = routing_votes.dynamic_routing(*inputs, iterations=iterations, softmax_over=axis)
    loops = routing_loops.dynamic_routing(*inputs, iterations, axis)
    assert largest_difference([tensors], [loops]) < 1e-13
    assert largest_difference(gradients(tensors, inputs), gradients(loops, inputs)) < 1e-12


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("iterations", [1, 3])
def test_em(normalize, iterations):
    inputs = random_inputs(positions=4, types=3)
    tensors = routing_votes.em_routing(*inputs, iterations=iterations, normalize_distances=normalize)
    loops = routing_loops.em_routing(*inputs, iterations, normalize)
    assert largest_difference(tensors, loops) < 1e-10
    assert largest_difference(gradients(tensors, inputs), gradients(loops, inputs)) < 1e-10
