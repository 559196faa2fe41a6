"""Files: read with clear errors; written completely or not at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from encapkeras.errors import EncapkerasError, RunFolderError
from encapkeras.text import cut

if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


LONGEST_REASON = 1000  # of a library's text, which may quote the whole file
_SECONDS_OF_A_LOOK = 0.2  # more than another process needs to see whether a lock is free


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
        reason = cut(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__, LONGEST_REASON)
        raise error(f"{os.fspath(path)} cannot be read as {kind}: {reason}. {advice}".rstrip()) from cause


_own_folder: ContextVar[tuple[Path, tuple[int, int]] | None] = ContextVar("own_folder", default=None)


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Refuse, in the block, to write below this folder once it, or a folder in it, has been replaced by another."""
    status = os.stat(folder)
    token = _own_folder.set((folder, (status.st_dev, status.st_ino)))
    try:
        yield
    finally:
        _own_folder.reset(token)


def _check_own(path: Path) -> None:
    own = _own_folder.get()
    if own is None or own[0] not in path.parents:
        return
    folder, identity = own
    status = os.stat(folder)
    replaced = (status.st_dev, status.st_ino) != identity
    if replaced or any(parent.is_symlink() for parent in takewhile(lambda parent: parent != folder, path.parents)):
        raise OSError(errno.ELOOP, "a folder above it has been replaced by a link or another folder", os.fspath(path))


_FLAGS = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "ab": os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


def open_regular(path: str | os.PathLike[str], mode: str = "rb") -> BinaryIO:
    """Open a file to read (rb), change (r+b), append to (ab) or make (xb); links are followed only to read.

    A named pipe, which nobody may write to, a device, or a link that could lead writing elsewhere is an `OSError`.
    """
    system = ["O_CLOEXEC", "O_NONBLOCK", "O_BINARY"] + ["O_NOFOLLOW"] * (mode != "rb")  # each system has some
    if mode != "rb":
        _check_own(Path(path))
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "it is a symbolic link, and links are not written through", os.fspath(path))
    descriptor = os.open(path, _FLAGS[mode] | sum(getattr(os, name, 0) for name in system), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return cast(BinaryIO, os.fdopen(descriptor, mode.replace("x", "w")))


def make_folder(path: Path) -> None:
    """Make a folder inside one of ours; a symbolic link in its place, which leads elsewhere, is an `OSError`."""
    _check_own(path)
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link, and links are not written through", os.fspath(path))
    path.mkdir(parents=True, exist_ok=True)


def open_own(path: Path, mode: str) -> BinaryIO:
    """Open a file to change (r+b) or append to (ab); if it has hard links, as in a backup, those keep what is in it."""
    if os.path.lexists(path) and path.lstat().st_nlink > 1:
        with replacing(path) as copy:
            shutil.copyfile(path, copy, follow_symlinks=False)
    return open_regular(path, mode)


def make_new_folder(choose: Callable[[], Path]) -> list[Path]:
    """Make the folder that `choose` gives, and those above it; return what this process made, that folder last.

    If other processes make or remove one of these folders at the same time, `choose` is asked again.
    """
    made: list[Path] = []
    tries = 0
    while True:
        path, tries = choose(), tries + 1
        try:
            for folder in (*reversed(path.parents), path):
                if folder == path or not folder.is_dir():
                    folder.mkdir()
                    made.append(folder)
            return list(dict.fromkeys(made))
        except (FileExistsError, FileNotFoundError):
            if tries == 100:
                raise


class FileLock:
    """Keeps other processes out until `close`, or until this one ends; several holders in one process share it."""

    _held: ClassVar[dict[str, tuple[BinaryIO, int]]] = {}  # the open file, and how many hold it

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key: str | None = None

    def acquire(self) -> bool:
        """Take the lock, making its file and folder; return False if another process holds it, and not only looks."""
        if self._key is None:
            key = os.path.join(os.path.realpath(self.path.parent), self.path.name)
            file, holders = self._held.get(key) or (self._locked(), 0)
            end = time.monotonic() + _SECONDS_OF_A_LOOK
            while file is None and time.monotonic() < end:
                time.sleep(0.01)
                file = self._locked()
            if file is None:
                return False
            self._held[key], self._key = (file, holders + 1), key
        return True

    def is_held_elsewhere(self) -> bool:
        """Return whether another process holds it; change nothing."""
        if self._key is not None or not self.path.is_file() or self.path.is_symlink():
            return False
        was_free = self.acquire()
        self.close()
        return not was_free

    def close(self) -> None:
        """Let other processes have it, if no other holder is left here."""
        if self._key is None:
            return
        file, holders = self._held.pop(self._key)
        if holders > 1:
            self._held[self._key] = file, holders - 1
        else:  # as the only open one: closing another would end a POSIX lock too
            file.close()
        self._key = None

    def remove(self) -> None:
        """Remove the file of a lock that is held here, which Windows refuses before it is closed."""
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError:
            self.close()
            with contextlib.suppress(PermissionError):  # another process holds it now
                self.path.unlink(missing_ok=True)

    def _locked(self) -> BinaryIO | None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open_regular(self.path, "ab")
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        except OSError:  # a file system without locks
            pass
        return file


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


LONGEST_CONFIGURATION = 2**23  # bytes of a saved model's config.json; that of the largest bundled network has 14,514


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Read a file of an archive; one that unpacks to more than `most` bytes is a `ValueError`."""
    with archive.open(name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"its {name} has more than {most:,} bytes")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    with replacing(path) as file:
        file.write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write to, which replaces `path` when it is complete and on the disk, even if the power fails."""
    # No other can know the name, and put a link there; names of files are limited in length.
    partial = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(8)}.partial{path.suffix}")
    with writing(path):
        try:
            open_regular(partial, "xb").close()
            yield partial
            with open_regular(partial, "r+b") as file:
                os.fsync(file.fileno())
            _check_own(path)
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
