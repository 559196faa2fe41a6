"""A stack of inverted dot-product attention: numbers of the authors' code, and how its layers are given."""

import keras
import pytest
import torch
from golden import check, routing_layers
from support.given_weights import called, golden_files

import encapkeras
from encapkeras.errors import ArgumentError, ShapeError, SpecError
from encapkeras.layers import InvertedAttentionCapsules, InvertedAttentionStack

LAYERS = [{"capsules": 3, "dim": 4, "kernel_size": 3, "strides": 2}, {"capsules": 5, "dim": 4}]


def through_layer(capsules, layers, *, iterations, concurrent):
    weights = {}
    for number, layer in enumerate(layers):
        parts = {"kernel": layer.weight, "scale": layer.scale, "offset": layer.offset}
        weights |= {f"layer_{number}/{name}": part for name, part in parts.items()}
    maps = [
        {
            "capsules": layer.weight.shape[3],
            "dim": len(layer.scale),
            "kernel_size": list(layer.weight.shape[:2]),
            "strides": layer.strides,
        }
        for layer in layers
    ]
    stack = InvertedAttentionStack(maps, iterations=iterations, concurrent=concurrent, pose=layers[0].pose)
    return called(stack, capsules, weights)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("path", golden_files("idpa_stack"), ids=lambda path: path.stem)
def test_the_stack_equals_the_original(path, monkeypatch):
    monkeypatch.setattr(routing_layers, "inverted_attention_routing", through_layer)
    assert check.check_layer(path).holds


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_routed_one_by_one_it_equals_layers_one_by_one(iterations):
    capsules = torch.randn(2, 7, 6, 2, 4)
    stack = InvertedAttentionStack(LAYERS, iterations=iterations, concurrent=False)
    made = stack(capsules)
    single = [InvertedAttentionCapsules(**arguments, iterations=iterations) for arguments in LAYERS]
    keras.Sequential(single).build(capsules.shape)
    for layer, inner in zip(single, stack.stacked, strict=True):
        layer.set_weights(inner.get_weights())
    assert torch.equal(made, single[1](single[0](capsules)))
    at_once = InvertedAttentionStack(LAYERS, iterations=iterations)
    at_once.build(capsules.shape)
    at_once.set_weights(stack.get_weights())
    assert torch.equal(at_once(capsules), made) == (iterations < 2)


def test_a_layer_after_a_list_has_a_list_of_children():
    stack = InvertedAttentionStack([*LAYERS, {"capsules": 2, "dim": 6}], iterations=3)
    made = stack(torch.randn(2, 7, 7, 2, 4))
    assert tuple(made.shape) == (2, 2, 6) == stack.compute_output_shape((2, 7, 7, 2, 4))
    on_map = InvertedAttentionStack(LAYERS[:1])
    assert tuple(on_map(torch.randn(2, 7, 6, 2, 4)).shape) == on_map.compute_output_shape((2, 7, 6, 2, 4))


def test_weights_have_the_names_of_their_layers():
    stack = InvertedAttentionStack(LAYERS, name="routed")
    stack.build((None, 7, 7, 2, 4))
    names = [f"routed/layer_{number}/{name}" for number in (0, 1) for name in ("kernel", "scale", "offset")]
    assert [weight.path for weight in stack.weights] == names


def test_the_configuration_holds_what_was_given():
    config = InvertedAttentionStack(LAYERS, kernel_regularizer="l2").get_config()
    assert config["layers"] == LAYERS
    again = InvertedAttentionStack.from_config(config)
    assert again.get_config() == config
    again.build((None, 7, 7, 2, 4))
    assert len(again.losses) == 2


def test_half_precision_leaves_the_norms_in_float32():
    stack = InvertedAttentionStack(LAYERS, dtype="mixed_bfloat16")
    assert stack(torch.randn(2, 7, 7, 2, 4)).dtype == torch.bfloat16
    assert {weight.dtype for weight in stack.weights} == {"float32"}


REFUSED = [
    ([], "layers: must not be empty"),
    ([{"capsules": 3, "dim": 0}], "layers.0.dim: must be greater than 0; received 0"),
    ([*LAYERS, {"capsules": 3}], "'dim' is missing"),
    ([{"capsules": 3, "dim": 4, "kernel": 3}], "'kernel' is not allowed here. Did you mean 'kernel_size'?"),
    ([{"capsules": 3, "dim": 4, "kernel_size": [3]}], "layers.0.kernel_size: must be a whole number of at least 1"),
    ([{"capsules": 3, "dim": 4, "strides": 2}], "layer_0: kernel_size null is a window as large as the map"),
    ({"capsules": 3, "dim": 4}, "layers: must be a list"),
]


@pytest.mark.parametrize(("layers", "message"), REFUSED)
def test_wrong_layers_are_refused(layers, message):
    with pytest.raises(ArgumentError) as error:
        InvertedAttentionStack(layers)
    assert message in str(error.value)


def test_a_window_that_does_not_fit_is_named_with_its_layer():
    stack = InvertedAttentionStack([LAYERS[0], {"capsules": 3, "dim": 4, "kernel_size": 4}], name="routed")
    with pytest.raises(ShapeError, match=r"routed: layer_1: a window of 4 x 4 does not fit a map of 3 x 2"):
        stack(torch.rand(2, 7, 6, 2, 4))
    with pytest.raises(ShapeError, match="routed: layer_0: pose matrix takes square matrices"):
        stack(torch.rand(2, 7, 6, 2, 6))


def test_a_spec_says_where_in_the_list_an_error_is():
    nodes = {"stack": {"layer": "inverted_attention_stack", "inputs": "capsules", "layers": [*LAYERS, {"dim": "$d"}]}}
    spec = {
        "vars": {"d": -4},
        "model": {"inputs": {"capsules": [7, 7, 2, 4]}, "nodes": nodes, "outputs": {"out": "stack"}},
    }
    with pytest.raises(SpecError) as error:
        encapkeras.check_spec(spec)
    assert [problem.path.rpartition("stack.")[2] for problem in error.value.problems] == ["layers.2", "layers.2.dim"]
    assert "must be greater than 0; received -4" in str(error.value)
