"""The results of several networks with several seeds: tables, means and differences, as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from encapkeras.comparison.statistics import CONFIDENCE, Difference, Spread
from encapkeras.data import DataSettings
from encapkeras.spec.sweep import short_paths, value_text
from encapkeras.text import counted, in_markdown

_EFFECTS = {
    "validation": "they are not trained on the same images, and validation accuracies are not comparable",
    "subset": "they are not trained on the same images",
    "image_size": "their images have different sizes",
}
_HEADINGS = ("spec", "seed", "runs", "parameters", "seconds")  # of tables; no short name of a path may be one of them
MOST_SILENT = 5  # up to this many differences that show nothing are listed one by one
WEIGHTS = {True: "best on validation", False: "last epoch"}


@dataclass(frozen=True)
class Run:
    """One training of a comparison.

    Args:
        network: The label of its network.
        seed: Its seed.
        folder: Its run folder.
        results: The content of its `results.json`; None if it failed.
        error: Why it failed; empty if it did not.
        device: Device and number of threads; empty if it failed before that was known.
        reused: Whether an earlier comparison trained it.
    """

    network: str
    seed: int
    folder: str
    results: Mapping[str, Any] | None
    error: str = ""
    device: str = ""
    reused: bool = False


@dataclass(frozen=True)
class Network:
    """A network of a comparison.

    Args:
        label: Its name and the values that a sweep sets, with a number if another network has the same.
        name: The name of its spec.
        source: The file of its spec.
        data: The `data:` section of its spec.
        swept: The values that the sweep of its spec sets, by path.
        number: The number in the label; 1 if there is none.
    """

    label: str
    name: str
    source: str
    data: DataSettings
    swept: Mapping[str, Any] = field(default_factory=dict)
    number: int = 1

    @property
    def title(self) -> str:
        """Its name in a table, next to its swept values."""
        return numbered(self.name, self.number) if self.swept else self.label

    @property
    def validated(self) -> bool:
        """Whether it has a validation part, which decides which weights are tested."""
        return self.data.has_validation

    def shares_data_set(self, other: Network) -> bool:
        """Return whether it has the same data set as another, in any parts and sizes."""
        return not any(self.other_images(other))

    def other_images(self, other: Network) -> Iterator[str]:
        """Yield the arguments of the data set in which it differs from another, as texts."""
        names = dict.fromkeys(["dataset", *self.data.arguments, *other.data.arguments])
        return (text for _, text in self.differences(other, names))

    def differences(self, other: Network, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield the keys, among `names`, of the `data:` section whose values differ, each with a text that says so."""
        mine, theirs = self.data.model_dump(), other.data.model_dump()
        for name in names:
            if mine.get(name) != theirs.get(name):
                yield name, f"data.{name} is {json.dumps(mine.get(name))}, not {json.dumps(theirs.get(name))}"


def numbered(name: str, number: int) -> str:
    """Add to a name the number of the second, third, ... network of that name."""
    return name if number == 1 else f"{name}-{number}"


@dataclass(frozen=True)
class Row:
    """The results of one network; a value is None if no finished run has it.

    Args:
        network: The network.
        finished: Its finished runs.
        failed: Its failed runs.
        test_accuracy: Over seeds.
        validation_accuracy: Over seeds; None also without a validation part.
        parameters: Trainable weights.
        images_per_second: In training, the median over runs.
        seconds: Of a whole training, the median over runs.
        peak_memory_mib: Of a training beyond the program itself, the median over runs; None also where the system does
            not report it.
        difference: Of the test accuracy from the first network's; None also for the first itself, with another data
            set than the first's, and without common seeds.
    """

    network: Network
    finished: int
    failed: int
    test_accuracy: Spread | None
    validation_accuracy: Spread | None
    parameters: int | None
    images_per_second: float | None
    seconds: float | None
    peak_memory_mib: float | None
    difference: Difference | None


