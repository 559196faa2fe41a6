"""The routing layers: ports, stacking, unshared matrices, starting weights, what is refused."""

import keras
import pytest
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import dynamic_routing, em_routing, list_capsules
from encapkeras.layers import DynamicCapsules, EmCapsules

MAP = (6, 5, 4, 3)


@pytest.mark.parametrize("map_types", [None, 2])
def test_ports_of_em_capsules_have_symbolic_and_eager_shapes(map_types):
    layer = EmCapsules(capsules=8, dim=5, map_types=map_types)
    symbolic = layer([keras.Input(MAP), keras.Input(MAP[:-1])], return_ports=True)
    inputs = [torch.rand(2, *MAP), torch.rand(2, *MAP[:-1])]
    eager = layer(inputs, return_ports=True)
    assert tuple(symbolic) == tuple(eager) == EmCapsules.ports
    for port, tensor in eager.items():
        assert tuple(tensor.shape[1:]) == symbolic[port].shape[1:]
    assert torch.equal(eager["out"], layer(inputs))
    assert ((eager["activations"] >= 0) & (eager["activations"] <= 1)).all()


def test_em_capsules_with_and_without_activations_save_and_load(tmp_path):
    image, activations = keras.Input(MAP), keras.Input(MAP[:-1])
    first = EmCapsules(capsules=8, dim=3, map_types=2)([image, activations], return_ports=True)
    second = EmCapsules(capsules=5, dim=4, normalize_distances=True, use_bias=False)(list(first.values()))
    third = EmCapsules(capsules=5, dim=4)(first["out"])
    model = keras.Model([image, activations], [second, third])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = [torch.rand(2, *MAP), torch.rand(2, *MAP[:-1])]
    for before, after in zip(model(inputs), loaded(inputs), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("layer_class", [DynamicCapsules, EmCapsules])
def test_layers_stack_in_the_order_type_row_column(layer_class):
    layer = layer_class(capsules=3 * 4 * 4, dim=5, map_types=3)
    capsules = torch.rand(2, *MAP)
    outputs = layer(capsules)
    assert outputs.shape == (2, 4, 4, 3, 5)
    as_list = layer_class(capsules=3 * 4 * 4, dim=5)
    as_list.build((None, *MAP))
    as_list.set_weights(layer.get_weights())
    assert torch.equal(list_capsules(outputs), as_list(capsules))


def test_positions_do_not_matter_while_they_share_their_matrices():
    capsules = torch.rand(2, *MAP, dtype=torch.float64)
    layer = DynamicCapsules(capsules=7, dim=2, dtype="float64")
    assert torch.allclose(layer(capsules), layer(capsules.flip(1)))
    unshared = DynamicCapsules(capsules=7, dim=2, share_positions=False, dtype="float64")
    assert not torch.allclose(unshared(capsules), unshared(capsules.flip(1)))


def test_unshared_matrices_are_one_for_each_capsule_by_type_row_and_column():
    inputs = 6 * 5 * 4
    capsules, activations = torch.rand(2, *MAP), torch.rand(2, *MAP[:-1])
    as_types = list_capsules(capsules).unsqueeze(1)
    dynamic = DynamicCapsules(capsules=7, dim=2, share_positions=False, use_bias=False, softmax_over="outputs")
    assert torch.equal(
        dynamic(capsules), dynamic_routing(as_types, dynamic.kernel.value, softmax_over="outputs", iterations=3)
    )
    assert dynamic.kernel.shape == (inputs, 7, 2, 3)
    em = EmCapsules(capsules=7, dim=2, share_positions=False)
    received = em([capsules, activations], return_ports=True)
    weights = em.kernel.value, em.bias.value
    listed = activations.permute(0, 3, 1, 2).flatten(1).unsqueeze(1)
    expected = em_routing(as_types, *weights, listed, em.beta_v.value, em.beta_a.value)
    assert all(torch.equal(a, b) for a, b in zip(received.values(), expected, strict=True))


def test_layers_with_shared_matrices_take_maps_of_any_size():
    model = keras.Sequential([keras.Input((None, None, 4, 3)), DynamicCapsules(capsules=7, dim=2)])
    assert model(torch.rand(2, 3, 8, 4, 3)).shape == (2, 7, 2)


def test_weights_start_as_they_should():
    layer = EmCapsules(capsules=40, dim=12)
    layer.build((None, 6, 6, 32, 8))
    assert layer.kernel.shape == (32, 40, 12, 8)
    assert abs(layer.kernel.value.std().item() / (2 / 20) ** 0.5 - 1) < 0.05
    assert not layer.bias.value.any()
    for beta in (layer.beta_v.value, layer.beta_a.value):
        assert beta.shape == (40,)
        assert beta.min() >= 0
        assert beta.max() < 1
        assert beta.std() > 0.1
    as_convolution = DynamicCapsules(capsules=40, dim=12, kernel_initializer="glorot_normal", bias_initializer="ones")
    as_convolution.build((None, 6, 6, 32, 8))
    assert abs(as_convolution.kernel.value.std().item() / (2 / (8 + 32 * 40 * 12)) ** 0.5 - 1) < 0.05
    assert as_convolution.bias.value.eq(1).all()


REFUSED_ARGUMENTS = [
    (lambda cls: cls(capsules=10, dim=16, iterations=0), "iterations: must be greater than 0; received 0"),
    (lambda cls: cls(capsules=0, dim=16), "capsules: must be greater than 0; received 0"),
    (
        lambda cls: cls(capsules=500, dim=16, map_types=32, name="routed"),
        "routed: capsules=500 do not fill a square map of map_types=32: map_types * side * side; nearest: "
        "capsules=288 (3 x 3) or 512 (4 x 4)",
    ),
    (lambda cls: cls(capsules=5, dim=16, map_types=32), "nearest: capsules=32 (1 x 1)"),
]


@pytest.mark.parametrize("layer_class", [DynamicCapsules, EmCapsules])
@pytest.mark.parametrize(("make", "message"), REFUSED_ARGUMENTS)
def test_wrong_arguments_are_refused(layer_class, make, message):
    with pytest.raises(ArgumentError) as error:
        make(layer_class)
    assert message in str(error.value)


REFUSED_SHAPES = [
    ({}, (12,), "takes capsules (batch, height, width, types, dim), or a sequence"),
    ({}, (6, 5, None, 4), "takes capsules"),
    ({"share_positions": False}, (None, 5, 4, 3), "of known size; received shape (None, None, 5, 4, 3)"),
]


@pytest.mark.parametrize("layer_class", [DynamicCapsules, EmCapsules])
@pytest.mark.parametrize(("arguments", "shape", "message"), REFUSED_SHAPES)
def test_wrong_inputs_are_refused(layer_class, arguments, shape, message):
    with pytest.raises(ShapeError) as error:
        layer_class(capsules=10, dim=4, **arguments)(keras.Input(shape))
    assert message in str(error.value)


@pytest.mark.parametrize("shape", [(6, 5, 7), (6, 5), (5, 6, 4), (6, 5, 4, 3)])
def test_activations_must_belong_to_their_capsules(shape):
    with pytest.raises(ShapeError) as error:
        EmCapsules(capsules=10, dim=4)([keras.Input(MAP), keras.Input(shape)])
    assert "need activations of shape (None, 6, 5, 4); received (None, " + str(shape)[1:] in str(error.value)


def test_em_capsules_take_no_third_input():
    with pytest.raises(ShapeError) as error:
        EmCapsules(capsules=10, dim=4)([keras.Input(MAP), keras.Input(MAP[:-1]), keras.Input(MAP)])
    assert "takes capsules, or a list of capsules and activations" in str(error.value)


@pytest.mark.parametrize("inputs", [{"capsules": torch.rand(2, *MAP)}, []])
def test_em_capsules_say_what_they_take(inputs):
    with pytest.raises((ShapeError, ValueError), match="takes capsules, or a list of capsules and activations"):
        EmCapsules(capsules=5, dim=4)(inputs)
