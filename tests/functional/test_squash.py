"""Squash: golden numbers, gradients, and its laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import golden

from encapkeras.functional import capsule_length, squash

VARIANTS = ["paper", "sigmoid"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_squash_equals_the_original(variant):
    expected = golden.load(f"squash_{variant}")
    x = expected.inputs["x"].clone().requires_grad_()
    y = squash(x, variant=variant)
    golden.assert_equal(y, expected.outputs["y"])
    (y * golden.weights_of_sum(2, y.shape)).sum().backward()
    golden.assert_equal(x.grad, expected.input_gradients["x"])


def test_squash_of_a_map_equals_the_original():
    expected = golden.load("conv_squash")
    x = expected.inputs["x"].clone().requires_grad_()
    y = squash(x.unflatten(1, (expected.meta["groups"], -1)), dim=2).flatten(1, 2)
    golden.assert_equal(y, expected.outputs["y"])
    (y * golden.weights_of_sum(2, y.shape)).sum().backward()
    golden.assert_equal(x.grad, expected.input_gradients["x"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dim", [-1, 1])
def test_gradients_are_right_twice(variant, dim):
    x = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: squash(x, variant=variant, dim=dim), x)
    assert torch.autograd.gradgradcheck(lambda x: squash(x, variant=variant, dim=dim), x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zero_vectors_have_zero_value_and_gradient(variant, dtype):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    y = squash(x, variant=variant)
    y.sum().backward()
    assert y.dtype == dtype
    assert y[0].abs().max() == 0
    assert x.grad[0].abs().max() == 0
    assert torch.isfinite(x.grad).all()


def test_tiny_and_huge_vectors_stay_finite():
    x = torch.tensor([[1e-30, 0.0], [1e-12, 1e-12], [1e18, -1e18]], requires_grad=True)
    y = squash(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert y[2].norm().item() == pytest.approx(1)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6))
def test_squash_keeps_the_direction_and_gives_the_known_length(values):
    x = torch.tensor(values, dtype=torch.float64)
    y = squash(x)
    length = x.norm()
    assert abs(y.norm() - length**2 / (1 + length**2)) <= 1e-12
    assert abs((x * y).sum() - length * y.norm()) <= 1e-9


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant must be 'paper' or 'sigmoid'; received 'logistic'"):
        squash(torch.zeros(2), variant="logistic")


def test_length_of_zero_has_zero_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    capsule_length(x).sum().backward()
    assert x.grad.abs().max() == 0


def test_squash_compiles_in_one_graph():
    compiled = torch.compile(lambda x: squash(x, dim=1), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 4, 3, requires_grad=True)
    y = compiled(x)
    y.sum().backward()
    golden.assert_equal(y.detach(), squash(x, dim=1).detach(), 1e-6)


def test_squash_works_under_function_transforms():
    x = torch.randn(5, 3, dtype=torch.float64)
    golden.assert_equal(torch.func.vmap(squash)(x), squash(x))
    leaf = x.clone().requires_grad_()
    squash(leaf).sum().backward()
    golden.assert_equal(torch.func.grad(lambda x: squash(x).sum())(x), leaf.grad)


def _deepcaps(s):
    square = s.square().sum(-1, keepdim=True)
    return square / (1 + square) * s / (square + 1e-7).sqrt()


def _capsnet_in_tf2(s):
    length = s.norm(dim=-1, keepdim=True)
    return length**2 / (1 + length**2) / (length + 1e-7) * s


def _affcaps(s):
    square = s.square().sum(-1, keepdim=True) + 1e-8
    return square / (1 + square) * s / square.sqrt() + 1e-8


EPSILONS = {
    "root": (_deepcaps, {"epsilon": 1e-7}),
    "length": (_capsnet_in_tf2, {"epsilon": 1e-7, "epsilon_in": "length"}),
    "square": (_affcaps, {"epsilon": 1e-8, "epsilon_in": "square", "offset": 1e-8}),
}


@pytest.mark.parametrize("place", EPSILONS)
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_epsilons_of_published_code(place, scale):
    formula, options = EPSILONS[place]
    x = scale * torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    torch.testing.assert_close(squash(x, **options), formula(x), rtol=1e-12, atol=0)
    found, expected = (torch.autograd.grad(y[:, 1].sum(), x)[0] for y in (squash(x, **options), formula(x)))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("place", EPSILONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_vectors_with_an_epsilon_are_finite(place, dtype):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    y = squash(x, **EPSILONS[place][1])
    y.sum().backward()
    assert y.dtype == dtype
    assert y[0].abs().max() <= 1e-8
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("place", EPSILONS)
def test_gradients_with_an_epsilon_are_right_twice(place):
    options = {**EPSILONS[place][1], "epsilon": 0.1}
    x = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for dim in (-1, 1, (0, 2)):
        assert torch.autograd.gradcheck(lambda x, dim=dim: squash(x, dim=dim, **options), x)
        assert torch.autograd.gradgradcheck(lambda x, dim=dim: squash(x, dim=dim, **options), x)


def test_a_length_over_several_axes():
    x = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = squash(x, dim=(1, 2))
    torch.testing.assert_close(together.flatten(1), squash(x.flatten(1)))


def test_an_unknown_place_of_the_epsilon():
    with pytest.raises(ValueError, match="epsilon_in must be 'root', 'length' or 'square'; received 'cube'"):
        squash(torch.ones(2), epsilon=1, epsilon_in="cube")


def test_lengths_with_an_offset():
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    length = capsule_length(x, offset=1e-7)
    length.sum().backward()
    torch.testing.assert_close(length, torch.full((2,), 1e-7 * 3**0.5, dtype=torch.float64))
    assert torch.isfinite(x.grad).all()
