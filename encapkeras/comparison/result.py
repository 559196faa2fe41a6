"""The results of several networks with several seeds: tables, means and differences, as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rich.console import Console, Group

from encapkeras.comparison.choice import DEFAULT, Choice
from encapkeras.comparison.latex import latex_tables
from encapkeras.comparison.rows import METRICS, Network, Pair, Row, Run
from encapkeras.comparison.statistics import CONFIDENCE, Difference, Spread
from encapkeras.comparison.tables import WIDEST, markdown_table, terminal_tables
from encapkeras.spec.sweep import short_paths, value_text
from encapkeras.text import html_table, in_html, in_markdown
from encapkeras.training.measure import MEAN_IOU

_EFFECTS = {
    "validation": "they are not trained on the same images, and validation accuracies are not comparable",
    "subset": "they are not trained on the same images",
    "image_size": "their images have different sizes",
}
_HEADINGS = ("spec", "seed", "runs", "parameters", "seconds")  # of tables; no short name of a path may be one of them
_SPREADS = ("test_accuracy", "validation_accuracy", "test_mean_iou", "validation_mean_iou")
MOST_IN_PAIRS = 10  # of more networks, each is compared with the first alone
WEIGHTS = {True: "best on validation", False: "last epoch"}


@dataclass(repr=False)
class Comparison:
    """Networks trained with the same seeds, compared in pairs; `runs` are those so far, in any order."""

    networks: Sequence[Network]
    seeds: Sequence[int]
    runs: list[Run] = field(default_factory=list)

    @property
    def failed(self) -> list[Run]:
        """The runs that ended with an error."""
        return [run for run in self.runs if run.results is None]

    @property
    def progress(self) -> str:
        """How many of the runs are finished."""
        return f"{len(self.runs) - len(self.failed)} of {len(self.networks) * len(self.seeds)} runs finished"

    def swept(self) -> dict[str, str]:
        """Return the paths that sweeps set in any network, each with its heading in tables."""
        short = short_paths(list(dict.fromkeys(path for network in self.networks for path in network.swept)))
        return {path: path if heading in _HEADINGS else heading for path, heading in short.items()}

    def rows(self) -> list[Row]:
        """Return a row for each network, in their order; after a sweep the best on validation first."""
        first = self.networks[0]
        differences = {p.network.label: p.difference for p in self.pairs() if p.reference is first}
        rows = [self._row(network, differences.get(network.label)) for network in self.networks]
        if not self.swept():
            return rows
        return sorted(rows, key=lambda row: self.choice.rank(found.mean) if (found := self._chosen(row)) else math.inf)

    @property
    def choice(self) -> Choice:
        """What networks of a sweep are sorted by: what chooses the best epoch of all of them."""
        choices = {network.choice for network in self.networks if network.validated}
        if len(choices) == 1:
            return choices.pop()
        return Choice(f"val_{MEAN_IOU}") if self.has_masks else DEFAULT

    def _chosen(self, row: Row) -> Spread | None:
        name = self.choice.result
        found: Spread | None = getattr(row, name) if name in _SPREADS else row.metrics.get(name)
        return found

    def pairs(self) -> list[Pair]:
        """Return all pairs of networks that compare; of more than 10 networks, those with the first."""
        accuracies = {network.label: self._compared(network) for network in self.networks}
        references = self.networks if len(self.networks) <= MOST_IN_PAIRS else self.networks[:1]
        compared = [
            (network, reference)
            for number, reference in enumerate(references, 1)
            for network in self.networks[number:]
            if network.shares_data_set(reference)
            and accuracies[network.label].keys() & accuracies[reference.label].keys()
        ]
        differences = (Difference.of(accuracies[n.label], accuracies[r.label], len(compared)) for n, r in compared)
        return [Pair(*pair, found) for pair, found in zip(compared, differences, strict=True) if found]

    def _compared(self, network: Network) -> dict[int, float]:
        """Return the numbers by which a network is compared: mean IoUs if it has masks, otherwise accuracies."""
        results = self._results(network)
        return _values(results, "test_mean_iou") or _values(results, "test_accuracy")

    @property
    def has_masks(self) -> bool:
        """Whether the networks give each pixel a class, and so are compared by their mean IoU."""
        return any(run.results is not None and "test_mean_iou" in run.results for run in self.runs)

    @property
    def compared_by(self) -> str:
        """What the networks are compared by."""
        return "mean IoU" if self.has_masks else "accuracy"

    def _row(self, network: Network, difference: Difference | None) -> Row:
        results = self._results(network)
        spreads = {
            name: Spread.of(list(values.values())) if (values := _values(results, name)) else None for name in _SPREADS
        }
        chosen = {self.choice.result} - {*_SPREADS} if self.swept() else ()
        metrics = {name: list(values.values()) for name in [*METRICS, *chosen] if (values := _values(results, name))}
        return Row(
            network=network,
            finished=len(results),
            failed=sum(run.network == network.label for run in self.failed),
            **spreads,
            parameters=next((result["parameters"] for result in results.values()), None),
            images_per_second=_median(_values(results, "images_per_second")),
            seconds=_median(_values(results, "seconds")),
            peak_memory_mib=_median(_values(results, "peak_memory_mib")),
            difference=difference,
            metrics={name: Spread.of(values) for name, values in metrics.items()},
        )

    def _results(self, network: Network) -> dict[int, Mapping[str, Any]]:
        return {run.seed: run.results for run in self.runs if run.network == network.label and run.results}

    def notes(self) -> list[str]:
        """Return what one has to know to read the table, and what it shows."""
        seeds = ", ".join(map(str, self.seeds))
        return [
            f"Accuracies: mean ± standard deviation over the seeds {seeds}, and lowest-highest.",
            f"Images/s, seconds and peak memory (beyond the program itself): median over the seeds{self._devices()}.",
            *self._rules(),
            *self._order(),
            *self._data_notes(),
            *(f"{n.label} is {n.source}" for n in self.networks if n.title != n.name),
            *self._differences(),
            *(f"FAILED: {run.network}, seed {run.seed}: {run.error}" for run in self.failed),
            f"{self.progress}.",
        ]

    def _devices(self) -> str:
        devices = list(dict.fromkeys(run.device for run in self.runs if run.device))
        on = "".join(f", on {device}" for device in devices)
        return f"{on}: different ones, which are not comparable" if len(devices) > 1 else on

    def _rules(self) -> Iterator[str]:
        for validated, text in WEIGHTS.items():
            of_it = [network.label for network in self.networks if network.validated is validated]
            if of_it:
                whose = f" ({', '.join(of_it)})" if len(of_it) < len(self.networks) else ""
                yield f"Weights tested{whose}: {text}. The test images were used once per run."

    def _order(self) -> Iterator[str]:
        if self.swept() and any(map(self._chosen, self.rows())):
            tested = "test mean IoUs" if self.has_masks else "test accuracies"
            yield f"Sorted by mean {self.choice.words}, best first; {tested} are not used."

    def _differences(self) -> Iterator[str]:
        pairs = self.pairs()
        if not pairs:
            return
        what = "mean IoUs" if self.has_masks else "accuracies"
        together = f" for all {len(pairs)} pairs together (Bonferroni)" if len(pairs) > 1 else ""
        yield (
            f"Differences of test {what}: in percentage points, mean over equal seeds. Intervals: {CONFIDENCE:.0%}"
            f"{together}, Student's t."
        )
        yield "better, worse: 0 is outside of the interval. unclear: these seeds show no difference."
        if not all(pair.difference.interval for pair in pairs):
            yield "No interval: with one seed, or with the same difference for all seeds, its width is unknown."

    def _data_notes(self) -> Iterator[str]:
        """Yield what is not comparable with the first network because the data differ."""
        first = self.networks[0]
        for network in self.networks[1:]:
            other = list(network.other_images(first))
            if other:
                whose = f"{network.label} is trained on other data than {first.label} ({', '.join(other)})"
                yield f"{whose}: accuracies are not comparable."
            else:
                for name, text in network.differences(first, _EFFECTS):
                    yield f"{network.label} differs from {first.label} in that {text}: {_EFFECTS[name]}."

    def cells(self, row: Row) -> dict[str, str]:
        """Return a row as text by heading; `-` where there is no value."""
        swept = {
            heading: value_text(row.network.swept[path]) if path in row.network.swept else "-"
            for path, heading in self.swept().items()
        }
        return {
            "spec": row.network.title,
            **swept,
            "runs": f"{row.finished}/{len(self.seeds)}" + (f" {row.failed} FAILED" if row.failed else ""),
            "test accuracy": _cell(row.test_accuracy, "{}"),
            "lowest-highest": _range(row.test_accuracy),
            "test error %": _error(row.test_accuracy),
            "validation accuracy": _cell(row.validation_accuracy, "{}"),
            "lowest-highest (validation)": _range(row.validation_accuracy),
            "parameters": _cell(row.parameters, "{:,}"),
            "images/s": _cell(row.images_per_second, "{:,.0f}"),
            "seconds": _cell(row.seconds, "{:,.0f}"),
            "peak MiB": _cell(row.peak_memory_mib, "{:,.0f}"),
            **(_in_two("test mean IoU", row.test_mean_iou) if self.has_masks else {}),
            **(_in_two(self.choice.words, self._chosen(row)) if self.swept() and self.choice != DEFAULT else {}),
        }

    def pair_cells(self, pair: Pair) -> dict[str, str]:
        """Return a pair as text by heading; `-` where there is no value."""
        return {
            "spec": pair.network.label,
            "compared with": pair.reference.label,
            "difference in points": pair.difference.points,
            "interval": pair.difference.interval or "-",
            "verdict": pair.difference.verdict,
            "seeds": str(pair.difference.seeds),
        }

    def _tables(self) -> list[list[dict[str, str]]]:
        """Return the rows of the networks and, if any compare, those of the pairs."""
        pairs = [self.pair_cells(pair) for pair in self.pairs()]
        return [[self.cells(row) for row in self.rows()], *([pairs] if pairs else [])]

    def _metrics(self) -> list[list[dict[str, str]]]:
        """Return the rows of the metrics beside the accuracy, if there are any."""
        rows = self.rows()
        names = [name for name in METRICS if any(name in row.metrics for row in rows)]
        cells = [{METRICS[name]: _cell(row.metrics.get(name), "{}") for name in names} for row in rows]
        return [[{"spec": row.network.label, **each} for row, each in zip(rows, cells, strict=True)]] if names else []

    def __rich__(self) -> Group:
        """The tables, for a terminal."""
        return terminal_tables(*self._tables(), compared_by=self.compared_by)

    def __repr__(self) -> str:
        """The tables, as in a terminal."""
        console = Console(file=io.StringIO(), width=WIDEST)
        with console.capture() as printed:
            console.print(self)
        return printed.get()

    def _repr_html_(self) -> str:
        """The tables and notes, for a notebook."""
        notes = "".join(f"<li>{in_html(note)}</li>" for note in self.notes())
        parts = [*self._tables(), *self._metrics()]
        tables = [html_table(list(rows[0]), [list(row.values()) for row in rows]) for rows in parts]
        return "".join([*tables, f"<ul>{notes}</ul>"])

    def as_markdown(self) -> str:
        """Return the tables and their notes."""
        notes = [in_markdown(note).replace("\n", "\n  ") for note in self.notes()]
        lines = "\n".join(f"- {note}" for note in notes)
        return "\n".join([*map(markdown_table, [*self._tables(), *self._metrics()]), lines]) + "\n"

    def as_latex(self) -> str:
        """Return the tables for a paper: LaTeX with the package `booktabs`."""
        return latex_tables(self.rows(), self.pairs(), self.swept(), self.notes(), self.compared_by)

    def as_json(self) -> str:
        """Return all numbers in full, and every run."""
        content = {
            "seeds": list(self.seeds),
            "specs": [self._plain(row) for row in self.rows()],
            "pairs": [self._plain_pair(pair) for pair in self.pairs()],
            "runs": [asdict(run) for run in self.runs],
        }
        return json.dumps(content, indent=2) + "\n"

    def _plain(self, row: Row) -> dict[str, Any]:
        cells = asdict(row)
        network = cells.pop("network")
        if not self.has_masks:
            cells = {name: value for name, value in cells.items() if not name.endswith("mean_iou")}
        if row.difference:
            cells["difference"]["verdict"] = row.difference.verdict
        swept = {path: network["swept"].get(path) for path in self.swept()}
        cells["test_error_percent"] = 100 * (1 - row.test_accuracy.mean) if row.test_accuracy else None
        named = {"spec": network["label"], "source": network["source"], "swept": swept}
        return {**named, "weights": WEIGHTS[row.network.validated], **cells}

    def _plain_pair(self, pair: Pair) -> dict[str, Any]:
        names = {"spec": pair.network.label, "compared_with": pair.reference.label}
        return {**names, **asdict(pair.difference), "verdict": pair.difference.verdict}

    def as_csv(self) -> str:
        """Return one row for each network, numbers in full, empty where there is none."""
        rows = [_flat(self._plain(row)) for row in self.rows()]
        headings = list(dict.fromkeys(heading for row in rows for heading in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, headings, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _values(results: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    """Return a number of finished runs by seed, of those that have it."""
    return {seed: result[name] for seed, result in results.items() if result.get(name) is not None}


def _median(values: Mapping[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _in_two(heading: str, spread: Spread | None) -> dict[str, str]:
    """Return a spread as two cells, which terminals show below each other."""
    what = heading.removeprefix("test ")
    return {heading: _cell(spread, "{}"), f"lowest-highest ({what})": _range(spread)}


def _error(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    deviation = spread.standard_deviation
    return f"{100 * (1 - spread.mean):.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def _range(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.lowest:.4f}-{spread.highest:.4f}"


_SPREAD = [part.name for part in fields(Spread)]
_PARTS = {
    **dict.fromkeys(_SPREADS, _SPREAD),
    "difference": [*(part.name for part in fields(Difference)), "verdict"],
}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain row without maps in it; the headings do not depend on which numbers there are."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "swept":
            flat.update({path: _csv_cell(swept) for path, swept in value.items()})
        elif name in _PARTS:
            flat.update({f"{name}_{part}": (value or {}).get(part) for part in _PARTS[name]})
        elif name == "metrics":
            names = dict.fromkeys([*METRICS, *value])
            flat.update({f"{metric}_{part}": value.get(metric, {}).get(part) for metric in names for part in _SPREAD})
        else:
            flat[name] = value
    return flat


def _csv_cell(value: Any) -> Any:
    """Return a swept value for a cell: text and numbers as they are, all else as JSON."""
    return value if value is None or type(value) in (str, int, float) else json.dumps(value)
