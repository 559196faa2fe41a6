"""Routing against the original code's numbers: outputs and all gradients, in float64."""

import pytest
import torch
from support import golden

from encapkeras.functional import dynamic_routing, em_routing

DYNAMIC = ["caplayer_dynamic_it1", "caplayer_dynamic_it3", "caplayer_dynamic_it5", "caplayer_dynamic_it3_conv"]
EM = [
    "caplayer_EM_it2_norm_act",
    "caplayer_EM_it3_act",
    "caplayer_EM_it3_norm_act",
    "caplayer_EM_it3_norm_conv",
]


class Case:
    """A golden file in our layouts; the leaves are the file's own tensors, so that gradients compare directly."""

    def __init__(self, name):
        self.file = golden.load(name)
        meta = self.file.meta
        self.types, self.dim, self.out_dim = meta["num_shared"], meta["in_dim"], meta["out_dim"]
        self.iterations, self.normalize = meta["route_num"], meta["E_step_norm"]
        self.leaves = {
            **{f"in/{key}": value.requires_grad_() for key, value in self.file.inputs.items()},
            **{f"param/{key}": value.requires_grad_() for key, value in self.file.parameters.items()},
        }

    def __getitem__(self, key):
        return self.leaves[key]

    @property
    def capsules(self):
        return self["in/x"].unflatten(1, (self.types, self.dim)).flatten(3).permute(0, 3, 1, 2)

    @property
    def weight(self):
        return self["param/W.weight"].reshape(self.types, -1, self.out_dim, self.dim)

    @property
    def bias(self):
        return self["param/W.bias"].reshape(self.types, -1, self.out_dim)

    def as_expected(self, capsules):
        """Output capsules laid out as the file has them: a list, or a map with j = (n, row, column)."""
        expected = self.file.outputs["v"]
        if expected.dim() == 3:
            return capsules
        _, channels, rows, columns = expected.shape
        by_type = capsules.unflatten(1, (channels // self.out_dim, rows, columns))
        return by_type.permute(0, 1, 4, 2, 3).flatten(1, 2)

    def assert_gradients(self, loss):
        loss.backward()
        for key, leaf in self.leaves.items():
            source, _, name = key.partition("/")
            found = self.file.input_gradients if source == "in" else self.file.parameter_gradients
            golden.assert_equal(leaf.grad, found[name])


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_routing(name):
    case = Case(name)
    out = case.as_expected(dynamic_routing(case.capsules, case.weight, case.bias, iterations=case.iterations))
    golden.assert_equal(out, case.file.outputs["v"])
    case.assert_gradients((out * golden.weights_of_sum(8, out.shape)).sum())


@pytest.mark.parametrize("name", EM)
def test_em_routing(name):
    case = Case(name)
    activations = case.leaves.get("in/activate")
    if activations is not None:
        activations = activations.unflatten(1, (case.types, -1)).transpose(1, 2)
    mean, activation = em_routing(
        case.capsules,
        case.weight,
        case.bias,
        activations,
        case["param/beta_v"],
        case["param/beta_a"],
        iterations=case.iterations,
        normalize_distances=case.normalize,
    )
    mean = case.as_expected(mean)
    golden.assert_equal(mean, case.file.outputs["v"])
    golden.assert_equal(activation, case.file.outputs["activation"])
    loss = (mean * golden.weights_of_sum(8, mean.shape)).sum()
    case.assert_gradients(loss + (activation * golden.weights_of_sum(9, activation.shape)).sum())


def test_double_precision_is_kept():
    case = Case("caplayer_dynamic_it1")
    assert dynamic_routing(case.capsules, case.weight).dtype == torch.float64
