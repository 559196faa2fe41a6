"""The settings of a run in TensorBoard's HParams.

TensorBoard takes the first settings of a run, so that each run has them once, in a separate file that is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.summary import hparams

from encapkeras.files import writing
from encapkeras.torch_internals import file_writer
from encapkeras.training.tensorboard.event_file import open_event_file

_SUFFIX = ".hparams"  # of the event file, next to that of the training


def write_settings(folder: Path, settings: Mapping[str, str | int | float | bool], finished: bool = False) -> None:
    """Write a run's settings next to the event file of its training, without columns: they differ between runs."""
    _, started, ended = hparams(dict(settings), {})
    replace_hparams(folder, [started, *([ended] if finished else [])], {})


def replace_hparams(folder: Path, summaries: Sequence[Any], scalars: Mapping[str, float]) -> None:
    """Write the event file of a run's hyperparameters in place of an earlier one."""
    with writing(folder):
        before = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
        with open_event_file(folder, _SUFFIX) as writer:
            for summary in summaries:
                file_writer(writer).add_summary(summary)
            for tag, value in scalars.items():
                writer.add_scalar(tag, value)
        for file in before:
            file.unlink()
