"""The spec files behind paths: files, names of bundled specs, and folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from encapkeras.errors import ArgumentError, SpecError, printable

# How a file that is too broken to be read says that it is a spec.
_SAYS_SPEC = re.compile(r"""^[ \t{]*["']?spec["']?[ \t]*:""", re.MULTILINE)
MOST_READ = 2**20  # bytes of such a file


class Searched(NamedTuple):
    """What was found."""

    specs: list[str]  # each once, named as the user would
    skipped: int  # files in folders that are not specs: bases, and those of other programs


def search(paths: Sequence[str]) -> Searched:
    """Find the specs; raise an `ArgumentError` for a folder that cannot be read or has none."""
    specs: dict[str, str] = {}  # by the file, so that one that is named twice is checked once
    skipped: set[Path] = set()
    for path in paths:
        if not is_folder(path):
            specs.setdefault(os.path.abspath(path), path)
            continue
        files = {file: is_spec(file) for file in _files(path)}
        for file in (file for file, wanted in files.items() if wanted):
            specs.setdefault(os.path.abspath(file), str(file))
        skipped.update(file.absolute() for file, wanted in files.items() if not wanted)
        if not any(files.values()):
            raise ArgumentError(
                f"'{printable(path)}' has no spec: no YAML or JSON file in it, or below, has the key 'spec' at its top "
                "level. Files without that key are checked when they are named."
            )
    return Searched(list(specs.values()), len(skipped))


def is_spec(file: Path) -> bool:
    """Return whether a file has the key `spec` at its top level; bases, and the files of other programs, lack it."""
    from encapkeras.spec.parse import load_file
    from encapkeras.spec.report import Report

    try:
        spec = load_file(file, str(file), Report()).entries().get("spec")
    except SpecError:
        return bool(_SAYS_SPEC.search(_text(file)))
    return spec is not None and not isinstance(spec.value, dict)


def is_folder(path: str) -> bool:
    """Return whether a path is a folder; `quickstart` is the bundled spec, and `quickstart/` a folder of that name."""
    from encapkeras.spec.bundled import bundled_names

    return os.path.isdir(path) and path not in bundled_names()


def _files(folder: str) -> Iterator[Path]:
    from encapkeras.spec.parse import ENDINGS

    def refuse(error: OSError) -> None:
        raise ArgumentError(f"the folder '{printable(str(error.filename))}' cannot be read: {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            is_data = name.lower().endswith(tuple(ENDINGS)) and not name.endswith(".schema.json")
            if is_data and not name.startswith(".") and os.path.isfile(os.path.join(place, name)):  # and no pipe
                yield Path(place, name)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(MOST_READ).decode("utf-8", errors="replace")
    except OSError:
        return ""
