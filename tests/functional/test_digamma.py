"""The digamma function of operations that ONNX has, against torch's."""

import torch
from support.routing import gradients, largest_difference

from encapkeras.functional.torch_support.digamma import digamma, series_digamma


def numbers():
    generator = torch.Generator().manual_seed(0)
    between = torch.linspace(0.1, 30, 10001, dtype=torch.float64)
    return torch.cat([between, 10 ** (6 * torch.rand(1000, generator=generator, dtype=torch.float64))]).requires_grad_()


def test_is_that_of_torch():
    x = numbers()
    received, expected = series_digamma(x), torch.digamma(x)
    assert largest_difference([received], [expected]) < 1e-13
    assert (received - expected).abs().max() < 1e-13
    assert torch.equal(digamma(x), expected)


def test_has_its_derivatives():
    x = numbers()
    (received,), (expected,) = (gradients(value(x), [x]) for value in (series_digamma, torch.digamma))
    assert ((received - expected) / expected).abs().max() < 1e-8  # torch's trigamma has 10 digits
    assert torch.autograd.gradgradcheck(series_digamma, x.detach()[::2000].requires_grad_())


def test_float32_has_its_digits():
    x = numbers().detach()
    difference = series_digamma(x.float()).double() - torch.digamma(x.float().double())
    assert (difference.abs() / torch.digamma(x).abs().clamp_min(1)).max() < 1e-6


def test_exported_programs_have_the_series():
    class Digamma(torch.nn.Module):
        def forward(self, x):
            return digamma(x)

    x = numbers().detach()[:100]
    program = torch.export.export(Digamma(), (x,))
    assert "digamma" not in program.graph_module.code
    assert largest_difference([program.module()(x)], [torch.digamma(x)]) < 1e-13
