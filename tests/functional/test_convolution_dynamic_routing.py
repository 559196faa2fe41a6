"""Dynamic routing of maps by a convolution: the literal loops, the textbook tensors, its laws and its memory."""

import itertools

import pytest
import torch
from support.routing import LargestTensor, gradients, largest_difference

from encapkeras.benchmarks.routing import peak_memory
from encapkeras.benchmarks.routing_sizes import METHODS
from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import convolution_dynamic_routing
from encapkeras.functional.routing import convolution_dynamic_routing as module
from encapkeras.functional.torch_support import sample_pieces
from encapkeras.reference import convolution_routing

OVER = list(itertools.product(["parents_and_positions", "parents"], ["map", "capsule"]))
WAYS = {"votes": 3, "patches": 9}  # by the dimension of the parents: what is fewer numbers


@pytest.fixture
def one_sample_a_piece(monkeypatch):
    """Take the way of large inputs, whose pieces hold one sample."""
    whole = sample_pieces.call_by_samples
    monkeypatch.setattr(module, "call_by_samples", lambda *all_, **_: whole(*all_, little=0, piece=1))


def inputs(*, batch=2, size=(4, 3), types=3, dim=2, outputs=2, out_dim=3, kernel=3, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    leaves = (
        scale * normal(batch, *size, types, dim),
        normal(outputs * out_dim, dim, kernel, kernel) / dim**0.5,
        0.1 + 0.1 * normal(outputs, out_dim),
    )
    return tuple(leaf.to(dtype).requires_grad_() for leaf in leaves)


@pytest.mark.parametrize("over", OVER, ids="-".join)
@pytest.mark.parametrize("options", [{}, {"iterations": 1}, {"strides": 2}, {"layout": "reference"}], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_equals_the_literal_loops(way, over, options):
    leaves = inputs(out_dim=WAYS[way])
    options = {**options, "normalize_over": over[0], "squash_over": over[1]}
    out = convolution_dynamic_routing(*leaves, **options)
    expected = convolution_routing.convolution_dynamic_routing_loops(*leaves, **options)
    assert largest_difference([out], [expected]) < 1e-13
    assert largest_difference(gradients(out, leaves), gradients(expected, leaves)) < 1e-12


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("way", WAYS)
def test_equals_the_textbook_version_over_many_pieces(way, batch, one_sample_a_piece):
    leaves = inputs(batch=batch, size=(4, 4), types=5, out_dim=WAYS[way])
    out = convolution_dynamic_routing(*leaves)
    expected = convolution_routing.convolution_dynamic_routing(*leaves)
    assert largest_difference([out], [expected]) < 1e-13
    assert largest_difference(gradients(out, leaves), gradients(expected, leaves)) < 1e-12


@pytest.mark.parametrize("over", OVER, ids="-".join)
@pytest.mark.parametrize("out_dim", [2, 4])
def test_gradients_are_right_twice(over, out_dim):
    leaves = inputs(size=(2, 2), types=2, kernel=2, out_dim=out_dim)

    def routed(*tensors):
        return convolution_dynamic_routing(*tensors, normalize_over=over[0], squash_over=over[1])

    assert torch.autograd.gradcheck(routed, leaves)
    assert torch.autograd.gradgradcheck(routed, leaves)


@pytest.mark.parametrize("out_dim", [2, 4])
def test_gradients_are_right_twice_over_pieces(out_dim, one_sample_a_piece):
    leaves = inputs(size=(2, 2), types=2, kernel=2, out_dim=out_dim)
    assert torch.autograd.gradcheck(convolution_dynamic_routing, leaves)
    assert torch.autograd.gradgradcheck(convolution_dynamic_routing, leaves)


@pytest.mark.parametrize("out_dim, way", [(8, "votes"), (9, "patches")])
def test_takes_the_way_of_fewer_numbers(out_dim, way):
    """A child has 2 x 8 or 2 x 9 numbers of votes, and a patch of 18; its positions are 12, the types 3."""
    leaves = inputs(out_dim=out_dim, batch=1)
    with LargestTensor() as largest:
        convolution_dynamic_routing(*leaves)
    assert largest.elements == 12 * 3 * {"votes": 16, "patches": 18}[way]


def test_votes_never_exist():
    sizes = {"batch": 32, "size": (4, 4), "types": 32, "dim": 8, "outputs": 32, "out_dim": 8}  # as published
    leaves = inputs(**sizes, dtype=torch.float32)
    votes = 32 * 16 * 32 * 32 * 8
    with LargestTensor() as largest:
        gradients(convolution_dynamic_routing(*leaves), leaves)
    assert largest.elements < votes / 12
    with LargestTensor() as largest:
        gradients(convolution_routing.convolution_dynamic_routing(*leaves), leaves)
    assert largest.elements >= votes  # so that the watch would see them


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dynamic-convolution", "dynamic-classes"])
def test_takes_at_most_a_third_of_the_memory_of_the_textbook_version(method):
    """At the sizes of the published network."""
    ours, textbook = (peak_memory(method, way, METHODS[method], "cpu") for way in ("encapkeras", "textbook"))
    assert ours <= textbook / 3


def test_the_layout_of_the_reference_is_that_of_memory():
    capsules, weight, bias = inputs(size=(2, 3), types=2, dim=2)
    memory = torch.arange(24).reshape(1, 2, 3, 2, 2)
    read = memory.reshape(1, 4, 2, 3).permute(0, 2, 3, 1).unflatten(3, (2, 2))
    position = [int((memory.flatten() == number).nonzero()) for number in read.flatten()]
    moved = capsules.flatten(1)[:, position].view_as(capsules)
    received = convolution_dynamic_routing(capsules, weight, bias, layout="reference")
    assert largest_difference([received], [convolution_dynamic_routing(moved, weight, bias)]) < 1e-13


@pytest.mark.parametrize("over", OVER, ids="-".join)
def test_does_not_depend_on_the_order_of_samples_and_types(over):
    capsules, weight, bias = inputs(batch=3)
    options = {"normalize_over": over[0], "squash_over": over[1]}
    out = convolution_dynamic_routing(capsules, weight, bias, **options)
    mixed = capsules[[2, 0, 1]][:, :, :, [1, 2, 0]]
    assert largest_difference([convolution_dynamic_routing(mixed, weight, bias, **options)], [out[[2, 0, 1]]]) < 1e-12


def test_positions_move_with_a_kernel_of_one():
    capsules, weight, bias = inputs(kernel=1)
    out = convolution_dynamic_routing(capsules, weight, bias)
    again = convolution_dynamic_routing(capsules.flip(1, 2), weight, bias)
    assert largest_difference([again], [out.flip(1, 2)]) < 1e-12


@pytest.mark.parametrize("normalize_over", ["parents_and_positions", "parents"])
@pytest.mark.parametrize("way", WAYS)
def test_uniform_coefficients_are_one_iteration(way, normalize_over):
    leaves = inputs(out_dim=WAYS[way])
    fixed = torch.full((3, 2), 1 / 2, dtype=torch.float64)
    received = convolution_dynamic_routing(*leaves, normalize_over=normalize_over, coefficients=fixed)
    expected = convolution_dynamic_routing(*leaves, normalize_over=normalize_over, iterations=1)
    assert largest_difference([received], [expected]) < 1e-13


@pytest.mark.parametrize("normalize_over", ["parents_and_positions", "parents"])
@pytest.mark.parametrize("way", WAYS)
def test_fixed_coefficients_equal_the_formula(way, normalize_over):
    leaves = inputs(out_dim=WAYS[way])
    fixed = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    received = convolution_dynamic_routing(
        *leaves, normalize_over=normalize_over, squash_over="capsule", coefficients=fixed
    )
    votes, size = convolution_routing.votes(leaves[0], leaves[1], 2, 1, "transposed")
    shares = fixed / 12 if normalize_over == "parents_and_positions" else fixed
    sums = torch.einsum("bnpje,nj->bpje", votes, shares) + leaves[2]
    length = sums.norm(dim=-1, keepdim=True)
    expected = (sums * length / (1 + length**2)).unflatten(1, size)
    assert largest_difference([received], [expected]) < 1e-13
    everything = (*leaves, fixed)
    assert largest_difference(gradients(received, everything), gradients(expected, everything)) < 1e-12


@pytest.mark.parametrize("over", OVER, ids="-".join)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
@pytest.mark.parametrize("way", WAYS)
def test_stays_finite(way, over, scale):
    capsules, weight, bias = inputs(out_dim=WAYS[way], scale=scale, dtype=torch.float32)
    for offset in (bias, torch.zeros_like(bias).requires_grad_()):
        leaves = (capsules, weight, offset)
        out = convolution_dynamic_routing(*leaves, iterations=5, normalize_over=over[0], squash_over=over[1])
        assert out.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients(out, leaves))


def test_one_child_at_one_position_and_an_empty_batch():
    leaves = inputs(batch=1, size=(1, 1), types=1, dim=1, outputs=1, out_dim=1)
    out = convolution_dynamic_routing(*leaves)
    assert all(gradient.isfinite().all() for gradient in gradients(out, leaves))
    assert convolution_dynamic_routing(leaves[0][:0], *leaves[1:]).shape == (0, 1, 1, 1, 1)


def test_half_precision_is_computed_in_float32():
    leaves = inputs(dtype=torch.float32)
    expected = convolution_dynamic_routing(*leaves)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolution_dynamic_routing(*leaves), expected)
    half = convolution_dynamic_routing(leaves[0].bfloat16(), *leaves[1:])
    assert half.dtype == torch.bfloat16
    assert largest_difference([half.float()], [expected]) < 0.02


