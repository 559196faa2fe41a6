"""The routing layers equal the original's in outputs and gradients, with outputs as a list and as a map."""

import pytest
from support.golden import assert_equal, load, weights_of_sum

from encapkeras.layers import DynamicCapsules, EmCapsules

DYNAMIC = ["caplayer_dynamic_it1", "caplayer_dynamic_it3", "caplayer_dynamic_it5", "caplayer_dynamic_it3_conv"]
EM = ["caplayer_EM_it2_norm_act", "caplayer_EM_it3_act", "caplayer_EM_it3_norm_act", "caplayer_EM_it3_norm_conv"]


def as_map(channels_BCHW, types):
    """The original's map of channels as capsules `(B, H, W, N, D)`."""
    return channels_BCHW.unflatten(1, (types, -1)).permute(0, 3, 4, 1, 2).contiguous()


def list_as_map(listed_BI, types):
    """The original's list of numbers, one for each capsule `i = (type, row, column)`, as a map `(B, H, W, N)`."""
    side = int((listed_BI.shape[1] // types) ** 0.5)
    return listed_BI.unflatten(1, (types, side, side)).permute(0, 2, 3, 1).contiguous()


def made_layer(layer_class, golden, capsules, **arguments):
    meta = golden.meta
    types = meta["num_shared"]
    layer = layer_class(
        capsules=meta["num_out_caps"],
        dim=meta["out_dim"],
        iterations=meta["route_num"],
        map_types=types if meta["as_conv_output"] else None,
        **arguments,
    )
    layer.build(tuple(capsules.shape))
    for weight in layer.weights:
        weight.assign(golden.parameters[original_name(weight.name)].reshape(weight.shape))
    return layer


def original_name(name):
    return {"kernel": "W.weight", "bias": "W.bias"}.get(name, name)


def assert_gradients(layer, golden):
    for weight in layer.weights:
        expected = golden.parameter_gradients[original_name(weight.name)]
        assert_equal(weight.value.grad, expected.reshape(weight.shape))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_capsules_equal_the_original(name):
    golden = load(name)
    types = golden.meta["num_shared"]
    capsules = as_map(golden.inputs["x"], types).requires_grad_()
    layer = made_layer(DynamicCapsules, golden, capsules)
    outputs = layer(capsules)
    expected, seeds = golden.outputs["v"], weights_of_sum(8, golden.outputs["v"].shape)
    if golden.meta["as_conv_output"]:
        expected, seeds = as_map(expected, types), as_map(seeds, types)
    assert_equal(outputs, expected)
    (outputs * seeds).sum().backward()
    assert_equal(capsules.grad, as_map(golden.input_gradients["x"], types))
    assert_gradients(layer, golden)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", EM)
def test_em_capsules_equal_the_original(name):
    golden = load(name)
    types = golden.meta["num_shared"]
    inputs = [as_map(golden.inputs["x"], types).requires_grad_()]
    if "activate" in golden.inputs:
        inputs.append(list_as_map(golden.inputs["activate"], types).requires_grad_())
    layer = made_layer(EmCapsules, golden, inputs[0], normalize_distances=golden.meta["E_step_norm"])
    outputs = layer(inputs, return_ports=True)
    expected = [golden.outputs["v"], golden.outputs["activation"]]
    seeds = [weights_of_sum(seed, tensor.shape) for seed, tensor in zip((8, 9), expected, strict=True)]
    if golden.meta["as_conv_output"]:
        expected, seeds = ([as_map(v, types), list_as_map(a, types)] for v, a in (expected, seeds))
    assert_equal(outputs["out"], expected[0])
    assert_equal(outputs["activations"], expected[1])
    sum((output * seed).sum() for output, seed in zip(outputs.values(), seeds, strict=True)).backward()
    assert_equal(inputs[0].grad, as_map(golden.input_gradients["x"], types))
    if len(inputs) > 1:
        assert_equal(inputs[1].grad, list_as_map(golden.input_gradients["activate"], types))
    assert_gradients(layer, golden)
