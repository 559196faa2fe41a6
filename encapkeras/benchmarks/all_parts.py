"""The parts of `encapkeras bench all`, those that matter most first: the time may not suffice for all."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from encapkeras.benchmarks import peers, routing, step, time_line, transport
from encapkeras.benchmarks.everything import Part
from encapkeras.benchmarks.network import make_network
from encapkeras.benchmarks.routing_sizes import METHODS as ROUTINGS
from encapkeras.benchmarks.routing_sizes import PEERS
from encapkeras.spec.load import load_spec
from encapkeras.training import train
from encapkeras.training.memory.peak_memory import PeakMemory

NETWORKS = ("encapnet_master_sub2", "encapnet_ot", "capsnet_sabour", "capsnet_em", "fashion_mnist_best")
TRAINED = ("quickstart", "encapnet_digits", "capsnet_em_digits")  # their images come with scikit-learn
FLOAT32 = ("train.tf32=false",)
PRECISIONS = {"float32": FLOAT32, "tf32": ("train.tf32=true",), "bfloat16": ("train.precision=bfloat16",)}
IN_WINDOWS = ("self-routing", "inverted-attention", "variational-bayes", "dynamic-windows", "em-windows")
WITHOUT_GPU = "needs a GPU of CUDA"


class Sizes(NamedTuple):
    """How much is measured."""

    batch_size: int
    steps: int
    rounds: int
    epochs: int
    samples: int
    unit: tuple[int, ...]
    routing: dict[str, int]


FULL = Sizes(batch_size=128, steps=5, rounds=5, epochs=2, samples=1024, unit=transport.UNIT, routing={})
QUICK = Sizes(
    batch_size=2, steps=1, rounds=1, epochs=1, samples=4, unit=(4, 4, 4, 2, 2),
    routing={
        "batch_size": 2, "types": 2, "positions": 4, "map_size": 5, "dim": 3, "outputs": 5, "out_dim": 4, "pose_size": 2
    },
)  # fmt: skip


def make_parts(sizes: Sizes, device: str) -> list[Part]:
    """Return all parts for a device; those that it cannot have say why they are left out."""
    return [
        *_steps(sizes, device),
        *_time_lines(sizes, device),
        *(Part(f"memory:{name}", partial(_memory, name, sizes, device)) for name in NETWORKS),
        *_routings(sizes, device),
        *_transports(sizes, device),
        *_peers(sizes, device),
        *(Part(f"train:{name}", partial(_train, name, sizes.epochs)) for name in TRAINED),
        *_steps(sizes, device, compiled=True),
    ]


def _steps(sizes: Sizes, device: str, compiled: bool = False) -> Iterator[Part]:
    for precision, overrides in PRECISIONS.items():
        for name in NETWORKS:
            changes = (*overrides, "train.compile=true") if compiled else overrides
            measure = partial(step.measure, sizes.batch_size, sizes.steps, sizes.rounds, device, name, changes)
            needs_gpu = (compiled or precision == "tf32") and device != "cuda"
            ending, seconds = (":compiled", 60.0) if compiled else ("", 10.0)
            yield Part(f"step:{name}:{precision}{ending}", measure, WITHOUT_GPU if needs_gpu else "", seconds)


def _time_lines(sizes: Sizes, device: str) -> Iterator[Part]:
    for name in NETWORKS:
        measure = partial(_time_line, name, sizes, device)
        yield Part(f"idle:{name}", measure, "" if device == "cuda" else WITHOUT_GPU)


def _time_line(name: str, sizes: Sizes, device: str) -> dict[str, Any]:
    return time_line.measure(make_network(name, sizes.batch_size, device), sizes.steps)


def _memory(name: str, sizes: Sizes, device: str) -> dict[str, Any]:
    """The most memory that building and two training steps take at once."""
    memory = PeakMemory()
    network = make_network(name, sizes.batch_size, device)
    network.fit(1)()
    peak = memory.mebibytes(torch.device(device))
    return {"network": name, "batch_size": sizes.batch_size, "peak_memory_mib": peak}


def _routings(sizes: Sizes, device: str) -> Iterator[Part]:
    for method in ("dynamic", "em", *IN_WINDOWS):
        own = {name: sizes.routing.get(name, size) for name, size in ROUTINGS[method].items()}
        yield Part(f"routing:{method}", partial(routing.measure, method, own, sizes.rounds, device))


def _transports(sizes: Sizes, device: str) -> Iterator[Part]:
    settings = transport.Settings(1.0, 10, sizes.rounds, device)
    yield Part("transport:unit", partial(transport.measure_unit, settings, sizes.unit))
    without = "" if importlib.util.find_spec("ot") else "compares with POT: pip install 'encapkeras[bench]'"
    yield Part("transport:pot", partial(transport.measure_sinkhorn, sizes.samples, 4, settings), without)


def _peers(sizes: Sizes, device: str) -> Iterator[Part]:
    for method, batches in PEERS.items():
        for part in ("layer", "step"):
            for batch in batches if sizes is FULL else (sizes.batch_size,):
                measure = partial(peers.measure, method, part, batch, sizes.rounds, sizes.steps, device)
                yield Part(f"peers:{method}:{part}:{batch}", measure)


def _train(name: str, epochs: int) -> dict[str, Any]:
    """Train from the command's own loop, with its data, callbacks and files."""
    spec = load_spec(name, overrides=[f"train.epochs={epochs}"])
    with tempfile.TemporaryDirectory() as folder:
        results = train(spec, run_dir=f"{folder}/run", verbose=0)
    kept = ("images_per_second", "seconds", "peak_memory_mib", "test_accuracy")
    return {"network": name, "epochs": epochs, **{key: results[key] for key in kept}}
