"""Interests of sequences: equal to the literal formulas; what masks, counts and powers must do."""

import math

import pytest
import torch
from support.routing import LargestTensor

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import interest_attention, interest_count, interest_routing, label_attention
from encapkeras.reference import interest_loops

BATCH, STEPS, DIM, INTERESTS, OUT = 3, 6, 5, 4, 3
SHAPES = {"all": (DIM, OUT), "interest": (INTERESTS, DIM, OUT), "step": (STEPS + 2, INTERESTS, DIM, OUT)}
BIASES = {"all": (OUT,), "interest": (INTERESTS, OUT), "step": None}


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def arguments(matrices, leaves=True):
    bias = BIASES[matrices]
    tensors = [draw(BATCH, STEPS, DIM), draw(*SHAPES[matrices]), None if bias is None else draw(*bias)]
    return [None if each is None else each.requires_grad_(leaves) for each in tensors]


def options():
    mask = torch.arange(STEPS) < torch.tensor([[STEPS], [4], [0]])
    return {"logits": draw(BATCH, STEPS, INTERESTS), "mask": mask, "count": torch.tensor([INTERESTS, 2, 1])}


@pytest.mark.parametrize("matrices", SHAPES)
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("stops", [True, False])
def test_routing_equals_the_literal_formula(matrices, iterations, stops):
    tensors = arguments(matrices)
    given = [tensor for tensor in tensors if tensor is not None]
    named = {"iterations": iterations, "stop_gradient": stops, **options()}
    results = [call(*tensors, **named) for call in (interest_routing, interest_loops.interest_routing)]
    weights = draw(*results[0].shape, seed=1)
    gradients = [torch.autograd.grad((result * weights).sum(), given) for result in results]
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
    for ours, literal in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("matrices", SHAPES)
def test_gradients_are_right_to_second_order_where_nothing_is_stopped(matrices):
    tensors = [tensor for tensor in arguments(matrices) if tensor is not None]

    def route(*given):
        return interest_routing(*given, stop_gradient=False, **options())

    torch.autograd.gradcheck(route, tensors)
    torch.autograd.gradgradcheck(route, tensors)


def test_attention_equals_the_literal_formula():
    shapes = [(BATCH, STEPS, DIM), (DIM, 7), (7,), (7, INTERESTS), (INTERESTS,), (STEPS + 1, DIM)]
    tensors = [draw(*shape).requires_grad_() for shape in shapes]
    mask = options()["mask"]
    *given, positions = tensors
    results = [
        call(*given, positions=positions, mask=mask) for call in (interest_attention, interest_loops.interest_attention)
    ]
    gradients = [torch.autograd.grad(result.square().sum(), tensors) for result in results]
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
    for ours, literal in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-12)
    assert torch.equal(results[0][2], torch.zeros_like(results[0][2]))


@pytest.mark.parametrize("matrices", SHAPES)
def test_padded_steps_count_for_nothing_whatever_they_hold(matrices):
    sequence, weight, bias = arguments(matrices, leaves=False)
    logits, mask = options()["logits"], options()["mask"]
    alone = interest_routing(sequence[1:2, :4], weight, bias, logits=logits[1:2, :4])
    sequence[~mask] = math.nan
    leaf = sequence.clone().requires_grad_()
    padded = interest_routing(leaf, weight, bias, logits=logits, mask=mask)
    torch.testing.assert_close(padded[1:2], alone, rtol=1e-12, atol=1e-14)
    padded.sum().backward()
    assert torch.equal(padded[2], torch.zeros_like(padded[2]))
    assert torch.equal(leaf.grad[~mask], torch.zeros_like(leaf.grad[~mask]))
    assert leaf.grad.isfinite().all()


def test_steps_that_share_their_matrices_may_change_places():
    sequence, weight, bias = arguments("interest", leaves=False)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    logits = options()["logits"]
    first = interest_routing(sequence, weight, bias, logits=logits)
    second = interest_routing(sequence[:, order], weight, bias, logits=logits[:, order])
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)


def test_interests_beyond_the_count_are_exactly_zero():
    sequence, weight, bias = arguments("all", leaves=False)
    out = interest_routing(sequence, weight, bias, logits=options()["logits"], count=torch.tensor([4, 2, 1]))
    assert torch.equal(out[1, 2:], torch.zeros_like(out[1, 2:]))
    assert (out[1, :2].norm(dim=-1) > 0).all()


def test_number_of_interests_of_each_length():
    lengths = torch.arange(70)
    expected = [int(max(1, min(6, math.log2(1 + length) + 1e-12))) for length in range(70)]
    assert interest_count(lengths, 6).tolist() == expected


