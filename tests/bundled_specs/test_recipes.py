"""What the recipes in specs/base do to a network."""

import keras
import pytest
import torch
from scipy import stats

from encapkeras import build_model, load_spec
from encapkeras.summary.node_table import parameters
from encapkeras.training.optimizer.coupled_weight_decay import CoupledWeightDecay
from encapkeras.training.optimizer.make_optimizer import make_optimizer

STEPS_PER_EPOCH = 3


def spec_with(recipe):
    """A spec with every kind of layer that starts from kernels and biases."""
    nodes = {
        "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 32},
        "plain": {"layer": "keras.Conv2D", "inputs": "stem", "filters": 32, "kernel_size": 3},
        "primary": {"layer": "primary_capsules", "inputs": "plain", "types": 8, "dim": 4, "kernel_size": 3},
        "block": {
            "layer": "capsule_convolution",
            "inputs": "primary",
            "types": 8,
            "dim": 8,
            "kind": "approximate",
            "skip": "last",
        },
        "stage": {"layer": "capsule_stage", "inputs": "block", "types": 8, "dim": 8},
        "dense": {"layer": "capsule_dense", "inputs": "stage", "capsules": 40, "dim": 8, "kind": "dense"},
        "routed": {"layer": "dynamic_capsules", "inputs": "stage", "capsules": 20, "dim": 16},
        "classes": {"layer": "capsule_dense", "inputs": "stage", "capsules": "$classes", "dim": 8},
        "lengths": {"layer": "capsule_length", "inputs": "classes"},
        "far": {"layer": "capsule_length", "inputs": "dense"},
        "routed_lengths": {"layer": "capsule_length", "inputs": "routed"},
        "scores": {"layer": "keras.Dense", "inputs": "far", "units": 40},
    }
    return load_spec(
        {
            "spec": "encapkeras/1",
            "name": "everything",
            "extends": f"base/{recipe}",
            "data": {"dataset": "cifar10"},
            "model": {"nodes": nodes, "outputs": {"classes": "lengths", "more": "scores", "routed": "routed_lengths"}},
            "losses": {"classes": {"loss": "margin"}},
        }
    )


@pytest.fixture(scope="module")
def authors():
    return spec_with("authors_recipe.yaml")


def test_the_authors_settings(authors):
    train, augment = authors.train, authors.data.augment
    assert (authors.data.batch_size, augment.resize, augment.crop, augment.mirror) == (128, 34, True, True)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0, 0, 0, 0)
    assert (train.epochs, train.ema, train.clip_norm) == (600, None, None)
    optimizer = make_optimizer(train, STEPS_PER_EPOCH)
    adam = optimizer.inner_optimizer
    assert type(optimizer) is CoupledWeightDecay
    assert isinstance(adam, keras.optimizers.Adam)
    assert (optimizer.rate, adam.beta_1, adam.beta_2, adam.weight_decay) == (5e-4, 0.9, 0.999, None)
    rates = [float(adam._learning_rate(epoch * STEPS_PER_EPOCH)) for epoch in (0, 199, 200, 299, 300, 399, 400, 599)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6, 1e-7, 1e-7])


def test_the_authors_decay_reaches_every_trainable_weight(authors):
    """With gradients of 0, Adam's first step follows the sign of `rate * weight`: every number but 0 moves."""
    model = build_model(authors)
    weights = model.trainable_weights
    before = [weight.value.detach().clone() for weight in weights]
    optimizer = make_optimizer(authors.train, STEPS_PER_EPOCH)
    optimizer.apply([torch.zeros_like(value) for value in before], weights)
    for weight, value in zip(weights, before, strict=True):
        step = weight.value.detach() - value
        large = value.abs() > 1e-2  # smaller decays come near Adam's epsilon
        assert (step[large] * value[large].sign() < -0.5e-4).all(), weight.path


def test_the_authors_weights_start_xavier_normal_and_biases_standard_normal(authors):
    keras.utils.set_random_seed(0)
    model = build_model(authors)
    biases = []
    for weight in model.trainable_weights:
        value, path = weight.value.detach().flatten(), weight.path
        if path.endswith(("norm_scale", "norm_offset")):
            assert (value == float(path.endswith("scale"))).all(), path
        elif "bias" in path.rsplit("/", 1)[-1]:
            biases.append(value)
        elif path.endswith("_kernel") or path.startswith(("plain", "scores")):
            assert stats.kstest(value, stats.norm(scale=xavier_deviation(weight)).cdf).pvalue > 1e-4, path
            assert value.abs().max() > 2.05 * xavier_deviation(weight) or value.numel() < 200, path  # whole tails
    assert stats.kstest(torch.cat(biases), stats.norm.cdf).pvalue > 1e-4
    assert len(biases) > 10


def xavier_deviation(weight):
    """`sqrt(2 / (fan_in + fan_out))`; our kernels are in torch's layout, Keras' own in Keras'."""
    shape = tuple(weight.shape)
    if weight.path.startswith(("plain", "scores")):
        shape = (shape[-1], shape[-2], *shape[:-2])
    field = shape[2] * shape[3] if len(shape) == 4 else 1
    return (2 / (field * (shape[0] + shape[1]))) ** 0.5


