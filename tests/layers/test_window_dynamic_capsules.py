"""Dynamic routing in windows as a layer: numbers of the authors' code, its start, and what it refuses."""

import pytest
import torch
from golden import check, routing_layers
from support.given_weights import called, golden_files

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import squash
from encapkeras.layers import WindowDynamicCapsules


def through_layer(capsules, weight, **options):
    layer = WindowDynamicCapsules(weight.shape[3], weight.shape[4], kernel_size=list(weight.shape[:2]), **options)
    return called(layer, capsules, {"kernel": weight})


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("path", golden_files("srdr_"), ids=lambda path: path.stem)
def test_the_layer_equals_the_original(path, monkeypatch):
    monkeypatch.setattr(routing_layers, "window_dynamic_routing", through_layer)
    assert check.check_layer(path).holds


@pytest.mark.parametrize("competition", ["position", "child"])
@pytest.mark.parametrize(("pose", "dim"), [("vector", 9), ("matrix", 8)])
def test_sums_of_votes_start_as_long_as_the_children(competition, pose, dim):
    torch.manual_seed(0)
    layer = WindowDynamicCapsules(8, dim, kernel_size=3, padding=1, iterations=1, competition=competition, pose=pose)
    capsules = torch.nn.functional.normalize(torch.randn(4, 12, 12, 16, 16), dim=-1) / 2
    length = layer(capsules)[:, 1:-1, 1:-1].norm(dim=-1).mean().item()
    assert length == pytest.approx(squash(torch.tensor([0.5, 0.0])).norm().item(), rel=0.15)


def test_no_iteration_is_one_without_routing():
    capsules = torch.rand(2, 5, 4, 3, 4)
    none, one, uniform = (WindowDynamicCapsules(5, 3, kernel_size=2, iterations=count) for count in (0, 1, 3))
    for layer in (none, one, uniform):
        layer.build(capsules.shape)
        layer.set_weights(none.get_weights())
    assert torch.equal(none(capsules), one(capsules))
    assert not torch.allclose(one(capsules), uniform(capsules))


@pytest.mark.parametrize("matrices", ["offset", "type", "all"])
@pytest.mark.parametrize("competition", ["position", "child"])
def test_uniform_coefficients_are_sums_with_a_bias(matrices, competition):
    options = {"kernel_size": 2, "matrices": matrices, "competition": competition, "use_output_bias": True}
    layer = WindowDynamicCapsules(5, 3, routing="uniform", output_bias_initializer="ones", **options)
    capsules = torch.rand(2, 4, 3, 2, 4)
    out = layer(capsules)
    kernel = layer.kernel.value.expand(2, 2, 2, -1, -1, -1)
    windows = capsules.unfold(1, 2, 1).unfold(2, 2, 1)  # of the children's windows
    if competition == "child":
        holding = torch.tensor([1, 2, 2, 1])[:, None] * torch.tensor([1, 2, 1])
        windows = windows / holding.unfold(0, 2, 1).unfold(1, 2, 1)[None, :, :, None, None]
    sums = torch.einsum("bpqndyx,yxnjed->bpqje", windows, kernel) / 5
    torch.testing.assert_close(out, squash(sums + 1))


def test_without_a_bias_the_layer_is_odd():
    capsules = torch.randn(2, 4, 3, 2, 4)
    for biased in (False, True):
        layer = WindowDynamicCapsules(5, 3, use_output_bias=biased, output_bias_initializer="ones")
        assert torch.allclose(layer(-capsules), -layer(capsules), atol=1e-6) != biased


def test_a_window_as_large_as_the_map_gives_a_list():
    layer = WindowDynamicCapsules(5, 3, kernel_size=[4, 6])
    whole = WindowDynamicCapsules(5, 3)
    capsules = torch.rand(2, 4, 6, 3, 4)
    layer.build(capsules.shape)
    whole.build(capsules.shape)
    whole.set_weights(layer.get_weights())
    assert torch.equal(whole(capsules), layer(capsules)[:, 0, 0])


def test_what_does_not_fit_is_refused_with_its_shape():
    for arguments, message in [
        ({"iterations": -1}, "iterations: must be greater than or equal to 0; received -1"),
        ({"competition": "all"}, "competition: must be 'position' or 'child'; received 'all'"),
        ({"competition": "child", "matrices": "position", "kernel_size": 3}, "with competition 'position' alone"),
        ({"strides": 2}, "kernel_size null is a window as large as the map"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            WindowDynamicCapsules(5, 4, **arguments)
    for layer, shape, message in [
        (WindowDynamicCapsules(5, 4, kernel_size=4), (2, 3, 6, 2, 4), "a window of 4 x 4 does not fit a map of 3 x 6"),
        (WindowDynamicCapsules(5, 4, pose="matrix"), (2, 3, 6, 2, 6), "received capsules of dimension 6"),
        (WindowDynamicCapsules(5, 4), (2, 8), r"received shape \(2, 8\)"),
    ]:
        with pytest.raises(ShapeError, match=message):
            layer(torch.rand(shape))
    with pytest.raises(ShapeError, match=r"takes capsules, and no activations; received \[\(2, 3, 6, 2, 4\)"):
        WindowDynamicCapsules(5, 4)([torch.rand(2, 3, 6, 2, 4), torch.rand(2, 3, 6, 2)])
