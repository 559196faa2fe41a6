"""Files that only grow: their lengths are part of a training's state, and what came after it is cut off."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from encapkeras.errors import TrainingError
from encapkeras.files import writing

EVENT_FILES = "events.out.tfevents.*"


def lengths_of(path: Path) -> dict[str, int]:
    """The length in bytes of a file, or of each event file in a folder, all of it on the disk.

    Args:
        path: A file, which need not be there, or a folder of TensorBoard's event files.

    Returns:
        Lengths by name, relative to `path`.
    """
    lengths = {}
    with writing(path):
        for file in _files(path):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
                lengths[file.relative_to(path).as_posix()] = opened.seek(0, os.SEEK_END)
    return lengths


def cut_back(path: Path, lengths: dict[str, int]) -> None:
    """Cuts off what was written after `lengths_of`; event files that are newer go altogether.

    Args:
        path: As for `lengths_of`.
        lengths: What that gave.

    Raises:
        TrainingError: A file has lost something since. Event files may be missing: they are not needed to go on.
        RunFolderError: A file cannot be changed.
    """
    with writing(path):
        for file in _files(path):
            if file.relative_to(path).as_posix() not in lengths:
                file.unlink()
        for name, length in lengths.items():
            file = path / name
            if not file.exists() and name != ".":
                continue
            now = file.stat().st_size if file.exists() else 0
            if now < length:
                raise TrainingError(
                    f"{file} has {now:,} bytes; when the training was saved it had {length:,}. Put the whole file "
                    "back, or train anew."
                )
            os.truncate(file, length)


def _files(path: Path) -> Iterator[Path]:
    """The file itself, or the event files in a folder, not those in further ones: these may be of other runs."""
    found: Iterable[Path] = path.glob(EVENT_FILES) if path.is_dir() else [path]
    yield from (file for file in found if file.is_file())
