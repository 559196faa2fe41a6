"""What runs of several networks with several seeds show: means, spreads, differences, and how sure these are."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from scipy.special import stdtrit

from encapkeras.data import DataSettings

CONFIDENCE = 0.95
_DATA_SET = ("dataset", "root", "path")
_EQUAL = 1e-6  # accuracies are counts of images divided by their number, in float32

_EFFECTS = {
    "validation": "they are not trained on the same images, and validation accuracies do not compare",
    "image_size": "they do not see the images alike",
}

WEIGHTS = {True: "best on validation", False: "last epoch"}


@dataclass(frozen=True)
class Run:
    """One training of a comparison.

    Args:
        network: Its network, as the comparison calls it.
        seed: Its seed.
        folder: Its run folder.
        results: What its `results.json` holds; None if it failed.
        error: Why it failed; empty if it did not.
        device: Where it ran, and with how many threads; empty if it failed before that was known.
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
class Spread:
    """A figure over several seeds.

    Args:
        mean: The mean.
        standard_deviation: That of the seeds, `sqrt(sum (x - mean)^2 / (n - 1))`; None of a single one.
        lowest: The least.
        highest: The greatest.
    """

    mean: float
    standard_deviation: float | None
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value.

        Args:
            values: One for each seed.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0])
            Spread(mean=2.0, standard_deviation=1.0, lowest=1.0, highest=3.0)
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, min(values), max(values))

    def __str__(self) -> str:
        """The mean and the standard deviation, for reading."""
        return f"{self.mean:.4f}" + ("" if self.standard_deviation is None else f" ± {self.standard_deviation:.4f}")


@dataclass(frozen=True)
class Difference:
    """How far two means lie apart, from runs with the same seeds.

    Args:
        mean: The mean of the differences d of each seed, which is the difference of the means.
        standard_error: Its standard error, `stdev(d) / sqrt(n)`; None of a single seed.
        low: Lower end of its 95 % interval, `mean - t * standard_error` with Student's t of n - 1 degrees of freedom;
            None where the seeds show no spread.
        high: The upper end.
        seeds: The number n of seeds that both have finished.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    seeds: int

    @classmethod
    def of(cls, values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
        """The difference of values from a reference, over the seeds that both have; None if there are none.

        Args:
            values: By seed.
            reference: By seed.

        Example:
            >>> Difference.of({0: 0.98, 1: 0.96}, {0: 0.97, 1: 0.94}).verdict
            'no difference that 2 seeds can show'
        """
        apart = [value - reference[seed] for seed, value in values.items() if seed in reference]
        if not apart:
            return None
        mean, seeds = statistics.fmean(apart), len(apart)
        if seeds == 1:
            return cls(mean, None, None, None, seeds)
        error = statistics.stdev(apart) / seeds**0.5
        if error < _EQUAL:
            return cls(mean, 0.0, None, None, seeds)
        reach = float(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2)) * error
        return cls(mean, error, mean - reach, mean + reach, seeds)

    @property
    def verdict(self) -> str:
        """Better or worse only where 0 lies outside of the interval, and so beyond the standard error too."""
        if self.low is not None and self.low > 0:
            return "better"
        if self.high is not None and self.high < 0:
            return "worse"
        if self.standard_error == 0 and abs(self.mean) > _EQUAL:
            return f"the same difference with all {self.seeds} seeds, which so cannot show how sure it is"
        return f"no difference that {self.seeds} seed{'s' if self.seeds > 1 else ''} can show"

    def __str__(self) -> str:
        """All of it in a line."""
        if self.standard_error is None:
            return f"{self.mean:+.4f}: {self.verdict}"
        interval = "" if self.low is None else f", {CONFIDENCE:.0%} interval {self.low:+.4f} to {self.high:+.4f}"
        return f"{self.mean:+.4f} ± {self.standard_error:.4f} (standard error{interval}): {self.verdict}"


@dataclass(frozen=True)
class Network:
    """A network of a comparison.

    Args:
        label: What the comparison calls it: its name, with a number behind it if another has that.
        name: The name of its spec.
        source: The file of its spec.
        data: The `data:` section of its spec.
    """

    label: str
    name: str
    source: str
    data: DataSettings

    @property
    def validated(self) -> bool:
        """Whether it has a validation part, which then decides which weights are tested."""
        return self.data.validation > 0

    def shares_data_set(self, other: Network) -> bool:
        """Whether it has the same data set as another, in whatever parts and sizes."""
        return not any(self.differences(other, _DATA_SET))

    def differences(self, other: Network, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The values of the `data:` section in which it differs from another, each with the text that says so.

        Args:
            other: The other.
            names: The keys that are looked at.
        """
        for name in names:
            own, others = getattr(self.data, name), getattr(other.data, name)
            if own != others:
                yield name, f"data.{name} is {json.dumps(own)}, not {json.dumps(others)}"


