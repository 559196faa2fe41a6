"""Checks mutated specs: each is a network or a `SpecError`; whatever else happens is a failure that can be replayed."""

import collections
import contextlib
import itertools
import math
import signal
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import torch
from keras.src.backend.torch import core
from keras.src.backend.torch import random as draws
from support.spec_mutations import KINDS, mutation
from support.spec_starts import Mutation

from encapkeras import SpecError, build_model, load_spec
from encapkeras.model import examine as steps
from encapkeras.model.examine import Examined, examine_spec
from encapkeras.spec.first_look import first_look
from encapkeras.spec.report import MOST_PROBLEMS
from encapkeras.spec.write import as_json, as_yaml

SOUND, BEFORE, AT_SHAPES, FAILED = "sound", "refused before shapes", "refused at shapes", "FAILED"
OUTCOMES = (SOUND, AT_SHAPES, BEFORE, FAILED)

MOST_WEIGHTS = 4_000_000
MOST_NUMBERS = 60_000_000  # in all tensors of a forward pass
BATCH = 2
LONGEST = 60  # seconds for one spec


@dataclass
class Outcome:
    """What became of one mutated spec."""

    mutation: Mutation
    number: int
    outcome: str = FAILED
    built: bool = False
    seconds: float = 0.0
    message: str = ""
    failure: str = ""


@dataclass
class Tally:
    """What became of all: how many by outcome, and by kind of change and outcome."""

    outcomes: collections.Counter = field(default_factory=collections.Counter)
    kinds: dict[str, collections.Counter] = field(default_factory=lambda: collections.defaultdict(collections.Counter))
    built: int = 0
    slowest: tuple[float, int] = (0.0, 0)
    failures: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.outcomes.values())

    @property
    def reached_shapes(self) -> int:
        return self.outcomes[SOUND] + self.outcomes[AT_SHAPES]

    def add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.outcome] += 1
        for kind in outcome.mutation.kinds:
            self.kinds[kind][outcome.outcome] += 1
        self.built += outcome.built
        self.slowest = max(self.slowest, (outcome.seconds, outcome.number))
        if outcome.failure:
            self.failures.append(outcome.failure)

    def join(self, other: "Tally") -> None:
        self.outcomes.update(other.outcomes)
        for kind, counts in other.kinds.items():
            self.kinds[kind].update(counts)
        self.built += other.built
        self.slowest = max(self.slowest, other.slowest)
        self.failures += other.failures

    def table(self) -> str:
        """The distribution; a spec with several changes counts once for each."""
        lines = [f"{'change':<12}" + "".join(f"{name:>24}" for name in OUTCOMES)]
        rows = [*((kind, self.kinds[kind]) for kind in KINDS), ("all specs", self.outcomes)]
        for name, counts in rows:
            whole = sum(counts.values()) or 1
            lines.append(f"{name:<12}" + "".join(f"{counts[o]:>16,} ({counts[o] / whole:4.0%})" for o in OUTCOMES))
        shapes = self.reached_shapes
        lines.append(f"{shapes:,} of {self.count:,} ({shapes / max(self.count, 1):.0%}) reached the checks of shapes")
        lines.append(
            f"{self.built:,} were built and called; slowest {self.slowest[0]:.2f} s (number {self.slowest[1]})"
        )
        return "\n".join(lines)


def run(numbers: Iterable[int], seed: int, folder: Path, builds: int = 0, count: int = 0) -> Tally:
    """Checks the specs of these numbers.

    Args:
        numbers: Which ones.
        seed: Of all chance.
        folder: Where their files are written.
        builds: How many of the sound ones are built with weights and called, spread over all.
        count: How many numbers there are.
    """
    tally = Tally()
    for position, number in enumerate(numbers, 1):
        tally.add(outcome(seed, number, folder, build=bool(count) and tally.built < builds * position / count))
        if position % 100 == 0:
            keras.utils.clear_session()  # Keras counts the names of all layers
    return tally


def outcome(seed: int, number: int, folder: Path, *, build: bool = False) -> Outcome:
    """Checks one mutated spec, and builds it if it is sound and small."""
    mutated = mutation(seed, number)
    result = Outcome(mutated, number)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, about networks that it can build
        try:
            with _in_time():
                result.outcome = _examined(mutated, folder, result, build)
        except (Exception, TooSlow):
            result.failure = f"number {number}, seed {seed}, from {mutated.start}, {mutated.kinds}, "
            result.failure += f"--set {mutated.overrides}\n{_text(mutated)}\n{traceback.format_exc()}"
    result.seconds = time.perf_counter() - begin
    return result


