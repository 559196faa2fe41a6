"""Train several networks with several seeds each, and write what that shows.

The folder of a comparison:

comparison.md      the tables and what they show
comparison.tex     the tables for a paper
comparison.csv     one row for each network, numbers in full
comparison.png     accuracy against time and parameters, also as .pdf and .svg
comparison.json    the same and every run; it marks the folder as that of a comparison
seed_0/NAME/       the run folder of network NAME with seed 0; its event files hold what TensorBoard's HParams shows
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import torch
from matplotlib import rc_context
from rich.console import Console

from encapkeras.comparison.folder import check_folder, check_none_is_lost, difference_of_run, reusable, table_file
from encapkeras.comparison.hparams import write_hparams
from encapkeras.comparison.plan import Plan, Planned, check_arguments, make_plan
from encapkeras.comparison.plot import plot_comparison
from encapkeras.comparison.result import Comparison
from encapkeras.comparison.rows import Run
from encapkeras.comparison.tables import WIDEST
from encapkeras.data import load
from encapkeras.errors import DataError, EncapkerasError, RunFolderError, printable
from encapkeras.files import replacing, writing
from encapkeras.plugins import used_plugins
from encapkeras.spec.load import Source
from encapkeras.text import quoted
from encapkeras.training.held_interrupt import defer_ctrl_c
from encapkeras.training.memory.out_of_memory import explain_out_of_memory
from encapkeras.training.run.identity import check_images
from encapkeras.training.run.resume_state import StateFiles
from encapkeras.training.run.run_folder import RunFolder, check_no_link
from encapkeras.training.run.start import trained_on
from encapkeras.training.train import train

_FIGURES = (".png", ".pdf", ".svg")


def compare(
    sources: Sequence[Source],
    seeds: Sequence[int] | None = None,
    *,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
) -> Comparison:
    """Train every network with every seed, each as `train` does, and write tables of the networks and of all pairs.

    A spec with a sweep is trained as all networks of its sweep; the table is then sorted by the metric
    `train.select` of all of them, with masks by the mean IoU in place of the accuracy. All networks are trained with
    one seed before the next, so that a comparison that is cut short is fair. Everything that can be checked is checked
    before the first training. A training that fails is noted, and the others continue.

    Args:
        sources: The specs, as `load_spec` takes them; of more than 10 networks, all are compared with the first alone.
        seeds: The seeds, from 0, which replace `train.seed`; by default those of the sweeps, or 0, 1, 2.
        overrides: Texts `path.to.key=value` for all specs, as `--set` takes them.
        run_dir: The folder for everything; by default `runs/compare/<date and time>`.
        resume: Whether `run_dir` is that of an earlier comparison, whose finished runs of equal specs are reused.

    Returns:
        The runs, and what they show.

    Raises:
        ArgumentError: No specs, equal ones, or seeds that are not distinct whole numbers from 0 or differ in sweeps.
        EncapkerasError: Specs are invalid (`SpecError`) or cannot be trained: all reasons; `DataError`: missing data.
        RunFolderError: The folder is not free, cannot be written, or does not hold what `resume` needs.
        KeyboardInterrupt: Ctrl-C; its text says what is kept.
    """
    check_arguments(sources, seeds, overrides)
    with RunFolder.claimed("compare") if run_dir is None else contextlib.nullcontext(RunFolder(run_dir)) as folder:
        path = folder.path
        check_folder(path, resume)
        plan = make_plan(sources, seeds, overrides, path)
        comparison = _begin(plan, path, resume)
    console = Console(soft_wrap=True, width=WIDEST)
    _print(console, f"{len(plan.trainings)} runs in {path}")
    try:
        _run(plan, comparison, path, resume, console)
    except KeyboardInterrupt as stop:
        of_training = str(stop).partition(" Continue with: ")[0]  # that would continue one of the runs alone
        how = _how_to_continue(plan, sources, seeds, overrides, path)
        raise KeyboardInterrupt(f"{of_training or 'interrupted.'} {comparison.progress}. {how}") from None
    finally:
        _draw(comparison, path)
        _print_tables(console, comparison, path)
    return comparison


def _how_to_continue(
    plan: Plan, sources: Sequence[Source], seeds: Sequence[int] | None, overrides: Sequence[str], path: Path
) -> str:
    if not all(isinstance(source, str | os.PathLike) for source in sources):
        return f"Continue with the same call, run_dir={str(path)!r} and resume=True"
    plugins = dict.fromkeys(plugin.file for each in plan.trainings for plugin in used_plugins(each.spec.resolved))
    words = [os.fspath(source) for source in sources]  # type: ignore[arg-type]
    words += [word for override in overrides for word in ("--set", override)]
    words += [word for plugin in plugins for word in ("--plugin", plugin)]
    if seeds is not None:
        counted = list(seeds) == list(range(len(seeds)))
        listed = ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
        words += ["--seeds", str(len(seeds)) if counted else listed]
    return f"Continue with:\n{' '.join(map(quoted, ['encapkeras', 'compare', *words, '--resume', str(path)]))}"


def _begin(plan: Plan, path: Path, resume: bool) -> Comparison:
    """Find the runs to reuse, check the data, and write the first table."""
    if resume:
        check_none_is_lost(plan.trainings, path)
    finished = reusable(plan.trainings) if resume else []
    kept = [planned for planned, _ in finished] + [each for each in plan.trainings if resume and _was_cut_short(each)]
    _check_data(plan.trainings, kept)
    reused = [_ended(planned, results, reused=True) for planned, results in finished]
    comparison = Comparison(plan.networks, plan.seeds, reused)
    _write(comparison, path)
    return comparison


def _run(plan: Plan, comparison: Comparison, path: Path, resume: bool, console: Console) -> None:
    """Train what is not reused, and write the table after each training."""
    for run in comparison.runs:
        _print(console, f"reused: {run.network}, seed {run.seed}, from {run.folder}")
        write_hparams(run, comparison)
    done = {run.folder for run in comparison.runs}
    for number, planned in enumerate(plan.trainings, 1):
        if str(planned.folder.path) not in done:
            _print(console, f"\nrun {number} of {len(plan.trainings)}: {planned.network.label}, seed {planned.seed}")
            comparison.runs.append(_trained(planned, resume, console))
            _write(comparison, path)
            write_hparams(comparison.runs[-1], comparison)


def _check_data(trainings: Sequence[Planned], kept: Sequence[Planned]) -> None:
    """Read each data set once: download what is missing, find what is damaged, or what runs that are kept had not."""
    for data, spec in {repr(planned.spec.data): planned.spec for planned in trainings}.items():
        if spec.data:
            with explain_out_of_memory():
                images = load(spec.data, seed=spec.train.seed).fingerprint
            for planned in kept:
                if repr(planned.spec.data) == data:
                    check_images(planned.folder, images)


def _trained(planned: Planned, replace: bool, console: Console) -> Run:
    clear_session()
    try:
        for folder in (planned.folder.path.parent, planned.folder.path):  # between two runs, time has passed
            check_no_link(folder, "Put what it leads to in its place.")
        continues = replace and _was_cut_short(planned)
        results = train(planned.spec, planned.folder.path, overwrite=replace and not continues, resume=continues)
        return _ended(planned, results)
    except EncapkerasError as error:
        _print(console, f"FAILED: {error}")
        return _ended(planned, None, str(error))


def _was_cut_short(planned: Planned) -> bool:
    """Return whether the folder holds this run, begun and not finished."""
    folder = planned.folder
    if not folder.was_begun() or folder.results.exists() or StateFiles(folder.resume).position() is None:
        return False
    try:
        return not difference_of_run(planned)
    except (RunFolderError, DataError):
        return False


def _ended(planned: Planned, results: Mapping[str, Any] | None, error: str = "", reused: bool = False) -> Run:
    folder = planned.folder
    return Run(planned.network.label, planned.seed, str(folder.path), results, error, trained_on(folder), reused)


def clear_session() -> None:
    """Clear Keras' random state, names and caches, and unused memory; keep the user's dtype policy."""
    policy = keras.config.dtype_policy()
    with defer_ctrl_c():
        keras.utils.clear_session()
    keras.config.set_dtype_policy(policy)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _write(comparison: Comparison, path: Path) -> None:
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    texts = {
        ".json": comparison.as_json(),
        ".csv": comparison.as_csv(),
        ".md": comparison.as_markdown(),
        ".tex": comparison.as_latex(),
    }
    for suffix, text in texts.items():
        with replacing(table_file(path).with_suffix(suffix)) as file:
            file.write_text(text, encoding="utf-8")


def _draw(comparison: Comparison, path: Path) -> None:
    figure = plot_comparison(comparison)
    if figure:
        with rc_context({"pdf.fonttype": 42}):  # fonts that journals accept
            for suffix in _FIGURES:
                with replacing(table_file(path).with_suffix(suffix)) as file:
                    figure.savefig(file)


def _print_tables(console: Console, comparison: Comparison, path: Path) -> None:
    console.print(comparison)
    for note in comparison.notes():
        _print(console, note)
    _print(console, f"written to {path}")


def _print(console: Console, text: str) -> None:
    console.print(printable(text, keep="\n"), markup=False, highlight=False, soft_wrap=True)
