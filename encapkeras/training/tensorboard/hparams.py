"""Runs in TensorBoard's HParams: the settings of one.

TensorBoard takes the first of several that a run has, so that each run has one, in a file of its own that is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from encapkeras.files import writing
from encapkeras.model.spec_model import SpecModel
from encapkeras.spec.train_settings import TrainSettings
from encapkeras.summary.cost import batch_size_of
from encapkeras.summary.node_table import parameters
from encapkeras.torch_internals import file_writer

_SUFFIX = ".hparams"  # of the event file, beside that of the training


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
    replace_hparams(folder, [started, *([ended] if finished else [])], {})


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


def replace_hparams(folder: Path, summaries: Sequence[Any], scalars: Mapping[str, float]) -> None:
    """Writes the event file of a run's hyperparameters in place of an earlier one."""
    with writing(folder):
        before = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
        with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
            for summary in summaries:
                file_writer(writer).add_summary(summary)
            for tag, value in scalars.items():
                writer.add_scalar(tag, value)
        for file in before:
            file.unlink()