class TooSlow(BaseException):
    """Ends a check that takes for ever; no `Exception`, for those of layers are caught and told as mistakes."""


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow(f"after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def explained(seed: int, number: int, folder: Path) -> tuple[str, bool]:
    """A mutated spec and what becomes of it, in words; and whether that is a failure."""
    result = outcome(seed, number, folder, build=True)
    if result.failure:
        return result.failure, True
    mutated = result.mutation
    text = f"from {mutated.start}: {', '.join(mutated.kinds)}; --set {mutated.overrides}\n{_text(mutated)}\n"
    return f"{text}{result.outcome}{', built' if result.built else ''}, {result.seconds:.2f} s{result.message}", False


def _text(mutated: Mutation) -> str:
    try:
        return as_json(mutated.spec) if mutated.as_json else as_yaml(mutated.spec)
    except ValueError:  # NaN is no JSON
        return as_yaml(mutated.spec)


def _examined(mutated: Mutation, folder: Path, result: Outcome, build: bool) -> str:
    text = _text(mutated)
    file = folder / ("mutated.json" if text.startswith("{\n") else "mutated.yaml")
    file.write_text(text)
    try:
        with _without_drawing(), _noting_shape_checks() as reached:
            examined = examine_spec(file, mutated.overrides)
    except SpecError as error:
        result.message = f"\n{error}"
        _check_problems(error, mutated)
        _check_first_look(error, file, mutated)
        return AT_SHAPES if reached else BEFORE
    if result.number % 4 == 0 or build:
        again = load_spec(examined.spec.resolved)
        assert again.resolved == examined.spec.resolved, "the resolved spec means something else than the spec"
    if build and _is_small(examined):
        _build(examined)
        result.built = True
    return SOUND


@contextlib.contextmanager
def _noting_shape_checks() -> Iterator[list[bool]]:
    """Notes that a spec has passed all checks before those of its shapes."""
    reached: list[bool] = []
    build_nodes = steps.build_nodes

    def noting(nodes: Any, inputs: Any, report: Any, *rest: Any, **options: Any) -> Any:
        reached.extend([] if report.problems() else [True])
        return build_nodes(nodes, inputs, report, *rest, **options)

    with mock.patch.object(steps, "build_nodes", noting):
        yield reached


@contextlib.contextmanager
def _without_drawing() -> Iterator[None]:
    """Half of the time of a check would go into drawing weights that have no numbers: there is nothing to draw."""

    def quick(original: Any) -> Any:
        def draw(shape: Any, *arguments: Any, dtype: Any = None, **options: Any) -> Any:
            if core.get_device() != "meta":
                return original(shape, *arguments, dtype=dtype, **options)
            return torch.empty(tuple(shape), dtype=core.to_torch_dtype(dtype or keras.config.floatx()), device="meta")

        return draw

    names = ("normal", "truncated_normal", "uniform")
    with mock.patch.multiple(draws, **{name: quick(getattr(draws, name)) for name in names}):
        yield


def _check_problems(error: SpecError, mutated: Mutation) -> None:
    """Every mistake has its place and its text, and none is told twice."""
    told = [(p.place, p.path, p.message, p.note) for p in error.problems]
    assert len(set(told)) == len(told), f"a mistake is told twice:\n{error}"
    for problem in error.problems:
        assert problem.message.strip(), error
        assert problem.line or problem.file == "--set" or "extends" in mutated.kinds, f"no line:\n{error}"


def _check_first_look(error: SpecError, file: Path, mutated: Mutation) -> None:
    """What is found without Keras is what is found with it, and all of it where no more is said to be."""
    look = first_look(file, mutated.overrides, shapes=True)
    if len(error.problems) >= MOST_PROBLEMS:
        return
    everything = {(p.place, p.path, p.message) for p in error.problems}
    found = {(p.place, p.path, p.message) for p in look.error.problems} if look.error else set()
    assert found <= everything, f"only without Keras: {found - everything}"
    assert not look.is_all or found == everything, f"only with Keras: {everything - found}"


def _is_small(examined: Examined) -> bool:
    """Whether its weights and all tensors of a forward pass take little memory."""
    graph = examined.graph
    layers = [*graph.layers.values(), *graph.side_losses.values()]
    weights = sum(math.prod(weight.shape) for layer in layers for weight in layer.weights)
    numbers = sum(math.prod(size or 16 for size in tensor.shape[1:]) for tensor in graph.tensors.values())
    return weights <= MOST_WEIGHTS and BATCH * numbers <= MOST_NUMBERS


def _build(examined: Examined) -> None:
    """Builds the network with its weights and calls it on two images."""
    model = build_model(examined.spec.resolved)
    inputs = {name: torch.rand(BATCH, *(size or 16 for size in shape)) for name, shape in examined.spec.inputs.items()}
    with torch.no_grad():
        made = model(inputs if len(inputs) > 1 else next(iter(inputs.values())), training=False)
    promised = keras.tree.flatten(model.output)
    for tensor, symbolic in itertools.zip_longest(keras.tree.flatten(made), promised):
        assert len(tensor.shape) == len(symbolic.shape), (tensor.shape, symbolic.shape)
        for size, due in zip(tensor.shape[1:], symbolic.shape[1:], strict=True):
            assert due in (None, size), f"makes {tuple(tensor.shape)}, the shapes promise {tuple(symbolic.shape)}"
