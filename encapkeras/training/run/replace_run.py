"""Replacing a run by another in the same folder: what a run writes, by name, and the exchange of old and new files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

# What `replacing` writes to; earlier versions left out the digits.
_UNFINISHED = re.compile(
    r"(?P<folder>([^/]+/)*)\.(?P<stem>[^/]+?)(?P<digits>\.[0-9a-f]{16})?\.partial(?P<suffix>\.[^/]*)?"
)
_EVENTS = r"events\.out\.tfevents\.[^/]+"
_SPLITS, _CHECKPOINTS = "(train|validation|test)", r"(best|last|epoch \d+)"
_ASIDE = r"\.replaced\.[0-9a-f]{16}\.partial"
# The folders and files of a run, but for environment.json, which is the mark that a folder is ours, the lock, and
# copies of plugins, which environment.json lists.
_FOLDERS = re.compile(
    rf"checkpoints(/resume)?|bad_batches|plugins|tensorboard(/projector)?|{_ASIDE}(/.+)?"
    rf"|analysis(/(epochs|affine|perturbed|{_SPLITS}(/{_CHECKPOINTS})?))?"
)
_FILES = re.compile(
    rf"spec\.yaml|metrics\.csv|results\.json|{_ASIDE}/.+"
    r"|checkpoints/((best|last)\.keras|resume/epoch_\d+_step_\d+\.pt)|bad_batches/epoch_\d+_step_\d+\.npz"
    rf"|tensorboard/({_EVENTS}|projector_config\.pbtxt|projector/(vectors\.tsv|labels\.tsv|thumbnails\.png))"
    rf"|analysis/(epochs\.csv|epochs/{_EVENTS}|affine/affine\.(csv|png)|perturbed/[^/]+_\d+_[^/]+\.png)"
    rf"|analysis/{_SPLITS}/(routing\.csv|routing_[^/]+_(iterations|votes)\.png|({_CHECKPOINTS}/)?{_EVENTS})"
)


def is_unfinished(name: str, plugins: Collection[str] = ()) -> bool:
    """Whether a process that was killed has left this file, named from the run's folder, or a folder of `replace_run`.

    Without the digits it is ours only if the name would be one of ours, for people hide files of their own too.
    """
    found = _UNFINISHED.fullmatch(name)
    if not found or found["digits"]:
        return found is not None
    whole = f"{found['folder']}{found['stem']}{found['suffix'] or ''}"
    return whole in ("environment.json", "comparison.json") or whole in plugins or _FILES.fullmatch(whole) is not None


def written_by_run(path: Path, plugins: Collection[str] = ()) -> Iterator[Path]:
    """Yield the files that a run has written, and links with the names of its files and folders, which stay closed."""
    folders = [path]
    for folder in folders:
        for entry in folder.iterdir():
            name = entry.relative_to(path).as_posix()
            is_folder = _FOLDERS.fullmatch(name) is not None
            if is_folder and entry.is_dir() and not entry.is_symlink():
                folders.append(entry)
            elif entry.is_symlink() or entry.is_file():
                is_ours = name in plugins or _FILES.fullmatch(name) or is_unfinished(name, plugins)
                if is_ours or (is_folder and entry.is_symlink()):
                    yield entry


def _asides(path: Path) -> list[Path]:
    return [aside for aside in path.glob(".replaced.*") if re.fullmatch(_ASIDE, aside.name) and not aside.is_symlink()]


def remove_asides(path: Path) -> None:
    """Remove what replacements that were complete, or changed nothing, have left."""
    for aside in _asides(path):
        shutil.rmtree(aside, ignore_errors=True)


def older_run_aside(path: Path) -> Path | None:
    """Return where files of the older run are if a process was killed while it put another in its place."""
    for aside in _asides(path):
        files = {file.name for file in (aside / "old").glob("*")} - {"environment.json"}  # which is a copy
        if files and (any((aside / "new").glob("*")) or not (path / "spec.yaml").is_file()):
            return aside / "old"
    return None


def replace_run(path: Path, older: Collection[Path], write: Callable[[Path], None], folders: Collection[Path]) -> None:
    """Put what `write` writes into a folder in place of `older` files; after an error all is as it was.

    environment.json, which marks the folder as ours, is there at any moment.
    """
    aside = path / f".replaced.{secrets.token_hex(8)}.partial"
    new, old, mark = aside / "new", aside / "old", path / "environment.json"
    moves: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        moves.append((source, target))
        os.replace(source, target)

    try:
        for folder in (new, old):
            folder.mkdir(parents=True)
        write(new)
        if mark.is_file():
            shutil.copyfile(mark, old / mark.name)
            moves.append((mark, old / mark.name))
        for file in older:
            move(file, old / file.relative_to(path))
        for file in [file for file in new.rglob("*") if file.is_file()]:
            move(file, path / file.relative_to(new))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except BaseException:
        for source, target in reversed(moves):
            if os.path.lexists(target):  # the last may not have been moved
                os.replace(target, source)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    remove_asides(path)
