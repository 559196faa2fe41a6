"""Trains several networks with several seeds each, and writes what that shows.

The folder of a comparison:

comparison.md      the table and what it shows, for reading
comparison.csv     one row for each network, figures in full
comparison.json    the same and every run; the mark that the folder is a comparison's
seed_0/NAME/       the run folder of network NAME with seed 0
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from encapkeras.analysis import routing_layers
from encapkeras.data import load
from encapkeras.errors import ArgumentError, EncapkerasError, RunFolderError, SpecError
from encapkeras.graph import Spec, build_model, check_spec, load_spec
from encapkeras.graph.load import load_value
from encapkeras.graph.spec import Source
from encapkeras.training.comparison import Comparison, Network, Run
from encapkeras.training.fit import check_settings, train
from encapkeras.training.measure import check_fits, data_of
from encapkeras.training.memory import saying_how_to_save_memory
from encapkeras.training.run_folder import RunFolder, folder_name, replacing, writing
from encapkeras.validation import shown

_FIGURES = ("test_accuracy", "validation_accuracy", "parameters", "images_per_second", "seconds")
_WIDEST = 10_000  # of the table, which is as wide as its names: a line that runs over loses nothing


class _Planned(NamedTuple):
    """A training of a comparison."""

    network: Network
    seed: int
    spec: Spec
    folder: RunFolder

    def ended(self, results: dict[str, Any] | None, error: str = "", reused: bool = False) -> Run:
        """The training with its end."""
        device = _device(self.folder)
        return Run(self.network.label, self.seed, str(self.folder.path), results, error, device, reused)


def compare(
    sources: Sequence[Source],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
) -> Comparison:
    """Trains every network with every seed, in turn, each as `train` does, and writes table and differences.

    All networks are trained with the first seed before any is with the second, so that a comparison that is cut short
    is fair. All that can be known to be wrong is found before the first training. A training that fails is noted, and
    the others go on. The table is written after each, so that it is there however the comparison ends.

    Args:
        sources: The specs, as `load_spec` takes them; the others are compared with the first.
        seeds: The seeds, from 0; they take the place of `train.seed`.
        overrides: Texts `path.to.key=value` for all specs, as `--set` takes them.
        run_dir: The folder for everything; by default `runs/compare/<date and time>`.
        resume: Whether `run_dir` is that of an earlier comparison, whose finished runs of equal specs are taken over.

    Returns:
        The runs, and what they show.

    Raises:
        ArgumentError: There are no specs, or the same one twice, or the seeds are not distinct whole numbers from 0.
        SpecError: Specs have mistakes: all of them.
        EncapkerasError: The specs cannot be trained: all reasons.
        DataError: A data set cannot be had.
        RunFolderError: The folder holds something already, or cannot be written; or, to be resumed, it holds no
            comparison, a finished run of another spec, or runs of specs or seeds that are not among the given ones.
        KeyboardInterrupt: Somebody pressed Ctrl-C; its text says what is kept.
    """
    _check_arguments(sources, seeds, overrides)
    path = Path(run_dir) if run_dir is not None else RunFolder.default("compare").path
    _check_folder(path, resume)
    if resume:
        for environment in sorted(path.glob("*/*/environment.json")):
            RunFolder(environment.parent).check_plugins()
    specs = _checked(sources, overrides)
    networks = _networks(specs)
    plan = _plan(specs, networks, seeds, path)
    _check_distinct(plan[: len(specs)])
    if resume:
        _check_none_is_lost(plan, path)
    reused = _reusable(plan) if resume else []
    _check_data(specs, seeds[0])
    comparison = Comparison(networks, seeds, reused)
    _write(comparison, path)

    console = Console(soft_wrap=True, width=_WIDEST)
    _say(console, f"{len(plan)} runs in {path}")
    for run in reused:
        _say(console, f"reused: {run.network}, seed {run.seed}, from {run.folder}")
    done = {run.folder for run in reused}
    try:
        for number, planned in enumerate(plan, 1):
            if str(planned.folder.path) not in done:
                _say(console, f"\nrun {number} of {len(plan)}: {planned.network.label}, seed {planned.seed}")
                comparison.runs.append(_ended(planned, resume, console))
                _write(comparison, path)
    except KeyboardInterrupt as stop:
        text = f"{str(stop) or 'interrupted.'} {comparison.progress}; go on with --resume {path}"
        raise KeyboardInterrupt(text) from None
    finally:
        _show(console, comparison, path)
    return comparison


def _check_arguments(sources: Sequence[Source], seeds: Sequence[int], overrides: Sequence[str]) -> None:
    if not _is_list(sources) or not sources:
        raise ArgumentError(f"a comparison needs a list of specs; received {shown(sources)}")
    if (
        not _is_list(seeds)
        or not seeds
        or any(type(seed) is not int or not 0 <= seed < 2**32 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ArgumentError(
            f"seeds must be a list of distinct whole numbers from 0 to {2**32 - 1}, at least one; "
            f"received {shown(seeds)}"
        )
    for text in overrides:
        if _sets_the_seed(text):
            raise ArgumentError(f"'{text}': a comparison sets the seeds itself; choose them with --seeds")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _sets_the_seed(override: str) -> bool:
    path, _, value = override.partition("=")
    if path.strip() != "train":
        return path.strip() == "train.seed"
    section = load_value(value, "--set", "train").value
    return isinstance(section, dict) and "seed" in section


def _check_folder(path: Path, resume: bool) -> None:
    """Checks, without changing anything, that a comparison may be written here."""
    if resume:
        if not _table(path).is_file():
            raise RunFolderError(
                f"{path} is not the folder of a comparison: it has no {_table(path).name}. Give the folder that "
                "compare printed, or begin a new comparison without --resume."
            )
    elif _table(path).is_file():
        raise RunFolderError(
            f"{path} holds a comparison already. Go on with it by --resume {path}, or choose another folder with "
            "--run-dir."
        )
    elif RunFolder(path).environment.is_file():
        raise RunFolderError(f"{path} is the folder of a run. Choose an empty or new folder with --run-dir.")
    else:
        RunFolder(path).check_free()


def _table(path: Path) -> Path:
    return path / "comparison.json"


def _checked(sources: Sequence[Source], overrides: Sequence[str]) -> list[Spec]:
    """The specs; raises all that is wrong with any of them at once."""
    specs: list[Spec] = []
    errors: list[EncapkerasError] = []
    for source in sources:
        try:
            spec = check_spec(source, overrides)
            _check_trainable(spec)
            specs.append(spec)
        except EncapkerasError as error:
            errors.append(error)
    if errors:
        raise _joined(errors)
    return specs


def _joined(errors: Sequence[EncapkerasError]) -> EncapkerasError:
    """All errors as one, each mistake once: several specs have that of a `--set`, or of a base that they extend."""
    mistakes = {str(problem): problem for error in errors if isinstance(error, SpecError) for problem in error.problems}
    others = {str(error): error for error in errors if not isinstance(error, SpecError)}
    joined = [*others.values(), *([SpecError(list(mistakes.values()))] if mistakes else [])]
    return joined[0] if len(joined) == 1 else EncapkerasError("\n".join(map(str, joined)))


def _check_trainable(spec: Spec) -> None:
    check_settings(spec)
    with keras.device("meta"):
        model = build_model(spec)
    if spec.train.analysis:
        routing_layers(model)
    if spec.info:
        check_fits(model, spec.info)


def _networks(specs: Sequence[Spec]) -> list[Network]:
    """The networks with labels that make distinct folders, also where capitals do not count."""
    networks: list[Network] = []
    taken: set[str] = set()
    for spec in specs:
        label, number = spec.name, 2
        while folder_name(label).casefold() in taken:
            label, number = f"{spec.name}-{number}", number + 1
        taken.add(folder_name(label).casefold())
        networks.append(Network(label, spec.name, spec.source, data_of(spec)))
    return networks


def _plan(specs: Sequence[Spec], networks: Sequence[Network], seeds: Sequence[int], path: Path) -> list[_Planned]:
    return [
        _Planned(
            network,
            seed,
            load_spec(spec, [f"train.seed={seed}"]),
            RunFolder(path / f"seed_{seed}" / folder_name(network.label)),
        )
        for seed in seeds
        for spec, network in zip(specs, networks, strict=True)
    ]


def _check_distinct(plan: Sequence[_Planned]) -> None:
    """Checks that no spec is given twice, as far as a training with the same seed can tell."""
    for second, planned in enumerate(plan):
        for other in plan[:second]:
            if planned.spec == other.spec:
                raise ArgumentError(
                    f"{other.network.source} and {planned.network.source} are the same spec, '{planned.spec.name}': "
                    "equal seeds give equal numbers, which show nothing. Give it once."
                )


def _check_none_is_lost(plan: Sequence[_Planned], path: Path) -> None:
    """Checks that the new table will have all runs that the one in the folder has."""
    try:
        content = json.loads(_table(path).read_text(encoding="utf-8"))
        runs = [(str(run["network"]), int(run["seed"])) for run in content["runs"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunFolderError(
            f"{_table(path)} is damaged, so that nothing tells which runs it had. Put it back, or begin a new "
            "comparison with --run-dir."
        ) from error
    labels, seeds = {planned.network.label for planned in plan}, {planned.seed for planned in plan}
    lost = [label for label, _ in runs if label not in labels]
    lost += [f"seed {seed}" for _, seed in runs if seed not in seeds]
    if lost:
        raise RunFolderError(
            f"the comparison in {path} has runs of {', '.join(dict.fromkeys(lost))}, which the given specs and seeds "
            "leave out, so that its table would lose them. Give the same specs and seeds, or more."
        )


def _reusable(plan: Sequence[_Planned]) -> list[Run]:
    """The finished runs of equal specs; checks that the others can be written, and that no finished run is lost."""
    runs, foreign = [], []
    for planned in plan:
        results = _complete_results(planned.folder)
        if results is None:
            planned.folder.check_free(overwrite=True)
            continue
        there = _spec_of_finished(planned.folder)
        if there == planned.spec:
            runs.append(planned.ended(results, reused=True))
        else:
            difference = _first_difference(there.resolved, planned.spec.resolved)
            foreign.append(f"\n    {planned.folder.path}: {difference}")
    if foreign:
        raise RunFolderError(
            "finished runs of other specs, or with other values of --set, are neither reused nor replaced; begin a new "
            f"comparison with --run-dir, or remove them:{''.join(foreign)}"
        )
    return runs


def _spec_of_finished(folder: RunFolder) -> Spec:
    try:
        return load_spec(folder.spec)
    except EncapkerasError as error:
        raise RunFolderError(
            f"the finished run {folder.path} cannot be reused, as its {folder.spec.name} is damaged. Put that back, or "
            f"remove the folder to train the run again.\n{error}"
        ) from error


def _first_difference(there: Any, here: Any, path: str = "") -> str:
    """Where two resolved specs first differ, and how."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            if there.get(key) != here.get(key):
                return _first_difference(there.get(key), here.get(key), f"{path}.{key}" if path else key)
    return f"{path} is {shown(there)} there and {shown(here)} here"


