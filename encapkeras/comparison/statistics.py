"""Numbers over several seeds, and differences of such numbers: means, and how certain these are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

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


def half_width(deviation: float, count: int, intervals: int = 1) -> float:
    """Return half of the 95 % interval of a mean, `t * deviation / sqrt(count)` with Student's t of count - 1 degrees.

    Of several intervals, each is widened so that all together hold with 95 %: t is that of `1 - 0.05 / intervals`
    (Bonferroni), whatever the intervals have in common.

    Examples:
        >>> round(half_width(1.0, 3), 3), round(half_width(1.0, 3, intervals=3), 3)
        (2.484, 4.416)
    """
    t = float(stdtrit(count - 1, 1 - (1 - CONFIDENCE) / intervals / 2))
    return t * deviation / math.sqrt(count)


@dataclass(frozen=True)
class Difference:
    """The difference of two means, from runs with the same seeds.

    Args:
        mean: The mean of the differences d of each seed, which is the difference of the means.
        standard_error: Its standard error, `stdev(d) / sqrt(n)`; None for a single seed.
        low: Lower end of its 95 % interval, `mean - t * standard_error` with Student's t of n - 1 degrees of freedom,
            widened for `pairs` (`half_width`); None where the seeds show no spread.
        high: The upper end.
        seeds: The number n of seeds that both have finished.
        pairs: Of how many pairs the intervals together hold with 95 %.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    seeds: int
    pairs: int = 1

    @classmethod
    def of(cls, values: Mapping[int, float], reference: Mapping[int, float], pairs: int = 1) -> Difference | None:
        """Return the difference of values, by seed, over the seeds that both have; None if there are none.

        Examples:
            >>> Difference.of({0: 0.98, 1: 0.96}, {0: 0.97, 1: 0.94}).verdict
            'unclear'
        """
        apart = [value - reference[seed] for seed, value in values.items() if seed in reference]
        if not apart:
            return None
        mean, seeds = statistics.fmean(apart), len(apart)
        if seeds == 1:
            return cls(mean, None, None, None, seeds, pairs)
        deviation = statistics.stdev(apart)
        error = deviation / math.sqrt(seeds)
        if error < _EQUAL:
            return cls(mean, 0.0, None, None, seeds, pairs)
        reach = half_width(deviation, seeds, pairs)
        return cls(mean, error, mean - reach, mean + reach, seeds, pairs)

    @property
    def verdict(self) -> str:
        """`better` or `worse` only where the interval does not contain 0, otherwise `unclear`."""
        if self.low is not None and self.low > 0:
            return "better"
        if self.high is not None and self.high < 0:
            return "worse"
        return "unclear"

    @property
    def points(self) -> str:
        """The mean in percentage points, such as `+0.83`."""
        return _points(self.mean)

    @property
    def interval(self) -> str:
        """The interval in percentage points, such as `-0.25 to +1.91`; empty where there is none."""
        return "" if self.low is None or self.high is None else f"{_points(self.low)} to {_points(self.high)}"


def _points(value: float) -> str:
    return f"{100 * value:+z.2f}"
