"""EM routing in windows equals the originals in outputs and gradients; their options and published weights."""

import math
from pathlib import Path

import pytest
import torch
from support.golden import FOLDER, assert_equal, load, weights_of_sum

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import window_em_routing
from encapkeras.layers import WindowEmCapsules

HAHN = sorted(path.stem for path in Path(FOLDER / "routings_a" / "layers").glob("srem_*.npz"))
GRITZMAN = sorted(path.stem for path in Path(FOLDER / "routings_b" / "layers").glob("em_c*.npz"))  # conv and class


def assert_original(layer, golden, inputs, weights, as_given, seeds):
    """Assert outputs by port and gradients.

    `weights` and `inputs` are the file's names with what views the file's tensor as ours.
    """
    leaves = {name: golden.inputs[name].requires_grad_() for name in inputs}
    given = [view(leaves[name]) for name, view in inputs.items()]
    layer.build([tuple(tensor.shape) for tensor in given])
    for weight in layer.weights:
        name, view = weights[weight.name]
        weight.assign(view(golden.parameters[name]))
    ports = layer(given, return_ports=True)
    total = 0
    for port, (name, view) in as_given.items():
        out = view(ports[port])
        assert_equal(out, golden.outputs[name])
        total = total + (out * weights_of_sum(seeds[name], out.shape)).sum()
    total.backward()
    for name, leaf in leaves.items():
        assert_equal(leaf.grad, golden.input_gradients[name], bound(golden.input_gradients[name]))
    for weight in layer.weights:
        name, view = weights[weight.name]
        expected = view(golden.parameter_gradients[name])
        assert_equal(weight.value.grad, expected, bound(expected))


def bound(expected):
    return 1e-9 * max(1.0, float(expected.abs().max()))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", GRITZMAN)
def test_the_layer_equals_gritzman_s(name):
    golden = load(name, "routings_b/layers")
    meta, is_class = golden.meta["args"], "class" in name
    layer = WindowEmCapsules(
        meta["types"],
        16,
        iterations=meta["iterations"],
        final_lambda=meta["final_lambda"],
        fillers="filler" in name,
        **({"matrices": "type", "coordinates": "child"} if is_class else {"kernel_size": meta["kernel"]}),
        strides=meta.get("stride", 1),
    )
    side = meta.get("kernel", 1)

    assert_original(
        layer,
        golden,
        {"pose": lambda pose: pose, "activation": lambda activation: activation[..., 0]},
        {
            "kernel": ("w", lambda w: w[0].unflatten(0, (side, side, -1))),
            "beta_v": ("beta_v", torch.flatten),
            "beta_a": ("beta_a", torch.flatten),
        },
        {
            "out": ("pose_out", lambda out: out),
            "activations": ("activation_out", lambda out: out if is_class else out.unsqueeze(-1)),
        },
        golden.meta["r_seed"],
    )


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", HAHN)
def test_the_layer_equals_the_em_routing_of_self_routing_s_authors(name):
    golden = load(name, "routings_a/layers")
    meta = golden.meta
    types, side = meta["types_in"], meta["kernel"]
    layer = WindowEmCapsules(
        meta["types_out"],
        meta["dim"],
        iterations=meta["iterations"],
        competition="position",
        final_lambda=meta["final_lambda"],
        epsilon=1e-12,
        activation_floor=0,
        normalize_cost=False,
        initial="one",
        kernel_size=side,
        strides=meta["stride"],
        padding=meta["padding"],
    )
    assert_original(
        layer,
        golden,
        {
            "pose": lambda pose: pose.unflatten(1, (types, -1)).permute(0, 3, 4, 1, 2),
            "a": lambda activation: activation.permute(0, 2, 3, 1),
        },
        {
            "kernel": ("W", lambda w: w.unflatten(0, (side, side, types))),
            "beta_v": ("beta_u", torch.flatten),
            "beta_a": ("beta_a", torch.flatten),
        },
        {
            "out": ("pose", lambda out: out.permute(0, 3, 4, 1, 2).flatten(1, 2)),
            "activations": ("a", lambda out: out.permute(0, 3, 1, 2)),
        },
        meta["r"],
    )


