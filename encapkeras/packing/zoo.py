"""The packed models that come with encapkeras. Imports nothing, so that a shell that completes their names is quick."""

from __future__ import annotations

from pathlib import Path

SUMS = "SHA256SUMS"  # in each packed folder
ZOO = Path(__file__).resolve().parent.parent / "zoo"


def zoo_models() -> dict[str, Path]:
    """Return the folder of each packed model that comes with encapkeras, by its name."""
    return {sums.parent.name: sums.parent for sums in sorted(ZOO.glob(f"*/{SUMS}"))}
