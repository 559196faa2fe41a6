"""The runs of a comparison in TensorBoard's HParams: what it has swept and what came of it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard.summary import hparams

from encapkeras.comparison.result import Comparison
from encapkeras.comparison.rows import Run
from encapkeras.spec.sweep import value_text
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.training.tensorboard.hparams import replace_hparams


def write_hparams(run: Run, comparison: Comparison) -> None:
    """Write the spec, seed and swept values of a run, and its metrics if it is finished, next to its event file."""
    folder = RunFolder(run.folder)
    if not folder.spec.is_file():
        return  # it failed before it began
    values = _values(run, comparison)
    tags = _tags(comparison)
    metrics = _metrics(run, folder, tags)
    # TensorBoard takes the columns from whichever run it finds first, so that each must name them all.
    columns, _, _ = hparams(_columns(comparison), dict.fromkeys(tags.values(), 0.0))
    _, started, ended = hparams(values, {})
    replace_hparams(folder.tensorboard, [columns, started, *([ended] if run.results else [])], metrics)


def _tags(comparison: Comparison) -> dict[str, str]:
    """Return what is shown of results, by name."""
    return {
        comparison.choice.result: f"results/best {comparison.choice.words}",
        "test_accuracy": "results/test accuracy",
        "final_loss": "results/final loss",
    }


def _metrics(run: Run, folder: RunFolder, tags: Mapping[str, str]) -> dict[str, float]:
    if run.results is None:
        return {}
    metrics = {**run.results, "final_loss": _final_loss(folder)}
    return {tag: metrics[name] for name, tag in tags.items() if metrics.get(name) is not None}


def _final_loss(folder: RunFolder) -> float | None:
    try:
        with folder.metrics.open(encoding="utf-8", newline="") as file:
            *_, last = csv.DictReader(file)
        return float(last["loss"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None


def _values(run: Run, comparison: Comparison) -> dict[str, Any]:
    """Return the hyperparameters of a run: numbers where all networks have a number there, otherwise text."""
    network = next(network for network in comparison.networks if network.label == run.network)
    own = {
        heading: network.swept[path] if _is_number(path, comparison) else value_text(network.swept[path])
        for path, heading in comparison.swept().items()
        if path in network.swept
    }
    return {"spec": network.title, "seed": run.seed, **own}


def _columns(comparison: Comparison) -> dict[str, Any]:
    """Return all hyperparameters that runs have, each with a value of its type."""
    swept = {heading: 0 if _is_number(path, comparison) else "" for path, heading in comparison.swept().items()}
    return {"spec": "", "seed": 0, **swept}


def _is_number(path: str, comparison: Comparison) -> bool:
    values = [network.swept[path] for network in comparison.networks if path in network.swept]
    return all(type(value) in (int, float) for value in values)
