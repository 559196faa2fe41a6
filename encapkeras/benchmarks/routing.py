"""`encapkeras bench routing`: routing without votes against the textbook way, which makes them all."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from encapkeras.cli.arguments.device import add_device, torch_device

if TYPE_CHECKING:
    import torch

ROUTINGS = ("dynamic", "em")
WAYS = ("vote-free", "textbook")


class Sizes(NamedTuple):
    """What is routed: P positions of N types of dimension D to J capsules of dimension E, in T iterations."""

    batch_size: int
    types: int
    positions: int
    dim: int
    outputs: int
    out_dim: int
    iterations: int


DEFAULTS = Sizes(batch_size=8, types=32, positions=64, dim=8, outputs=512, out_dim=16, iterations=3)
MEANINGS = (
    "samples in a batch",
    "types N of input capsules",
    "positions P of each type",
    "dimension D of input capsules",
    "output capsules J",
    "dimension E of output capsules",
    "iterations T",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encapkeras bench routing`."""
    parser.add_argument("--routing", choices=ROUTINGS, help="only this one (both)")
    for name, default, meaning in zip(Sizes._fields, DEFAULTS, MEANINGS, strict=True):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"{meaning} (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each way, in turn; medians (%(default)s)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Times both ways in turn, forward and backward, and measures their memory and how far apart their results are.

    Args:
        arguments: As declared by `add_arguments`.

    Raises:
        ArgumentError: An option has an impossible value.
        TrainingError: The memory is not enough.
    """
    from encapkeras.errors import ArgumentError
    from encapkeras.training.memory.out_of_memory import saying_how_to_save_memory

    for option in (*Sizes._fields, "rounds"):
        if getattr(arguments, option) < 1:
            raise ArgumentError(
                f"--{option.replace('_', '-')} must be at least 1; received {getattr(arguments, option)}"
            )
    sizes = Sizes(*(getattr(arguments, name) for name in Sizes._fields))
    reports = []
    for routing in [arguments.routing] if arguments.routing else ROUTINGS:
        with saying_how_to_save_memory("Set --batch-size to less, or free memory."):
            reports.append(measure(routing, sizes, arguments.rounds))
        if not arguments.json:
            print(_as_table(reports[-1]))
    if arguments.json:
        print(json.dumps(reports, indent=2))
    return 0


def measure(routing: str, sizes: Sizes, rounds: int) -> dict[str, Any]:
    """The measurement itself, as plain data.

    Args:
        routing: `dynamic` or `em`.
        sizes: What is routed.
        rounds: Rounds of each way, in turn.

    Returns:
        Milliseconds a sample (medians), peaks of extra memory in MB, ratios, and differences in both precisions.
    """
    import torch

    device = torch_device()
    memory = {way: _peak_memory(routing, way, sizes, device) for way in WAYS}
    inputs = make_inputs(routing, sizes, torch.float32, device)
    ways = {way: _step(routing, way, inputs, sizes.iterations) for way in WAYS}
    ways["floor"] = _floor_step(routing, sizes, device)
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, step in ways.items():
            step()  # as within a training: not after another way has used the caches and the memory
            times[way].append(step())
    per_sample = 1000 / sizes.batch_size
    total = {way: per_sample * statistics.median(both for _, both in values) for way, values in times.items()}
    forward = {way: per_sample * statistics.median(first for first, _ in times[way]) for way in memory}
    return {
        "routing": routing,
        **sizes._asdict(),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{device}, {torch.get_num_threads()} threads",
        "forward_milliseconds_per_sample": forward,
        "forward_and_backward_milliseconds_per_sample": total,
        "speed_up": total["textbook"] / total["vote-free"],
        "multiple_of_floor": total["vote-free"] / total["floor"],
        "peak_extra_memory_megabytes": memory,
        "memory_ratio": memory["textbook"] / memory["vote-free"] if all(memory.values()) else None,
        **_differences(routing, sizes._replace(batch_size=min(2, sizes.batch_size)), device),
    }


def make_inputs(routing: str, sizes: Sizes, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """Random leaves: capsules, weight, bias, and for EM activations, beta_v and beta_a.

    Args:
        routing: `dynamic` or `em`.
        sizes: What is routed.
        dtype: The type of the tensors; the numbers are the same.
        device: Where they are.
    """
    import torch

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
    import encapkeras.functional
    import encapkeras.reference.routing_votes

    module = encapkeras.functional if way == "vote-free" else encapkeras.reference.routing_votes
    function: Callable[..., Any] = getattr(module, f"{routing}_routing")
    return function


def _outputs_and_gradients(routing: str, way: str, inputs: list[torch.Tensor], iterations: int) -> list[torch.Tensor]:
    import torch

    out = _function(routing, way)(*inputs, iterations=iterations)
    outputs = [out] if isinstance(out, torch.Tensor) else list(out)
    generator = torch.Generator().manual_seed(1)
    random = [torch.randn(part.shape, generator=generator).to(part) for part in outputs]
    gradients = torch.autograd.grad(outputs, inputs, random, allow_unused=True, materialize_grads=True)
    return [part.detach() for part in (*outputs, *gradients)]


def _wait_for(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _step(routing: str, way: str, inputs: list[torch.Tensor], iterations: int) -> Callable[[], tuple[float, float]]:
    """One forward and backward pass; seconds until the first and until the second is done."""
    import torch

    function, device = _function(routing, way), inputs[0].device.type

    def step() -> tuple[float, float]:
        _wait_for(device)
        start = time.perf_counter()
        out = function(*inputs, iterations=iterations)
        _wait_for(device)
        forward = time.perf_counter() - start
        outputs = [out] if isinstance(out, torch.Tensor) else list(out)
        ones = [torch.ones_like(part) for part in outputs]
        torch.autograd.grad(outputs, inputs, ones, allow_unused=True)
        _wait_for(device)
        return forward, time.perf_counter() - start

    return step


def _floor_step(routing: str, sizes: Sizes, device: str) -> Callable[[], tuple[float, float]]:
    """The matrix products and exponentials that no way without votes can do without, each in the cache if it fits.

    A routed iteration has products for logits and gathering, four more backward, and one exponential; an iteration has
    products with the weights, and two more for each backward.
    """
    import torch

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

    def step() -> tuple[float, float]:
        _wait_for(device)
        start = time.perf_counter()
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
        _wait_for(device)
        return 0.0, time.perf_counter() - start

    return step


def _differences(routing: str, sizes: Sizes, device: str) -> dict[str, Any]:
    """How far the two ways are apart in float64, and each in float32 from the textbook way in float64."""
    import torch

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

    return {
        "largest_difference_float64": largest,
        "relative_error_float32": {way: mean_error(way) for way in WAYS},
    }


def _peak_memory(routing: str, way: str, sizes: Sizes, device: str) -> float:
    """Extra memory at the peak of a forward and backward pass, in MB; of the CPU, in a process of its own."""
    import torch

    from encapkeras.errors import ArgumentError

    if device == "cuda":
        return _peak_of_gpu(routing, way, sizes)
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            return pool.submit(_peak_of_process, routing, way, sizes, torch.get_num_threads()).result()
    except concurrent.futures.process.BrokenProcessPool as error:  # the system's way of taking memory back
        raise ArgumentError(
            f"{routing} routing, {way}, does not fit in this machine's memory ({error}); set --batch-size to less"
        ) from error


def _peak_of_gpu(routing: str, way: str, sizes: Sizes) -> float:
    import torch

    inputs = make_inputs(routing, sizes, torch.float32, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _step(routing, way, inputs, sizes.iterations)()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak_of_process(routing: str, way: str, sizes: Sizes, threads: int) -> float:
    import torch

    torch.set_num_threads(threads)
    small = Sizes(2, 2, 4, 2, 4, 2, 2)
    _step(routing, way, make_inputs(routing, small, torch.float32, "cpu"), 2)()  # what is loaded once
    inputs = make_inputs(routing, sizes, torch.float32, "cpu")
    before = _resident_peak()
    _step(routing, way, inputs, sizes.iterations)()
    return (_resident_peak() - before) / 2**20


def _resident_peak() -> int:
    """The most memory that this process has had, in bytes."""
    import resource

    if sys.platform == "linux":  # whose getrusage also counts what the parent had
        with open("/proc/self/status", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _as_table(report: dict[str, Any]) -> str:
    sizes = ", ".join(f"{name} {report[name]}" for name in Sizes._fields)
    forward, total = report["forward_milliseconds_per_sample"], report["forward_and_backward_milliseconds_per_sample"]
    memory, error = report["peak_extra_memory_megabytes"], report["relative_error_float32"]
    lines = [f"{report['routing']} routing: {sizes}; {report['device']}; medians"]
    lines.append(f"  {'':<12}{'forward':>12}{'and backward':>16}{'peak memory':>14}{'float32 error':>16}")
    lines += [
        f"  {way:<12}{forward[way]:>9.2f} ms{total[way]:>13.2f} ms{memory[way]:>11.0f} MB{error[way]:>16.1e}"
        for way in WAYS
    ]
    lines.append(f"  {'floor':<12}{'':>12}{total['floor']:>13.2f} ms   (matrix products and exponentials alone)")
    ratio = report["memory_ratio"]
    share = f"1/{ratio:.1f} of the memory" if ratio else "memory too small to measure"
    lines.append(
        f"  {report['speed_up']:.1f} times as fast, {share}, "
        f"{report['multiple_of_floor']:.2f} times the floor; largest difference in float64 "
        f"{report['largest_difference_float64']:.0e}"
    )
    return "\n".join(lines)
