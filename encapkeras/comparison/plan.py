"""What a comparison trains: from specs, with or without sweeps, to checked trainings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import keras

from encapkeras.analysis import routing_layers
from encapkeras.comparison.choice import Choice
from encapkeras.comparison.rows import Network, numbered
from encapkeras.errors import ArgumentError, EncapkerasError, Problem, SpecError
from encapkeras.model.examine import examine_spec
from encapkeras.model.spec_model import build_model
from encapkeras.spec.load import Source, load_spec
from encapkeras.spec.parse import load_override
from encapkeras.spec.spec import Spec
from encapkeras.spec.sweep import Variant
from encapkeras.training.check import check_settings
from encapkeras.training.measure import check_fits, data_of
from encapkeras.training.run.run_folder import RunFolder, folder_name
from encapkeras.validation import shown

SEEDS = (0, 1, 2)  # by default


class Planned(NamedTuple):
    """A training of a comparison."""

    network: Network
    seed: int
    spec: Spec
    folder: RunFolder


class Plan(NamedTuple):
    """The trainings of a comparison, in their order: all networks with the first seed, then with the second, ..."""

    networks: Sequence[Network]
    seeds: Sequence[int]
    trainings: Sequence[Planned]


def make_plan(sources: Sequence[Source], seeds: Sequence[int] | None, overrides: Sequence[str], path: Path) -> Plan:
    """Read and check the specs; seeds are by default those of the sweeps, or 0, 1, 2."""
    candidates = _checked(sources, overrides)
    if seeds is None:
        seeds = _seeds_of_sweeps(candidates)
    networks = _networks(candidates)
    specs = [variant.spec for candidate in candidates for variant in candidate.variants]
    trainings = [
        Planned(
            network,
            seed,
            load_spec(spec, [f"train.seed={seed}"]),
            RunFolder(path / f"seed_{seed}" / folder_name(network.label)),
        )
        for seed in seeds
        for spec, network in zip(specs, networks, strict=True)
    ]
    _check_distinct(trainings[: len(specs)])
    return Plan(networks, seeds, trainings)


def check_arguments(sources: Sequence[Source], seeds: Sequence[int] | None, overrides: Sequence[str]) -> None:
    """Check the arguments of `compare`, before anything is read."""
    if not _is_list(sources) or not sources:
        raise ArgumentError(f"a comparison needs a list of specs; received {shown(sources)}")
    if seeds is not None and (
        not _is_list(seeds)
        or not seeds
        or any(type(seed) is not int or not 0 <= seed < 2**32 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ArgumentError(
            f"seeds must be a list of distinct whole numbers from 0 to {2**32 - 1}, at least one; "
            f"received {shown(seeds)}"
        )
    for text in overrides:
        if _sets_the_seed(text):
            raise ArgumentError(f"'{text}': a comparison sets the seeds itself; choose them with --seeds")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _sets_the_seed(override: str) -> bool:
    path, _, value = override.partition("=")
    if path.strip() != "train":
        return path.strip() == "train.seed"
    section = load_override(value, "train").value
    return isinstance(section, dict) and "seed" in section


class _Candidate(NamedTuple):
    """A spec, and the networks of its sweep, or the one that it is."""

    spec: Spec
    variants: Sequence[Variant]


@dataclass
class _Errors:
    """All errors of the specs, each once: several specs share those of a `--set`, or of a base that they extend."""

    specs: int
    _in_specs: dict[Problem, list[str]] = field(default_factory=dict)
    _others: dict[str, list[str]] = field(default_factory=dict)
    _errors: list[EncapkerasError] = field(default_factory=list)

    def add(self, error: EncapkerasError, name: str) -> None:
        """Add an error of the spec, or of the network of a sweep, of this name."""
        if isinstance(error, SpecError):
            for problem in error.problems:
                self._in_specs.setdefault(problem, []).append(name)
            return
        if str(error) not in self._others:
            self._errors.append(error)
        self._others.setdefault(str(error), []).append(name)

    def raise_if_any(self) -> None:
        problems = [self._with_specs(problem, names) for problem, names in self._in_specs.items()]
        joined = [*self._errors, *([SpecError(problems)] if problems else [])]
        if joined:
            raise joined[0] if len(joined) == 1 else EncapkerasError("\n".join(map(str, joined)))

    def _with_specs(self, problem: Problem, names: Sequence[str]) -> Problem:
        """Add to an error in a `--set`, which is for all specs, the specs in which it is one."""
        if problem.file != "--set" or len(names) == self.specs:
            return problem
        return replace(problem, note=f"{problem.note} (for {', '.join(names)})".strip())


def _checked(sources: Sequence[Source], overrides: Sequence[str]) -> list[_Candidate]:
    candidates = []
    errors = _Errors(len(sources))
    for source in sources:
        try:
            spec, _, variants = examine_spec(source, overrides)
        except EncapkerasError as error:
            errors.add(error, _name_of(source))
            continue
        if spec.sweep and spec.sweep.ranges:
            errors.add(
                ArgumentError(
                    f"{spec.source} has sweep.ranges, from which 'encapkeras search' draws; a comparison trains all "
                    "networks of a 'grid' or 'list'. Leave them out with --set sweep.ranges=null"
                ),
                spec.name,
            )
            continue
        candidates.append(_Candidate(spec, variants or [Variant("", {}, spec)]))
        for variant in candidates[-1].variants:
            try:
                _check_trainable(variant.spec)
            except EncapkerasError as error:
                errors.add(error, variant.label)
    errors.raise_if_any()
    return candidates


def _name_of(source: Source) -> str:
    if isinstance(source, Spec):
        return source.source
    return str(source.get("name", "<dict>")) if isinstance(source, Mapping) else str(source)


def _check_trainable(spec: Spec) -> None:
    check_settings(spec)
    with keras.device("meta"):
        model = build_model(spec, pretrained=False)
    if spec.train.analysis:
        routing_layers(model)
    if spec.info:
        check_fits(model, spec.info)


def _seeds_of_sweeps(candidates: Sequence[_Candidate]) -> Sequence[int]:
    """Return the seeds of the sweeps, which must be the same in all that name some."""
    named = [(c.spec, c.spec.sweep.seeds) for c in candidates if c.spec.sweep and c.spec.sweep.seeds is not None]
    seeds = [(spec, list(range(given)) if isinstance(given, int) else given) for spec, given in named]
    for spec, other in seeds[1:]:
        first, given = seeds[0]
        if other != given:
            raise ArgumentError(
                f"the sweep of {first.source} has the seeds {_listed(given)} and that of {spec.source} the seeds "
                f"{_listed(other)}; choose them with --seeds"
            )
    return seeds[0][1] if seeds else SEEDS


def _listed(seeds: Sequence[int]) -> str:
    return shown(", ".join(map(str, seeds)))


def _networks(candidates: Sequence[_Candidate]) -> list[Network]:
    """Return the networks, with labels that make distinct folders also on disks that ignore case."""
    networks: list[Network] = []
    titles: set[str] = set()
    labels: set[str] = set()
    for candidate in candidates:
        numbers: dict[str, int] = {}  # specs of the same name are numbered, and all networks of a sweep alike
        for variant in candidate.variants:
            name = variant.spec.name
            if name not in numbers:
                numbers[name] = next(n for n in itertools.count(1) if _folder(numbered(name, n)) not in titles)
                titles.add(_folder(numbered(name, numbers[name])))
            title = f"{numbered(name, numbers[name])} {variant.label}".strip()
            label = next(t for n in itertools.count(1) if _folder(t := numbered(title, n)) not in labels)
            labels.add(_folder(label))
            data = data_of(variant.spec)
            choice = Choice.of(variant.spec)
            networks.append(Network(label, name, variant.spec.source, data, variant.values, numbers[name], choice))
    return networks


def _folder(label: str) -> str:
    return folder_name(label).casefold()


def _check_distinct(trainings: Sequence[Planned]) -> None:
    first: dict[str, Planned] = {}
    for planned in trainings:
        other = first.setdefault(json.dumps(planned.spec.resolved, sort_keys=True), planned)
        if other is not planned:
            raise ArgumentError(
                f"{other.network.source} and {planned.network.source} are the same spec, '{planned.spec.name}': "
                "equal seeds give equal numbers, which show nothing. Give it once."
            )
