"""Regularizers and constraints of our layers: what they see, what they cost, what they hold, how they are given."""

import inspect

import keras
import pytest
import torch
from support.layer_cases import CASES, MAP
from support.layer_check import with_batch

import encapkeras
from encapkeras.errors import ArgumentError, RegistrationError, ShapeError
from encapkeras.layers import (
    LAYERS,
    CapsuleConvolution,
    CapsuleDense,
    CapsuleLayer,
    CapsuleStage,
    ConvBnRelu,
    DynamicCapsules,
    EmCapsules,
)

WITH_WEIGHTS = [name for name in CASES if CASES[name][3]]


def built(case, **options):
    layer_class, arguments, shape, *_ = CASES[case]
    layer = layer_class(**arguments, **options)
    layer.build(with_batch(shape, None))
    return layer


def role(layer, weight):
    """Which of a layer's regularizable weights one is: the longest that its name ends with."""
    return max((name for name in layer.regularizable if weight.name.endswith(name)), key=len)


@pytest.mark.parametrize("case", WITH_WEIGHTS)
def test_the_penalty_is_that_of_all_weights_of_the_name_and_its_gradient_arrives(case):
    for name in CASES[case][0].regularizable:
        layer = built(case, **{f"{name}_regularizer": keras.regularizers.L2(0.25)})
        mine = [weight for weight in layer.trainable_weights if role(layer, weight) == name]
        assert len(layer.losses) == len(mine)
        if not mine:
            continue
        penalty = sum(layer.losses)
        torch.testing.assert_close(penalty, 0.25 * sum(weight.value.square().sum() for weight in mine))
        penalty.backward()
        for weight in layer.trainable_weights:
            expected = 0.5 * weight.value.detach() if role(layer, weight) == name else None
            torch.testing.assert_close(weight.value.grad, expected)


@pytest.mark.parametrize("case", WITH_WEIGHTS)
def test_every_trainable_weight_has_a_constraint(case):
    layer = built(case, **{f"{name}_constraint": "non_neg" for name in CASES[case][0].regularizable})
    for weight in layer.trainable_weights:
        weight.assign(torch.randn(weight.shape))
        assert torch.equal(weight.constraint(weight), weight.value.clamp_min(0))


# layer, axis of the constraint, its weight, the axes of the weight as stored over which the norm then is
AXES = [
    (lambda **k: ConvBnRelu(5, **k), (6, 7, 3), [0, 1, 2], "convolution_kernel", (1, 2, 3)),
    (lambda **k: ConvBnRelu(5, **k), (6, 7, 3), 2, "convolution_kernel", (1,)),
    (lambda **k: CapsuleConvolution(4, 3, **k), MAP, [0, 1, 2], "step_1_master_kernel", (1, 2, 3)),
    (lambda **k: CapsuleStage(4, 4, **k), MAP, [0, 1], "sub_2_master_kernel", (2, 3)),
    (lambda **k: DynamicCapsules(5, 3, **k), MAP, 0, "kernel", (3,)),
    (lambda **k: DynamicCapsules(5, 3, **k), MAP, 1, "kernel", (0, 1, 2)),
    (lambda **k: EmCapsules(5, 3, **k), MAP, 0, "kernel", (3,)),
    (lambda **k: CapsuleDense(5, 2, **k), MAP, 0, "kernel", (1,)),
    (lambda **k: CapsuleDense(5, 2, **k), MAP, 1, "kernel", (0, 2)),
    (lambda **k: CapsuleDense(5, 3, kind="dense", **k), MAP, 0, "kernel", (1,)),
    (lambda **k: CapsuleDense(5, 3, kind="factored", **k), MAP, 0, "component_kernel", (0,)),
    (lambda **k: CapsuleDense(5, 3, kind="factored", **k), MAP, 0, "capsule_kernel", (1,)),
]


