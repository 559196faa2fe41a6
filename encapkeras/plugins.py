"""The user's own layers, losses and data sets: Python files that register them.

Only the user loads a plugin, by `--plugin` or `load_plugin`; a spec, a saved model or a run never does, for it is code.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import encapkeras.backend  # noqa: F401  # chooses Keras' backend before a plugin imports Keras
from encapkeras.data import DATASETS
from encapkeras.errors import ArgumentError, EncapkerasError, PluginError, nearest
from encapkeras.layers import LAYERS
from encapkeras.losses import LOSSES
from encapkeras.text import listed
from encapkeras.validation import shown as shown_value

_REGISTRIES = (LAYERS, LOSSES, DATASETS)

_PREFIX = "encapkeras_plugin_"  # of the names of modules


@dataclass(frozen=True)
class Plugin:
    """A file that was loaded."""

    file: str  # as the user gave it
    path: Path
    source: bytes  # when it was loaded
    module: ModuleType
    registers: Mapping[str, Sequence[str]]  # names, by what they are names of: `layer`, `loss`, `data set`


_LOADED: dict[Path, Plugin] = {}


def load_plugin(file: str | os.PathLike[str]) -> ModuleType:
    """Run a Python file that registers layers, losses or data sets, so that specs can name them.

    While it runs, it can import the files in its folder. A file is run once: loading it again gives the same module. If
    it fails, nothing of what it registered stays.

    Args:
        file: The file, whose name ends in `.py`.

    Returns:
        The module, which holds the classes of the file: `load_plugin("my_layers.py").Mixer`.

    Raises:
        ArgumentError: `file` is not the name of a file.
        PluginError: There is no such file, it fails, it registers nothing, or what it registers is not complete or has
            a name that is taken.

    Examples:
        >>> load_plugin("my_layers.py").Mixer  # doctest: +SKIP
        <class 'encapkeras_plugin_my_layers_0ed92f2c.Mixer'>
        >>> load_plugin("no_layers.py")
        Traceback (most recent call last):
        encapkeras.errors.PluginError: there is no plugin 'no_layers.py'.
    """
    shown = os.fspath(file) if isinstance(file, str | os.PathLike) else None
    if not isinstance(shown, str):
        raise ArgumentError(f"a plugin is the name of a Python file; received {shown_value(file)}")
    path, source = _read(shown)
    known = _LOADED.get(path)
    if known is None:
        known = _LOADED[path] = _run(shown, path, source)
    elif known.source != source:
        raise PluginError(f"{shown} has changed since it was loaded; a new process (or notebook kernel) loads it again")
    return known.module


def used_plugins(spec: Mapping[str, Any]) -> list[Plugin]:
    """Return the loaded plugins that a resolved spec, as plain data, needs."""
    used = {  # lists, for a spec in somebody's file may have anything for a name
        LAYERS.noun: [node["layer"] for node in spec["model"]["nodes"].values()],
        LOSSES.noun: [loss["loss"] for loss in spec.get("losses", {}).values()],
        DATASETS.noun: [spec.get("data", {}).get("dataset")],
    }
    return [
        plugin
        for plugin in _LOADED.values()
        if any(name in used[noun] for noun, names in plugin.registers.items() for name in names)
    ]


def check_loaded(needed: Mapping[str, Sequence[str]], owner: str, file: str) -> None:
    """Refuse what was saved with a plugin, if its names are not registered: a plugin is code, so the user loads it."""
    known = {registry.noun: registry for registry in _REGISTRIES}
    missing = [
        f"{noun} '{name}'" for noun, names in needed.items() for name in names if name not in known.get(noun, ())
    ]
    if missing:
        raise PluginError(
            f"{owner} needs {listed(missing)} of the plugin {os.path.basename(file)}. Load it: add --plugin {file} "
            f"to the command, or call encapkeras.load_plugin({file!r}) in Python first."
        )


def line_in_plugin(error: BaseException) -> str:
    """Return `file:line` of the innermost call in a plugin, or in a file next to one; empty if there is none."""
    return _line(error, {plugin.path: plugin.file for plugin in _LOADED.values()})


def _read(shown: str) -> tuple[Path, bytes]:
    if not shown.endswith(".py") and not os.path.isdir(shown):
        raise PluginError(f"'{shown}' is not a plugin: a plugin is a Python file, whose name ends in .py")
    try:
        path = Path(shown).resolve()
        return path, path.read_bytes()
    except FileNotFoundError:
        raise PluginError(f"there is no plugin '{shown}'. {_near(shown)}".strip()) from None
    except IsADirectoryError:
        raise PluginError(f"'{shown}' is a folder; a plugin is the Python file that registers your layers") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PluginError(f"the plugin '{shown}' cannot be read: {reason}") from None


def _near(shown: str) -> str:
    path = Path(shown)
    if not path.parent.is_dir():
        return f"The folder '{path.parent}' does not exist either."
    near = nearest(path.name, [file.name for file in path.parent.glob("*.py")])
    return f"Did you mean '{path.parent / near}'?" if near else ""


def _run(shown: str, path: Path, source: bytes) -> Plugin:
    """Run the file as a separate module; if anything goes wrong, nothing of it remains."""
    name = _module_name(path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path))  # type: ignore[arg-type]
    before = {registry.noun: set(registry) for registry in _REGISTRIES}
    sys.modules[name] = module
    sys.path.append(str(path.parent))  # last: no file of the user's takes the place of an installed package
    complete = False
    try:
        tree = _parsed(source, shown)
        _check_imports(tree, shown, path)
        exec(compile(tree, str(path), "exec", dont_inherit=True), vars(module))  # noqa: S102  # what a plugin is for
        new = {registry.noun: sorted(set(registry) - before[registry.noun]) for registry in _REGISTRIES}
        registers = {noun: names for noun, names in new.items() if names}
        if not registers:
            raise PluginError(
                f'{shown} registers nothing. Put @encapkeras.register_layer("name") before a layer\'s class, '
                "register_loss of encapkeras.losses before a loss's, or register_dataset of encapkeras.data before a "
                "data set's."
            )
        complete = True
        return Plugin(shown, path, source, module, registers)
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin may do anything, sys.exit included
        raise PluginError(_explained(error, shown, path)) from error
    finally:
        with contextlib.suppress(ValueError):  # the plugin may have changed it
            sys.path.remove(str(path.parent))
        if not complete:
            sys.modules.pop(name, None)
            for registry in _REGISTRIES:
                registry.forget(set(registry) - before[registry.noun])


def _parsed(source: bytes, shown: str) -> ast.Module:
    try:
        return ast.parse(source, shown)
    except ValueError as error:  # null bytes, before Python 3.11.4
        raise PluginError(f"{shown}: invalid Python: {error}") from error


def _module_name(path: Path) -> str:
    """Return a name that is the same for a file in every process, and another for each file, of whatever folder."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return f"{_PREFIX}{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest}"


