"""Capsules by variational Bayes equal the original in outputs and gradients; their weights are as many as published."""

import math
from pathlib import Path

import pytest
import torch
from support.golden import FOLDER, assert_equal, load, weights_of_sum

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.functional import variational_bayes_routing
from encapkeras.layers import VariationalBayesCapsules

PLACES = "vb_conv_k3s1_t3_coordinates"  # of the parents: no layer of the published networks has them
FILES = sorted(
    path.stem
    for path in Path(FOLDER / "routings_a" / "layers").glob("vb_*.npz")
    if "primary" not in path.stem and path.stem != PLACES
)


def made(meta, parameters, shape):
    """The layer of a file with its weights."""
    side, outputs = meta["pose_side"], meta["types_out"]
    layer = VariationalBayesCapsules(
        outputs,
        side**2,
        iterations=meta["iterations"],
        covariance={"diag": "diagonal", "full": "full"}[meta["cov"]],
        coordinates="constant" if meta["coordinates"] else None,
        kernel_size=None if meta["class_layer"] else meta["kernel"],
        strides=meta["stride"],
        padding=meta["padding"],
        matrices="type" if meta["share_positions"] else "offset",
        betas=True,
    )
    layer.build([shape, shape[:-1]])
    weights = {
        "kernel": as_kernel(parameters["votes.W_ij"]),
        **{name: parameters[f"routing.{name}"].flatten() for name in ("beta_a", "beta_u")},
        **{
            f"{mine}_norm_{part}": parameters[f"routing.BN_{theirs}.running_{short}"]
            for mine, theirs in (("pose", "v"), ("activation", "a"))
            for part, short in (("mean", "mean"), ("variance", "var"))
        },
    }
    for weight in layer.weights:
        weight.assign(weights.pop(weight.name))
    assert not weights
    return layer


def as_kernel(weight):
    """View `(1, N, J, 1, d, d, 1, 1, K, K)` as `(K, K, N, J, d, d)`."""
    return weight[0, :, :, 0, :, :, 0, 0].permute(4, 5, 0, 1, 2, 3)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", FILES)
def test_the_layer_equals_the_original(name):
    golden = load(name, "routings_a/layers")
    meta, side = golden.meta, golden.meta["pose_side"]
    pose, activations = golden.inputs["pose"].requires_grad_(), golden.inputs["a"].requires_grad_()
    capsules = pose.permute(0, 4, 5, 1, 2, 3).flatten(-2)
    layer = made(meta, golden.parameters, tuple(capsules.shape))
    inputs = [capsules, activations.permute(0, 2, 3, 1)]
    ports = layer(inputs, return_ports=True, training=meta["training"])
    poses, scores = ports["out"].unflatten(-1, (side, side)), ports["activations"]
    if not meta["class_layer"]:
        poses, scores = poses.permute(0, 3, 4, 5, 1, 2), scores.permute(0, 3, 1, 2)
    outputs = {"pose": poses, "a": scores}
    for port, out in outputs.items():
        assert_equal(out, golden.outputs[port])
    sum((out * weights_of_sum(meta["r"][port], out.shape)).sum() for port, out in outputs.items()).backward()
    assert_equal(pose.grad, golden.input_gradients["pose"], 1e-8)
    assert_equal(activations.grad, golden.input_gradients["a"], 1e-8)
    assert_equal(layer.kernel.value.grad, as_kernel(golden.parameter_gradients["votes.W_ij"]), 1e-8)
    for beta in (layer.beta_a, layer.beta_u):
        assert_equal(beta.value.grad, golden.parameter_gradients[f"routing.{beta.name}"].flatten())


def counted(shape, *arguments, **options):
    layer = VariationalBayesCapsules(*arguments, betas=True, **options)
    layer.build([(None, *shape), (None, *shape[:-1])])
    return sum(math.prod(weight.shape) for weight in layer.trainable_weights)


def test_the_weights_are_as_many_as_in_the_paper_s_code():
    """The network 64, 8, 16, 16 of 68,714 parameters for smallNORB."""
    assert counted((14, 14, 8, 16), 16, 16, kernel_size=3, strides=2) == 18_432 + 32
    assert counted((6, 6, 16, 16), 16, 16, kernel_size=3) == 36_864 + 32
    assert counted((4, 4, 16, 16), 5, 16, matrices="type", coordinates="constant") == 1_280 + 10


