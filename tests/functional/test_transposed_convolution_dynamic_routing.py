"""Dynamic routing by a transposed convolution: the literal loops, the textbook tensors, its laws and its memory."""

import pytest
import torch
from support.routing import LargestTensor, gradients, largest_difference

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import transposed_convolution_dynamic_routing
from encapkeras.functional.torch_support import sample_pieces
from encapkeras.reference import convolution_routing


def inputs(*, batch=2, size=(2, 3), types=3, dim=2, outputs=2, out_dim=3, kernel=4, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    leaves = (
        scale * normal(batch, *size, types, dim),
        normal(dim, outputs * out_dim, kernel, kernel) / dim**0.5,
        0.1 + 0.1 * normal(outputs, out_dim),
    )
    return tuple(leaf.to(dtype).requires_grad_() for leaf in leaves)


@pytest.fixture
def one_sample_a_piece(monkeypatch):
    """Take the way of large inputs, whose pieces hold one sample."""
    whole = sample_pieces.call_by_samples
    monkeypatch.setattr(
        "encapkeras.functional.routing.transposed_convolution_dynamic_routing.call_by_samples",
        lambda *arguments: whole(*arguments, little=0, piece=1),
    )


@pytest.mark.parametrize("kernel, strides", [(4, 2), (3, 2), (2, 2), (5, 2), (5, 3), (4, 3), (3, 1)])
def test_equals_the_literal_loops(kernel, strides):
    leaves = inputs(kernel=kernel)
    out = transposed_convolution_dynamic_routing(*leaves, strides=strides)
    expected = convolution_routing.transposed_convolution_dynamic_routing_loops(*leaves, strides=strides)
    assert out.shape == (2, 2 * strides, 3 * strides, 2, 3)
    assert largest_difference([out], [expected]) < 1e-13
    assert largest_difference(gradients(out, leaves), gradients(expected, leaves)) < 1e-12


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_equals_the_textbook_version_over_many_pieces(iterations, one_sample_a_piece):
    leaves = inputs(batch=5, size=(4, 4), types=5, outputs=6)
    out = transposed_convolution_dynamic_routing(*leaves, iterations=iterations)
    expected = convolution_routing.transposed_convolution_dynamic_routing(*leaves, iterations=iterations)
    assert largest_difference([out], [expected]) < 1e-13
    assert largest_difference(gradients(out, leaves), gradients(expected, leaves)) < 1e-12


def test_gradients_are_right_twice():
    leaves = inputs(size=(1, 2), types=2, kernel=3, out_dim=2)
    assert torch.autograd.gradcheck(transposed_convolution_dynamic_routing, leaves)
    assert torch.autograd.gradgradcheck(transposed_convolution_dynamic_routing, leaves)


def test_gradients_are_right_twice_over_pieces(one_sample_a_piece):
    leaves = inputs(size=(1, 2), types=2, kernel=2, out_dim=2)
    assert torch.autograd.gradcheck(transposed_convolution_dynamic_routing, leaves)
    assert torch.autograd.gradgradcheck(transposed_convolution_dynamic_routing, leaves)


def test_votes_of_all_samples_never_exist():
    leaves = inputs(batch=32, size=(16, 16), types=8, dim=8, outputs=4, out_dim=8, dtype=torch.float32)
    votes = 32 * 32 * 32 * 8 * 4 * 8
    with LargestTensor() as largest:
        gradients(transposed_convolution_dynamic_routing(*leaves), leaves)
    assert largest.elements <= votes / 8
    with LargestTensor() as largest:
        gradients(convolution_routing.transposed_convolution_dynamic_routing(*leaves), leaves)
    assert largest.elements >= votes  # so that the watch would see them


def test_does_not_depend_on_the_order_of_samples_and_types():
    capsules, weight, bias = inputs(batch=3)
    out = transposed_convolution_dynamic_routing(capsules, weight, bias)
    mixed = capsules[[2, 0, 1]][:, :, :, [1, 2, 0]]
    assert largest_difference([transposed_convolution_dynamic_routing(mixed, weight, bias)], [out[[2, 0, 1]]]) < 1e-12


def test_a_mirrored_map_and_kernel_give_a_mirrored_map():
    capsules, weight, bias = inputs(kernel=4)
    out = transposed_convolution_dynamic_routing(capsules, weight, bias)
    again = transposed_convolution_dynamic_routing(capsules.flip(1, 2), weight.flip(2, 3), bias)
    assert largest_difference([again], [out.flip(1, 2)]) < 1e-12


def test_fixed_coefficients():
    leaves = inputs()
    alike = torch.full((3, 2), 1 / 2, dtype=torch.float64)
    received = transposed_convolution_dynamic_routing(*leaves, coefficients=alike)
    expected = transposed_convolution_dynamic_routing(*leaves, iterations=1)
    assert largest_difference([received], [expected]) < 1e-13
    first = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)  # all to the first type: the other has its bias alone
    out = transposed_convolution_dynamic_routing(*leaves, coefficients=first)
    length = leaves[2][1].norm()
    expected = (leaves[2][1] * length / (1 + length**2)).expand_as(out[..., 1, :])
    assert largest_difference([out[..., 1, :]], [expected]) < 1e-13


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_stays_finite(scale):
    capsules, weight, bias = inputs(scale=scale, dtype=torch.float32)
    for offset in (bias, torch.zeros_like(bias).requires_grad_()):
        leaves = (capsules, weight, offset)
        out = transposed_convolution_dynamic_routing(*leaves, iterations=5)
        assert out.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients(out, leaves))


