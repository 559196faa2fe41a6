"""Every layer passes `check_layer`; wrong arguments and inputs are refused in plain words."""

import json

import keras
import numpy as np
import pytest
import torch
from support.layer_cases import CASES, MAP
from support.layer_check import check_layer, for_each, with_batch

import encapkeras.layers
from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.layers import (
    LAYERS,
    AddCoordinates,
    CapsuleConvolution,
    CapsuleDense,
    CapsuleStage,
    CapsulesToImage,
    ConvBnRelu,
    DynamicCapsules,
    EmCapsules,
    Heinsen2022Capsules,
    HomogeneousVectorCapsules,
    ImageToCapsules,
    InterestCapsules,
    InvertedAttentionStack,
    Normalize,
    PrimaryCapsules,
    SelfAttentionCapsules,
    Squash,
    WindowDynamicCapsules,
)
from encapkeras.registry import Registry


@pytest.mark.parametrize("case", CASES)
def test_layer_does_what_every_layer_must(case):
    layer_class, arguments, input_shape, trainable, moving = CASES[case]
    check_layer(layer_class, arguments, input_shape, trainable_weights=trainable, moving_weights=moving)


def test_every_registered_layer_is_checked():
    ours = {entry.target for entry in LAYERS.values() if entry.target.__module__.startswith("encapkeras.")}
    assert ours == {case[0] for case in CASES.values()}
    assert {cls.__name__ for cls in ours} <= set(encapkeras.layers.__all__)


def made(case):
    """The layer of a case, built, and its input's shape without the batch."""
    layer_class, arguments, input_shape, *_ = CASES[case]
    layer = layer_class(**arguments)
    layer.build(with_batch(input_shape, None))
    return layer, input_shape


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("case", CASES)
def test_whole_numbers_give_what_the_same_floats_give(case, dtype):
    layer, shape = made(case)
    numbers = for_each(shape, lambda sizes: torch.randint(0, 9, sizes).to(dtype))
    expected = layer(keras.tree.map_structure(torch.Tensor.float, numbers))
    for given in (numbers, keras.tree.map_structure(torch.Tensor.numpy, numbers)):
        result = layer(given)
        assert result.dtype == torch.float32
        assert torch.equal(result, expected)


@pytest.mark.parametrize("case", CASES)
def test_a_batch_of_none_gives_none(case):
    layer, shape = made(case)
    assert tuple(layer(for_each(shape, torch.rand, 0)).shape) == layer.compute_output_shape(with_batch(shape, 0))


@pytest.mark.parametrize("case", CASES)
def test_meta_tensors_give_meta_tensors(case):
    layer_class, arguments, input_shape, *_ = CASES[case]
    with keras.device("meta"):
        layer = layer_class(**arguments)
        result = layer(for_each(input_shape, lambda shape: torch.rand(shape, device="meta")))
    assert result.is_meta
    assert tuple(result.shape) == layer.compute_output_shape(with_batch(input_shape))


# Those that draw numbers have the state of a seed, whole numbers, which torch cannot thaw in Keras' layers either.
MOVING = [name for name in CASES if CASES[name][3] and CASES[name][4] and CASES[name][0] is not InterestCapsules]


@pytest.mark.parametrize("case", MOVING)
def test_moving_statistics_stay_such_when_torch_thaws_a_layer(case):
    layer, shape = made(case)
    twin = type(layer).from_config(layer.get_config())
    twin.build(with_batch(shape, None))
    twin.set_weights(layer.get_weights())
    layer.requires_grad_(False)
    layer.requires_grad_(True)
    images = for_each(shape, torch.rand, 3)
    for training in (True, False):
        result = layer(images, training=training)
        assert torch.equal(result, twin(images, training=training))
        result.sum().backward()
    assert all(weight.value.grad is None for weight in layer.non_trainable_weights)


