"""What networks cost, against formulas, against real tensors, and against real optimizers."""

import subprocess
import sys

import keras
import pytest
import torch
from support.routing_spec import routing_spec
from support.side_loss_spec import spec_with
from torch.utils.flop_counter import FlopCounterMode

from encapkeras import build_model
from encapkeras.functional.kernels.choice import use_kernels
from encapkeras.layers import LAYERS, CapsuleLayer, register_layer
from encapkeras.losses import LOSSES, SideLoss, register_loss
from encapkeras.model.build import call_layer
from encapkeras.model.examine import examine_spec
from encapkeras.summary.cost import batch_size_of, memory_estimate, node_costs
from encapkeras.training.optimizer.make_optimizer import make_optimizer

CPU = {"device": "cpu"}


def spec_of(nodes, shape=(8, 8, 16), **sections):
    """A spec of nodes by name, each on the one before unless it says otherwise."""
    written, before = {}, "image"
    for name, node in nodes.items():
        written[name] = {"inputs": before, **node}
        before = name
    model = {"inputs": {"image": list(shape)}, "nodes": written, "outputs": {"out": before}}
    return {"spec": "encapkeras/1", "model": model, **sections}


def costs_of(nodes, shape=(8, 8, 16), batch_size=4, **sections):
    return node_costs(examine_spec(spec_of(nodes, shape, **sections)), batch_size, **CPU)


STAGE = {"layer": "capsule_stage", "types": 8, "dim": 4, "strides": 2, "sub_layers": 1}


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"layer": "keras.Conv2D", "filters": 5, "kernel_size": 3, "padding": "same"}, 64 * 9 * 16 * 5),
        ({"layer": "keras.Conv2D", "filters": 32, "kernel_size": 3, "groups": 4, "strides": 2}, 9 * 9 * 4 * 32),
        ({"layer": "conv_bn_relu", "filters": 5, "strides": 2}, 16 * 9 * 16 * 5),
        ({"layer": "keras.Dense", "units": 7}, 64 * 16 * 7),
        ({"layer": "keras.ReLU"}, 0),
        ({"layer": "keras.DepthwiseConv2D", "kernel_size": 3, "padding": "same"}, 64 * 16 * 9),
        # The master step of the main block is added into the kernel of the projection: 9 * 16 inputs of each output.
        ({**STAGE, "kind": "master"}, 16 * 32 * (9 * 16 + 4)),
        ({**STAGE, "kind": "master", "skip": "none"}, 16 * 32 * (9 * 2 + 4)),
        # Of both blocks the grouped master, the aide whose kernel is wider by 4, and two maps of coefficients.
        ({**STAGE, "kind": "approximate", "skip": "none"}, 16 * (32 * (9 * 2 + 49 * 16 + 4 + 25 * 32) + 4 * 8 * 4 * 9)),
    ],
    ids=lambda value: value.get("layer") if isinstance(value, dict) else "",
)
def test_multiply_adds_are_those_of_the_formula(layer, expected):
    assert costs_of({"node": layer})["node"].multiply_adds == expected


CAPSULES = {"layer": "image_to_capsules", "types": 4}


def test_multiply_adds_of_routing_are_those_without_votes():
    routed = {"layer": "dynamic_capsules", "capsules": 6, "dim": 5, "iterations": 3}
    types, components, inputs, outputs, dim = 4, 4 + 1, 4 * 64, 6, 5
    through_matrices = outputs * types * components * dim
    logits, gathered = outputs * inputs * components, outputs * inputs * 16  # padded from 5 to 16 components
    cost = costs_of({"capsules": CAPSULES, "routed": routed})["routed"]
    assert cost.multiply_adds == 3 * through_matrices + 2 * (through_matrices + logits + gathered)


@pytest.mark.parametrize("layer", ["dynamic_capsules", "em_capsules"])
@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("mixed_float16", 2)])
def test_votes_would_have_taken_a_number_for_each_pair_and_dimension(layer, dtype, itemsize):
    routed = {"layer": layer, "capsules": 6, "dim": 5, "dtype": dtype}
    costs = costs_of({"capsules": CAPSULES, "routed": routed}, batch_size=3)
    assert costs["routed"].votes_bytes == 3 * 6 * 5 * (4 * 64) * itemsize
    assert costs["capsules"].votes_bytes is None


# --- the same on tensors with numbers

