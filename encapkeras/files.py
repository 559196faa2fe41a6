"""Files that are complete or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from encapkeras.errors import RunFolderError


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    with replacing(path) as file:
        file.write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write to, which replaces `path` when it is complete and on the disk, even if the power fails."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    with writing(path):
        try:
            yield partial
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
            _names_to_disk(path.parent)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write `path` into a `RunFolderError`."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path} could not be written: {error.strerror or error}. What was written before is unchanged."
        ) from error


def _names_to_disk(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
