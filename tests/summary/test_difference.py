"""What changes from one network to another."""

import pytest

from encapkeras.model.examine import examine_spec
from encapkeras.summary.difference import difference, side_of

DENSE = {"layer": "keras.Dense", "inputs": "flat", "units": 3}
BASE = {
    "spec": "encapkeras/1",
    "name": "base",
    "model": {
        "inputs": {"image": [4, 4, 1]},
        "nodes": {"flat": {"layer": "keras.Flatten", "inputs": "image"}, "scores": DENSE},
        "outputs": {"classes": "scores"},
    },
    "losses": {"classes": {"loss": "margin"}},
}


def changed(other, *overrides, batch_size=2):
    sides = [side_of(examine_spec(spec, given), batch_size, "cpu") for spec, given in ((BASE, ()), (other, overrides))]
    return difference(*sides)


def test_a_network_and_itself():
    found = changed(BASE)
    assert found.empty
    assert {name: before == after for name, (before, after) in found.totals.items()} == {
        "parameters": True,
        "multiply_adds": True,
        "memory_bytes": True,
    }


def test_arguments_and_what_follows_from_them():
    found = changed(BASE, "model.nodes.scores.units=5")
    assert found.changed == {
        "scores": {
            "units": (3, 5),
            "output_shape": ([3], [5]),
            "weights": (51, 85),
            "multiply_adds": (48, 80),
            "memory_bytes": (2 * 3 * 4, 2 * 5 * 4),
        }
    }
    assert found.totals["parameters"] == (51, 85)
    assert found.totals["multiply_adds"] == (48, 80)
    before, after = found.totals["memory_bytes"]
    assert after - before == 2 * 2 * 4 + (85 - 51) * 4 * 4  # what it makes; weights, gradients and two moments


def test_new_and_missing_nodes():
    nodes = {
        "flat": BASE["model"]["nodes"]["flat"],
        "hidden": DENSE,
        "relu": {"layer": "keras.ReLU", "inputs": "hidden"},
    }
    other = {**BASE, "model": {**BASE["model"], "nodes": nodes, "outputs": {"classes": "relu"}}}
    found = changed(other)
    assert (found.added, found.removed, found.changed) == (["hidden", "relu"], ["scores"], {})
    assert found.settings == {"model.outputs.classes": ("scores", "relu")}


@pytest.mark.parametrize(
    ("path", "value", "change"),
    [
        ("train.epochs", "7", ("train.epochs", (10, 7))),
        ("train.optimizer.learning_rate", "0.5", ("train.optimizer.learning_rate", (0.001, 0.5))),
        ("losses.classes.weight", "2", ("losses.classes.weight", (1.0, 2.0))),
    ],
)
def test_settings(path, value, change):
    other = {**BASE, "train": {"epochs": 10, "optimizer": {"kind": "adam"}}}
    before = side_of(examine_spec(other), 2, "cpu")
    after = side_of(examine_spec(other, [f"{path}={value}"]), 2, "cpu")
    found = difference(before, after)
    assert dict([change]) == dict(found.settings)
    assert not (found.changed or found.added or found.removed)


def test_wiring_layers_and_frozen_weights():
    hidden = {**DENSE, "activation": "relu"}
    nodes = {**BASE["model"]["nodes"], "scores": {**DENSE, "inputs": "hidden"}, "hidden": hidden}
    other = {**BASE, "model": {**BASE["model"], "nodes": nodes}}
    assert changed(other).changed["scores"]["inputs"] == ("flat", "hidden")
    frozen = changed(BASE, "model.nodes.scores.trainable=false").changed["scores"]
    assert frozen["trainable"] == (None, False)
    assert (frozen["weights"], frozen["fixed_weights"]) == ((51, 0), (0, 51))


def test_a_map_in_place_of_a_number_is_one_change():
    decoded = {"loss": "reconstruction", **RECONSTRUCTION, "weight": 20}
    other = {**BASE, "losses": {**BASE["losses"], "short": decoded}, "model": CAPSULES}
    ramp = {"from": 0, "to": 20, "epochs": 5}
    sides = [side_of(examine_spec(other, given), 2, "cpu") for given in ((), [f"losses.short.weight={ramp}"])]
    assert difference(*sides).settings == {"losses.short.weight": (20, ramp)}
    later = side_of(examine_spec(other, [f"losses.short.weight={ {**ramp, 'epochs': 7} }"]), 2, "cpu")
    assert difference(sides[1], later).settings == {"losses.short.weight.epochs": (5, 7)}


def test_remarks_and_names_are_no_difference():
    assert changed({**BASE, "name": "other"}, "model.nodes.flat.doc=in a row", "model.nodes.scores.expect=[3]").empty


def test_side_losses_are_among_nodes_and_settings():
    found = changed(
        {**BASE, "losses": {**BASE["losses"], "short": {"loss": "reconstruction", **RECONSTRUCTION}}, "model": CAPSULES}
    )
    assert "losses.short" in found.added
    assert found.settings["losses.short.hidden"] == (None, [2])


CAPSULES = {
    "inputs": {"image": [4, 4, 4]},
    "nodes": {
        "capsules": {"layer": "image_to_capsules", "inputs": "image", "types": 2},
        "digits": {"layer": "capsule_dense", "inputs": "capsules", "capsules": 3, "dim": 2},
        "scores": {"layer": "capsule_length", "inputs": "digits"},
    },
    "outputs": {"classes": "scores"},
}
RECONSTRUCTION = {"capsules": "digits", "image": "image", "hidden": [2]}
