"""`encapkeras bench data`: how many images a second the input pipeline makes."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encapkeras.data import AugmentSettings, Batches

CHOICES = ("none", "light", "jitter")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encapkeras bench data`."""
    parser.add_argument("--dataset", default="fashion_mnist", help="data set to take images from (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a batch (%(default)s)")
    parser.add_argument(
        "--augment",
        choices=CHOICES,
        nargs="+",
        default=CHOICES,
        help="none: 32x32 images as they are; light: resized to 34 once, random crop of 32, mirror; jitter: light and "
        "brightness, contrast, saturation and hue by up to 0.2 (without the last two for grey images). Default: all",
    )
    parser.add_argument("--repeats", type=int, default=5, help="epochs to time; the median counts (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Times whole epochs of training batches, and prints the median images per second for each augmentation.

    Reading the files and resizing, which are done once, are not counted; an epoch's random draws are.

    Args:
        arguments: As declared by `add_arguments`.

    Raises:
        ArgumentError: An option has an impossible value.
        DataError: The data set cannot be had.
    """
    import torch

    from encapkeras.data import DataSettings, describe, load
    from encapkeras.errors import ArgumentError
    from encapkeras.validation import Checker

    if arguments.repeats < 1:
        raise ArgumentError(f"--repeats must be at least 1; received {arguments.repeats}")
    values = {"dataset": arguments.dataset, "batch_size": arguments.batch_size, "validation": 0.0}
    problems = Checker(DataSettings).problems(values)
    if problems:
        raise ArgumentError("\n".join(problem.text for problem in problems))
    info = describe(DataSettings(**values))
    rates = {}
    for name in arguments.augment:
        settings = DataSettings(**values, augment=_augment_settings(name, info.channels))
        rates[name] = _images_per_second(load(settings, seed=0).train, arguments.repeats)

    report = {
        "dataset": arguments.dataset,
        "image": [info.height, info.width, info.channels],
        "batch_size": arguments.batch_size,
        "threads": torch.get_num_threads(),
        "images_per_second": rates,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print_table(report, rates)
    return 0


def _augment_settings(name: str, channels: int) -> AugmentSettings | None:
    from encapkeras.data import AugmentSettings

    light: dict[str, Any] = {"resize": 34, "crop": True, "mirror": True}
    colour = {"saturation": 0.2, "hue": 0.2} if channels == 3 else {}
    return {
        "none": None,
        "light": AugmentSettings(**light),
        "jitter": AugmentSettings(**light, brightness=0.2, contrast=0.2, **colour),
    }[name]


def _images_per_second(batches: Batches, repeats: int) -> float:
    """The median over whole epochs, after one that is not timed."""
    rates = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        images = sum(len(labels) for _, labels in batches)
        if repeat > 0:
            rates.append(images / (time.perf_counter() - start))
    return statistics.median(rates)


def _print_table(report: dict[str, Any], rates: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    height, width, channels = report["image"]
    title = f"{report['dataset']}, {height}x{width}x{channels}, batch size {report['batch_size']}"
    table = Table(title=title, caption=f"threads: {report['threads']}")
    table.add_column("augmentation")
    table.add_column("images/s", justify="right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}")
    Console().print(table)
