"""Explanations of single images: the flow of agreement, against parts computed by hand, and gradient times input."""

import keras
import numpy as np
import pytest
import torch

from encapkeras import build_model, explain
from encapkeras.analysis import Explainer, plot_explanation
from encapkeras.errors import ArgumentError
from encapkeras.functional import squash

ROUTINGS = ("dynamic", "em", "self", "variational_bayes", "attention", "self_attention", "heinsen_2019", "heinsen_2022")
IMAGES = torch.rand(3, 32, 32, 1, generator=torch.Generator().manual_seed(0))


def network(nodes, output="lengths", data=None):
    """A network on gray images of 32 x 32, whose capsules are laid out on a map of 4 x 4 by a convolution."""
    keras.utils.set_random_seed(0)
    stem = {
        "pooled": {"layer": "keras.AveragePooling2D", "inputs": "image", "pool_size": 8},
        "channels": {"layer": "keras.Conv2D", "inputs": "pooled", "filters": 8, "kernel_size": 1},
        "poses": {"layer": "image_to_capsules", "inputs": "channels", "types": 2},
    }
    return build_model(
        {
            "spec": "encapkeras/1",
            "name": "explained",
            "data": {"dataset": "digits", **(data or {})},
            "model": {"nodes": {**stem, **nodes}, "outputs": {"classes": output}},
            "losses": {"classes": {"loss": "margin"}},
        }
    )


LENGTHS = {"lengths": {"layer": "capsule_length", "inputs": "digits"}}


def dynamic(inputs="poses", **options):
    return {"digits": {"layer": "dynamic_capsules", "inputs": inputs, "capsules": "$classes", "dim": 5, **options}}


def windows(layer, inputs, **options):
    return {"layer": layer, "inputs": inputs, "dim": 4, **options}


def values(model, *names):
    made = keras.Model(model.inputs, {name: model.port(name) for name in names})(IMAGES, training=False)
    return [made[name].detach().double() for name in names]


def parts(agreement_BIJ):
    positive = agreement_BIJ.clamp_min(0)
    return positive / positive.sum(1, keepdim=True)


def agreements(share_BIJ, vote_BIJE, parent_BJE):
    direction = parent_BJE / parent_BJE.norm(dim=2, keepdim=True)
    return share_BIJ * torch.einsum("bije,bje->bij", vote_BIJE, direction)


@pytest.mark.parametrize("softmax_over", ["inputs", "outputs"])
def test_one_layer_of_dynamic_routing_is_as_by_hand(softmax_over):
    model = network({**dynamic(iterations=3, softmax_over=softmax_over), **LENGTHS})
    layer = model.get_layer("digits")
    (poses,) = values(model, "poses")
    kernel, bias = (weight.value.detach().double() for weight in (layer.kernel, layer.bias))
    vote = torch.einsum("bhwnd,njed->bhwnje", poses, kernel) + bias
    vote_BIJE = vote.flatten(1, 3)
    axis = 1 if softmax_over == "inputs" else 2
    logit_BIJ = torch.zeros(vote_BIJE.shape[:3], dtype=torch.float64)
    for _ in range(3):
        share_BIJ = logit_BIJ.softmax(axis)
        parent_BJE = squash(torch.einsum("bij,bije->bje", share_BIJ, vote_BIJE))
        logit_BIJ = logit_BIJ + torch.einsum("bije,bje->bij", vote_BIJE, parent_BJE)
    expected = parts(agreements(share_BIJ, vote_BIJE, parent_BJE)).mT.unflatten(2, (4, 4, 2)).sum(4)
    found = explain(model, IMAGES, list("0123456789"))
    assert (found.method, found.layers, list(found.flows)) == ("flow", ("digits",), ["channels"])
    torch.testing.assert_close(found.flows["channels"].double(), expected, rtol=1e-4, atol=1e-6)


def test_known_coefficients_give_known_flows():
    """Equal coefficients and one-dimensional votes: a capsule's part is its share of what is above 0."""
    model = network({**dynamic(iterations=1, dim=4, use_bias=False), **LENGTHS})
    convolution, routing = model.get_layer("channels"), model.get_layer("digits")
    convolution.set_weights([np.eye(1, 8, dtype="float32")[None, None], np.zeros(8, "float32")])
    routing.set_weights([np.tile(np.eye(4, dtype="float32"), (2, 10, 1, 1))])
    found = explain(model, IMAGES, ["7"])
    pooled = torch.nn.functional.avg_pool2d(IMAGES[..., 0], 8)
    torch.testing.assert_close(found.flows["channels"][:, 0], pooled / pooled.sum((1, 2), keepdim=True))


