"""The spec of a run that was begun before, and whether it is the one that is asked for now."""

from __future__ import annotations

from typing import Any

from encapkeras.errors import EncapkerasError, RunFolderError
from encapkeras.spec.load import load_spec
from encapkeras.spec.spec import Spec
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.validation import shown


def spec_of_run(folder: RunFolder) -> Spec:
    """The resolved spec that a run was begun with.

    Raises:
        RunFolderError: It is damaged.
    """
    try:
        return load_spec(folder.spec)
    except EncapkerasError as error:
        raise RunFolderError(
            f"run {folder.path} cannot be used, as its {folder.spec.name} is damaged. Put that back, or remove the "
            f"folder to train the run again.\n{error}"
        ) from error


def first_difference(there: Any, here: Any, path: str = "") -> str:
    """Where two resolved specs first differ, and how; empty if they do not.

    Example:
        >>> first_difference({"train": {"epochs": 3, "seed": 0}}, {"train": {"epochs": 5, "seed": 0}})
        'train.epochs is 3 there and 5 here'
    """
    if there == here:
        return ""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            if there.get(key) != here.get(key):
                return first_difference(there.get(key), here.get(key), f"{path}.{key}" if path else key)
    return f"{path} is {_written(there)} there and {_written(here)} here"


def _written(value: Any) -> str:
    return "null" if value is None else shown(value)
