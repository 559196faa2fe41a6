"""Capsules by a plain convolution: known answers, and signals that stay alive."""

import pytest
import torch
from torch.nn import functional as F

from encapkeras.functional import convolution_capsules, squash
from encapkeras.layers import ConvolutionCapsules


def random(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_equals_a_convolution_over_all_channels_and_squash():
    capsules, kernel = random(2, 5, 6, 3, 4), random(10, 12, 3, 3)
    image = F.conv2d(capsules.flatten(3).permute(0, 3, 1, 2), kernel, padding=1)
    expected = squash(image.unflatten(1, (2, 5)), dim=2, epsilon=1e-7).permute(0, 3, 4, 1, 2)
    torch.testing.assert_close(convolution_capsules(capsules, kernel, types=2), expected)
    torch.testing.assert_close(convolution_capsules(capsules.flatten(3), kernel, types=2), expected)


@pytest.mark.parametrize("size, strides, kernel, before", [(6, 2, 3, 0), (5, 2, 3, 1), (7, 3, 2, 0), (4, 1, 2, 0)])
def test_an_odd_zero_is_at_the_end(size, strides, kernel, before):
    """As TensorFlow pads, and Keras in its name."""
    image, weight = random(1, size, size, 1), random(1, 1, kernel, kernel)
    out = convolution_capsules(image, weight, types=1, strides=strides)
    assert out.shape[1:3] == (-(-size // strides),) * 2
    first = image[0, : kernel - before, : kernel - before, 0] * weight[0, 0, before:, before:]
    torch.testing.assert_close(out[0, 0, 0], squash(first.sum().reshape(1, 1), epsilon=1e-7))


def test_valid_has_no_zeros():
    out = convolution_capsules(random(1, 6, 5, 2), random(6, 2, 3, 3), types=2, strides=2, padding="valid")
    assert out.shape == (1, 2, 2, 2, 3)


def test_zero_is_finite_in_value_and_gradient():
    capsules, kernel = torch.zeros(1, 1, 1, 1, 4, requires_grad=True), torch.ones(6, 4, 3, 3, requires_grad=True)
    out = convolution_capsules(capsules, kernel, types=2)
    gradients = torch.autograd.grad(out.sum(), (capsules, kernel))
    assert torch.equal(out, torch.zeros(1, 1, 1, 2, 3))
    assert all(gradient.isfinite().all() for gradient in gradients)


def lengths_through_layers(**options):
    capsules = torch.rand(2, 8, 8, 32, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    lengths = []
    for _ in range(4):
        capsules = ConvolutionCapsules(32, 8, **options)(capsules)
        lengths.append(float(capsules.detach().norm(dim=-1).mean()))
    return lengths


def test_the_default_initializer_keeps_signals_alive():
    """The fans that Keras 3 has for the same kernels in the layout of the paper's code do not."""
    assert lengths_through_layers()[-1] > 0.1
    limit = (6 / (3 * 3 * 32 * 8 * 32 * (32 + 8))) ** 0.5  # kernels of shape (3, 3, 32, 8, 32, 8)
    small = {"class_name": "random_uniform", "config": {"minval": -limit, "maxval": limit}}
    assert lengths_through_layers(kernel_initializer=small)[-1] < 1e-6
