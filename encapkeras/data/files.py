"""Where the files of a data set are looked for, how missing ones are downloaded, and how they are read."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from encapkeras.data.registry import Array
from encapkeras.errors import DataError
from encapkeras.files import open_regular, reading

# What systems and programs leave in folders, in lower case.
LEFT_BEHIND = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "$recycle.bin", "__macosx")
AT_ONCE = 2**20  # bytes


def data_roots(root: str | None) -> list[Path]:
    """Return the folders that may hold data sets, in order: `data.root`, `$ENCAPKERAS_DATA` and the cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    given = [root, os.environ.get("ENCAPKERAS_DATA"), os.path.join(cache, "encapkeras")]
    return [user_path(folder) for folder in given if folder]


def user_path(path: str) -> Path:
    """Return a path with `~` and `~user` replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: there is no such home folder; give the path in full") from error


def not_found(path: Path, what: str, key: str) -> DataError:
    """Return an error about a file or folder that is not there, with the folder where relative paths start."""
    try:
        here = os.getcwd()
    except OSError:
        here = "a folder that was deleted"
    if os.path.isfile(path) and what == "folder":
        return DataError(f"{path}: this is a file, not a folder ({key})")
    return DataError(f"{path}: there is no such {what} ({key}, seen from {here})")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or was left behind by a system and does not belong to the data."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def files_below(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the files in a folder and in those inside of it, by name, without hidden ones.

    Links are followed, but each folder is read once: links to a folder around it, or several to one, add nothing.
    """

    def refuse(error: OSError) -> None:
        raise error

    with reading(folder, "a folder", DataError):
        real = Path(os.path.realpath(folder))
        seen = {_identity(outer) for outer in (real, *real.parents)}
        for inner, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
            shown, folders[:] = sorted(name for name in folders if not is_hidden(name)), []
            for name in shown:
                identity = _identity(os.path.join(inner, name))
                if identity not in seen:
                    seen.add(identity)
                    folders.append(name)
            yield from (os.path.join(inner, name) for name in sorted(names) if not is_hidden(name))


def _identity(path: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def torchvision_download(name: str, *splits: str) -> Callable[[str], None]:
    """Return a function that downloads a data set of torchvision into a folder."""

    def download(root: str) -> None:
        from torchvision import datasets

        # Of the console script's stderr, the stream that does not escape the `\r` of a progress bar.
        with contextlib.redirect_stderr(getattr(sys.stderr, "rich_proxied_file", sys.stderr)):
            for options in [{"split": split} for split in splits] or [{}]:
                getattr(datasets, name)(root, download=True, **options)

    return download


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one data set."""

    dataset: str
    names: tuple[str, ...]  # all of which are needed
    subfolder: str  # of a root, where torchvision puts them; they may also be in the root itself
    homepage: str  # where a person finds them
    download: Callable[[str], object] | None = None  # into the given root; None if they can only be got by hand
    system_folders: tuple[str, ...] = ()  # of packages of the system
    gzipped: bool = False  # whether each may also be there with `.gz` added

    def locate(self, root: str | None) -> list[Path]:
        """Return the paths of the files, in the order of `names`; download them if they are not found."""
        roots = data_roots(root)
        folders = [*self._folders(roots), *map(Path, self.system_folders)]
        for folder in folders:
            found = self._all_in(folder)
            if found:
                return found
        if self.download is None:
            raise DataError(self._not_found(folders, "there is no download for them"))
        try:
            return self._download_into(roots[0], self.download)
        except Exception as error:  # whatever the network, the disk or damaged archives end in
            reason = f"downloading them failed: {type(error).__name__}: {' '.join(str(error).split())}"
            raise DataError(self._not_found(folders, reason)) from error

    def _folders(self, roots: Sequence[Path]) -> list[Path]:
        return [folder for root in roots for folder in dict.fromkeys((root / self.subfolder, root))]

    def _all_in(self, folder: Path) -> list[Path]:
        endings = ("", ".gz") if self.gzipped else ("",)
        spellings = [[folder / f"{name}{ending}" for ending in endings] for name in self.names]
        found = [next(filter(os.path.isfile, paths), None) for paths in spellings]
        return [path for path in found if path] if all(found) else []

    def _download_into(self, root: Path, download: Callable[[str], object]) -> list[Path]:
        """Download beside the final place and move whole files, so that an interrupted download leaves none."""
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as unfinished:
            download(unfinished)
            fetched = next(filter(None, map(self._all_in, self._folders([Path(unfinished)]))), None)
            if not fetched:
                raise RuntimeError("the download did not include all files")
            target = root / self.subfolder
            target.mkdir(parents=True, exist_ok=True)
            return [path.rename(target / path.name) for path in fetched]

    def _not_found(self, folders: Sequence[Path], reason: str) -> str:
        spellings = [f"{name}{ending}" for name in self.names for ending in ("", ".gz")]
        incomplete = {folder for folder in folders if any(os.path.exists(folder / name) for name in spellings)}
        return "\n".join(
            [
                f"The files of data set '{self.dataset}' are not on this machine, and {reason}",
                f"Files looked for{' (or with .gz)' if self.gzipped else ''}: {', '.join(self.names)}",
                "Folders looked in:",
                *(f"  {f}{'  (some of the files are missing)' if f in incomplete else ''}" for f in folders),
                f"Get the files from {self.homepage} and put all of them into one of these folders, or name the folder "
                "that holds them as data.root in the spec or in the environment variable ENCAPKERAS_DATA.",
            ]
        )

    @contextlib.contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Turn the errors of reading a damaged file into one that names it and says what to do."""
        again = ", or delete it to have it downloaded again" if self.download else ""
        with reading_arrays(path, f"a file of data set '{self.dataset}'", f"Replace it with an intact copy{again}."):
            yield


@contextlib.contextmanager
def reading_arrays(path: str | os.PathLike[str], kind: str, advice: str = "") -> Iterator[None]:
    """Turn whatever the reading of damaged arrays raises into one error, absurd sizes in headers included."""
    with reading(path, kind, DataError, advice):
        try:
            yield
        except MemoryError as error:
            raise ValueError("there is not enough memory for what it declares to hold") from error


def array_in(path: Path, header: Callable[[bytes], tuple[int, Sequence[int], npt.DTypeLike]]) -> Array:
    """Return the array that fills a file, gzipped if its name ends in `.gz`; raise `ValueError` if it does not fill it.

    Args:
        path: The file.
        header: Returns from its first bytes how many of them are the header, and shape and type of what follows.
    """
    with open_regular(path) as file, _unpacked(path, file) as content:
        start = content.read(64)
        length, shape, dtype = header(start)
        expected = length + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        data = bytearray(start)
        while len(data) <= expected and (more := content.read(AT_ONCE)):  # never more than there is, nor all of a bomb
            data += more
    if len(data) != expected:
        raise ValueError(f"it has {len(data)} bytes, but its header (shape {tuple(shape)}) requires {expected}")
    return np.frombuffer(data, dtype=dtype, offset=length).reshape(shape)


def _unpacked(path: Path, file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
