"""The user's own layers, losses and data sets: Python files that register them.

A person loads a plugin, by `--plugin` or `load_plugin`; a spec, a saved model or a run never does, for it is code.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
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
from encapkeras.errors import ArgumentError, EncapkerasError, PluginError
from encapkeras.layers import LAYERS
from encapkeras.losses import LOSSES
from encapkeras.validation import shown as shown_value

_REGISTRIES = (LAYERS, LOSSES, DATASETS)

_PREFIX = "encapkeras_plugin_"  # of the names of modules


@dataclass(frozen=True)
class Plugin:
    """A file that was loaded.

    Args:
        file: Its name as the user gave it.
        path: Where it lies.
        source: What it held when it was loaded.
        module: The module that it became.
        registers: What it registered: names, by what they are names of (`layer`, `loss`, `data set`).
    """

    file: str
    path: Path
    source: bytes
    module: ModuleType
    registers: Mapping[str, Sequence[str]]


_LOADED: dict[Path, Plugin] = {}


def load_plugin(file: str | os.PathLike[str]) -> ModuleType:
    """Runs a Python file that registers layers, losses or data sets, so that specs can name them.

    While it runs, it can import the files beside it. A file is run once: to load it again gives the same module. If it
    fails, nothing of what it registered stays.

    Args:
        file: The file, whose name ends in `.py`.

    Returns:
        The module, in which the classes of the file are found: `load_plugin("my_layers.py").Mixer`.

    Raises:
        ArgumentError: `file` is no name.
        PluginError: There is no such file, it does not run, it registers nothing, or what it registers is not complete
            or has a name that is taken.

    Example:
        >>> load_plugin("my_layers.py").Mixer  # doctest: +SKIP
        <class 'encapkeras_plugin_my_layers_0ed92f2c.Mixer'>
        >>> load_plugin("no_layers.py")
        Traceback (most recent call last):
        encapkeras.errors.PluginError: there is no plugin 'no_layers.py'.
    """
    if not isinstance(file, str | os.PathLike) or not isinstance(os.fspath(file), str):
        raise ArgumentError(f"a plugin is the name of a Python file; received {shown_value(file)}")
    shown = os.fspath(file)
    path, source = _read(shown)
    known = _LOADED.get(path)
    if known is None:
        known = _LOADED[path] = _run(shown, path, source)
    elif known.source != source:
        raise PluginError(f"{shown} has changed since it was loaded; a new process (or notebook kernel) loads it again")
    return known.module


def loaded_plugins() -> list[Plugin]:
    """The plugins of this process, in the order in which they were loaded."""
    return list(_LOADED.values())


def used_plugins(spec: Mapping[str, Any]) -> list[Plugin]:
    """The loaded plugins that a resolved spec needs.

    Args:
        spec: A resolved spec as plain data.
    """
    used = {
        LAYERS.noun: {node["layer"] for node in spec["model"]["nodes"].values()},
        LOSSES.noun: {loss["loss"] for loss in spec.get("losses", {}).values()},
        DATASETS.noun: {spec.get("data", {}).get("dataset")},
    }
    return [p for p in _LOADED.values() if any(used[noun] & set(names) for noun, names in p.registers.items())]


def check_loaded(needed: Mapping[str, Sequence[str]], owner: str, file: str) -> None:
    """Checks that all is registered that a plugin of an earlier time had registered.

    Args:
        needed: Names, by what they are names of.
        owner: What needs it, for the message.
        file: The plugin to give.

    Raises:
        PluginError: Something is not; it is not loaded by itself, since it is code.
    """
    known = {registry.noun: registry for registry in _REGISTRIES}
    missing = [f"{noun} '{name}'" for noun, names in needed.items() for name in names if name not in known[noun]]
    if missing:
        raise PluginError(
            f"{owner} needs {', '.join(missing)} of the plugin {os.path.basename(file)}. Load it: add --plugin {file} "
            f"to the command, or call encapkeras.load_plugin({file!r}) in Python before."
        )


def line_in_plugin(error: BaseException) -> str:
    """`file:line` of the innermost call in a plugin, or in a file beside one; empty if there is none."""
    return _line(error, {plugin.path: plugin.file for plugin in _LOADED.values()})


def _read(shown: str) -> tuple[Path, bytes]:
    if not shown.endswith(".py") and not os.path.isdir(shown):
        raise PluginError(f"'{shown}' is no plugin: a plugin is a Python file, whose name ends in .py")
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
    near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.py")], n=1)
    return f"Did you mean '{path.parent / near[0]}'?" if near else ""


def _run(shown: str, path: Path, source: bytes) -> Plugin:
    """Runs the file as a module of its own; whatever goes wrong, nothing of it stays."""
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
        registers = {registry.noun: sorted(set(registry) - before[registry.noun]) for registry in _REGISTRIES}
        if not any(registers.values()):
            raise PluginError(
                f'{shown} registers nothing. Put @encapkeras.register_layer("name") before a layer\'s class, '
                "register_loss of encapkeras.losses before a loss's, or register_dataset of encapkeras.data before a "
                "data set's."
            )
        complete = True
        return Plugin(shown, path, source, module, {noun: names for noun, names in registers.items() if names})
    except PluginError:
        raise
    except SyntaxError as error:
        raise PluginError(_syntax(error, shown)) from error
    except KeyboardInterrupt:
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


def _module_name(path: Path) -> str:
    """The same for a file in every process, and another for each file, of whatever folder."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return f"{_PREFIX}{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest}"