@pytest.mark.parametrize(("matrices", "offsets"), [("offset", 9), ("type", 1)])
def test_matrices_start_within_the_published_bound(matrices, offsets):
    layer = VariationalBayesCapsules(20, 16, kernel_size=3, matrices=matrices)
    layer.build([(None, 5, 5, 12, 16), (None, 5, 5, 12)])
    largest = layer.kernel.value.detach().abs().max().item()
    assert largest == pytest.approx(math.sqrt(6 / (offsets * (12 * 16 + 20 * 16))), rel=0.02)


@pytest.mark.parametrize("coordinates", ["child", None])
def test_coordinates_are_the_row_and_the_column_of_the_child(coordinates):
    capsules, activations = torch.randn(2, 4, 5, 3, 4), torch.rand(2, 4, 5, 3)
    layer = VariationalBayesCapsules(3, 6, kernel_size=[2, 3], coordinates=coordinates)
    found = layer([capsules, activations])  # by means 0 and variances 1
    offsets = torch.zeros(2, 3, 6)
    for row in range(2):
        for column in range(3):
            offsets[row, column, 2] = (row + 1) / 20  # votes are matrices of 2 x 3
            offsets[row, column, 5] = (column + 1) / 30
    means, _ = variational_bayes_routing(
        capsules, activations, layer.kernel.value, offsets=offsets if coordinates else None
    )
    torch.testing.assert_close(found, means / math.sqrt(1 + 1e-5))


def test_betas_do_not_count_in_training():
    inputs = [torch.randn(4, 3, 3, 2, 4), torch.rand(4, 3, 3, 2)]
    layer = VariationalBayesCapsules(5, 4, betas=True)
    before = layer(inputs, return_ports=True, training=True)["activations"]
    layer.beta_a.assign([1.0, -2, 3, -4, 5])
    torch.testing.assert_close(layer(inputs, return_ports=True, training=True)["activations"], before)
    assert not torch.equal(layer(inputs, return_ports=True)["activations"], before)


def test_half_precision_is_close_to_full():
    inputs = [torch.randn(8, 5, 5, 4, 16), torch.rand(8, 5, 5, 4)]
    full = VariationalBayesCapsules(6, 16, kernel_size=3)
    half = VariationalBayesCapsules(6, 16, kernel_size=3, dtype="mixed_bfloat16")
    half.build([tuple(each.shape) for each in inputs])
    expected = full(inputs, return_ports=True, training=True)
    half.set_weights(full.get_weights()[:1] + half.get_weights()[1:])
    for port, found in half(inputs, return_ports=True, training=True).items():
        assert found.dtype == torch.bfloat16
        assert (found - expected[port]).abs().mean() < 0.02


MAP = [(None, 6, 6, 3, 4), (None, 6, 6, 3)]


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (MAP[0], {}, r"takes a list of capsules and their activations; received \(None, 6, 6, 3, 4\)"),
        ([MAP[0], (None, 6, 6, 4)], {}, r"need activations of shape \(None, 6, 6, 3\); received \(None, 6, 6, 4\)"),
        ([(None, 6, 6, 3, 5), MAP[1]], {}, "received capsules of dimension 5"),
        (MAP, {"kernel_size": 7}, "window"),
        (
            [(None, 6, 6, 3, 1), MAP[1]],
            {"coordinates": "child"},
            "coordinates are added to the first two rows of a matrix; received capsules of dimension 1, of one row",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shapes, options, message):
    layer = VariationalBayesCapsules(5, 4, **options)
    for read in (layer.build, layer.compute_output_shape):
        with pytest.raises(ShapeError, match=message):
            read(shapes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": "diag"}, "covariance: must be 'diagonal' or 'full'; received 'diag'"),
        ({"density_floor": -1.0}, "density_floor"),
        ({"coordinates": "parent"}, "coordinates: must be 'child' or 'constant'"),
        ({"coordinates": "child", "pose": "vector"}, "received coordinates='child' with pose='vector'"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        VariationalBayesCapsules(5, 4, **options)
