"""Where the files of a data set are looked for, and how missing ones are downloaded."""

from __future__ import annotations

import http.client
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from encapkeras.errors import DataError


def data_roots(root: str | None) -> list[Path]:
    """The folders that may hold data sets, in the order in which they are looked in.

    Args:
        root: `data.root` of the spec.

    Returns:
        `root`, `$ENCAPKERAS_DATA` and `$XDG_CACHE_HOME/encapkeras` (or `~/.cache/encapkeras`), without those not set.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    given = [root, os.environ.get("ENCAPKERAS_DATA"), os.path.join(cache, "encapkeras")]
    return [Path(folder).expanduser() for folder in given if folder]


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one data set.

    Args:
        dataset: Name of the data set.
        names: File names, all of which are needed; each may also be there with `.gz` added if `gzipped`.
        subfolder: Folder under a root in which torchvision puts them; they may also lie in the root itself.
        homepage: Where a person finds them.
        download: Downloads them into the given root; None if they can only be got by hand.
        system_folders: Folders of system packages that hold the files.
        gzipped: Whether the files may be compressed.
    """

    dataset: str
    names: tuple[str, ...]
    subfolder: str
    homepage: str
    download: Callable[[str], object] | None = None
    system_folders: tuple[str, ...] = ()
    gzipped: bool = False

    def locate(self, root: str | None) -> list[Path]:
        """The paths of the files, in the order of `names`, downloaded if they are nowhere.

        Args:
            root: `data.root` of the spec.

        Raises:
            DataError: They are in none of the folders and cannot be downloaded.
        """
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
        """The files, or nothing if any of them is not in the folder."""
        endings = ("", ".gz") if self.gzipped else ("",)
        found = []
        for name in self.names:
            here = [path for ending in endings if (path := folder / f"{name}{ending}").is_file()]
            if not here:
                return []
            found.append(here[0])
        return found

    def _download_into(self, root: Path, download: Callable[[str], object]) -> list[Path]:
        """Downloads beside the final place and moves whole files, so that an interrupted download leaves none."""
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as unfinished:
            download(unfinished)
            fetched = next(filter(None, map(self._all_in, self._folders([Path(unfinished)]))), None)
            if not fetched:
                raise RuntimeError("the download did not bring all files")
            target = root / self.subfolder
            target.mkdir(parents=True, exist_ok=True)
            return [path.rename(target / path.name) for path in fetched]

    def _not_found(self, folders: Sequence[Path], reason: str) -> str:
        also = " (or with .gz)" if self.gzipped else ""
        incomplete = [str(folder) for folder in folders if any((folder / name).exists() for name in self._spellings())]
        lines = [
            f"The files of data set '{self.dataset}' are not on this machine, and {reason}",
            f"Files looked for{also}: {', '.join(self.names)}",
            "Folders looked in:",
            *(
                f"  {folder}{'  (some of the files are missing)' if str(folder) in incomplete else ''}"
                for folder in folders
            ),
            f"Get the files from {self.homepage} and put all of them into one of these folders, or name the folder "
            "that holds them as data.root in the spec or in the environment variable ENCAPKERAS_DATA.",
        ]
        return "\n".join(lines)

    def _spellings(self) -> list[str]:
        return [f"{name}{ending}" for name in self.names for ending in ("", ".gz")]


def damaged(path: Path, reason: object, *, downloaded: bool = True) -> DataError:
    """The error for a file that is there but cannot be what it should be.

    Args:
        path: The file.
        reason: What is wrong with it.
        downloaded: Whether it would be downloaded if it were not there.
    """
    again = ", or delete it to have it downloaded again" if downloaded else ""
    return DataError(f"{path} is damaged: {reason}. Replace it by a good copy{again}.")
