"""Controls of the layers that route: equal coefficients are one iteration, random ones are the same in every model."""

import keras
import pytest
import torch
from support.layer_check import for_each, with_batch

from encapkeras.functional import squash
from encapkeras.layers import (
    ConvolutionDynamicCapsules,
    Heinsen2019Capsules,
    Heinsen2022Capsules,
    InvertedAttentionCapsules,
    InvertedAttentionStack,
    SelfAttentionCapsules,
    SelfRoutingCapsules,
    TransposedConvolutionDynamicCapsules,
    VariationalBayesCapsules,
    WindowDynamicCapsules,
    WindowEmCapsules,
)

MAP = (5, 4, 3, 4)
DYNAMIC = {"capsules": 5, "dim": 3, "kernel_size": 3}
STACK = {"layers": [{"capsules": 3, "dim": 4, "kernel_size": [2, 3]}, {"capsules": 5, "dim": 4}]}

# class, arguments, shape of the input or list of shapes
LAYERS = {
    "dynamic": (WindowDynamicCapsules, DYNAMIC, MAP),
    "dynamic by child": (
        WindowDynamicCapsules,
        {"capsules": 5, "dim": 3, "kernel_size": 3, "competition": "child"},
        MAP,
    ),
    "dynamic whole": (WindowDynamicCapsules, {"capsules": 5, "dim": 3}, MAP),
    "convolution": (ConvolutionDynamicCapsules, {"types": 5, "dim": 3}, MAP),
    "convolution by position": (
        ConvolutionDynamicCapsules,
        {"types": 5, "dim": 3, "normalize_over": "parents", "squash_over": "capsule"},
        MAP,
    ),
    "transposed convolution": (TransposedConvolutionDynamicCapsules, {"types": 5, "dim": 3}, MAP),
    "attention": (InvertedAttentionCapsules, {"capsules": 5, "dim": 4, "kernel_size": 2, "matrices": "type"}, MAP),
    "stack": (InvertedAttentionStack, STACK, MAP),
    "heinsen of 2019": (Heinsen2019Capsules, {"capsules": 5, "dim": 6}, [(7, 4), (7,)]),
    "heinsen of 2019, shared by outputs": (
        Heinsen2019Capsules,
        {"capsules": 5, "dim": 6, "variable_outputs": True},
        [(7, 4), (7,)],
    ),
    "heinsen of 2022": (Heinsen2022Capsules, {"capsules": 5, "dim": 6}, (7, 4)),
    "heinsen of 2022, any number": (Heinsen2022Capsules, {"capsules": 5, "dim": 6, "variable_inputs": True}, (7, 4)),
}


def made(name, **options):
    """A layer with random weights, the same for all options."""
    layer_class, arguments, shape = LAYERS[name]
    layer = layer_class(**arguments, **options)
    layer.build(with_batch(shape, None))
    generator = torch.Generator().manual_seed(0)
    for weight in layer.trainable_weights:
        weight.assign(torch.randn(weight.shape, generator=generator))
    return layer, for_each(shape, lambda sizes: torch.randn(sizes, generator=torch.Generator().manual_seed(1)))


def ports(layer, inputs):
    return list(layer(inputs, return_ports=True).values()) if len(layer.ports) > 1 else [layer(inputs)]


@pytest.mark.parametrize("name", LAYERS)
def test_equal_coefficients_are_one_iteration(name):
    uniform, inputs = made(name, routing="uniform")
    once, _ = made(name, iterations=1)
    torch.testing.assert_close(uniform(inputs), once(inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_random_coefficients_are_shares_and_the_same_in_every_model(name):
    layer, inputs = made(name, routing="random")
    again, _ = made(name, routing="random")
    uniform, _ = made(name, routing="uniform")
    assert torch.equal(layer(inputs), again(inputs))
    pairs = zip(ports(layer, inputs), ports(uniform, inputs), strict=True)
    assert not all(torch.allclose(one, other, rtol=0.01) for one, other in pairs)
    fixed = [weight.value for weight in layer.non_trainable_weights]
    assert len(fixed) == len(STACK["layers"] if name == "stack" else [0])
    for shares in fixed:
        torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:-1]))
    layer(inputs).square().sum().backward()
    assert all(weight.value.grad is None for weight in layer.non_trainable_weights)
    config = keras.layers.serialize(layer)
    assert keras.layers.deserialize(config).get_config()["routing"] == "random"


@pytest.mark.parametrize("arguments", [{}, {"kernel_size": 2, "matrices": "type"}, {"matrices": "all"}])
def test_controls_of_self_attention_have_no_bias(arguments):
    inputs = torch.randn(2, *MAP, generator=torch.Generator().manual_seed(1))
    routed, uniform, random, again = (
        SelfAttentionCapsules(5, 3, routing=routing, **arguments) for routing in (None, "uniform", "random", "random")
    )
    for layer in (routed, uniform, random, again):
        layer.build(inputs.shape)
        layer.kernel.assign(routed.kernel.value)
    sums = WindowDynamicCapsules(5, 3, iterations=0, **arguments)
    sums.build(inputs.shape)
    sums.kernel.assign(routed.kernel.value)
    length = sums(inputs).norm(dim=-1)
    length = (length / (1 - length)).sqrt()  # before dynamic routing's squash
    torch.testing.assert_close(uniform(inputs).norm(dim=-1), 1 - (-length).exp())
    assert torch.equal(random(inputs), again(inputs))
    assert not torch.allclose(random(inputs), uniform(inputs), rtol=0.01)
    assert [len(layer.trainable_weights) for layer in (routed, uniform, random)] == [2, 1, 1]
    assert keras.layers.deserialize(keras.layers.serialize(random)).get_config()["routing"] == "random"


def test_one_matrix_for_all_children_maps_their_sum():
    """The layer of Aff-CapsNets (Gu and Tresp 2020): `squash(W_j sum_i u_i / J)`."""
    layer = WindowDynamicCapsules(5, 3, matrices="all", routing="uniform")
    capsules = torch.randn(2, *MAP, dtype=torch.float32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    parents = layer(capsules)
    (matrix_JED,) = layer.kernel.value[0, 0]
    expected = squash(torch.einsum("jed,bhwnd->bje", matrix_JED, capsules) / 5)
    torch.testing.assert_close(parents, expected)
    inputs = [capsules, layer.kernel.value]
    for received, wanted in zip(
        torch.autograd.grad(parents.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(received, wanted)


@pytest.mark.parametrize("make", [SelfRoutingCapsules, WindowEmCapsules, VariationalBayesCapsules])
def test_matrices_of_all_children_are_those_of_each_type_where_these_are_equal(make):
    inputs = [torch.randn(2, *MAP), torch.rand(2, *MAP[:-1])]
    layers = [make(5, 4, kernel_size=3, matrices=matrices) for matrices in ("all", "type")]
    for layer in layers:
        layer(inputs)
    shared, by_type = layers
    for one, each in zip(shared.weights, by_type.weights, strict=True):
        each.assign(one.value.expand(each.shape))
    torch.testing.assert_close(shared(inputs), by_type(inputs))
