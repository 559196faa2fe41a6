"""Self-attention routing as a layer: numbers of the authors' code, its start, its memory, and what it refuses."""

import math

import keras
import pytest
import torch
from golden import check, efficient_layers
from support.given_weights import called, golden_files
from support.routing import LargestTensor, gradients, largest_difference

from encapkeras.analysis.window_statistics import ROUTINGS
from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import self_attention_routing
from encapkeras.layers import SelfAttentionCapsules
from encapkeras.reference.self_attention_votes import self_attention_routing as with_votes
from encapkeras.reference.window_routing_votes import Trace


def through_layer(capsules, weight, bias):
    layer = SelfAttentionCapsules(weight.shape[3], weight.shape[4], kernel_size=list(weight.shape[:2]))
    return called(layer, capsules, {"kernel": weight, "bias": bias})


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("path", golden_files("eff_fccaps", "routings_b"), ids=lambda path: path.stem)
def test_the_layer_equals_the_original(path, monkeypatch):
    monkeypatch.setattr(efficient_layers, "self_attention_routing", through_layer)
    assert check.check_layer(path).holds


def test_matrices_start_as_in_the_original():
    """Keras counts all axes but the last as inputs: (J, I, D, E)."""
    keras.utils.set_random_seed(0)
    layer = SelfAttentionCapsules(10, 16)
    layer.build((None, 1, 1, 256, 8))
    for drawn in (layer.kernel.value, keras.initializers.HeNormal(seed=0)((10, 256, 8, 16))):
        deviation = math.sqrt(2 / (10 * 256 * 8))
        assert drawn.std().item() == pytest.approx(deviation, rel=0.01)
        assert (drawn.abs() > 2 * deviation / 0.8796).sum() < 10  # Keras fails to cut a few
    assert (layer.bias.value == 0).all()


def test_a_list_is_in_the_order_row_column_type():
    capsules = torch.randn(2, 3, 2, 4, 5)
    of_map, of_list = SelfAttentionCapsules(6, 3), SelfAttentionCapsules(6, 3)
    expected = of_map(capsules)
    of_list.build((None, 24, 5))
    for one, other in zip(of_list.weights, of_map.weights, strict=True):
        one.assign(other.value.reshape(one.shape))
    torch.testing.assert_close(of_list(capsules.flatten(1, 3)), expected)


@pytest.mark.parametrize("pose", ["vector", "matrix"])
@pytest.mark.parametrize("matrices", ["offset", "type", "all", "position"])
@pytest.mark.parametrize("window", [{}, {"kernel_size": [3, 2], "strides": 2, "padding": 1}])
def test_the_record_gives_the_parents_again(window, matrices, pose):
    layer = SelfAttentionCapsules(5, 4, matrices=matrices, pose=pose, dtype="float64", **window)
    capsules = torch.randn(2, 5, 4, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer.build(capsules.shape)
    for weight in layer.weights:
        weight.assign(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    record, trace = layer.routing_record(), Trace()
    expected = ROUTINGS[record.routing](capsules, *record.weights, **record.options, trace=trace)
    assert largest_difference([layer(capsules)], [layer.lay_out(expected)]) < 1e-12
    (state,) = trace.states
    torch.testing.assert_close(state[0].sum(2), torch.ones(state[0].shape[:2], dtype=torch.float64))


def test_permuting_children_of_a_type_changes_nothing_where_they_share_matrices():
    layer, capsules = SelfAttentionCapsules(5, 4, matrices="type"), torch.randn(2, 4, 3, 2, 6)
    moved = capsules.flatten(1, 2)[:, torch.randperm(12)].unflatten(1, (4, 3))
    torch.testing.assert_close(layer(moved), layer(capsules))


@pytest.mark.parametrize("matrices", ["offset", "type"])
def test_the_largest_tensor_is_no_larger_than_a_child_for_each_parent(matrices):
    """At the sizes of the first capsule network, in which the votes are twice as large."""
    batch, outputs, dim, out_dim = 24, 10, 8, 16
    generator = torch.Generator().manual_seed(0)
    capsules = torch.randn(batch, 6, 6, 32, dim, generator=generator).requires_grad_()
    window = (6, 6) if matrices == "offset" else (1, 1)
    weight = (0.1 * torch.randn(*window, 32, outputs, out_dim, dim, generator=generator)).requires_grad_()
    bias = torch.zeros(*window, 32, outputs, requires_grad=True)
    with LargestTensor() as largest:
        out = self_attention_routing(capsules, weight, bias, window=6)
        found = gradients(out, [capsules, weight, bias])
    assert largest.elements <= batch * outputs * 1152 * dim
    expected = with_votes(capsules, weight.expand(6, 6, -1, -1, -1, -1), bias.expand(6, 6, -1, -1))
    assert largest_difference([out], [expected]) < 1e-5
    assert largest_difference(found, gradients(expected, [capsules, weight, bias])) < 1e-4


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 4), (2, 1, 1, 3, 4)])
def test_zero_capsules_have_finite_gradients_that_reach_the_matrices(sizes):
    layer = SelfAttentionCapsules(2, 3)
    capsules = torch.zeros(sizes, requires_grad=True)
    out = layer(capsules)
    assert (out == 0).all()
    (gradient,) = torch.autograd.grad(out.sum(), capsules)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0  # squash is the identity there


def test_what_does_not_fit_is_refused_with_its_shape():
    capsules, weight = torch.rand(2, 3, 3, 2, 4), torch.rand(3, 3, 2, 5, 6, 4)
    with pytest.raises(ShapeError, match=r"bias must be .* = \(3, 3, 2, 5\), or \(1, 1, ...\).*received \(2, 5\)"):
        self_attention_routing(capsules, weight, torch.zeros(2, 5))
    with pytest.raises(ShapeError, match=r"coefficients must be .* = \(3, 3, 2, 5\); received \(1, 1, 2, 5\)"):
        self_attention_routing(capsules, weight, torch.zeros(1, 1, 2, 5), coefficients=torch.zeros(1, 1, 2, 5))
    with pytest.raises(ArgumentError, match="kernel_size null is a window as large as the map"):
        SelfAttentionCapsules(5, 4, strides=2)
    with pytest.raises(ShapeError, match="takes capsules, and no activations"):
        SelfAttentionCapsules(5, 4)([capsules, capsules[..., 0]])
