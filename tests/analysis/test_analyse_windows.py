"""Routing in windows is analysed as the layers do it: the last state is theirs, and entropies are as by hand."""

import itertools
import math

import keras
import pytest
import torch

from encapkeras import analyse_routing
from encapkeras.analysis.window_statistics import ROUTINGS
from encapkeras.errors import ArgumentError
from encapkeras.functional import variational_bayes_routing
from encapkeras.layers import (
    InvertedAttentionCapsules,
    SelfAttentionCapsules,
    SelfRoutingCapsules,
    VariationalBayesCapsules,
    WindowDynamicCapsules,
    WindowEmCapsules,
)
from encapkeras.reference.window_routing_votes import Trace

OF_POSITIONS = [
    "self-routing",
    "self-attention",
    "attention",
    "dynamic",
    "dynamic with a bias",
    "em",
    "variational Bayes",
]
WINDOW = {"kernel_size": 3, "strides": 2, "padding": 1}
# layer, iterations, whether all parents that a child feeds compete for it
LAYERS = {
    "self-routing": (lambda **k: SelfRoutingCapsules(5, 9, routing_initializer="glorot_normal", **k), 1, False),
    "self-attention": (lambda **k: SelfAttentionCapsules(5, 9, **k), 1, False),
    "attention": (lambda **k: InvertedAttentionCapsules(5, 9, iterations=3, **k), 3, False),
    "dynamic": (lambda **k: WindowDynamicCapsules(5, 9, **k), 3, False),
    "dynamic of child": (lambda **k: WindowDynamicCapsules(5, 9, competition="child", **k), 3, True),
    "dynamic with a bias": (
        lambda **k: WindowDynamicCapsules(5, 9, use_output_bias=True, output_bias_initializer="ones", **k),
        3,
        False,
    ),
    "em": (lambda **k: WindowEmCapsules(5, 9, coordinates="child", **k), 3, True),
    "variational Bayes": (lambda **k: VariationalBayesCapsules(5, 9, coordinates="child", **k), 3, True),
}


def model_of(layer):
    keras.utils.set_random_seed(0)
    capsules = keras.Input((5, 6, 4, 9))
    activations = keras.layers.Lambda(lambda x: keras.ops.sigmoid(x[..., 0]))(capsules)
    inputs = [capsules, activations] if layer.takes_activations else capsules
    return keras.Model(capsules, layer(inputs, return_ports=True) if len(layer.ports) > 1 else layer(inputs))


def maps(count=4):
    return torch.randn(count, 5, 6, 4, 9, generator=torch.Generator().manual_seed(0))


def values(analysis, statistic):
    return [m.value for m in analysis.select("layer", statistic)]


def options_of(case, matrices):
    """Options of matrices of each position, where no parents of others compete for a child."""
    own = {"competition": "position"} if (case, matrices) == ("em", "position") else {}
    return {"name": "layer", "matrices": matrices, **WINDOW, **own}


@pytest.mark.parametrize("matrices", ["offset", "type", "position"])
@pytest.mark.parametrize("case", OF_POSITIONS)
def test_outputs_with_votes_are_those_of_the_layer(case, matrices):
    make, iterations, _ = LAYERS[case]
    layer = make(**options_of(case, matrices), dtype="float64")
    children = maps().double()
    inputs = [children, children[..., 0].sigmoid()] if layer.takes_activations else [children]
    with torch.no_grad():
        ports = {"return_ports": True} if len(layer.ports) > 1 else {}
        outputs = layer(inputs if layer.takes_activations else children, **ports)
        record, trace = layer.routing_record(), Trace()
        found = ROUTINGS[record.routing](*inputs, *record.weights, **record.options, trace=trace)
        if case == "variational Bayes":  # before its batch norm
            weight, offsets = record.weights
            expected = variational_bayes_routing(*inputs, weight, offsets=offsets, **record.options)
        else:
            expected = [outputs[port] for port in layer.ports] if isinstance(outputs, dict) else outputs
    assert len(trace.states) == iterations
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "matrices"),
    [*itertools.product(LAYERS, ["offset", "type"]), *itertools.product(OF_POSITIONS, ["position"])],
)
def test_the_last_state_is_what_the_layer_gives(case, matrices):
    make, iterations, _ = LAYERS[case]
    model = model_of(make(**options_of(case, matrices)))
    analysis = analyse_routing(model, maps(), chunk_elements=1)
    assert len(values(analysis, "activation")) == iterations
    outputs = model(maps())
    if case in ("self-routing", "em"):
        assert values(analysis, "activation")[-1] == pytest.approx(outputs["activations"].mean().item(), rel=1e-5)
    elif case != "variational Bayes":  # whose activations go through a batch norm
        assert values(analysis, "activation")[-1] == pytest.approx(outputs.norm(dim=-1).mean().item(), rel=1e-5)
    assert all(-1 <= value <= 1 for value in values(analysis, "agreement"))
    both = zip(values(analysis, "agreement"), values(analysis, "agreement_by_coupling"), strict=True)
    assert all(weighted > plain for plain, weighted in both)  # each parent gathers what agrees with it


@pytest.mark.parametrize("case", LAYERS)
def test_the_first_couplings_are_equal_and_counted_once_for_each_choice_of_a_child(case):
    make, iterations, of_child = LAYERS[case]
    analysis = analyse_routing(model_of(make(name="layer", **WINDOW)), maps())
    children = 5 * 6 * 4  # all of them are in a window
    pairs = (2 + 3 + 2) * (2 + 3 + 3) * 4  # 3 positions of rows, 3 of columns, without the padding
    counts = {m.count for m in analysis.select("layer", "coupling_entropy")}
    assert counts == {4 * (children if of_child else pairs)}
    relative = values(analysis, "coupling_entropy_relative")
    assert relative[0] == pytest.approx(1) if iterations > 1 else relative[0] < 1
    if not of_child and iterations > 1:
        assert values(analysis, "coupling_entropy")[0] == pytest.approx(math.log(5))


def test_entropy_of_self_routing_is_as_by_hand():
    layer = SelfRoutingCapsules(5, routing_initializer="glorot_normal", name="layer")
    model = model_of(layer)
    analysis = analyse_routing(model, maps(), labels=[0, 1, 2, 3])
    logits = torch.einsum("bhwnd,hwnjd->bhwnj", maps(), layer.routing_kernel.value)
    expected = torch.distributions.Categorical(logits=logits).entropy().mean()
    assert values(analysis, "coupling_entropy") == [pytest.approx(expected.item(), rel=1e-5)]
    assert values(analysis, "agreement") == [None, None]  # a last layer has no votes
    shares = model(maps())["activations"]
    target = shares[range(4), range(4)].mean().item()
    assert values(analysis, "activation")[0] == pytest.approx(target, rel=1e-5)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (SelfRoutingCapsules(5, 9, routing="random", name="layer"), "coefficients are fixed .routing: random"),
        (WindowEmCapsules(5, 9, fillers=True, kernel_size=3, name="layer"), "fillers"),
        (VariationalBayesCapsules(5, 4, covariance="full", pose="vector", name="layer"), "covariance is full"),
    ],
)
def test_what_cannot_be_analysed_is_said(layer, reason):
    with pytest.raises(ArgumentError, match=f"'layer' .*{reason}"):
        analyse_routing(model_of(layer), maps())
