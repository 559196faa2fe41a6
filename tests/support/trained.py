"""A trained run for tests that only look at one, made once for each test module."""

from pathlib import Path
from typing import Any

from support.tiny_spec import write_spec

from encapkeras.cli.main import main


def trained(folder: Path, spec: dict[str, Any], name: str = "run") -> Path:
    """The run folder, `folder/name`, of a training of that spec."""
    run = folder / name
    assert main(["train", str(write_spec(folder, spec)), "--run-dir", str(run)]) == 0
    return run
