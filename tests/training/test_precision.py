"""Half precision: near float32, with finite gradients and statistics, the same in every command and when resumed."""

import importlib
import json
import signal

import keras
import numpy as np
import pytest
import torch
import yaml
from support.commands import refused
from support.small_networks import SMALL_NETWORKS, named
from support.tiny_spec import tiny_spec, write_spec
from support.training_steps import batch_of, compiled_model

import encapkeras
from encapkeras.cli.main import main
from encapkeras.functional import dynamic_routing, em_routing, transport_divergence
from encapkeras.functional.batch_norm import NormWeights, batch_norm
from encapkeras.interop import export_model
from encapkeras.layers import CapsuleConvolution
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.training import train
from encapkeras.training.optimizer.make_optimizer import make_optimizer


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def dynamic(x, weight):
    return dynamic_routing(x, weight, iterations=3)


def em(x, weight):
    return em_routing(x, weight, None, x.abs().mean(3), torch.rand(10), torch.rand(10))[0]


@pytest.mark.parametrize("routing", [dynamic, em])
def test_routing_under_autocast_is_as_exact_as_without(routing):
    x, weight = random(4, 9, 8, 8).requires_grad_(), random(8, 10, 16, 8, seed=1).requires_grad_()
    torch.manual_seed(0)
    expected = routing(x, weight)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        received = routing(x, weight)
    assert torch.equal(received, expected)
    received.square().sum().backward()
    assert x.grad.isfinite().all() and weight.grad.isfinite().all()


def test_transport_under_autocast_is_as_exact_as_without():
    x, y = random(16, 24).requires_grad_(), random(16, 24, seed=1)
    expected = transport_divergence(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        received = transport_divergence(x, y)
    torch.testing.assert_close(received, expected, rtol=1e-2, atol=0)
    received.backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_approximate_routing_is_near_float32(training):
    keras.utils.set_random_seed(0)
    layer = CapsuleConvolution(types=4, dim=8, kind="approximate")
    capsules = random(8, 6, 6, 4, 8).requires_grad_()
    expected = layer(capsules, training=training)
    with torch.autocast("cpu", torch.bfloat16):
        received = layer(capsules, training=training)
    assert (received - expected).norm() < 1e-2 * expected.norm()
    received.float().square().sum().backward()
    assert capsules.grad.isfinite().all()
    assert all(w.value.grad.isfinite().all() for w in layer.trainable_weights)


@pytest.mark.parametrize("count", [None, torch.tensor(4.0)])
@pytest.mark.parametrize("bias", [None, torch.ones(3)])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_poisoned_map_in_half_precision_leaves_moving_statistics_as_they_are(bias, value, dtype, count):
    count = None if count is None else count.clone()
    weights = NormWeights(torch.ones(3), torch.zeros(3), torch.full((3,), 0.5), torch.full((3,), 2.0), count)
    x = random(4, 3, 5).to(dtype)
    copy = NormWeights(*(None if each is None else each.clone() for each in weights))
    expected = batch_norm(x.float(), copy, training=True, bias=bias)
    torch.testing.assert_close(batch_norm(x, weights, training=True, bias=bias), expected.to(dtype))
    before = [each.clone() for each in weights.moving()]
    assert not torch.equal(before[0], torch.full((3,), 0.5))
    x[1, 2, 3] = value
    batch_norm(x, weights, training=True, bias=bias)
    assert all(torch.equal(after, each) for after, each in zip(weights.moving(), before, strict=True))


def in_bfloat16(**changes):
    return tiny_spec(precision="bfloat16", **changes)


def test_a_network_computes_in_its_precision_and_gives_float32():
    half, full = encapkeras.build_model(in_bfloat16()), encapkeras.build_model(tiny_spec())
    full.set_weights(half.get_weights())
    images = random(8, 32, 32, 1) + 0.5
    for training in (False, True):
        assert half(images, training=training).dtype == torch.float32
    assert all(weight.dtype == "float32" for weight in half.weights)
    received, expected = half(images), full(images)
    assert not torch.equal(received, expected)
    torch.testing.assert_close(received, expected, rtol=1e-2, atol=1e-3)


def test_a_saved_network_keeps_its_precision(tmp_path):
    model = encapkeras.build_model(in_bfloat16())
    model.save(tmp_path / "model.keras")
    loaded = encapkeras.load_model(tmp_path / "model.keras")
    images = random(8, 32, 32, 1) + 0.5
    assert loaded.precision == "bfloat16"
    assert torch.equal(loaded(images), model(images))


def test_evaluation_and_resumed_runs_have_the_precision_of_the_training(tmp_path, capsys, monkeypatch):
    spec = write_spec(tmp_path, in_bfloat16())
    whole = train(encapkeras.load_spec(spec), tmp_path / "whole")

    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encapkeras.callbacks.MetricsFile, "on_epoch_end", interrupt)
        assert main(["train", str(spec), "--run-dir", str(tmp_path / "run")]) == 130
    assert yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text())["train"]["precision"] == "bfloat16"
    capsys.readouterr()
    changed = main(["train", str(spec), "--resume", str(tmp_path / "run"), "--set", "train.precision=float32"])
    assert changed == 2 and "train.precision" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(whole["test_loss"], abs=1e-7)