@dataclass(frozen=True)
class Row:
    """What the runs of one network show.

    Args:
        network: The network.
        finished: How many of its runs are finished.
        failed: How many failed.
        test_accuracy: Over seeds; None without a finished run.
        validation_accuracy: Over seeds; None without a finished run or a validation part.
        parameters: Trainable weights; None without a finished run.
        images_per_second: Of training, the median over runs; None without a finished run.
        seconds: Of a whole training, the median over runs; None without a finished run.
        difference: Of the test accuracy, from the first network's; None of the first itself, with another data set than
            the first, and without common seeds.
    """

    network: Network
    finished: int
    failed: int
    test_accuracy: Spread | None
    validation_accuracy: Spread | None
    parameters: int | None
    images_per_second: float | None
    seconds: float | None
    difference: Difference | None


@dataclass
class Comparison:
    """Networks trained with the same seeds, finished or not.

    Args:
        networks: The networks; the others are compared with the first.
        seeds: The seeds.
        runs: The runs so far, in any order.
    """

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

    def rows(self) -> list[Row]:
        """One for each network, in their order."""
        return [self._row(network) for network in self.networks]

    def _row(self, network: Network) -> Row:
        results = self._results(network)
        first = self.networks[0]
        accuracies = _figures(results, "test_accuracy")
        validation = _figures(results, "validation_accuracy")
        return Row(
            network=network,
            finished=len(results),
            failed=sum(run.network == network.label for run in self.failed),
            test_accuracy=Spread.of(list(accuracies.values())) if accuracies else None,
            validation_accuracy=Spread.of(list(validation.values())) if validation else None,
            parameters=next((result["parameters"] for result in results.values()), None),
            images_per_second=_median(_figures(results, "images_per_second")),
            seconds=_median(_figures(results, "seconds")),
            difference=None
            if network is first or not network.shares_data_set(first)
            else Difference.of(accuracies, _figures(self._results(first), "test_accuracy")),
        )

    def _results(self, network: Network) -> dict[int, Mapping[str, Any]]:
        """The results of a network by seed."""
        return {run.seed: run.results for run in self.runs if run.network == network.label and run.results}

    def notes(self) -> list[str]:
        """What has to be known to read the table, and what it shows."""
        seeds = ", ".join(map(str, self.seeds))
        first = self.networks[0].label
        return [
            f"Accuracies: mean ± standard deviation over the seeds {seeds}, and lowest-highest.",
            f"Images/s and seconds: median over the seeds{self._devices()}.",
            *self._rules(),
            *self._data_notes(),
            *(f"{n.label} is {n.source}" for n in self.networks if n.label != n.name),
            *(
                f"{row.network.label} - {first}, test accuracy: {row.difference}"
                for row in self.rows()
                if row.difference
            ),
            *(f"FAILED: {run.network}, seed {run.seed}: {run.error}" for run in self.failed),
            f"{self.progress}.",
        ]

    def _devices(self) -> str:
        """What speeds are of."""
        devices = list(dict.fromkeys(run.device for run in self.runs if run.device))
        on = "".join(f", on {device}" for device in devices)
        return f"{on}: different ones, so that they do not compare" if len(devices) > 1 else on

    def _rules(self) -> Iterator[str]:
        """By what the tested weights were chosen."""
        for validated, text in WEIGHTS.items():
            of_it = [network.label for network in self.networks if network.validated is validated]
            if of_it:
                whose = f" ({', '.join(of_it)})" if len(of_it) < len(self.networks) else ""
                yield f"Weights tested{whose}: {text}. The test images were used once a run."

    def _data_notes(self) -> Iterator[str]:
        """What does not compare with the first network because the data differ."""
        first = self.networks[0]
        for network in self.networks[1:]:
            other = [text for _, text in network.differences(first, _DATA_SET)]
            if other:
                whose = f"{network.label} is trained on other data than {first.label} ({', '.join(other)})"
                yield f"{whose}: accuracies do not compare."
            else:
                for name, text in network.differences(first, _EFFECTS):
                    yield f"{network.label} differs from {first.label} in that {text}: {_EFFECTS[name]}."

    def cells(self, row: Row) -> dict[str, str]:
        """A row for reading: heading and text; `-` where there is nothing to say."""
        return {
            "spec": row.network.label,
            "runs": f"{row.finished}/{len(self.seeds)}" + (f" {row.failed} FAILED" if row.failed else ""),
            "test accuracy": _cell(row.test_accuracy, "{}"),
            "lowest-highest": _range(row.test_accuracy),
            "validation accuracy": _cell(row.validation_accuracy, "{}"),
            "lowest-highest (validation)": _range(row.validation_accuracy),
            "parameters": _cell(row.parameters, "{:,}"),
            "images/s": _cell(row.images_per_second, "{:,.0f}"),
            "seconds": _cell(row.seconds, "{:,.0f}"),
        }

    def as_markdown(self) -> str:
        """The table and its notes."""
        rows = [self.cells(row) for row in self.rows()]
        lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
        notes = [note.replace("\n", "\n  ") for note in self.notes()]
        return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"

    def as_json(self) -> str:
        """All figures in full, and every run."""
        content = {
            "seeds": list(self.seeds),
            "specs": [_plain(row) for row in self.rows()],
            "runs": [asdict(run) for run in self.runs],
        }
        return json.dumps(content, indent=2) + "\n"

    def as_csv(self) -> str:
        """One row for each network, figures in full, empty where there is none."""
        rows = [_flat(_plain(row)) for row in self.rows()]
        headings = list(dict.fromkeys(heading for row in rows for heading in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, headings, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _figures(results: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    """A figure of finished runs by seed, of those that have it."""
    return {seed: result[name] for seed, result in results.items() if result[name] is not None}


def _median(figures: Mapping[int, float]) -> float | None:
    return statistics.median(figures.values()) if figures else None


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _range(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.lowest:.4f}-{spread.highest:.4f}"


def _plain(row: Row) -> dict[str, Any]:
    """A row as plain data."""
    figures = asdict(row)
    network = figures.pop("network")
    weights = WEIGHTS[row.network.validated]
    if row.difference and figures["difference"]:
        figures["difference"]["verdict"] = row.difference.verdict
    return {"spec": network["label"], "source": network["source"], "weights": weights, **figures}


_SPREAD = [part.name for part in fields(Spread)]
_PARTS = {
    "test_accuracy": _SPREAD,
    "validation_accuracy": _SPREAD,
    "difference": [*(part.name for part in fields(Difference)), "verdict"],
}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A plain row without maps in it; the same headings whether there is a figure or not."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name in _PARTS:
            flat.update({f"{name}_{part}": (value or {}).get(part) for part in _PARTS[name]})
        else:
            flat[name] = value
    return flat
