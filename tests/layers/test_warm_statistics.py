"""Warm batch norms: the plain mean of the batches' statistics until the momentum's horizon, then the usual average."""

import keras
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import encapkeras
from encapkeras.functional import NormWeights, batch_norm
from encapkeras.layers import CapsuleConvolution, CapsuleStage, ConvBnRelu, PrimaryCapsules

LAYERS = {
    "conv_bn_relu": (ConvBnRelu, {"filters": 3}, (5, 5, 2)),
    "primary_capsules": (PrimaryCapsules, {"types": 2, "dim": 2, "kernel_size": 3, "batch_norm": True}, (5, 5, 2)),
    "capsule_convolution": (CapsuleConvolution, {"types": 2, "dim": 3, "normalization": "capsule"}, (4, 4, 2, 2)),
    "capsule_stage": (CapsuleStage, {"types": 2, "dim": 3, "kind": "approximate"}, (4, 4, 2, 2)),
}


def made(name, moving_average="warm", dtype="float64", **options):
    layer_class, arguments, shape = LAYERS[name]
    layer = layer_class(**arguments, bias_initializer="ones", moving_average=moving_average, dtype=dtype, **options)
    layer.build((None, *shape))
    return layer


def statistics(layer, count=False):
    """Moving means and variances, or the counts of batches, by name."""
    moving = {weight.name: weight.value.detach().clone() for weight in layer.non_trainable_weights}
    return {name: value for name, value in moving.items() if name.endswith("_count") == count}


def batches(name, count):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, *LAYERS[name][2], dtype=torch.float64, generator=random) + number for number in range(count)]


def statistics_of_each(name, weights, images):
    """Those of single batches, by an exponential average that begins at 0 with each."""
    layer = made(name, "momentum")
    for mine, given in zip(layer.trainable_weights, weights, strict=True):
        mine.assign(given)
    for batch in images:
        for weight in layer.non_trainable_weights:
            weight.assign(0 * weight)
        layer(batch, training=True)
        yield {key: 10 * value for key, value in statistics(layer).items()}


@pytest.mark.parametrize("name", LAYERS)
def test_the_average_is_plain_up_to_ten_batches_and_exponential_after(name):
    layer, images = made(name), batches(name, 13)
    of_each = list(statistics_of_each(name, layer.trainable_weights, images))
    for step, batch in enumerate(images, 1):
        layer(batch, training=True)
        for key, value in statistics(layer).items():
            before = [each[key] for each in of_each[: min(step, 10)]]
            expected = sum(before) / len(before)
            for later in of_each[10:step]:
                expected = 0.9 * expected + 0.1 * later[key]
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        assert {int(value) for value in statistics(layer, count=True).values()} == {step}
    assert len(statistics(layer, count=True)) == len(statistics(layer)) / 2


@pytest.mark.parametrize("bias", [None, torch.tensor([3.0, -1.0], dtype=torch.float64)])
def test_it_equals_torch_with_a_cumulative_average(bias):
    module = torch.nn.BatchNorm1d(2, momentum=None, dtype=torch.float64)
    zeros, ones = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    weights = NormWeights(ones, zeros, zeros.clone(), ones.clone(), torch.zeros((), dtype=torch.float64))
    for step in range(1, 13):
        x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        module.momentum = None if step <= 10 else 0.1
        expected = module(x if bias is None else x + bias.view(-1, 1))
        torch.testing.assert_close(batch_norm(x, weights, training=True, bias=bias), expected)
        torch.testing.assert_close(weights.mean, module.running_mean)
        torch.testing.assert_close(weights.variance, module.running_var)
        assert weights.batches == module.num_batches_tracked


def test_the_gradients_and_the_output_of_training_are_those_of_momentum():
    layer, usual = made("capsule_stage"), made("capsule_stage", "momentum")
    for mine, given in zip(usual.trainable_weights, layer.trainable_weights, strict=True):
        mine.assign(given)
    results = []
    for each in (layer, usual):
        x = batches("capsule_stage", 1)[0].requires_grad_()
        y = each(x, training=True)
        y.square().sum().backward()
        results.append([y, x.grad, *(weight.value.grad for weight in each.trainable_weights)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_a_batch_without_a_variance_is_left_out():
    weights = NormWeights(torch.ones(1), torch.zeros(1), torch.zeros(1), torch.ones(1), torch.zeros(()))
    batch_norm(torch.full((1, 1, 1), 7.0), weights, training=True)
    assert [float(each) for each in weights.moving()] == [0, 1, 0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16", "float32", "float64"])
def test_the_count_is_exact_in_every_precision(dtype):
    layer = made("conv_bn_relu", dtype=dtype)
    (count,) = [weight for weight in layer.weights if weight.name == "norm_count"]
    assert count.dtype == ("float64" if dtype == "float64" else "float32")
    count.assign(4095)
    layer(batches("conv_bn_relu", 1)[0], training=True)
    assert int(count) == 4096


@pytest.mark.parametrize("name", ["conv_bn_relu", "capsule_stage"])
@pytest.mark.parametrize("moving_average", ["warm", "momentum"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_forward_pass_that_is_repeated_for_the_backward_pass_counts_once(name, moving_average, reentrant):
    once, repeated = made(name, moving_average), made(name, moving_average)
    repeated.set_weights(once.get_weights())
    gradients = []
    for layer in (once, repeated):
        x = batches(name, 1)[0].requires_grad_()

        def call(images, layer=layer):
            return layer(images, training=True)

        y = call(x) if layer is once else checkpoint(call, x, use_reentrant=reentrant)
        y.square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    for weight, other in zip(repeated.non_trainable_weights, once.non_trainable_weights, strict=True):
        assert torch.equal(weight.value, other.value)


def test_a_layer_that_is_called_twice_counts_twice_and_a_frozen_one_not_at_all():
    layer = made("conv_bn_relu")
    inputs = keras.Input(LAYERS["conv_bn_relu"][2])
    model = keras.Model(inputs, keras.layers.add([layer(inputs), layer(2 * inputs)]))
    images = batches("conv_bn_relu", 1)[0]
    model(images, training=True)
    assert float(statistics(layer, count=True)["norm_count"]) == 2
    before = layer.get_weights()
    layer.trainable = False
    model(images, training=True)
    assert all((old == new).all() for old, new in zip(before, layer.get_weights(), strict=True))


@pytest.mark.slow
def test_torch_can_compile_the_layers_as_one_graph():
    for name in LAYERS:
        layer, eager = made(name), made(name)
        eager.set_weights(layer.get_weights())
        compiled = torch.compile(lambda x, layer=layer: layer.call(x, training=True), backend="eager", fullgraph=True)
        for batch in batches(name, 2):
            torch.testing.assert_close(compiled(batch), eager(batch, training=True))
        for weight, other in zip(layer.non_trainable_weights, eager.non_trainable_weights, strict=True):
            torch.testing.assert_close(weight.value, other.value)


@pytest.mark.slow
def test_one_epoch_of_the_quickstart_validates_far_above_chance(tmp_path):
    results = encapkeras.training.train(encapkeras.load_spec("quickstart", ["train.epochs=1"]), tmp_path / "run")
    assert results["test_accuracy"] > 0.9
