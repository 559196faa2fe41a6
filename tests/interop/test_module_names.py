"""Networks whose nodes are called as the modules of a torch code: names, layouts, and what has none."""

import json

import pytest
import torch
from golden.routing_networks import SPECS
from support.connected_spec import without_weights
from support.golden import FOLDER
from support.weights import assert_same, fill, values

from encapkeras import build_model
from encapkeras.errors import CheckpointError
from encapkeras.interop import load_original_state_dict, original_state_dict

POOLED = {"layer": "keras.GlobalAveragePooling2D", "inputs": "layers.0"}
SCORES = {"layer": "keras.Dense", "inputs": "flat", "units": 3}


def spec(nodes, last="fc"):
    return {
        "spec": "encapkeras/1",
        "name": "named",
        "model": {"inputs": {"image": [6, 4, 2]}, "nodes": nodes, "outputs": {"classes": last}},
    }


def convolution(name):
    return {name: {"layer": "conv_bn_relu", "inputs": "image", "filters": 5}}


def routed(**arguments):
    """Self-routing of the channels of an image."""
    nodes = {
        "conv1": {"layer": "keras.Conv2D", "inputs": "image", "filters": 8, "kernel_size": 3},
        "poses": {"layer": "image_to_capsules", "inputs": "conv1", "types": 2},
        "lengths": {"layer": "capsule_length", "inputs": "poses"},
        "fc": {"layer": "self_routing_capsules", "inputs": ["poses", "lengths"], "capsules": 3, **arguments},
    }
    return spec(nodes)


def torch_shapes(name):
    expected = json.loads((FOLDER / "routings_a" / "networks" / f"{name}.json").read_text())["state_dict"]
    return {key: shape for key, shape in expected.items() if not key.startswith("norm_layers") or "dr" not in name}


@pytest.mark.parametrize("name", SPECS)
def test_names_and_shapes_are_the_authors(name):
    state_dict = original_state_dict(without_weights(SPECS[name]))
    assert {key: list(tensor.shape) for key, tensor in state_dict.items()} == torch_shapes(name)


def test_a_list_of_modules_and_a_flattened_map_compute_the_same_in_torch():
    nodes = {**convolution("layers.0"), "flat": {"layer": "keras.Flatten", "inputs": "layers.0"}, "fc": SCORES}
    model, other = build_model(spec(nodes)), build_model(spec(nodes))
    fill(model)
    network = torch.nn.Module()
    network.layers = torch.nn.Sequential(torch.nn.Conv2d(2, 5, 3, padding=1), torch.nn.BatchNorm2d(5), torch.nn.ReLU())
    network.fc = torch.nn.Linear(5 * 6 * 4, 3)
    network.eval().load_state_dict(original_state_dict(model))
    images = torch.rand(2, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.fc(network.layers(images).flatten(1))
        assert torch.allclose(model(images.permute(0, 2, 3, 1), training=False), expected, rtol=1e-5)
    load_original_state_dict(other, network.state_dict())
    assert_same(other, values(model))


def test_a_checkpoint_with_the_names_of_nodes_is_read_where_the_structure_has_other_names():
    model = build_model(spec({**convolution("layers.0"), "flat": POOLED, "fc": SCORES}))
    by_structure = original_state_dict(model)
    assert {name.partition(".")[0] for name in by_structure} == {"module0", "final_cls"}
    names = {"module0.0": "layers.0", "module0.1": "layers.1", "final_cls": "fc"}
    checkpoint = {
        "module." + names[module] + "." + leaf: torch.ones_like(tensor)
        for module, _, leaf, tensor in ((*name.rpartition("."), tensor) for name, tensor in by_structure.items())
    }
    load_original_state_dict(model, checkpoint)
    assert all((variable.value == 1).all() for variable in model.weights)


def test_batch_norms_that_the_authors_never_call_are_left_out():
    model = build_model("dynamic_resnet20_depth2")
    checkpoint = original_state_dict(model)
    uncalled = {f"norm_layers.0.{leaf}": torch.ones(512) for leaf in ("weight", "bias", "running_mean", "running_var")}
    load_original_state_dict(model, {**checkpoint, **uncalled, "norm_layers.0.num_batches_tracked": torch.tensor(3)})
    with pytest.raises(CheckpointError, match=r"norm_layers\.1\.weight: the network has no such tensor"):
        load_original_state_dict(model, {**checkpoint, "norm_layers.1.weight": torch.ones(512)})


def test_what_is_missing_left_over_or_of_another_shape_is_named():
    model = build_model(routed())
    checkpoint = original_state_dict(model)
    assert {name: tuple(tensor.shape) for name, tensor in checkpoint.items()} == {
        "conv1.weight": (8, 2, 3, 3),
        "conv1.bias": (8,),
        "fc.W2": (4 * 2 * 2, 3, 4),
        "fc.b2": (1, 1, 16, 3),
    }
    del checkpoint["conv1.bias"]
    with pytest.raises(CheckpointError) as error:
        load_original_state_dict(model, {**checkpoint, "fc.W1": torch.ones(2), "fc.b2": torch.ones(16, 3)})
    for line in (
        "conv1.bias: missing; the network needs shape (8,)",
        "fc.W1: the network has no such tensor",
        "fc.b2: has shape (16, 3); the network needs (1, 1, 16, 3)",
    ):
        assert f"\n  {line}\n" in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (routed(dim=4, matrices="type"), "has other matrices than those of each offset (matrices: type)"),
        (routed(routing="random"), "has fixed coefficients (routing: random)"),
    ],
)
def test_routing_that_the_authors_do_not_have_is_refused(changed, message):
    with pytest.raises(CheckpointError) as error:
        original_state_dict(without_weights(changed))
    assert f"\n  node 'fc' (self_routing_capsules) {message}\n" in str(error.value)


