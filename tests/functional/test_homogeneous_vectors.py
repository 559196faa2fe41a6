"""Homogeneous vector capsules and merged branches: equal to loops, right gradients, what may not matter does not."""

import pytest
import torch
from support.routing import LargestTensor

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import NormWeights, capsule_length, homogeneous_vector_capsules, merge_branches
from encapkeras.reference import homogeneous_vector_products
from encapkeras.reference.homogeneous_vector_loops import homogeneous_vectors, merged_branches

OF = ("position", "filter")
HEIGHT, WIDTH, CHANNELS, OUTPUTS = 3, 2, 4, 5


def norm_of(size, offset=None):
    parts = [torch.ones(size), torch.zeros(size), torch.zeros(size), torch.ones(size)]
    scale, zeros, mean, variance = (part.double() for part in parts)
    return NormWeights(scale, zeros if offset is None else offset, mean, variance)


def problem(capsules_of, batch=3):
    torch.manual_seed(0)
    inputs, dim = HEIGHT * WIDTH, CHANNELS
    if capsules_of == "filter":
        inputs, dim = dim, inputs
    image = torch.randn(batch, HEIGHT, WIDTH, CHANNELS, dtype=torch.float64)
    weight = torch.randn(dim, inputs, OUTPUTS, dtype=torch.float64)
    return image, weight, torch.randn(dim, dtype=torch.float64)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("capsules_of", OF)
