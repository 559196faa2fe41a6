"""Homogeneous vector capsules and merged branches as layers: numbers of the authors' code, statistics, refusals."""

import keras
import pytest
import torch
from golden import check, hvc_layers
from support.given_weights import called

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.layers import CapsuleLength, HomogeneousVectorCapsules, MergeBranches

FILES = sorted((check.Path(__file__).parent.parent / "golden" / "routings_b" / "layers").glob("hvc_[xz]*.npz"))
NAMES = {"offset": "norm_offset", "mean": "norm_mean", "variance": "norm_variance"}


def through_layer(image, weight, norm, *, training, capsules_of, momentum):
    layer = HomogeneousVectorCapsules(weight.shape[2], capsules_of=capsules_of, momentum=1 - momentum)
    weights = {"kernel": weight, **{ours: getattr(norm, name) for name, ours in NAMES.items()}}
    return called(layer, image, weights, training=training)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_layer_equals_the_original(path, monkeypatch):
    monkeypatch.setattr(hvc_layers, "homogeneous_vector_capsules", through_layer)
    result = check.check_layer(path)
    assert result.holds, str(result)


@pytest.mark.parametrize("make", [lambda **k: HomogeneousVectorCapsules(5, **k), MergeBranches])
def test_moving_statistics_keep_a_fraction_momentum(make):
    torch.manual_seed(0)
    inputs = [torch.randn(8, 5), torch.randn(8, 5)] if make is MergeBranches else torch.randn(8, 3, 3, 2)
    layers = {momentum: make(momentum=momentum) for momentum in (0.0, 0.75)}
    for layer in layers.values():
        layer(inputs)
        layer.set_weights([*layers[0.0].get_weights()[:2], torch.zeros(2), torch.ones(2)])
        layer(inputs, training=True)
    (_, variance), (_, slow) = (
        [weight.value.detach() for weight in layer.non_trainable_weights] for layer in layers.values()
    )
    torch.testing.assert_close(slow, 0.75 + 0.25 * variance)


def test_weights_of_branches_start_at_1_or_as_given_or_are_fixed():
    inputs = [torch.randn(6, 5) for _ in range(3)]
    learned, normal, fixed = (
        MergeBranches(),
        MergeBranches(weight_initializer={"class_name": "random_normal", "config": {"stddev": 0.05}}),
        MergeBranches(branch_weights="fixed"),
    )
    keras.utils.set_random_seed(0)
    assert torch.equal(learned(inputs, training=True), fixed(inputs, training=True))
    normal(inputs)
    assert learned.branch_weight.value.tolist() == [1, 1, 1]
    assert fixed.branch_weight is None
    assert 0 < normal.branch_weight.value.abs().max() < 0.5


def test_a_weight_of_a_branch_counts_by_its_sign_but_for_epsilon():
    layer = MergeBranches(epsilon=1e-12, dtype="float64")
    inputs = [torch.randn(6, 5).double() for _ in range(3)]
    outputs = []
    for weights in ([1.0, 2, 3], [0.1, 0.2, 0.3], [0.1, 0.2, -0.3]):
        layer.build([(6, 5)] * 3) if not layer.built else None
        layer.branch_weight.assign(weights)
        outputs.append(layer(inputs, training=True))
    torch.testing.assert_close(outputs[0], outputs[1])
    assert (outputs[0] - outputs[2]).abs().max() > 0.1


def test_a_frozen_layer_keeps_its_statistics():
    layer = HomogeneousVectorCapsules(5, momentum=0.0)
    image = torch.randn(4, 3, 3, 2)
    expected = layer(image)
    layer.trainable = False
    assert torch.equal(layer(image, training=True), expected)


def test_lengths_of_capsules_of_0_have_no_gradient():
    layer = HomogeneousVectorCapsules(5)
    layer.build((None, 3, 3, 2))
    layer.weights[1].assign(torch.full((2,), -1.0))
    image = torch.zeros(2, 3, 3, 2, requires_grad=True)
    CapsuleLength()(layer(image)).sum().backward()
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_what_does_not_fit_is_refused_with_its_shape():
    with pytest.raises(ArgumentError, match="capsules_of: must be 'position' or 'filter'; received 'type'"):
        HomogeneousVectorCapsules(5, capsules_of="type")
    with pytest.raises(ArgumentError, match="momentum: must be less than 1; received 1"):
        MergeBranches(momentum=1)
    for layer, shape in [
        (HomogeneousVectorCapsules(5), (2, 3, 3, 4, 5)),
        (HomogeneousVectorCapsules(5), (2, 4)),
        (HomogeneousVectorCapsules(5), (None, None, 3, 4)),
    ]:
        with pytest.raises(ShapeError, match=r"takes a map .* or a list of its positions"):
            layer.build(shape)
    for shapes in ([(2, 5), (2, 4)], (2, 5), [(2, 5, 3)], [(2, None)], []):
        with pytest.raises(ShapeError, match="takes a list of scores"):
            MergeBranches().build(shapes)
