"""Files: read with clear errors; written completely or not at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from encapkeras.errors import EncapkerasError, RunFolderError


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], kind: str, error: type[EncapkerasError], advice: str = "") -> Iterator[None]:
    """Turn whatever the reading of a damaged file raises into one error that names it, with the cause kept.

    Errors of ours pass, and so does running out of memory, which says nothing about the file.
    """
    try:
        yield
    except (EncapkerasError, MemoryError):
        raise
    except Exception as cause:  # the libraries that read files name no end to what damaged bytes can raise
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise error(f"{os.fspath(path)} cannot be read as {kind}: {reason}. {advice}".rstrip()) from cause


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; a named pipe, which nobody may write to, or a device is an `OSError`."""
    flags = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))  # each system has some
    descriptor = os.open(path, os.O_RDONLY | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a map from a JSON file; anything else in it is a `ValueError`."""
    with open_regular(path) as file:
        try:
            content = json.loads(file.read())
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} instead of a map")
    return content


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