def _complete_results(folder: RunFolder) -> dict[str, Any] | None:
    """What a finished run has reached; None of an unfinished one, or where that is damaged."""
    try:
        folder.check_run()
        results = json.loads(folder.results.read_text(encoding="utf-8"))
    except (RunFolderError, OSError, ValueError):
        return None
    if not isinstance(results, dict):
        return None
    figures = [results.get(name, "missing") for name in _FIGURES]
    return results if all(figure is None or type(figure) in (int, float) for figure in figures) else None


def _device(folder: RunFolder) -> str:
    """Where a run was trained, as its folder has it."""
    try:
        environment = json.loads(folder.environment.read_text(encoding="utf-8"))
        return f"{environment['device']}, {environment['threads']} threads"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _check_data(specs: Sequence[Spec], seed: int) -> None:
    """Reads each data set once: downloads what is missing, finds what is damaged."""
    for settings in {repr(spec.data): spec.data for spec in specs}.values():
        if settings:
            with saying_how_to_save_memory():
                load(settings, seed=seed)


def _ended(planned: _Planned, replace: bool, console: Console) -> Run:
    """The training, done; a failed one tells why."""
    _forget_what_was_before()
    try:
        return planned.ended(train(planned.spec, planned.folder.path, overwrite=replace))
    except EncapkerasError as error:
        _say(console, f"FAILED: {error}")
        return planned.ended(None, str(error))


def _forget_what_was_before() -> None:
    """Keras' random state, names and caches, and memory that nobody uses any longer; not the user's dtype policy."""
    policy = keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(policy)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _write(comparison: Comparison, path: Path) -> None:
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    texts = {".json": comparison.as_json(), ".csv": comparison.as_csv(), ".md": comparison.as_markdown()}
    for suffix, text in texts.items():
        with replacing(_table(path).with_suffix(suffix)) as file:
            file.write_text(text, encoding="utf-8")


def _show(console: Console, comparison: Comparison, path: Path) -> None:
    """Prints the table, the ranges below the means, and what it shows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("spec", "runs"):
        table.add_column(heading)
    for heading in ("test\naccuracy", "validation\naccuracy", "parameters", "images/s", "seconds"):
        table.add_column(heading, justify="right")
    for row in comparison.rows():
        cells = list(comparison.cells(row).values())
        name, runs, test, test_range, validation, validation_range, *rest = cells
        table.add_row(name, runs, f"{test}\n{test_range}", f"{validation}\n{validation_range}", *rest)
    console.print(table)
    for note in comparison.notes():
        _say(console, note)
    _say(console, f"written to {path}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
