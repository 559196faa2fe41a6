"""The routings of DeepCaps are analysed as the layers do them."""

import math

import keras
import pytest
import torch

from encapkeras import analyse_routing
from encapkeras.analysis.window_statistics import ROUTINGS
from encapkeras.errors import ArgumentError
from encapkeras.layers import CapsuleLength, ConvolutionDynamicCapsules, DynamicCapsules
from encapkeras.reference.window_routing_votes import Trace

OPTIONS = {
    "as published": {},
    "by position": {"normalize_over": "parents", "squash_over": "capsule"},
    "strided": {"strides": 2, "iterations": 2},
    "valid": {"padding": "valid", "layout": "reference"},
}


def maps(count=4):
    return torch.randn(count, 5, 6, 4, 3, generator=torch.Generator().manual_seed(0))


def model_of(layer, shape=(5, 6, 4, 3)):
    keras.utils.set_random_seed(0)
    capsules = keras.Input(shape)
    return keras.Model(capsules, layer(capsules))


def values(analysis, statistic):
    return [m.value for m in analysis.select("layer", statistic)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_outputs_with_votes_are_those_of_the_layer(options):
    layer = ConvolutionDynamicCapsules(5, 7, dtype="float64", **options)
    children = maps().double()
    with torch.no_grad():
        outputs = layer(children)
        record, trace = layer.routing_record(), Trace()
        found = ROUTINGS[record.routing](children, *record.weights, **record.options, trace=trace)
    assert len(trace.states) == layer.iterations
    assert torch.allclose(found, outputs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_states_are_those_of_the_layer(options):
    model = model_of(ConvolutionDynamicCapsules(5, 7, name="layer", **options))
    analysis = analyse_routing(model, maps(), chunk_elements=1)
    outputs = model(maps())
    assert values(analysis, "activation")[-1] == pytest.approx(outputs.detach().norm(dim=-1).mean().item(), rel=1e-5)
    assert all(-1 <= value <= 1 for value in values(analysis, "agreement"))
    positions = math.prod(outputs.shape[1:3])
    jointly = options.get("normalize_over") != "parents"
    counts = {m.count for m in analysis.select("layer", "coupling_entropy")}
    assert counts == {4 * 4 if jointly else 4 * 4 * positions}
    entropy = values(analysis, "coupling_entropy")
    assert entropy[0] == pytest.approx(math.log(5 * positions if jointly else 5), rel=1e-5)
    relative = values(analysis, "coupling_entropy_relative")
    assert relative[0] == pytest.approx(1)
    assert relative[-1] < 1


def test_a_control_has_nothing_to_analyse():
    layer = ConvolutionDynamicCapsules(5, 7, routing="uniform", name="layer")
    with pytest.raises(ArgumentError, match=r"'layer' has nothing to analyse: .*routing: uniform"):
        analyse_routing(model_of(layer), maps())


def test_class_capsules_of_a_list_with_a_bias_of_the_outputs():
    options = {"softmax_over": "outputs", "use_bias": False, "use_output_bias": True}
    layer = DynamicCapsules(5, 7, **options, output_bias_initializer="glorot_uniform", name="layer")
    inputs = keras.Input((6, 3))
    keras.utils.set_random_seed(0)
    capsules = layer(inputs)
    model = keras.Model(inputs, CapsuleLength()(capsules))
    images = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    analysis = analyse_routing(model, images, labels=[0, 1, 2, 3])
    found = [m.value for m in analysis.select("layer", "activation", "target")]
    lengths = model(images).detach()
    assert found[-1] == pytest.approx(lengths[range(4), range(4)].mean().item(), rel=1e-5)
    assert len(found) == 3
