"""Primary capsules against torch's own modules."""

import pytest
import torch

from encapkeras.functional import NormWeights, primary_capsules, squash

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
