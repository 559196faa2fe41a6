"""Which trial comes next, and the file that keeps the finished ones.

The file holds finished trials alone, each written at once. What comes next follows from these and from the seed: the
sampler is seeded anew for each trial. So a search that is killed at any moment goes on with the same trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from encapkeras.comparison.choice import DEFAULT, Choice
from encapkeras.errors import RunFolderError
from encapkeras.files import reading
from encapkeras.training.run.identity import first_difference

FILE = "study.db"
NAME = "search"
STARTUP = 5  # trials that are finished before one is pruned
_ORIGIN = "origin"  # what the study is of


class StudyFile:
    """The finished trials of a search, in a file of SQLite, which Optuna's dashboard shows too.

    Args:
        folder: The folder of the search.
        origin: What the study is of: plain data that a study which is continued must have, too.
        choice: What its trials are compared by, which is a part of that.

    Raises:
        RunFolderError: The file is damaged, or is that of another search.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any], choice: Choice) -> None:
        self._path = folder / FILE
        here = {**origin, "compared_by": choice.log}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with reading(self._path, "a study", RunFolderError):
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{self._path.absolute()}")
            self._study = optuna.create_study(
                storage=self._storage, study_name=NAME, direction=_direction(choice), load_if_exists=True
            )
            there = self._study.user_attrs.get(_ORIGIN)
            if there is None and not self.trials:
                self._study.set_user_attr(_ORIGIN, here)
        # Earlier versions compared all trials by their accuracy, and did not note it.
        earlier = {} if there is None or "compared_by" in there else {"compared_by": DEFAULT.log}
        difference = first_difference({**there, **earlier}, here) if there is not None else ""
        if difference:
            self.close()
            raise RunFolderError(
                f"the search in {folder} is another one: {difference}. Give the same spec, or begin a new search with "
                "--run-dir."
            )

    @property
    def trials(self) -> list[FrozenTrial]:
        """The finished trials, in their order."""
        with reading(self._path, "a study", RunFolderError):
            return list(self._study.get_trials(deepcopy=False))

    def add(self, trial: FrozenTrial) -> None:
        """Add a finished trial; it is in the file when this returns."""
        self._study.add_trial(trial)

    def close(self) -> None:
        """Close the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()


def _direction(choice: Choice) -> str:
    return "minimize" if choice.lowest else "maximize"


def next_trial(
    finished: Sequence[FrozenTrial],
    space: Mapping[str, BaseDistribution],
    seed: int,
    warmup: int | None,
    choice: Choice,
) -> optuna.Trial:
    """Return the trial after the finished ones; `warmup` epochs are never pruned, None: no trial is."""
    number = len(finished)
    seed_of_trial = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    pruner = (
        optuna.pruners.NopPruner()
        if warmup is None
        else optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=warmup)
    )
    study = optuna.create_study(
        direction=_direction(choice), sampler=optuna.samplers.TPESampler(seed=seed_of_trial), pruner=pruner
    )
    study.add_trials(finished)
    return study.ask(dict(space))


def equal_trial(finished: Sequence[FrozenTrial], trial: optuna.Trial) -> FrozenTrial | None:
    """Return a finished trial of the same values, whose training would be the same."""
    return next((each for each in finished if each.params == trial.params and each.state != TrialState.FAIL), None)


def best_first(trials: Sequence[FrozenTrial], choice: Choice) -> list[FrozenTrial]:
    """Return the trials that were trained to the end, the best first, then the pruned ones, then those that failed."""
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}
    return sorted(trials, key=lambda trial: (order[trial.state], choice.rank(trial.value or 0.0), trial.number))