def counted(shape, *arguments, **options):
    layer = WindowEmCapsules(*arguments, **options)
    layer.build([(None, *shape), (None, *shape[:-1])])
    return sum(math.prod(weight.shape) for weight in layer.trainable_weights)


def test_the_weights_are_as_many_as_in_gritzman_s_code():
    """The network A = 64, B = 8, C = D = 16 of 67,154 parameters for smallNORB."""
    primary = 1_664 + 64 * 8 * 16 + 8 * 16 + 64 * 8 + 8
    capsules = [
        counted((16, 16, 8, 16), 16, 16, kernel_size=3, strides=2),
        counted((7, 7, 16, 16), 16, 16, kernel_size=3),
        counted((5, 5, 16, 16), 5, 16, matrices="type", coordinates="child"),
    ]
    assert primary + sum(capsules) == 67_154


def test_coordinates_are_the_column_and_the_row_of_the_child():
    capsules, activations = torch.randn(2, 4, 5, 3, 4), torch.rand(2, 4, 5, 3)
    layer = WindowEmCapsules(3, 6, kernel_size=[2, 3], coordinates="child")
    found = layer([capsules, activations], return_ports=True)
    offsets = torch.zeros(2, 3, 6)
    for row in range(2):
        for column in range(3):
            offsets[row, column, 2] = (column + 0.5) / 3  # votes are matrices of 2 x 3
            offsets[row, column, 5] = (row + 0.5) / 2
    weights = [each.value for each in (layer.kernel, layer.beta_v, layer.beta_a)]
    means, out = window_em_routing(capsules, activations, *weights, offsets=offsets)
    torch.testing.assert_close(found["out"], means)
    torch.testing.assert_close(found["activations"], out)


def test_weights_start_as_in_gritzman_s_code_but_for_the_deviation_of_beta_a():
    layer = WindowEmCapsules(40, 16, kernel_size=3)
    layer.build([(None, 6, 6, 16, 16), (None, 6, 6, 16)])
    kernel, beta_v, beta_a = (weight.value.detach() for weight in (layer.kernel, layer.beta_v, layer.beta_a))
    assert (kernel.abs() > 2).double().mean() < 1e-4  # Keras draws four times at most: 4e-6 remain
    assert abs(kernel.std() - 0.88) < 0.01  # of a normal of deviation 1 that is cut at 2
    assert math.sqrt(6 / 41) * 0.8 < beta_v.abs().max() <= math.sqrt(6 / 41)
    assert (beta_a == -1000).all()
    given = {"class_name": "TruncatedNormal", "config": {"mean": -1000.0, "stddev": 500.0}}
    drawn = WindowEmCapsules(40, 16, kernel_size=3, beta_a_initializer=given)
    drawn.build([(None, 6, 6, 16, 16), (None, 6, 6, 16)])
    assert drawn.beta_a.value.detach().std() > 300


MAP = [(None, 6, 6, 3, 4), (None, 6, 6, 3)]


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (MAP[0], {}, r"takes a list of capsules and their activations; received \(None, 6, 6, 3, 4\)"),
        ([MAP[0], (None, 6, 6, 4)], {}, r"need activations of shape \(None, 6, 6, 3\); received \(None, 6, 6, 4\)"),
        ([(None, 6, 6, 3, 5), MAP[1]], {}, "received capsules of dimension 5"),
        (MAP, {"kernel_size": 7}, "window"),
        ([(None, 6, 6, 3, 1), MAP[1]], {"coordinates": "child"}, "received capsules of dimension 1, of one row"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shapes, options, message):
    layer = WindowEmCapsules(5, 4, **options)
    for read in (layer.build, layer.compute_output_shape):
        with pytest.raises(ShapeError, match=message):
            read(shapes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"competition": "parent"}, "competition: must be 'position' or 'child'; received 'parent'"),
        ({"final_lambda": 0.0}, "final_lambda"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"activation_floor": -1.0}, "activation_floor"),
        ({"initial": "zero"}, "initial: must be 'uniform' or 'one'; received 'zero'"),
        ({"coordinates": "child", "pose": "vector"}, "received coordinates='child' with pose='vector'"),
        ({"fillers": True, "competition": "position"}, "fillers belong to competition child; received 'position'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        WindowEmCapsules(5, 4, **options)
