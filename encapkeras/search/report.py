"""The table and the picture of a search."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from encapkeras.analysis.plots import STYLE
from encapkeras.comparison.choice import Choice
from encapkeras.comparison.tables import markdown_table
from encapkeras.files import replacing
from encapkeras.search.space import Space
from encapkeras.search.study import best_first
from encapkeras.text import drawing, in_figure, in_markdown, quoted

_STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_COLUMNS = 3  # of pictures


def write_tables(trials: Sequence[FrozenTrial], space: Space, folder: Path, name: str) -> None:
    """Write `study.csv` and `study.md`."""
    table = rows(trials, space)
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    settings = best_settings(trials, space)
    best = f"\nThe best one:\n\n    {settings}\n" if settings else ""
    heading = f"# Search of {in_markdown(name)}\n\n"
    about = (
        f"\nThe {'lowest' if space.choice.lowest else 'highest'} {space.choice.words} of all epochs decides; pruned "
        "trials show the best of theirs. Test accuracies are not used, and are in `results.json` of each trial.\n"
    )
    for suffix, content in ((".csv", text.getvalue()), (".md", heading + markdown_table(table) + about + best)):
        with replacing(folder / f"study{suffix}") as file:
            file.write_text(content, encoding="utf-8")


def write_picture(trials: Sequence[FrozenTrial], space: Space, folder: Path) -> None:
    """Write `study.png`."""
    figure = plot_study(trials, space)
    with replacing(folder / "study.png") as file:
        figure.savefig(file)


def rows(trials: Sequence[FrozenTrial], space: Space) -> list[dict[str, str]]:
    """Return a row for each trial, the best first."""
    names = space.names
    found = []
    for trial in best_first(trials, space.choice):
        reached = _reached(trial, space.choice)
        drawn = {names[path]: _short(space.text(path, value)) for path, value in trial.params.items()}
        state = _STATES[trial.state]
        if "equal_to" in trial.user_attrs:
            state += f" (as trial {trial.user_attrs['equal_to']})"
        found.append(
            {
                "trial": str(trial.number),
                **drawn,
                space.choice.words: "" if reached is None else f"{reached:.4f}",
                "epochs": str(len(trial.intermediate_values)),
                "state": state,
                "error": trial.user_attrs.get("error", "").replace("\n", " "),
            }
        )
    if not any(row["error"] for row in found):
        found = [{key: cell for key, cell in row.items() if key != "error"} for row in found]
    return found


def _short(text: str) -> str:
    """Return a number with the digits that a reader needs; `study.db` has all of them."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if len(text) < 8 else f"{number:.4g}"


def _reached(trial: FrozenTrial, choice: Choice) -> float | None:
    """Return the best value of a trial, of a pruned one that of its epochs."""
    values = trial.intermediate_values.values() if trial.value is None else [trial.value]
    best: float | None = min((value for value in values if not math.isnan(value)), key=choice.rank, default=None)
    return best


def best_settings(trials: Sequence[FrozenTrial], space: Space) -> str:
    """Return the options that give a command the settings of the best trial; empty if none is finished."""
    best = best_first(trials, space.choice)[0]
    if best.state != TrialState.COMPLETE:
        return ""
    return " ".join(f"--set {quoted(override)}" for override in space.overrides(best.params))


def plot_study(trials: Sequence[FrozenTrial], space: Space) -> Figure:
    """Draw what trials are compared by against the number of the trial, and against each setting."""
    shown = [trial for trial in trials if _reached(trial, space.choice) is not None]
    count = 1 + len(space.distributions)
    lines = math.ceil(count / _COLUMNS)
    with drawing(STYLE):
        figure = Figure(figsize=(4 * min(count, _COLUMNS), 3 * lines), layout="constrained")
        history, *others = figure.subplots(lines, min(count, _COLUMNS), squeeze=False).flat
        _draw_history(history, shown, space.choice)
        for axes, (path, title) in zip(others, space.names.items(), strict=False):
            _draw_setting(axes, shown, path, space)
            axes.set_xlabel(in_figure(title))
        for axes in others[count - 1 :]:
            axes.set_visible(False)
        return figure


def _draw_history(axes: Axes, trials: Sequence[FrozenTrial], choice: Choice) -> None:
    _draw_points(axes, [trial.number for trial in trials], trials, choice)
    reached = {trial.number: trial.value for trial in trials if trial.value is not None}
    best = itertools.accumulate(reached.values(), lambda *two: min(two, key=choice.rank))
    axes.step(list(reached), list(best), where="post", color="tab:blue", linewidth=1)
    axes.set_xlabel("trial")
    axes.set_title(f"{choice.words}, and the best so far")


def _draw_setting(axes: Axes, trials: Sequence[FrozenTrial], path: str, space: Space) -> None:
    distribution = space.distributions[path]
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        _draw_points(axes, [choices.index(trial.params[path]) for trial in trials], trials, space.choice)
        axes.set_xticks(range(len(choices)), [in_figure(str(choice)) for choice in choices])
        return
    _draw_points(axes, [trial.params[path] for trial in trials], trials, space.choice)
    if getattr(distribution, "log", False):
        axes.set_xscale("log")


def _draw_points(axes: Axes, across: Sequence[float], trials: Sequence[FrozenTrial], choice: Choice) -> None:
    """Draw finished trials as points, pruned ones as crosses."""
    reached = [_reached(trial, choice) for trial in trials]
    for wanted, marker, color in ((True, "o", "tab:blue"), (False, "x", "tab:gray")):
        pairs = zip(across, reached, trials, strict=True)
        chosen = [(x, y) for x, y, trial in pairs if y is not None and (trial.value is not None) == wanted]
        axes.plot([x for x, _ in chosen], [y for _, y in chosen], marker, color=color, markersize=4)
