"""The errors that a user can fix. Every other exception that escapes is a bug of ours.

The command line prints an `EncapkerasError` as its message alone and exits with its `exit_code`; in Python they are
ordinary exceptions (those about values are also `ValueError`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

LONGEST_NAME = 100  # of one that the nearest is looked for
SHORTEST_PART = 4  # of a name that stands for all of it
MOST_NAMES = 1000  # among which it is looked for, and of which some are shown
MOST_SHOWN = 50  # of allowed names

SYNONYMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lr", "learn_rate", "base_lr"), ("learning_rate",)),
    **dict.fromkeys(("n_epochs", "num_epochs", "nb_epochs", "max_epochs"), ("epochs",)),
    **dict.fromkeys(("bs", "batch", "minibatch"), ("batch_size",)),
    **dict.fromkeys(("num_workers", "n_workers", "n_jobs"), ("workers",)),
    **dict.fromkeys(("val", "val_split", "val_fraction", "validation_split"), ("validation",)),
    **dict.fromkeys(("img_size", "input_size", "resolution"), ("image_size",)),
    **dict.fromkeys(("flip", "hflip", "horizontal_flip"), ("mirror",)),
    **dict.fromkeys(("transforms", "augmentation"), ("augment",)),
    **dict.fromkeys(("wd", "l2"), ("weight_decay",)),
    **dict.fromkeys(("random_seed", "random_state", "manual_seed"), ("seed",)),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule"), ("schedule",)),
    **dict.fromkeys(("warmup", "warm_up"), ("warmup_epochs",)),
    **dict.fromkeys(("clipnorm", "grad_clip", "max_grad_norm", "gradient_clip"), ("clip_norm",)),
    **dict.fromkeys(("amp", "mixed_precision"), ("precision",)),
    **dict.fromkeys(("accumulation", "grad_accum", "gradient_accumulation_steps"), ("accumulate",)),
    **dict.fromkeys(("opt", "optim"), ("optimizer",)),
    **dict.fromkeys(("gamma",), ("factor",)),
    **dict.fromkeys(("layers",), ("nodes",)),
    **dict.fromkeys(("loss", "criterion"), ("losses",)),
    **dict.fromkeys(("num_capsules", "n_capsules", "num_caps", "out_capsules"), ("capsules", "types")),
    **dict.fromkeys(("capsule_dim", "dim_capsule", "caps_dim", "out_dim"), ("dim",)),
    **dict.fromkeys(("num_routing", "routings", "routing_iterations", "num_iterations", "iters"), ("iterations",)),
    **dict.fromkeys(("out_channels", "channels", "num_filters", "n_filters"), ("filters", "units")),
    **dict.fromkeys(("bias",), ("use_bias",)),
}
"""Words of other libraries for keys of specs."""


class EncapkerasError(Exception):
    """Base class: what is wrong, where, what was received, what is allowed, what to do."""

    exit_code = 2
    _keras_call_info_injected = True  # Keras then wraps no text around an error from within a layer


class ArgumentError(EncapkerasError, ValueError):
    """An argument of a layer, loss or data set has a value that it cannot have.

    Args:
        *texts: What is wrong.
        argument: Its name, for a message in a spec that has no other way to its place.
    """

    def __init__(self, *texts: str, argument: str = "") -> None:
        super().__init__(*texts)
        self.argument = argument


class NotFiniteError(ArgumentError):
    """A tensor holds infinity or NaN."""


class ShapeError(EncapkerasError, ValueError):
    """A tensor that reaches a layer has a shape that the layer cannot take."""


class DataError(EncapkerasError):
    """A data set is missing, incomplete, damaged, or contains invalid values."""


class RunFolderError(EncapkerasError):
    """A run folder already exists, is missing, or does not hold a complete run."""


class TrainingError(EncapkerasError):
    """A training cannot continue, for example after a loss that is not a finite number."""


class DistributionError(EncapkerasError):
    """The processes of a training cannot be connected, or do not do the same."""


class CheckpointError(EncapkerasError):
    """A checkpoint of the original code cannot be read or written, or does not belong to the network."""


class ExportError(EncapkerasError):
    """A network cannot be written for another program."""


class PackedModelError(EncapkerasError):
    """A packed model is missing, incomplete or changed, or a run cannot be packed."""


class RegistrationError(EncapkerasError, TypeError):
    """A layer, loss or data set cannot be registered as it is declared."""


class PluginError(EncapkerasError):
    """A plugin cannot be loaded, or one is needed that is not."""


class NotConvergedWarning(UserWarning):
    """An iteration ended at its largest number of rounds before it reached the requested precision."""


def environment_number(name: str, default: int) -> int:
    """The whole number in an environment variable that torchrun sets."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise DistributionError(
            f"the environment variable {name} must be a whole number, as torchrun sets it; received '{value}'. "
            "Unset it to work in one process."
        )
    return int(value)


