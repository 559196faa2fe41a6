"""What the folder of a comparison holds already, and whether the comparison can continue there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encapkeras.comparison.plan import Planned
from encapkeras.errors import RunFolderError
from encapkeras.files import read_json
from encapkeras.text import listed
from encapkeras.training.run.identity import first_difference, same_places, spec_of_run, without_places
from encapkeras.training.run.run_folder import RunFolder, check_no_link

_METRICS = ("test_accuracy", "validation_accuracy", "parameters", "images_per_second", "seconds", "peak_memory_mib")


def table_file(path: Path) -> Path:
    """Return the file that marks a folder as that of a comparison."""
    return path / "comparison.json"


def check_folder(path: Path, resume: bool) -> None:
    """Check, without changing anything, that a comparison may be written or, with `resume`, continued here."""
    if resume:
        if not table_file(path).is_file():
            raise RunFolderError(
                f"{path} is not a comparison folder: it has no {table_file(path).name}. Give the folder that "
                "compare printed, or start a new comparison without --resume."
            )
        for part in sorted([*path.glob("seed_*"), *path.glob("seed_*/*")]):
            check_no_link(part, "Put what it leads to in its place.")
        for environment in sorted(path.glob("*/*/environment.json")):
            RunFolder(environment.parent).check_links()
            RunFolder(environment.parent).check_plugins()
    elif table_file(path).is_file():
        raise RunFolderError(
            f"{path} already holds a comparison. Resume it with --resume {path}, or choose another folder with "
            "--run-dir."
        )
    elif RunFolder(path).environment.is_file():
        raise RunFolderError(f"{path} is a run folder. Choose an empty or new folder with --run-dir.")
    else:
        RunFolder(path).check_free()


def check_none_is_lost(plan: Sequence[Planned], path: Path) -> None:
    """Check that the new table will have all runs that the one in the folder has."""
    try:
        content = read_json(table_file(path))
        runs = [(str(run["network"]), int(run["seed"])) for run in content["runs"]]
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise RunFolderError(
            f"{table_file(path)} is damaged, and only it lists the runs of the comparison. Put it back, or begin a new "
            "comparison with --run-dir."
        ) from error
    labels, seeds = {planned.network.label for planned in plan}, {planned.seed for planned in plan}
    lost = [label for label, _ in runs if label not in labels]
    lost += [f"seed {seed}" for _, seed in runs if seed not in seeds]
    if lost:
        raise RunFolderError(
            f"the comparison in {path} has runs of {listed(dict.fromkeys(lost))}, which the given specs and seeds "
            "leave out, so its table would lose them. Give the same specs and seeds, or more."
        )


def reusable(plan: Sequence[Planned]) -> list[tuple[Planned, Mapping[str, Any]]]:
    """Return the finished runs of equal specs with their results; refuse finished runs of other specs."""
    runs: list[tuple[Planned, Mapping[str, Any]]] = []
    foreign = []
    for planned in plan:
        results = _complete_results(planned.folder)
        if results is None:
            planned.folder.check_free(overwrite=True)
            continue
        difference = difference_of_run(planned)
        if not difference:
            runs.append((planned, results))
        else:
            foreign.append(f"\n    {planned.folder.path}: {difference}")
    if foreign:
        raise RunFolderError(
            "finished runs of other specs, or with other values of --set, are neither reused nor replaced; begin a new "
            f"comparison with --run-dir:{''.join(foreign)}"
        )
    return runs


def difference_of_run(planned: Planned) -> str:
    """Return how the spec of a run in the folder differs from the planned one; where its data are does not count."""
    there = spec_of_run(planned.folder, same_places(planned.folder, planned.spec))
    return first_difference(without_places(there.resolved), without_places(planned.spec.resolved))


def _complete_results(folder: RunFolder) -> dict[str, Any] | None:
    """Return the results of a finished run; None if it is unfinished or its results are damaged."""
    try:
        folder.check_run()
        results = read_json(folder.results)
    except (RunFolderError, OSError, ValueError):
        return None
    values = [results.get(name, "missing") for name in _METRICS]
    return results if all(value is None or type(value) in (int, float) for value in values) else None
