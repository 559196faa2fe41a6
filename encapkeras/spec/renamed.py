"""Deprecated names in specs: still read, with a warning that gives the new name."""

from __future__ import annotations

from collections.abc import Mapping

from encapkeras.spec.tree import Report, Tree


def warn_if_renamed(name: str, new_name: str, at: Tree, report: Report) -> None:
    """Warn about a deprecated name of a layer, loss, data set or setting."""
    if new_name != name:
        report.warn(at, f"'{name}' is now called '{new_name}'; the old name is deprecated.")


def with_new_keys(section: Tree, renamed: Mapping[str, str], report: Report) -> Tree:
    """A section with the new names of its deprecated keys; where both are given, their maps are merged.

    The values of the new key take precedence, as a spec that has it may extend one that has the old one.
    """
    entries = dict(section.entries())
    for old, new in renamed.items():
        if old not in entries:
            continue
        entry = entries.pop(old)
        warn_if_renamed(old, new, entry, report)
        newer = entries.get(new, entry.with_value({}) if isinstance(entry.value, dict) else entry)
        both_maps = isinstance(entry.value, dict) and isinstance(newer.value, dict)
        entries[new] = entry.with_value({**entry.value, **newer.value}) if both_maps else newer
    return section.with_value(entries) if isinstance(section.value, dict) else section