@pytest.mark.parametrize(
    ("name", "epochs", "milestones", "augment"),
    [
        ("self_routing_resnet20", 350, [150, 250], {"pad": 4, "crop": True, "mirror": True}),
        ("self_routing_resnet20_svhn", 200, [100, 150], {"pad": 4, "crop": True}),
        (
            "self_routing_convnet",
            200,
            [100, 150],
            {"resize": 48, "crop": True, "brightness": 32 / 255, "contrast": 0.3},
        ),
    ],
)
def test_self_routings_recipes(name, epochs, milestones, augment):
    spec = load_spec(name)
    train, settings = spec.train, spec.data.augment
    assert (spec.data.batch_size, spec.data.validation, train.epochs) == (64, 0.1, epochs)
    given = settings.model_dump(exclude_defaults=True)
    assert given == pytest.approx(augment, abs=1e-4)
    optimizer = make_optimizer(train, STEPS_PER_EPOCH)
    sgd = optimizer.inner_optimizer
    assert type(optimizer) is CoupledWeightDecay
    assert isinstance(sgd, keras.optimizers.SGD)
    assert (optimizer.rate, sgd.momentum, sgd.nesterov) == (1e-4, 0.9, False)
    rates = [float(sgd._learning_rate(epoch * STEPS_PER_EPOCH)) for epoch in (0, *milestones, epochs - 1)]
    assert rates == pytest.approx([0.1, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("name", ["inverted_attention_cifar10", "inverted_attention_cifar100"])
def test_the_recipe_of_inverted_attention(name):
    spec = load_spec(name)
    train = spec.train
    assert (spec.data.batch_size, spec.data.validation, train.epochs) == (128, 0.1, 350)
    assert spec.data.augment.model_dump(exclude_defaults=True) == {"pad": 4, "crop": True, "mirror": True}
    optimizer = make_optimizer(train, STEPS_PER_EPOCH)
    assert type(optimizer) is CoupledWeightDecay
    assert (optimizer.rate, optimizer.inner_optimizer.momentum) == (5e-4, 0.9)
    rates = [float(optimizer.inner_optimizer._learning_rate(epoch * STEPS_PER_EPOCH)) for epoch in (0, 150, 250)]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize("name", ["variational_bayes_small_norb", "variational_bayes_small_norb_tiny"])
def test_the_recipe_of_variational_bayes(name):
    spec = load_spec(name)
    assert (spec.data.batch_size, spec.data.validation, spec.train.epochs) == (128, 0.2, 300)
    assert spec.data.augment.model_dump(exclude_defaults=True) == {"resize": 48, "crop": True}
    assert spec.inputs["image"] == [32, 32, 2]
    optimizer = make_optimizer(spec.train, STEPS_PER_EPOCH)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert (float(optimizer.learning_rate), optimizer.epsilon) == (pytest.approx(1e-3), 1e-8)


def test_the_recipe_of_matrix_capsules():
    spec = load_spec("em_small_norb")
    assert (spec.data.batch_size, spec.inputs["image"]) == (64, [32, 32, 1])
    assert spec.data.augment.model_dump(exclude_defaults=True) == {"resize": 48, "crop": True}
    adam = make_optimizer(spec.train, STEPS_PER_EPOCH)
    assert isinstance(adam, keras.optimizers.Adam)
    assert float(adam.learning_rate) == pytest.approx(3e-3)


def test_variational_bayes_normalizes_each_channel_of_each_image():
    model = build_model("variational_bayes_small_norb_tiny")
    normal = keras.Model(model.inputs, model.get_layer("normal").output)
    images = 0.3 + 0.1 * torch.rand(2, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    deviation, mean = torch.std_mean(images, (1, 2), keepdim=True)
    assert torch.allclose(normal(images), (images - mean) / deviation, atol=2e-3)


def test_the_recipe_of_heinsens_routing_of_2019():
    spec = load_spec("heinsen_2019_small_norb")
    assert (spec.data.batch_size, spec.train.epochs, spec.inputs["image"]) == (20, 50, [96, 96, 2])
    adam = make_optimizer(spec.train, STEPS_PER_EPOCH)
    rates = [float(adam._learning_rate(epoch * STEPS_PER_EPOCH)) for epoch in (5, 50)]
    assert rates == pytest.approx([5e-4, 1e-5], rel=0.02)


def test_the_spread_loss_of_self_routings_comparison_grows_over_the_whole_training():
    (loss,) = load_spec("em_convnet").make_losses().values()
    margins = []
    for epoch in (0, 100, 200):
        loss.set_epoch(epoch, epochs=200)
        margins.append(loss.margin)
    assert margins == pytest.approx([0.2, 0.3, 0.4])


def test_the_modern_recipe():
    spec = spec_with("modern_recipe.yaml")
    augment = spec.data.augment
    assert (augment.crop, augment.pad, augment.cutout, augment.mirror) == (True, 2, 0, False)
    optimizer = make_optimizer(spec.train, STEPS_PER_EPOCH)
    sgd = optimizer.inner_optimizer
    assert type(optimizer) is CoupledWeightDecay
    assert isinstance(sgd, keras.optimizers.SGD)
    assert (sgd.momentum, sgd.nesterov, sgd.use_ema, sgd.ema_momentum) == (0.9, True, True, 0.99)
    last = spec.train.epochs * STEPS_PER_EPOCH - 1
    first, highest, final = (float(sgd._learning_rate(step)) for step in (0, round(0.3 * (last + 1)) - 1, last))
    assert 0 < first < highest / 10
    assert highest == pytest.approx(0.05, rel=1e-3)
    assert final < highest / 1000


def test_the_plain_twin_has_the_size_and_the_trunk_of_the_capsule_network():
    best, plain = load_spec("fashion_mnist_best"), load_spec("fashion_mnist_plain")
    assert (best.train, best.data) == (plain.train, plain.data)
    trunk = [node for node in best.nodes if node.name not in ("capsules", "items", "lengths")]
    assert plain.nodes[: len(trunk)] == trunk
    with keras.device("meta"):
        sizes = [parameters(build_model(spec)) for spec in (best, plain)]
    assert sizes[0] < 1_500_000
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
