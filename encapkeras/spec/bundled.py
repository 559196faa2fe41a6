"""The specs that come with encapkeras. Imports nothing, so that a shell that completes their names need not wait."""

from __future__ import annotations

from pathlib import Path

SCHEMA = "spec.schema.json"  # in their folder


def bundled_specs() -> Path:
    """Return the folder of the specs that come with encapkeras: inside the package, or next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "specs"
    return inside if inside.is_dir() else package.parent / "specs"


def bundled_names() -> dict[str, Path]:
    """Return the file of each spec that comes with encapkeras, by its name, without bases."""
    return {file.stem: file for file in sorted(bundled_specs().glob("*.yaml"))}
