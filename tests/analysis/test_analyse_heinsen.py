"""Heinsen's routings are analysed as the layers do them: outputs are theirs, and entropies follow from the loops."""

import math

import keras
import pytest
import torch

from encapkeras import analyse_routing
from encapkeras.analysis.window_statistics import ROUTINGS
from encapkeras.errors import ArgumentError
from encapkeras.layers import Heinsen2019Capsules, Heinsen2022Capsules
from encapkeras.reference import heinsen_loops
from encapkeras.reference.window_routing_votes import Trace

VARIABLE = {"variable_inputs": True, "variable_outputs": True}
LAYERS_2019 = {
    "own matrices": {"capsules": 4},
    "soft k-means": {"capsules": 4, "density": "skm", "iterations": 2},
    "rows": {"capsules": 4, "rows": 1, "single_beta": True},
    "shared": {"capsules": 4, **VARIABLE},
    "as many as inputs": {"capsules": "inputs", **VARIABLE},
}
LAYERS_2022 = {
    "own weights": {"capsules": 4, "iterations": 3},
    "shared": {"capsules": 4, "variable_inputs": True},
    "not normalized": {"capsules": 4, "normalize": False},
    "scores": {"capsules": 4, "dim": 1},
    "no routing": {"capsules": 4, "iterations": 1},
}


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def randomized(layer):
    """The layer, whose weights are all random."""
    generator = torch.Generator().manual_seed(1)
    for weight in layer.weights:
        weight.assign(torch.randn(*weight.shape, generator=generator, dtype=torch.float64) / 2)
    return layer


def layer_2019(**arguments):
    layer = Heinsen2019Capsules(
        **{"dim": 6 if "rows" not in arguments else 3, **arguments}, name="layer", dtype="float64"
    )
    layer.build([(None, 5, 4), (None, 5)])
    return randomized(layer)


def layer_2022(**arguments):
    layer = Heinsen2022Capsules(**{"dim": 6, **arguments}, name="layer", dtype="float64")
    layer.build((None, 5, 4))
    return randomized(layer)


def model_of(layer, **options):
    capsules = keras.Input((5, 4), dtype="float64")
    scores = keras.layers.Lambda(lambda x: 2 * x[..., 0], dtype="float64")(capsules)
    outputs = layer([capsules, scores] if isinstance(layer, Heinsen2019Capsules) else capsules, **options)
    return keras.Model(capsules, outputs)


def traced(layer, inputs):
    record, trace = layer.routing_record(), Trace()
    with torch.no_grad():
        outputs = ROUTINGS[record.routing](*layer.as_maps(inputs), *record.weights, **record.options, trace=trace)
    return outputs, trace


def values(analysis, statistic, capsules=None):
    return [m.value for m in analysis.select("layer", statistic, capsules)]


def entropy(shares):
    return torch.special.entr(shares).sum(-1)


@pytest.mark.parametrize("case", LAYERS_2019)
def test_outputs_with_votes_are_those_of_the_layer_of_2019(case):
    layer = layer_2019(**LAYERS_2019[case])
    inputs = [random(3, 5, 4), random(3, 5)]
    ports = layer(inputs, return_ports=True)
    (score, mean, variance), trace = traced(layer, inputs)
    assert torch.allclose(score, ports["activations"], rtol=0, atol=1e-9)
    assert torch.allclose(mean, ports["out"], rtol=0, atol=1e-9)
    assert torch.allclose(variance, ports["variances"], rtol=0, atol=1e-9)
    assert len(trace.states) == layer.iterations


@pytest.mark.parametrize("case", LAYERS_2022)
def test_outputs_with_votes_are_those_of_the_layer_of_2022(case):
    layer = layer_2022(**LAYERS_2022[case])
    ports = layer(random(3, 5, 4), return_ports=True)
    (out, credit), trace = traced(layer, [random(3, 5, 4)])
    assert torch.allclose(out, ports["out"], rtol=0, atol=1e-9)
    assert torch.allclose(credit, ports["credit"], rtol=0, atol=1e-9)
    assert len(trace.states) == layer.iterations


@pytest.mark.parametrize(
    "layer", [layer_2019(capsules=4), layer_2019(capsules="inputs", **VARIABLE), layer_2022(capsules=4)]
)
def test_the_first_couplings_are_equal_and_activations_are_the_last_ones(layer):
    model = model_of(layer, return_ports=True)
    images = random(6, 5, 4)
    analysis = analyse_routing(model, images, chunk_elements=1)
    relative = values(analysis, "coupling_entropy_relative")
    assert relative[0] == pytest.approx(1)
    same = layer.capsules is None  # outputs that share all weights move their votes and means alike
    assert all((value > 1 - 1e-4) == same for value in relative[1:])
    assert values(analysis, "coupling_entropy")[0] == pytest.approx(math.log(layer.capsules or 5))
    assert {m.count for m in analysis.select("layer", "coupling_entropy")} == {6 * 5}
    ports = model(images)
    scores = ports["activations"].sigmoid() if "activations" in ports else ports["out"].norm(dim=-1)
    assert values(analysis, "activation")[-1] == pytest.approx(scores.mean().item(), rel=1e-9)