def plugin_of_module(text: str) -> str:
    """Return the plugin whose module a text names, such as that of an import error; empty if it names none."""
    found = re.search(rf"\b{_PREFIX}(\w+)_[0-9a-f]{{8}}\b", text)
    return f"{found[1]}.py" if found else ""


def _check_imports(tree: ast.Module, shown: str, path: Path) -> None:
    """Refuse an import that is meant for a file next to the plugin, and would give another module of that name."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for top in {name.partition(".")[0] for name in names}:
            beside = path.parent / f"{top}.py"
            loaded = sys.modules.get(top)
            origin = getattr(loaded, "__file__", None)
            if beside.is_file() and loaded and not (origin and Path(origin).resolve() == beside.resolve()):
                raise PluginError(
                    f"{shown}:{node.lineno}: 'import {top}' would not give the file {top}.py next to it, since another "  # type: ignore[attr-defined]
                    f"module '{top}' is already loaded. Give that file another name."
                )


def _explained(error: BaseException, shown: str, path: Path) -> str:
    place = _line(error, {path: shown}) or shown
    if isinstance(error, EncapkerasError):
        return f"{place}: {error}"
    if isinstance(error, SystemExit):
        return f"{place}: the plugin ended the program; it must only define and register"
    if isinstance(error, SyntaxError):
        place = ":".join(str(part) for part in (error.filename or shown, error.lineno, error.offset) if part)
        line = f"\n    {error.text.strip()[:100]}" if error.text else ""
        return f"{place}: invalid Python: {error.msg}{line}"
    return f"{place}: {type(error).__name__}: {error}"


def _line(error: BaseException, files: Mapping[Path, str]) -> str:
    """Return `file:line` of the innermost call in one of the files (with their shown names), or in one next to them."""
    folders = {path.parent: os.path.dirname(shown) for path, shown in files.items()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path in files:
            return f"{files[path]}:{frame.lineno}"
        if path.parent in folders:
            return f"{os.path.join(folders[path.parent], path.name)}:{frame.lineno}"
    return ""
