"""Every recipe makes the same steps as the same recipe written by hand on torch, in float64."""

import math
from types import SimpleNamespace

import keras
import pytest
import torch

from encapkeras.spec.train_settings import TrainSettings
from encapkeras.training.optimizer.coupled_weight_decay import CoupledWeightDecay
from encapkeras.training.optimizer.make_optimizer import make_optimizer

STEPS = 12
TINY = 1e-30  # Keras and torch put epsilon in different places; at this size it is in none


@pytest.fixture(autouse=True)
def _double_precision():
    before, policy = keras.config.floatx(), keras.config.dtype_policy()  # Keras derives a policy once it is asked
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(policy)


def target(weights):
    """A smooth function of two weights of different shapes, with gradients that vary in sign and size."""
    matrix, vector = weights
    return torch.sin(matrix @ vector).sum() + (vector**2).sum() * 0.3 + torch.cosh(matrix * 0.2).sum()


def first_weights():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.randn(3, generator=generator).double()]


def of_nodes(**nodes):
    """What an optimizer needs of a model: its nodes, here with one weight each."""
    layers = [(SimpleNamespace(name=name), SimpleNamespace(weights=[weight])) for name, weight in nodes.items()]
    return SimpleNamespace(nodes=lambda: layers)


def by_recipe(settings, steps_per_epoch=STEPS):
    variables = [keras.Variable(weight) for weight in first_weights()]
    model = of_nodes(matrix=variables[0], vector=variables[1])
    optimizer = make_optimizer(TrainSettings.model_validate(settings), steps_per_epoch, model)
    for _ in range(STEPS):
        for variable in variables:
            variable.value.grad = None
        target([variable.value for variable in variables]).backward()
        optimizer.apply([variable.value.grad for variable in variables], variables)
    return [variable.value.detach() for variable in variables]


def by_torch(make, clip_norm=None, rate_of_step=None):
    weights = [torch.nn.Parameter(weight) for weight in first_weights()]
    optimizer = make(weights)
    for step in range(STEPS):
        if rate_of_step:
            optimizer.param_groups[0]["lr"] = rate_of_step(step)
        optimizer.zero_grad()
        target(weights).backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(weights, clip_norm)
        optimizer.step()
    return [weight.detach() for weight in weights]


def assert_same(ours, theirs, tolerance=1e-12):
    for mine, other, start in zip(ours, theirs, first_weights(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)
        assert (mine - start).abs().max() > 1e-3  # something was learned, so that equality says something


ADAM = {"kind": "adam", "learning_rate": 0.05, "epsilon": TINY}
COUPLED = {"kind": "coupled", "rate": 0.1}
DECOUPLED = {"kind": "decoupled", "rate": 0.1}


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"optimizer": ADAM}, lambda w: torch.optim.Adam(w, 0.05, eps=TINY)),
        (
            {"optimizer": {**ADAM, "beta_1": 0.8, "beta_2": 0.95}},
            lambda w: torch.optim.Adam(w, 0.05, (0.8, 0.95), eps=TINY),
        ),
        (
            {"optimizer": ADAM, "weight_decay": COUPLED},
            lambda w: torch.optim.Adam(w, 0.05, eps=TINY, weight_decay=0.1),
        ),
        (
            {"optimizer": ADAM, "weight_decay": DECOUPLED},
            lambda w: torch.optim.AdamW(w, 0.05, eps=TINY, weight_decay=0.1),
        ),
        ({"optimizer": {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.0}}, lambda w: torch.optim.SGD(w, 0.05)),
        ({"optimizer": {"kind": "sgd", "learning_rate": 0.05}}, lambda w: torch.optim.SGD(w, 0.05, momentum=0.9)),
        (
            {"optimizer": {"kind": "sgd", "learning_rate": 0.05, "nesterov": True}},
            lambda w: torch.optim.SGD(w, 0.05, momentum=0.9, nesterov=True),
        ),
        (
            {"optimizer": {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.8}, "weight_decay": COUPLED},
            lambda w: torch.optim.SGD(w, 0.05, momentum=0.8, weight_decay=0.1),
        ),
    ],
)
def test_optimizer_equals_torch(settings, make):
    assert_same(by_recipe(settings), by_torch(make))


