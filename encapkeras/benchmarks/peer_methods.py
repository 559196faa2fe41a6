"""What `encapkeras bench peers` measures: of each published method a layer and a whole training step, ours and others.

A method is added by a function for its layer, one for its step, and a line in `METHODS` and in `routing_sizes.PEERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from encapkeras.benchmarks.network import Network, make_network
from encapkeras.benchmarks.runner import Way, forward_and_backward, total_time
from encapkeras.functional import EmOptions, dynamic_routing, window_em_routing
from encapkeras.model.precision import tf32
from encapkeras.reference import peers
from encapkeras.reference.peers import CapsNet, Em, EmNet

OURS, PRODUCTS, BROADCAST = "encapkeras", "torch, votes by one product", "torch, textbook, broadcast"
ITERATIONS = 3
CAPSNET = "capsnet_sabour"
PLAIN_ADAM = (
    "train.schedule={kind: constant}",
    "train.weight_decay=null",
    "train.optimizer={kind: adam, learning_rate: 1e-3}",
)
EM: dict[str, Any] = {
    "spec": "encapkeras/1",
    "name": "em_512",
    "model": {
        "inputs": {"image": [28, 28, 1]},
        "nodes": {
            "conv": {
                "layer": "keras.Conv2D",
                "inputs": "image",
                "filters": 64,
                "kernel_size": 5,
                "strides": 2,
                "activation": "relu",
            },
            "channels": {"layer": "keras.Conv2D", "inputs": "conv", "filters": 512, "kernel_size": 5, "strides": 2},
            "poses": {"layer": "image_to_capsules", "inputs": "channels", "types": 32},
            "activations": {
                "layer": "keras.Conv2D",
                "inputs": "conv",
                "filters": 32,
                "kernel_size": 5,
                "strides": 2,
                "activation": "sigmoid",
            },
            "classes": {
                "layer": "window_em_capsules",
                "inputs": ["poses", "activations"],
                "capsules": 10,
                "dim": 16,
                "iterations": ITERATIONS,
            },
        },
        "outputs": {"classes": "classes/activations"},
    },
    "losses": {"classes": {"loss": "spread", "start": 0.9, "end": 0.9}},
    "train": {"optimizer": {"kind": "adam", "learning_rate": 1e-3}},
}
"""A whole network around EM routing of 512 capsules, 32 types on a map of 4x4, with 4x4 poses."""


@dataclass(frozen=True)
class Contest:
    """What is measured side by side: ways, all of the same function, and how far their outputs are apart at most."""

    what: str
    ways: dict[str, Way]
    difference: float


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        layer: Makes the contest of its routing layer, from a batch size and a device.
        step: Makes that of a whole training step; also from the number of steps that are timed at once.
    """

    layer: Callable[[int, str], Contest]
    step: Callable[[int, int, str], Contest]


def _capsnet_layer(batch_size: int, device: str) -> Contest:
    random = torch.Generator().manual_seed(0)
    capsules = 0.5 * torch.randn(batch_size, 1152, 8, generator=random)
    weight = torch.randn(1152, 10, 16, 8, generator=random) / 12**0.5
    leaves = [tensor.to(device).requires_grad_() for tensor in (capsules, weight)]

    def ours(capsule_BID: torch.Tensor, weight_IJED: torch.Tensor) -> torch.Tensor:
        listed = capsule_BID.unsqueeze(1)
        return dynamic_routing(listed, weight_IJED, None, iterations=ITERATIONS, softmax_over="outputs")

    routings = {OURS: ours, PRODUCTS: peers.dynamic_by_products, BROADCAST: peers.dynamic_by_broadcasting}
    return _layer("routing of 1,152 capsules of 8 to 10 of 16", routings, leaves)


def _em_layer(batch_size: int, device: str) -> Contest:
    random = torch.Generator().manual_seed(0)
    tensors = [
        0.5 * torch.randn(batch_size, 512, 4, 4, generator=random),
        torch.rand(batch_size, 512, generator=random),
        torch.randn(512, 10, 4, 4, generator=random) / 2,
        torch.rand(10, generator=random),
        torch.rand(10, generator=random),
    ]
    leaves = [tensor.to(device).requires_grad_() for tensor in tensors]

    def ours(pose: torch.Tensor, active: torch.Tensor, weight: torch.Tensor, *betas: torch.Tensor) -> Any:
        children = pose.view(len(pose), 4, 4, 32, 16), active.view(len(active), 4, 4, 32)
        matrices = weight.view(4, 4, 32, 10, 4, 4)
        means, scores = window_em_routing(*children, matrices, *betas, iterations=ITERATIONS, options=EmOptions())
        return means[:, 0, 0], scores[:, 0, 0]

    routings: dict[str, Callable[..., Any]] = {
        OURS: ours,
        PRODUCTS: partial(peers.em_by_products, options=EmOptions()),
        BROADCAST: peers.em_by_broadcasting,
    }
    return _layer("EM routing of 512 capsules with 4x4 poses to 10", routings, leaves)


