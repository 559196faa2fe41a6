"""The folder that holds all of one training run.

spec.yaml           the resolved spec: trains the same network again
environment.json    versions, device, threads, seed, command line
metrics.csv         one row per epoch
results.json        the metrics of the finished run
checkpoints/        best.keras (on validation) and last.keras; in resume/, until the run is finished, its resume states
plugins/            copies of the plugins that the network needs, as they were when it was trained
tensorboard/        event files, and the projector's
bad_batches/        batches whose loss or gradients were not finite
analysis/           what the routing layers do: while training (epochs.csv, epochs/) and of `encapkeras analyse`; what
                    `encapkeras analyse --perturb` (perturbed/) and `evaluate --affine` (affine/) found
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encapkeras import __version__
from encapkeras.errors import RunFolderError
from encapkeras.files import read_json, replacing, write_json, writing
from encapkeras.plugins import Plugin, check_loaded
from encapkeras.spec.write import as_yaml

# All that a run writes, but for environment.json: it is the mark that a folder is ours, so that it is never deleted,
# only replaced.
_WRITTEN = """
spec.yaml  metrics.csv  results.json  .*.partial.*  plugins/*.py
checkpoints/best.keras  checkpoints/last.keras  checkpoints/.*.partial.*
checkpoints/resume/epoch_*.pt  checkpoints/resume/.lock  checkpoints/resume/.*.partial.*
bad_batches/epoch_*.npz  bad_batches/.*.partial.*
tensorboard/events.out.tfevents.*  tensorboard/projector_config.pbtxt  tensorboard/.*.partial.*
tensorboard/projector/*  tensorboard/projector/.*.partial.*
analysis/epochs.csv  analysis/.*.partial.*  analysis/*/.*.partial.*
analysis/*/routing.csv  analysis/*/routing_*.png  analysis/perturbed/*_*_*.png
analysis/*/events.out.tfevents.*  analysis/*/*/events.out.tfevents.*
analysis/affine/affine.csv  analysis/affine/affine.png
""".split()


class RunFolder:
    """The paths of a run in the folder `path`, and the rules for making and opening it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.spec = self.path / "spec.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.csv"
        self.results = self.path / "results.json"
        self.best = self.path / "checkpoints" / "best.keras"
        self.last = self.path / "checkpoints" / "last.keras"
        self.resume = self.path / "checkpoints" / "resume"
        self.bad_batches = self.path / "bad_batches"
        self.plugins = self.path / "plugins"
        self.tensorboard = self.path / "tensorboard"
        self.analysis = self.path / "analysis"

    @classmethod
    def default(cls, name: str) -> RunFolder:
        """Return the folder `runs/<name of the spec>/<date and time>`, with a number after it if that exists."""
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        path = Path("runs") / folder_name(name) / now
        number = 2
        while path.exists():
            path = path.with_name(f"{now}_{number}")
            number += 1
        return cls(path)

    def chosen(self, validated: bool) -> Path:
        """Return the checkpoint that counts: the best of a `validated` run, else the last.

        Raises:
            RunFolderError: That checkpoint is missing; the other one is not taken instead.
        """
        checkpoint = self.best if validated else self.last
        if checkpoint.is_file():
            return checkpoint
        other = self.last if validated else self.best
        if not other.is_file():
            raise RunFolderError(
                f"run {self.path} has no checkpoint: it stopped before the end of its first epoch. Train it again with "
                "--overwrite."
            )
        raise RunFolderError(
            f"{checkpoint} is missing: of this run, with{'' if validated else 'out'} a validation part, it is the "
            f"checkpoint that counts, and {other.name} is not used in its place. Put it back, or train the run again "
            "with --overwrite."
        )

    def check_free(self, overwrite: bool = False) -> None:
        """Check, without changing anything, that a run may be written here, or with `overwrite` replace an older one.

        Raises:
            RunFolderError: The folder holds something else, or an older run that may not be replaced, or is read-only.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise RunFolderError(f"{self.path} is a file; a run needs a folder. Choose another with --run-dir.")
            if self.path.exists() and not self._is_empty():
                self._check_replaceable(overwrite)
            check_writable(self.path, f"run folder {self.path}", "Choose another with --run-dir.")
        except OSError as error:
            raise _unusable(self.path, error) from error

    def _is_empty(self) -> bool:
        """Whether nothing is here but what a run leaves that could not start: empty subfolders, unfinished files."""
        return all(
            entry.match(".*.partial.*")
            or (entry in (self.best.parent, self.tensorboard) and entry.is_dir() and not any(entry.iterdir()))
            for entry in self.path.iterdir()
        )

    def _check_replaceable(self, overwrite: bool) -> None:
        if not self._is_ours():
            raise RunFolderError(
                f"{self.path} holds files that do not belong to a run, so nothing is written or deleted there. Choose "
                "an empty or new folder with --run-dir."
            )
        if not overwrite:
            raise RunFolderError(
                f"run folder {self.path} already exists. Choose another with --run-dir, or replace the run in it with "
                "--overwrite."
            )

    def _is_ours(self) -> bool:
        try:
            return "encapkeras" in read_json(self.environment)
        except (OSError, ValueError):
            return False

    def create(
        self,
        spec: dict[str, Any],
        environment: dict[str, Any],
        overwrite: bool,
        needed_bytes: int,
        plugins: Sequence[Plugin] = (),
    ) -> None:
        """Make the folder with `spec.yaml`, `environment.json` and the plugins; remove the files of an older run.

        Only files that a run writes are removed; the user's own files stay. Nothing is made or removed before the disk
        is known to have the space, that of the removed files included.

        Raises:
            RunFolderError: As `check_free`, or the disk has not enough space.
        """
        self.check_free(overwrite)
        try:
            older = {file for pattern in _WRITTEN for file in self.path.glob(pattern)}  # two patterns may match a file
            free = shutil.disk_usage(_nearest_existing(self.path)).free + sum(file.lstat().st_size for file in older)
            if free < needed_bytes:
                raise RunFolderError(
                    f"the disk of run folder {self.path} has {free / 1e6:,.0f} MB free for this run, which needs about "
                    f"{needed_bytes / 1e6:,.0f} MB. Free some space, or choose another folder with --run-dir."
                )
            for folder in (self.best.parent, self.tensorboard):
                folder.mkdir(parents=True, exist_ok=True)
            for file in older:
                file.unlink()
        except OSError as error:
            raise _unusable(self.path, error) from error
        environment = {**environment, "plugins": [], "resumed": []}
        write_json(self.environment, environment)  # first, as it marks the folder as ours
        if plugins:
            write_json(self.environment, {**environment, "plugins": self._copy(plugins)})
        self._write_spec(spec)

    def note_resumption(self, spec: dict[str, Any], environment: dict[str, Any], changes: Sequence[str]) -> None:
        """Note, in `environment.json`, where the run is resumed and what has changed; replace `spec.yaml` if it has."""
        started = self.read_environment()
        resumed = [*started.get("resumed", []), {**environment, "changes": list(changes)}]
        write_json(self.environment, {**started, "resumed": resumed})
        if changes:
            self._write_spec(spec)

    def _write_spec(self, spec: dict[str, Any]) -> None:
        with replacing(self.spec) as file:
            file.write_text(as_yaml(spec), encoding="utf-8")

    def read_environment(self) -> dict[str, Any]:
        """Read `environment.json`: versions, device and so on of the process that started the run."""
        try:
            return read_json(self.environment)
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.environment} cannot be read: {error}") from error

    def was_begun(self) -> bool:
        """Whether a run of ours is here that has come as far as its spec."""
        return self._is_ours() and self.spec.is_file()

    def has_remains(self) -> bool:
        """Whether a run of ours is here that ended before its first epoch did, so that nothing of it can be lost."""
        return self._is_ours() and not any(file.exists() for file in (self.metrics, self.results, self.best, self.last))

    def _copy(self, plugins: Sequence[Plugin]) -> list[dict[str, Any]]:
        """Copy the plugins; return where each was, where its copy is, and what it registered."""
        records = []
        for number, plugin in enumerate(plugins, 1):
            same = [other for other in plugins[: number - 1] if other.path.name == plugin.path.name]
            copy = self.plugins / (f"{number}_{plugin.path.name}" if same else plugin.path.name)
            with writing(copy):
                self.plugins.mkdir(exist_ok=True)
            with replacing(copy) as file:
                file.write_bytes(plugin.source)
            names = {noun: list(names) for noun, names in plugin.registers.items()}
            records.append({"path": str(plugin.path), "copy": f"{self.plugins.name}/{copy.name}", "registers": names})
        return records

    def check_run(self) -> None:
        """Check that the folder is that of a run, finished or not.

        Raises:
            RunFolderError: The folder is missing, or is something else.
        """
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path} is not a folder. Give the run folder that train printed.")
        if not self.was_begun():
            missing = [file.name for file in (self.spec, self.environment) if not file.is_file()]
            detail = (
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
                if missing
                else "environment.json was not written by encapkeras"
            )
            raise RunFolderError(f"{self.path} is not a run folder: {detail}.")

    def check_plugins(self) -> None:
        """Check that the plugins are loaded that the network of this run needs.

        Raises:
            PluginError: One is not. None is loaded from here by itself, since a plugin is code.
        """
        try:
            for record in read_json(self.environment).get("plugins", []):
                original, copy = Path(record["path"]), self.path / str(record["copy"])
                file = str(original if original.is_file() else copy)
                check_loaded(dict(record["registers"]), f"run {self.path}", file)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return  # a run of another kind, without plugins


def folder_name(name: str) -> str:
    """Return the name of a spec as that of a folder: what could lead elsewhere is replaced."""
    return re.sub(r"[^\w.-]|^\.+", "_", name)


def check_writable(path: Path, subject: str, advice: str) -> None:
    """Check that a folder, or the nearest folder above it that exists, may be written."""
    parent = _nearest_existing(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunFolderError(
            f"{subject} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}. {advice}"
        )


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def describe_environment(device: str, seed: int, processes: int = 1) -> dict[str, Any]:
    """Return versions, device, threads, seed, number of processes, and command line, for `environment.json`."""
    import keras
    import numpy
    import torch
    import torchvision

    return {
        "encapkeras": __version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "system": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "processes": processes,
        "command": sys.argv,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def on_device(environment: Mapping[str, Any]) -> str:
    """Return device and threads of an `environment.json` for reading, such as `cpu, 1 thread`."""
    threads = environment["threads"]
    return f"{environment['device']}, {threads} thread{'' if threads == 1 else 's'}"


def trained_on(folder: RunFolder) -> str:
    """Return where a run was trained, as its folder has it; empty if that is not known."""
    try:
        return on_device(folder.read_environment())
    except (RunFolderError, LookupError, TypeError):
        return ""


def _unusable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"run folder {path} cannot be used: {error.strerror or error}. Choose another with --run-dir."
    )
