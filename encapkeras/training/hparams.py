"""Runs in TensorBoard's HParams: the settings of one, or what a comparison has swept and what came of it.

TensorBoard takes the first of several that a run has, so that each run has one, in a file of its own that is replaced.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from encapkeras.graph import SpecModel, TrainSettings, parameters
from encapkeras.graph.cost import batch_size_of
from encapkeras.graph.sweep import value_text
from encapkeras.training.comparison import Comparison, Run
from encapkeras.training.run_folder import RunFolder
from encapkeras.training.whole_files import writing

_SUFFIX = ".hparams"  # of the event file, beside that of the training
_METRICS = {
    "validation_accuracy": "results/best validation accuracy",
    "test_accuracy": "results/test accuracy",
    "final_loss": "results/final loss",
}


def write_hparams(run: Run, comparison: Comparison) -> None:
    """Writes the hyperparameters of a run, and its metrics if it is finished, beside the event file of its training.

    Spec, seed, and what sweeps set are hyperparameters. What an earlier comparison wrote is replaced, since another
    spec or path may have come since.

    Args:
        run: The run.
        comparison: Its comparison.

    Raises:
        RunFolderError: The file cannot be written.
    """
    folder = RunFolder(run.folder)
    if not folder.spec.is_file():
        return  # it failed before it began
    values = _values(run, comparison)
    metrics = _metrics(run, folder)
    # TensorBoard takes the columns from whichever run it finds first, so that each must name them all.
    columns, _, _ = hparams(_columns(comparison), dict.fromkeys(_METRICS.values(), 0.0))
    _, started, ended = hparams(values, {})
    _replace(folder.tensorboard, [columns, started, *([ended] if run.results else [])], metrics)


def write_settings(folder: Path, settings: Mapping[str, str | int | float | bool], finished: bool = False) -> None:
    """Writes the settings of a single run; its metrics are all its curves.

    No columns are named, so that runs of different kinds show theirs side by side, or those of a comparison among them.

    Args:
        folder: That of the event file of its training.
        settings: The hyperparameters.
        finished: Whether the training has ended.

    Raises:
        RunFolderError: The file cannot be written.
    """
    _, started, ended = hparams(dict(settings), {})
    _replace(folder, [started, *([ended] if finished else [])], {})


def main_settings(model: SpecModel, settings: TrainSettings) -> dict[str, str | int | float | bool]:
    """What runs that are trained from specs are told apart by.

    Args:
        model: The model, made from a spec that names its data.
        settings: The `train:` section of that spec.

    Example:
        >>> from encapkeras import build_model, load_spec
        >>> settings = main_settings(build_model("quickstart"), load_spec("quickstart").train)
        >>> settings["spec"], settings["optimizer"], settings["learning_rate"], settings["batch_size"]
        ('quickstart', 'adam', 0.002, 64)
    """
    decay = settings.weight_decay
    return {
        "spec": model.name,
        "parameters": parameters(model),
        "dataset": model.spec["data"]["dataset"],
        "batch_size": batch_size_of(model.examined.spec),
        "seed": settings.seed,
        "epochs": settings.epochs,
        "optimizer": settings.optimizer.kind,
        "learning_rate": settings.optimizer.learning_rate,
        "schedule": settings.schedule.kind,
        "weight_decay": f"{decay.kind} {decay.rate:g}" if decay else "none",
    }


def _replace(folder: Path, summaries: Sequence[Any], scalars: Mapping[str, float]) -> None:
    with writing(folder):
        before = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
        with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
            for summary in summaries:
                writer.file_writer.add_summary(summary)
            for tag, value in scalars.items():
                writer.add_scalar(tag, value)
        for file in before:
            file.unlink()


def _metrics(run: Run, folder: RunFolder) -> dict[str, float]:
    if run.results is None:
        return {}
    figures = {**run.results, "final_loss": _final_loss(folder)}
    return {tag: figures[name] for name, tag in _METRICS.items() if figures[name] is not None}


def _final_loss(folder: RunFolder) -> float | None:
    """The training loss of the last epoch; None if somebody removed or damaged the file that has it."""
    try:
        with folder.metrics.open(encoding="utf-8", newline="") as file:
            *_, last = csv.DictReader(file)
        return float(last["loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _values(run: Run, comparison: Comparison) -> dict[str, Any]:
    """The hyperparameters of a run: numbers where all networks have a number there, otherwise text."""
    network = next(network for network in comparison.networks if network.label == run.network)
    swept = comparison.swept()
    texts = {path for path in swept if not all(map(_is_number, _of_path(path, comparison)))}
    own = {
        heading: value_text(network.swept[path]) if path in texts else network.swept[path]
        for path, heading in swept.items()
        if path in network.swept
    }
    return {"spec": network.title, "seed": run.seed, **own}


def _columns(comparison: Comparison) -> dict[str, Any]:
    """All hyperparameters that runs have, each with a value that tells its type."""
    swept = comparison.swept().items()
    numbers = {heading: all(map(_is_number, _of_path(path, comparison))) for path, heading in swept}
    return {"spec": "", "seed": 0, **{heading: 0 if number else "" for heading, number in numbers.items()}}


def _of_path(path: str, comparison: Comparison) -> list[Any]:
    return [network.swept[path] for network in comparison.networks if path in network.swept]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
