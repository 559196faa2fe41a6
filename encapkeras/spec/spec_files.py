"""Where spec files are found: by their path, or by the name of one that comes with encapkeras."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from encapkeras.errors import Problem, SpecError, nearest
from encapkeras.spec.bundled import SCHEMA, bundled_names, bundled_specs
from encapkeras.spec.parse import ENDINGS

MOST_ALIKE = 8


class SpecFile(NamedTuple):
    """A file and its name in messages."""

    path: Path
    shown: str


def installed_schema() -> str:
    """Return the URI of the schema that comes with encapkeras: editors find it from any folder."""
    return (bundled_specs() / SCHEMA).resolve().as_uri()


def find_spec(source: str | os.PathLike[str]) -> SpecFile:
    """Return the file that a path, or the name of a bundled spec, means; a file in the current folder goes first."""
    shown, path = os.fspath(source), Path(source)
    if _is_file(path) or len(path.parts) != 1:
        return SpecFile(path, shown)
    bundled = bundled_names()
    if path.suffix and path.stem in bundled:
        text = f"there is no such file. The bundled spec is called '{path.stem}', without '{path.suffix}'."
        raise SpecError([Problem(shown, 0, 0, "", text)])
    if path.suffix:
        return SpecFile(path, shown)
    if path.name not in bundled:
        here = [name for ending in ENDINGS if _is_file(Path(name := f"{path.name}{ending}"))]
        hint = f"Did you mean '{here[0]}'?" if here else suggest_spec(path.name, bundled)
        raise SpecError([Problem(shown, 0, 0, "", f"there is no such file or bundled spec. {hint}")])
    path = bundled[path.name]
    return SpecFile(path, str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def suggest_spec(name: str, bundled: Collection[str]) -> str:
    """Return the sentence that helps after an unknown name of a bundled spec: they are too many to list all."""
    near = nearest(name, bundled)
    alike = [near] if near else [each for each in bundled if name.lower() in each]
    if 0 < len(alike) <= MOST_ALIKE:
        return f"Did you mean {' or '.join(map(repr, alike))}?"
    return "'encapkeras specs' lists those that there are."


def move_path(path: str, old: Path, new: Path) -> str:
    """Return a path from the old folder as one from the new folder; one from the root, or from home, as it is."""
    if os.path.isabs(path) or path.startswith("~"):
        return path
    return Path(os.path.relpath(old / path, new)).as_posix()


def _is_file(path: Path) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a name with a null character, before Python 3.13
        return False
