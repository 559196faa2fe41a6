"""The trained run that a command reads: its folder, checked, and the images of its data set."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encapkeras.errors import DataError

if TYPE_CHECKING:
    from encapkeras.analysis import Classifier
    from encapkeras.data import Batches, DataSplits
    from encapkeras.spec.spec import Spec
    from encapkeras.training.run.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedRun:
    """A run folder, the spec of its network, and the best weights."""

    folder: RunFolder
    spec: Spec
    checkpoint: Path

    @classmethod
    def open(cls, path: str | Path) -> TrainedRun:
        """Open a run folder; say on stderr if the run is unfinished."""
        from encapkeras.spec.load import load_spec
        from encapkeras.training.measure import data_of
        from encapkeras.training.run.run_folder import RunFolder

        folder = RunFolder(path)
        folder.check_run()
        folder.check_plugins()
        spec = load_spec(folder.spec)
        checkpoint = folder.chosen(data_of(spec).has_validation)
        note_unfinished(folder, checkpoint)
        return cls(folder, spec, checkpoint)

    def splits(self) -> DataSplits:
        """Return the images that it was trained and tested with."""
        from encapkeras.data import load
        from encapkeras.training.measure import data_of

        return load(data_of(self.spec), seed=self.spec.train.seed)

    def chosen(self, splits: DataSplits, split: str) -> Batches:
        """Return the images of a split, in their own order and not augmented."""
        batches = {"train": splits.train.unchanged(), "validation": splits.validation, "test": splits.test}[split]
        if batches is None:
            raise DataError(
                f"run {self.folder.path} has no validation part (data.validation is 0); use another with --split"
            )
        return batches

    def classifier(self, splits: DataSplits) -> Classifier:
        """Return its network as a classifier; raise a `TrainingError` if it does not fit the data set."""
        from encapkeras.analysis import Classifier
        from encapkeras.model.load_model import load_model
        from encapkeras.training.measure import check_fits

        model = load_model(self.checkpoint)
        check_fits(model, splits.info)
        return Classifier(model)


def chosen_checkpoint(path: Path) -> Path:
    """Return a `.keras` file, or the one that a run chose; its data need not be on this machine."""
    if not path.is_dir():
        return path
    from encapkeras.data import DataSettings
    from encapkeras.spec.parse import load_file
    from encapkeras.spec.report import Report
    from encapkeras.training.run.run_folder import RunFolder

    folder = RunFolder(path)
    folder.check_run()
    folder.check_plugins()
    report = Report()
    spec = load_file(folder.spec, str(folder.spec), report).plain()
    report.raise_if_any()
    checkpoint = folder.chosen(DataSettings.model_construct(**(spec.get("data") or {})).has_validation)
    note_unfinished(folder, checkpoint)
    return checkpoint


def note_unfinished(folder: RunFolder, checkpoint: Path) -> None:
    """Say on stderr if a run has not ended."""
    if not folder.results.is_file():
        print(f"run {folder.path} is unfinished: it has no results.json. This is {checkpoint}.", file=sys.stderr)
