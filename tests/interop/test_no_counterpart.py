"""What the original has no counterpart for is named, all of it at once."""

import pytest
import torch
from support.connected_spec import routing_spec, without_weights
from support.weights import fill

from encapkeras import build_model, load_spec
from encapkeras.errors import CheckpointError
from encapkeras.interop import original_state_dict


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
                second={
                    "layer": "dynamic_capsules",
                    "inputs": "first",
                    "capsules": 3,
                    "dim": 4,
                    "use_output_bias": True,
                }
            ),
            "node 'second' (dynamic_capsules) has a bias of the outputs (use_output_bias: true)",
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
            "node 'lengths' (conv_bn_relu) is in the place of the original's classifier",
        ),
        (
            changed(seen={"layer": "conv_bn_relu", "inputs": "stem", "filters": 4, "strides": 4}),
            "node 'seen' (conv_bn_relu) gives node 'first' (em_capsules) its activations, and is not a convolution of "
            "the capsules' own module",
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
            "losses 'agree' and 'more' have latent tensors from one module",
        ),
        (
            with_losses(more={**TRANSPORT, "latent": "image", "target": "stem"}),
            "loss 'more': its latent tensor 'image' is not from a module",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(spec, message):
    assert f"\n  {message}\n" in refused(spec)


def test_what_stands_beside_the_network_is_named():
    spec = with_losses(more={**TRANSPORT, "latent": "beside", "target": "stem"})
    spec["model"]["nodes"]["beside"] = {"layer": "conv_bn_relu", "inputs": "image", "filters": 8}
    assert "node 'beside' (conv_bn_relu) is outside the chain of layers that leads to the output" in refused(spec)


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
    assert "node 'sum' (keras.Add) is in the place of a residual block or the first convolution" in text
    assert "node 'one' (conv_bn_relu) is not part of a residual block" in text


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
    model.get_layer("block1:convolutions:second").enable_lora(2)
    model.get_layer("scores").enable_lora(2)
    with pytest.raises(CheckpointError) as error:
        original_state_dict(model)
    assert f"node 'block1.convolutions.second' (keras.Conv2D) {lora}" in str(error.value)
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
