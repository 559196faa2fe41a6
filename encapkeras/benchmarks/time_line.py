"""How much of a training step the GPU waits: the gaps between its kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from encapkeras.benchmarks.network import Network
from encapkeras.benchmarks.runner import Way

Span = tuple[float, float]


def measure(network: Network, steps: int) -> dict[str, Any]:
    """Profile steps of `model.fit` on a GPU: kernels, their time, and the share of the time without any.

    The time is from the first kernel's start to the last one's end, so that fit's own start does not count.
    """
    way = network.fit(steps)
    way()
    # Profiling the CPU, too, delays kernels: only where the profiler gives none without.
    for activities in ([ProfilerActivity.CUDA], [ProfilerActivity.CPU, ProfilerActivity.CUDA]):
        spans = _kernels(way, activities)
        if spans:
            break
    about = {"network": network.model.name, "batch_size": len(network.images), "cpu_was_profiled": len(activities) > 1}
    return {**about, **shares(spans, steps + 1)}


def _kernels(way: Way, activities: list[ProfilerActivity]) -> list[Span]:
    with profile(activities=activities) as profiled:
        way()
        torch.cuda.synchronize()
    return [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
    ]


def shares(spans: Iterable[Span], steps: int) -> dict[str, Any]:
    """Return what spans of kernels, in microseconds, say about so many steps."""
    in_order = sorted(spans)
    if not in_order:
        raise RuntimeError("the profiler saw no kernel: CUPTI may be missing, or in use by another profiler")
    busy, end = 0.0, in_order[0][0]
    for start, stop in in_order:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    wall = end - in_order[0][0]
    return {
        "idle_share": 1 - busy / wall if wall else 0.0,
        "kernels_per_step": len(in_order) / steps,
        "kernel_milliseconds_per_step": busy / 1000 / steps,
        "milliseconds_per_step": wall / 1000 / steps,
    }