LAYERS_TO_COUNT = {
    "conv_bn_relu": {"node": {"layer": "conv_bn_relu", "filters": 6}},
    "master": {"node": {**STAGE, "kind": "master"}},
    "approximate": {"node": {**STAGE, "kind": "approximate", "sub_layers": 3}},
    "half": {"node": {**STAGE, "dtype": "mixed_bfloat16"}},
    "capsule_dense": {"capsules": CAPSULES, "node": {"layer": "capsule_dense", "capsules": 3, "dim": 4}},
    "dynamic": {"capsules": CAPSULES, "node": {"layer": "dynamic_capsules", "capsules": 6, "dim": 5}},
    "em": {"capsules": CAPSULES, "node": {"layer": "em_capsules", "capsules": 6, "dim": 5}},
    "primary": {"node": {"layer": "primary_capsules", "types": 3, "dim": 4, "kernel_size": 3}},
    "frozen": {"node": {**STAGE, "trainable": False}},
    "batch norm": {"node": {"layer": "keras.BatchNormalization"}},
    "layer norm": {"node": {"layer": "keras.LayerNormalization"}},
    "dropout": {"node": {"layer": "keras.Dropout", "rate": 0.5}},
    "conv": {"node": {"layer": "keras.Conv2D", "filters": 3, "kernel_size": 3, "activation": "relu"}},
    "attention": {
        "flat": {"layer": "keras.Reshape", "target_shape": [64, 16]},
        "node": {"layer": "keras.MultiHeadAttention", "inputs": ["flat", "flat"], "num_heads": 2, "key_dim": 3},
    },
}


