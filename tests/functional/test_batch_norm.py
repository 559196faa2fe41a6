"""Batch norm equals torch's module, and the fused CPU path equals the plain one."""

import itertools

import keras
import pytest
import torch
from support import golden

from encapkeras.functional import NormWeights, batch_norm, batch_norm_relu_squash, capsule_batch_norm, squash
from encapkeras.functional.torch_support.shared_batch import SharedBatch, share_batch

GENERATOR_SEED = 0


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(GENERATOR_SEED))


def fresh_weights(channels):
    def make(value):
        return torch.full((channels,), value, dtype=torch.float64)

    return NormWeights(make(1.5).requires_grad_(), make(0.3).requires_grad_(), make(0.0), make(1.0))


def torch_module(weights):
    module = torch.nn.BatchNorm2d(len(weights.scale), dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(weights.scale)
        module.bias.copy_(weights.offset)
    return module


@pytest.mark.parametrize("with_bias", [False, True])
def test_batch_norm_equals_torch_in_training_and_after(with_bias):
    weights = fresh_weights(3)
    module = torch_module(weights)
    bias = torch.tensor([5.0, -2.0, 0.5], dtype=torch.float64) if with_bias else None
    shift = 0 if bias is None else bias.view(-1, 1, 1)
    for training in (True, True, False):
        module.train(training)
        x = random(4, 3, 5, 5)
        y = batch_norm(x, weights, training=training, bias=bias)
        golden.assert_equal(y, module(x + shift), 1e-12)
    golden.assert_equal(weights.mean, module.running_mean, 1e-12)
    golden.assert_equal(weights.variance, module.running_var, 1e-12)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("with_bias", [False, True])
def test_batch_norm_with_biased_moving_variances_equals_keras(with_bias):
    weights = fresh_weights(3)
    layer = keras.layers.BatchNormalization(axis=1, momentum=0.75, epsilon=1e-3)
    layer.build((None, 3, 5))
    layer.set_weights([part.detach() for part in weights[:4]])
    bias = torch.tensor([5.0, -2.0, 0.5], dtype=torch.float64) if with_bias else None
    for training in (True, True, False):
        x = random(4, 3, 5)
        y = batch_norm(x, weights, training=training, bias=bias, momentum=0.25, epsilon=1e-3, unbiased=False)
        golden.assert_equal(y, layer(x if bias is None else x + bias.view(-1, 1), training=training), 1e-12)
    golden.assert_equal(weights.mean, layer.moving_mean.value, 1e-12)
    golden.assert_equal(weights.variance, layer.moving_variance.value, 1e-12)


class Alone(SharedBatch):
    """A batch that is shared with nobody."""

    def stacked(self, tensor):
        return tensor.unsqueeze(0)


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_shared_batch_moves_the_variances_as_a_whole_one(unbiased):
    whole, shared = fresh_weights(3), fresh_weights(3)
    x = random(4, 3, 5)
    expected = batch_norm(x, whole, training=True, unbiased=unbiased)
    with share_batch(Alone((4,), 0)):
        golden.assert_equal(batch_norm(x, shared, training=True, unbiased=unbiased), expected, 1e-12)
    golden.assert_equal(shared.variance, whole.variance, 1e-12)


def test_bias_has_its_gradient_outside_training_and_a_zero_one_while_training():
    weights = fresh_weights(3)
    bias = torch.ones(3, dtype=torch.float64, requires_grad=True)
    batch_norm(random(4, 3, 5), weights, training=True, bias=bias).square().sum().backward()
    assert bias.grad.abs().max() == 0
    bias.grad = None

    def evaluated(x, bias):
        return batch_norm(x, weights, training=False, bias=bias)

    assert torch.autograd.gradcheck(evaluated, (random(4, 3, 5).requires_grad_(), bias))


@pytest.mark.parametrize("bias", [None, torch.tensor([2.0], dtype=torch.float64)])
def test_a_single_value_a_channel_gives_the_offset_and_finite_statistics(bias):
    weights = fresh_weights(1)
    x = torch.full((1, 1, 1, 1), 7.0, dtype=torch.float64, requires_grad=True)
    scale = weights.scale.requires_grad_()
    y = batch_norm(x, weights, training=True, bias=bias)
    y.sum().backward()
    assert y.item() == pytest.approx(0.3)
    assert x.grad.item() == scale.grad.item() == 0
    assert weights.variance.item() == 1
    assert weights.mean.item() == pytest.approx(0.1 * (7 + (0 if bias is None else 2)))


def test_capsule_batch_norm_has_one_statistic_per_type():
    weights = fresh_weights(4)
    x = random(3, 4, 2, 5, 5)
    y = capsule_batch_norm(x, weights, training=True)
    mean = x.mean((0, 2, 3, 4), keepdim=True)
    variance = x.var((0, 2, 3, 4), correction=0, keepdim=True)
    golden.assert_equal(y, 1.5 * (x - mean) / (variance + 1e-5).sqrt() + 0.3, 1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layout_after", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(5, 8, 3, 3), (1, 8, 2, 1), (40, 8, 64, 64)])
def test_fused_path_equals_the_plain_one(layout, layout_after, shape):
    x = random(*shape).contiguous(memory_format=layout)
    upstream = random(*shape).flip(0)
    results = []
    for fused in (True, False):
        weights = fresh_weights(8)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        if fused:
            y, mean, variance = batch_norm_relu_squash(
                leaf, weights.scale, weights.offset, 4, memory_format=layout_after
            )
            assert y.is_contiguous(memory_format=layout_after)
            golden.assert_equal(mean, x.mean((0, 2, 3)), 1e-12)
            golden.assert_equal(variance, x.var((0, 2, 3), correction=0), 1e-12)
        else:
            normed = batch_norm(leaf, weights, training=True).relu()
            y = squash(normed.unflatten(1, (4, -1)), dim=2).flatten(1, 2)
        (y * upstream).sum().backward()
        results.append((y.detach(), leaf.grad, weights.scale.grad, weights.offset.grad))
    for fused_value, plain_value in zip(*results, strict=True):
        assert torch.allclose(fused_value, plain_value, rtol=1e-9, atol=1e-9)


def test_fused_path_is_right_by_finite_differences():
    x, scale, offset = random(3, 4, 2, 2), random(4).abs() + 0.5, random(4)
    arguments = [tensor.requires_grad_() for tensor in (x, scale, offset)]
    assert torch.autograd.gradcheck(lambda *a: batch_norm_relu_squash(*a, 2)[0], arguments)


def test_fused_path_has_the_plain_second_derivatives():
    results = []
    for fused in (True, False):
        x, weights = random(3, 4, 2, 2).requires_grad_(), fresh_weights(4)
        if fused:
            y = batch_norm_relu_squash(x, weights.scale, weights.offset, 2)[0]
        else:
            normed = batch_norm(x, weights, training=True).relu()
            y = squash(normed.unflatten(1, (2, -1)), dim=2).flatten(1, 2)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        first.square().sum().backward()
        results.append((x.grad, weights.scale.grad, weights.offset.grad))
    for fused_value, plain_value in zip(*results, strict=True):
        golden.assert_equal(fused_value, plain_value)


def test_second_derivatives_do_not_need_gradients_of_the_weights():
    x = random(3, 4, 2, 2).requires_grad_()
    y = batch_norm_relu_squash(x, torch.ones(4).double(), torch.zeros(4).double(), 2)[0]
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    first.square().sum().backward()
    assert x.grad.abs().max() > 0


def test_fused_path_is_precise_far_from_zero():
    x = random(8, 4, 6, 6)
    gradients = []
    for values in (x + 1000, (x + 1000).float()):
        leaf = values.clone().requires_grad_()
        ones, zeros = torch.ones(4, dtype=leaf.dtype), torch.zeros(4, dtype=leaf.dtype)
        batch_norm_relu_squash(leaf, ones, zeros, 2)[0].square().sum().backward()
        gradients.append(leaf.grad.double())
    golden.assert_equal(*gradients, 1e-4)


def test_training_between_an_evaluation_and_its_backward_does_no_harm():
    weights = fresh_weights(4)
    x = random(3, 4, 2, 2).requires_grad_()
    evaluated = batch_norm(x, weights, training=False)
    trained = batch_norm(x, weights, training=True)
    (evaluated.sum() + trained.square().sum()).backward()
    assert torch.isfinite(x.grad).all()


def test_fused_path_takes_any_strides():
    x = random(4, 3, 8, 5).permute(1, 2, 0, 3)
    leaves = [x.clone(memory_format=torch.preserve_format).requires_grad_(), x.contiguous().requires_grad_()]
    assert not leaves[0].is_contiguous()
    outputs = [batch_norm_relu_squash(leaf, torch.ones(8).double(), torch.zeros(8).double(), 4)[0] for leaf in leaves]
    golden.assert_equal(*outputs, 1e-12)
    for output in outputs:
        output.square().sum().backward()
    golden.assert_equal(leaves[0].grad, leaves[1].grad, 1e-12)


SIDES = [(3, 5, 4, 1), (3, 5, 1, 4), (1, 5, 4, 2), (1, 5, 4, 1), (3, 5, 2, 1, 2), (3, 5, 4, 2)]


@pytest.mark.parametrize("shape", SIDES)
def test_gradients_are_the_same_however_a_map_and_they_lie_in_memory(shape):
    """Torch's own are wrong for some layouts of maps with a side of 1, and of a single sample."""

    def gradient(x, upstream):
        return torch.autograd.grad(batch_norm(x, fresh_weights(5), training=True), x, upstream)[0]

    x, upstream = random(*shape).requires_grad_(), 3 * random(*shape).square()
    expected = gradient(x, upstream)
    for order in itertools.permutations(range(len(shape))):
        lies = [order.index(axis) for axis in range(len(shape))]
        laid = [each.detach().permute(order).contiguous().permute(lies).requires_grad_() for each in (x, upstream)]
        golden.assert_equal(gradient(laid[0], upstream), expected, 1e-12)
        golden.assert_equal(gradient(x, laid[1].detach()), expected, 1e-12)
