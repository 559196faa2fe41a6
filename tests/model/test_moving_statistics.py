"""A batch that is not finite leaves the moving statistics of a network as they are, in every layer and precision."""

import keras
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import encapkeras
from encapkeras.model.moving_statistics import MovingStatistics

IMAGES = np.random.default_rng(0).random((4, 8, 8, 1), dtype=np.float32)
WARM = {"moving_average": "warm"}
NODES = {
    "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 4},
    "norm": {"layer": "keras.BatchNormalization", "inputs": "stem"},
    "stage": {"layer": "capsule_stage", "inputs": "norm", "types": 2, "dim": 4, "kind": "approximate", **WARM},
    "flat": {"layer": "keras.Flatten", "inputs": "stage"},
    "scores": {"layer": "keras.Dense", "inputs": "flat", "units": 10},
}


def spec(precision="float32"):
    return {
        "spec": "encapkeras/1",
        "name": "normed",
        "data": {"dataset": "digits", "image_size": 8},
        "model": {"nodes": NODES, "outputs": {"classes": "scores"}},
        "losses": {"classes": {"loss": "margin"}},
        "train": {"precision": precision},
    }


def statistics(model):
    return [weight.numpy().copy() for weight in model.non_trainable_weights]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.inf, np.nan, 1e38])  # the squares of the last one overflow
def test_a_bad_batch_changes_none(precision, value):
    model = encapkeras.build_model(spec(precision))
    bad = IMAGES.copy()
    bad[1, 2, 3] = value
    model(torch.tensor(IMAGES), training=True)
    before = statistics(model)
    assert {"stem/norm_mean", "norm/moving_mean"} <= {weight.path for weight in model.non_trainable_weights}
    model(torch.tensor(bad), training=True)
    for received, expected in zip(statistics(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)
    model(torch.tensor(IMAGES**2), training=True)
    assert all((after != last).any() for after, last in zip(statistics(model), before, strict=True))


def test_the_norms_of_side_losses_are_watched_too():
    model = encapkeras.build_model("encapnet_ot_digits", ["vars.types=4", "vars.sub_layers=1"])
    model.compile("sgd", loss=model.make_losses(), loss_weights=model.loss_weights)
    prediction = model(torch.rand(4, *model.input_shape[1:]), training=True)
    before = statistics(model)
    prediction._encapkeras_taps[0] *= torch.inf
    model.compute_loss(None, torch.arange(4), prediction, training=True)
    for received, expected in zip(statistics(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)


def test_nothing_is_read_but_the_statistics_and_no_device_is_waited_for():
    model = encapkeras.build_model(spec())
    numbers = sum(weight.size for weight in statistics(model))
    model.get_layer("scores").trainable = False  # whose weights do not move
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            results = operation(*args, **(kwargs or {}))
            tensors = [each for each in keras.tree.flatten(results) if isinstance(each, torch.Tensor)]
            seen.append((operation.overloadpacket.__name__, sum(each.numel() for each in tensors)))
            return results

    with Watch(), MovingStatistics(model).kept_if_not_finite():
        pass
    names = [name for name, _ in seen]
    assert max(size for _, size in seen) == numbers
    assert not {"_local_scalar_dense", "item", "nonzero", "_to_copy"} & set(names)
    assert len([name for name in names if name not in ("view", "split", "split_with_sizes", "detach")]) < 12