class RealMemory:
    """The memory of real tensors, counted once, without that of weights and inputs."""

    def __init__(self, *known):
        self.tensors = {tensor.untyped_storage().data_ptr(): tensor for tensor in known}
        self.bytes = 0

    def keep(self, tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in self.tensors:
            self.tensors[place] = tensor
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


@pytest.mark.parametrize("nodes", LAYERS_TO_COUNT.values(), ids=LAYERS_TO_COUNT)
def test_real_tensors_cost_as_much(nodes):
    model = build_model(spec_of(nodes))
    with use_kernels("torch"):  # nobody counts what kernels multiply
        counted = node_costs(model.examined, batch_size=4, **CPU)
    images = torch.rand(4, 8, 8, 16)
    memory = RealMemory(images, *(weight.value for weight in model.weights))
    made = {"image": images}
    with (
        use_kernels("torch"),
        torch.autograd.graph.saved_tensors_hooks(memory.keep, lambda tensor: tensor),
        FlopCounterMode(display=False) as counter,
    ):
        for node, layer in model.nodes():
            options = {"training": True} if layer._call_has_training_arg else {}
            before, operations = memory.bytes, counter.get_total_flops()
            outputs = call_layer(node, layer, [made[reference.node] for reference in node.inputs], **options)
            made[node.name] = outputs["out"]
            memory.keep(outputs["out"])
            cost = counted[node.name]
            assert cost.note == ""
            # torch's own shapes of batch norm say half precision of the statistics, which are float32.
            few = 0.01 if "dtype" in nodes["node"] else 0
            assert cost.kept_bytes == pytest.approx(memory.bytes - before, rel=few, abs=0)
            assert cost.multiply_adds == round((counter.get_total_flops() - operations) / 2 / 4)


def small_networks():
    routed = routing_spec()
    routed["model"]["nodes"]["stem"]["strides"] = 8
    align = {"loss": "optimal_transport", "latent": "stage/half", "target": "stem"}
    return {
        "quickstart": ("quickstart", ["vars.types=2"]),
        "routed": (routed, []),
        "reconstruction": (spec_with(), []),
        "transport": (spec_with({"align": align}), []),
    }


@pytest.mark.parametrize("network", small_networks().values(), ids=small_networks())
def test_whole_networks_keep_in_training_what_their_nodes_do(network):
    """But for the losses on outputs, which keep a few numbers for each image."""
    model = build_model(*network)
    model.compile(loss=model.make_losses(), loss_weights=model.loss_weights)
    images = torch.rand(6, *model.input_shape[1:])
    labels = torch.arange(6)
    counted = memory_estimate(model.examined, 6, **CPU)
    memory = RealMemory(images, labels, *(weight.value for weight in model.weights))
    tensors = []
    with torch.autograd.graph.saved_tensors_hooks(memory.keep, lambda tensor: tensor):
        prediction = model(images, training=True)
        for tensor in keras.tree.flatten(prediction):
            tensors.append(memory.keep(tensor))
        forward = memory.bytes
        model.compute_loss(images, labels, prediction)
    assert counted.unknown == ()
    assert forward * 0.7 < counted.activations < memory.bytes * 1.3
    without = sum(cost.kept_bytes for name, cost in node_costs(model.examined, 6, **CPU).items() if "losses." in name)
    assert counted.activations - without == pytest.approx(forward, rel=0.2)


def test_memory_grows_with_the_batch_in_a_straight_line():
    kept = [costs_of({"node": STAGE}, batch_size=size)["node"].kept_bytes for size in (2, 4, 6)]
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0
    work = {costs_of({"node": STAGE}, batch_size=size)["node"].multiply_adds for size in (1, 2, 6)}
    assert len(work) == 1


def test_half_precision_keeps_less():
    whole, half = ({"node": {**STAGE, "dtype": dtype}} for dtype in ("float32", "mixed_float16"))
    assert costs_of(half)["node"].kept_bytes < 0.7 * costs_of(whole)["node"].kept_bytes


def test_a_gpu_keeps_more_where_the_cpu_has_a_way_of_its_own():
    network = examine_spec(spec_of({"node": STAGE}))
    on_cpu, on_gpu = (node_costs(network, 4, device)["node"] for device in ("cpu", "cuda"))
    assert on_gpu.kept_bytes > on_cpu.kept_bytes
    assert on_gpu.multiply_adds == on_cpu.multiply_adds


def test_counting_changes_nothing():
    model = build_model("quickstart", ["vars.types=2"])
    before = [weight.numpy().copy() for weight in model.weights]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    node_costs(model.examined, 2, **CPU)
    assert torch.equal(torch.rand(3), expected)
    assert all((weight.numpy() == values).all() for weight, values in zip(model.weights, before, strict=True))
    assert model(torch.rand(2, 32, 32, 1)).device.type == model.weights[0].value.device.type


# --- what cannot be known


@pytest.fixture
def own_layers():
    layers, losses = dict(LAYERS._entries), dict(LOSSES._entries)
    yield
    for registry, entries in ((LAYERS, layers), (LOSSES, losses)):
        registry._entries.clear()
        registry._entries.update(entries)


def test_a_layer_that_needs_values_is_not_counted_and_says_so(own_layers):
    @register_layer("needs_values")
    class NeedsValues(CapsuleLayer):
        """Turns round what is negative in all."""

        def call(self, x: torch.Tensor) -> torch.Tensor:
            """See the class."""
            return x if x.sum().item() > 0 else x.flip(0)

        def compute_output_spec(self, x):
            """As it came."""
            return keras.KerasTensor(x.shape, x.dtype)

    dense = {"layer": "keras.Dense", "units": 4}
    spec = spec_of({"first": dense, "own": {"layer": "needs_values"}, "last": dense})
    network = examine_spec(spec)
    costs = node_costs(network, 4, **CPU)
    assert (costs["own"].multiply_adds, costs["own"].kept_bytes) == (None, None)
    assert costs["own"].note == "unknown without images: its code needs values (RuntimeError)"
    assert costs["last"].multiply_adds == 64 * 4 * 4
    memory = memory_estimate(network, 4, **CPU)
    assert memory.unknown == ("own",)
    assert memory.activations == costs["first"].kept_bytes + costs["last"].kept_bytes


def test_a_side_loss_of_ones_own_is_counted(own_layers):
    @register_loss("projected_length")
    class ProjectedLength(SideLoss):
        """Mean square of what a matrix makes of a tensor.

        Call arguments:
            features: Any tensor `(B, F)`.
        """

        def build(self, features_shape):
            """Makes the matrix."""
            self.kernel = self.add_weight(shape=(features_shape[-1], 3), name="kernel")

        def call(self, features: torch.Tensor) -> torch.Tensor:
            """See the class."""
            return (features @ self.kernel.value).square().mean(1)

    spec = spec_of(
        {"flat": {"layer": "keras.Flatten"}, "dense": {"layer": "keras.Dense", "units": 4}},
        losses={"short": {"loss": "projected_length", "features": "flat"}},
    )
    cost = node_costs(examine_spec(spec), 4, **CPU)["losses.short"]
    assert cost.multiply_adds == 1024 * 3
    assert cost.kept_bytes == 4 * 3 * 4 + 4 * 4  # what is squared, and its result


def test_seeded_random_layers_are_counted():
    dense = {"layer": "keras.Dense", "units": 16}
    cost = costs_of({"dense": dense, "node": {"layer": "keras.Dropout", "rate": 0.5, "seed": 3}})["node"]
    assert (cost.kept_bytes, cost.note) == (4 * 1024 * (4 + 1), "")  # what it makes, and where it made zeros


def test_sizes_that_only_images_tell_are_not_guessed():
    costs = costs_of({"node": {"layer": "conv_bn_relu", "filters": 4}}, shape=(None, None, 3))
    assert costs["node"].kept_bytes is None
    assert costs["node"].note == "the size of image is unknown before there are images"


# --- the rest of the memory


@pytest.mark.parametrize(
    "optimizer",
    [
        {"kind": "adam"},
        {"kind": "sgd"},
        {"kind": "sgd", "momentum": 0.9},
        {"kind": "rmsprop"},
        {"kind": "rmsprop", "momentum": 0.5, "centered": True},
    ],
    ids=str,
)
def test_the_optimizer_keeps_what_the_real_one_does(optimizer):
    dense = {"layer": "keras.Dense", "units": 4}
    model = build_model(
        spec_of({"dense": dense, "norm": {"layer": "keras.BatchNormalization"}}, train={"optimizer": optimizer})
    )
    made = make_optimizer(model.examined.spec.train, steps_per_epoch=5)
    made.build(model.trainable_variables)
    slots = [variable for variable in made.variables if len(variable.shape) > 0]
    memory = memory_estimate(model.examined, 2, **CPU)
    assert memory.optimizer == sum(variable.value.nbytes for variable in slots)
    assert memory.gradients == sum(weight.value.nbytes for weight in model.trainable_weights)
    assert memory.parameters == sum(weight.value.nbytes for weight in model.weights)
    assert memory.images == 2 * 8 * 8 * 16 * 4
    parts = (memory.parameters, memory.gradients, memory.optimizer, memory.activations, memory.images)
    assert memory.total == sum(parts)


def test_side_losses_count_in_everything():
    with_loss, without = examine_spec(spec_with()), examine_spec(spec_with({"reconstruction": None}))
    loss, plain = memory_estimate(with_loss, 6, **CPU), memory_estimate(without, 6, **CPU)
    weights = 4 * (40 * 8 + 8 + 8 * 64 + 64)
    assert (loss.gradients - plain.gradients, loss.parameters - plain.parameters) == (weights, weights)
    assert loss.activations > plain.activations


def test_the_batch_is_that_of_the_spec_or_of_data_sets():
    assert batch_size_of(examine_spec("encapnet_ot").spec) == 128
    assert batch_size_of(examine_spec(spec_of({"flat": {"layer": "keras.Flatten"}})).spec) == 64


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_costs_of_bundled_networks_are_known(device):
    for name in ("capnet_em", "encapnet_ot_all", "encapnet_ot_adversarial", "encapnet_master_wide", "resnet14_ot"):
        costs = node_costs(examine_spec(name), 2, device)
        assert not {node: cost.note for node, cost in costs.items() if cost.note}, name


STEPS = """
import sys
import numpy as np
import encapkeras
from encapkeras.summary.cost import memory_estimate

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

def train(model, size, batch):
    model.compile(optimizer="adam", loss=model.make_losses(), loss_weights=model.loss_weights)
    images = np.random.default_rng(0).uniform(size=(batch, *model.input_shape[1:])).astype("float32")
    for _ in range(2):
        model.train_on_batch(images, np.arange(batch) % 10)

train(encapkeras.build_model("quickstart"), 32, 4)  # what is loaded once
before = peak()
model = encapkeras.build_model(sys.argv[1])
train(model, 32, 64)
print(peak() - before, memory_estimate(model.examined, 64, "cpu").total)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the process from /proc")
@pytest.mark.parametrize("name", ["encapnet_ot", "capsnet_sabour"])
def test_a_real_training_takes_no_less_and_not_much_more(name):
    done = subprocess.run([sys.executable, "-c", STEPS, name], capture_output=True, text=True, check=True)
    taken, estimated = map(int, done.stdout.split())
    assert estimated < taken < 2.5 * estimated


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["encapnet_master_sub2", "encapnet_ot", "resnet14"])
def test_a_real_training_on_a_gpu_takes_no_less_and_not_much_more(name):
    model = build_model(name)
    model.compile(optimizer="adam", loss=model.make_losses(), loss_weights=model.loss_weights)
    images, labels = torch.rand(64, *model.input_shape[1:]), torch.arange(64) % 10
    estimated = memory_estimate(model.examined, 64, "cuda").total
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        model.train_on_batch(images, labels)
    assert estimated < torch.cuda.max_memory_allocated() < 3 * estimated