def test_equals_loops_in_training_and_prediction(capsules_of, batch):
    image, weight, offset = problem(capsules_of, batch)
    norm = norm_of(len(offset), offset)
    for training in (True, False):
        moments = None if training else (norm.mean.clone(), norm.variance.clone())
        out = homogeneous_vector_capsules(image, weight, norm, training=training, capsules_of=capsules_of)
        expected = homogeneous_vectors(image, weight, offset, capsules_of=capsules_of, moments=moments)
        assert torch.allclose(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_textbook_version(training):
    image, weight, offset = problem("position")
    given = (image, weight, norm_of(len(offset), offset))
    expected = homogeneous_vector_products.homogeneous_vector_capsules(*given, training=training)
    assert torch.allclose(homogeneous_vector_capsules(*given, training=training), expected, rtol=0, atol=1e-12)


def test_the_products_are_never_made():
    image, weight, offset = torch.rand(4, 6, 6, 8), torch.rand(8, 36, 10, requires_grad=True), torch.rand(8)
    norm = NormWeights(torch.ones(8), offset, torch.zeros(8), torch.ones(8))
    with LargestTensor() as largest:
        homogeneous_vector_capsules(image, weight, norm, training=True).sum().backward()
    assert largest.elements == weight.numel()


@pytest.mark.parametrize("capsules_of", OF)
def test_gradients_are_those_of_finite_differences_to_second_order(capsules_of):
    image, weight, offset = (part.requires_grad_() for part in problem(capsules_of, 2))

    def route(image, weight, offset):
        norm = norm_of(len(offset), offset)
        return homogeneous_vector_capsules(image, weight, norm, training=True, capsules_of=capsules_of)

    assert torch.autograd.gradcheck(route, (image, weight, offset))
    assert torch.autograd.gradgradcheck(route, (image, weight, offset))


def test_a_list_is_the_map_of_its_positions():
    image, weight, offset = problem("position")
    out = [
        homogeneous_vector_capsules(each, weight, norm_of(len(offset), offset), training=True)
        for each in (image, image.flatten(1, 2))
    ]
    assert torch.equal(*out)


@pytest.mark.parametrize("capsules_of", OF)
def test_the_order_of_capsules_does_not_matter_if_that_of_the_weights_is_the_same(capsules_of):
    image, weight, offset = problem(capsules_of)
    order = torch.randperm(weight.shape[1])
    moved = image.flatten(1, 2)[:, order] if capsules_of == "position" else image[..., order]
    out = [
        homogeneous_vector_capsules(*each, norm_of(len(offset), offset), training=True, capsules_of=capsules_of)
        for each in ((image, weight), (moved, weight[:, order]))
    ]
    assert torch.allclose(*out, rtol=0, atol=1e-12)


@pytest.mark.parametrize("capsules_of", OF)
def test_the_order_of_outputs_and_of_samples_commutes(capsules_of):
    image, weight, offset = problem(capsules_of)
    outputs, samples = torch.randperm(OUTPUTS), torch.randperm(len(image))

    def route(image, weight):
        norm = norm_of(len(offset), offset)
        return homogeneous_vector_capsules(image, weight, norm, training=True, capsules_of=capsules_of)

    expected = route(image, weight)[samples][:, outputs]
    assert torch.allclose(route(image[samples], weight[..., outputs]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("capsules_of", OF)
@pytest.mark.parametrize("batch", [1, 2])
def test_no_input_has_finite_values_and_gradients(capsules_of, batch, training):
    image, weight, offset = problem(capsules_of, batch)
    image = torch.zeros_like(image, requires_grad=True)
    norm = norm_of(len(offset), (-offset.abs()).requires_grad_())  # so that all capsules are 0
    out = homogeneous_vector_capsules(image, weight.requires_grad_(), norm, training=training, capsules_of=capsules_of)
    lengths = capsule_length(out)
    assert lengths.abs().max() == 0
    lengths.sum().backward()
    assert all(part.grad.isfinite().all() for part in (image, weight, norm.offset))


def test_one_child_one_output_and_one_sample_are_finite():
    image = torch.randn(1, 1, 1, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 1, dtype=torch.float64, requires_grad=True)
    out = homogeneous_vector_capsules(image, weight, norm_of(3), training=True)
    assert out.shape == (1, 1, 3)
    capsule_length(out).sum().backward()
    assert image.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_moving_statistics_are_those_of_biased_variances():
    image, weight, offset = problem("position")
    norm = norm_of(len(offset), offset)
    homogeneous_vector_capsules(image, weight, norm, training=True, momentum=0.25)
    sums = torch.einsum("bpd,dpj->bjd", image.flatten(1, 2), weight)
    assert torch.allclose(norm.mean, 0.25 * sums.mean((0, 1)))
    assert torch.allclose(norm.variance, 0.75 + 0.25 * sums.var((0, 1), correction=0))


def test_merged_branches_equal_loops():
    torch.manual_seed(0)
    scores, weight, offset = torch.randn(3, 5, 2).double(), torch.randn(2).double(), torch.randn(2).double()
    out = merge_branches(scores, weight, norm_of(2, offset), training=True)
    assert torch.allclose(out, merged_branches(list(scores.unbind(-1)), weight, offset), rtol=0, atol=1e-12)


def test_gradients_of_merged_branches_are_those_of_finite_differences_to_second_order():
    torch.manual_seed(0)
    parts = [torch.randn(size).double().requires_grad_() for size in ((3, 5, 2), (2,), (2,))]

    def merge(scores, weight, offset):
        return merge_branches(scores, weight, norm_of(2, offset), training=True)

    assert torch.autograd.gradcheck(merge, parts)
    assert torch.autograd.gradgradcheck(merge, parts)


def test_the_order_of_branches_does_not_matter():
    torch.manual_seed(0)
    scores, weight = torch.randn(3, 5, 4).double(), torch.randn(4).double()
    order = torch.randperm(4)
    out = merge_branches(scores, weight, norm_of(4), training=True)
    moved = merge_branches(scores[..., order], weight[order], norm_of(4), training=True)
    assert torch.allclose(out, moved, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 2])
def test_equal_scores_merge_finitely(batch):
    scores = torch.zeros(batch, 5, 3).double().requires_grad_()
    out = merge_branches(scores, torch.ones(3).double(), norm_of(3), training=True)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert scores.grad.isfinite().all()


def test_wrong_arguments_are_refused():
    image, weight, offset = problem("position")
    norm = norm_of(len(offset))
    with pytest.raises(ArgumentError, match="capsules_of must be 'position' or 'filter'; received 'xyz'"):
        homogeneous_vector_capsules(image, weight, norm, training=True, capsules_of="xyz")
    with pytest.raises(ShapeError, match=r"\(dim, inputs, outputs\) = \(6, 4, ...\) for the filters"):
        homogeneous_vector_capsules(image, weight, norm, training=True, capsules_of="filter")
    with pytest.raises(ShapeError, match="take a map"):
        homogeneous_vector_capsules(image[0, 0], weight, norm, training=True)
    with pytest.raises(ShapeError, match="a weight for each branch"):
        merge_branches(torch.rand(2, 5, 3), torch.ones(2), norm, training=True)
