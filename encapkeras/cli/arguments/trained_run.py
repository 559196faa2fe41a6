"""The trained run that a command reads: its folder, checked, and the images of its data set."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encapkeras.cli.arguments.spec_arguments import SPECS
from encapkeras.errors import ArgumentError, DataError, RunFolderError, nearest, printable
from encapkeras.text import counted, quoted

if TYPE_CHECKING:
    from encapkeras.analysis import Classifier
    from encapkeras.data import Batches, DataSplits
    from encapkeras.spec.spec import Spec
    from encapkeras.training.run.run_folder import RunFolder

LATEST = "latest"
MODEL = ".keras"
NOTE = "environment.json"  # in the folder of a run


@dataclass(frozen=True)
class TrainedRun:
    """A run folder, the spec of its network, and the best weights."""

    folder: RunFolder
    spec: Spec
    checkpoint: Path
    changed: bool = False  # whether the images are meant to be others than those of the training

    @classmethod
    def open(
        cls,
        path: str | Path,
        data_root: str | None = None,
        overrides: Sequence[str] = (),
        changes: Sequence[str] = (),
    ) -> TrainedRun:
        """Open a run folder; say on stderr if the run is unfinished.

        Overrides change only places; `changes` what the images are.
        """
        from encapkeras.data.registry import COMMON_SETTINGS
        from encapkeras.training.measure import data_of
        from encapkeras.training.run.identity import check_checkpoint

        folder, spec = open_folder(path, data_root, overrides, changes=changes)
        checkpoint = folder.chosen(data_of(spec).has_validation)
        check_checkpoint(folder, checkpoint)
        note_unfinished(folder, checkpoint)
        settings = {change.partition("=")[0].removeprefix("data.").partition(".")[0] for change in changes}
        return cls(folder, spec, checkpoint, not settings <= set(COMMON_SETTINGS) - {"dataset"})

    def splits(self) -> DataSplits:
        """Return the images that it was trained and tested with, or those that were asked for in their place."""
        return images_of(self.folder, self.spec, self.changed)

    def chosen(self, splits: DataSplits, split: str) -> Batches:
        """Return the images of a split, in their own order and not augmented."""
        batches = {"train": splits.train.unchanged(), "validation": splits.validation, "test": splits.test}[split]
        if batches is None:
            raise DataError(
                f"run {self.folder.path} has no validation part (data.validation is 0); use another with --split"
            )
        return batches

    def check_one_class(self, option: str, changes: Sequence[str]) -> None:
        """Check that each image has one class, as the measurement of an option needs."""
        from encapkeras.data.settings import OVERLAP_SHIFT

        data = self.spec.data
        if data is None or not data.overlap:
            return
        change = f"data.affine={{border: {OVERLAP_SHIFT}, rotation: 0, shear: 0, scale: 0, shift: 0}}"
        if data.affine:
            change = f"data.affine.border={data.affine.border + OVERLAP_SHIFT}"
        hint = (
            "To measure on test images of one object, in the middle of as large an image, add "
            f"--change data.overlap=null --change {quoted(change)}"
        )
        if any(text.startswith("data.overlap=") for text in changes):
            hint = "Leave out --change data.overlap"
        elif option == "--ten-crop":
            hint = "Leave it out: where the objects are is a shift, so images have no corners to crop"
        raise ArgumentError(f"{option} needs images of one class, and data.overlap gives each two classes. {hint}.")

    def classifier(self, splits: DataSplits) -> Classifier:
        """Return its network as a classifier; raise a `TrainingError` if it does not fit the data set."""
        from encapkeras.analysis import Classifier
        from encapkeras.model.load_model import load_model
        from encapkeras.training.measure import check_fits

        model = load_model(self.checkpoint)
        check_fits(model, splits.info)
        return Classifier(model)


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Declare `--data-root PATH`, which arrives as `data_root`."""
    parser.add_argument(
        "--data-root",
        metavar="PATH",
        help="where the data set of the run is now, if it has moved: its folder, or the file of an npz data set",
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Declare what says where the data set is now: `--data-root PATH` and `--set data.KEY=PATH`, as `overrides`."""
    add_data_root(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="data.KEY=PATH",
        dest="overrides",
        help="where another path of the data set is now, such as data.class_list=FILE; may be given several times",
    )


def named_run(path: str | Path) -> Path:
    """Return a run folder; of `latest`, unless there is a folder of that name, the newest run below `runs`."""
    if str(path) != LATEST or os.path.lexists(path):
        return Path(path)
    from encapkeras.training.run.known_runs import RUNS, known_runs

    found = [run.folder.path for run in known_runs(RUNS) if run.state != "damaged"]
    if not found:
        raise RunFolderError(f"there is no latest run: no run is in {RUNS.absolute()}, nor a folder '{LATEST}' here")
    print(f"the latest run is {printable(str(found[0]))}", file=sys.stderr)
    return found[0]


def open_folder(
    path: str | Path,
    data_root: str | None = None,
    overrides: Sequence[str] = (),
    only_places: bool = True,
    changes: Sequence[str] = (),
) -> tuple[RunFolder, Spec]:
    """Return the folder of a run and its spec, with its data set at another place, or changed, if that is given."""
    from encapkeras.training.run.identity import check_changes, check_places, moved_data, spec_of_run
    from encapkeras.training.run.run_folder import RunFolder

    folder = RunFolder(named_run(path))
    _check_run(folder)
    folder.check_plugins()
    if only_places and overrides:
        check_places(folder, overrides)
    check_changes(changes)
    if (data_root or overrides) and any(text.startswith("data.dataset=") for text in changes):
        raise ArgumentError(
            "--data-root and --set give the place of the run's own data set, which --change data.dataset replaces. "
            "Give the place of the other with --change too, for example --change data.root=FOLDER"
        )
    moved = [] if data_root is None else moved_data(folder, data_root)
    return folder, spec_of_run(folder, [*moved, *overrides], changes)


def _check_run(folder: RunFolder) -> None:
    """Check that it is the folder of a run; if it is something else, say what could be meant."""
    try:
        folder.check_run()
    except RunFolderError as error:
        if folder.environment.is_file():
            raise
        raise RunFolderError(f"{error} {_hint(folder.path)}") from error


def _hint(path: Path) -> str:
    from encapkeras.packing import packed_folder
    from encapkeras.packing.load import is_packed
    from encapkeras.packing.zoo import SUMS, zoo_models
    from encapkeras.spec.bundled import bundled_names

    if is_packed(path):
        return (
            f"'{path}' is a packed model, which predict, explain and export take; this command needs the run of a "
            "training."
        )
    model = path / packed_folder.MODEL
    if model.is_file():
        return f"It has {model.name}, as a packed model has, but no {SUMS}; predict takes {model} itself."
    inside = _runs_in(path)
    if inside:
        return f"It holds {counted(len(inside), 'run')}; the newest is {inside[0]}"
    above = next((str(folder) for folder in path.parents if (folder / NOTE).is_file()), None)
    known = _runs_in(Path("runs"))
    near = above or nearest(str(path), [*known, *zoo_models()])
    if near:
        return f"Did you mean {near}?"
    if path.suffix in SPECS or str(path) in bundled_names():
        return f"'{path}' is a spec: a run is what 'encapkeras train' makes of it."
    return "'encapkeras runs' lists the runs here." if known else "There are no runs in the folder runs here."


def _runs_in(folder: Path) -> list[str]:
    """Return the runs in a folder, as train makes them and named by users, the newest first; not those further down."""
    notes = [note for pattern in (f"*/{NOTE}", f"*/*/{NOTE}") for note in folder.glob(pattern)]
    return [str(note.parent) for note in sorted(notes, key=lambda note: note.stat().st_mtime, reverse=True)]


def images_of(folder: RunFolder, spec: Spec, changed: bool = False) -> DataSplits:
    """Load the images of a run; say on stderr if they are not those that it was started with, unless that is meant."""
    from encapkeras.data import load
    from encapkeras.training.measure import data_of
    from encapkeras.training.run.identity import changed_images, missing_places

    try:
        splits = load(data_of(spec), seed=spec.train.seed)
    except DataError as error:
        advice = missing_places(folder, spec)
        if not advice:
            raise
        raise DataError(f"the images of run {folder.path} cannot be used: {error}\n{advice}") from error
    others = "" if changed else changed_images(folder, splits.fingerprint)
    if others:
        print(f"run {folder.path} was trained with other images (there) than these (here): {others}", file=sys.stderr)
    return splits


def chosen_checkpoint(path: Path) -> Path:
    """Return a `.keras` file, or the one that a run chose or a packed model has; no data need be on this machine."""
    from encapkeras.packing.load import is_packed, packed_model

    if is_packed(path):
        return packed_model(path)
    path = named_run(path)
    if path.suffix == MODEL or (path.is_file() and path.suffix not in SPECS):
        return path
    from encapkeras.data import DataSettings
    from encapkeras.training.run.identity import check_checkpoint, written_spec
    from encapkeras.training.run.run_folder import RunFolder

    folder = RunFolder(path)
    _check_run(folder)
    folder.check_plugins()
    data = written_spec(folder).get("data") or {}
    checkpoint = folder.chosen(DataSettings.model_construct(**data).has_validation)
    check_checkpoint(folder, checkpoint)
    note_unfinished(folder, checkpoint)
    return checkpoint


def note_unfinished(folder: RunFolder, checkpoint: Path) -> None:
    """Say on stderr if a run has not ended."""
    if not folder.results.is_file():
        text = f"run {folder.path} is unfinished: it has no results.json. This is {checkpoint}."
        if folder.can_continue():
            text += f" Continue the run with: {folder.resume_command}"
        print(text, file=sys.stderr)