def plugin_of_module(text: str) -> str:
    """The plugin whose module a text names; empty if it names none.

    Example:
        >>> plugin_of_module("No module named 'encapkeras_plugin_my_layers_0ed92f2c'")
        'my_layers.py'
    """
    found = re.search(rf"\b{_PREFIX}(\w+)_[0-9a-f]{{8}}\b", text)
    return f"{found[1]}.py" if found else ""


def _check_imports(tree: ast.Module, shown: str, path: Path) -> None:
    """Refuses an import that is meant for a file beside the plugin, and would give another module of that name."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for top in {name.partition(".")[0] for name in names}:
            beside = path.parent / f"{top}.py"
            loaded = sys.modules.get(top)
            if beside.is_file() and loaded and not _is_of(loaded, beside):
                raise PluginError(
                    f"{shown}:{node.lineno}: 'import {top}' would not give the file {top}.py beside it, since another "  # type: ignore[attr-defined]
                    f"module '{top}' is loaded already. Give that file another name."
                )


def _is_of(module: ModuleType, file: Path) -> bool:
    origin: str | None = getattr(module, "__file__", None)
    return origin is not None and Path(origin).resolve() == file.resolve()


def _parsed(source: bytes, shown: str) -> ast.Module:
    try:
        return ast.parse(source, shown)
    except ValueError as error:  # null bytes, before Python 3.11.4
        raise PluginError(f"{shown}: this is no Python: {error}") from error


def _syntax(error: SyntaxError, shown: str) -> str:
    place = ":".join(str(part) for part in (error.filename or shown, error.lineno, error.offset) if part)
    line = f"\n    {error.text.strip()[:100]}" if error.text else ""
    return f"{place}: this is no Python: {error.msg}{line}"


def _explained(error: BaseException, shown: str, path: Path) -> str:
    place = _line(error, {path: shown}) or shown
    if isinstance(error, EncapkerasError):
        return f"{place}: {error}"
    if isinstance(error, SystemExit):
        return f"{place}: the plugin ended the program; it must only define and register"
    return f"{place}: {type(error).__name__}: {error}"


def _line(error: BaseException, files: Mapping[Path, str]) -> str:
    """`file:line` of the innermost call in one of the files, given with their shown names, or in one beside them."""
    folders = {path.parent: os.path.dirname(shown) for path, shown in files.items()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path in files:
            return f"{files[path]}:{frame.lineno}"
        if path.parent in folders:
            return f"{os.path.join(folders[path.parent], path.name)}:{frame.lineno}"
    return ""