def _layer(what: str, routings: dict[str, Callable[..., Any]], leaves: list[torch.Tensor]) -> Contest:
    with torch.no_grad(), tf32(False):
        outputs = {name: _joined(route(*leaves)) for name, route in routings.items()}
    ways = {name: forward_and_backward(partial(route, *leaves), leaves) for name, route in routings.items()}
    return Contest(what, ways, _difference(outputs))


def _capsnet_step(batch_size: int, steps: int, device: str) -> Contest:
    network = make_network(CAPSNET, batch_size, device, PLAIN_ADAM)
    routings = {PRODUCTS: peers.dynamic_by_products, BROADCAST: peers.dynamic_by_broadcasting}
    modules = {name: CapsNet(route).to(device) for name, route in routings.items()}
    for module in modules.values():
        copy_capsnet(network, module)
    lengths = {name: partial(_lengths, module) for name, module in modules.items()}
    return _step("a training step of CapsNet with its decoder", network, modules, lengths, steps)


def _lengths(module: CapsNet, image: torch.Tensor) -> torch.Tensor:
    lengths: torch.Tensor = module(image).norm(dim=-1)
    return lengths


def _em_step(batch_size: int, steps: int, device: str) -> Contest:
    network = make_network(EM, batch_size, device)
    routings: dict[str, Em] = {
        PRODUCTS: partial(peers.em_by_products, options=EmOptions()),
        BROADCAST: peers.em_by_broadcasting,
    }
    modules = {name: EmNet(route).to(device) for name, route in routings.items()}
    for module in modules.values():
        copy_em(network, module)
    return _step("a training step of a network with EM routing", network, modules, modules, steps)


def _step(
    what: str,
    network: Network,
    modules: Mapping[str, Any],
    scores: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
    steps: int,
) -> Contest:
    nchw = network.images.permute(0, 3, 1, 2).contiguous()
    with torch.no_grad(), tf32(False):
        outputs = {OURS: network.model(network.images, training=False)}
        outputs |= {name: score(nchw) for name, score in scores.items()}
    ways = {OURS: network.fit(steps)}
    ways |= {name: _train(module, nchw, network.labels, steps) for name, module in modules.items()}
    return Contest(what, ways, _difference(outputs))


def _train(module: Any, images: torch.Tensor, labels: torch.Tensor, steps: int) -> Way:
    """Steps written by hand, with fused Adam."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    targets = torch.nn.functional.one_hot(labels, 10).float()

    def train_step() -> None:
        optimizer.zero_grad()
        module.loss(images, targets).backward()
        optimizer.step()

    return total_time(train_step, images.device.type, steps)


def copy_capsnet(network: Network, module: CapsNet) -> None:
    """Copy the weights of `capsnet_sabour` into the plain network."""
    model = network.model
    primary = {weight.value.dim(): weight.value for weight in model.get_layer("capsules").weights}
    decoder = {weight.name: weight.value for weight in model.side_losses["reconstruction"].weights}
    dense: list[Any] = [part for part in module.decoder if isinstance(part, torch.nn.Linear)]
    with torch.no_grad():
        _copy_convolution(model, "conv", module.conv)
        module.primary.weight.copy_(primary[4])
        bias: Any = module.primary.bias
        bias.copy_(primary[1])
        module.weight.copy_(model.get_layer("digits").kernel.value)
        for number, layer in enumerate(dense, 1):
            layer.weight.copy_(decoder[f"kernel{number}"].T)
            layer.bias.copy_(decoder[f"bias{number}"])


def copy_em(network: Network, module: EmNet) -> None:
    """Copy the weights of the network of `EM` into the plain one."""
    classes = network.model.get_layer("classes")
    with torch.no_grad():
        for name, convolution in (
            ("conv", module.conv),
            ("channels", module.poses),
            ("activations", module.activations),
        ):
            _copy_convolution(network.model, name, convolution)
        module.weight.copy_(classes.kernel.value.reshape(module.weight.shape))
        module.beta_v.copy_(classes.beta_v.value)
        module.beta_a.copy_(classes.beta_a.value)


def _copy_convolution(model: Any, name: str, convolution: Any) -> None:
    layer = model.get_layer(name)
    convolution.weight.copy_(layer.kernel.value.permute(3, 2, 0, 1))
    convolution.bias.copy_(layer.bias.value)


def _joined(outputs: Any) -> torch.Tensor:
    parts = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    return torch.cat([part.flatten() for part in parts])


def _difference(outputs: dict[str, torch.Tensor]) -> float:
    ours, *others = outputs.values()
    return max(float((ours - other).abs().max()) for other in others)


METHODS: dict[str, Method] = {
    "capsnet": Method(_capsnet_layer, _capsnet_step),
    "em": Method(_em_layer, _em_step),
}
