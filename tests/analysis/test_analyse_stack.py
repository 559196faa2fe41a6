"""A stack of inverted attention is analysed layer by layer, in the passes that the stack makes."""

import keras
import pytest
import torch
from torch.nn import functional as F

from encapkeras import analyse_routing
from encapkeras.errors import ArgumentError
from encapkeras.layers import InvertedAttentionCapsules, InvertedAttentionStack
from encapkeras.reference.window_routing_votes import Trace, inverted_attention_stack

LAYERS = [
    {"capsules": 3, "dim": 4, "kernel_size": 3, "strides": 2, "padding": 1},
    {"capsules": 2, "dim": 9, "kernel_size": 2, "matrices": "type"},
    {"capsules": 5, "dim": 4, "matrices": "position"},
]
LISTS = [{"capsules": 3, "dim": 4}, {"capsules": 5, "dim": 4}]


def maps(*shape):
    return torch.randn(shape or (3, 5, 6, 2, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model_of(layers, shape=(5, 6, 2, 4), **options):
    keras.utils.set_random_seed(0)
    stack = InvertedAttentionStack(layers, name="stack", dtype="float64", pose="vector", **options)
    inputs = keras.Input(shape, dtype="float64")
    return keras.Model(inputs, stack(inputs)), stack


def values(analysis, number, statistic):
    return [m.value for m in analysis.select(f"stack/layer_{number}", statistic)]


@pytest.mark.parametrize("iterations", [1, 2, 4])
@pytest.mark.parametrize("concurrent", [True, False])
def test_outputs_with_votes_are_those_of_the_layer(iterations, concurrent):
    model, stack = model_of(LAYERS, iterations=iterations, concurrent=concurrent)
    records, traces = stack.routing_record(), [Trace() for _ in LAYERS]
    with torch.no_grad():
        layers = [record.weights[0] for record in records]
        *_, out = inverted_attention_stack(maps(), layers, traces, iterations=iterations, concurrent=concurrent)
        assert torch.allclose(out[:, 0, 0], model(maps()), rtol=0, atol=1e-9)
    passes = [max(1, iterations - 2), max(1, iterations - 1), iterations] if concurrent else [iterations] * 3
    assert [len(trace.states) for trace in traces] == passes
    analysis = analyse_routing(model, maps(), chunk_elements=1)
    assert analysis.layers == ("stack/layer_0", "stack/layer_1", "stack/layer_2")
    for number, count in enumerate(passes):
        relative = values(analysis, number, "coupling_entropy_relative")
        assert len(relative) == count
        assert relative[0] == pytest.approx(1)
        assert all(value < 1 for value in relative[1:])
    length = model(maps()).norm(dim=-1).mean().item()
    assert values(analysis, 2, "activation")[-1] == pytest.approx(length, rel=1e-9)


def test_each_pass_is_of_the_children_of_the_pass_before():
    model, stack = model_of(LISTS, shape=(2, 4), iterations=3)
    analysis, children = analyse_routing(model, maps(3, 2, 4)), maps(3, 2, 4)
    first, second = (layer.kernel.value.detach()[0, 0] for layer in stack.stacked)

    def passed(children, weight, parents=None):
        vote = torch.einsum("bid,ijed->bije", children, weight)
        logits = torch.zeros_like(vote[..., 0]) if parents is None else (vote * parents[:, None] / 2).sum(-1)
        share = logits.softmax(-1)
        entropy = torch.special.entr(share).sum(-1).mean().item()
        return F.layer_norm((share[..., None] * vote).sum(1), (4,)), entropy

    low = [passed(children, first)]
    low.append(passed(children, first, low[0][0]))
    high = [passed(low[0][0], second)]
    high.append(passed(low[0][0], second, high[0][0]))
    high.append(passed(low[1][0], second, high[1][0]))
    assert values(analysis, 0, "coupling_entropy") == pytest.approx([entropy for _, entropy in low], rel=1e-8)
    assert values(analysis, 1, "coupling_entropy") == pytest.approx([entropy for _, entropy in high], rel=1e-8)


def test_a_stack_of_one_layer_is_analysed_as_the_layer():
    model, stack = model_of(LAYERS[:1], iterations=3)
    inputs = keras.Input((5, 6, 2, 4), dtype="float64")
    layer = InvertedAttentionCapsules(**LAYERS[0], iterations=3, pose="vector", name="alone", dtype="float64")
    alone = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(stack.stacked[0].kernel)
    found = [m.value for m in analyse_routing(model, maps()).measurements]
    expected = [m.value for m in analyse_routing(alone, maps()).measurements]
    assert found == [value if value is None else pytest.approx(value, rel=1e-9) for value in expected]


def test_only_the_last_layer_has_the_classes():
    model, _ = model_of([{"capsules": 5, "dim": 4}, {"capsules": 5, "dim": 1}])
    classes = keras.Model(model.inputs, keras.layers.Flatten()(model.output))
    analysis = analyse_routing(classes, maps(), labels=[0, 1, 4])
    assert [m.capsules for m in analysis.select("stack/layer_0", "activation")] == ["all"]
    assert [m.capsules for m in analysis.select("stack/layer_1", "activation")] == ["target", "other"] * 2
    lengths = classes(maps()).abs()
    target = lengths[range(3), [0, 1, 4]].mean().item()
    assert values(analysis, 1, "activation")[2] == pytest.approx(target, rel=1e-6)


def test_a_control_is_refused():
    model, _ = model_of(LAYERS, routing="random")
    with pytest.raises(ArgumentError, match="'stack' has nothing to analyse: its coefficients are fixed"):
        analyse_routing(model, maps())
