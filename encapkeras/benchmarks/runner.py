"""The runner of all benchmarks: time one pass, let the ways take turns, return medians and spreads, write tables."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import psutil
import torch

BUSY = 0.1
"""Busy cores of other processes above which a benchmark warns that times may be too long."""
LEAST_SECONDS = 0.3  # of a measurement whose share of others is known: the system counts in hundredths of a second

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


class Measured(NamedTuple):
    """What ways gave that took turns.

    Attributes:
        median: Of each way, the median of its totals.
        spread: Their least and largest.
        first: The median of what came before the total, such as the forward pass, where a way measures that.
        other_cores: How many cores other processes used meanwhile; None where that is not known.
    """

    median: dict[str, float]
    spread: dict[str, list[float]]
    first: dict[str, float]
    other_cores: float | None


def take_turns(ways: Mapping[str, Way], rounds: int, scale: float = 1, *, warm_up_each_round: bool = True) -> Measured:
    """Measure ways in turn, round by round, each run once uncounted: in each round, or in the first.

    Args:
        ways: What is measured, by name.
        rounds: How often each is run and counted.
        scale: What everything is multiplied by.
        warm_up_each_round: So that none finds the caches as another left them; too slow where a run is long.
    """
    measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    if not warm_up_each_round:
        for run in ways.values():
            run()
    others = OtherProcesses()
    for _ in range(rounds):
        for name, run in ways.items():
            if warm_up_each_round:
                run()
            measured[name].append(tuple(scale * value for value in run()))
    other_cores = others.cores()
    totals = {name: [run[-1] for run in runs] for name, runs in measured.items()}
    return Measured(
        {name: statistics.median(values) for name, values in totals.items()},
        {name: [min(values), max(values)] for name, values in totals.items()},
        {name: statistics.median(run[0] for run in runs) for name, runs in measured.items() if len(runs[0]) > 1},
        other_cores,
    )


def milliseconds(
    ways: Mapping[str, Way], rounds: int, samples: int = 1, *, warm_up_each_round: bool = True
) -> Measured:
    """Measure ways that give seconds, as `take_turns` does; return milliseconds a sample."""
    return take_turns(ways, rounds, 1000 / samples, warm_up_each_round=warm_up_each_round)


class OtherProcesses:
    """How many cores other processes use from now on."""

    def __init__(self) -> None:
        self._start = _processor_seconds()

    def cores(self) -> float | None:
        """Return the mean since the start; None if it is too short ago, or the system does not tell."""
        end = _processor_seconds()
        if self._start is None or end is None:
            return None
        seconds, used, own = (after - before for after, before in zip(end, self._start, strict=True))
        if seconds < LEAST_SECONDS or used < own / 2:  # as where a container reports nothing of its machine
            return None
        return max(0.0, (used - own) / seconds)


def _processor_seconds() -> tuple[float, float, float] | None:
    """Return the time, and what all processes, and this one with its own, have used of the processors."""
    try:
        times, own = psutil.cpu_times(), psutil.Process()
        used = sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))
        return time.perf_counter(), used, sum(_seconds_of(process) for process in (own, *own.children(recursive=True)))
    except (OSError, psutil.Error):
        return None


def _seconds_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has just ended; its parent counts it
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def warn_of_others(reports: Iterable[Mapping[str, Any]]) -> None:
    """Print one line on stderr if other processes kept the machine busy while reports were measured."""
    most = max((report.get("other_cores") or 0.0 for report in reports), default=0.0)
    if most > BUSY:
        print(
            f"warning: other processes used up to {most:.1f} cores while this was measured, so times may be too long. "
            "End them and measure again.",
            file=sys.stderr,
        )


def spread_text(spread: Sequence[float], digits: int = 2) -> str:
    """Return the least and the largest value, such as `8.11 to 8.90`."""
    least, largest = spread
    return f"{least:.{digits}f} to {largest:.{digits}f}"


def table_row(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    """Align a row: the name to the left, the cells to the right."""
    first, *others = widths
    row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))
    return f"  {name:<{first}}{row}".rstrip()