@pytest.mark.parametrize("way", WAYS)
def test_compiles_without_a_break(way):
    leaves = inputs(out_dim=WAYS[way])
    compiled = torch.compile(convolution_dynamic_routing, fullgraph=True, backend="eager")
    assert largest_difference([compiled(*leaves)], [convolution_dynamic_routing(*leaves)]) < 1e-12


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layout": "mixed"}, "layout must be 'reference' or 'transposed'; received 'mixed'"),
        ({"normalize_over": "positions"}, "normalize_over must be 'parents_and_positions' or 'parents'"),
        ({"squash_over": "row"}, "squash_over must be 'map' or 'capsule'"),
        ({"iterations": 0}, "iterations must be a whole number of at least 1; received 0"),
    ],
    ids=str,
)
def test_impossible_options(options, message):
    with pytest.raises(ArgumentError, match=message):
        convolution_dynamic_routing(*inputs(), **options)


def test_sizes_that_disagree():
    capsules, weight, bias = inputs()
    with pytest.raises(ShapeError, match=r"with dim 2 as of capsules \(2, 4, 3, 3, 2\); received \(6, 1, 3, 3\)"):
        convolution_dynamic_routing(capsules, weight[:, :1], bias)
    with pytest.raises(ShapeError, match="weight must be"):
        convolution_dynamic_routing(capsules, weight, bias[:1])
    with pytest.raises(ShapeError, match="capsules must be"):
        convolution_dynamic_routing(capsules[0], weight, bias)
    with pytest.raises(ShapeError, match="coefficients must be"):
        convolution_dynamic_routing(capsules, weight, bias, coefficients=bias)
