"""Inverted dot-product attention as a layer: numbers of the authors' code, its start, and what it refuses."""

import keras
import pytest
import torch
from golden import check, routing_layers
from support.given_weights import called, golden_files

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.layers import InvertedAttentionCapsules


def through_layer(capsules, layers, *, iterations, concurrent):
    (given,) = layers
    weights = {"kernel": given.weight, "scale": given.scale, "offset": given.offset}
    dim = len(given.scale)
    layer = InvertedAttentionCapsules(
        given.weight.shape[3],
        dim,
        iterations=iterations,
        kernel_size=list(given.weight.shape[:2]),
        strides=given.strides,
        pose=given.pose,
    )
    return called(layer, capsules, weights if dim > 1 else {"kernel": given.weight})


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("path", golden_files(("idpa_conv", "idpa_fc")), ids=lambda path: path.stem)
def test_the_layer_equals_the_original(path, monkeypatch):
    monkeypatch.setattr(routing_layers, "inverted_attention_routing", through_layer)
    assert check.check_layer(path).holds


@pytest.mark.parametrize("matrices", ["offset", "position", "type"])
@pytest.mark.parametrize(("pose", "side"), [("vector", 16), ("matrix", 4)])
def test_matrices_start_with_the_variance_of_the_original(matrices, pose, side):
    layer = InvertedAttentionCapsules(32, 16, kernel_size=3, pose=pose, matrices=matrices)
    layer.build((None, 5, 5, 8, 16))
    kernel = layer.kernel.value.detach()
    assert kernel.std().item() == pytest.approx((32 / (side * 8 * 9)) ** 0.5, rel=0.05)
    assert kernel.mean().abs() < 0.02


def test_no_iteration_is_one_without_routing():
    capsules = torch.rand(2, 5, 4, 3, 4)
    none, one, two = (InvertedAttentionCapsules(5, 4, kernel_size=2, iterations=count) for count in (0, 1, 2))
    for layer in (none, one, two):
        layer.build(capsules.shape)
        layer.set_weights(none.get_weights())
    assert torch.equal(none(capsules), one(capsules))
    assert not torch.allclose(one(capsules), two(capsules))


def test_without_routing_it_is_a_convolution_and_a_layer_norm():
    capsules = torch.randn(2, 6, 7, 3, 4)
    layer = InvertedAttentionCapsules(5, 6, kernel_size=3, strides=2, iterations=1, pose="vector")
    made = layer(capsules)
    kernel = layer.kernel.value.permute(0, 1, 2, 5, 3, 4).flatten(4).flatten(2, 3) / 5
    image = keras.ops.conv(capsules.flatten(3), kernel, strides=2, data_format="channels_last")
    norm = torch.nn.functional.layer_norm(image.unflatten(3, (5, 6)), (6,))
    torch.testing.assert_close(made, norm, rtol=1e-4, atol=1e-5)


def test_capsules_of_one_number_have_no_norm():
    layer = InvertedAttentionCapsules(5, 1, pose="vector")
    layer.build((None, 7, 4))
    assert [weight.name for weight in layer.weights] == ["kernel"]


def test_what_does_not_fit_is_refused_with_its_shape():
    for arguments, message in [
        ({"iterations": -1}, "iterations: must be greater than or equal to 0; received -1"),
        ({"pose": "quaternion"}, "pose: must be 'vector' or 'matrix'; received 'quaternion'"),
        ({"padding": 1}, "kernel_size null is a window as large as the map"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            InvertedAttentionCapsules(5, 4, **arguments)
    for layer, shape, message in [
        (InvertedAttentionCapsules(5, 4), (2, 3, 6, 2, 6), "received capsules of dimension 6"),
        (InvertedAttentionCapsules(5, 5), (2, 3, 6, 2, 4), "received dim=5"),
        (InvertedAttentionCapsules(5, 4), (2, 3), r"received shape \(2, 3\)"),
        (InvertedAttentionCapsules(5, 4, kernel_size=4), (2, 3, 6, 2, 4), "a window of 4 x 4 does not fit"),
    ]:
        with pytest.raises(ShapeError, match=message):
            layer(torch.rand(shape))