def test_float16_on_a_cpu_is_refused_before_there_is_a_folder(tmp_path, capsys):
    spec = write_spec(tmp_path, tiny_spec(precision="float16"))
    message = refused(capsys, "train", spec, "--run-dir", tmp_path / "run", "--device", "cpu")
    assert "train.precision is float16, which needs a GPU" in message and "bfloat16" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("decay", [None, {"kind": "coupled", "rate": 1e-4}])
def test_float16_scales_the_loss_and_leaves_out_what_overflows(decay):
    settings = TrainSettings.model_validate(
        {"precision": "float16", "ema": {}, "clip_norm": 1.0, "weight_decay": decay}
    )
    optimizer = make_optimizer(settings, steps_per_epoch=10)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    weight = keras.Variable([1.0, 2.0])
    optimizer.build([weight])
    scale = float(optimizer.scale_loss(1.0))
    optimizer.apply([torch.tensor([torch.inf, 1.0])], [weight])
    assert np.array_equal(weight.numpy(), [1.0, 2.0])
    assert float(optimizer.scale_loss(1.0)) == scale / 2
    optimizer.apply([torch.tensor([scale, scale])], [weight])
    assert (weight.numpy() < [1.0, 2.0]).all()


@pytest.mark.parametrize("tf32", [True, False, None])
def test_tf32_holds_in_training_measuring_and_prediction_alone(tf32):
    seen = []

    def look(what):
        seen.append((what, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            look(doing)
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            look("going back")
            return gradient

    model = encapkeras.build_model(tiny_spec(epochs=1, tf32=tf32))
    hidden = model.get_layer("hidden")
    call = hidden.call
    hidden.call = lambda *args, **options: Look.apply(call(*args, **options))
    images, labels = random(4, 32, 32, 1) + 0.5, torch.arange(4)
    model.compile("sgd", loss=model.make_losses())
    doing = "training"
    model.fit(images, labels, verbose=0)
    doing = "measuring"
    model.evaluate(images, labels, verbose=0)
    doing = "predicting"
    model.predict(images, verbose=0)
    by_itself = (False, True)  # torch
    flags = by_itself if tf32 is None else (tf32, tf32)
    assert set(seen) == {(what, *flags) for what in ("training", "going back", "measuring", "predicting")}
    look("after")
    assert seen[-1] == ("after", *by_itself)


def test_a_run_in_float16_goes_on_with_its_loss_scale(tmp_path, monkeypatch):
    """On the CPU, where float16 networks are computed in float32, but with their loss scaled."""
    monkeypatch.setattr(importlib.import_module("encapkeras.training.train"), "check_device", lambda *arguments: None)
    decay = {"kind": "coupled", "rate": 1e-4}
    spec = encapkeras.load_spec(tiny_spec(precision="float16", ema={}, weight_decay=decay, clip_norm=1.0))
    apply, scales, interrupted_at = keras.optimizers.LossScaleOptimizer.apply, [], [None]

    def overflowing(self, grads, variables=None):
        scales.append(float(self.scale_loss(1.0)))
        if len(scales) == 5:
            grads = [torch.full_like(gradient, torch.inf) for gradient in grads]
        apply(self, grads, variables)
        if len(scales) == interrupted_at[0]:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(keras.optimizers.LossScaleOptimizer, "apply", overflowing)
    whole = train(spec, tmp_path / "whole")
    assert scales[:6] == [2.0**15] * 5 + [2.0**14]
    interrupted_at[0] = len(scales) // 2 + 2  # in the second epoch
    scales.clear()
    with pytest.raises(KeyboardInterrupt):
        train(spec, tmp_path / "run")
    interrupted_at[0] = None
    resumed = train(spec, tmp_path / "run", resume=True)
    assert resumed["test_loss"] == whole["test_loss"]
    assert scales[-1] == 2.0**14


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_on_a_gpu(tmp_path, precision):
    assert (
        train(encapkeras.load_spec(tiny_spec(precision=precision, epochs=5)), tmp_path / "run")["test_accuracy"] > 0.3
    )


def test_an_unknown_precision_is_a_mistake_of_the_spec():
    with pytest.raises(encapkeras.SpecError, match=r"train\.precision"):
        encapkeras.load_spec(tiny_spec(precision="half"))


def test_a_cpu_measures_what_a_gpu_trained_in_float16():
    half, full = encapkeras.build_model(tiny_spec(precision="float16")), encapkeras.build_model(tiny_spec())
    full.set_weights(half.get_weights())
    images = random(8, 32, 32, 1)
    assert torch.equal(half(images), full(images))


def test_exported_programs_compute_in_float32(tmp_path):
    half, full = encapkeras.build_model(in_bfloat16(tf32=False)), encapkeras.build_model(tiny_spec())
    full.set_weights(half.get_weights())
    export_model(half, tmp_path / "half.pt2", "torch")
    images = random(8, 32, 32, 1)
    program = torch.export.load(tmp_path / "half.pt2").module()
    torch.testing.assert_close(program(images), full(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", **named(SMALL_NETWORKS))
def test_each_network_trains_in_bfloat16_nearly_as_in_float32(name):
    losses = []
    for precision in ("float32", "bfloat16"):
        keras.utils.set_random_seed(0)
        model = compiled_model(name, [*SMALL_NETWORKS[name], f"train.precision={precision}"])
        batch = batch_of(model, "cpu")
        losses.append([float(model.train_step(batch)["loss"]) for _ in range(3)])
    assert np.isfinite(losses).all()
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.slow
def test_digits_trained_in_bfloat16_are_known_as_well_in_float32(tmp_path):
    """Trainings in either differ by chance, about as much as seeds do; the same weights must not."""
    changes = ["vars.types=4", "train.epochs=10", "data.validation=0.5", "train.precision=bfloat16"]
    trained = tmp_path / "run"
    assert train(encapkeras.load_spec("quickstart", changes), trained)["test_accuracy"] > 0.95
    model = encapkeras.load_model(trained / "checkpoints" / "best.keras")
    in_float32 = encapkeras.build_model(encapkeras.load_spec(trained / "spec.yaml", ["train.precision=float32"]))
    in_float32.set_weights(model.get_weights())
    splits = encapkeras.data.load(encapkeras.data.DataSettings(dataset="digits", validation=0.5), seed=0)
    found = []
    for network in (model, in_float32):
        network.compile(loss=network.make_losses(), metrics=["accuracy"])
        found.append(network.evaluate(splits.test, verbose=0, return_dict=True)["accuracy"])
    assert abs(found[0] - found[1]) <= 0.005, found