def test_two_layers_in_windows_are_the_product_of_both():
    hidden = windows("window_dynamic_capsules", "poses", capsules=3, kernel_size=3, strides=1, padding=1, iterations=1)
    digits = windows("window_dynamic_capsules", "hidden", capsules="$classes", iterations=1)
    model = network({"hidden": hidden, "digits": digits, **LENGTHS})
    poses, parents, classes = values(model, "poses", "hidden", "digits")
    kernel = model.get_layer("hidden").kernel.value.detach().double()
    to_class = model.get_layer("digits").kernel.value.detach().double()
    vote_BIJE = torch.einsum("bhwnd,hwnjed->bhwnje", parents, to_class).flatten(1, 3)
    flow_BKI = parts(agreements(torch.ones(vote_BIJE.shape[:3]), vote_BIJE, classes)).mT
    flow_BKHWN = flow_BKI.unflatten(2, (4, 4, 3))
    expected = torch.zeros(3, 10, 4, 4, dtype=torch.float64)
    for row in range(4):
        for column in range(4):
            inside = [
                (y, x, y - row + 1, x - column + 1)
                for y in range(max(0, row - 1), min(4, row + 2))
                for x in range(max(0, column - 1), min(4, column + 2))
            ]
            votes = [torch.einsum("bnd,njed->bnje", poses[:, y, x], kernel[v, u]) for y, x, v, u in inside]
            vote = torch.stack(votes, 1).flatten(1, 2)
            part = parts(agreements(torch.ones(vote.shape[:3]), vote, parents[:, row, column]))
            given = torch.einsum("bij,bkj->bki", part, flow_BKHWN[:, :, row, column]).unflatten(2, (-1, 2)).sum(3)
            for number, (y, x, _, _) in enumerate(inside):
                expected[:, :, y, x] += given[:, :, number]
    found = explain(model, IMAGES, list("0123456789"))
    assert found.layers == ("digits", "hidden")
    torch.testing.assert_close(found.flows["channels"].double(), expected, rtol=1e-4, atol=1e-6)


def test_children_count_by_their_activations_where_they_have_them():
    """In the first iteration of EM all `R_ij` are equal."""
    activations = {"layer": "keras.Conv2D", "inputs": "pooled", "filters": 2, "kernel_size": 1, "activation": "sigmoid"}
    digits = {"layer": "em_capsules", "inputs": ["poses", "activations"], "capsules": "$classes", "dim": 4}
    model = network({"activations": activations, "digits": {**digits, "iterations": 1}}, "digits/activations")
    (active,) = values(model, "activations")
    by_place = active.sum(3)
    expected = (by_place / by_place.sum((1, 2), keepdim=True)).float()
    found = explain(model, IMAGES, ["0", "9"])
    torch.testing.assert_close(found.flows["channels"], expected[:, None].expand(-1, 2, -1, -1))


