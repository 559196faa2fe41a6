"""The optimal-transport unit equals the original, and does what it says of itself."""

import keras
import numpy as np
import pytest
import torch
from support import golden

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import transport_divergence
from encapkeras.losses import OptimalTransport

ORIGINAL = {
    "generator_kernel": "G_net.0.weight",
    "generator_bias": "G_net.0.bias",
    "generator_norm_scale": "G_net.1.weight",
    "generator_norm_offset": "G_net.1.bias",
    "critic_1_kernel": "critic.0.weight",
    "critic_1_bias": "critic.0.bias",
    "critic_1_norm_scale": "critic.1.weight",
    "critic_1_norm_offset": "critic.1.bias",
    "critic_2_kernel": "critic.3.weight",
    "critic_2_bias": "critic.3.bias",
    "critic_2_norm_scale": "critic.4.weight",
    "critic_2_norm_offset": "critic.4.bias",
}
FILES = sorted(path.stem for path in (golden.FOLDER / "layers").glob("ot_*.npz"))


def of_original(meta):
    """The arguments of a golden file in ours."""
    return {
        "generator": "encapsulated" if "group" in meta else "plain",
        "critic": "none" if meta.get("skip_critic") else "minimized",
        "cost": meta.get("C_form", "l2"),
        "epsilon": meta.get("epsilon", 1.0),
        "iterations": meta.get("L", 10),
        "debiased": not meta.get("remove_bias"),
        "gradient": "envelope" if meta.get("no_bp_P_L") else "unrolled",
    }


def as_map(image, types):
    """The original's layout as ours: an image, or capsules."""
    channels_last = image.permute(0, 2, 3, 1)
    return channels_last.unflatten(3, (types, -1)) if types else channels_last


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", FILES)
def test_unit_equals_the_original(name):
    expected = golden.load(name)
    z, y = (expected.inputs[key].clone().requires_grad_() for key in ("z", "y"))
    latent, target = (as_map(image, expected.meta.get("group")) for image in (z, y))
    unit = OptimalTransport(**of_original(expected.meta))
    unit.build(latent.shape, target.shape)
    weights = {weight.name: weight for weight in unit.trainable_weights}
    assert {ORIGINAL[name] for name in weights} == set(expected.parameters)
    for name, weight in weights.items():
        weight.assign(expected.parameters[ORIGINAL[name]])
    loss = unit(latent=latent, target=target, training=True)
    golden.assert_equal(loss, expected.outputs["loss"])
    loss.backward()
    golden.assert_equal(z.grad, expected.input_gradients["z"])
    golden.assert_equal(y.grad, expected.input_gradients["y"])
    for name, weight in weights.items():
        golden.assert_equal(weight.value.grad, expected.parameter_gradients[ORIGINAL[name]])