@pytest.mark.parametrize(("make", "shape", "axis", "name", "stored"), AXES)
def test_a_norm_holds_after_a_step_along_the_axis_in_the_layout_of_keras(make, shape, axis, name, stored):
    keras.utils.set_random_seed(0)
    layer = make(kernel_constraint=keras.constraints.MaxNorm(0.5, axis=axis))
    model = keras.Sequential([keras.Input(shape), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    weight = next(weight for weight in layer.weights if weight.name == name)
    weight.assign(3 * torch.randn(weight.shape))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    before = weight.value.detach().clone()
    model.fit(torch.rand(4, *shape), torch.rand(4, 1), verbose=0)
    norm = torch.linalg.vector_norm(before, dim=stored, keepdim=True)
    assert norm.max() > 0.6
    torch.testing.assert_close(weight.value.detach(), before * norm.clamp_max(0.5) / norm, rtol=1e-4, atol=1e-6)


def test_biases_are_vectors_to_a_constraint():
    layer = built("dynamic_capsules", bias_constraint="unit_norm")
    layer.bias.assign(torch.randn(layer.bias.shape))
    assert layer.bias.constraint(layer.bias).norm().item() == pytest.approx(1, abs=1e-5)


def test_a_regularizer_of_matrices_sees_the_matrices_of_votes():
    layer = built("dynamic_capsules", kernel_regularizer="orthogonal_regularizer")
    as_matrix = layer.kernel.value.permute(3, 0, 1, 2).flatten(1)  # from 2 numbers to 4 * 5 * 3
    (penalty,) = layer.losses
    torch.testing.assert_close(penalty, keras.regularizers.OrthogonalRegularizer()(as_matrix))


def test_what_does_not_fit_is_named_with_the_shape_in_the_layout_of_keras():
    layer = ConvBnRelu(4, kernel_regularizer="orthogonal_regularizer", name="stem")
    layer.build((None, 8, 8, 3))
    with pytest.raises(ShapeError, match=r"OrthogonalRegularizer .* 'stem/convolution_kernel', .* is \(3, 3, 3, 4\): "):
        _ = layer.losses


def test_the_activity_is_that_of_the_output_whatever_ports_are_asked_for():
    stage = CapsuleStage(4, 4, activity_regularizer=keras.regularizers.L2(0.5))
    x = torch.rand(3, *MAP)
    for ports in (False, True):
        made = stage(x, return_ports=ports)
        out = made["out"] if ports else made
        (penalty,) = stage.losses
        torch.testing.assert_close(penalty, 0.5 * out.square().sum() / 3)
    assert sorted(stage(keras.Input(MAP), return_ports=True)) == sorted(CapsuleStage.ports)


@keras.saving.register_keras_serializable("tests")
class Sum(keras.regularizers.Regularizer):
    """The sum of a weight."""

    def __call__(self, weight):
        return keras.ops.sum(weight)

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable("tests")
def total(weight):
    return keras.ops.sum(weight)


@pytest.mark.parametrize("given", ["l2", "L2", {"class_name": "l2"}, keras.regularizers.L2(), Sum(), Sum, total])
def test_regularizers_are_names_maps_objects_or_registered_functions(given):
    layer = ConvBnRelu(4, kernel_regularizer=given, activity_regularizer=given)
    again = ConvBnRelu.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    image = torch.rand(2, 8, 8, 3)
    layer(image), again(image)
    again.set_weights(layer.get_weights())
    again(image)
    assert [loss.item() for loss in again.losses] == [loss.item() for loss in layer.losses]
    assert len(layer.losses) == 2


def test_a_saved_initializer_of_ones_own_is_loaded_again():
    @keras.saving.register_keras_serializable("tests")
    class Halves(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return keras.ops.full(shape, 0.5, dtype)

    layer = ConvBnRelu.from_config(ConvBnRelu(4, kernel_initializer=Halves()).get_config())
    layer.build((None, 8, 8, 3))
    assert (layer.weights[0].value == 0.5).all()


def test_a_configuration_has_only_what_was_given():
    assert not [name for name in ConvBnRelu(4).get_config() if name.endswith(("_regularizer", "_constraint"))]
    assert ConvBnRelu(4, bias_constraint="non_neg").get_config()["bias_constraint"] == "non_neg"


def unregistered(weight):
    return keras.ops.sum(weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_regularizer": "l3"}, "no Keras regularizer is called 'l3'. Allowed: l1, l1_l2, l2"),
        ({"bias_constraint": "maxnorm"}, "no Keras constraint is called 'maxnorm'. Did you mean 'max_norm'?"),
        (
            {"scale_regularizer": {"class_name": "l2", "config": {"l": 1}}},
            "'l2' does not take this config: L2.__init__",
        ),
        ({"kernel_regularizer": {"class_name": "l2", "config": {"l2": -1}}}, "expected a non-negative float"),
        ({"offset_constraint": 3}, "must be the name of a Keras constraint or a map"),
        ({"kernel_regularizer": lambda weight: 0}, "a lambda cannot be saved: make it a function, and register"),
        ({"kernel_regularizer": unregistered}, "register your own regularizer with keras.saving.register"),
    ],
)
def test_what_is_no_regularizer_or_constraint_is_refused(arguments, message):
    with pytest.raises(ArgumentError) as error:
        ConvBnRelu(4, **arguments)
    assert message in str(error.value)


def test_a_weight_that_a_layer_has_not_has_no_argument():
    for wrong in ("scale_regularizer", "kernel_regulariser"):
        with pytest.raises(ValueError, match="Unrecognized keyword"):
            CapsuleDense(5, 2, **{wrong: "l2"})


@pytest.fixture
def registered():
    before = set(LAYERS)
    yield encapkeras.register_layer
    LAYERS.forget(set(LAYERS) - before)


def test_a_layer_of_ones_own_declares_its_weights_and_hands_them_on(registered):
    @registered("own_mixing")
    class Mixing(CapsuleLayer):
        """Mixes channels."""

        regularizable = ("kernel",)

        def build(self, shape):
            self.kernel = self.add_weight((shape[-1], 2), name="kernel", **self.regularizing("kernel"))

        def compute_output_shape(self, shape):
            return (*shape[:-1], 2)

        def call(self, image):
            return image @ self.kernel.value

    maximum = {"class_name": "max_norm", "config": {"max_value": 0.1, "axis": 0}}
    nodes = {
        "own": {"layer": "own_mixing", "inputs": "image", "kernel_regularizer": "l2", "kernel_constraint": maximum}
    }
    spec = {"model": {"inputs": {"image": [2, 2, 4]}, "nodes": nodes, "outputs": {"out": "own"}}}
    (layer,) = encapkeras.build_model(spec).layers[1:]
    assert layer.losses[0].item() == pytest.approx(0.01 * layer.kernel.value.square().sum().item())
    assert layer.kernel.constraint(layer.kernel).norm(dim=0).max() <= 0.1 + 1e-6
    nodes["own"]["kernel_regularizer"] = "l3"
    with pytest.raises(encapkeras.SpecError, match="no regularizer of Keras is called 'l3'"):
        encapkeras.check_spec(spec)


def test_weights_that_are_no_names_are_refused(registered):
    wrong = type("Wrong", (CapsuleLayer,), {"regularizable": "kernel", "__doc__": "Wrong."})
    with pytest.raises(RegistrationError, match="'regularizable' of class Wrong must be a tuple of names"):
        registered("own_wrong")(wrong)


def test_docstrings_name_every_weight_that_has_them():
    for entry in LAYERS.values():
        text = inspect.getdoc(entry.target) or ""
        assert all(f"`{weight}`" in text for weight in entry.target.regularizable if weight != "kernel"), entry.name
