"""Time and memory of routing without votes, against the textbook way, which makes them all."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from encapkeras import functional
from encapkeras.benchmarks.runner import (
    Way,
    as_list,
    device_name,
    forward_and_backward,
    milliseconds,
    table_row,
    total_time,
)
from encapkeras.errors import ArgumentError
from encapkeras.reference import routing_votes

WAYS = ("vote-free", "textbook")


class Sizes(NamedTuple):
    """Sizes of the routing: P positions of N types of dimension D to J capsules of dimension E, in T iterations."""

    batch_size: int
    types: int
    positions: int
    dim: int
    outputs: int
    out_dim: int
    iterations: int


def measure(routing: str, sizes: Sizes, rounds: int, device: str) -> dict[str, Any]:
    """Measure `dynamic` or `em` routing.

    Returns:
        Milliseconds a sample (medians), peaks of extra memory in MB, ratios, and differences in both precisions.

    Raises:
        ArgumentError: This machine has too little memory.
    """
    memory = {way: peak_memory(routing, way, sizes, device) for way in WAYS}
    inputs = make_inputs(routing, sizes, torch.float32, device)
    ways = {way: _pass(routing, way, inputs, sizes.iterations) for way in WAYS}
    ways["floor"] = _floor(routing, sizes, device)
    forward, total = milliseconds(ways, rounds, samples=sizes.batch_size)
    return {
        "routing": routing,
        **sizes._asdict(),
        "device": device_name(device),
        "forward_milliseconds_per_sample": forward,
        "forward_and_backward_milliseconds_per_sample": total,
        "speed_up": total["textbook"] / total["vote-free"],
        "multiple_of_floor": total["vote-free"] / total["floor"],
        "peak_extra_memory_megabytes": memory,
        "memory_ratio": memory["textbook"] / memory["vote-free"] if all(memory.values()) else None,
        **_differences(routing, sizes._replace(batch_size=min(2, sizes.batch_size)), device),
    }


def make_inputs(routing: str, sizes: Sizes, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """Make random leaves: capsules, weight, bias, and for EM activations, beta_v and beta_a; equal in all types."""
    generator = torch.Generator().manual_seed(0)
    batch, types, positions, dim, outputs, out_dim, _ = sizes
    tensors = [
        torch.randn(batch, positions, types, dim, generator=generator) / 2,
        torch.randn(types, outputs, out_dim, dim, generator=generator) / dim**0.5,
        torch.randn(types, outputs, out_dim, generator=generator) / 10,
    ]
    if routing == "em":
        tensors.append(torch.rand(batch, positions, types, generator=generator))
        tensors += [torch.rand(outputs, generator=generator) for _ in range(2)]
    return [tensor.to(device, dtype).requires_grad_() for tensor in tensors]


def _function(routing: str, way: str) -> Callable[..., Any]:
    module = functional if way == "vote-free" else routing_votes
    function: Callable[..., Any] = getattr(module, f"{routing}_routing")
    return function


def _pass(routing: str, way: str, inputs: list[torch.Tensor], iterations: int) -> Way:
    function = _function(routing, way)
    return forward_and_backward(lambda: function(*inputs, iterations=iterations), inputs)


def _floor(routing: str, sizes: Sizes, device: str) -> Way:
    """The matrix products and exponentials that no way without votes can do without, each in the cache if it fits."""
    batch, types, positions, dim, outputs, out_dim, iterations = sizes
    width = dim + 1 if routing == "dynamic" else (dim + 1) * (dim + 2) // 2
    groups = max(1, min(batch * types, (1 << 18) // (outputs * positions)))
    query, key, pair = (
        torch.rand(shape, device=device)
        for shape in ((groups, outputs, width), (groups, width, positions), (groups, outputs, positions))
    )
    gathered = torch.rand(outputs, batch, types * width, device=device)
    weight = torch.rand(outputs, types * width, out_dim, device=device)
    vote = torch.rand(outputs, batch, out_dim, device=device)
    out_pair, out_query, out_key = torch.empty_like(pair), torch.empty_like(query), torch.empty_like(key)
    out_gathered, out_weight, out_vote = torch.empty_like(gathered), torch.empty_like(weight), torch.empty_like(vote)

    def multiply() -> None:
        # A routed iteration: logits and gathering, four more products backward, one exponential. Then the weights'.
        for _ in range(iterations - 1):
            for _ in range(-(-batch * types // groups)):
                for _ in range(2):
                    torch.bmm(query, key, out=out_pair)
                    torch.bmm(pair, key.mT, out=out_query)
                    torch.bmm(query.mT, pair, out=out_key)
                torch.exp(pair, out=out_pair)
        for _ in range(2 * iterations - 1):
            torch.bmm(gathered, weight, out=out_vote)
            torch.bmm(vote, weight.mT, out=out_gathered)
            torch.bmm(gathered.mT, vote, out=out_weight)

    return total_time(multiply, device)


def _differences(routing: str, sizes: Sizes, device: str) -> dict[str, Any]:
    """How far the two ways are apart in float64, and each in float32 from the textbook way in float64."""
    results = {}
    for dtype in (torch.float64, torch.float32):
        for way in WAYS:
            leaves = make_inputs(routing, sizes, dtype, device)
            parts = _outputs_and_gradients(routing, way, leaves, sizes.iterations)
            results[way, dtype] = [part.double() for part in parts]
    exact = results["textbook", torch.float64]
    pairs = zip(results["vote-free", torch.float64], exact, strict=True)
    largest = max(float((x - y).abs().max() / y.abs().max().clamp_min(1)) for x, y in pairs)

    def mean_error(way: str) -> float:
        pairs = zip(results[way, torch.float32], exact, strict=True)
        return statistics.fmean(float((x - y).norm() / y.norm().clamp_min(1e-300)) for x, y in pairs)

    return {"largest_difference_float64": largest, "relative_error_float32": {way: mean_error(way) for way in WAYS}}


def _outputs_and_gradients(routing: str, way: str, inputs: list[torch.Tensor], iterations: int) -> list[torch.Tensor]:
    outputs = as_list(_function(routing, way)(*inputs, iterations=iterations))
    generator = torch.Generator().manual_seed(1)
    random = [torch.randn(part.shape, generator=generator).to(part) for part in outputs]
    gradients = torch.autograd.grad(outputs, inputs, random, allow_unused=True, materialize_grads=True)
    return [part.detach() for part in (*outputs, *gradients)]


def peak_memory(routing: str, way: str, sizes: Sizes, device: str) -> float:
    """Extra memory at the peak of a forward and backward pass, in MB; of the CPU, in a separate process."""
    if device == "cuda":
        return _peak_of_gpu(routing, way, sizes)
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            return pool.submit(_peak_of_process, routing, way, sizes, torch.get_num_threads()).result()
    except concurrent.futures.process.BrokenProcessPool as error:  # the system killed it to free memory
        raise ArgumentError(
            f"{routing} routing, {way}, does not fit in this machine's memory ({error}); set --batch-size to less"
        ) from error


def _peak_of_gpu(routing: str, way: str, sizes: Sizes) -> float:
    inputs = make_inputs(routing, sizes, torch.float32, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _pass(routing, way, inputs, sizes.iterations)()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak_of_process(routing: str, way: str, sizes: Sizes, threads: int) -> float:
    torch.set_num_threads(threads)
    small = Sizes(2, 2, 4, 2, 4, 2, 2)
    _pass(routing, way, make_inputs(routing, small, torch.float32, "cpu"), 2)()  # loads what is loaded once
    inputs = make_inputs(routing, sizes, torch.float32, "cpu")
    before = _resident_peak()
    _pass(routing, way, inputs, sizes.iterations)()
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
    widths = (12, 12, 16, 14, 16)
    sizes = ", ".join(f"{name} {report[name]}" for name in Sizes._fields)
    lines = [f"{report['routing']} routing: {sizes}; {report['device']}; medians"]
    lines.append(table_row("", ["forward", "and backward", "peak memory", "float32 error"], widths))
    for way in WAYS:
        cells = [f"{forward[way]:.2f} ms", f"{total[way]:.2f} ms", f"{memory[way]:.0f} MB", f"{error[way]:.1e}"]
        lines.append(table_row(way, cells, widths))
    floor = table_row("floor", ["", f"{total['floor']:.2f} ms"], widths[:3])
    lines.append(f"{floor}   (matrix products and exponentials alone)")
    ratio = report["memory_ratio"]
    share = f"1/{ratio:.1f} of the memory" if ratio else "memory too small to measure"
    lines.append(
        f"  {report['speed_up']:.1f} times as fast, {share}, "
        f"{report['multiple_of_floor']:.2f} times the floor; largest difference in float64 "
        f"{report['largest_difference_float64']:.0e}"
    )
    return "\n".join(lines)
