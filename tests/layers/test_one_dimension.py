"""Convolutions and windows in one dimension: as on a map of one row, and as torch's own."""

import keras
import pytest
import torch
from torch.nn import functional as F

from encapkeras.errors import ShapeError
from encapkeras.functional import squash
from encapkeras.keras_internals import mask_of
from encapkeras.layers import (
    CapsuleConvolution,
    CapsuleStage,
    ConvBnRelu,
    ConvolutionCapsules,
    DynamicCapsules,
    EmCapsules,
    InvertedAttentionCapsules,
    InvertedAttentionStack,
    PrimaryCapsules,
    SelfAttentionCapsules,
    SelfRoutingCapsules,
    VariationalBayesCapsules,
    WindowDynamicCapsules,
    WindowEmCapsules,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*looks like an image")

MASK = torch.tensor([[True] * 5 + [False] * 4, [True] * 9])
CONVOLUTIONS = [{}, {"strides": 2}, {"kernel_size": 5, "strides": 3, "padding": 0}, {"kernel_size": 4, "padding": 2}]


def as_map_of_one_row(options):
    """The same convolution of a map of one row."""
    across = {"kernel_size": 1, "strides": 1, "padding": 0}
    return {name: [across[name], value] for name, value in options.items()}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("layer_class", [ConvBnRelu, PrimaryCapsules])
def test_convolutions_are_those_of_a_map_of_one_row(layer_class, options, training):
    options = {"kernel_size": 3, "strides": 1, "padding": 1, **options}
    sizes = {"filters": 6} if layer_class is ConvBnRelu else {"types": 3, "dim": 2, "batch_norm": True}
    layer, twin = layer_class(**sizes, **options), layer_class(**sizes, **as_map_of_one_row(options))
    sequence = torch.randn(2, 11, 4)
    layer.build(sequence.shape)
    twin.build(sequence.unsqueeze(1).shape)
    twin.set_weights(layer.get_weights())
    found = layer(sequence, training=training)
    torch.testing.assert_close(found, twin(sequence.unsqueeze(1), training=training).squeeze(1))
    assert tuple(found.shape) == layer.compute_output_shape(sequence.shape)


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_primary_capsules_of_sequences_are_torchs_convolution(options):
    options = {"kernel_size": 3, "strides": 1, "padding": 1, **options}
    layer = PrimaryCapsules(3, 2, **options, squash=False)
    sequence = torch.randn(2, 11, 4)
    found = layer(sequence)
    kernel, bias = (weight.value for weight in layer.weights)
    made = F.conv1d(sequence.mT, kernel.squeeze(2), bias, options["strides"], options["padding"])
    torch.testing.assert_close(found.flatten(2), made.mT)


CAPSULES = [
    {},
    {"strides": 2, "skip": "last"},
    {"kernel_size": [5, 3, 1], "skip": "every", "steps": 2},
    {"kind": "approximate", "coefficients": "own"},
    {"kernel_size": 1, "normalization": "capsule"},
]


@pytest.mark.parametrize("options", CAPSULES)
def test_capsule_convolutions_are_the_middle_rows_of_square_kernels(options):
    layer, twin = (CapsuleConvolution(4, 3, sequence=flat, **options) for flat in (True, False))
    sequence = torch.randn(2, 9, 4, 2)
    rows = as_rows(sequence, options.get("strides", 1))
    layer.build(sequence.shape)
    twin.build(rows.shape)
    copy_middle_rows(layer, twin)
    for training in (False, True):
        found = layer(sequence, training=training)
        torch.testing.assert_close(found, twin(rows, training=training).squeeze(1))
    assert tuple(found.shape) == layer.compute_output_shape(sequence.shape)
    channels = CapsuleConvolution(4, 3, **options)
    channels.build((2, 9, 8))
    channels.set_weights(layer.get_weights())
    torch.testing.assert_close(channels(sequence.flatten(2)), layer(sequence))


@pytest.mark.parametrize("options", [{}, {"strides": 2}, {"kernel_size": 4, "strides": 3, "padding": "valid"}])
def test_plain_convolutions_are_torchs_over_all_channels(options):
    layer, sequence = ConvolutionCapsules(3, 2, **options, sequence=True), torch.randn(2, 12, 4, 2)
    found = layer(sequence)
    size, strides = layer.kernel_size, layer.strides
    channels = sequence.flatten(2).mT
    if layer.padding == "same":  # an odd zero at the end
        zeros = (-(-12 // strides) - 1) * strides + size - 12
        channels = F.pad(channels, (zeros // 2, zeros - zeros // 2))
    made = F.conv1d(channels, layer.kernel.value.squeeze(2), None, strides).mT.unflatten(2, (3, 2))
    torch.testing.assert_close(found, squash(made, epsilon=1e-7))
    assert tuple(found.shape) == layer.compute_output_shape(sequence.shape)
    twin = ConvolutionCapsules(3, 2, **options)
    twin.build((2, 12, 8))
    twin.set_weights(layer.get_weights())
    torch.testing.assert_close(twin(sequence.flatten(2)), found)


def as_rows(sequence, strides):
    """The sequence as a map with so many rows, zeros but for the first: the stride leaves one."""
    return torch.stack([sequence, *[torch.zeros_like(sequence)] * (strides - 1)], 1)


def copy_middle_rows(layer, twin):
    """Give the map's layer the sequence's kernels, other numbers around them."""
    for weight, square in zip(layer.weights, twin.weights, strict=True):
        if len(weight.shape) < 4:
            square.assign(weight.value)
            continue
        made = torch.randn(square.shape)
        made[:, :, square.shape[2] // 2] = weight.value[:, :, 0]
        square.assign(made)


def test_stages_of_sequences_have_the_same_ports():
    layer, twin = (CapsuleStage(4, 3, sequence=flat) for flat in (True, False))
    sequence = torch.randn(2, 9, 4, 2)
    layer.build(sequence.shape)
    twin.build(as_rows(sequence, 2).shape)
    copy_middle_rows(layer, twin)
    found, expected = layer(sequence, return_ports=True), twin(as_rows(sequence, 2), return_ports=True)
    assert {name: tuple(port.shape[1:]) for name, port in found.items()} == {
        "input": (9, 4, 2),
        "main": (5, 4, 3),
        "half": (5, 4, 3),
        "out": (5, 4, 3),
    }
    for name, port in found.items():
        torch.testing.assert_close(port, expected[name][:, 0])


WINDOW = {"kernel_size": 3, "strides": 2, "padding": 1}
WINDOWS = {
    "self_attention": (SelfAttentionCapsules, {}, False),
    "self_routing": (SelfRoutingCapsules, {}, True),
    "self_routing by type": (SelfRoutingCapsules, {"matrices": "type"}, True),
    "attention": (InvertedAttentionCapsules, {}, False),
    "variational_bayes": (VariationalBayesCapsules, {"coordinates": "child"}, True),
    "dynamic": (WindowDynamicCapsules, {"competition": "child"}, False),
    "em": (WindowEmCapsules, {}, True),
}


def window_layer(name, **window):
    layer_class, options, _ = WINDOWS[name]
    return layer_class(capsules=3, dim=4, **options, **window)


def capsules_of(name):
    given = [torch.randn(2, 9, 2, 4)]
    return [*given, torch.rand(2, 9, 2)] if WINDOWS[name][2] else given


def call(layer, tensors, **options):
    return layer(tensors if len(tensors) > 1 else tensors[0], **options)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_of_a_map_of_one_row(name):
    layer, twin = window_layer(name, **WINDOW), window_layer(name, **as_map_of_one_row(WINDOW))
    tensors = capsules_of(name)
    found = call(layer, tensors)
    rows = [tensor.unsqueeze(1) for tensor in tensors]
    call(twin, rows)
    twin.set_weights(layer.get_weights())
    torch.testing.assert_close(found, call(twin, rows).squeeze(1))
    assert found.shape == (2, 5, 3, 4)
    assert call(window_layer(name), tensors).shape == (2, 3, 4)


@pytest.mark.parametrize("name", WINDOWS)
def test_padded_steps_count_for_nothing_in_windows(name):
    layer, tensors = window_layer(name, **WINDOW), capsules_of(name)
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    masks = [mask, None][: len(tensors)] if len(tensors) > 1 else mask
    found = call(layer, tensors, mask=masks)
    for tensor in tensors:
        tensor[~mask] = torch.nan
    assert torch.equal(call(layer, tensors, mask=masks), found)
    handed_on = mask_of(call(layer, tensors, mask=masks))
    assert handed_on.tolist() == [[True] * 5, [True, True, True, False, False]]


def test_masks_go_through_a_network_of_sequences():
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    sequence = torch.randn(2, 12, 4)
    inputs = keras.Input((12, 4))
    real = keras.layers.Masking()(inputs)
    first = ConvBnRelu(8, strides=2)(real)
    second = PrimaryCapsules(4, 3, kernel_size=3, strides=1, padding=1)(first)
    third = CapsuleConvolution(4, 4, strides=2, sequence=True)(second)
    fourth = ConvolutionCapsules(4, 4, sequence=True)(third)
    model = keras.Model(inputs, [first, second, third, fourth, DynamicCapsules(5, 4)(third), EmCapsules(5, 4)(third)])
    *maps, dynamic, em = model(sequence * mask.unsqueeze(2))
    expected = [mask[:, ::2], mask[:, ::2], mask[:, ::4], mask[:, ::4]]
    assert all(torch.equal(each._keras_mask, wanted) for each, wanted in zip(maps, expected, strict=True))
    assert getattr(dynamic, "_keras_mask", None) is None
    assert getattr(em, "_keras_mask", None) is None
    assert (dynamic.shape, em.shape) == ((2, 5, 4), (2, 5, 4))


@pytest.mark.parametrize(
    "layer", [ConvBnRelu(8), PrimaryCapsules(4, 2, 3), CapsuleStage(4, 4), ConvolutionCapsules(4, 2)]
)
def test_padded_steps_do_not_reach_real_ones(layer):
    sequence = torch.randn(2, 12, 4)
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    first = layer(sequence, mask=mask)
    sequence[~mask] = torch.inf
    assert torch.equal(layer(sequence, mask=mask), first)
    with pytest.raises(ShapeError, match=r"mask must .* \(2, 12\); received \(2, 11\)"):
        layer(sequence, mask=mask[:, 1:])


@pytest.mark.parametrize(
    "layer_class", [CapsuleConvolution, CapsuleStage, ConvolutionCapsules, ConvBnRelu, PrimaryCapsules]
)
def test_a_sequence_that_would_count_as_an_image_is_known_by_its_mask(layer_class):
    layer = layer_class(8, name="x") if layer_class is ConvBnRelu else layer_class(2, 8, kernel_size=3, name="x")
    capsules = torch.randn(2, 9, 3, 4)
    with pytest.raises(ShapeError, match=r"x takes its input of shape \(2, 9, 3, 4\) for an image, but .* 'sequence'"):
        layer(capsules, mask=MASK)
    assert layer(capsules).shape[0] == 2


def test_two_sides_are_for_maps():
    for layer in (ConvBnRelu(8, [3, 3], name="x"), PrimaryCapsules(4, 2, [3, 3], name="x")):
        with pytest.raises(ShapeError, match="x: of a sequence kernel_size is one number; received"):
            layer(torch.randn(2, 12, 4))
    with pytest.raises(ShapeError, match="x: of a sequence strides is one number"):
        SelfRoutingCapsules(4, 2, kernel_size=3, strides=[1, 2], name="x")(
            [torch.randn(2, 9, 3, 4), torch.rand(2, 9, 3)]
        )


def test_stacks_route_sequences():
    stack = InvertedAttentionStack([{"capsules": 3, "dim": 4, "kernel_size": 3}, {"capsules": 5, "dim": 4}])
    assert stack(torch.randn(2, 9, 2, 4)).shape == (2, 5, 4)


def test_images_that_are_no_sequences_get_a_warning():
    with pytest.warns(UserWarning, match="this looks like an image"):
        DynamicCapsules(5, 4)(torch.randn(2, 8, 8, 4))


@pytest.mark.parametrize(
    "layer, inputs",
    [
        (CapsuleStage(types=2, dim=4), [torch.randn(2, 9, 8)]),
        (WindowEmCapsules(3, 4, kernel_size=3), [torch.randn(2, 9, 2, 4), torch.rand(2, 9, 2)]),
    ],
)
def test_every_port_has_the_mask(layer, inputs):
    given = inputs[0] if len(inputs) == 1 else inputs
    mask = MASK if len(inputs) == 1 else [MASK, None]
    ports = layer(given, mask=mask, return_ports=True)
    masks = [mask_of(tensor) for port, tensor in ports.items() if port != "input"]
    assert all(torch.equal(each, masks[0]) for each in masks)
    assert masks[0].shape == (2, ports["out"].shape[1])


def test_a_kernel_over_the_whole_sequence_sees_its_real_steps():
    layer = PrimaryCapsules(2, 3, "map")
    assert mask_of(layer(torch.randn(2, 9, 4), mask=MASK & (torch.arange(9) < 3))).tolist() == [[True], [True]]


def test_a_question_for_a_shape_changes_no_output():
    layer, capsules = WindowDynamicCapsules(3, 4, kernel_size=3), torch.randn(2, 6, 6, 3, 4)
    expected = layer(capsules)
    layer.compute_output_shape((None, 12, 3, 4))
    assert torch.equal(layer(capsules), expected)
