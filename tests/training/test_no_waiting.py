"""No step of a training waits for a GPU, but for a few numbers that Keras copies to it."""

import keras
import pytest
import torch
from support.layer_cases import CASES
from support.pretended_gpu import GPU, PretendedGpu
from support.small_networks import INTERESTS, SMALL_NETWORKS
from support.training_steps import batch_of, compiled_model

FROM_HOST = "torch.as_tensor, from the host"

# What Keras does in each step: in which operation and where, and what for. Most copy one number of Python to the GPU.
OF_KERAS = {
    (FROM_HOST, "losses/loss.py reduce_values"): "the number of samples, by which a sum becomes a mean",
    (FROM_HOST, "trainers/compile_utils.py call"): "the weight of a loss",
    (FROM_HOST, "metrics/reduction_metrics.py reduce_to_samplewise_values"): "the number of samples, as a weight",
    (FROM_HOST, "metrics/reduction_metrics.py update_state"): "the number of samples",
    (FROM_HOST, "optimizers/base_optimizer.py apply"): "1, that the count of steps grows by",
    (FROM_HOST, "optimizers/base_optimizer.py _update_step_fn"): "the number of steps whose gradients are added",
    (FROM_HOST, "layers/core/masking.py call"): "the number that padded steps have, and 0, which they become",
    (FROM_HOST, "models/functional.py call"): "the number that padded steps have, for their mask",
}
OF_STEP = "optimizers/base_optimizer.py _backend_apply_gradients"
OF_KERAS |= {
    (FROM_HOST, OF_STEP): "numbers of the optimizer",
    ("torch.Tensor.__bool__", OF_STEP): "whether a step is due, with `accumulate`",
    ("aten._local_scalar_dense", OF_STEP): "the learning rate of SGD",
}

NETWORKS = ["quickstart", "encapnet_digits", "encapnet_ot_digits", "capsnet_em_digits"]
NETWORKS += ["routing_heinsen_2019", "routing_heinsen_2022", "routing_self", "routing_attention"]
NETWORKS += ["routing_variational_bayes", "routing_average", "capsnet_sabour_fashion_mnist"]
# The pretended GPU has no integer parameters, such as the state of a generator of random numbers.
SMALL = {name: changes for name, changes in SMALL_NETWORKS.items() if name != INTERESTS}
CHANGES = [
    "train.accumulate=2",
    "train.clip_norm=1.0",
    "train.ema.momentum=0.9",
    "train.weight_decay={kind: coupled, rate: 1e-4}",
    "train.optimizer={kind: sgd, learning_rate: 0.01}",
]


def shown(waits):
    return "\n".join(sorted(set(map(str, waits))))


def random(shape):
    return torch.rand(2, *shape, device="cuda", requires_grad=True)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("interest_capsules")])
def test_no_layer_waits(name):
    kind, arguments, shape, *_ = CASES[name]
    with keras.device("cuda"), PretendedGpu() as gpu:
        layer = kind(**arguments)
        inputs = [random(each) for each in shape] if isinstance(shape, list) else random(shape)
        layer(inputs, training=True)  # makes its weights
        gpu.waits.clear()
        outputs = [out for out in keras.tree.flatten(layer(inputs, training=True)) if out.is_floating_point()]
        assert all(out.device == GPU for out in outputs)
        sum(out.square().sum() for out in outputs).backward()
    assert not gpu.waits, shown(gpu.waits)


@pytest.mark.parametrize(
    "name, changes",
    [*((name, []) for name in NETWORKS), *SMALL.items(), *(("quickstart", [each]) for each in CHANGES)],
)
def test_no_step_waits(name, changes):
    model = compiled_model(name, changes)
    with keras.device("cuda"), PretendedGpu() as gpu:
        batch = batch_of(model, "cuda")
        logs = model.train_step(batch)  # looks at the range of the images, once
        gpu.waits.clear()
        logs = model.train_step(batch)
    unknown = [wait for wait in gpu.waits if (wait.operation, wait.keras) not in OF_KERAS]
    assert not unknown, shown(unknown)
    assert len(gpu.waits) < 12, "these are copies of single numbers, and no more of them for more weights"
    assert logs["loss"].isfinite()