@pytest.mark.parametrize("density", ["gaussian", "skm"])
def test_entropy_of_2019_follows_from_the_loops(density):
    layer = layer_2019(capsules=4, iterations=2, density=density)
    images = random(3, 5, 4)
    analysis = analyse_routing(model_of(layer), images)
    matrices, weight, bias = images.unflatten(-1, (2, 2)), layer.kernel.value.detach(), layer.bias.value.detach()
    betas = [layer.beta_use.value.detach(), layer.beta_ignore.value.detach()]
    first = heinsen_loops.heinsen_2019_routing(
        2 * images[..., 0], matrices, weight, bias, *betas, iterations=1, density=density
    )
    entropies = []
    for b in range(3):
        score, mean, variance = (part[b] for part in first)
        for i in range(5):
            vote = [matrices[b, i] @ weight[i, j] + bias[i, j] for j in range(4)]
            logs = torch.stack(heinsen_loops.log_densities(vote, mean, variance, density))
            entropies.append(entropy((torch.nn.functional.logsigmoid(score) + logs).softmax(0)))
    assert values(analysis, "coupling_entropy")[1] == pytest.approx(torch.stack(entropies).mean().item(), rel=1e-9)


def test_entropy_of_2022_follows_from_the_loops():
    layer = layer_2022(capsules=4)
    layer.betas[0][0].assign(torch.ones(5, 4))  # so that the credit is what is used
    layer.betas[1][0].assign(torch.zeros(5, 4))
    images = random(3, 5, 4)
    analysis = analyse_routing(model_of(layer), images)
    weights = type(layer.routing_record().weights[0])(*(each.detach() for each in layer.routing_record().weights[0]))
    betas = [beta.value.detach() for (beta,) in layer.betas]
    _, credit = heinsen_loops.heinsen_2022_routing(images, weights, *betas, iterations=2)
    shares = credit / credit.sum(-1, keepdim=True)
    assert values(analysis, "coupling_entropy")[1] == pytest.approx(entropy(shares).mean().item(), rel=1e-9)


def test_class_capsules_are_measured_apart():
    layer = layer_2019(capsules=4)
    ports = model_of(layer, return_ports=True)
    model = keras.Model(ports.inputs, ports.output["activations"])
    analysis = analyse_routing(model, random(4, 5, 4), labels=[0, 1, 2, 3])
    scores = model(random(4, 5, 4)).sigmoid()
    target, other = values(analysis, "activation")[-2:]
    assert target == pytest.approx(scores.diagonal().mean().item(), rel=1e-9)
    assert other == pytest.approx(((scores.sum() - scores.diagonal().sum()) / 12).item(), rel=1e-9)


def means(analysis):
    return [m.value for m in analysis.measurements if m.value is not None]


def test_inputs_of_2019_that_are_taken_out_do_not_count():
    layer, images = layer_2019(capsules=4, variable_inputs=True), random(3, 5, 4)
    analysis = analyse_routing(model_of(layer), images)
    more = torch.cat([images, images[:, :2]], 1)
    inputs = keras.Input((7, 4), dtype="float64")
    hide = torch.tensor([0.0] * 5 + [-math.inf] * 2, dtype=torch.float64)
    scores = keras.layers.Lambda(lambda x: 2 * x[..., 0] + hide, dtype="float64")(inputs)
    masked = analyse_routing(keras.Model(inputs, layer([inputs, scores])), more)
    assert means(masked) == pytest.approx(means(analysis), rel=1e-9)


def test_inputs_of_2022_that_are_masked_do_not_count():
    layer, images = layer_2022(capsules=4, variable_inputs=True), random(3, 5, 4)
    analysis = analyse_routing(model_of(layer), images)
    more = torch.cat([images, torch.zeros(3, 2, 4, dtype=torch.float64)], 1)
    inputs = keras.Input((7, 4), dtype="float64")
    outputs = layer(keras.layers.Masking(dtype="float64")(inputs))
    masked = analyse_routing(keras.Model(inputs, outputs), more)
    assert means(masked) == pytest.approx(means(analysis), rel=1e-9)


def test_what_cannot_be_analysed_is_said():
    images = keras.Input((5, 4))
    pairs = keras.layers.Lambda(lambda x: x > 0)(images)
    model = keras.Model(images, Heinsen2022Capsules(4, 2, name="layer")(images, mask=pairs))
    with pytest.raises(ArgumentError, match="'layer' cannot be analysed: its mask is one of pairs"):
        analyse_routing(model, random(2, 5, 4).float())
    fixed = keras.Model(images, Heinsen2022Capsules(4, 2, routing="uniform", name="layer")(images))
    with pytest.raises(ArgumentError, match="'layer' has nothing to analyse"):
        analyse_routing(fixed, random(2, 5, 4).float())
    with pytest.raises(ArgumentError, match="layer 'layer': the input activations contain NaN"):
        layer = Heinsen2019Capsules(4, 4, name="layer")
        scores = keras.layers.Lambda(lambda x: x[..., 0] * math.nan)(images)
        analyse_routing(keras.Model(images, layer([images, scores])), random(2, 5, 4).float())