def random_tensors(latent=(4, 4, 8, 4), target=(8, 8, 8, 2), batch=6):
    """Capsules, or images."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn((batch, *shape), generator=generator) for shape in (latent, target))


def make(latent, target, **arguments):
    """A unit with weights, and nothing in its moving statistics yet."""
    keras.utils.set_random_seed(1)
    unit = OptimalTransport(name="unit", **arguments)
    unit.build(latent.shape, target.shape)
    return unit


def gradients(unit, latent, target):
    """The loss, and its gradients of the tensors and the weights by name."""
    tensors = {"latent": latent.clone().requires_grad_(), "target": target.clone().requires_grad_()}
    loss = unit(**tensors, training=True)
    leaves = {**tensors, **{weight.name: weight.value for weight in unit.trainable_weights}}
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize("critic", ["minimized", "none"])
def test_the_loss_is_the_divergence_of_the_features(critic):
    latent, target = random_tensors()
    unit = make(latent, target, critic=critic, cost="cosine", epsilon=0.3, iterations=4)
    x, y = unit._features(latent, target, training=True)
    expected = transport_divergence(x, y, cost="cosine", epsilon=0.3, iterations=4)
    torch.testing.assert_close(unit(latent=latent, target=target, training=True), expected)
    assert x.shape == y.shape == (6, 8 * 8 * 16 if critic == "none" else 2 * 2)


@pytest.mark.parametrize("generator", ["plain", "encapsulated"])
@pytest.mark.parametrize(
    ("sides", "target_sides"),
    [((4, 4), (8, 8)), ((4, 4), (7, 7)), ((4, 8), (8, 8)), ((1, 1), (1, 2)), ((3, 5), (3, 9))],
)
def test_sides_stay_double_or_double_less_one(sides, target_sides, generator):
    latent, target = random_tensors((*sides, 4, 6), (*target_sides, 4, 2))
    unit = make(latent, target, generator=generator)
    loss = unit(latent=latent, target=target, training=True)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    kernel = dict(zip([w.name for w in unit.weights], unit.weights, strict=True))["generator_kernel"]
    assert kernel.shape == (24, 2 if generator == "encapsulated" else 8, 3, 3)


def test_images_and_capsules_may_be_aligned_with_each_other():
    capsules, image = random_tensors((4, 4, 8, 4), (8, 8, 12))
    losses = [make(a, b)(latent=a, target=b, training=True) for a, b in [(capsules, image), (capsules, capsules)]]
    assert all(map(torch.isfinite, losses))


@pytest.mark.parametrize(
    ("latent", "target", "arguments", "message"),
    [
        ((4, 4, 8), (9, 9, 8), {}, "4 x 4 does not become the target's 9 x 9"),
        ((8, 8, 8), (4, 4, 8), {}, "8 x 8 does not become the target's 4 x 4"),
        ((4, 4, 8), (8, 8, 6), {}, r"6 do not divide by 4; another number of channels, or critic: none, works"),
        ((4, 4, 8, 2), (8, 8, 4, 2), {"generator": "encapsulated"}, "received 8 types and 4 types"),
        ((4, 4, 8), (8, 8, 4, 2), {"generator": "encapsulated"}, "received an image and 4 types"),
        ((4, 4, 8), (None, 8, 8), {}, r"target must be capsules .* of known size; received shape \(6, None, 8, 8\)"),
        ((8,), (8, 8, 8), {}, r"latent must be capsules .* received shape \(6, 8\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(latent, target, arguments, message):
    with pytest.raises(ShapeError, match=message):
        OptimalTransport(**arguments).build((6, *latent), (6, *target))


def test_without_a_critic_channels_need_not_divide():
    latent, target = random_tensors((4, 4, 8), (8, 8, 6))
    assert torch.isfinite(make(latent, target, critic="none")(latent=latent, target=target, training=True))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("epsilon", 0), ("epsilon", float("nan")), ("iterations", 0), ("cost", "l1"), ("critic", None), ("debiased", 1)],
)
def test_a_wrong_argument_is_named(argument, value):
    with pytest.raises(ArgumentError, match=f"optimal_transport: {argument}: must "):
        OptimalTransport(**{argument: value})


@pytest.mark.parametrize("gradient", ["unrolled", "envelope", "implicit"])
@pytest.mark.parametrize("critic", ["minimized", "adversarial", "none"])
def test_a_batch_of_one_costs_nothing(critic, gradient):
    latent, target = random_tensors(batch=1)
    loss, found = gradients(make(latent, target, critic=critic, gradient=gradient), latent, target)
    assert loss == 0
    assert all((each == 0).all() for each in found.values())


def test_an_adversarial_critic_gets_the_reversed_gradient_and_nothing_else_does():
    latent, target = random_tensors()
    (loss, usual), (same, reversed_) = (
        gradients(make(latent, target, critic=critic), latent, target) for critic in ("minimized", "adversarial")
    )
    torch.testing.assert_close(same, loss)
    for name, gradient in usual.items():
        sign = -1 if name.startswith("critic") else 1
        torch.testing.assert_close(reversed_[name], sign * gradient)
    assert usual["critic_1_kernel"].abs().sum() > 0


def test_moving_statistics_are_those_of_both_tensors_and_stay_when_frozen():
    latent, target = random_tensors()
    unit = make(latent, target)
    before = {weight.name: weight.numpy().copy() for weight in unit.non_trainable_weights}
    assert len(before) == 6
    unit.trainable = False
    unit(latent=latent, target=target, training=True)
    for weight in unit.non_trainable_weights:
        if weight.name in before:
            np.testing.assert_array_equal(weight, before[weight.name])
    unit.trainable = True
    unit(latent=latent, target=target)
    for weight in unit.non_trainable_weights:
        np.testing.assert_array_equal(weight, before[weight.name])
    unit(latent=latent, target=target, training=True)
    assert all((weight.numpy() != before[weight.name]).any() for weight in unit.non_trainable_weights)


def test_metrics_are_those_of_the_plan():
    latent, target = random_tensors()
    unit = make(latent, target, epsilon=0.5, iterations=2)
    assert unit.take_metrics() == {}
    unit(latent=latent.requires_grad_(), target=target, training=True)
    metrics = unit.take_metrics()
    assert tuple(metrics) == unit.metric_names
    assert not any(metric.requires_grad for metric in metrics.values())
    assert unit.take_metrics() == {}
    x, y = (features.detach().double().numpy() for features in unit._features(latent, target, training=True))
    cost = np.linalg.norm(x[:, None] - y[None], axis=2)
    kernel, right = np.exp(-cost / 0.5), np.full(6, 1 / 6)
    for _ in range(2):
        left = 1 / 6 / (kernel @ right)
        right = 1 / 6 / (kernel.T @ left)
    plan = left[:, None] * kernel * right
    assert metrics["mean_cost"].item() == pytest.approx(cost.mean(), rel=1e-5)
    assert metrics["marginal_error"].item() == pytest.approx(np.abs(plan.sum(1) - 1 / 6).sum(), rel=1e-3)
    assert metrics["plan_entropy"].item() == pytest.approx(-(plan * np.log(plan)).sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("critic", "wrong"), [("minimized", float("nan")), ("none", float("nan")), ("none", float("inf")), ("none", 1e30)]
)
def test_a_network_that_has_diverged_gives_a_loss_that_says_so(critic, wrong):
    latent, target = random_tensors()
    target[0, 0, 0, 0, 0] = wrong
    unit = make(latent, target, critic=critic)
    assert not torch.isfinite(unit(latent=latent, target=target, training=True))
    assert not any(map(torch.isfinite, unit.take_metrics().values()))


def test_half_precision_is_computed_in_float32():
    latent, target = random_tensors()
    unit = make(latent, target, dtype="mixed_bfloat16")
    loss = unit(latent=latent.bfloat16(), target=target.bfloat16(), training=True)
    assert loss.dtype == torch.float32
    assert {weight.dtype for weight in unit.weights} == {"float32"}
    full = make(latent, target)(latent=latent.bfloat16().float(), target=target.bfloat16().float(), training=True)
    torch.testing.assert_close(loss, full)


def test_config_makes_the_same_unit():
    arguments = {
        "generator": "encapsulated",
        "critic": "adversarial",
        "cost": "sqeuclidean",
        "epsilon": 0.5,
        "iterations": 3,
        "debiased": False,
        "gradient": "implicit",
        "kernel_initializer": "he_normal",
        "bias_initializer": {"class_name": "random_normal", "config": {"stddev": 1.0}},
    }
    unit = OptimalTransport(name="mine", **arguments)
    again = keras.layers.deserialize(keras.layers.serialize(unit))
    assert again.get_config() == unit.get_config()
    assert {name: again.get_config()[name] for name in arguments} == arguments


def test_other_shapes_than_it_was_built_for_are_refused():
    unit = OptimalTransport()
    unit(latent=torch.rand(4, 4, 4, 8, 2), target=torch.rand(4, 4, 4, 8, 2))
    message = r"was built for latent \(4, 4, 8, 2\) and target \(4, 4, 8, 2\), .* received \(4, 4, 8, 4\) and"
    with pytest.raises(ShapeError, match=message):
        unit(latent=torch.rand(4, 4, 4, 8, 4), target=torch.rand(4, 4, 4, 8, 2))
