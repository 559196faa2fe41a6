"""`encapkeras bench peers`: plain torch networks compute what ours do, outputs, losses and gradients."""

import json

import pytest
import torch

from encapkeras.benchmarks import peer_methods, peers
from encapkeras.benchmarks.network import make_network
from encapkeras.benchmarks.peer_methods import BROADCAST, EM, METHODS, OURS, PRODUCTS, Contest, copy_capsnet, copy_em
from encapkeras.benchmarks.routing_sizes import PEERS
from encapkeras.cli.main import main
from encapkeras.functional import EmOptions
from encapkeras.reference.peers import (
    CapsNet,
    EmNet,
    dynamic_by_broadcasting,
    dynamic_by_products,
    em_by_broadcasting,
    em_by_products,
)


def em_with_options(*arguments):
    return em_by_products(*arguments, options=EmOptions())


def test_every_method_has_batch_sizes():
    assert list(METHODS) == list(PEERS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", ["layer", "step"])
def test_a_report(method, part):
    report = peers.measure(method, part, batch_size=2, rounds=1, steps=1, device="cpu")
    times = report["milliseconds"]
    assert set(times) == set(report["spread"]) == {OURS, PRODUCTS, BROADCAST}
    assert report["times_as_fast_as_best_peer"] == min(times[PRODUCTS], times[BROADCAST]) / times[OURS]
    assert 0 <= report["largest_difference_of_outputs"] < 1e-4
    assert "times as fast as the best other" in peers.as_table(report)


@pytest.mark.parametrize("route", [dynamic_by_products, dynamic_by_broadcasting])
def test_capsnet_is_ours(route):
    network = make_network("capsnet_sabour", 2, "cpu", ["vars.filters=8", "vars.types=2"])
    module = CapsNet(route, filters=8, types=2)
    copy_capsnet(network, module)
    model = network.model
    weights = {
        "conv": (model.get_layer("conv").kernel, lambda: module.conv.weight.grad.permute(2, 3, 1, 0)),
        "digits": (model.get_layer("digits").kernel, lambda: module.weight.grad),
    }
    check_loss_and_gradients(network, module, weights)


@pytest.mark.parametrize("route", [em_with_options, em_by_broadcasting])
def test_em_network_is_ours(route):
    network = make_network(EM, 2, "cpu")
    classes = network.model.get_layer("classes")
    classes.beta_a.assign([-20.0, 10.0] * 5)  # so that no activation is almost 0
    module = EmNet(route)
    copy_em(network, module)
    weights = {
        "conv": (network.model.get_layer("conv").kernel, lambda: module.conv.weight.grad.permute(2, 3, 1, 0)),
        "classes": (classes.kernel, lambda: module.weight.grad.view(classes.kernel.shape)),
        "beta_v": (classes.beta_v, lambda: module.beta_v.grad),
    }
    check_loss_and_gradients(network, module, weights)


def check_loss_and_gradients(network, module, weights):
    model, images, labels = network.model, network.images, network.labels
    targets = torch.nn.functional.one_hot(labels, 10).float()
    plain = module.loss(images.permute(0, 3, 1, 2), targets)
    plain.backward()
    model.zero_grad()
    ours = model.compute_loss(images, labels, model(images, training=True))
    ours.backward()
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    for name, (weight, expected) in weights.items():
        gradient, scale = weight.value.grad, expected().abs().max()
        assert scale > 0, name
        assert float((gradient - expected()).abs().max() / scale) < 1e-4, name


def test_different_results_are_not_compared(monkeypatch, capsys):
    contest = Contest("routing", {}, difference=2e-4)
    method = peer_methods.Method(lambda batch, device: contest, METHODS["em"].step)
    monkeypatch.setitem(peers.METHODS, "em", method)
    assert main("bench peers --method em --part layer".split()) == 2
    assert "em, routing: with the same weights, outputs differ by 2.0e-04" in capsys.readouterr().err


def test_as_json(capsys):
    assert main("bench peers --method em --part layer --batch-size 2 3 --rounds 1 --json".split()) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [(report["method"], report["part"], report["batch_size"]) for report in reports] == [
        ("em", "layer", 2),
        ("em", "layer", 3),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch-size 2 0", "--batch-size must be at least 1; received 0"),
        ("--rounds 0", "--rounds must be at least 1; received 0"),
        ("--steps 0", "--steps must be at least 1; received 0"),
        ("--method capsnets", "invalid choice: 'capsnets'"),
    ],
)
def test_impossible_options(words, message, capsys):
    assert main(["bench", "peers", *words.split()]) == 2
    assert message in capsys.readouterr().err