def test_clipping_equals_torch():
    ours = by_recipe({"optimizer": {"kind": "sgd", "learning_rate": 0.05}, "clip_norm": 0.5})
    theirs = by_torch(lambda w: torch.optim.SGD(w, 0.05, momentum=0.9), clip_norm=0.5)
    assert_same(ours, theirs, tolerance=1e-6)  # torch adds 1e-6 to the norm


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_equals_its_formula(centered):
    """Epsilon is under the root (torch adds it to the root), so the formula is written out here."""
    settings = {"kind": "rmsprop", "learning_rate": 0.01, "rho": 0.8, "momentum": 0.5, "centered": centered}
    weights = [torch.nn.Parameter(weight) for weight in first_weights()]
    square, mean, velocity = ([torch.zeros_like(weight) for weight in weights] for _ in range(3))
    for _ in range(STEPS):
        gradients = torch.autograd.grad(target(weights), weights)
        for i, gradient in enumerate(gradients):
            square[i] = 0.8 * square[i] + 0.2 * gradient**2
            mean[i] = 0.8 * mean[i] + 0.2 * gradient
            variance = square[i] - mean[i] ** 2 if centered else square[i]
            velocity[i] = 0.5 * velocity[i] + 0.01 * gradient / (variance + 1e-7).sqrt()
            weights[i].data -= velocity[i]
    assert_same(by_recipe({"optimizer": settings}), weights)


def test_centred_rmsprop_differs_from_the_plain_one():
    plain, centred = (by_recipe({"optimizer": {"kind": "rmsprop", "centered": c}}) for c in (False, True))
    assert not torch.allclose(plain[0], centred[0])


def test_schedule_reaches_the_optimizer():
    """SGD without momentum under a warm-up and a cosine makes the steps that the closed form says."""
    settings = {
        "epochs": 3,
        "optimizer": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.0},
        "schedule": {"kind": "cosine", "warmup_epochs": 1},
    }

    def rate(step):
        return 0.1 * min(1, (step + 1) / 4) * (1 + math.cos(math.pi * max(0, (step - 4) / 8))) / 2

    ours = by_recipe(settings, steps_per_epoch=4)
    assert_same(ours, by_torch(lambda w: torch.optim.SGD(w, 0.1), rate_of_step=rate))


def test_decoupled_decay_follows_the_schedule():
    settings = {
        "epochs": 3,
        "optimizer": ADAM,
        "weight_decay": DECOUPLED,
        "schedule": {"kind": "step", "milestones": [1, 2], "factor": 0.5},
    }
    ours = by_recipe(settings, steps_per_epoch=4)
    theirs = by_torch(
        lambda w: torch.optim.AdamW(w, 0.05, eps=TINY, weight_decay=0.1),
        rate_of_step=lambda step: 0.05 * 0.5 ** (step // 4),
    )
    assert_same(ours, theirs)


RATES = {"*": 3.0, "matrix": 0.1}  # of several patterns the last one counts


def groups(weights):
    """The same rates as groups of torch."""
    return [{"params": weights[:1], "lr": 0.05 * 0.1}, {"params": weights[1:], "lr": 0.05 * 3}]


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"optimizer": ADAM}, lambda w: torch.optim.Adam(groups(w), eps=TINY)),
        (
            {"optimizer": ADAM, "weight_decay": COUPLED},
            lambda w: torch.optim.Adam(groups(w), eps=TINY, weight_decay=0.1),
        ),
        (
            {"optimizer": ADAM, "weight_decay": DECOUPLED},
            lambda w: torch.optim.AdamW(groups(w), eps=TINY, weight_decay=0.1),
        ),
        (
            {"optimizer": {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True}},
            lambda w: torch.optim.SGD(groups(w), momentum=0.9, nesterov=True),
        ),
    ],
)
def test_nodes_have_their_own_learning_rates(settings, make):
    assert_same(by_recipe({**settings, "learning_rates": RATES}), by_torch(make))