FIRST = r"takes images \(batch, height, width, channels\); these look like"
VOLUME = "look like volumes or videos"
OTHER_AXES = [
    (ConvBnRelu(filters=4), (3, 32, 24), FIRST),
    (PrimaryCapsules(types=2, dim=4, kernel_size=1), (1, 28, 28), FIRST),
    (ImageToCapsules(types=2), (3, 32, 32), FIRST),
    (Normalize(mean=0.5, deviation=1.0), (3, 16, 16), FIRST),
    (AddCoordinates(), (3, 16, 16), FIRST),
    (DynamicCapsules(capsules=3, dim=4), (8, 16, 16, 1), VOLUME),
    (EmCapsules(capsules=3, dim=4), (4, 8, 8, 3), VOLUME),
    (CapsuleDense(capsules=3, dim=4, kind="dense"), (8, 16, 16, 3), VOLUME),
    (CapsulesToImage(), (8, 16, 16, 1), VOLUME),
    (CapsuleConvolution(types=16, dim=4), (8, 16, 16, 1), VOLUME),
    (CapsuleStage(types=8, dim=4), (4, 8, 8, 1), VOLUME),
]


@pytest.mark.parametrize(("layer", "shape", "message"), OTHER_AXES)
def test_axes_in_another_order_are_warned_about_when_a_layer_is_built(layer, shape, message):
    with pytest.warns(UserWarning, match=message) as warned:
        layer(torch.rand(2, *shape))
    assert len(warned) == 1
    layer(torch.rand(2, *shape))


@pytest.mark.parametrize("shape", [(3, 4, 16), (1, 32, 16), (32, 32, 3), (5, 32, 32), (3, 3, 64)])
def test_usual_images_are_not_warned_about(shape):
    ConvBnRelu(filters=4)(torch.rand(2, *shape))


@pytest.mark.parametrize("sub_layers", [1, 2, 3])
def test_ports_have_symbolic_and_eager_shapes_and_out_is_the_plain_output(sub_layers):
    stage = CapsuleStage(types=4, dim=4, sub_layers=sub_layers)
    symbolic = stage(keras.Input(MAP), return_ports=True)
    x = torch.rand(2, *MAP)
    eager = stage(x, return_ports=True, training=False)
    assert tuple(symbolic) == tuple(eager) == CapsuleStage.ports
    for port, tensor in eager.items():
        assert tuple(tensor.shape[1:]) == symbolic[port].shape[1:]
    assert torch.allclose(eager["out"], stage(x, training=False), atol=1e-6)
    assert torch.equal(eager["input"], x)


def test_normalize_equals_its_formula():
    image = torch.rand(2, 4, 5, 3)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    made = Normalize(mean=mean, deviation=deviation)(image)
    for channel in range(3):
        expected = (image[..., channel] - mean[channel]) / deviation[channel]
        assert torch.allclose(made[..., channel], expected, atol=1e-6)
    assert torch.equal(Normalize(mean=0.5, deviation=0.25)(image), (image - 0.5) / 0.25)


def test_coordinates_are_rows_then_columns_behind_the_channels_of_any_image():
    for height, width in ((3, 5), (1, 2)):
        image = torch.rand(2, height, width, 4)
        channels, rows, columns = AddCoordinates()(image).split([4, 1, 1], dim=-1)
        assert torch.equal(channels, image)
        assert torch.equal(rows, torch.linspace(-1, 1, height)[None, :, None, None].expand_as(rows))
        assert torch.equal(columns, torch.linspace(-1, 1, width)[None, None, :, None].expand_as(columns))


def test_frozen_layer_keeps_its_moving_statistics():
    stage = CapsuleStage(types=4, dim=4)
    stage.build((None, *MAP))
    stage.trainable = False
    before = [weight.numpy().copy() for weight in stage.weights]
    stage(torch.rand(3, *MAP), training=True)
    assert all((old == new.numpy()).all() for old, new in zip(before, stage.weights, strict=True))


def test_initializers_count_the_fans_of_grouped_kernels():
    layer = CapsuleConvolution(types=64, dim=32, kernel_initializer="glorot_normal")
    layer.build((None, 4, 4, 64, 16))
    kernel = layer.trainable_weights[0].value
    assert tuple(kernel.shape) == (64 * 32, 16, 3, 3)
    expected = (2 / (9 * 16 + 9 * 64 * 32)) ** 0.5
    assert abs(kernel.std().item() / expected - 1) < 0.05