def test_the_credit_of_heinsen_2022_weighs_the_votes():
    """Of a layer whose outputs are single numbers, the sum of credit times vote."""
    digits = {"layer": "heinsen_2022_capsules", "inputs": "poses", "capsules": "$classes", "dim": 1}
    model = network({"digits": digits, "scores": {"layer": "keras.Flatten", "inputs": "digits"}}, "scores")
    layer = model.get_layer("digits")
    keras.utils.set_random_seed(1)
    for weight in layer.weights:
        weight.assign(keras.random.normal(weight.shape, stddev=0.5))
    poses, credit, out = values(model, "poses", "digits/credit", "digits")
    record = layer.routing_record().weights[0]
    listed = poses.permute(0, 3, 1, 2, 4).flatten(1, 3) / 32**0.5
    vote = (listed.unsqueeze(2) * record.vote_input_scale.double()) @ record.vote_weight.double()
    amount_BIJ = credit * (vote + record.vote_bias.double())[..., 0]
    torch.testing.assert_close(amount_BIJ.sum(1), out[..., 0], rtol=1e-3, atol=1e-4)
    expected = parts(amount_BIJ).mT.unflatten(2, (2, 4, 4)).sum(2)
    found = explain(model, IMAGES, list("0123456789"))
    torch.testing.assert_close(found.flows["channels"].double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_flow_of_every_class_is_at_least_0_and_sums_to_1(routing):
    keras.utils.set_random_seed(0)
    model = build_model(f"routing_{routing}")
    images = IMAGES[:, 2:30, 2:30]
    found = explain(model, images, ["3", "8"])
    assert (found.method, list(found.flows)) == ("flow", ["poses"])
    assert len(found.layers) == (1 if routing in ("attention", "heinsen_2019") else 2)
    ones = torch.ones(3, 2)
    torch.testing.assert_close(found.flows["poses"].sum((2, 3)), ones)
    torch.testing.assert_close(found.maps.sum((2, 3)), ones)
    assert found.maps.shape == (3, 2, 28, 28) and (found.maps >= 0).all()
    if routing not in ("self", "variational_bayes"):  # whose coefficients are still equal without training
        assert (found.flows["poses"][:, 0] - found.flows["poses"][:, 1]).abs().max() > 1e-6
    alone = explain(model, images[1:2], ["8"], batch_size=1)
    torch.testing.assert_close(alone.maps[0, 0], found.maps[1, 1])


def test_a_map_by_dynamic_routing_is_followed_to_the_positions_below():
    """Of `map_types`, whose parents are numbered type by type."""
    routed = {"layer": "dynamic_capsules", "inputs": "poses", "capsules": 12, "dim": 4, "map_types": 3, "iterations": 1}
    model = network({"routed": routed, **dynamic("routed", iterations=1), **LENGTHS})
    poses, parents, classes = values(model, "poses", "routed", "digits")
    below, above = (model.get_layer(name) for name in ("routed", "digits"))
    upper = torch.einsum("bhwnd,njed->bhwnje", parents, above.kernel.value.double()) + above.bias.value.double()
    flow_BKJ = parts(agreements(torch.ones(3, 12, 10), upper.permute(0, 3, 1, 2, 4, 5).flatten(1, 3), classes)).mT
    lower = torch.einsum("bhwnd,njed->bhwnje", poses, below.kernel.value.double()) + below.bias.value.double()
    listed = parents.permute(0, 3, 1, 2, 4).flatten(1, 3)
    part = parts(agreements(torch.ones(3, 32, 12), lower.flatten(1, 3), listed))
    expected = torch.einsum("bij,bkj->bki", part, flow_BKJ).unflatten(2, (4, 4, 2)).sum(4)
    found = explain(model, IMAGES, list("0123456789"))
    torch.testing.assert_close(found.flows["channels"].double(), expected.detach(), rtol=1e-4, atol=1e-6)


def test_layers_between_that_keep_classes_and_capsules_apart_change_nothing():
    model = network({**dynamic(), **LENGTHS})
    scaled = {"scaled": {"layer": "keras.Rescaling", "inputs": "poses", "scale": 1.0}}
    shares = {"shares": {"layer": "keras.Activation", "inputs": "lengths", "activation": "softmax"}}
    other = network({**scaled, **dynamic("scaled"), **LENGTHS, **shares}, "shares")
    for name in ("channels", "digits"):
        other.get_layer(name).set_weights(model.get_layer(name).get_weights())
    found, expected = (explain(each, IMAGES, ["2", "5"]).flows["channels"] for each in (other, model))
    torch.testing.assert_close(found, expected)


def test_two_branches_end_on_two_maps():
    found = explain(build_model("deepcaps_digits"), IMAGES[:1], ["1"])
    assert {name: flow.shape[2:] for name, flow in found.flows.items()} == {"cell3:sum": (4, 4), "cell4": (2, 2)}
    assert sum(flow.sum() for flow in found.flows.values()).item() == pytest.approx(1)
    assert found.maps.sum().item() == pytest.approx(1)


def test_positions_are_where_their_receptive_fields_are():
    """Two convolutions without padding: position p of the map is around pixel 8 + 2 p of 28, not 28/6 p."""
    nodes = {
        "conv": {"layer": "keras.Conv2D", "inputs": "image", "filters": 4, "kernel_size": 9},
        "capsules": {
            "layer": "primary_capsules",
            "inputs": "conv",
            "types": 2,
            "dim": 4,
            "kernel_size": 9,
            "strides": 2,
        },
    }
    model = network({**nodes, **dynamic("capsules"), **LENGTHS}, data={"image_size": 28})
    explainer = Explainer(model)
    flow = torch.zeros(1, 1, 6, 6)
    flow[..., 1, 4] = 1
    (at,) = (explainer.over_image([flow])[0, 0] == explainer.over_image([flow]).max()).nonzero()
    assert at.tolist() == [10, 16]


def test_gradient_times_input_is_the_gradient_times_the_input():
    nodes = {
        "flat": {"layer": "keras.Flatten", "inputs": "image"},
        "scores": {"layer": "keras.Dense", "inputs": "flat", "units": "$classes", "activation": "tanh"},
    }
    model = network(nodes, "scores")
    kernel, bias = model.get_layer("scores").get_weights()
    flat = IMAGES.flatten(1).numpy()
    outputs = np.tanh(flat @ kernel + bias)
    expected = (1 - outputs**2)[:, :, None] * kernel.T * flat[:, None]
    found = explain(model, IMAGES, list("0123456789"))
    assert (found.method, found.flows, found.layers) == ("gradient_input", {}, ())
    np.testing.assert_allclose(found.maps.flatten(2), expected, rtol=1e-3, atol=1e-6)


def test_the_best_classes_are_explained_unless_others_are_named():
    model = network({**dynamic(), **LENGTHS})
    found = explain(model, (IMAGES * 255).round().byte(), top=2, method="gradient_input")
    scores = model.predict((IMAGES * 255).round() / 255, verbose=0)
    assert found.labels.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :2].tolist()
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :2], rtol=1e-5)
    assert found.names_of(0) == [str(label) for label in found.labels[0].tolist()]


