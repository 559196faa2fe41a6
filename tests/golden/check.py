"""Compares our routings with numbers of their authors' code: `python tests/golden/check.py FOLDER`.

FOLDER/layers holds one file for each call of a layer: its inputs, weights, outputs and gradients. FOLDER/networks holds
one for each network: how its weights are drawn, its outputs, its loss and the norms of gradients.
Prints the largest difference of each, and exits with 1 where one is too large. Networks that are not here are named.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from golden import (
    deepcaps_networks,
    efficient_networks,
    em_networks,
    hvc_networks,
    routing_layers,
    routing_networks,
)

BOUND = 1e-9  # of layers: relative, with FLOOR as the smallest number that differences are divided by
FLOOR = 1e-3
OUTPUT_BOUND = 1e-8  # of networks' outputs and losses, absolutely
NORM_BOUND = 1e-6  # of the norms of their gradients, relative
# Whose files hold arrays, by the start of the files' names.
NETWORKS = {"deep_": deepcaps_networks, "eff_": efficient_networks, "em_": em_networks, "hvc_": hvc_networks}


class Result(NamedTuple):
    """The largest difference of an output and of a gradient, and what is allowed of each."""

    name: str
    output: float
    gradient: float
    output_bound: float
    gradient_bound: float

    @property
    def holds(self) -> bool:
        return self.output <= self.output_bound and self.gradient <= self.gradient_bound

    def __str__(self) -> str:
        verdict = "" if self.holds else f"  ABOVE {self.output_bound:g} or {self.gradient_bound:g}"
        return f"{self.name:40} outputs {self.output:8.1e}  gradients {self.gradient:8.1e}{verdict}"


def check_layer(path: Path) -> Result:
    """Compare one layer's outputs and gradients."""
    meta, arrays = read(path)
    leaves = {name: array.requires_grad_() for name, array in arrays.items() if _is_leaf(name, array)}
    outputs = routing_layers.call(path.stem, meta, arrays)
    if "r_seed" not in meta and "r" not in meta:
        return _check_each(path.stem, arrays, outputs)
    seeds = meta.get("r") or meta["r_seed"]
    total = sum((outputs[name] * _random(seed, outputs[name].shape)).sum() for name, seed in seeds.items())
    expected = {f"grad{name.removeprefix('in')}": leaf for name, leaf in leaves.items()}
    wanted = {name: leaf for name, leaf in expected.items() if name in arrays}
    gradients = torch.autograd.grad(total, list(wanted.values()), materialize_grads=True)
    ignored = routing_layers.noise(meta)
    return Result(
        path.stem,
        max(_difference(outputs[name], arrays[f"out/{name}"]) for name in outputs),
        max(
            _difference(gradient, arrays[name])
            for name, gradient in zip(wanted, gradients, strict=True)
            if name not in ignored
        ),
        BOUND,
        BOUND,
    )


def _check_each(name: str, arrays: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> Result:
    """Compare where each output, such as `loss_100`, has a gradient of its own, such as `scores_100`."""
    gradients = []
    for key, output in outputs.items():
        suffix = key.rpartition("_")[2]
        (wanted,) = [each for each in arrays if each.startswith("grad/") and each.endswith(f"_{suffix}")]
        leaf = arrays[f"in/{wanted.removeprefix('grad/').removesuffix(f'_{suffix}')}"]
        (gradient,) = torch.autograd.grad(output, leaf, retain_graph=True)
        gradients.append(_difference(gradient, arrays[wanted]))
    found = [_difference(output, arrays[f"out/{key}"]) for key, output in outputs.items()]
    return Result(name, max(found), max(gradients), BOUND, BOUND)


def check_network(path: Path) -> Result:
    """Compare one network's outputs, loss and gradients."""
    module = _module_of(path)
    found = routing_networks.differences(path) if module is None else module.differences(*read(path), path)
    return Result(path.stem, *found, OUTPUT_BOUND, NORM_BOUND)


def _module_of(path: Path) -> ModuleType | None:
    """Return the module that builds a network whose file holds arrays; None if there is none."""
    names = [start for start in NETWORKS if path.suffix == ".npz" and path.stem.startswith(start)]
    return NETWORKS[names[0]] if names else None


def read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Return what a file says of itself, and its numbers."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}
        return json.loads(str(file["meta"])), arrays


def _random(seed: int, shape: torch.Size) -> torch.Tensor:
    """Return the weights of the sum whose gradients the files hold."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape)))


def _is_leaf(name: str, array: torch.Tensor) -> bool:
    return name.startswith(("in/", "param/")) and array.is_floating_point() and "running_" not in name


def _difference(received: torch.Tensor, expected: torch.Tensor) -> float:
    assert received.shape == expected.shape, f"{tuple(received.shape)}, but {tuple(expected.shape)} expected"
    return float(((received.detach() - expected).abs() / expected.abs().clamp_min(FLOOR)).max())


def files(folder: Path) -> list[Path]:
    """Return a folder's layer files with an adapter, without those that hold a documented fault of a release."""
    paths = [path for path in sorted((folder / "layers").glob("*.npz")) if not routing_layers.is_faulty(path.stem)]
    return [path for path in paths if routing_layers.is_here(path.stem, read(path)[0])]


def layers_without_adapter(folder: Path) -> list[Path]:
    """Return a folder's layer files that nothing here computes."""
    paths = sorted((folder / "layers").glob("*.npz"))
    return [path for path in paths if not routing_layers.is_here(path.stem, read(path)[0])]


def network_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return a folder's files of networks that are here, and those of others."""
    paths = sorted(path for path in (folder / "networks").glob("*") if path.suffix in (".json", ".npz"))
    here = [path for path in paths if path.stem in routing_networks.SPECS or _module_of(path)]
    return here, [path for path in paths if path not in here]


def check(folder: Path) -> Iterator[Result]:
    """Compare all files of a folder."""
    for path in files(folder):
        yield check_layer(path)
    for path in network_files(folder)[0]:
        yield check_network(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with layers/*.npz, networks/*.json or both")
    folder = parser.parse_args().folder
    failed = found = 0
    for result in check(folder):
        print(result, flush=True)
        found += 1
        failed += not result.holds
    if not found:
        print(f"{folder} holds no files of layers or of networks that are here")
    others = [path.stem for path in (*layers_without_adapter(folder), *network_files(folder)[1])]
    for name in others:
        print(f"{name:40} not covered: nothing here computes it")
    covered = f"; {len(others)} not covered: {', '.join(others)}" if others else ""
    print(f"{found - failed} of {found} files within their bounds{covered}")
    return int(failed > 0 or not found)


if __name__ == "__main__":
    sys.exit(main())
