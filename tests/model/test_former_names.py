"""Deprecated names of layers are still read: in specs, in saved models, in Python."""

from pathlib import Path

import pytest
import torch

import encapkeras
from encapkeras.errors import RegistrationError
from encapkeras.registry import Registry

SAVED = Path(__file__).parent / "saved"  # by version 0.1, with the layer's former name

SPEC = {
    "model": {
        "inputs": {"image": [4, 4, 1]},
        "nodes": {
            "normal": {"layer": "normalise", "inputs": "image", "mean": 0.25, "deviation": 0.5},
            "flat": {"layer": "keras.Flatten", "inputs": "normal"},
        },
        "outputs": {"classes": "flat"},
    }
}


@pytest.mark.parametrize("file", ["normalise_layer.keras", "normalise_spec.keras"])
def test_a_saved_model_with_the_former_name_loads(file):
    model = encapkeras.load_model(SAVED / file)
    image = torch.rand(2, 4, 4, 1)
    assert torch.equal(model(image).flatten(), ((image - 0.25) / 0.5).flatten())
    assert isinstance(model.get_layer("normal"), encapkeras.layers.Normalize)


def test_a_spec_with_the_former_name_is_read_with_a_warning():
    spec = encapkeras.check_spec(SPEC)
    (warning,) = spec.warnings
    assert warning.path == "model.nodes.normal.layer"
    assert warning.message == "'normalise' is now called 'normalize'. Write 'normalize'."
    assert spec.resolved["model"]["nodes"]["normal"]["layer"] == "normalize"
    assert not encapkeras.check_spec(spec.resolved).warnings


def test_defaults_with_the_former_name_count_for_the_new_one():
    nodes = {**SPEC["model"]["nodes"], "normal": {"layer": "normalize", "inputs": "image", "deviation": 0.5}}
    spec = encapkeras.check_spec(
        {"model": {**SPEC["model"], "nodes": nodes, "defaults": {"normalise": {"mean": 0.25}}}}
    )
    assert spec.resolved["model"]["nodes"]["normal"]["mean"] == 0.25
    assert [warning.path for warning in spec.warnings] == ["model.defaults.normalise"]


def test_the_former_class_name_is_deprecated():
    with pytest.warns(DeprecationWarning, match="is now called Normalize"):
        assert encapkeras.layers.Normalise is encapkeras.layers.Normalize
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        encapkeras.layers.Nothing  # noqa: B018


def test_a_registry_knows_former_names_and_lists_new_ones():
    registry = Registry("thing")

    @registry.register("new", formerly=["old"])
    def make():
        """Make it."""

    assert registry["old"] is registry["new"]
    assert "old" in registry
    assert list(registry) == ["new"]
    with pytest.raises(RegistrationError, match="thing 'old' is already registered"):
        registry.register("old")(make)
    registry.forget(["new"])
    assert "old" not in registry
