"""A spec file in our layout, or in the other language: YAML to JSON, JSON to YAML.

Values, types and order stay; comments are lost, as neither JSON nor the tree of a spec has a place for them. Only the
comment that names the schema for editors is kept: it is the key `$schema` in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encapkeras.errors import ArgumentError, suggest
from encapkeras.spec.bundled import bundled_specs
from encapkeras.spec.keras_names import APPLICATIONS, IMAGENET
from encapkeras.spec.parse import comments, is_json, load_text, read_text
from encapkeras.spec.report import Report
from encapkeras.spec.spec_files import SpecFile, installed_schema, move_path
from encapkeras.spec.write import as_json, as_yaml

# The line by which yaml-language-server finds the schema of a file.
MODELINE = re.compile(r"^#\s*yaml-language-server\s*:\s*\$schema\s*=\s*(\S+).*$", re.MULTILINE)
SCHEMA_KEY = "$schema"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # how a URI begins


@dataclass(frozen=True)
class Formatted:
    """The new text of a spec file, and how many comments of the file are not in it."""

    text: str
    lost_comments: int


def formatted(file: SpecFile, *, to_json: bool, folder: Path | None = None) -> Formatted:
    """Return a spec file as JSON or YAML, read again and compared; relative paths are changed to lead from `folder`."""
    text, from_json = read_text(file.path, file.shown), is_json(file.path)
    data = _plain(text, file.shown, from_json)
    modeline = None if from_json else MODELINE.search(text)
    schema = modeline[1] if modeline else ""
    if isinstance(data.get(SCHEMA_KEY), str) and re.fullmatch(r"\S+", data[SCHEMA_KEY]):
        schema = data.pop(SCHEMA_KEY)
    old, new = file.path.resolve().parent, folder.resolve() if folder else None
    if new and new != old:
        data = _moved(data, old, new)
    if new != old:
        schema = _moved_schema(schema, old, new)
    head = "" if to_json or not schema else f"# yaml-language-server: $schema={schema}\n"
    written = as_json({SCHEMA_KEY: schema, **data} if schema else data) if to_json else head + as_yaml(data)
    again = _plain(written, "the new text", to_json)
    if schema:
        again.pop(SCHEMA_KEY, None)
    if repr(again) != repr(data):  # as text, for 1 == 1.0 == True
        raise ArgumentError(f"'{file.shown}' has a value that would change when it is written and read again")
    return Formatted(written, len(comments(text, is_json=from_json)) - bool(modeline))


def _plain(text: str, shown: str, is_json: bool) -> dict[str, Any]:
    report = Report()
    tree = load_text(text, shown, report, is_json=is_json)
    report.raise_if_any()
    plain: dict[str, Any] = tree.plain()
    return plain


def _moved_schema(schema: str, old: Path, new: Path | None) -> str:
    """Return the place of a schema as written for another folder, or for no known one; that of ours works anywhere."""
    if not schema or _SCHEME.match(schema):
        return schema
    if (old / schema).resolve().as_uri() == installed_schema():
        return installed_schema()
    return move_path(schema, old, new) if new else schema


def _moved(data: dict[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """Return a spec that is written for one folder as written for another."""
    _check_bases(data.get("extends"), old, new)
    section = data.get("data")
    if isinstance(section, dict):
        from encapkeras.data.registry import DATASETS, path_arguments  # here: it brings NumPy

        names = path_arguments(section.get("dataset"))
        _check_data_set(section.get("dataset"), DATASETS, new)
        paths = {key: _moved_path(f"data.{key}", section[key], old, new) for key in names if key in section}
        data = {**data, "data": {**section, **paths}}
    for key in data.keys() & {"blocks", "model"}:
        data = {**data, key: _with_moved_weights(key, data[key], old, new)}
    return data


def _with_moved_weights(path: str, part: Any, old: Path, new: Path) -> Any:
    """Return a part of a spec with the files of weights of networks of `keras.applications` as from the new folder."""
    if not isinstance(part, dict):
        return part
    moved = {key: _with_moved_weights(f"{path}.{key}", value, old, new) for key, value in part.items()}
    names_network = str(part.get("layer")).startswith(APPLICATIONS) or APPLICATIONS in path  # a node, or its defaults
    if names_network and part.get("weights") not in (None, IMAGENET):
        moved["weights"] = _moved_path(f"{path}.weights", part["weights"], old, new)
    return moved


def _check_data_set(name: Any, known: Collection[str], new: Path) -> None:
    """Refuse a data set whose arguments are unknown: which of them are paths?"""
    if isinstance(name, str) and "$" not in name and name not in known:
        raise ArgumentError(
            f"no data set is called '{name}'. {suggest(name, known)} Its paths cannot be written for '{new}'. If it is "
            "a plugin's, add --plugin"
        )


def _check_bases(extends: Any, old: Path, new: Path) -> None:
    """Refuse a base that is not found from the new folder, or is another file there."""
    for name in extends if isinstance(extends, list) else [extends]:
        if isinstance(name, str) and _base(name, old) != _base(name, new):
            raise ArgumentError(
                f"'extends' names '{name}', a file next to the spec in '{old}'; from '{new}' it would not be found, or "
                "another file would. Write to the spec's folder, or copy the base and extend the copy"
            )


def _base(name: str, folder: Path) -> Path | None:
    """Return the file that a spec in a folder extends by a name."""
    files = (place / name for place in (folder, bundled_specs()))
    return next((file.resolve() for file in files if file.is_file()), None)


def _moved_path(key: str, path: Any, old: Path, new: Path) -> Any:
    if isinstance(path, list):
        return [_moved_path(key, element, old, new) for element in path]
    if not isinstance(path, str):
        return path
    if "$" in path:
        raise ArgumentError(
            f"'{key}' is '{path}', which may be relative to the spec's folder, '{old}', depending on its variables. "
            "Write the path out, or write to the spec's folder"
        )
    return move_path(path, old, new)
