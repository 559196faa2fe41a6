"""The folder that holds all of one training run.

spec.yaml           the resolved spec: trains the same network again
environment.json    versions, device, threads, seed, command line
metrics.csv         one row per epoch
results.json        the figures of the finished run
checkpoints/        best.keras (on validation), last.keras; in resume/, while it lasts, what the training needs to go on
plugins/            copies of the plugins that the network needs, as they were when it was trained
tensorboard/        event files, and the projector's
bad_batches/        batches whose loss or gradients were not finite
analysis/           what the routing layers do: while training (epochs.csv, epochs/) and of `encapkeras analyse`; what
                    `encapkeras analyse --perturb` (perturbed/) and `evaluate --affine` (affine/) found
"""

from __future__ import annotations

import datetime
import json
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
from encapkeras.files import replacing, write_json, writing
from encapkeras.plugins import Plugin, check_loaded
from encapkeras.spec.write import as_yaml

# All that a run leaves, but for environment.json: it is the mark that a folder is ours, so that it is never deleted,
# only replaced.
_WRITTEN = (
    "spec.yaml",
    "metrics.csv",
    "results.json",
    "checkpoints/best.keras",
    "checkpoints/last.keras",
    "checkpoints/resume/epoch_*.pt",
    "checkpoints/resume/.lock",
    "checkpoints/resume/.*.partial.*",
    "bad_batches/epoch_*.npz",
    "bad_batches/.*.partial.*",
    "plugins/*.py",
    "tensorboard/events.out.tfevents.*",
    "tensorboard/projector_config.pbtxt",
    "tensorboard/projector/*",
    "tensorboard/projector/.*.partial.*",
    "tensorboard/.*.partial.*",
    "analysis/epochs.csv",
    "analysis/*/routing.csv",
    "analysis/*/routing_*.png",
    "analysis/*/events.out.tfevents.*",
    "analysis/*/*/events.out.tfevents.*",
    "analysis/affine/affine.csv",
    "analysis/affine/affine.png",
    "analysis/perturbed/*_*_*.png",
    ".*.partial.*",
    "checkpoints/.*.partial.*",
    "analysis/.*.partial.*",
    "analysis/*/.*.partial.*",
)


