"""A training step of the default network, against the usual way of writing it, and its convolutions alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import keras
import torch

from encapkeras.benchmarks.runner import Way, device_name, medians, synchronize, table_row, total_time
from encapkeras.losses import MarginLoss
from encapkeras.model.spec_model import build_model
from encapkeras.reference.encapnet import EncapNet

NETWORK = "encapnet_master_sub2"


def measure(batch_size: int, steps: int, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Time rounds of `steps` training steps of each way; all have the same weights."""
    keras.utils.set_random_seed(0)
    images = torch.rand(batch_size, 32, 32, 3, device=device)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    model = build_model(NETWORK)
    modules = EncapNet().to(device)
    copy_weights(model, modules)
    difference = _largest_difference(model, modules, images)
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss=MarginLoss())
    ways = {
        "encapkeras, model.fit": _fit(model, images, labels, steps),
        "plain torch modules": _train_modules(modules, images, labels, steps),
        "convolutions alone": _convolve(modules, images, steps),
    }
    times = medians(ways, rounds, warm_up_each_round=False)
    per_image = {name: 1000 * time / batch_size for name, (time,) in times.items()}
    ours, usual, floor = per_image.values()
    return {
        "network": NETWORK,
        "batch_size": batch_size,
        "device": device_name(device),
        "milliseconds_per_image": per_image,
        "speed_up": usual / ours,
        "multiple_of_convolutions": ours / floor,
        "largest_difference_of_outputs": difference,
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


class _BatchEnds(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        synchronize(self.device)
        self.times.append(time.perf_counter())


def _fit(model: keras.Model, images: torch.Tensor, labels: torch.Tensor, steps: int) -> Way:
    """Steps of `model.fit`, from the first batch's end to the last's: fit's own start does not count."""

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield images, labels

    def run() -> tuple[float]:
        ends = _BatchEnds(images.device.type)
        model.fit(batches(), steps_per_epoch=steps + 1, epochs=1, shuffle=False, verbose=0, callbacks=[ends])
        return ((ends.times[-1] - ends.times[0]) / steps,)

    return run


def _train_modules(modules: EncapNet, images: torch.Tensor, labels: torch.Tensor, steps: int) -> Way:
    """Steps written by hand: NCHW, eager, fused Adam."""
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-4, fused=True)
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


def _convolve(modules: EncapNet, images: torch.Tensor, steps: int) -> Way:
    """All convolutions of the network, forward and backward, each by itself and in torch's channels_last format."""
    calls: list[tuple[Any, torch.Tensor, torch.Tensor]] = []

    def record(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        layout = torch.channels_last
        x = torch.rand_like(inputs[0]).contiguous(memory_format=layout).requires_grad_(inputs[0].requires_grad)
        calls.append((module, x, torch.rand_like(output).contiguous(memory_format=layout)))

    convolutions = [module for module in modules.modules() if isinstance(module, torch.nn.Conv2d)]
    handles = [convolution.register_forward_hook(record) for convolution in convolutions]
    modules(images.permute(0, 3, 1, 2))
    for handle in handles:
        handle.remove()

    def convolve() -> None:
        for module, x, gradient in calls:
            inputs = [module.weight, module.bias, *([x] if x.requires_grad else [])]
            torch.autograd.grad(module(x), inputs, gradient)

    return total_time(convolve, images.device.type, steps)


def as_table(report: dict[str, Any]) -> str:
    """Return the report as lines of text."""
    lines = [f"{report['network']}, batch {report['batch_size']}, {report['device']}; medians, milliseconds an image"]
    lines += [table_row(name, [f"{value:.2f}"], (24, 8)) for name, value in report["milliseconds_per_image"].items()]
    lines.append(f"speed-up over plain modules      {report['speed_up']:.2f}")
    lines.append(f"multiple of the convolutions     {report['multiple_of_convolutions']:.2f}")
    lines.append(f"largest difference of outputs    {report['largest_difference_of_outputs']:.1e}")
    return "\n".join(lines)
