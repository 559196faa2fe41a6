"""What is wrong with a spec, as far as it can be said without Keras and torch, whose import takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from encapkeras.errors import SpecError
from encapkeras.spec.known import declared
from encapkeras.spec.load import Source, merge, read
from encapkeras.spec.report import Report
from encapkeras.spec.tree import Tree


class FirstLook(NamedTuple):
    """What was found.

    Attributes:
        error: The errors; None if there are none.
        is_all: Whether reading the spec again, with Keras, would find no more.
    """

    error: SpecError | None
    is_all: bool


def first_look(source: Source, overrides: Sequence[str] = (), *, shapes: bool) -> FirstLook:
    """Read a spec without Keras; `shapes` if its shapes and its sweep are checked too, which takes Keras.

    The errors are among those that `load_spec` and `check_spec` find, in their words. A layer, loss or data set of a
    plugin is not known here.
    """
    known = declared()

    def read_variant(merged: Tree, report: Report) -> None:  # two that seem equal may have errors that only Keras finds
        read(merged, report, known)

    try:
        reading = read(*merge(source, overrides), known)
        if shapes:
            reading.variants(read_variant)
    except SpecError as error:  # which reading cannot go on after
        return FirstLook(error, True)
    problems = reading.report.problems()
    left = known.undecided or (shapes and (reading.nodes or reading.sweep))
    return FirstLook(SpecError(problems), not left) if problems else FirstLook(None, False)


def can_look_first() -> bool:
    """Whether Keras is not imported yet (else a first look saves nothing), and the sources are there to be read."""
    return not {"keras", "torch"} & set(sys.modules) and Path(__file__).is_file()
