"""The runner of all benchmarks: time one pass, let the ways take turns, return medians, write tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Way = Callable[[], tuple[float, ...]]
"""Runs once and returns what it measured; times in seconds, the total last."""


def synchronize(device: str) -> None:
    """Wait for the work that a GPU has accepted; other devices are synchronous."""
    if device == "cuda":
        torch.cuda.synchronize()


def device_name(device: str) -> str:
    """Name a device for reports: the GPU's model, or the number of threads."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{device}, {torch.get_num_threads()} threads"


def as_list(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Wrap a single output."""
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def forward_and_backward(
    function: Callable[[], torch.Tensor | tuple[torch.Tensor, ...]], leaves: Sequence[torch.Tensor]
) -> Way:
    """Return a way that measures the seconds until the forward pass ends, and until the backward pass ends."""
    device = leaves[0].device.type

    def one_pass() -> tuple[float, float]:
        synchronize(device)
        start = time.perf_counter()
        outputs = as_list(function())
        synchronize(device)
        forward = time.perf_counter() - start
        ones = [torch.ones_like(output) for output in outputs]
        torch.autograd.grad(outputs, leaves, ones, allow_unused=True)
        synchronize(device)
        return forward, time.perf_counter() - start

    return one_pass


def total_time(work: Callable[[], None], device: str, times: int = 1) -> Way:
    """Return a way that measures the seconds of one call of `work`, as the mean of several."""

    def run() -> tuple[float]:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(times):
            work()
        synchronize(device)
        return ((time.perf_counter() - start) / times,)

    return run


def medians(ways: Mapping[str, Way], rounds: int, *, warm_up_each_round: bool = True) -> dict[str, tuple[float, ...]]:
    """Return the medians of what the ways measure in turn, each run once uncounted: in each round, or in the first."""
    measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    if not warm_up_each_round:
        for run in ways.values():
            run()
    for _ in range(rounds):
        for name, run in ways.items():
            if warm_up_each_round:
                run()
            measured[name].append(run())
    return {name: tuple(map(statistics.median, zip(*runs, strict=True))) for name, runs in measured.items()}


def milliseconds(ways: Mapping[str, Way], rounds: int, samples: int = 1) -> tuple[dict[str, float], dict[str, float]]:
    """Return median milliseconds a sample: of the forward passes, where measured, and of everything."""
    times = medians(ways, rounds)
    scale = 1000 / samples
    forward = {name: scale * time[0] for name, time in times.items() if len(time) > 1}
    return forward, {name: scale * time[-1] for name, time in times.items()}


def table_row(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    """Align a row: the name to the left, the cells to the right."""
    first, *others = widths
    row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))
    return f"  {name:<{first}}{row}".rstrip()
