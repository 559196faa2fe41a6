"""Names of settings that earlier versions used: each is still read, with a warning that gives the new name."""

from __future__ import annotations

from collections.abc import Callable

from encapkeras.spec.report import Report
from encapkeras.spec.tree import Tree

RENAMED = {("train", "checkpoints"): "resume_state"}  # section and old name: new name


def with_new_names(tree: Tree, report: Report, merge: Callable[[Tree, Tree], Tree]) -> Tree:
    """Return a spec with new names for old ones; values under an old name override those under the new one."""
    for (section, old), new in RENAMED.items():
        entries = tree.entries()
        settings = entries[section].entries() if section in entries else {}
        if old not in settings:
            continue
        report.warn(settings[old], f"'{section}.{old}' is now called '{section}.{new}'. Write '{new}'.")
        value = merge(settings[new], settings[old]) if new in settings else settings[old]
        others = {key: entry for key, entry in settings.items() if key not in (old, new)}
        tree = tree.with_value({**entries, section: entries[section].with_value({**others, new: value})})
    return tree
