"""What a comparison consists of: runs, networks with their results, and pairs of networks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from encapkeras.analysis import scores
from encapkeras.comparison.choice import DEFAULT, Choice
from encapkeras.comparison.statistics import Difference, Spread
from encapkeras.data import DataSettings

METRICS = {f"test_{name}": words for name, words in scores.METRICS.items()}
"""Further metrics of the test, with their headings; terminals show the accuracy alone."""


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
        choice: What chooses its best epoch.
    """

    label: str
    name: str
    source: str
    data: DataSettings
    swept: Mapping[str, Any] = field(default_factory=dict)
    number: int = 1
    choice: Choice = DEFAULT

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
        test_mean_iou: Over seeds; None without masks.
        validation_mean_iou: Over seeds; None also without a validation part.
        parameters: Trainable weights.
        images_per_second: In training, the median over runs.
        seconds: Of a whole training, the median over runs.
        peak_memory_mib: Of a training beyond the program itself, the median over runs; None also where the system does
            not report it.
        difference: Of the test accuracy, or with masks of the test mean IoU, from the first network's; None also for
            the first itself, with another data set than the first's, and without common seeds.
        metrics: Over seeds, by their name in `results.json`: those of `METRICS` that runs have, and, if there is no
            other place for it, that of the validation by which networks are sorted.
    """

    network: Network
    finished: int
    failed: int
    test_accuracy: Spread | None
    validation_accuracy: Spread | None
    test_mean_iou: Spread | None
    validation_mean_iou: Spread | None
    parameters: int | None
    images_per_second: float | None
    seconds: float | None
    peak_memory_mib: float | None
    difference: Difference | None
    metrics: Mapping[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Two networks of a comparison whose test accuracies compare: they have the same data set, and seeds in common.

    Args:
        network: The later one.
        reference: The earlier one, which it is compared with.
        difference: The test accuracy, or with masks the test mean IoU, of `network` minus that of `reference`.
    """

    network: Network
    reference: Network
    difference: Difference