def test_a_seed_gives_every_weight_its_own_numbers():
    seeded = keras.initializers.RandomNormal(seed=3)
    stages = [CapsuleStage(types=4, dim=2, sub_layers=2, kernel_initializer=seeded) for _ in range(2)]
    for stage in stages:
        stage.build((None, *MAP))
    first, again = ({weight.name: weight.value for weight in stage.weights} for stage in stages)
    assert not torch.equal(first["sub_1_master_kernel"], first["sub_2_master_kernel"])
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("kind", ["per_dim", "factored"])
def test_initializers_count_the_fans_of_each_matrix_of_dense_capsules(kind):
    layer = CapsuleDense(capsules=40, dim=16, kind=kind, kernel_initializer="he_normal")
    layer.build((None, 512, 16))
    kernel = layer.trainable_weights[0].value
    fan = 512 if kind == "per_dim" else 16
    assert abs(kernel.std().item() / (2 / fan) ** 0.5 - 1) < 0.05
    matrices = kernel if kind == "per_dim" else kernel.permute(2, 0, 1)
    assert not torch.equal(matrices[0], matrices[1])


def test_a_registered_subclass_keeps_its_own_arguments():
    class NamedStage(CapsuleStage):
        """A stage.

        Args:
            width: Number of capsule types.
        """

        def __init__(self, width: int, **kwargs):
            super().__init__(types=width, dim=2, **kwargs)

    NamedStage = Registry("layer").register("named_stage")(NamedStage)
    config = NamedStage(width=4).get_config()
    assert config["width"] == 4
    assert NamedStage.from_config(config).types == 4


def test_initialisers_may_be_objects_names_or_maps():
    as_map = {"class_name": "RandomNormal", "config": {"stddev": 1.0}}
    for initializer in ("ones", as_map, keras.initializers.RandomNormal(stddev=1.0)):
        layer = CapsuleStage(types=2, dim=2, bias_initializer=initializer)
        assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


def test_numbers_of_numpy_are_numbers():
    sizes = np.array([5, 3])
    stage = CapsuleStage(types=np.int64(4), dim=np.array(2), kernel_size=sizes, relu=np.bool_(True))
    config = stage.get_config()
    assert json.loads(json.dumps(config)) == config
    assert (config["types"], config["dim"], config["kernel_size"], config["relu"]) == (4, 2, [5, 3], True)
    normalize = Normalize(mean=np.float32(0.5), deviation=np.array([0.25, 0.5]))
    assert normalize.get_config()["deviation"] == [0.25, 0.5]


REFUSED_ARGUMENTS = [
    (lambda: CapsuleStage(types=np.int64(-1), dim=2), "types: must be greater than 0; received -1"),
    (lambda: CapsuleStage(types=np.float32(4), dim=2), "types: must be an integer; received 4.0"),
    (lambda: CapsuleStage(types=-1, dim=2), "types: must be greater than 0; received -1"),
    (lambda: CapsuleStage(types=4, dim=0), "dim: must be greater than 0; received 0"),
    (lambda: CapsuleStage(types=4), "'capsule_stage' needs 'dim'"),
    (lambda: CapsuleStage(4, 2, kind="aide"), "kind: must be 'master' or 'approximate'; received 'aide'"),
    (lambda: CapsuleStage(4, 2, kernel_size=4), "kernel_size: must be an odd whole number"),
    (lambda: CapsuleStage(4, 2, kernel_size=[3, 3]), "kernel_size: must not name a size twice"),
    (lambda: CapsuleStage(4, 2, kernel_initializer="glorot_norm"), "Did you mean 'glorot_normal'?"),
    (
        lambda: CapsuleStage(4, 2, bias_initializer={"class_name": "RandomNormal", "config": {"std": 1}}),
        "initializer 'RandomNormal' does not take this config",
    ),
    (lambda: ConvBnRelu(filters=True), "filters: must be an integer; received True"),
    (lambda: Normalize(mean=0.5), "'normalize' needs 'deviation'"),
    (lambda: Normalize(mean=0.5, deviation=[0.2, 0]), "deviation: must be above 0; received [0.2, 0]"),
    (lambda: Normalize(mean=[], deviation=1), "mean: must be a number, or a list of one for each channel; received []"),
    (lambda: Squash(variant="logistic"), "variant: must be 'paper', 'exponential' or 'sigmoid'; received 'logistic'"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED_ARGUMENTS)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ArgumentError) as error:
        make()
    assert message in str(error.value)