@pytest.mark.parametrize("kind", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize(
    "parts",
    [
        {"weight_decay": DECOUPLED, "ema": {"momentum": 0.9}, "schedule": {"kind": "cosine", "warmup_epochs": 1}},
        {"weight_decay": COUPLED, "ema": {"momentum": 0.9}, "accumulate": 2},
    ],
    ids=["decoupled", "coupled"],
)
def test_a_node_is_trained_as_if_it_were_alone_with_its_rate(kind, parts):
    """All that an optimizer keeps is the same, to the bit."""
    momentum = {} if kind == "adam" else {"momentum": 0.9}
    whole = {"epochs": 3, "optimizer": {"kind": kind, "learning_rate": 0.05, **momentum}, **parts}
    half = {**whole, "optimizer": {**whole["optimizer"], "learning_rate": 0.025}}

    def trained(settings, *places):
        weights = [keras.Variable(first_weights()[place]) for place in places]
        names = dict(zip(("matrix", "vector")[places[0] :], weights, strict=False))
        optimizer = make_optimizer(TrainSettings.model_validate(settings), 4, of_nodes(**names))
        generator = torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            gradients = [torch.randn(w.shape, generator=generator).double() for w in first_weights()]
            optimizer.apply([gradients[place] for place in places], weights)
        return [weight.value.detach() for weight in (*weights, *optimizer.variables) if weight.shape]

    both = trained({**whole, "learning_rates": {"matrix": 0.5}}, 0, 1)
    matrix, vector = trained(half, 0), trained(whole, 1)
    for shape, expected in ((4, 3), matrix), ((3,), vector):
        found = [each for each in both if each.shape == shape]
        assert len(found) == len(expected) > 1
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_weights_without_gradient_do_not_decay():
    optimizer = make_optimizer(TrainSettings.model_validate({"weight_decay": COUPLED}), 1)
    used, unused = keras.Variable([2.0]), keras.Variable([2.0])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([torch.ones(1, dtype=torch.float64), None], [used, unused])
    assert unused.value.item() == 2.0
    assert used.value.item() < 2.0


@pytest.mark.parametrize("kind", ["adam", "sgd", "rmsprop"])
def test_updates_stay_fused(kind):
    """Keras updates all weights in one call only in its exact classes."""
    settings = TrainSettings.model_validate({"optimizer": {"kind": kind}, "weight_decay": COUPLED})
    optimizer = make_optimizer(settings, 1)
    assert isinstance(optimizer, CoupledWeightDecay)
    assert hasattr(optimizer.inner_optimizer, "_parallel_update_step")


def test_recipe_can_be_saved(tmp_path):
    """A model compiled with every part of a recipe goes on after a round trip through a file as if it had none."""
    settings = TrainSettings.model_validate(
        {"optimizer": ADAM, "weight_decay": COUPLED, "clip_norm": 1.0, "schedule": {"kind": "one_cycle"}, "epochs": 2}
    )
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(make_optimizer(settings, steps_per_epoch=4), loss="mse")
    x, y = torch.ones(8, 3, dtype=torch.float64), torch.ones(8, 2, dtype=torch.float64)
    model.fit(x, y, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.rate == 0.1
    assert int(again.optimizer.iterations) == 2
    for each in (model, again):
        each.fit(x, y, batch_size=4, verbose=0, shuffle=False)
    torch.testing.assert_close(again.layers[0].kernel.value, model.layers[0].kernel.value, rtol=0, atol=0)