def test_one_matrix_needs_no_votes():
    sequence, weight = torch.randn(16, 200, 32).requires_grad_(), torch.randn(32, 32).requires_grad_()
    logits = torch.randn(200, 8)
    with LargestTensor() as largest:
        interest_routing(sequence, weight, logits=logits).sum().backward()
    assert largest.elements <= sequence.numel()


def test_powers_of_label_attention():
    interests = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-3.0, 0.0]]], dtype=torch.float64)
    target = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    agreement = torch.tensor([2.0, 1.0, -6.0], dtype=torch.float64)
    for power in (1, 2, 3):
        weights = (agreement.sign() * agreement.abs() ** power).softmax(0)
        torch.testing.assert_close(label_attention(interests, target, power=power)[0], weights @ interests[0])
    plain = label_attention(interests, target, power=2, keep_sign=False)[0]
    torch.testing.assert_close(plain, (agreement**2).softmax(0) @ interests[0])
    for options in ({"hard": True}, {"power": 100}):
        assert torch.equal(label_attention(interests, target, **options)[0], interests[0, 0])
        assert torch.equal(
            label_attention(interests, target, keep_sign=False, **{**options, "power": 100})[0], interests[0, 2]
        )
    mask = torch.tensor([[False, True, False]])
    assert torch.equal(label_attention(interests, target, mask=mask)[0], interests[0, 1])
    assert torch.equal(label_attention(interests, target, mask=mask, hard=True)[0], interests[0, 1])


@pytest.mark.parametrize("power", [0.5, 1, 2, 2.5])
def test_label_attention_has_finite_gradients(power):
    for make in (torch.zeros, torch.ones):
        interests, target = make(2, 3, 4).requires_grad_(), make(2, 4).requires_grad_()
        mask = torch.tensor([[True, True, False], [False, False, False]])
        label_attention(interests, target, power=power, mask=mask).sum().backward()
        assert interests.grad.isfinite().all()
        assert target.grad.isfinite().all()
    interests, target = draw(2, 3, 4).requires_grad_(), draw(2, 4).requires_grad_()
    torch.autograd.gradcheck(lambda *given: label_attention(*given, power=power), (interests, target))


def test_what_does_not_fit_is_named():
    sequence, mask = torch.randn(2, 9, 5), torch.ones(2, 9, dtype=torch.bool)
    with pytest.raises(ShapeError, match="matrices for 8 steps; received a sequence of 9"):
        interest_routing(sequence, torch.randn(8, 4, 5, 3))
    with pytest.raises(ShapeError, match="logits must be given"):
        interest_routing(sequence, torch.randn(5, 3))
    with pytest.raises(ShapeError, match=r"mask must be \(batch, steps\) = \(2, 9\)"):
        interest_routing(sequence, torch.randn(4, 5, 3), mask=mask[:, 1:])
    with pytest.raises(ShapeError, match=r"bias must be \(4, 3\)"):
        interest_routing(sequence, torch.randn(4, 5, 3), torch.zeros(3))
    with pytest.raises(ShapeError, match="count must be"):
        interest_routing(sequence, torch.randn(4, 5, 3), count=torch.ones(3))
    with pytest.raises(ShapeError, match="weight must be"):
        interest_routing(sequence, torch.randn(4, 6, 3))
    with pytest.raises(ShapeError, match=r"logits must be \(steps, interests\) = \(9, 4\)"):
        interest_routing(sequence, torch.randn(4, 5, 3), logits=torch.zeros(9, 5))
    dense = [torch.randn(5, 6), torch.zeros(6), torch.randn(6, 4), torch.zeros(4)]
    with pytest.raises(ShapeError, match="positions for 8 steps"):
        interest_attention(sequence, *dense, positions=torch.zeros(8, 5))
    with pytest.raises(ShapeError, match=r"positions must be \(steps, 5\)"):
        interest_attention(sequence, *dense, positions=torch.zeros(9, 6))
    with pytest.raises(ShapeError, match=r"weights must be \(5, hidden\)"):
        interest_attention(sequence, *dense[:3], torch.zeros(3))
    with pytest.raises(ShapeError, match="sequence must be"):
        interest_attention(sequence[0], *dense)
    with pytest.raises(ArgumentError, match="power must be a number above 0"):
        label_attention(torch.randn(2, 3, 4), torch.randn(2, 4), power=0)
    with pytest.raises(ShapeError, match="interests must be"):
        label_attention(torch.randn(2, 3, 4), torch.randn(2, 5))
    with pytest.raises(ShapeError, match="mask must be"):
        label_attention(torch.randn(2, 3, 4), torch.randn(2, 4), mask=torch.ones(2, 4))


def test_a_fraction_of_a_negative_agreement_is_refused():
    with pytest.raises(ArgumentError, match=r"whole number without keep_sign.*received 2\.5"):
        label_attention(torch.randn(1, 2, 3), torch.randn(1, 3), power=2.5, keep_sign=False)
