"""`encapkeras evaluate RUN --explain`: measures what explanations of a network are worth, by deletion and insertion."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encapkeras.cli.arguments.output_file import check_free_in, csv_text
from encapkeras.cli.arguments.trained_run import TrainedRun
from encapkeras.cli.terminal.table import print_table
from encapkeras.errors import ArgumentError, printable

if TYPE_CHECKING:
    from encapkeras.analysis import Curves

IMAGES = 500
CONTROLS = ("random", "brightness")
BETTER = {"deletion": "lower", "insertion": "higher"}
ENDS = ("", "_low", "_high")
KEYS = (
    *("method", "curve", "area", "low", "high"),
    *(f"minus_{control}{end}" for control in CONTROLS for end in ENDS),
    "images",
)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and write one table and one picture."""
    from encapkeras.analysis import Explainer, measure_explanations, plot_curves
    from encapkeras.data.splits import describe_sample
    from encapkeras.files import replacing, writing

    count = IMAGES if arguments.images is None else arguments.images
    if count < 2:
        raise ArgumentError(f"--images must be at least 2, for an interval; received {count}")
    trained = TrainedRun.open(arguments.runs[0], arguments.data_root, arguments.overrides, arguments.changes)
    output = Path(arguments.output) if arguments.output else trained.folder.analysis_in("faithfulness")
    table, picture = output / "faithfulness.csv", output / "faithfulness.png"
    check_free_in(output, (table, picture), arguments.overwrite)
    splits = trained.splits()
    batches = trained.chosen(splits, arguments.split)
    explainer = Explainer(trained.classifier(splits).model)
    measured = measure_explanations(explainer, batches, count)
    rows = _rows(measured)
    sample = describe_sample(count, batches.num_images, arguments.split, splits.info.classes)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with replacing(table) as file:
        file.write_text(csv_text(rows, KEYS), encoding="utf-8", newline="\n")
    with replacing(picture) as file:
        plot_curves(measured, f"{trained.spec.name}, {sample}").savefig(file)
    if arguments.json:
        print(json.dumps({"split": arguments.split, "measured": rows}, indent=2))
    else:
        if explainer.reason:
            print(f"no flow of agreement: {explainer.reason}")
        _print(rows, sample)
    print(f"written to {printable(str(output))}", file=sys.stderr if arguments.json else sys.stdout)


def _rows(measured: Mapping[str, Curves]) -> list[dict[str, Any]]:
    """Return the mean areas over images, and differences from controls on the same images, with 95 % intervals."""
    rows = []
    for method, curves in measured.items():
        for curve, areas in curves.areas().items():
            row: dict[str, Any] = {"method": method, "curve": curve}
            row |= zip(("area", "low", "high"), _interval(areas.tolist()), strict=True)
            for control in CONTROLS:
                if method != control:
                    differences = areas - measured[control].areas()[curve]
                    names = [f"minus_{control}{end}" for end in ENDS]
                    row |= zip(names, _interval(differences.tolist()), strict=True)
            rows.append({**row, "images": len(areas)})
    return rows


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval."""
    from encapkeras.comparison.statistics import half_width

    mean, reach = statistics.fmean(values), half_width(statistics.stdev(values), len(values))
    return mean, mean - reach, mean + reach


def _print(rows: Sequence[Mapping[str, Any]], sample: str) -> None:
    from encapkeras.analysis.explain_plot import METHOD_NAMES

    for curve, better in BETTER.items():
        found = [row for row in rows if row["curve"] == curve]
        columns = {"map": [METHOD_NAMES[row["method"]] for row in found]}
        columns["area"] = [_cell(row["area"], row["low"], ".3f") for row in found]
        for control in CONTROLS:
            name = f"minus_{control}"
            columns[f"minus {control}"] = [
                _cell(row[name], row[f"{name}_low"], "+z.3f") if name in row else "" for row in found
            ]
        title = f"{curve}: area under the score of the class ({better} is better), {sample}\n"
        print_table(columns, title=title, right=list(columns)[1:])
        print()


def _cell(mean: float, low: float, form: str) -> str:
    return f"{mean:{form}} ± {mean - low:.3f}"
