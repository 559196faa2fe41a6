"""Step 2: the maps of `extends` and the overrides of `--set` are merged into one tree.

Maps merge deeply, lists are replaced, `null` deletes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from encapkeras.errors import SpecError, nearest, suggest
from encapkeras.spec.bundled import SCHEMA, bundled_specs
from encapkeras.spec.parse import DEEPEST, ENDINGS, OWN_KEYS, load_file, load_override
from encapkeras.spec.renamed import with_new_names
from encapkeras.spec.report import Report
from encapkeras.spec.tree import FAILED, Tree, child_path

MOST_BASES = 100
MOST_DIGITS = 9  # of a place in a list

# Maps whose keys are the user's own: an override may change what they hold, and a new name there is an error.
_NAMES = re.compile(r"vars|losses|model\.(nodes|inputs|outputs)|blocks(\..+\.(nodes|parameters))?")


class Change(NamedTuple):
    """A value for a path, as in `--set`; `null` deletes what is there. Errors are reported at the value's place."""

    path: str
    value: Tree


class Inheritance:
    """Resolve `extends`, relative to the file that names it or among the bundled specs."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._roots = (folder.resolve(), bundled_specs().resolve())
        self._report = report
        self._merged: dict[Path, Tree] = {}

    def resolve(self, tree: Tree, file: Path | None, chain: tuple[Path, ...] = ()) -> Tree:
        """Return the tree merged over all that it extends; `chain` has the files that extend it, the spec first."""
        chain = (*chain, file.resolve()) if file else chain
        result = tree.with_value({})
        for name in self._names(tree):
            base = self._base(name, chain)
            if base:
                self._report.count(name, base.size())
                result = merge(result, base)
            else:
                self._report.whole = False
        own = {key: entry for key, entry in tree.entries().items() if key != "extends"}
        return merge(result, with_new_names(tree.with_value(own), self._report, merge))

    def _names(self, tree: Tree) -> list[Tree]:
        extends = tree.entries().get("extends")
        if extends is None or extends.value in (None, FAILED):
            return []
        names = extends.value if isinstance(extends.value, list) else [extends]
        if len(names) > MOST_BASES:
            self._report.whole = False
            self._report.add(extends, f"names {len(names)} files; at most {MOST_BASES}")
            return []
        different: dict[str, Tree] = {}
        for name in names:
            if isinstance(name.value, str) and name.value:
                different.pop(name.value, None)  # the last of equal ones counts: it goes over all before it
                different[name.value] = name
            else:
                self._report.whole = False
                self._report.add(name, f"must be a file name or a list of file names; received {name.plain()!r}")
        return list(different.values())

    def _base(self, name: Tree, chain: tuple[Path, ...]) -> Tree | None:
        path = self._find(name, chain)
        if path is None:
            return None
        resolved = path.resolve()
        if len(chain) > DEEPEST:
            self._report.add(name, f"the specs extend each other more than {DEEPEST} deep")
            return None
        if resolved in chain:
            files = [*chain[chain.index(resolved) :], resolved]
            self._report.add(name, f"the specs extend each other in a cycle: {' -> '.join(f.name for f in files)}")
            return None
        if resolved not in self._merged:
            before = len(self._report.problems())
            try:
                tree = load_file(path, _shown(path, name), self._report)
            except SpecError as error:
                self._report.take(error.problems)
                return None
            self._report.whole = self._report.whole and len(self._report.problems()) == before
            self._merged[resolved] = self.resolve(tree, path, chain)
        return self._merged[resolved]

    def _find(self, name: Tree, chain: tuple[Path, ...]) -> Path | None:
        own, bundled = self._roots
        if Path(name.value).is_absolute():
            self._report.add(name, f"'{name.value}' is absolute; name a file relative to this one, or a bundled one")
            return None
        beside: Path = (chain[-1].parent if chain else own) / name.value
        for candidate in (beside, bundled / name.value):
            if not os.path.isfile(candidate):  # also false for names that are too long
                continue
            if any(candidate.resolve().is_relative_to(root) for root in (own, bundled)):
                return candidate
            text = "leaves the folder of the spec; name a file in it, below it, or among the bundled specs"
            self._report.add(name, f"'{name.value}' {text}")
            return None
        text = f"file '{name.value}' not found, neither here nor among the bundled specs"
        self._report.add(name, f"{text}. {self._near(Path(name.value), beside.parent, chain)}")
        return None

    def _near(self, missing: Path, folder: Path, chain: tuple[Path, ...]) -> str:
        """Return the sentence that helps, after a search of its folder and the bundled specs, with and without ending.

        The files that extend it cannot be meant.
        """
        own, bundled = self._roots
        below = missing.parent
        places = {folder: below, bundled / below: below, bundled: Path(), bundled / "base": Path("base")}
        found: dict[str, str] = {}
        for place, shown in places.items():
            inside = os.path.isdir(place) and any(place.resolve().is_relative_to(root) for root in (own, bundled))
            for file in place.glob("*") if inside else ():
                if file.suffix in ENDINGS and not file.name.endswith(SCHEMA) and file.resolve() not in chain:
                    found.setdefault(file.stem, (shown / file.name).as_posix())
        near = nearest(missing.stem if missing.suffix in ENDINGS else missing.name, found)
        return f"Did you mean '{found[near]}'?" if near else "'encapkeras specs' lists the bundled ones."


def _shown(path: Path, name: Tree) -> str:
    """Return how messages name a base: next to the spec as the user named that, else by its bundled name."""
    folder = Path(name.file).parent
    try:
        return str(folder / path.resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(path)


def merge(base: Tree, over: Tree) -> Tree:
    """Merge maps deeply and replace all else by what is in `over`; a `null` is kept, to delete what is in a base."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return _deleting(base, over)
    entries = dict(base.value)
    for key, entry in over.value.items():
        entries[key] = merge(entries[key], entry) if key in entries else entry
    return over.with_value(entries)


