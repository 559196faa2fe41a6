"""Primary capsules against torch's own modules."""

import pytest
import torch

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import NormWeights, primary_capsules, squash
from encapkeras.layers import PrimaryCapsules

TYPES, DIM = 4, 3


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_squash", [False, True])
def test_primary_capsules_equal_torch(training, with_norm, relu, with_squash):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(5, TYPES * DIM, 3, stride=2, padding=1, dtype=torch.float64)
    module = torch.nn.BatchNorm2d(TYPES * DIM, dtype=torch.float64).train(training)
    image = torch.randn(2, 7, 6, 5, dtype=torch.float64)
    norm = NormWeights(module.weight, module.bias, module.running_mean.clone(), module.running_var.clone())

    received = primary_capsules(
        image,
        convolution.weight,
        convolution.bias,
        norm if with_norm else None,
        types=TYPES,
        strides=2,
        padding=1,
        relu=relu,
        squash=with_squash,
        training=training,
    )

    expected = convolution(image.permute(0, 3, 1, 2))
    expected = module(expected) if with_norm else expected
    expected = torch.relu(expected) if relu else expected
    expected = expected.view(2, TYPES, DIM, 4, 3).permute(0, 3, 4, 1, 2)  # channel n * D + d
    expected = squash(expected) if with_squash else expected
    assert received.shape == (2, 4, 3, TYPES, DIM)
    assert torch.allclose(received, expected, rtol=0, atol=1e-12)
    if with_norm:
        assert torch.allclose(norm.mean, module.running_mean, rtol=0, atol=1e-12)
        assert torch.allclose(norm.variance, module.running_var, rtol=0, atol=1e-12)


def test_depthwise_equals_a_sum_for_each_channel():
    """A kernel as large as the map gives one position, a smaller one several, in the order row, column, type."""
    generator = torch.Generator().manual_seed(0)
    image, bias = torch.randn(2, 5, 4, 12, generator=generator).double(), torch.randn(12, generator=generator).double()
    for rows, columns, strides in ((5, 4, 1), (2, 2, 2)):
        kernel = torch.randn(12, 1, rows, columns, generator=generator).double()
        options = {"types": TYPES, "strides": strides, "padding": 0, "relu": False, "squash": True, "training": False}
        received = primary_capsules(image, kernel, bias, None, **options, squash_variant="exponential")
        windows = image.unfold(1, rows, strides).unfold(2, columns, strides)
        expected = torch.einsum("bpqcyx,cyx->bpqc", windows, kernel[:, 0]) + bias
        expected = squash(expected.unflatten(3, (TYPES, DIM)), variant="exponential")
        torch.testing.assert_close(received, expected)


def test_depthwise_layer_takes_the_whole_map_and_refuses_what_does_not_fit():
    layer, image = PrimaryCapsules(4, 3, "map", depthwise=True, squash_variant="exponential"), torch.randn(2, 5, 4, 12)
    capsules = layer(image)
    assert capsules.shape == (2, 1, 1, 4, 3)
    kernel, bias = (weight.value for weight in layer.weights)
    raw = (torch.einsum("bhwc,chw->bc", image, kernel[:, 0]) + bias).view(2, 1, 1, 4, 3)
    torch.testing.assert_close(capsules, squash(raw, variant="exponential"))
    assert [tuple(weight.shape) for weight in layer.weights] == [(12, 1, 5, 4), (12,)]
    for arguments, shape, message in [
        ({"depthwise": True, "kernel_size": 3}, (2, 5, 4, 10), r"types \* dim = 12 channels; received .* 10\)"),
    ]:
        with pytest.raises(ShapeError, match=message):
            PrimaryCapsules(4, 3, **arguments)(torch.randn(shape))
    with pytest.raises(ShapeError, match="map is a kernel as large as the input"):
        PrimaryCapsules(4, 3, "map").compute_output_shape((None, None, 4, 12))
    with pytest.raises(ArgumentError, match="which has no padding; received padding 1"):
        PrimaryCapsules(4, 3, "map", padding=1)


@pytest.mark.parametrize("kernel", [(12, 4, 3, 3), (12, 1, 3, 3)])
def test_a_kernel_for_other_channels_is_refused(kernel):
    options = {"types": 4, "strides": 1, "padding": 0, "relu": False, "squash": False, "training": False}
    with pytest.raises(ShapeError, match=r"takes \d channels, or 12 .* received an image of shape \(1, 5, 5, 8\)"):
        primary_capsules(torch.rand(1, 5, 5, 8), torch.rand(kernel), torch.zeros(12), None, **options)


def test_a_kernel_as_large_as_the_map_takes_no_other_maps():
    layer = PrimaryCapsules(2, 2, "map")
    layer(torch.rand(1, 4, 4, 3))
    with pytest.raises(ShapeError, match=r"built for a map of \(4, 4\); received shape \(1, 6, 6, 3\)"):
        layer(torch.rand(1, 6, 6, 3))
    assert PrimaryCapsules(2, 2, "map", padding=[0, 0])(torch.rand(1, 4, 4, 3)).shape == (1, 1, 1, 2, 2)
