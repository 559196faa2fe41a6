"""`encapkeras bench step` on small sizes: what is replayed are the convolutions that were made."""

import json
from collections import Counter

import pytest
import torch
from support.tiny_spec import tiny_spec
from torch.utils.flop_counter import FlopCounterMode

from encapkeras.benchmarks.network import make_network
from encapkeras.benchmarks.recorded import CONVOLUTIONS, PRODUCTS, convolutions_of, flops, products_of, record, replay
from encapkeras.benchmarks.step import CONVOLUTIONS as FLOOR
from encapkeras.benchmarks.step import OURS, PLAIN
from encapkeras.cli.main import main
from encapkeras.torch_internals import each_operation

NETWORKS = ["encapnet_master_sub2", "encapnet_ot", "fashion_mnist_best", "capsnet_sabour"]
aten = torch.ops.aten


def described(value):
    """What of an argument decides how long an operation takes."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device.type
    return tuple(value) if isinstance(value, list) else value


def seen_in(work, kinds=CONVOLUTIONS):
    """The operations of some kinds that are made, with all their arguments."""
    seen = []

    def see(function, arguments, named):
        if function.overloadpacket in kinds:
            seen.append((str(function), *map(described, arguments)))

    with each_operation(see):
        work()
    return seen


def flops_by_kind(work):
    with FlopCounterMode(display=False) as counter:
        work()
    counts = counter.get_flop_counts()["Global"]
    return {kind: counts[kind] for kind in counts if kind in CONVOLUTIONS + PRODUCTS}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_replayed_are_the_convolutions_of_a_step(name):
    network = make_network(name, 2, "cpu")
    operations = network.record()
    made = seen_in(network.train_once)
    assert all(tensor[-1] == "cpu" for _, *arguments in made for tensor in arguments[:2])
    convolutions = convolutions_of(operations)
    assert seen_in(lambda: replay(convolutions)) == made
    assert {kind.__name__ for kind in CONVOLUTIONS} == {operation.kind.__name__ for operation in convolutions}
    counted = flops_by_kind(network.train_once)
    replayed = flops_by_kind(lambda: replay(operations))
    assert {kind: replayed[kind] for kind in CONVOLUTIONS} == {kind: counted[kind] for kind in CONVOLUTIONS}
    assert flops(convolutions) == sum(counted[kind] for kind in CONVOLUTIONS) > 0


def test_products_are_replayed_too():
    network = make_network("capsnet_sabour", 2, "cpu")
    products = products_of(network.record())
    made = seen_in(network.train_once, PRODUCTS)
    assert seen_in(lambda: replay(products), PRODUCTS) == made


def test_layouts_strides_groups_and_what_gradients_are_wanted_are_those_of_the_step():
    image = torch.rand(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    kernel = torch.rand(8, 2, 3, 3, requires_grad=True)
    step = lambda: torch.nn.functional.conv2d(image, kernel, None, 2, 1, groups=2).sum().backward()  # noqa: E731
    forward, backward = record(step)
    assert (forward.kind, backward.kind) == (aten.convolution, aten.convolution_backward)
    assert forward.arguments[0].is_contiguous(memory_format=torch.channels_last)
    assert forward.arguments[3:] == ([2, 2], [1, 1], [1, 1], False, [0, 0], 2)
    assert backward.arguments[0].stride() == (0, 0, 0, 0)  # the gradient of a sum
    assert backward.arguments[-1] == [False, True, False]


def test_a_replay_changes_nothing_of_the_network():
    total, left, right = torch.zeros(2, 3, 3), torch.rand(2, 3, 4), torch.rand(2, 4, 3)
    operations = record(lambda: torch.bmm(left, right, out=total).baddbmm_(left, right))
    before = total.clone()
    replay(operations)
    assert Counter(operation.kind for operation in operations) == {aten.bmm: 1, aten.baddbmm_: 1}
    assert torch.equal(total, before) and torch.allclose(total, 2 * left @ right)


def test_the_default_network_as_json(capsys):
    assert main("bench step --batch-size 2 --steps 1 --rounds 2 --json".split()) == 0
    report = json.loads(capsys.readouterr().out)
    times, spread = report["milliseconds_per_image"], report["spread"]
    assert report["multiple_of_convolutions"] == times[OURS] / times[FLOOR]
    assert report["speed_up"] == times[PLAIN] / times[OURS]
    assert set(spread) == set(times)
    assert all(least <= times[way] <= largest for way, (least, largest) in spread.items())
    assert report["largest_difference_of_outputs"] < 1e-3
    assert report["operations"]["convolutions"] > 1 and report["gigaflops"]["convolutions"] > 0


def test_another_network_as_a_table(capsys):
    words = "bench step --network capsnet_sabour --set vars.filters=8 --set train.precision=bfloat16"
    assert main(f"{words} --batch-size 2 --steps 1 --rounds 1".split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("capsnet_sabour, batch 2, bfloat16, kernels: ")
    assert "multiple of its own convolutions" in out
    assert "plain" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rounds 0", "--rounds must be at least 1; received 0"),
        ("--network encapnet_otter", "encapnet_otter"),
        ("--network no_such.yaml", "no_such.yaml"),
        ("--set train.epochs=many", "received 'many'"),
        ("--set train.precision=float16", "float16, which needs a GPU"),
        ("--network capsnet_sabour --set losses=null", "need a network with one input, one output and a loss"),
    ],
)
def test_impossible_options(words, message, capsys):
    assert main(["bench", "step", "--batch-size", "1", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_network_without_convolutions(tmp_path):
    from encapkeras.benchmarks import step

    nodes = {
        "flat": {"layer": "keras.Flatten", "inputs": "image"},
        "scores": {"layer": "keras.Dense", "inputs": "flat", "units": 3},
    }
    spec = tiny_spec() | {"model": {"nodes": nodes, "outputs": {"classes": "scores"}}}
    spec = {key: spec[key] for key in ("spec", "name", "model") if key in spec}
    spec["model"]["inputs"] = {"image": [4, 4, 1]}
    spec["losses"] = {"classes": {"loss": "cross_entropy"}}
    report = step.measure(2, 1, 1, network=spec)
    assert report["multiple_of_convolutions"] is None and FLOOR not in report["milliseconds_per_image"]
    assert "convolutions alone" not in step.as_table(report)
