"""Where spec files are found: by their path, or by the name of one that comes with encapkeras."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from encapkeras.errors import Problem, SpecError, nearest
from encapkeras.spec.bundled import SCHEMA, bundled_names, bundled_specs
from encapkeras.spec.parse import ENDINGS
from encapkeras.text import quoted

MOST_ALIKE = 8
NO_SPECS = {
    ".py": "a Python file; a spec is a YAML or JSON file. Layers of your own are loaded with --plugin",
    ".keras": "a trained network; a spec is a YAML or JSON file, in the folder of a run spec.yaml",
}


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
    other = _something_else(path)
    if other:
        raise SpecError([Problem(shown, 0, 0, "", other)])
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


def _something_else(path: Path) -> str:
    """Return what a path is that is surely no spec, and what to name instead; else an empty text."""
    if path.suffix in NO_SPECS:
        return f"this is {NO_SPECS[path.suffix]}"
    if not os.path.isdir(path) or str(path) in bundled_names():
        return ""
    if _is_file(path / "environment.json"):
        return f"this is the folder of a run; its spec is '{path / 'spec.yaml'}'"
    specs = sorted(str(file) for file in path.glob("*") if file.suffix in ENDINGS)
    if specs:
        return f"this is a folder; name a spec in it, such as '{specs[0]}'"
    return (
        "this is a folder without specs. For images in it, this writes one: encapkeras new mine.yaml "
        f"--dataset image_folder --root {quoted(str(path))}"
    )


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
