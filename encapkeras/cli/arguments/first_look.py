"""Mistakes in the text of a command's specs are printed before Keras and torch are imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

from encapkeras.cli.terminal.spec_errors import forget_printed, print_first
from encapkeras.errors import SpecError, environment_number


def look_first(
    sources: Sequence[tuple[str, Sequence[str]]], plugins: Sequence[str], *, shapes: bool, alone: bool = True
) -> None:
    """Look at specs, each with its overrides; raise a `SpecError` if the command would find no more than is found here.

    Otherwise print what is found; the command then prints the rest. Nothing is done if Keras is imported anyway.

    Args:
        sources: Each spec with its overrides.
        plugins: Those of the command, which import Keras.
        shapes: Whether the command checks the shapes too.
        alone: Whether the rest is printed by this process; if not, nothing is printed here, for another prints it all.
    """
    forget_printed()
    if not sources or plugins or environment_number("WORLD_SIZE", 1) > 1:
        return
    from encapkeras.spec.first_look import can_look_first, first_look

    if not can_look_first():
        return
    looks = [first_look(spec, overrides, shapes=shapes) for spec, overrides in sources]
    errors = [look.error for look in looks if look.error]
    problems = dict.fromkeys(problem for error in errors for problem in error.problems)
    if errors and all(look.is_all for look in looks):
        raise errors[0] if len(errors) == 1 else SpecError(list(problems))
    if alone:
        print_first(list(problems))
