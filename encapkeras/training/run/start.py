"""Where a run goes, and whether it begins or goes on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from encapkeras.distribution.processes import launcher_value, set_launcher_value
from encapkeras.errors import RunFolderError, TrainingError
from encapkeras.training.run.continued_run import changes_of
from encapkeras.training.run.resume_state import StateFiles
from encapkeras.training.run.run_folder import RunFolder

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec


class Start(NamedTuple):
    """What is decided before a run begins or goes on.

    Args:
        path: The run folder.
        goes_on: Whether a run that is there goes on.
        overwrite: Whether what is there is replaced.
        changes: What is different from the spec that it was begun with.
        results: Of a run that is finished already; else None.
    """

    path: Path
    goes_on: bool
    overwrite: bool
    changes: Sequence[str] = ()
    results: dict[str, Any] | None = None


class LaunchedRun:
    """The run that a call of `train` began, for the same call in processes that torchrun has started again.

    Calls are told apart by their number: a script makes the same ones each time. Only the first process asks.
    """

    _calls = itertools.count()

    def __init__(self) -> None:
        self._name = f"run {next(self._calls)}"

    def known(self) -> tuple[Path | None, bool]:
        """Its folder, None if it has none yet; and whether that was made."""
        stage, _, path = (launcher_value(self._name) or "").partition(" ")
        return (Path(path) if path else None), stage == "made"

    def makes(self, folder: RunFolder) -> None:
        """Notes where it will be."""
        set_launcher_value(self._name, f"makes {folder.path.absolute()}")

    def made(self, folder: RunFolder) -> None:
        """Notes that it goes on from now on if processes are started again."""
        set_launcher_value(self._name, f"made {folder.path.absolute()}")


def begin(spec: Spec, launched: LaunchedRun, run_dir: str | Path | None, overwrite: bool, resume: bool) -> Start:
    """Decides where a run goes, and whether one that is there goes on; changes nothing.

    Args:
        spec: A loaded spec.
        launched: If it has begun already, it goes on.
        run_dir: The run folder; None for a new one.
        overwrite: Whether a run that is in that folder may be replaced.
        resume: Whether a run that is in that folder goes on.

    Raises:
        RunFolderError: The folder holds something already, or cannot be written.
        TrainingError: The run there is one of another spec, is finished, or has come beyond the last epoch.
    """
    known, was_made = launched.known()
    run_dir = known or run_dir
    folder = RunFolder(run_dir) if run_dir is not None else RunFolder.default(spec.name)
    if was_made:
        overwrite, resume = False, True
    elif known:  # it may have been made in part
        overwrite = overwrite or folder.has_remains()
    goes_on = resume and folder.was_begun()
    changes = changes_of(folder, spec) if goes_on else []
    if goes_on and folder.results.is_file():
        return Start(folder.path, True, False, changes, _results_of_finished(folder, changes))
    goes_on = goes_on and _can_go_on(folder, spec.train.epochs)
    # What ended before anything was saved begins anew, as often as it takes.
    overwrite = overwrite or (resume and folder.has_remains())
    folder.check_free(overwrite or goes_on)
    return Start(folder.path, goes_on, overwrite, changes)


def _can_go_on(folder: RunFolder, epochs: int) -> bool:
    """Whether there is a state to go on from; without one a run begins anew if it has left nothing that could be lost.

    Raises:
        RunFolderError: There is no state, but there are weights or metrics.
        TrainingError: The run has come beyond the last epoch that is wanted.
    """
    position = StateFiles(folder.resume).position()
    if position is None:
        if not folder.has_remains():
            raise RunFolderError(
                f"run {folder.path} cannot go on: {folder.resume} has no state, though there are weights or metrics of "
                "earlier epochs. Put the states back, train in another folder, or replace the run with --overwrite."
            )
        return False
    if (position.epoch, position.step) > (epochs, 0):
        raise TrainingError(
            f"run {folder.path} has come to {position}, beyond the {epochs} epochs of train.epochs. Set "
            "train.epochs to that or more."
        )
    return True


def _results_of_finished(folder: RunFolder, changes: list[str]) -> dict[str, Any]:
    if changes:
        raise TrainingError(
            f"run {folder.path} is finished; what it was trained with cannot change any more: {'; '.join(changes)}. "
            "Train in another folder, or with --overwrite."
        )
    try:
        results: dict[str, Any] = dict(json.loads(folder.results.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{folder.results} is damaged: {error}. Remove it to test the network again.") from error
    StateFiles(folder.resume).remove()  # it may have been killed before it did so
    return results