REFUSED_SHAPES = [
    (ImageToCapsules(types=3), (4, 4, 8), "channels divide by types=3"),
    (CapsulesToImage(), (4, 4, 8), "takes capsules"),
    (CapsuleStage(types=8, dim=2), MAP, "with types=8"),
    (CapsuleStage(types=8, dim=2), (4, 4, 12), "channels divide by 8"),
    (CapsuleStage(types=8, dim=2), (None, None, 8), "takes capsules"),
    (CapsuleConvolution(types=8, dim=2), (16,), "takes capsules"),
    (
        CapsuleStage(types=8, dim=2, strides=3),
        (4, 4, 8),
        "strides=3 does not fit a map with sides of 4",
    ),
    (
        CapsuleConvolution(types=8, dim=2, strides=2),
        (1, 1, 8),
        "strides=2 does not fit a map with sides of 1",
    ),
    (CapsuleDense(capsules=3, dim=4), MAP, "keeps the dimension of its input capsules, 2"),
    (CapsuleDense(capsules=3, dim=4), (6, 6, 4), "takes capsules"),
    (ConvBnRelu(filters=3, kernel_size=9, padding=0), (8, 8, 3), "a kernel of 9 does not fit"),
    (ConvBnRelu(filters=3), MAP, "takes an image"),
    (PrimaryCapsules(types=3, dim=2), (8, 9, 3), "a kernel of 9 does not fit an image of shape (None, 8, 9, 3)"),
    (PrimaryCapsules(types=3, dim=2), MAP, "takes an image"),
    (Normalize(mean=[0.5, 0.5], deviation=1), (8, 8, 3), "mean must be one number, or one for each of 3 channels"),
    (Normalize(mean=0, deviation=[0.5]), (8, 8, 3), "deviation must be one number"),
    (Normalize(mean=0, deviation=1), MAP, "takes an image"),
    (AddCoordinates(), MAP, "takes an image"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED_SHAPES)
def test_wrong_inputs_are_refused(layer, shape, message):
    with pytest.raises(ShapeError) as error:
        layer(keras.Input(shape))
    assert message in str(error.value)


WINDOW_OF_MAP = "kernel_size null is a window as large as the map, and was built for"
OTHER_SIZES = [
    (CapsuleDense(capsules=3, dim=2), (2, 2, 4, 2), (3, 2, 4, 2), "was built for 16 input capsules"),
    (DynamicCapsules(3, 4, share_positions=False), (2, 2, 4, 2), (3, 2, 4, 2), "was built for 16 input capsules"),
    (SelfAttentionCapsules(3, 4), (2, 2, 4, 2), (3, 2, 4, 2), f"{WINDOW_OF_MAP} 2 x 2; received a map of 3 x 2"),
    (WindowDynamicCapsules(3, 4, matrices="all"), (5, 4, 2), (6, 4, 2), f"{WINDOW_OF_MAP} 1 x 5"),
    (WindowDynamicCapsules(3, 4, matrices="all", routing="random"), (5, 2), (6, 2), "was built for 5 input capsules"),
    (InvertedAttentionStack([{"capsules": 3, "dim": 4}]), (2, 2, 4, 4), (3, 2, 4, 4), f"layer_0: {WINDOW_OF_MAP}"),
    (HomogeneousVectorCapsules(3), (2, 2, 4), (3, 2, 4), "was built for 4 positions of 4 channels"),
    (
        HomogeneousVectorCapsules(3, capsules_of="filter"),
        (2, 2, 4),
        (2, 2, 5),
        "was built for 4 positions of 4 channels",
    ),
    (Heinsen2022Capsules(3, 4, variable_inputs=True), (5, 4), (6, 5), "was built for capsules of dimension 4"),
]


@pytest.mark.parametrize(("layer", "shape", "other", "message"), OTHER_SIZES)
def test_inputs_of_another_size_than_at_first_are_refused(layer, shape, other, message):
    expected = layer(torch.ones(2, *shape))
    with pytest.raises(ShapeError) as error:
        layer(torch.ones(2, *other))
    assert message in str(error.value)
    assert torch.equal(layer(torch.ones(2, *shape)), expected)


def test_the_default_kernel_of_dense_capsules_has_both_signs():
    layer = CapsuleDense(capsules=4, dim=2)
    layer.build((None, 5, 2))
    kernel = layer.trainable_weights[0].value
    assert kernel.min() < 0 < kernel.max()