LAUNCHED_WITH = "ENCAPKERAS_LAUNCHED_WITH"


def launched_with() -> str:
    """The option of `train` that has started this process among others, such as `--processes 2`; empty if none has."""
    return os.environ.get(LAUNCHED_WITH, "")


def printable(text: str, keep: str = "") -> str:
    """The text with escapes for all that a terminal would not show as it is written, line ends too unless kept."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Problem:
    """One error or warning about a spec. Whatever it quotes is made printable.

    Args:
        file: The file as the user named it, or `<dict>` / `--set` for a spec that comes from elsewhere.
        line: Line, from 1; 0 where the spec is not a text.
        column: Column, from 1; 0 where the spec is not a text.
        path: Dotted path of the value, for example `model.nodes.stage1.dim`.
        message: What is wrong, what was received, what is allowed.
        note: The row of a `repeat`, for example `(row 3, 'stage3')`.
        trace: How a shape came about, for example `shapes: image (32, 32, 1) -> stem (16, 16, 16)`; else empty.
        severity: `error`; `warning` for what can be built but is surely a slip.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    note: str = ""
    trace: str = ""
    severity: Literal["error", "warning"] = "error"

    def __post_init__(self) -> None:
        for name in ("file", "path", "message", "note", "trace"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    @property
    def place(self) -> str:
        """`file:line:column`, or the file alone where there is no line."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        """`file:line:column  path`, then, indented, the message, and the trace if there is one."""
        warning = "warning: " if self.severity == "warning" else ""
        lines = [f"{self.place}  {self.path}   {self.note}".rstrip(), f"    {warning}{self.message}"]
        return "\n".join([*lines, *([f"    {self.trace}"] if self.trace else [])])


class SpecError(EncapkerasError, ValueError):
    """A spec has errors: all of them, sorted by place.

    Args:
        problems: The errors, at least one.
        complete: Whether these are all; if not, reading ended because there were too many.

    Attributes:
        problems: The errors.
        summary: How many there are, in words.
    """

    def __init__(self, problems: Sequence[Problem], complete: bool = True) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))
        count = len(self.problems)
        noun = "1 error" if count == 1 else f"{count} errors"
        self.summary = f"{noun} found" if complete else f"{noun} found, and there may be more: parsing stopped here"
        super().__init__("\n".join([*map(str, self.problems), self.summary]))


def nearest(received: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that an unknown one is probably meant to be, or a part of; None if there is none, or several."""
    names = set(allowed)
    for word in SYNONYMS.get(received, ()):
        if word in names:
            return word
    if len(received) > LONGEST_NAME or len(names) > MOST_NAMES:  # the search takes time for each letter of each name
        return None
    written = {name.lower(): name for name in sorted(names)}
    word = received.lower()
    near = difflib.get_close_matches(word, written, n=1, cutoff=0.6)
    if not near and len(word) >= SHORTEST_PART:
        near = [name for name in written if word in name] or [name for name in written if _begins_like(name, word)]
    return written[near[0]] if len(near) == 1 else None


def _begins_like(name: str, word: str) -> bool:
    return difflib.SequenceMatcher(None, word, name[: len(word) + 1]).ratio() >= 0.75


def suggest(received: str, allowed: Iterable[str]) -> str:
    """The sentence that helps after an unknown name: the nearest allowed name, or all of them."""
    names = frozenset(allowed)  # no copy of what is one
    near = nearest(received, names)
    if near:
        return f"Did you mean '{near}'?"
    if len(names) > MOST_NAMES:
        return f"There are {len(names):,} others."
    more = f", and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"Allowed: {', '.join(sorted(names)[:MOST_SHOWN])}{more}." if names else "Nothing is allowed here."


def suggest_argument(received: str, own: Iterable[str], common: Iterable[str]) -> str:
    """As `suggest`, for a key among others that many maps have: those are suggested, and not listed."""
    own = list(own)
    return suggest(received, [*own, *common] if nearest(received, [*own, *common]) else own)