class RunFolder:
    """The paths of a run, and the rules for making and opening its folder.

    Args:
        path: The folder.
    """

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
        """The folder `runs/<name>/<date and time>`, with a number after it if that exists.

        Args:
            name: The name of a spec.
        """
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        path = Path("runs") / folder_name(name) / now
        number = 2
        while path.exists():
            path = path.with_name(f"{now}_{number}")
            number += 1
        return cls(path)

    def chosen(self, validated: bool) -> Path:
        """The checkpoint that counts: the best on validation, or the last where there is no validation part.

        Args:
            validated: Whether the run has a validation part (`data.validation` is above 0).

        Raises:
            RunFolderError: That checkpoint is not there; no other is taken in its place.
        """
        checkpoint = self.best if validated else self.last
        if checkpoint.is_file():
            return checkpoint
        other = self.last if validated else self.best
        if not other.is_file():
            raise RunFolderError(
                f"run {self.path} has no checkpoint: it ended before its first epoch did. Train it again with "
                "--overwrite."
            )
        raise RunFolderError(
            f"{checkpoint} is missing: of this run, with{'' if validated else 'out'} a validation part, it is the "
            f"checkpoint that counts, and {other.name} is not taken for it. Put it back, or train the run again with "
            "--overwrite."
        )

    def check_free(self, overwrite: bool = False) -> None:
        """Checks, without changing anything, that a run may be written here.

        Args:
            overwrite: Whether an older run here may be replaced.

        Raises:
            RunFolderError: Something else is here, or an older run that may not be replaced, or no right to write.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise RunFolderError(f"{self.path} is a file; a run needs a folder. Choose another with --run-dir.")
            if self.path.exists() and not self._is_empty():
                self._check_replaceable(overwrite)
            parent = self._nearest_existing()
        except OSError as error:
            raise _unusable(self.path, error) from error
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise RunFolderError(
                f"run folder {self.path} cannot be written: {parent} is "
                f"{'read-only' if parent.is_dir() else 'a file'}. Choose another with --run-dir."
            )

    def _is_empty(self) -> bool:
        """Whether nothing is here but what a run leaves that could not begin: empty subfolders, unfinished files."""
        return all(
            entry.match(".*.partial.*")
            or (entry in (self.best.parent, self.tensorboard) and entry.is_dir() and not any(entry.iterdir()))
            for entry in self.path.iterdir()
        )

    def _nearest_existing(self) -> Path:
        return next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())

    def _check_replaceable(self, overwrite: bool) -> None:
        if not self._is_ours():
            raise RunFolderError(
                f"{self.path} holds files that are not of a run, so nothing is written or deleted there. Choose an "
                "empty or new folder with --run-dir."
            )
        if not overwrite:
            raise RunFolderError(
                f"run folder {self.path} exists already. Choose another with --run-dir, or replace the run in it with "
                "--overwrite."
            )

    def _is_ours(self) -> bool:
        try:
            return "encapkeras" in json.loads(self.environment.read_text())
        except (OSError, ValueError, TypeError):
            return False

    def create(
        self,
        spec: dict[str, Any],
        environment: dict[str, Any],
        overwrite: bool,
        needed_bytes: int,
        plugins: Sequence[Plugin] = (),
    ) -> None:
        """Makes the folder with `spec.yaml`, `environment.json` and the plugins; removes the files of an older run.

        Only files that a run writes are removed: others that somebody put into the folder stay. Nothing is made or
        removed before it is known that the disk has the space, that of the removed files included.

        Args:
            spec: The resolved spec.
            environment: What `environment.json` is to hold.
            overwrite: Whether an older run here may be replaced.
            needed_bytes: How much the run will write.
            plugins: Those that the network needs; `environment.json` says where they were and what they registered.

        Raises:
            RunFolderError: As `check_free`, or the disk has not enough space.
        """
        self.check_free(overwrite)
        try:
            older = [file for pattern in _WRITTEN for file in self.path.glob(pattern)]
            free = shutil.disk_usage(self._nearest_existing()).free + sum(file.lstat().st_size for file in older)
            if free < needed_bytes:
                raise RunFolderError(
                    f"the disk of run folder {self.path} has {free / 1e6:,.0f} MB for this run, which needs about "
                    f"{needed_bytes / 1e6:,.0f} MB. Make room, or choose another folder with --run-dir."
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
            write_json(self.environment, {**environment, "plugins": self._copied(plugins)})
        with replacing(self.spec) as file:
            file.write_text(as_yaml(spec), encoding="utf-8")

    def go_on(self, spec: dict[str, Any], environment: dict[str, Any], changes: Sequence[str]) -> None:
        """Notes, in `environment.json`, that the run goes on, where and with what changes.

        Args:
            spec: The resolved spec with which it goes on.
            environment: What `describe_environment` tells about now.
            changes: What is different from the spec that it was begun with.

        Raises:
            RunFolderError: The folder cannot be written.
        """
        began = self.began()
        resumed = [*began.get("resumed", []), {**environment, "changes": list(changes)}]
        write_json(self.environment, {**began, "resumed": resumed})
        if changes:
            with replacing(self.spec) as file:
                file.write_text(as_yaml(spec), encoding="utf-8")

    def began(self) -> dict[str, Any]:
        """What `environment.json` tells about the process that began the run.

        Raises:
            RunFolderError: The file is missing or damaged.
        """
        try:
            content: dict[str, Any] = dict(json.loads(self.environment.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunFolderError(f"{self.environment} cannot be read: {error}") from error
        return content

    def was_begun(self) -> bool:
        """Whether a run of ours is here that has come as far as its spec."""
        return self._is_ours() and self.spec.is_file()

    def has_remains(self) -> bool:
        """Whether a run of ours is here that ended before its first epoch did, so that nothing of it can be lost."""
        return self._is_ours() and not any(file.exists() for file in (self.metrics, self.results, self.best, self.last))

    def _copied(self, plugins: Sequence[Plugin]) -> list[dict[str, Any]]:
        """Copies the plugins; says where each was, where its copy is, and what it registered."""
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
        """Checks that the folder is that of a run, finished or not.

        Raises:
            RunFolderError: The folder is missing or foreign.
        """
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path} is no folder. Give the run folder that train printed.")
        if not self._is_ours() or not self.spec.is_file():
            missing = [file.name for file in (self.spec, self.environment) if not file.is_file()]
            detail = f"{' and '.join(missing)} missing" if missing else "environment.json is not of encapkeras"
            raise RunFolderError(f"{self.path} is not the folder of a run: {detail}.")

    def check_plugins(self) -> None:
        """Checks that the plugins are loaded that the network of this run needs.

        Raises:
            PluginError: One is not. None is loaded from here by itself, since a plugin is code.
        """
        try:
            records = json.loads(self.environment.read_text()).get("plugins", [])
            needed = [(dict(record["registers"]), Path(record["path"]), str(record["copy"])) for record in records]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return  # a run of another kind, which has none to ask for
        for registers, original, copy in needed:
            check_loaded(registers, f"run {self.path}", str(original if original.is_file() else self.path / copy))


def folder_name(name: str) -> str:
    """The name of a spec as that of a folder: what could lead elsewhere is replaced.

    Example:
        >>> folder_name("../my net")
        '__my_net'
    """
    return re.sub(r"[^\w.-]|^\.+", "_", name)


def describe_environment(device: str, seed: int, processes: int = 1) -> dict[str, Any]:
    """Versions, device, threads, seed, number of processes, and command line, for `environment.json`."""
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
    """Device and threads of an `environment.json`, for reading.

    Example:
        >>> on_device({"device": "cpu", "threads": 1})
        'cpu, 1 thread'
    """
    threads = environment["threads"]
    return f"{environment['device']}, {threads} thread{'' if threads == 1 else 's'}"


def trained_on(folder: RunFolder) -> str:
    """Where a run was trained, as its folder has it; empty if that is not known."""
    try:
        return on_device(json.loads(folder.environment.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _unusable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"run folder {path} cannot be used: {error.strerror or error}. Choose another with --run-dir."
    )
