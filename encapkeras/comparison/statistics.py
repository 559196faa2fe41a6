"""Numbers over several seeds, and differences of such numbers: means, and how certain these are."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from encapkeras.text import counted

CONFIDENCE = 0.95
_EQUAL = 1e-6  # accuracies are counts of images divided by their number, in float32


@dataclass(frozen=True)
class Spread:
    """A number over several seeds.

    Args:
        mean: The mean.
        standard_deviation: Over seeds, `sqrt(sum (x - mean)^2 / (n - 1))`; None for a single seed.
        lowest: The smallest value.
        highest: The largest value.
    """

    mean: float
    standard_deviation: float | None
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value, one for each seed.

        Examples:
            >>> Spread.of([1.0, 2.0, 3.0])
            Spread(mean=2.0, standard_deviation=1.0, lowest=1.0, highest=3.0)
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, min(values), max(values))

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.standard_deviation is None else f" ± {self.standard_deviation:.4f}")


@dataclass(frozen=True)
class Difference:
    """The difference of two means, from runs with the same seeds.

    Args:
        mean: The mean of the differences d of each seed, which is the difference of the means.
        standard_error: Its standard error, `stdev(d) / sqrt(n)`; None for a single seed.
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
        """Return the difference of values, by seed, over the seeds that both have; None if there are none.

        Examples:
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
        """Better or worse only where the interval does not contain 0."""
        if self.low is not None and self.low > 0:
            return "better"
        if self.high is not None and self.high < 0:
            return "worse"
        if self.standard_error == 0 and abs(self.mean) > _EQUAL:
            return f"the same difference with all {self.seeds} seeds, which therefore cannot show how certain it is"
        return f"no difference that {counted(self.seeds, 'seed')} can show"

    @property
    def shows_nothing(self) -> bool:
        """Whether the seeds show no difference."""
        return self.verdict.startswith("no ")

    def __str__(self) -> str:
        if self.standard_error is None:
            return f"{self.mean:+.4f}: {self.verdict}"
        interval = "" if self.low is None else f", {CONFIDENCE:.0%} interval {self.low:+.4f} to {self.high:+.4f}"
        return f"{self.mean:+.4f} ± {self.standard_error:.4f} (standard error{interval}): {self.verdict}"
