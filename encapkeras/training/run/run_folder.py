"""The folder that holds all of one training run.

spec.yaml           the resolved spec: trains the same network again
environment.json    versions, device, threads, Keras' dtype, seed, command line
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

import contextlib
import datetime
import itertools
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from encapkeras.errors import RunFolderError
from encapkeras.files import FileLock, make_new_folder, read_json, reading, replacing, write_json, writing
from encapkeras.plugins import Plugin, check_loaded
from encapkeras.spec.write import as_yaml
from encapkeras.text import is_utf8, quoted
from encapkeras.training.run.replace_run import (
    is_unfinished,
    older_run_aside,
    remove_asides,
    replace_run,
    written_by_run,
)


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
        self.lock = FileLock(self.resume / ".lock")

    @classmethod
    def default(cls, name: str) -> RunFolder:
        """Return the folder `runs/<name of the spec>/<date and time>`, with a number after it if that exists."""
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        paths = (Path("runs") / folder_name(name) / (now if n == 1 else f"{now}_{n}") for n in itertools.count(1))
        return cls(next(path for path in paths if not os.path.lexists(path)))

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, name: str) -> Iterator[RunFolder]:
        """Make the default folder, which no other process has; remove it if an error leaves it empty."""
        with writing(cls.default(name).path):
            made = make_new_folder(lambda: cls.default(name).path)
        try:
            yield cls(made[-1])
        except BaseException:
            with contextlib.suppress(OSError):
                for path in reversed(made):
                    path.rmdir()
            raise

    @property
    def resume_command(self) -> str:
        """The command that continues an unfinished run."""
        plugins = [str(original) for _, original, _ in self._plugin_records() if os.path.isfile(original)]
        options = "".join(f" --plugin {quoted(plugin)}" for plugin in plugins)
        return f"encapkeras train --resume {quoted(str(self.path))}{options}"

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
                f"run {self.path} has no checkpoint, though it is finished. Put back {checkpoint}."
                if self.results.is_file()
                else f"run {self.path} has no checkpoint: it stopped before the end of its first epoch. Continue it "
                f"with: {self.resume_command}"
            )
        raise RunFolderError(
            f"{checkpoint} is missing: of this run, with{'' if validated else 'out'} a validation part, it is the "
            f"checkpoint that counts, and {other.name} is not used in its place. Put it back."
        )

    def check_free(self, overwrite: bool = False) -> None:
        """Check, without changing anything, that a run may be written here, or with `overwrite` replace an older one.

        Raises:
            RunFolderError: The folder holds something else, or an older run that may not be replaced, or is read-only,
                or another process trains in it.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise RunFolderError(f"{self.path} is a file; a run needs a folder. Choose another with --run-dir.")
            if self.path.exists() and not self._is_empty():
                self._check_replaceable(overwrite)
            if self.lock.is_held_elsewhere():
                raise self._trained_elsewhere()
            check_writable(self.path, f"run folder {self.path}", "Choose another with --run-dir.")
        except OSError as error:
            raise _unusable(self.path, error) from error

    def _is_empty(self) -> bool:
        """Whether nothing is here but what a run leaves that could not start: empty subfolders, unfinished files."""
        folders = [self.best.parent, self.resume, self.tensorboard]
        return all(
            is_unfinished(entry.relative_to(self.path).as_posix())
            or (not entry.is_symlink() and (entry == self.lock.path or (entry in folders and entry.is_dir())))
            for folder in (self.path, *folders)
            if folder.is_dir()
            for entry in folder.iterdir()
        )

    def _trained_elsewhere(self) -> RunFolderError:
        return RunFolderError(
            f"run folder {self.path} is being trained by another process. Wait until that has ended, or choose another "
            "with --run-dir."
        )

    def hold(self) -> None:
        """Keep other processes from training in this folder, until this one ends or closes `lock`."""
        try:
            if not self.lock.acquire():
                raise self._trained_elsewhere()
        except OSError as error:
            raise _unusable(self.path, error) from error

    def check_links(self) -> None:
        """Check that nothing of this run is a symbolic link, through which other files would be written or removed."""
        for entry in written_by_run(self.path):
            check_no_link(entry, "Put what it leads to in its place.")

    def analysis_in(self, name: str) -> Path:
        """Return the folder in this run for one kind of analysis, after checking that no link leads elsewhere."""
        for folder in (self.analysis, self.analysis / name):
            check_no_link(folder, "Remove the link, or choose another folder with --output.")
        return self.analysis / name

    def _check_replaceable(self, overwrite: bool) -> None:
        if not self._is_ours():
            raise RunFolderError(
                f"{self.path} holds files that do not belong to a run, so nothing is written or deleted there. Choose "
                "an empty or new folder with --run-dir."
            )
        if not overwrite:
            self.check_whole()
            otherwise = "replace the run in it with --overwrite."
            if self.can_continue() and not self.has_remains():
                otherwise = f"continue the unfinished run in it with: {self.resume_command}"
            raise RunFolderError(
                f"run folder {self.path} already exists. Choose another with --run-dir, or {otherwise}"
            )

    def check_whole(self) -> None:
        """Check that no process was killed while it replaced a run here of which something could be lost."""
        old = older_run_aside(self.path)
        if old and not (self.has_remains() and RunFolder(old).has_remains()):
            raise RunFolderError(
                f"the replacement of run {self.path} was cut short; the older run's files are in {old}. Move them back "
                f"to where they were in {self.path}, and remove {old.parent}; or finish the replacement with: "
                f"encapkeras train SPEC --run-dir {quoted(str(self.path))} --overwrite"
            )

    def _is_ours(self) -> bool:
        try:
            return "encapkeras" in self.read_environment()
        except RunFolderError:
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

        The new files are in place before the older ones are removed, and after an error the folder is as it was. Only
        what a run writes is removed, by name; of links the links themselves. From then on this process holds `lock`.

        Raises:
            RunFolderError: As `check_free`, or the disk has not enough space.
        """
        self.check_free(overwrite)
        try:
            older = self._check_older()
            free = shutil.disk_usage(_nearest_existing(self.path)).free + sum(file.lstat().st_size for file in older)
            if free < needed_bytes:
                raise RunFolderError(
                    f"the disk of run folder {self.path} has {free / 1e6:,.0f} MB free for this run, which needs about "
                    f"{needed_bytes / 1e6:,.0f} MB. Free some space, or choose another folder with --run-dir."
                )
            self.hold()
            with contextlib.ExitStack() as after_error:
                after_error.callback(self.lock.close)
                self.check_free(overwrite)  # again: now no other process changes it
                older = self._check_older()
                kept = {file.name for file in self.plugins.glob("*")} - {file.name for file in older}

                def write(path: Path) -> None:
                    new = RunFolder(path)
                    copies = new._copy(plugins, kept)
                    write_json(new.environment, {**environment, "plugins": copies, "resumed": []})
                    new._write_spec(spec)

                replace_run(self.path, older, write, [self.best.parent, self.tensorboard])
                after_error.pop_all()
        except OSError as error:
            raise _unusable(self.path, error) from error

    def _check_older(self) -> list[Path]:
        """Return the files of an older run; check that nothing else is where a run writes."""
        files = {self.spec, self.environment, self.metrics, self.results, self.best, self.last}
        folders = {self.best.parent, self.resume, self.plugins, self.tensorboard, self.analysis, self.bad_batches}
        for path in sorted(files | folders):
            if path.exists() and path.is_dir() == (path in files):
                raise RunFolderError(
                    f"{path} is a {'folder' if path in files else 'file'}, where a run has a "
                    f"{'file' if path in files else 'folder'}. Move it away, or choose another folder with --run-dir."
                )
        for folder in (self.best.parent, self.resume):
            check_no_link(folder, "Remove the link, or choose another folder with --run-dir.")
        copies = {copy for _, _, copy in self._plugin_records()}
        return list(written_by_run(self.path, copies)) if self.path.is_dir() else []

    def note_resumption(self, spec: dict[str, Any], environment: dict[str, Any], changes: Sequence[str]) -> None:
        """Note, in `environment.json`, where the run is resumed and what has changed; replace `spec.yaml` if it has.

        What processes that were killed have not finished writing is removed.
        """
        with writing(self.path):
            for file in list(written_by_run(self.path)):
                if is_unfinished(file.relative_to(self.path).as_posix()):
                    file.unlink()
            remove_asides(self.path)
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
        with reading(self.environment, "the note of a training", RunFolderError):
            return read_json(self.environment)

    def was_begun(self) -> bool:
        """Whether a run of ours is here that has come as far as its spec."""
        return self._is_ours() and self.spec.is_file()

    def has_remains(self) -> bool:
        """Whether a run of ours is here that ended before its first epoch did, so that nothing of it can be lost."""
        return self._is_ours() and not any(file.exists() for file in (self.metrics, self.results, self.best, self.last))

    def can_continue(self) -> bool:
        """Whether an unfinished run is here with a state to resume from, or with nothing that could be lost."""
        has_state = any(self.resume.glob("epoch_*_step_*.pt"))
        return self.was_begun() and not self.results.is_file() and (has_state or self.has_remains())

    def _copy(self, plugins: Sequence[Plugin], taken: Collection[str]) -> list[dict[str, Any]]:
        """Copy the plugins, to names that are not taken; return where each was, its copy, and what it registered."""
        records: list[dict[str, Any]] = []
        for plugin in plugins:
            used = {*taken, *(str(record["copy"]).rpartition("/")[2] for record in records)}
            names = (f"{number}_{plugin.path.name}" for number in itertools.count(2))
            copy = self.plugins / next(name for name in itertools.chain([plugin.path.name], names) if name not in used)
            with writing(copy):
                self.plugins.mkdir(exist_ok=True)
            with replacing(copy) as file:
                file.write_bytes(plugin.source)
            registers = {noun: list(names) for noun, names in plugin.registers.items()}
            copied = f"{self.plugins.name}/{copy.name}"
            records.append({"path": str(plugin.path), "copy": copied, "registers": registers})
        return records

    def check_run(self) -> None:
        """Check that the folder is that of a run, finished or not.

        Raises:
            RunFolderError: The folder is missing, or is something else.
        """
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path} is not a folder. Give the run folder that train printed.")
        self.check_whole()
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
        for registers, original, copy in self._plugin_records():
            check_loaded(registers, f"run {self.path}", str(original if os.path.isfile(original) else self.path / copy))

    def _plugin_records(self) -> list[tuple[dict[str, Any], Path, str]]:
        """Return what each plugin registers, where it was, and its copy; none if this is a run of another kind."""
        try:
            records = self.read_environment().get("plugins", [])
            return [
                (
                    {str(noun): [*map(str, names)] for noun, names in record["registers"].items()},
                    Path(record["path"]),
                    str(record["copy"]),
                )
                for record in records
            ]
        except (RunFolderError, ValueError, TypeError, KeyError, AttributeError):
            return []


def folder_name(name: str) -> str:
    """Return the name of a spec as that of a folder: what could lead elsewhere is replaced."""
    return re.sub(r"[^\w.-]|^\.+", "_", name)


def check_writable(path: Path, subject: str, advice: str) -> None:
    """Check that a folder, or the nearest folder above it that exists, may be written, also by TensorBoard."""
    if not is_utf8(str(path)):
        raise RunFolderError(f"{subject} cannot be written by TensorBoard: its path is not UTF-8. {advice}")
    parent = _nearest_existing(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunFolderError(
            f"{subject} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}. {advice}"
        )


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def check_no_link(path: Path, advice: str) -> None:
    """Check that a part of a run is not a symbolic link, through which other files would be written or removed."""
    if path.is_symlink():
        raise RunFolderError(f"{path} is a symbolic link, and a run writes in its own folder alone. {advice}")


def _unusable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"run folder {path} cannot be used: {error.strerror or error}. Choose another with --run-dir."
    )
