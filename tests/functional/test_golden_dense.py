"""Fully connected capsules equal the original's, values and gradients, in float64."""

import torch
from support import golden

from encapkeras.functional import (
    capsule_dense_factored,
    capsule_dense_full,
    capsule_dense_per_dim,
    list_capsules,
)


def capsules_of(image, dim):
    return image.permute(0, 2, 3, 1).unflatten(3, (-1, dim))


def check(name, compute):
    expected = golden.load(name)
    x = expected.inputs["x"].clone().requires_grad_()
    parameters = {key: value.clone().requires_grad_() for key, value in expected.parameters.items()}
    y = compute(capsules_of(x, expected.meta["cap_dim"]), parameters, expected.meta)
    golden.assert_equal(y, expected.outputs["y"])
    (y * golden.weights_of_sum(21, y.shape)).sum().backward()
    golden.assert_equal(x.grad, expected.input_gradients["x"])
    for key, gradient in expected.parameter_gradients.items():
        golden.assert_equal(parameters[key].grad, gradient)


def test_per_dim_equals_the_original():
    check("capfc_default", lambda x, p, _: capsule_dense_per_dim(list_capsules(x), p["weight"]))


def test_dense_equals_the_original():
    def compute(x, parameters, meta):
        return capsule_dense_full(x, parameters["fc_layer.weight"], parameters["fc_layer.bias"], meta["out_cap_num"])

    check("capfc_fc", compute)


def test_factored_equals_the_original():
    def compute(x, parameters, meta):
        components = parameters["W1"].unflatten(1, (meta["cap_dim"], meta["out_cap_num"]))
        return capsule_dense_factored(list_capsules(x), components, parameters["W2"].squeeze(-1))

    check("capfc_paper", compute)


def test_capsules_are_listed_by_type_then_row_then_column():
    listed = list_capsules(torch.arange(2 * 2 * 3).view(1, 2, 2, 3, 1))
    assert listed.flatten().tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
