"""Where the files of a data set are looked for, how missing ones are downloaded, and how they are read."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encapkeras.data.registry import Array
from encapkeras.errors import DataError


def data_roots(root: str | None) -> list[Path]:
    """Return the folders that may hold data sets, in order: `data.root`, `$ENCAPKERAS_DATA` and the cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    given = [root, os.environ.get("ENCAPKERAS_DATA"), os.path.join(cache, "encapkeras")]
    return [Path(os.path.expanduser(folder)) for folder in given if folder]


def torchvision_download(name: str, *splits: str) -> Callable[[str], None]:
    """Return a function that downloads a data set of torchvision into a folder."""

    def download(root: str) -> None:
        from torchvision import datasets

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
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = f"downloading them failed: {type(error).__name__}: {' '.join(str(error).split())}"
            raise DataError(self._not_found(folders, reason)) from error

    def _folders(self, roots: Sequence[Path]) -> list[Path]:
        return [folder for root in roots for folder in dict.fromkeys((root / self.subfolder, root))]

    def _all_in(self, folder: Path) -> list[Path]:
        endings = ("", ".gz") if self.gzipped else ("",)
        spellings = [[folder / f"{name}{ending}" for ending in endings] for name in self.names]
        found = [next(filter(Path.is_file, paths), None) for paths in spellings]
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
        incomplete = {folder for folder in folders if any((folder / name).exists() for name in spellings)}
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
    def reading(self, path: Path, *errors: type[Exception]) -> Iterator[None]:
        """Turn the errors of reading a damaged file into one that names it and says what to do."""
        damages: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, zlib.error, *errors)
        try:
            yield
        except damages as error:
            again = ", or delete it to have it downloaded again" if self.download else ""
            raise DataError(f"{path} is damaged: {error}. Replace it with an intact copy{again}.") from error


def unpacked(path: Path) -> bytes:
    """Return the content of a file; gzipped if its name ends in `.gz`."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read()


def array_behind_header(data: bytes, header: int, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Return the array that fills the rest of a file; raise `ValueError` if it does not."""
    expected = header + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise ValueError(f"it has {len(data)} bytes, but its header (shape {tuple(shape)}) requires {expected}")
    return np.frombuffer(data, dtype=dtype, offset=header).reshape(shape)
