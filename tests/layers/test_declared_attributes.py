"""What a layer class declares is all that the package knows of it, so that a layer of a plugin may declare the same."""

import keras
import pytest
import torch

import encapkeras
from encapkeras.analysis.analyse_routing import analyse_routing
from encapkeras.analysis.classify import Classifier
from encapkeras.errors import RegistrationError
from encapkeras.layers import LAYERS, CapsuleLayer, DynamicCapsules
from encapkeras.summary.cost import node_costs
from encapkeras.summary.diagram import diagram_of


@pytest.fixture
def registered():
    """Registers layers for one test."""
    before = set(LAYERS)
    yield encapkeras.register_layer
    LAYERS.forget(set(LAYERS) - before)


class Doubled(CapsuleLayer):
    """Doubles."""

    squashes = True
    drawn_as = "routing"

    def compute_output_shape(self, shape):
        return shape

    def call(self, capsules: torch.Tensor) -> torch.Tensor:
        return 2 * capsules


def on_capsules():
    nodes = {
        "capsules": {"layer": "image_to_capsules", "inputs": "image", "types": 4},
        "own": {"layer": "own_doubled", "inputs": "capsules"},
    }
    return {"model": {"inputs": {"image": [2, 2, 4]}, "nodes": nodes, "outputs": {"out": "own"}}}


def test_a_plugin_can_declare_that_it_squashes(registered):
    registered("own_doubled")(Doubled)
    (warning,) = encapkeras.check_spec(on_capsules()).warnings
    assert warning.path == "model.nodes.own"
    assert "these capsules have dimension 1" in warning.message


def test_a_plugin_can_declare_its_color(registered):
    registered("own_doubled")(Doubled)
    network = encapkeras.model.examine_spec(on_capsules())
    kinds = {box.title: box.kind for box in diagram_of(network, node_costs(network), 64).boxes}
    assert (kinds["capsules"], kinds["own"]) == ("capsules", "routing")


def test_a_plugin_can_declare_what_its_scores_are(registered):
    @registered("own_scores")
    class Scores(CapsuleLayer):
        """The mean of each type."""

        scores_are = "activation"

        def compute_output_shape(self, shape):
            return (shape[0], shape[3])

        def call(self, capsules: torch.Tensor) -> torch.Tensor:
            return capsules.mean((1, 2, 4))

    made = on_capsules()
    made["model"]["nodes"]["own"]["layer"] = "own_scores"
    assert Classifier(encapkeras.build_model(made)).kind == "activation"


def test_a_layer_that_routes_is_analysed_by_its_declaration():
    class Own(DynamicCapsules):
        """Dynamic routing of the user's own."""

    inputs = keras.Input((2, 2, 3, 4))
    model = keras.Model(inputs, encapkeras.layers.CapsuleLength()(Own(capsules=3, dim=4, name="own")(inputs)))
    assert {m.layer for m in analyse_routing(model, torch.rand(2, 2, 2, 3, 4)).measurements} == {"own"}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("squashes", "yes", "False, True"), ("drawn_as", "red", "'capsules'")],
)
def test_an_attribute_of_another_value_is_refused(name, value, allowed, registered):
    wrong = type("Wrong", (Doubled,), {name: value, "__doc__": "Wrong."})
    with pytest.raises(RegistrationError, match=f"'{name}' of class Wrong must be one of these: .*{allowed}"):
        registered("own_wrong")(wrong)
