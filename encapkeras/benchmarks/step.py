"""`encapkeras bench step`: a training step of the default network, against the usual way of writing it."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from encapkeras.cli.arguments.device import add_device, torch_device

if TYPE_CHECKING:
    import keras
    import torch

    from encapkeras.reference.encapnet import EncapNet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encapkeras bench step`."""
    parser.add_argument("--batch-size", type=int, default=64, help="images in a batch (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="training steps in a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each way, in turn; medians (%(default)s)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Times steps of `model.fit` and of plain torch modules with the same weights, in turn, and the convolutions alone.

    Args:
        arguments: As declared by `add_arguments`.

    Raises:
        ArgumentError: An option has an impossible value.
    """
    from encapkeras.errors import ArgumentError

    for option in ("batch_size", "steps", "rounds"):
        if getattr(arguments, option) < 1:
            name = option.replace("_", "-")
            raise ArgumentError(f"--{name} must be at least 1; received {getattr(arguments, option)}")
    report = measure(arguments.batch_size, arguments.steps, arguments.rounds)
    print(json.dumps(report, indent=2) if arguments.json else _as_table(report))
    return 0


def measure(batch_size: int, steps: int, rounds: int) -> dict[str, Any]:
    """The measurement itself, as plain data: milliseconds an image, medians of rounds taken in turn."""
    import keras
    import torch

    from encapkeras.losses import MarginLoss
    from encapkeras.model.spec_model import build_model
    from encapkeras.reference.encapnet import EncapNet

    keras.utils.set_random_seed(0)
    device = torch_device()
    images = torch.rand(batch_size, 32, 32, 3, device=device)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    model = build_model("encapnet_master_sub2")
    modules = EncapNet().to(device)
    copy_weights(model, modules)
    difference = _largest_difference(model, modules, images)
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss=MarginLoss())
    ways: dict[str, Callable[[], float]] = {
        "encapkeras, model.fit": _fit_round(model, images, labels, steps),
        "plain torch modules": _modules_round(modules, images, labels, steps),
        "convolutions alone": _convolutions_round(modules, images, steps),
    }
    for one_round in ways.values():
        one_round()  # warm-up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, one_round in ways.items():
            times[name].append(one_round())
    medians = {name: 1000 * statistics.median(values) / batch_size for name, values in times.items()}
    ours, usual, floor = medians.values()
    return {
        "network": "encapnet_master_sub2",
        "batch_size": batch_size,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{device}, {torch.get_num_threads()} threads",
        "milliseconds_per_image": medians,
        "speed_up": usual / ours,
        "multiple_of_convolutions": ours / floor,
        "largest_difference_of_outputs": difference,
    }


def copy_weights(model: keras.Model, modules: EncapNet) -> None:
    """Gives the plain modules the weights of our default network.

    Args:
        model: The network of `encapnet_master_sub2`.
        modules: The same network as plain modules.
    """
    import torch

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
    import torch

    with torch.no_grad():
        received = model(images, training=True)
        expected = modules.train()(images.permute(0, 3, 1, 2))
        return float((received - expected).abs().max())


def _wait_for(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _fit_round(model: keras.Model, images: torch.Tensor, labels: torch.Tensor, steps: int) -> Callable[[], float]:
    """Steps of `model.fit`, from the first batch's end to the last's: fit's own start does not count."""
    import keras

    class BatchEnds(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            _wait_for(images.device)
            self.times.append(time.perf_counter())

    def batches() -> Any:
        while True:
            yield images, labels

    def one_round() -> float:
        ends = BatchEnds()
        model.fit(batches(), steps_per_epoch=steps + 1, epochs=1, shuffle=False, verbose=0, callbacks=[ends])
        return (ends.times[-1] - ends.times[0]) / steps

    return one_round


def _modules_round(modules: EncapNet, images: torch.Tensor, labels: torch.Tensor, steps: int) -> Callable[[], float]:
    """Steps written by hand: NCHW, eager, fused Adam."""
    import torch

    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-4, fused=True)
    nchw = images.permute(0, 3, 1, 2).contiguous()
    targets = torch.nn.functional.one_hot(labels, 10).float()

    def one_step() -> None:
        optimizer.zero_grad()
        lengths = modules(nchw)
        present = targets * (0.9 - lengths).clamp_min(0) ** 2
        absent = 0.5 * (1 - targets) * (lengths - 0.1).clamp_min(0) ** 2
        (present + absent).sum(1).mean().backward()
        optimizer.step()

    return _timed(one_step, images.device, steps)


def _convolutions_round(modules: EncapNet, images: torch.Tensor, steps: int) -> Callable[[], float]:
    """All convolutions of the network, forward and backward, each by itself and in torch's channels_last format."""
    import torch

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

    def one_step() -> None:
        for module, x, gradient in calls:
            inputs = [module.weight, module.bias, *([x] if x.requires_grad else [])]
            torch.autograd.grad(module(x), inputs, gradient)

    return _timed(one_step, images.device, steps)


def _timed(one_step: Callable[[], None], device: torch.device, steps: int) -> Callable[[], float]:
    def one_round() -> float:
        _wait_for(device)
        start = time.perf_counter()
        for _ in range(steps):
            one_step()
        _wait_for(device)
        return (time.perf_counter() - start) / steps

    return one_round


def _as_table(report: dict[str, Any]) -> str:
    lines = [f"{report['network']}, batch {report['batch_size']}, {report['device']}; medians, milliseconds an image"]
    lines += [f"  {name:<24}{value:8.2f}" for name, value in report["milliseconds_per_image"].items()]
    lines.append(f"speed-up over plain modules      {report['speed_up']:.2f}")
    lines.append(f"multiple of the convolutions     {report['multiple_of_convolutions']:.2f}")
    lines.append(f"largest difference of outputs    {report['largest_difference_of_outputs']:.1e}")
    return "\n".join(lines)
