"""The files of a packed folder, and their hashes.

README.md           the model card, in the format of the Hugging Face hub
model.keras         the network with its weights
model.safetensors   the weights alone, each by Keras' path of it; may be left out
spec.yaml           the resolved spec: trains the same network again
class_names.json    the names of the classes, in the order of the labels
results.json        the results of the runs, and of the test of the packed network
LICENSE             the text of the licence
SHA256SUMS          the hashes of all these, for `sha256sum --check`
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from encapkeras.errors import PackedModelError, printable
from encapkeras.files import open_regular, reading, writing
from encapkeras.packing.zoo import SUMS
from encapkeras.text import listed
from encapkeras.training.run.identity import file_digest

CARD = "README.md"
MODEL = "model.keras"
WEIGHTS = "model.safetensors"
SPEC = "spec.yaml"
CLASS_NAMES = "class_names.json"
RESULTS = "results.json"
LICENSE = "LICENSE"
FILES = (CARD, MODEL, SPEC, CLASS_NAMES, RESULTS, LICENSE)  # of every packed folder

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][\w.-]*)\n", re.ASCII)
_LONGEST = 10_000  # bytes of all lines


def check_whole(folder: Path, shown: str = "") -> None:
    """Check that all files of a packed folder are there, and as they were packed.

    Args:
        folder: The folder.
        shown: What messages call it; by default by its path.

    Raises:
        PackedModelError: It is not a packed folder, or files are missing or changed: all of them by name.
    """
    shown = printable(shown or str(folder))
    missing, changed = [], []
    for name, digest in digests(folder, shown).items():
        with reading(Path(shown, name), "a file", PackedModelError):
            found = file_digest(folder / name)
        if found is None:
            missing.append(name)
        elif found != digest:
            changed.append(name)
    problems = [f"{listed(missing)} {_are(missing)} missing"] if missing else []
    problems += [f"{listed(changed)} {_are(changed)} not as {SUMS} says"] if changed else []
    if problems:
        raise PackedModelError(
            f"packed folder {shown} has been changed since it was packed: {'; '.join(problems)}. Get the folder again "
            "from where you have it."
        )


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def digests(folder: Path, shown: str = "") -> dict[str, str]:
    """Read the SHA-256 of each file of a packed folder, by its name; messages call the folder `shown`."""
    shown = printable(shown or str(folder))
    sums = folder / SUMS
    if not folder.is_dir():
        raise PackedModelError(f"{shown} is not a folder. Give the folder that pack wrote.")
    if not sums.is_file():
        raise PackedModelError(
            f"{shown} is not a packed folder: it has no {SUMS}. 'encapkeras pack RUN -o DIR' makes one of a run."
        )
    with reading(Path(shown, SUMS), "a list of hashes", PackedModelError), open_regular(sums) as file:
        text = file.read(_LONGEST).decode("ascii")
        lines: list[tuple[str, str]] = _LINE.findall(text)
        found = {name: digest for digest, name in lines}
        if text != _sums(found):
            raise ValueError("it is not as pack wrote it")
        lacking = [name for name in FILES if name not in found]
        if lacking:
            raise ValueError(f"it does not list {listed(lacking)}")
    return found


def _sums(found: Mapping[str, str]) -> str:
    return "".join(f"{found[name]}  {name}\n" for name in sorted(found))


def check_free(folder: Path, overwrite: bool) -> None:
    """Check, without changing anything, that a packed folder may be written here."""
    shown = printable(str(folder))
    if os.path.lexists(folder) and (not folder.is_dir() or folder.is_symlink()):
        raise PackedModelError(f"'{shown}' is not a folder. Name a new or empty folder with -o.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / SUMS).is_file():
        raise PackedModelError(f"'{shown}' holds files of another kind. Name a new or empty folder with -o.")
    if not overwrite:
        raise PackedModelError(
            f"'{shown}' already holds a packed model. Name another folder with -o, or replace it with --overwrite."
        )


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Make a packed folder of what `write` puts into the folder that it is given, and add the hashes.

    A new folder appears whole or not at all. Of an older packed folder the files are replaced, the hashes last, so that
    one that is cut short is refused; other files in it stay.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name[:40]}.", suffix=".partial", dir=folder.parent) as made:
            new = Path(made) / "packed"
            new.mkdir()
            write(new)
            found = {file.name: str(file_digest(file)) for file in new.iterdir()}
            (new / SUMS).write_text(_sums(found), encoding="ascii", newline="\n")
            if not folder.exists():
                os.replace(new, folder)
                return
            (folder / SUMS).unlink(missing_ok=True)
            for name in (*found, SUMS):
                os.replace(new / name, folder / name)
            for name in {*FILES, WEIGHTS} - set(found):
                (folder / name).unlink(missing_ok=True)