@dataclass
class Comparison:
    """Networks trained with the same seeds, each compared with the first; `runs` are those so far, in any order."""

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
        rows = [self._row(network) for network in self.networks]
        if not self.swept():
            return rows
        return sorted(rows, key=lambda row: 1 - row.validation_accuracy.mean if row.validation_accuracy else math.inf)

    def _row(self, network: Network) -> Row:
        results = self._results(network)
        first = self.networks[0]
        accuracies = _values(results, "test_accuracy")
        validation = _values(results, "validation_accuracy")
        return Row(
            network=network,
            finished=len(results),
            failed=sum(run.network == network.label for run in self.failed),
            test_accuracy=Spread.of(list(accuracies.values())) if accuracies else None,
            validation_accuracy=Spread.of(list(validation.values())) if validation else None,
            parameters=next((result["parameters"] for result in results.values()), None),
            images_per_second=_median(_values(results, "images_per_second")),
            seconds=_median(_values(results, "seconds")),
            peak_memory_mib=_median(_values(results, "peak_memory_mib")),
            difference=None
            if network is first or not network.shares_data_set(first)
            else Difference.of(accuracies, _values(self._results(first), "test_accuracy")),
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
        if self.swept() and any(row.validation_accuracy for row in self.rows()):
            yield "Sorted by mean validation accuracy, best first; test accuracies are not used."

    def _differences(self) -> Iterator[str]:
        first = self.networks[0].label
        differences = [(row.network.label, row.difference) for row in self.rows() if row.difference]
        silent = [label for label, difference in differences if difference.shows_nothing]
        silent = silent if len(silent) > MOST_SILENT else []
        for label, difference in differences:
            if label not in silent:
                yield f"{label} - {first}, test accuracy: {difference}"
        if silent:
            yield (
                f"{len(silent)} of {len(differences)} others - {first}, test accuracy: no difference that "
                f"{counted(len(self.seeds), 'seed')} can show."
            )
        count = len(differences)
        if count > MOST_SILENT:
            yield (
                f"About {1 - CONFIDENCE:.0%} of the {count} intervals, {count * (1 - CONFIDENCE):.1f}, miss their true "
                "difference: where many networks are compared, some are called better or worse by chance."
            )

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
        }

    def as_markdown(self) -> str:
        """Return the table and its notes."""
        rows = [self.cells(row) for row in self.rows()]
        headings, *cells = [[in_markdown(cell) for cell in row] for row in (rows[0], *(row.values() for row in rows))]
        lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
        lines += [f"| {' | '.join(row)} |" for row in cells]
        notes = [in_markdown(note).replace("\n", "\n  ") for note in self.notes()]
        return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"

    def as_json(self) -> str:
        """Return all numbers in full, and every run."""
        content = {
            "seeds": list(self.seeds),
            "specs": [self._plain(row) for row in self.rows()],
            "runs": [asdict(run) for run in self.runs],
        }
        return json.dumps(content, indent=2) + "\n"

    def _plain(self, row: Row) -> dict[str, Any]:
        cells = asdict(row)
        network = cells.pop("network")
        if row.difference:
            cells["difference"]["verdict"] = row.difference.verdict
        swept = {path: network["swept"].get(path) for path in self.swept()}
        cells["test_error_percent"] = 100 * (1 - row.test_accuracy.mean) if row.test_accuracy else None
        named = {"spec": network["label"], "source": network["source"], "swept": swept}
        return {**named, "weights": WEIGHTS[row.network.validated], **cells}

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
    return {seed: result[name] for seed, result in results.items() if result[name] is not None}


def _median(values: Mapping[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _error(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    deviation = spread.standard_deviation
    return f"{100 * (1 - spread.mean):.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def _range(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.lowest:.4f}-{spread.highest:.4f}"


_SPREAD = [part.name for part in fields(Spread)]
_PARTS = {
    "test_accuracy": _SPREAD,
    "validation_accuracy": _SPREAD,
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
        else:
            flat[name] = value
    return flat


def _csv_cell(value: Any) -> Any:
    """Return a swept value for a cell: text and numbers as they are, all else as JSON."""
    return value if value is None or type(value) in (str, int, float) else json.dumps(value)
