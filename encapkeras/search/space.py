"""What a search draws from, the ranges and the grid of a spec's sweep, and what its trials are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from encapkeras.comparison.choice import Choice
from encapkeras.errors import ArgumentError
from encapkeras.spec.sections import Range
from encapkeras.spec.spec import Spec
from encapkeras.spec.sweep import short_paths
from encapkeras.spec.write import yaml_line


@dataclass(frozen=True)
class Space:
    """What is drawn from, by path; of a grid, its values as texts of YAML; and what trials are compared by."""

    distributions: Mapping[str, BaseDistribution]
    choice: Choice

    @classmethod
    def of(cls, spec: Spec) -> Space:
        """Return the space of a spec's sweep.

        Raises:
            ArgumentError: It has no sweep, or one of which a search would not use a part.
        """
        sweep = spec.sweep
        if sweep is None:
            raise ArgumentError(
                f"'{spec.name}' has no sweep to draw from. Add for example sweep: {{ranges: "
                "{train.optimizer.learning_rate: {low: 1e-4, high: 1e-2, log: true}}}."
            )
        if sweep.list is not None:
            raise ArgumentError(
                f"the sweep of '{spec.name}' has a 'list', whose networks 'encapkeras compare' trains; a search draws "
                "from 'ranges' and 'grid'. Leave it out with --set sweep.list=null"
            )
        if sweep.seeds is not None:
            raise ArgumentError(
                f"the sweep of '{spec.name}' has 'seeds', which are for 'encapkeras compare'; every trial of a search "
                "has the seed train.seed. Leave them out with --set sweep.seeds=null"
            )
        ranges = {path: _distribution(each) for path, each in (sweep.ranges or {}).items()}
        choices = {path: CategoricalDistribution(list(map(yaml_line, v))) for path, v in (sweep.grid or {}).items()}
        return cls({**ranges, **choices}, Choice.of(spec))

    @property
    def names(self) -> dict[str, str]:
        """The shortest end of each path that tells it from the others."""
        return short_paths(list(self.distributions))

    def overrides(self, drawn: Mapping[str, Any]) -> list[str]:
        """Return what `--set` takes for the values of a trial."""
        return ["sweep=null", *(f"{path}={self.text(path, value)}" for path, value in drawn.items())]

    def text(self, path: str, value: Any) -> str:
        """Return a drawn value in YAML."""
        return value if isinstance(self.distributions[path], CategoricalDistribution) else yaml_line(value)


def _distribution(each: Range) -> BaseDistribution:
    if isinstance(each.low, int) and isinstance(each.high, int):
        return IntDistribution(each.low, each.high, log=each.log)
    return FloatDistribution(float(each.low), float(each.high), log=each.log)
