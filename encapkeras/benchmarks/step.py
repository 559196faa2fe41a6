"""A training step of a network, against its own convolutions alone and, of the default, the usual way of writing it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import torch

from encapkeras.benchmarks.network import Network, make_network
from encapkeras.benchmarks.recorded import Operation, convolutions_of, flops, products_of, replay
from encapkeras.benchmarks.runner import Way, device_name, milliseconds, spread_text, table_row, total_time
from encapkeras.functional.kernels.choice import kernels_in_words
from encapkeras.reference.encapnet import EncapNet
from encapkeras.spec.load import Source

NETWORK = "encapnet_master_sub2"
"""The one whose plain modules there are."""
OURS, PLAIN = "encapkeras, model.fit", "plain torch modules"
CONVOLUTIONS, PRODUCTS = "its convolutions alone", "its matrix products alone"


def measure(
    batch_size: int,
    steps: int,
    rounds: int,
    device: str = "cpu",
    network: Source = NETWORK,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Time rounds of `steps` training steps of a spec's network, and of what its step is compared with.

    The convolutions are those that the network itself makes in a step, recorded once and made again by themselves;
    its matrix products likewise. The plain modules have the network's weights.

    Raises:
        EncapkerasError: The spec has errors, or its network cannot be trained so on this device.
    """
    trained = make_network(network, batch_size, device, overrides)
    ways = {OURS: trained.fit(steps)}
    difference = None
    if network == NETWORK and all(change.startswith(("train.tf32=", "train.compile=")) for change in overrides):
        modules = EncapNet().to(device)
        copy_weights(trained.model, modules)
        difference = _largest_difference(trained.model, modules, trained.images)
        ways[PLAIN] = trained.with_tf32(_train_modules(modules, trained.images, trained.labels, steps))
    operations = trained.record()
    for name, some in ((CONVOLUTIONS, convolutions_of(operations)), (PRODUCTS, products_of(operations))):
        if some:
            ways[name] = trained.with_tf32(total_time(partial(replay, some), device, steps))
    measured = _in_turns(ways, rounds, batch_size)
    return {
        **_about(trained, batch_size, device),
        **measured,
        "largest_difference_of_outputs": difference,
        **_counts(operations),
    }


def _about(trained: Network, batch_size: int, device: str) -> dict[str, Any]:
    train = trained.model.examined.spec.train
    return {
        "network": trained.model.name,
        "batch_size": batch_size,
        "precision": train.precision,
        "tf32": train.tf32,
        "compile": train.compile,
        "kernels": kernels_in_words(device),
        "device": device_name(device),
    }


def _in_turns(ways: dict[str, Way], rounds: int, batch_size: int) -> dict[str, Any]:
    times = milliseconds(ways, rounds, batch_size, warm_up_each_round=False)
    per_image = times.median
    ours, usual, floor = (per_image.get(name) for name in (OURS, PLAIN, CONVOLUTIONS))
    return {
        "milliseconds_per_image": per_image,
        "spread": times.spread,
        "other_cores": times.other_cores,
        "speed_up": usual / ours if ours and usual else None,
        "multiple_of_convolutions": ours / floor if ours and floor else None,
    }


def _counts(operations: list[Operation]) -> dict[str, Any]:
    some = {"convolutions": convolutions_of(operations), "matrix_products": products_of(operations)}
    return {
        "operations": {name: len(part) for name, part in some.items()},
        "gigaflops": {name: flops(part) / 1e9 for name, part in some.items()},
    }


def copy_weights(model: keras.Model, modules: EncapNet) -> None:
    """Copy the weights of our default network into the same network of plain modules."""

    def ours(layer_name: str) -> dict[str, torch.Tensor]:
        return {weight.name: weight.value for weight in model.get_layer(layer_name).weights}

    def copy_convolution(module: Any, weights: dict[str, torch.Tensor], name: str) -> None:
        module.weight.copy_(weights[f"{name}_kernel"])
        module.bias.copy_(weights[f"{name}_bias"])

    def copy_norm(module: Any, weights: dict[str, torch.Tensor], name: str) -> None:
        module.weight.copy_(weights[f"{name}_scale"])
        module.bias.copy_(weights[f"{name}_offset"])

    with torch.no_grad():
        copy_convolution(modules.stem[0], ours("stem"), "convolution")
        copy_norm(modules.stem[1], ours("stem"), "norm")
        stages: list[Any] = list(modules.stages)
        for number, stage in enumerate(stages, start=1):
            weights = ours(f"stage{number}")
            copy_convolution(stage.main, weights, "main_1_master")
            copy_convolution(stage.projection, weights, "main_projection")
            copy_norm(stage.main_norm, weights, "main_1_norm")
            for step, (convolution, norm) in enumerate(zip(stage.subs, stage.sub_norms, strict=True), start=1):
                copy_convolution(convolution, weights, f"sub_{step}_master")
                copy_norm(norm, weights, f"sub_{step}_norm")
        modules.dense.weight.copy_(ours("digits")["kernel"])


def _largest_difference(model: keras.Model, modules: EncapNet, images: torch.Tensor) -> float:
    with torch.no_grad():
        received = model(images, training=True)
        expected = modules.train()(images.permute(0, 3, 1, 2))
        return float((received - expected).abs().max())


def _train_modules(modules: EncapNet, images: torch.Tensor, labels: torch.Tensor, steps: int) -> Way:
    """Steps written by hand: NCHW, eager, fused Adam with the L2 of the spec."""
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-4, weight_decay=5e-4, fused=True)
    nchw = images.permute(0, 3, 1, 2).contiguous()
    targets = torch.nn.functional.one_hot(labels, 10).float()

    def train_step() -> None:
        optimizer.zero_grad()
        lengths = modules(nchw)
        present = targets * (0.9 - lengths).clamp_min(0) ** 2
        absent = 0.5 * (1 - targets) * (lengths - 0.1).clamp_min(0) ** 2
        (present + absent).sum(1).mean().backward()
        optimizer.step()

    return total_time(train_step, images.device.type, steps)


def as_table(report: dict[str, Any]) -> str:
    """Return the report as lines of text."""
    shown = [f"{report['network']}, batch {report['batch_size']}", report["precision"]]
    shown += ["TF32"] * bool(report["tf32"]) + ["compiled"] * report["compile"]
    shown += [f"kernels: {report['kernels']}", report["device"]]
    lines = [f"{', '.join(shown)}; milliseconds an image: medians, least to largest"]
    for name, value in report["milliseconds_per_image"].items():
        lines.append(table_row(name, [f"{value:.3f}", spread_text(report["spread"][name], 3)], (28, 10, 22)))
    if report["speed_up"] is not None:
        lines.append(f"speed-up over plain modules            {report['speed_up']:.2f}")
    if report["multiple_of_convolutions"] is not None:
        lines.append(f"multiple of its own convolutions       {report['multiple_of_convolutions']:.2f}")
    if report["largest_difference_of_outputs"] is not None:
        lines.append(f"largest difference of outputs          {report['largest_difference_of_outputs']:.1e}")
    for name, count in report["operations"].items():
        lines.append(f"{name.replace('_', ' '):<38} {count}, {report['gigaflops'][name]:.1f} GFLOP")
    return "\n".join(lines)
