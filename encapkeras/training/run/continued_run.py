"""What is different when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from encapkeras.errors import TrainingError
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.training.run.spec_of_run import first_difference, spec_of_run

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec

_MAY_CHANGE = (
    "epochs",
    "optimizer",
    "schedule",
    "weight_decay",
    "clip_norm",
    "ema",
    "resume_state",
    "max_bad_batches",
)
# What can change the last bits of floating-point numbers.
_DECIDES_NUMBERS = ("torch", "keras", "numpy", "encapkeras", "device", "threads", "processes", "system")


def changes_of(folder: RunFolder, spec: Spec) -> list[str]:
    """What a run that goes on does from now on in another way: settings of how it is trained.

    Args:
        folder: A run that was begun.
        spec: The spec with which it is to go on.

    Returns:
        A text for each, such as `train.clip_norm is null there and 1.0 here`.

    Raises:
        RunFolderError: The spec in the folder is damaged.
        TrainingError: The network, its losses, the data, the seed, or what is watched while training are others.
    """
    before, now = spec_of_run(folder).resolved, spec.resolved
    fixed = first_difference(_without_recipe(before), _without_recipe(now))
    if fixed:
        raise TrainingError(
            f"run {folder.path} was begun with another spec: {fixed}. When a run goes on, only these settings of "
            f"'train' may change (of 'optimizer' not the kind): {', '.join(_MAY_CHANGE)}. Give the spec that it has, "
            "or train in another folder."
        )
    return list(_settings_that_differ(before.get("train", {}), now.get("train", {}), "train"))


def differences_in_numbers(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines that say why the numbers may not be, to the last bit, those of a training in one go.

    Args:
        before: The `environment.json` of the run.
        now: What it would be now.

    Example:
        >>> differences_in_numbers({"threads": 2}, {"threads": 1})
        ['threads was 2, now 1: the last digits may differ from those of a training in one go']
    """
    return [
        f"{name} was {before[name]}, now {now[name]}: the last digits may differ from those of a training in one go"
        for name in _DECIDES_NUMBERS
        if name in before and name in now and before[name] != now[name]
    ]


def _without_recipe(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """All of a resolved spec that must not change."""
    train = resolved.get("train", {})
    fixed = {key: value for key, value in train.items() if key not in _MAY_CHANGE}
    kind = train.get("optimizer", {}).get("kind")
    return {**resolved, "train": {**fixed, "optimizer": {"kind": kind}}}


def _settings_that_differ(before: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict) and before.get("kind") == now.get("kind"):
        for key in dict.fromkeys([*before, *now]):
            yield from _settings_that_differ(before.get(key), now.get(key), f"{path}.{key}")
    elif before != now:
        yield first_difference(before, now, path)
