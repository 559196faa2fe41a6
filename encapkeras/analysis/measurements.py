"""The measurements of a routing analysis, as plain data and as a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from encapkeras.errors import DataError
from encapkeras.files import open_own, replacing
from encapkeras.text import html_table, in_html, listed

COSINE_BINS = 21
BIN_WIDTH = 2 / COSINE_BINS


def bin_center(index: int) -> float:
    """Return the middle of a cosine bin; the bins divide [-1, 1] evenly."""
    return round((index - COSINE_BINS // 2) * BIN_WIDTH, 6)


@dataclass(frozen=True)
class Measurement:
    """One mean.

    Attributes:
        layer: Name of the layer.
        routing: `dynamic`, `convolution_dynamic`, `em`, `self_routing`, `self_attention`, `inverted_attention`,
            `variational_bayes`, `heinsen_2019` or `heinsen_2022`.
        iteration: From 1.
        statistic: `coupling_entropy` (nats), `coupling_entropy_relative` (1 is uniform), `agreement` and
            `agreement_by_coupling` (cosines), `activation`, or `vote_length` (the votes in one cosine bin).
        capsules: The output capsules that count: `target` and `other`, where they are classes and labels are known;
            otherwise `all`.
        cosine: The middle of the cosine bin; None for all statistics but `vote_length`.
        value: The mean; None where there is nothing to take the mean of.
        count: The number of distributions (entropy), votes or capsules in the mean.
    """

    layer: str
    routing: str
    iteration: int
    statistic: str
    capsules: str
    cosine: float | None
    value: float | None
    count: int


@dataclass(frozen=True)
class RoutingAnalysis:
    """What the routing layers of one trained network did with a set of images.

    Attributes:
        checkpoint: Which weights: `best`, `last`, `epoch 5`.
        split: Which images: `test`, `validation`, `train`.
        images: How many images.
        measurements: By layer, iteration, statistic.
    """

    checkpoint: str
    split: str
    images: int
    measurements: tuple[Measurement, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in the order of the network."""
        return tuple(dict.fromkeys(m.layer for m in self.measurements))

    def select(self, layer: str, statistic: str, capsules: str | None = None) -> list[Measurement]:
        """Return the measurements of a layer's statistic, in the order of the iterations and bins.

        Args:
            layer: Name of the layer.
            statistic: Name of the statistic.
            capsules: `target`, `other` or `all`; None for any.
        """
        return [
            m
            for m in self.measurements
            if (m.layer, m.statistic) == (layer, statistic) and capsules in (None, m.capsules)
        ]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the measurements as a table of one row each; see `write_csv`."""
        write_csv(path, [self])

    def _repr_html_(self) -> str:
        """The means of each layer and iteration as a table, which notebooks show; votes by direction are left out."""
        means = [m for m in self.measurements if m.cosine is None]
        statistics = list(dict.fromkeys(m.statistic for m in means))
        values: dict[tuple[str, ...], dict[str, str]] = {}
        for m in means:
            row = values.setdefault((m.layer, m.routing, str(m.iteration), m.capsules), {})
            row[m.statistic] = "" if m.value is None else f"{m.value:.4f}"
        heading = ["layer", "routing", "iteration", "capsules", *statistics]
        rows = [[*key, *(row.get(each, "") for each in statistics)] for key, row in values.items()]
        title = f"{self.checkpoint}, {self.images:,} {self.split}".removesuffix(" images") + " images"
        return f"<p>{in_html(title)}</p>{html_table(heading, rows)}"


_FIELDS = [field.name for field in dataclasses.fields(Measurement)]
COLUMNS = ("checkpoint", "split", "images", *_FIELDS)


def write_csv(path: str | os.PathLike[str], analyses: Iterable[RoutingAnalysis]) -> None:
    """Write several analyses, in the order of the rows, as one table in place of an older one; empty means None.

    Raises:
        RunFolderError: The file cannot be written; an older one is unchanged.
    """
    with replacing(Path(path)) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        _write_rows(file, analyses)


def append_csv(path: str | os.PathLike[str], analyses: Iterable[RoutingAnalysis]) -> None:
    """Append analyses to a table, created if it does not exist; the rows are in the file when this returns."""
    with io.TextIOWrapper(open_own(Path(path), "ab"), "utf-8", newline="") as file:
        _write_rows(file, analyses)


def _write_rows(file: TextIO, analyses: Iterable[RoutingAnalysis]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    if file.tell() == 0:
        writer.writerow(COLUMNS)
    for analysis in analyses:
        for m in analysis.measurements:
            fields = ["" if value is None else value for value in dataclasses.astuple(m)]
            writer.writerow([analysis.checkpoint, analysis.split, analysis.images, *fields])


def read_csv(path: str | os.PathLike[str]) -> list[RoutingAnalysis]:
    """Read what `write_csv` wrote.

    Raises:
        DataError: It is not such a table.

    Examples:
        >>> path = getfixture("tmp_path") / "routing.csv"
        >>> one = Measurement("digits", "em", 1, "activation", "target", None, 0.5, 16)
        >>> write_csv(path, [RoutingAnalysis("best", "test", 16, (one,))])
        >>> read_csv(path)[0].measurements[0] == one
        True
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{os.fspath(path)} is not a table of a routing analysis: {error}") from error
    if tuple(header) != COLUMNS:
        raise DataError(f"{os.fspath(path)} is not a table of a routing analysis: its columns are {listed(header)}")
    grouped: dict[tuple[str, str, int], list[Measurement]] = {}
    for line, row in enumerate(rows, start=2):
        try:
            checkpoint, split, images, layer, routing, iteration, statistic, capsules, cosine, value, count = row
            measurement = Measurement(
                layer, routing, int(iteration), statistic, capsules, _number(cosine), _number(value), int(count)
            )
            grouped.setdefault((checkpoint, split, int(images)), []).append(measurement)
        except ValueError as error:
            raise DataError(f"{os.fspath(path)}, line {line}, is not a row of a routing analysis: {error}") from error
    return [RoutingAnalysis(*key, tuple(measurements)) for key, measurements in grouped.items()]


def _number(text: str) -> float | None:
    return float(text) if text else None


def layers_of(analyses: Sequence[RoutingAnalysis]) -> tuple[str, ...]:
    """Return the layers of several analyses, each once."""
    return tuple(dict.fromkeys(layer for analysis in analyses for layer in analysis.layers))
