"""Heinsen's first routing as a layer: numbers of his code, its ports, and what it refuses."""

import pytest
import torch
from golden import check, routing_layers
from support.given_weights import called, golden_files

import encapkeras
from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.layers import Heinsen2019Capsules

NAMES = {"W": "kernel", "B": "bias", "B_brk": "output_bias", "beta_use": "beta_use", "beta_ign": "beta_ignore"}


def through_layer(meta, arrays):
    weights = {ours: arrays[f"param/{theirs}"] for theirs, ours in NAMES.items() if f"param/{theirs}" in arrays}
    if "output_bias" in weights:
        weights["output_bias"] = weights["output_bias"][0]
    same_number = not meta["fixed_outputs"] and meta["capsules_out"] == meta["capsules_in"]
    layer = Heinsen2019Capsules(
        "inputs" if same_number else meta["capsules_out"],
        meta["rows"] * meta["dim_out"],
        rows=meta["rows"],
        iterations=meta["iterations"],
        density=meta["p_model"],
        variable_inputs=not meta["fixed_inputs"],
        variable_outputs=not meta["fixed_outputs"],
        single_beta=meta["single_beta"],
    )
    ports = called(layer, [arrays["in/mu"].flatten(2), arrays["in/a"]], weights, return_ports=True)
    mean, variance = (ports[name].unflatten(2, (meta["rows"], -1)) for name in ("out", "variances"))
    return {"a": ports["activations"], "mu": mean, "sig2": variance}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("path", golden_files("heinsen1"), ids=lambda path: path.stem)
def test_the_layer_equals_the_original(path, monkeypatch):
    monkeypatch.setitem(routing_layers.METHODS, "heinsen1", through_layer)
    assert check.check_layer(path).holds


def test_a_map_is_listed_by_type_row_and_column():
    layer = Heinsen2019Capsules(3, 6, rows=2)
    capsules, scores = torch.randn(2, 3, 4, 2, 4), torch.randn(2, 3, 4, 2)
    listed = [capsules.permute(0, 3, 1, 2, 4).flatten(1, 3), scores.permute(0, 3, 1, 2).flatten(1)]
    assert torch.equal(layer([capsules, scores]), layer(listed))


def test_it_starts_as_published():
    layer = Heinsen2019Capsules(64, 16, variable_inputs=True)
    ports = layer([torch.randn(2, 500, 16), torch.randn(2, 500)], return_ports=True)
    assert layer.kernel.value.std().item() == pytest.approx(1 / 4, rel=0.1)
    assert not torch.cat([weight.value.flatten() for weight in layer.weights[1:]]).any()
    assert not ports["activations"].any()
    counts = [sum(weight.value.numel() for weight in layer.weights)]
    classes = Heinsen2019Capsules(5, 16)
    classes([ports["out"], ports["activations"]])
    counts.append(sum(weight.value.numel() for weight in classes.weights))
    assert sum(counts) == 13056  # his network for smallNORB


def test_any_number_of_inputs_and_outputs():
    layer = Heinsen2019Capsules("inputs", 4, variable_inputs=True, variable_outputs=True)
    for count in (6, 1, 9):
        ports = layer([torch.randn(2, count, 4), torch.randn(2, count)], return_ports=True)
        assert {name: tuple(port.shape) for name, port in ports.items()} == {
            "out": (2, count, 4),
            "activations": (2, count),
            "variances": (2, count, 4),
        }
    assert layer.compute_output_shape([(None, None, 4), (None, None)]) == (None, None, 4)


def test_an_input_that_is_not_there_changes_nothing():
    layer = Heinsen2019Capsules(3, 4, variable_inputs=True)
    capsules, scores = torch.randn(2, 6, 4), torch.randn(2, 6)
    expected = layer([capsules[:, :5], scores[:, :5]])
    scores[:, 5] = -torch.inf
    torch.testing.assert_close(layer([capsules, scores]), expected)


def test_what_does_not_fit_is_refused_with_its_shape():
    for arguments, message in [
        ({"capsules": "outputs"}, "capsules: must be an integer or 'inputs'; received 'outputs'"),
        ({"capsules": "inputs"}, "with capsules 'inputs', 'variable_outputs' must be true"),
        ({"capsules": "inputs", "variable_outputs": True, "routing": "random"}, "so 'capsules' must be a number"),
        ({"capsules": 3, "density": "laplace"}, "density: must be 'gaussian' or 'skm'"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            Heinsen2019Capsules(**{"dim": 4, **arguments})
    layer = Heinsen2019Capsules(3, 4, name="routed")
    for shapes, message in [
        ([(2, 7, 6), (2, 7)], "routed needs square matrices, or 'rows'; received capsules of dimension 6"),
        ([(2, 7, 9), (2, 7)], "outputs have the inputs' 3 rows, which dim=4 does not fill"),
        ([(2, 7, 4), (2, 6)], r"capsules of shape \(2, 7, 4\) need activations of shape \(2, 7\); received \(2, 6\)"),
        ([(2, 7, 4)], "takes a list of capsules and their activations"),
        ([(2, 3, 7, 4), (2, 3, 7)], r"received shape \(2, 3, 7, 4\)"),
        ([(2, None, 4), (2, None)], "each input has own matrices, so their number must be known"),
    ]:
        with pytest.raises(ShapeError, match=message):
            layer.compute_output_shape(shapes)


def test_a_spec_classifies_by_the_scores():
    nodes = {
        "primary": {"layer": "primary_capsules", "inputs": "image", "types": 2, "dim": 4, "kernel_size": 3},
        "score": {"layer": "capsule_length", "inputs": "primary"},
        "classes": {"layer": "heinsen_2019_capsules", "inputs": ["primary", "score"], "capsules": 3, "dim": 4},
    }
    spec = {"model": {"inputs": {"image": [4, 4, 1]}, "nodes": nodes, "outputs": {"out": "classes/activations"}}}
    assert encapkeras.build_model(spec).output_shape == (None, 3)
