"""The default network equals its plain torch modules: outputs, gradients and moving statistics, in float64."""

import keras
import pytest
import torch
from support import golden

from encapkeras import build_model
from encapkeras.benchmarks.step import copy_weights, measure
from encapkeras.reference.encapnet import EncapNet


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("batch", [1, 3])
def test_default_network_equals_plain_modules(batch):
    keras.utils.set_random_seed(0)
    model = build_model("encapnet_master_sub2")
    modules = EncapNet().double()
    copy_weights(model, modules)
    images = torch.rand(batch, 32, 32, 3, dtype=torch.float64)
    upstream = torch.rand(batch, 10, dtype=torch.float64)
    ours, plain = model(images, training=True), modules(images.permute(0, 3, 1, 2))
    golden.assert_equal(ours, plain)
    for output in (ours, plain):
        (output * upstream).sum().backward()
    weights = {weight.path: weight.value for weight in model.weights}
    for number, stage in enumerate(modules.stages, start=1):
        pairs = {
            "main_1_master_kernel": stage.main.weight,
            "main_projection_kernel": stage.projection.weight,
            "main_1_norm_scale": stage.main_norm.weight,
            "sub_1_master_kernel": stage.subs[0].weight,
            "sub_2_norm_offset": stage.sub_norms[1].bias,
        }
        for name, parameter in pairs.items():
            scale = parameter.grad.abs().max().item()
            golden.assert_equal(weights[f"stage{number}/{name}"].grad, parameter.grad, 1e-9 * max(1, scale))
        for name, norm in {"main_1": stage.main_norm, "sub_2": stage.sub_norms[1]}.items():
            golden.assert_equal(weights[f"stage{number}/{name}_norm_mean"], norm.running_mean, 1e-12)
            golden.assert_equal(weights[f"stage{number}/{name}_norm_variance"], norm.running_var, 1e-12)


def test_step_benchmark_reports_the_same_mathematics():
    report = measure(batch_size=2, steps=1, rounds=1)
    assert report["largest_difference_of_outputs"] < 1e-3
    assert set(report["milliseconds_per_image"]) == {
        "encapkeras, model.fit",
        "plain torch modules",
        "its convolutions alone",
        "its matrix products alone",
    }
    times = report["milliseconds_per_image"]
    assert report["speed_up"] == times["plain torch modules"] / times["encapkeras, model.fit"]
