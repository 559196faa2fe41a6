"""Time and memory of routing, against the textbook way, which makes all votes at once."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import statistics
import sys
from typing import Any

import torch

from encapkeras import functional
from encapkeras.benchmarks.routing_methods import METHODS, Outputs, Random
from encapkeras.benchmarks.routing_sizes import METHODS as SIZES
from encapkeras.benchmarks.routing_sizes import Sizes
from encapkeras.benchmarks.runner import (
    Way,
    as_list,
    device_name,
    forward_and_backward,
    milliseconds,
    spread_text,
    table_row,
)
from encapkeras.errors import ArgumentError

WAYS = ("encapkeras", "textbook")


def measure(method: str, sizes: Sizes, rounds: int, device: str) -> dict[str, Any]:
    """Measure a method of routing.

    Returns:
        Milliseconds a sample (medians, and the spread of the totals), peaks of extra memory in MB, ratios, and
        differences in both precisions.

    Raises:
        ArgumentError: This machine has too little memory.
    """
    memory = {way: peak_memory(method, way, sizes, device) for way in WAYS}
    inputs = make_inputs(method, sizes, torch.float32, device)
    ways = {way: _pass(method, way, inputs, sizes) for way in WAYS}
    floor = METHODS[method].floor
    if floor is not None:
        ways["floor"] = floor(sizes, device)
    measured = milliseconds(ways, rounds, samples=sizes["batch_size"])
    total = measured.median
    return {
        "method": method,
        **sizes,
        "device": device_name(device),
        "forward_milliseconds_per_sample": measured.first,
        "forward_and_backward_milliseconds_per_sample": total,
        "spread": measured.spread,
        "other_cores": measured.other_cores,
        "speed_up": total["textbook"] / total["encapkeras"],
        "multiple_of_floor": total["encapkeras"] / total["floor"] if floor else None,
        "peak_extra_memory_megabytes": memory,
        "memory_ratio": memory["textbook"] / memory["encapkeras"] if all(memory.values()) else None,
        **_differences(method, sizes | {"batch_size": min(2, sizes["batch_size"])}, device),
    }


def make_inputs(method: str, sizes: Sizes, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """Make random leaves, equal in all types."""
    tensors = METHODS[method].tensors(sizes, Random())
    return [tensor.to(device, dtype).requires_grad_() for tensor in tensors]


def _outputs(method: str, way: str, inputs: list[torch.Tensor], sizes: Sizes) -> Outputs:
    chosen = METHODS[method]
    return chosen.call(functional if way == "encapkeras" else chosen.textbook, inputs, sizes)


def _pass(method: str, way: str, inputs: list[torch.Tensor], sizes: Sizes) -> Way:
    return forward_and_backward(lambda: _outputs(method, way, inputs, sizes), inputs)


def _differences(method: str, sizes: Sizes, device: str) -> dict[str, Any]:
    """How far the two ways are apart in float64, and each in float32 from the textbook way in float64."""
    results = {}
    for dtype in (torch.float64, torch.float32):
        for way in WAYS:
            leaves = make_inputs(method, sizes, dtype, device)
            parts = _outputs_and_gradients(method, way, leaves, sizes)
            results[way, dtype] = [part.double() for part in parts]
    exact = results["textbook", torch.float64]
    pairs = zip(results["encapkeras", torch.float64], exact, strict=True)
    largest = max(float((x - y).abs().max() / y.abs().max().clamp_min(1)) for x, y in pairs)

    def mean_error(way: str) -> float:
        pairs = zip(results[way, torch.float32], exact, strict=True)
        return statistics.fmean(float((x - y).norm() / y.norm().clamp_min(1e-300)) for x, y in pairs)

    return {"largest_difference_float64": largest, "relative_error_float32": {way: mean_error(way) for way in WAYS}}


def _outputs_and_gradients(method: str, way: str, inputs: list[torch.Tensor], sizes: Sizes) -> list[torch.Tensor]:
    outputs = as_list(_outputs(method, way, inputs, sizes))
    generator = torch.Generator().manual_seed(1)
    random = [torch.randn(part.shape, generator=generator).to(part) for part in outputs]
    gradients = torch.autograd.grad(outputs, inputs, random, allow_unused=True, materialize_grads=True)
    return [part.detach() for part in (*outputs, *gradients)]


def peak_memory(method: str, way: str, sizes: Sizes, device: str) -> float:
    """Extra memory at the peak of a forward and backward pass, in MB; of the CPU, in a separate process."""
    if device == "cuda":
        return _peak_of_gpu(method, way, sizes)
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            return pool.submit(_peak_of_process, method, way, sizes, torch.get_num_threads()).result()
    except concurrent.futures.process.BrokenProcessPool as error:  # the system killed it to free memory
        raise ArgumentError(
            f"{method}, {way}, does not fit in this machine's memory ({error}); set --batch-size to less"
        ) from error


def _peak_of_gpu(method: str, way: str, sizes: Sizes) -> float:
    inputs = make_inputs(method, sizes, torch.float32, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _pass(method, way, inputs, sizes)()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak_of_process(method: str, way: str, sizes: Sizes, threads: int) -> float:
    torch.set_num_threads(threads)
    small = {name: min(size, 4) for name, size in sizes.items()}
    _pass(method, way, make_inputs(method, small, torch.float32, "cpu"), small)()  # loads what is loaded once
    inputs = make_inputs(method, sizes, torch.float32, "cpu")
    before = _resident_peak()
    _pass(method, way, inputs, sizes)()
    return (_resident_peak() - before) / 2**20


def _resident_peak() -> int:
    import resource  # not on Windows

    if sys.platform == "linux":  # whose getrusage also counts the parent's
        with open("/proc/self/status", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def as_table(report: dict[str, Any]) -> str:
    """Return a report as lines of text."""
    forward, total = report["forward_milliseconds_per_sample"], report["forward_and_backward_milliseconds_per_sample"]
    memory, error = report["peak_extra_memory_megabytes"], report["relative_error_float32"]
    spread, widths = report["spread"], (12, 12, 16, 20, 14, 16)
    sizes = ", ".join(f"{name} {report[name]}" for name in SIZES[report["method"]])
    lines = [f"{report['method']}: {sizes}; {report['device']}; medians a sample"]
    lines.append(table_row("", ["forward", "and backward", "least to largest", "peak memory", "float32 error"], widths))
    for way in WAYS:
        times = [f"{forward[way]:.2f} ms", f"{total[way]:.2f} ms", spread_text(spread[way])]
        lines.append(table_row(way, [*times, f"{memory[way]:.0f} MB", f"{error[way]:.1e}"], widths))
    ratio, multiple = report["memory_ratio"], report["multiple_of_floor"]
    parts = [f"{report['speed_up']:.1f} times as fast"]
    parts.append(f"1/{ratio:.1f} of the memory" if ratio else "memory too small to measure")
    if multiple:
        floor = table_row("floor", ["", f"{total['floor']:.2f} ms", spread_text(spread["floor"])], widths[:4])
        lines.append(f"{floor}   (matrix products and exponentials alone)")
        parts.append(f"{multiple:.2f} times the floor")
    difference = f"largest difference in float64 {report['largest_difference_float64']:.0e}"
    lines.append(f"  {', '.join(parts)}; {difference}")
    return "\n".join(lines)
