"""Search for the settings with which a network validates best: draw, train, draw again.

The folder of a search:

study.db       the finished trials, for Optuna; it marks the folder as that of a search
study.csv      one row for each trial, the best first
study.md       the same as a table, and how to train the best one
study.png      what trials are compared by, against the number of the trial, and against each setting
trial_000/     the run folder of each trial; that of a pruned one is unfinished
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

import encapkeras.backend  # noqa: F401  # before Keras
from encapkeras.comparison.choice import Choice
from encapkeras.comparison.compare import clear_session
from encapkeras.errors import (
    ArgumentError,
    EncapkerasError,
    RunFolderError,
    ShapeError,
    SpecError,
    TrainingError,
    printable,
)
from encapkeras.files import FileLock
from encapkeras.model.examine import examine_spec
from encapkeras.search.report import write_picture, write_tables
from encapkeras.search.space import Space
from encapkeras.search.study import FILE, StudyFile, best_first, equal_trial, next_trial
from encapkeras.spec.load import Source, load_spec
from encapkeras.spec.spec import Spec
from encapkeras.training.callbacks.callback_state import KeptTypes
from encapkeras.training.callbacks.log_values import single_numbers
from encapkeras.training.check import check_settings
from encapkeras.training.measure import data_of
from encapkeras.training.run.identity import without_places
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.training.train import train

TRIALS = 20  # by default
MISTAKES = (SpecError, TrainingError, ArgumentError, ShapeError)
"""Errors that settings can cause; those of the machine, such as a full disk, say nothing about settings."""


def search(
    source: Source,
    *,
    trials: int = TRIALS,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    prune: bool = True,
) -> list[FrozenTrial]:
    """Train a network with settings drawn from its sweep, again and again, to find those that validate best.

    Trials are compared by the best value that the metric `train.select` has in their epochs, with masks by the mean IoU
    in place of the accuracy. Optuna's TPE draws from `sweep.ranges` and `sweep.grid` what has done well so far. A trial
    whose best value is worse than the median of earlier trials at the same epoch is pruned, from the sixth trial on and
    after a quarter of its epochs. A trial with settings that cannot be trained is noted as failed. The same spec and
    `train.seed` give the same trials, also if the search is interrupted at any moment and resumed.

    Args:
        source: A spec with a sweep, as `load_spec` takes it.
        trials: How many trials the study has in the end, those of an earlier call included.
        overrides: Texts `path.to.key=value`, as `--set` takes them.
        run_dir: The folder for everything; by default `runs/search/<date and time>`.
        resume: Whether `run_dir` is that of an earlier search, which goes on.
        prune: Whether trials are pruned.

    Returns:
        Optuna's record of each trial, the best first. Its `params` are the values by path, those of a grid as texts in
        YAML; its `value` is what trials are compared by.

    Raises:
        ArgumentError: The spec has no sweep to draw from, or no validation part; its sweep changes what trials are
            compared by; or `trials` is below 1.
        SpecError: The spec is invalid, with the lowest or the highest values of its ranges or a value of its grid.
        RunFolderError: The folder is not free, cannot be written, or does not hold what `resume` needs.
        DataError: The data set cannot be read.
        DistributionError: The processes of a training cannot be connected, or one of the others has ended.
        KeyboardInterrupt: Ctrl-C. The finished trials are kept, as after all errors, and the one that was interrupted
            is resumed.
    """
    if trials < 1:
        raise ArgumentError(f"a search needs at least 1 trial; received {trials}")
    spec, _, variants = examine_spec(source, overrides)
    space = Space.of(spec)
    for each in (variant.spec for variant in variants):
        _check_validated(each)
        _check_same_choice(Choice.of(each), space.choice)
    with RunFolder.claimed("search") if run_dir is None else contextlib.nullcontext(RunFolder(run_dir)) as folder:
        path = folder.path
        _check_folder(path, resume)
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            one = load_spec(source, [*overrides, "sweep=null"])
            origin = {"spec": without_places(one.resolved), "sweep": spec.sweep, "prune": prune}
            plain = json.loads(json.dumps(origin, default=lambda section: section.model_dump()))
            instead = "" if run_dir is None else ", in the place of --run-dir"
            again = "." if resume else f" and --resume {path}{instead}"
            with (
                contextlib.closing(StudyFile(path, plain, space.choice)) as study,
                _saying_how_to_continue(study, trials, f"Continue with the same command{again}"),
            ):
                return _Search(source, overrides, spec, space, path, study, prune).run(trials)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path / ".lock")
    if not lock.acquire():
        raise RunFolderError(f"another process searches in {path}. Wait until it has ended, or choose another folder.")
    try:
        yield
    finally:
        lock.remove()
        lock.close()


def _check_validated(spec: Spec) -> None:
    check_settings(spec)
    if not data_of(spec).has_validation:
        raise ArgumentError(
            f"'{spec.name}' has no validation part (data.validation is 0), so a search cannot tell which settings are "
            "better. Set for example data.validation=0.1."
        )


def _check_same_choice(found: Choice, wanted: Choice) -> None:
    if found != wanted:
        raise ArgumentError(
            f"trials are compared by their {wanted.words}; with some values of the sweep it would be their "
            f"{found.words}. Set train.select and the data set in the spec itself, not in its sweep."
        )


def _check_folder(path: Path, resume: bool) -> None:
    there = (path / FILE).is_file()
    if resume and not there:
        raise RunFolderError(
            f"{path} is not the folder of a search: it has no {FILE}. Give the folder that search printed, or begin a "
            "new search without --resume."
        )
    if there and not resume:
        raise RunFolderError(
            f"{path} already holds a search. Continue it with --resume {path}, or choose another folder with --run-dir."
        )
    if not there:
        RunFolder(path).check_free()


@contextlib.contextmanager
def _saying_how_to_continue(study: StudyFile, count: int, again: str) -> Iterator[None]:
    """Add to Ctrl-C, or to an error that ends the search, what is finished and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, EncapkerasError) as stop:
        of_training = str(stop).partition(" Continue with: ")[0]  # that would continue one of the trials alone
        text = (of_training or "interrupted").removesuffix(".")
        raise type(stop)(f"{text}. {len(study.trials)} of {count} trials are finished. {again}") from None


