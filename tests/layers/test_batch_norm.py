"""Batch norm of capsules and activations: the numbers of variational Bayes' code, torch's own norm, errors."""

import pytest
import torch
from support.golden import assert_equal, load, weights_of_sum
from torch.nn import functional as F

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.layers import BatchNorm

SHAPES = [(5, 3, 2, 4, 6), (5, 3, 2, 4), (5, 4, 6), (5, 4)]


def made(shape, **arguments):
    layer = BatchNorm(**arguments, dtype="float64")
    layer.build((None, *shape[1:]))
    for weight in layer.trainable_weights:
        weight.assign(torch.randn(weight.shape, dtype=torch.float64))
    return layer


def weight_of(layer, name):
    (found,) = [weight for weight in layer.weights if weight.name == f"norm_{name}"]
    return found


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["vb_primary", "vb_primary_eval"])
def test_primary_capsules_of_variational_bayes_equal_the_original(name):
    golden = load(name, "routings_a/layers")
    meta, given = golden.meta, golden.parameters
    types, side = meta["types_out"], meta["pose_side"]
    x, weight = golden.inputs["x"].requires_grad_(), given["weight"].requires_grad_()
    image = F.conv2d(x, weight, stride=meta["stride"]).permute(0, 2, 3, 1)
    parts = {"p": image[..., : types * side**2].unflatten(3, (types, -1)), "a": image[..., types * side**2 :]}
    layers, normed = {}, {}
    for part, inputs in parts.items():
        layers[part] = made(inputs.shape, per="type")
        weights = [given[f"BN_{part}.{each}"] for each in ("weight", "bias", "running_mean", "running_var")]
        layers[part].set_weights(weights)
        normed[part] = layers[part](inputs, training=meta["training"])
    pose = normed["p"].permute(0, 3, 4, 1, 2).unflatten(2, (side, side))
    outputs = {"a": normed["a"].sigmoid().permute(0, 3, 1, 2), "pose": pose}
    for port, out in outputs.items():
        assert_equal(out, golden.outputs[port])
    sum((out * weights_of_sum(meta["r"][port], out.shape)).sum() for port, out in outputs.items()).backward()
    assert_equal(x.grad, golden.input_gradients["x"])
    assert_equal(weight.grad, golden.parameter_gradients["weight"])
    for part, layer in layers.items():
        for mine, theirs in (("scale", "weight"), ("offset", "bias")):
            expected = golden.parameter_gradients[f"BN_{part}.{theirs}"]
            assert_equal(weight_of(layer, mine).value.grad, expected)


@pytest.mark.parametrize("per", ["component", "type"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale_and_offset", [True, False])
def test_each_normed_part_is_a_channel_of_torch(shape, per, scale_and_offset):
    layer = made(shape, per=per, scale_and_offset=scale_and_offset)
    by_type = len(shape) % 2 == 1 and per == "type"
    channels = 4 if by_type or len(shape) % 2 == 0 else 24
    module = torch.nn.BatchNorm1d(channels, affine=scale_and_offset, dtype=torch.float64)
    if scale_and_offset:
        module.load_state_dict(
            {"weight": weight_of(layer, "scale").value, "bias": weight_of(layer, "offset").value}, strict=False
        )
    for training in (True, True, False):
        x = 1 + 3 * torch.randn(shape, dtype=torch.float64)
        module.train(training)
        if by_type:
            expected = module(x.transpose(-1, -2).reshape(-1, 4)).unflatten(0, (-1, 6)).transpose(-1, -2).reshape(shape)
        else:
            expected = module(x.reshape(-1, channels)).reshape(shape)
        torch.testing.assert_close(layer(x, training=training), expected)
    torch.testing.assert_close(weight_of(layer, "mean").value, module.running_mean)
    torch.testing.assert_close(weight_of(layer, "variance").value, module.running_var)
    assert len(layer.trainable_weights) == 2 * scale_and_offset


def test_a_warm_norm_takes_the_plain_mean_of_its_first_batches():
    layer, batches = made((8, 4, 6), per="type", moving_average="warm"), torch.randn(3, 8, 4, 6, dtype=torch.float64)
    for batch in batches:
        layer(batch, training=True)
    torch.testing.assert_close(weight_of(layer, "mean").value, batches.mean((0, 1, 3)))
    assert float(weight_of(layer, "count")) == 3


def test_a_frozen_norm_predicts_and_records_nothing():
    layer, x = made((8, 4), moving_average="warm"), torch.randn(8, 4, dtype=torch.float64)
    expected = layer(x)
    layer.trainable = False
    assert torch.equal(layer(x, training=True), expected)
    assert float(weight_of(layer, "count")) == 0


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6, 7), (2,), (2, 3, 4, 5, None), (2, 3, None, 5)])
def test_other_shapes_are_refused(shape):
    if len(shape) == 4:
        assert BatchNorm().compute_output_shape(shape) == shape
        return
    with pytest.raises(ShapeError, match=r"takes capsules \(batch, height, width, types, dim\).*received shape \(2,"):
        BatchNorm().build(shape)


def test_other_arguments_are_refused():
    with pytest.raises(ArgumentError, match="per: must be 'component' or 'type'; received 'channel'"):
        BatchNorm(per="channel")
