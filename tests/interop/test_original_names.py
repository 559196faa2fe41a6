"""Every network that the original has, in the original's names and shapes."""

import json

import keras
import pytest
import torch
from support.golden import FOLDER
from support.weights import assert_same, fill, values
from torchvision.models.resnet import BasicBlock, ResNet

from encapkeras import build_model, load_spec
from encapkeras.errors import CheckpointError
from encapkeras.graph.inherit import bundled_specs
from encapkeras.interop import load_original_state_dict, original_state_dict

GOLDEN = sorted(file.stem for file in (FOLDER / "networks").glob("*.json"))
CALLED_OTHERWISE = {"encapnet_wide_every_n4": "encapnet_master_wide"}
NOT_OF_THE_ORIGINAL = {"capsnet_sabour", "capsnet_sabour_fashion_mnist", "resnet14_ot"}
SPECS = sorted(file.stem for file in bundled_specs().glob("*.yaml"))
COUNTER = "num_batches_tracked"


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in original_state_dict(model).items()}


def without_weights(*arguments):
    with keras.device("meta"):
        return build_model(*arguments)


def test_all_eight_networks_are_here():
    assert len(GOLDEN) == 8


@pytest.mark.parametrize("name", GOLDEN)
def test_names_and_shapes_are_the_originals(name):
    expected = json.loads((FOLDER / "networks" / f"{name}.json").read_text())
    model = without_weights(CALLED_OTHERWISE.get(name, name))
    assert shapes(model) == expected["state_dict"]


@pytest.mark.parametrize("name", sorted(set(SPECS) - NOT_OF_THE_ORIGINAL))
def test_every_spec_goes_out_and_in_again(name):
    small = ["vars.types=4"] if name.startswith("encapnet") else []
    model, other = build_model(name, small), build_model(name, small)
    fill(model)
    load_original_state_dict(other, original_state_dict(model))
    assert_same(other, values(model))


@pytest.mark.parametrize("name", sorted(NOT_OF_THE_ORIGINAL))
def test_specs_without_a_counterpart_say_why(name):
    with pytest.raises(CheckpointError, match="has no counterpart"):
        original_state_dict(without_weights(name))


def test_counters_are_whole_numbers_at_0():
    counters = [tensor for name, tensor in original_state_dict(build_model("resnet14")).items() if COUNTER in name]
    assert len(counters) == 15
    assert all(tensor.dtype == torch.int64 and tensor.shape == () and tensor == 0 for tensor in counters)


def test_copies_are_independent_of_the_model():
    model = build_model("capsnet_dynamic_digits")
    before = values(model)
    for tensor in original_state_dict(model).values():
        tensor.fill_(7)
    assert_same(model, before)


NAMES = ["stem", "stage1", "stage2", "seen", "first", "second", "lengths"]


def routing_spec(names=NAMES, reverse=False):
    """Stages, then two layers of EM routing with activations: all kinds of connections in one network."""
    stem, one, two, seen, first, second, lengths = names
    stage = {"layer": "capsule_stage", "types": 4, "dim": 4}
    routing = {"layer": "em_capsules", "dim": 4}
    nodes = {
        stem: {"layer": "conv_bn_relu", "inputs": "image", "filters": 8},
        one: {**stage, "inputs": stem, "normalization": "capsule", "kernel_size": [3, 5], "kind": "approximate"},
        two: {**stage, "inputs": one, "relu": False, "skip": "none", "sub_layers": 3},
        "flat": {"layer": "capsules_to_image", "inputs": two},
        seen: {"layer": "conv_bn_relu", "inputs": "flat", "filters": 4},
        first: {**routing, "inputs": [two, seen], "capsules": 16, "map_types": 4},
        second: {**routing, "inputs": [first, f"{first}/activations"], "capsules": 10},
        lengths: {"layer": "capsule_length", "inputs": second},
    }
    return {
        "spec": "encapkeras/1",
        "name": "named",
        "model": {
            "inputs": {"image": [8, 8, 3]},
            "nodes": dict(reversed(nodes.items())) if reverse else nodes,
            "outputs": {"classes": lengths},
        },
        "losses": {
            "classes": {"loss": "margin"},
            "agree": {"loss": "optimal_transport", "latent": f"{two}/half", "target": f"{two}/input"},
        },
    }


def test_names_of_nodes_and_their_order_mean_nothing():
    expected = shapes(without_weights(routing_spec()))
    odd = ["generate_activate", "module7", "digits", "stem", "stage4", "routed", "scores"]
    assert shapes(without_weights(routing_spec(odd))) == expected
    assert shapes(without_weights(routing_spec(reverse=True))) == expected


