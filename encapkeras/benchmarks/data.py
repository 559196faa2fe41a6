"""How many images per second the input pipeline makes."""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.table import Table

from encapkeras.benchmarks.runner import Way, take_turns
from encapkeras.data import AugmentSettings, Batches, DataSettings, describe, load
from encapkeras.errors import ArgumentError
from encapkeras.validation import Checker


def measure(dataset: str, batch_size: int, augmentations: list[str], repeats: int) -> dict[str, Any]:
    """Time whole epochs of training batches, the augmentations in turn; return the median images per second of each.

    An epoch's random draws count; reading the files and resizing, which are done once, do not.

    Raises:
        ArgumentError: A setting has an impossible value.
        DataError: The data set cannot be loaded.
    """
    values: dict[str, Any] = {"dataset": dataset, "batch_size": batch_size, "validation": 0.0}
    problems = Checker(DataSettings).problems(values)
    if problems:
        raise ArgumentError("\n".join(problem.text for problem in problems))
    info = describe(DataSettings(**values))
    settings = {name: DataSettings(**values, augment=augment_settings(name, info.channels)) for name in augmentations}
    ways = {name: _epoch(load(chosen, seed=0).train) for name, chosen in settings.items()}
    measured = take_turns(ways, repeats, warm_up_each_round=False)
    return {
        "dataset": dataset,
        "image": [info.height, info.width, info.channels],
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "images_per_second": measured.median,
        "spread": measured.spread,
        "other_cores": measured.other_cores,
    }


def augment_settings(name: str, channels: int) -> AugmentSettings | None:
    """Return the settings of `none`, `light` or `jitter`; grayscale images have no saturation and hue."""
    light: dict[str, Any] = {"resize": 34, "crop": True, "mirror": True}
    color = {"saturation": 0.2, "hue": 0.2} if channels == 3 else {}
    return {
        "none": None,
        "light": AugmentSettings(**light),
        "jitter": AugmentSettings(**light, brightness=0.2, contrast=0.2, **color),
    }[name]


def _epoch(batches: Batches) -> Way:
    def run() -> tuple[float]:
        start = time.perf_counter()
        images = sum(len(labels) for _, labels in batches)
        return (images / (time.perf_counter() - start),)

    return run


def as_table(report: dict[str, Any]) -> Table:
    """Return the report as a table for rich's console."""
    height, width, channels = report["image"]
    title = f"{report['dataset']}, {height}x{width}x{channels}, batch size {report['batch_size']}"
    table = Table(title=title, caption=f"threads: {report['threads']}")
    table.add_column("augmentation")
    table.add_column("images/s", justify="right")
    table.add_column("least to largest", justify="right")
    for name, rate in report["images_per_second"].items():
        least, largest = report["spread"][name]
        table.add_row(name, f"{rate:,.0f}", f"{least:,.0f} to {largest:,.0f}")
    return table