ATTENTION = {"layer": "inverted_attention_capsules", "inputs": "poses", "capsules": 3, "dim": 5}
BAYES = {"layer": "variational_bayes_capsules", "inputs": ["poses", "lengths"], "capsules": 3, "dim": 4}


def with_last(last, name="Caps"):
    changed = routed()
    changed["model"]["nodes"][name] = {**last}
    del changed["model"]["nodes"]["fc"]
    changed["model"]["outputs"] = {"classes": f"{name}/activations" if "bayes" in last["layer"] else name}
    return changed


@pytest.mark.parametrize(
    ("window", "equation"),
    [({"kernel_size": 2}, "byxnd,yxndje->bje"), ({}, "bid,idje->bje")],
)
@pytest.mark.parametrize("pose", ["vector", "matrix"])
def test_attention_with_exported_matrices_computes_the_same(window, equation, pose):
    """One pass: the layer norm of the sum of votes, by the originals' layouts; children of a list go by type."""
    dim = 5 if pose == "vector" else 4
    changed = with_last({**ATTENTION, **window, "pose": pose, "dim": dim, "iterations": 1})
    model = build_model(changed, ["model.nodes.conv1.kernel_size=[5, 3]"])  # a map of 2 x 2
    fill(model)
    theirs = original_state_dict(model)
    images = torch.rand(3, 6, 4, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = torch.nn.functional.conv2d(images.permute(0, 3, 1, 2), theirs["conv1.weight"], theirs["conv1.bias"])
        children = maps.permute(0, 2, 3, 1).unflatten(-1, (2, 4))
        if not window:
            children = children.permute(0, 3, 1, 2, 4).flatten(1, 3)
        if pose == "matrix":  # the original has rows by columns, and the parents last
            children = children.unflatten(-1, (2, 2))
            equation = equation.replace("d,", "ad,").replace("dje", "dej").replace("bje", "bjae")
        summed = torch.einsum(equation, children, theirs["Caps.w"]).reshape(3, 3, dim) / 3
        norm = theirs["Caps.nonlinear_act.weight"], theirs["Caps.nonlinear_act.bias"]
        expected = torch.nn.functional.layer_norm(summed, (dim,), *norm)
        assert torch.allclose(model(images).reshape(3, 3, dim), expected, atol=1e-5)


def test_two_convolutions_of_primary_capsules_are_one_in_the_original():
    changed = with_last(BAYES, "ClassCaps")
    nodes = changed["model"]["nodes"]
    nodes["caps.poses"] = {**nodes.pop("conv1"), "use_bias": False}
    nodes["poses"]["inputs"] = "caps.poses"
    nodes["caps.activations"] = {**nodes["caps.poses"], "filters": 2}
    nodes["lengths"] = {"layer": "keras.Activation", "inputs": "caps.activations", "activation": "sigmoid"}
    model, other = build_model(changed), build_model(changed)
    fill(model)
    state_dict = original_state_dict(model)
    kernels = [model.get_layer(f"caps:{part}").kernel.value for part in ("poses", "activations")]
    assert torch.equal(state_dict["caps.weight"], torch.cat(kernels, dim=-1).permute(3, 2, 0, 1))
    assert set(state_dict) == {
        "caps.weight",
        "ClassCaps.W_ij",
        *(
            f"ClassRouting.{norm}.{part}"
            for norm in ("BN_v", "BN_a")
            for part in ("running_mean", "running_var", "num_batches_tracked")
        ),
    }
    load_original_state_dict(other, state_dict)
    assert_same(other, values(model))
    with pytest.raises(CheckpointError, match=r"caps\.weight: has shape \(9, 2, 3, 3\); the network needs \(10, 2"):
        load_original_state_dict(other, {**state_dict, "caps.weight": torch.ones(9, 2, 3, 3)})


@pytest.mark.parametrize(
    ("last", "name", "message"),
    [
        ({**ATTENTION, "pose": "vector", "matrices": "type"}, "Caps", "has other matrices than those of each offset"),
        ({**ATTENTION, "pose": "vector", "routing": "uniform"}, "Caps", "has fixed coefficients (routing: uniform)"),
        ({**BAYES, "matrices": "position"}, "Caps", "has other matrices than those of each offset"),
        ({**BAYES, "pose": "vector"}, "Caps", "has other poses than matrices (pose: vector)"),
        (BAYES, "classes", "has a routing whose name does not follow from the node's, which must contain 'Caps'"),
    ],
)
def test_attention_and_variational_bayes_that_the_authors_do_not_have_are_refused(last, name, message):
    with pytest.raises(CheckpointError) as error:
        original_state_dict(without_weights(with_last(last, name)))
    assert f"\n  node '{name}' ({last['layer']}) {message}" in str(error.value)


def test_a_batch_norm_without_a_name_is_refused():
    changed = routed()
    changed["model"]["nodes"]["conv1"] = {"layer": "image_to_capsules", "inputs": "stem", "types": 2}
    changed["model"]["nodes"]["stem"] = {"layer": "conv_bn_relu", "inputs": "image", "filters": 8}
    changed["model"]["nodes"]["poses"] = {"layer": "squash", "inputs": "conv1"}
    with pytest.raises(CheckpointError, match=r"node 'stem' \(conv_bn_relu\) has a batch norm whose name does not"):
        original_state_dict(without_weights(changed))


def test_names_of_two_tensors_are_refused():
    changed = routed()
    changed["model"]["nodes"] |= {
        "bn1": {"layer": "keras.BatchNormalization", "inputs": "image"},
        "conv1": {"layer": "conv_bn_relu", "inputs": "bn1", "filters": 8},
    }
    with pytest.raises(CheckpointError, match=r"'bn1\.weight' would be the name of 2 tensors"):
        original_state_dict(without_weights(changed))


def test_a_map_that_torch_would_take_apart_otherwise_is_refused():
    changed = routed()
    changed["model"]["nodes"] |= {
        "turned": {"layer": "keras.Permute", "inputs": "image", "dims": [2, 1, 3]},
        "flat": {"layer": "keras.Flatten", "inputs": "turned"},
        "scores": SCORES,
    }
    changed["model"]["outputs"]["more"] = "scores"
    with pytest.raises(CheckpointError, match=r"node 'scores' \(keras\.Dense\) follows node 'turned'"):
        original_state_dict(without_weights(changed))