def _deleting(old: Tree, new: Tree) -> Tree:
    """Return what takes the place of an old value, with a mark at each `null` in it that deletes something."""
    if isinstance(old.value, dict) and isinstance(new.value, dict):
        there = old.value
        return new.with_value({k: _deleting(there[k], e) if k in there else e for k, e in new.value.items()})
    is_there = old.deletes or old.value is not None
    return replace(new, deletes=True) if new.value is None and is_there else new


def cleaned(tree: Tree) -> Tree:
    """Return the tree without the entries that `null` deletes and without the user's own (`x-...`)."""
    if isinstance(tree.value, dict):
        tree = tree.with_value(kept_entries(tree))
    return tree.each(cleaned)


def kept_entries(tree: Tree) -> dict[str, Tree]:
    """Return the entries of a map without those that `cleaned` leaves out, at its top alone."""
    return {k: e for k, e in tree.entries().items() if e.value is not None and not k.startswith(OWN_KEYS)}


def override(tree: Tree, changes: Iterable[str | Change], report: Report) -> Tree:
    """Return the tree with each change made, in order; a text is `path.to.key=value` with the value in YAML."""
    for change in changes:
        parsed = _parsed(change, report) if isinstance(change, str) else change
        if parsed:
            tree = with_new_names(_replaced(tree, parsed.path, parsed.value, report), report, merge)
    return tree


def _parsed(text: str, report: Report) -> Change | None:
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or path.endswith(".") or path.count(".") > DEEPEST:
        problem = f"'{text}' must have the form path.to.key=value, for example train.epochs=10"
        report.add(Tree(None, "--set", 0, 0, path), problem)
        return None
    try:
        return Change(path, load_override(value, path))
    except SpecError as error:
        report.take(error.problems)
        return None


def _replaced(tree: Tree, rest: str, new: Tree, report: Report, done: str = "") -> Tree:
    """Return the tree with one value replaced, or as it was if there is no such path."""
    if isinstance(tree.value, list):
        return _replaced_element(tree, rest, new, report, done)
    if not isinstance(tree.value, dict):
        report.add(new, f"'{done}' is not a map: it is {tree.plain()!r}")
        return tree
    key = longest_key(rest, tree.value)
    known = key in tree.value
    if not known and _NAMES.fullmatch(done):
        report.add_missing(new, f"'{done}' has no '{key}'. {suggest(key, tree.value)}")
        return tree
    path, remaining = child_path(done, key), rest[len(key) + 1 :]
    if not remaining:
        new = _deleting(tree.value[key], new) if known else new
        return tree.with_value({**tree.value, key: new})
    inner = tree.value[key] if known and tree.value[key].value is not None else Tree({}, "--set", 0, 0, path)
    changed = _replaced(inner, remaining, new, report, path)
    return tree if changed is inner else tree.with_value({**tree.value, key: changed})


def _replaced_element(tree: Tree, rest: str, new: Tree, report: Report, done: str) -> Tree:
    step, _, remaining = rest.partition(".")
    if not step.isdecimal() or len(step) > MOST_DIGITS or int(step) >= len(tree.value):
        report.add(new, f"'{done}' is a list of {len(tree.value)}; its elements are 0 to {len(tree.value) - 1}")
        return tree
    elements = list(tree.value)
    index = int(step)
    path = child_path(done, index)
    elements[index] = _replaced(elements[index], remaining, new, report, path) if remaining else new
    return tree.with_value(elements)


def longest_key(rest: str, keys: Iterable[str]) -> str:
    """Return the key that a path begins with; keys may hold dots themselves."""
    fitting = [key for key in keys if rest == key or rest.startswith(f"{key}.")]
    return max(fitting, key=len, default=rest.partition(".")[0])