def test_names_of_what_the_golden_networks_do_not_have():
    received = shapes(without_weights(routing_spec()))
    assert {name.split(".")[0] for name in received} == {
        *("module0", "module1", "module2", "module3", "generate_activate", "final_cls", "module2_ot_loss")
    }
    wide = "module1.main_conv.block.0.main_cap.0.conv."
    assert received[f"{wide}0.weight"] == [16, 2, 3, 3]  # in the spec's order of kernel sizes
    assert received[f"{wide}1.weight"] == [16, 2, 5, 5]
    assert received["module1.main_conv.block.1.weight"] == [4]  # one number for each type
    steps = {name.split(".")[3] for name in received if name.startswith("module2.sub_conv.block.")}
    assert steps == {"0", "1", "3", "4", "6", "7"}  # a step without ReLU has three entries
    assert received["module3.beta_a"] == [16]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dense", {"final_cls.fc_layer.weight": [12, 256], "final_cls.fc_layer.bias": [12]}),
        ("factored", {"final_cls.W1": [4, 12], "final_cls.W2": [3, 64, 1]}),
        ("per_dim", {"final_cls.weight": [4, 64, 3]}),
    ],
)
def test_fully_connected_capsules(kind, expected):
    spec = routing_spec()
    nodes = spec["model"]["nodes"]
    nodes["second"] = {"layer": "capsule_dense", "inputs": "stage1", "capsules": 3, "dim": 4, "kind": kind}
    del spec["losses"]["agree"]
    model, other = build_model(spec), build_model(spec)
    fill(model)
    state_dict = original_state_dict(model)
    assert {name: list(t.shape) for name, t in state_dict.items() if name.startswith("final_cls")} == expected
    load_original_state_dict(other, state_dict)
    assert_same(other, values(model))


def test_the_capsnet_has_the_names_that_it_was_trained_under():
    received = shapes(without_weights("capsnet_em"))
    weights = {name: shape for name, shape in received.items() if name.endswith("weight") and len(shape) == 4}
    assert weights == {
        "tranfer_conv.weight": [256, 3, 9, 9],
        "tranfer_conv1.weight": [256, 256, 3, 3],
        "cap_layer.W.weight": [5120, 8, 1, 1],
        "generate_activate.0.weight": [32, 256, 3, 3],
    }
    assert received["cap_layer.beta_v"] == [10]


def test_the_residual_network_has_the_names_that_it_was_trained_under():
    model = without_weights("resnet14")
    received = shapes(model)
    convolutions = {name: shape for name, shape in received.items() if len(shape) == 4}
    assert convolutions == {
        "conv1.weight": [16, 3, 3, 3],
        "layer1.0.conv1.weight": [16, 16, 3, 3],
        "layer1.0.conv2.weight": [16, 16, 3, 3],
        "layer1.1.conv1.weight": [16, 16, 3, 3],
        "layer1.1.conv2.weight": [16, 16, 3, 3],
        "layer2.0.conv1.weight": [32, 16, 3, 3],
        "layer2.0.conv2.weight": [32, 32, 3, 3],
        "layer2.0.downsample.0.weight": [32, 16, 1, 1],
        "layer2.1.conv1.weight": [32, 32, 3, 3],
        "layer2.1.conv2.weight": [32, 32, 3, 3],
        "layer3.0.conv1.weight": [64, 32, 3, 3],
        "layer3.0.conv2.weight": [64, 64, 3, 3],
        "layer3.0.downsample.0.weight": [64, 32, 1, 1],
        "layer3.1.conv1.weight": [64, 64, 3, 3],
        "layer3.1.conv2.weight": [64, 64, 3, 3],
    }
    assert received["fc.weight"] == [10, 64]


class ResidualNetwork(ResNet):
    """The residual network in plain torch: torchvision's blocks, with their names."""

    def __init__(self):
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.inplanes = 16
        self.conv1 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        self.maxpool = self.layer4 = torch.nn.Identity()
        self.layer1 = self._make_layer(BasicBlock, 16, 2)
        self.layer2 = self._make_layer(BasicBlock, 32, 2, stride=2)
        self.layer3 = self._make_layer(BasicBlock, 64, 2, stride=2)
        self.fc = torch.nn.Linear(64, 10)


def test_the_residual_network_computes_the_same_in_torch():
    model = build_model("resnet14")
    fill(model)
    network = ResidualNetwork().eval()
    network.load_state_dict(original_state_dict(model))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
        received = model(images.permute(0, 2, 3, 1), training=False)
    assert torch.allclose(received, expected, rtol=1e-4)


def refused(spec):
    with pytest.raises(CheckpointError) as error:
        original_state_dict(without_weights(spec))
    text = str(error.value)
    assert "The original has counterparts for" in text
    return text