def test_saved_arrays_are_those_of_the_explanation(tmp_path):
    found = explain(network({**dynamic(), **LENGTHS}), IMAGES, ["4"])
    found.save(tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as file:
        assert set(file) == {
            "labels", "scores", "images", "maps", "flow_channels", "method", "kind", "class_names", "layers"
        }  # fmt: skip
        np.testing.assert_array_equal(file["maps"], found.maps)
        np.testing.assert_array_equal(file["flow_channels"], found.flows["channels"])
        assert (str(file["method"]), file["layers"].tolist(), file["labels"].tolist()) == (
            "flow",
            ["digits"],
            [[4]] * 3,
        )


def test_a_picture_has_the_image_and_each_class_on_one_scale():
    found = explain(network({**dynamic(), **LENGTHS}), IMAGES, ["4", "2"])
    *panels, _ = plot_explanation(found, 1, "photo.png").axes
    drawn = [panel for panel in panels if panel.images]
    assert [panel.get_title() for panel in drawn[1:]] == [
        f"{name}: {score:.3f}" for name, score in zip(("4", "2"), found.scores[1].tolist(), strict=True)
    ]
    np.testing.assert_array_equal(drawn[2].images[-1].get_array(), found.maps[1, 1])
    assert {panel.images[-1].get_clim() for panel in drawn[1:]} == {(0, float(found.maps[1].max()))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["ten"]}, "'ten' is not a class of this network. Allowed: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ({"classes": []}, "no class was named. Allowed: 0, 1"),
        ({"top": 0}, "top must be at least 1; received 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; received 0"),
        ({"method": "lime"}, "method must be one of flow, gradient_input; received 'lime'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        explain(network({**dynamic(), **LENGTHS}), IMAGES, **options)


def test_images_of_another_shape():
    model = network({**dynamic(), **LENGTHS})
    with pytest.raises(
        ArgumentError, match=r"the network takes images \(batch, 32, 32, 1\); received \(3, 28, 28, 1\)"
    ):
        explain(model, IMAGES[:, :28, :28])


def test_networks_without_a_flow():
    message = "network 'quickstart' has no routing layer. Method gradient_input explains"
    with pytest.raises(ArgumentError, match=f"^{message}"):
        explain(build_model("quickstart"), IMAGES, method="flow")
    model = network({**dynamic(routing="uniform"), **LENGTHS})
    with pytest.raises(ArgumentError, match="its coefficients are fixed"):
        explain(model, IMAGES, method="flow")
    single = {"one": {"layer": "keras.AveragePooling2D", "inputs": "pooled", "pool_size": 4},
              "listed": {"layer": "image_to_capsules", "inputs": "one", "types": 1}}  # fmt: skip
    model = network({**single, **dynamic("listed"), **LENGTHS})
    with pytest.raises(ArgumentError, match=r"leads to 'one' \(1, 1, 1\), a single position"):
        explain(model, IMAGES, method="flow")
    mixed = {"flat": {"layer": "keras.Flatten", "inputs": "digits"},
             "scores": {"layer": "keras.Dense", "inputs": "flat", "units": "$classes"}}  # fmt: skip
    model = network({**dynamic(), **mixed}, "scores")
    with pytest.raises(ArgumentError, match="do not come from routing, but from 'scores' "):
        explain(model, IMAGES, method="flow")
    found = explain(model, IMAGES)
    assert found.method == "gradient_input" and "do not come from routing" in found.reason


def test_a_network_of_tables_is_refused():
    spec = {"layer": "keras.Dense", "inputs": "image", "units": 3}
    model = keras.Model(inputs := keras.Input((4,)), keras.layers.Dense(spec["units"])(inputs))
    with pytest.raises(ArgumentError, match="was not made from a spec"):
        explain(model, torch.rand(2, 4))
    with pytest.raises(ArgumentError, match=r"only a network with one input \(height, width, channels\)"):
        explain(build_model("sequence_capsules"), torch.rand(2, 4))
