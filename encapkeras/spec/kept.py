"""Arguments that a map keeps from what the spec extends, where the spec has replaced what they are arguments of."""

from __future__ import annotations

import re
from typing import NamedTuple

from encapkeras.spec.tree import Tree

_CHOOSERS = ("layer", "loss", "dataset", "kind")  # keys that decide which others a map may have


class Kept(NamedTuple):
    """The error about such an argument, at what has replaced its owner."""

    at: Tree
    text: str


def without_hint(text: str) -> str:
    """The message about an unknown key, without the names of others."""
    return re.split(" (?:Allowed:|Did you mean) ", text)[0]


def kept_from_base(around: Tree, key: str, text: str) -> Kept | None:
    """The error about an unknown key of a map, if the map keeps it from a base; None if it is written with the rest."""
    entries = around.entries()
    name = next((name for name in _CHOOSERS if name in entries), "")
    if not name or key not in entries:
        return None
    chooser, entry = entries[name], entries[key]
    if entry.file == "--set" or entry.path.startswith("sweep."):  # these come last
        return None
    remedy = ""
    if chooser.file == "--set":
        remedy = f"to remove it: --set {entry.path}=null"
    elif chooser.path.startswith("sweep."):
        remedy = f"to remove it, give '{entry.path}: null' beside it"
    elif entry.file != around.file and (chooser.file == around.file or chooser.file != entry.file):
        remedy = f"to remove it, write '{key}: null' beside '{name}'"
    return Kept(chooser, f"{without_hint(text)} It comes from {entry.place}; {remedy}.") if remedy else None