def changed(**nodes):
    """The spec with other nodes under some names."""
    spec = routing_spec()
    spec["model"]["nodes"].update(nodes)
    return spec


def with_losses(**losses):
    spec = routing_spec()
    spec["losses"].update(losses)
    return spec


TRANSPORT = {"loss": "optimal_transport", "critic": "none"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            changed(stem={"layer": "keras.Conv2D", "inputs": "image", "filters": 8, "kernel_size": 3}),
            "node 'stem' (keras.Conv2D) has no counterpart",
        ),
        (
            changed(
                second={"layer": "em_capsules", "inputs": "first", "capsules": 3, "dim": 4, "share_positions": False}
            ),
            "node 'second' (em_capsules) has matrices for each position (share_positions: false)",
        ),
        (
            changed(
                second={"layer": "capsule_dense", "inputs": "first", "capsules": 9, "dim": 4},
                lengths={"layer": "capsule_dense", "inputs": "second", "capsules": 3, "dim": 4},
            ),
            "node 'second' (capsule_dense) is not the last layer with weights",
        ),
        (
            changed(lengths={"layer": "conv_bn_relu", "inputs": "flat", "filters": 3}),
            "node 'lengths' (conv_bn_relu) stands where the original has its classifier",
        ),
        (
            changed(seen={"layer": "conv_bn_relu", "inputs": "stem", "filters": 4, "strides": 4}),
            "node 'seen' (conv_bn_relu) gives node 'first' (em_capsules) its activations, and is no convolution of the "
            "capsules' own module",
        ),
        (
            changed(
                other={"layer": "conv_bn_relu", "inputs": "shown", "filters": 4},
                shown={"layer": "capsules_to_image", "inputs": "first"},
                second={"layer": "em_capsules", "inputs": ["first", "other"], "capsules": 3, "dim": 4},
            ),
            "node 'other' (conv_bn_relu) gives node 'second' (em_capsules) its activations, and is a second one",
        ),
        (
            with_losses(more={**TRANSPORT, "latent": "stage2", "target": "stage2/main"}),
            "losses 'agree' and 'more' both have a latent tensor of one module",
        ),
        (
            with_losses(more={**TRANSPORT, "latent": "image", "target": "stem"}),
            "loss 'more': its latent tensor 'image' is of no module",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(spec, message):
    assert f"\n  {message}\n" in refused(spec)


def test_what_stands_beside_the_network_is_named():
    spec = with_losses(more={**TRANSPORT, "latent": "beside", "target": "stem"})
    spec["model"]["nodes"]["beside"] = {"layer": "conv_bn_relu", "inputs": "image", "filters": 8}
    assert "node 'beside' (conv_bn_relu) stands beside the chain of layers that leads to the output" in refused(spec)


def test_several_outputs_have_no_counterpart():
    spec = routing_spec()
    spec["model"]["outputs"]["capsules"] = "second"
    assert "it has the outputs classes, capsules; the original has one" in refused(spec)


def test_a_network_without_weights_has_no_counterpart():
    spec = {**routing_spec(), "losses": {}}
    spec["model"]["nodes"] = {"flat": {"layer": "keras.Flatten", "inputs": "image"}}
    spec["model"]["outputs"] = {"classes": "flat"}
    assert "it has no weights" in refused(spec)


def test_sums_that_are_no_residual_blocks_are_named():
    spec = {**routing_spec(), "losses": {}}
    spec["model"]["nodes"] = {
        "one": {"layer": "conv_bn_relu", "inputs": "image", "filters": 8},
        "two": {"layer": "conv_bn_relu", "inputs": "one", "filters": 8},
        "sum": {"layer": "keras.Add", "inputs": ["one", "two"]},
        "pooled": {"layer": "keras.GlobalAveragePooling2D", "inputs": "sum"},
        "scores": {"layer": "keras.Dense", "inputs": "pooled", "units": 3},
    }
    spec["model"]["outputs"] = {"classes": "scores"}
    assert "node 'sum' (keras.Add) joins 2 tensors; a module of the original takes one" in refused(spec)
    two = {"layer": "keras.Conv2D", "inputs": "one", "filters": 8, "kernel_size": 3, "padding": "same"}
    spec["model"]["nodes"]["two"] = two
    text = refused(spec)
    assert "node 'sum' (keras.Add) stands where a ResNet has a residual block or its first convolution" in text
    assert "node 'one' (conv_bn_relu) is no part of a residual block" in text


@pytest.mark.parametrize("layer", ["keras.Add", "keras.Multiply", "keras.Concatenate"])
def test_of_a_layer_that_joins_tensors_nothing_else_is_blamed(layer):
    spec = changed(both={"layer": layer, "inputs": ["stem", "stem"]})
    spec["model"]["nodes"]["stage1"]["inputs"] = "both"
    problems = [line for line in refused(spec).splitlines() if line.startswith("  ")]
    assert problems == [f"  node 'both' ({layer}) joins 2 tensors; a module of the original takes one"]


def scores_spec(**between):
    """A convolution and a dense layer, with nodes without weights between them, the last called `flat`."""
    nodes = {"stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 4}, **between}
    nodes["scores"] = {"layer": "keras.Dense", "inputs": "flat", "units": 3}
    spec = {**routing_spec(), "losses": {"classes": {"loss": "cross_entropy"}}}
    spec["model"].update(nodes=nodes, outputs={"classes": "scores"})
    return spec


def test_a_map_of_one_position_may_be_flattened():
    pooled = {"layer": "keras.AveragePooling2D", "inputs": "stem", "pool_size": 8}
    model = build_model(scores_spec(pooled=pooled, flat={"layer": "keras.Flatten", "inputs": "pooled"}))
    fill(model)
    network = torch.nn.Module()
    network.module0 = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    network.final_cls = torch.nn.Linear(4, 3)
    network.eval().load_state_dict(original_state_dict(model))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = torch.nn.functional.avg_pool2d(network.module0(images), 8)
        expected = network.final_cls(pooled.flatten(1))
        received = model(images.permute(0, 2, 3, 1), training=False)
    assert torch.allclose(received, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        {"layer": "keras.Flatten"},
        {"layer": "keras.Reshape", "target_shape": [256]},
        {"layer": "keras.Permute", "dims": [2, 1, 3]},
    ],
    ids=lambda layer: layer["layer"],
)
def test_a_map_that_torch_would_take_apart_otherwise_has_no_counterpart(layer):
    text = refused(scores_spec(flat={**layer, "inputs": "stem"}))
    assert f"node 'flat' ({layer['layer']}) takes a map of shape (8, 8, 4), whose numbers the original has" in text
    assert "pool it to 1x1 first, such as by keras.GlobalAveragePooling2D" in text


def test_a_residual_network_may_not_flatten_maps_either():
    spec = load_spec("resnet14").resolved
    spec["model"]["nodes"]["pooled"]["layer"] = "keras.Flatten"
    assert "node 'pooled' (keras.Flatten) takes a map of shape (8, 8, 64)" in refused(spec)


def test_weights_of_keras_that_torch_has_not_are_named():
    pooled = {"layer": "keras.GlobalAveragePooling2D", "inputs": "stem"}
    spec = scores_spec(flat=pooled)
    spec["model"]["nodes"]["scores"]["lora_rank"] = 2
    lora = "has weights without a counterpart: lora_kernel_a, lora_kernel_b"
    assert f"node 'scores' (keras.Dense) {lora}" in refused(spec)
    model = build_model("resnet14")
    model.get_layer("second1").enable_lora(2)
    model.get_layer("scores").enable_lora(2)
    with pytest.raises(CheckpointError) as error:
        original_state_dict(model)
    assert f"node 'second1' (keras.Conv2D) {lora}" in str(error.value)
    assert f"node 'scores' (keras.Dense) {lora}" in str(error.value)


def test_modules_follow_one_another_by_their_output_alone():
    stage = {"layer": "capsule_stage", "types": 4, "dim": 4}
    spec = changed(
        stage2={**stage, "inputs": "stage1/half"},
        flat={"layer": "capsules_to_image", "inputs": "stage2/main"},
    )
    text = refused(spec)
    one = "the original's modules have one output, that without a port"
    assert f"\n  node 'stage2' (capsule_stage) takes 'stage1/half'; {one}\n" in text
    assert f"\n  node 'flat' (capsules_to_image) takes 'stage2/main'; {one}\n" in text
    spec = routing_spec()
    spec["model"]["outputs"] = {"classes": "second/activations"}
    assert f"\n  the output is 'second/activations'; {one}\n" in refused(spec)


def test_lengths_are_no_activations():
    spec = changed(short={"layer": "capsule_length", "inputs": "first"})
    spec["model"]["nodes"]["second"]["inputs"] = ["first", "short"]
    assert (
        "node 'first' (em_capsules) gives node 'second' (em_capsules) its activations, and is a second one"
        in refused(spec)
    )


def test_all_that_has_no_counterpart_is_named_at_once():
    text = refused("capsnet_sabour")
    assert "node 'conv' (keras.Conv2D)" in text
    assert "node 'capsules' (primary_capsules)" in text
    assert "loss 'reconstruction' (reconstruction)" in text
