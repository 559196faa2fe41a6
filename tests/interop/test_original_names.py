"""Every network that the original has, in the original's names and shapes."""

import json

import pytest
import torch
from support.connected_spec import routing_spec, without_weights
from support.golden import FOLDER
from support.weights import assert_same, fill, values
from torchvision.models.resnet import BasicBlock, ResNet

from encapkeras import build_model
from encapkeras.errors import CheckpointError
from encapkeras.interop import load_original_state_dict, original_state_dict
from encapkeras.spec.bundled import bundled_specs

GOLDEN = sorted(file.stem for file in (FOLDER / "networks").glob("*.json"))
CALLED_OTHERWISE = {"encapnet_wide_every_n4": "encapnet_master_wide"}
NOT_OF_THE_ORIGINAL = {
    "capsnet_pairs_digits",
    "capsnet_sabour",
    "capsnet_sabour_fashion_mnist",
    "deepcaps_cifar10",
    "deepcaps_cifar10_small",
    "deepcaps_digits",
    "deepcaps_mnist",
    "em_small_norb",
    "fashion_mnist_best",
    "fashion_mnist_plain",
    "heinsen_2019_small_norb",
    "homogeneous_vectors_cifar10",
    "homogeneous_vectors_mnist",
    "homogeneous_vectors_small_norb",
    "mobilenet_digits",
    "plain_pairs_digits",
    "resnet14_ot",
    "routing_affine",
    "routing_attention",
    "routing_dynamic",
    "routing_em",
    "routing_heinsen_2019",
    "routing_heinsen_2022",
    "routing_homogeneous_vectors",
    "routing_self",
    "routing_self_attention",
    "routing_uniform",
    "routing_variational_bayes",
    "shapes_capsules",
    "shapes_unet",
    "sequence_capsules",
    "sequence_gru",
}
SPECS = sorted(file.stem for file in bundled_specs().glob("*.yaml"))
COUNTER = "num_batches_tracked"


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in original_state_dict(model).items()}


def test_all_eight_networks_are_here():
    assert len(GOLDEN) == 8


@pytest.mark.parametrize("name", GOLDEN)
def test_names_and_shapes_are_the_originals(name):
    expected = json.loads((FOLDER / "networks" / f"{name}.json").read_text())
    model = without_weights(CALLED_OTHERWISE.get(name, name))
    assert shapes(model) == expected["state_dict"]


@pytest.mark.parametrize("name", sorted(set(SPECS) - NOT_OF_THE_ORIGINAL))
def test_every_spec_goes_out_and_in_again(name):
    model = build_model(name, ["vars.types=4"] if name.startswith("encapnet") else [])
    fill(model)
    state_dict, expected = original_state_dict(model), values(model)
    fill(model, seed=1)
    load_original_state_dict(model, state_dict)
    assert_same(model, expected)


@pytest.mark.parametrize("name", sorted(NOT_OF_THE_ORIGINAL))
def test_specs_without_a_counterpart_say_why(name):
    with pytest.raises(
        CheckpointError,
        match=r"has no counterpart|joins \d tensors|has other matrices|in the place of|matrices for each position|"
        "has in another order",
    ):
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