def test_one_child_at_one_position_and_an_empty_batch():
    leaves = inputs(batch=1, size=(1, 1), types=1, dim=1, outputs=1, out_dim=1)
    out = transposed_convolution_dynamic_routing(*leaves)
    assert all(gradient.isfinite().all() for gradient in gradients(out, leaves))
    assert transposed_convolution_dynamic_routing(leaves[0][:0], *leaves[1:]).shape == (0, 2, 2, 1, 1)


def test_half_precision_is_computed_in_float32():
    leaves = inputs(dtype=torch.float32)
    expected = transposed_convolution_dynamic_routing(*leaves)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transposed_convolution_dynamic_routing(*leaves), expected)
    half = transposed_convolution_dynamic_routing(leaves[0].bfloat16(), *leaves[1:])
    assert half.dtype == torch.bfloat16
    assert largest_difference([half.float()], [expected]) < 0.02


def test_compiles_without_a_break():
    leaves = inputs()
    compiled = torch.compile(transposed_convolution_dynamic_routing, fullgraph=True, backend="eager")
    assert largest_difference([compiled(*leaves)], [transposed_convolution_dynamic_routing(*leaves)]) < 1e-12


@pytest.mark.parametrize(
    "options, message",
    [
        ({"strides": 5}, "strides must be from 1 to the kernel's side, 4: .* received 5"),
        ({"strides": 0}, "received 0"),
        ({"iterations": 0}, "iterations must be a whole number of at least 1; received 0"),
    ],
    ids=str,
)
def test_impossible_options(options, message):
    with pytest.raises(ArgumentError, match=message):
        transposed_convolution_dynamic_routing(*inputs(), **options)


def test_sizes_that_disagree():
    capsules, weight, bias = inputs()
    with pytest.raises(ShapeError, match=r"with dim 2 as of capsules \(2, 2, 3, 3, 2\); received \(1, 6, 4, 4\)"):
        transposed_convolution_dynamic_routing(capsules, weight[:1], bias)
    with pytest.raises(ShapeError, match="weight must be"):
        transposed_convolution_dynamic_routing(capsules, weight, bias[:1])
    with pytest.raises(ShapeError, match="capsules must be"):
        transposed_convolution_dynamic_routing(capsules[0], weight, bias)
    with pytest.raises(ShapeError, match="coefficients must be"):
        transposed_convolution_dynamic_routing(capsules, weight, bias, coefficients=bias)