class _Search:
    """A search that is open: its folder is locked, and its study is loaded."""

    def __init__(
        self,
        source: Source,
        overrides: Sequence[str],
        spec: Spec,
        space: Space,
        path: Path,
        study: StudyFile,
        prune: bool,
    ) -> None:
        self._source, self._overrides, self._spec, self._space = source, overrides, spec, space
        self._path, self._study = path, study
        self._prune = prune
        self._console = Console(soft_wrap=True)

    def run(self, count: int) -> list[FrozenTrial]:
        """Train until there are `count` trials; write the tables after each, and the picture in the end."""
        finished = self._study.trials
        self._print(
            f"{len(finished)} of {count} trials in {self._path}" if finished else f"{count} trials in {self._path}"
        )
        try:
            while len(finished) < count:
                self._study.add(self._trained(finished, count))
                finished = self._study.trials
                write_tables(finished, self._space, self._path, self._spec.name)
        finally:
            if finished:
                write_picture(finished, self._space, self._path)
        return best_first(finished, self._space.choice)

    def _trained(self, finished: Sequence[FrozenTrial], count: int) -> FrozenTrial:
        """Draw the next trial and train it, or go on with it where an earlier process has begun to."""
        number, choice = len(finished), self._space.choice
        # The sampler's seed is that of the spec, and epochs may be searched too.
        warmup = self._spec.train.epochs // 4 if self._prune else None
        trial = next_trial(finished, self._space.distributions, self._spec.train.seed, warmup, choice)
        names = self._space.names
        drawn = ", ".join(f"{names[path]}={self._space.text(path, value)}" for path, value in trial.params.items())
        self._print(f"\ntrial {number} (the last is {count - 1}): {drawn}")
        equal = equal_trial(finished, trial)
        if equal:
            self._print(f"the same as trial {equal.number}, which is not trained again")
            return _record(trial, equal.state, equal.value, equal.intermediate_values, {"equal_to": equal.number})
        clear_session()
        report = ReportValue(trial, choice)
        try:
            spec = load_spec(self._source, [*self._overrides, *self._space.overrides(trial.params)])
            folder = self._path / f"trial_{number:03}"
            results = train(spec, folder, resume=True, callbacks=[report])
        except optuna.TrialPruned:
            self._print("pruned: at this epoch, the median of the earlier trials was better")
            return _record(trial, TrialState.PRUNED, None, report.values, {})
        except MISTAKES as error:
            self._print(f"FAILED: {error}")
            return _record(trial, TrialState.FAIL, None, report.values, {"error": str(error)})
        return _record(trial, TrialState.COMPLETE, results[choice.result], report.values, {})

    def _print(self, text: str) -> None:
        self._console.print(printable(text, keep="\n"), markup=False, highlight=False, soft_wrap=True)


def _record(
    trial: optuna.Trial,
    state: TrialState,
    value: float | None,
    values: Mapping[int, float],
    notes: dict[str, Any],
) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=dict(values),
        user_attrs=notes,
    )


class ReportValue(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports what trials are compared by, after each epoch, to a trial, and ends its training once Optuna prunes it.

    Resume states hold the values, so that a training that is resumed is judged by all its epochs.
    """

    KEPT: ClassVar[KeptTypes] = {"values": (dict,)}

    def __init__(self, trial: optuna.Trial, choice: Choice) -> None:
        super().__init__()
        self._trial = trial
        self._log = choice.log
        self._reported: set[int] = set()
        self.values: dict[int, float] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report, and raise `TrialPruned` if the trial is."""
        value = single_numbers(logs).get(self._log)
        if value is None:
            raise TrainingError(f"there is no {self._log} to choose settings by")
        self.values[epoch + 1] = value
        for step in sorted(self.values.keys() - self._reported):
            self._trial.report(self.values[step], step)
            self._reported.add(step)
        if self._trial.should_prune():
            raise optuna.TrialPruned
