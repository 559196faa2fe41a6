"""The folder of one routing analysis: a table, pictures, and event files for TensorBoard.

routing.csv                     all statistics of all checkpoints
routing_LAYER_iterations.png    entropy, agreement, activation over the iterations
routing_LAYER_votes.png         directions and lengths of the votes
events.out.tfevents.*           the pictures, for TensorBoard
CHECKPOINT/                     curves and histograms, for TensorBoard, iterations as steps
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.image import imread

from encapkeras.analysis import (
    RoutingAnalysis,
    layers_of,
    plot_iterations,
    plot_votes,
    read_csv,
    write_csv,
    write_iterations,
)
from encapkeras.errors import DataError, RunFolderError
from encapkeras.files import make_folder, replacing, writing
from encapkeras.training.run.replace_run import is_unfinished
from encapkeras.training.run.run_folder import check_writable, folder_name
from encapkeras.training.tensorboard.event_file import open_event_file

_PLOTS = {"iterations": plot_iterations, "votes": plot_votes}
_EVENTS = "events.out.tfevents.*"


class AnalysisFolder:
    """The paths of an analysis, and the rules for making its folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.table = self.path / "routing.csv"

    def check_free(self, overwrite: bool = False) -> None:
        """Check, without changing anything, that an analysis may be written here, or replace the one that is here."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; an analysis needs a folder. Choose another with --output.")
        older = self._older()
        if older is not None and not overwrite:
            raise RunFolderError(
                f"{self.path} already holds an analysis. Choose another folder with --output, or replace it with "
                "--overwrite."
            )
        if self.path.is_dir() and older is None and set(self.path.iterdir()) - self._unfinished():
            raise RunFolderError(
                f"{self.path} holds files that do not belong to an analysis, so nothing is written there. Choose an "
                "empty or new folder with --output."
            )
        check_writable(self.path, str(self.path), "Choose another folder with --output.")

    def _older(self) -> list[RoutingAnalysis] | None:
        try:
            return read_csv(self.table)
        except (DataError, OSError):
            return None

    def _unfinished(self) -> set[Path]:
        """Return what a process that was killed had begun to write."""
        return {file for file in self.path.iterdir() if file.is_file() and is_unfinished(f"analysis/test/{file.name}")}

    def _files_of(self, older: Sequence[RoutingAnalysis]) -> set[Path]:
        """Return the pictures, event files and unfinished files of an older analysis, and nothing else."""
        pictures = {self._picture(layer, name) for layer in layers_of(older) for name in _PLOTS}
        checkpoints = {analysis.checkpoint for analysis in older}
        folders = [self.path, *(entry for entry in self.path.iterdir() if entry.is_dir() and entry.name in checkpoints)]
        events = {file for folder in folders if not folder.is_symlink() for file in folder.glob(_EVENTS)}
        files = events | self._unfinished() | {entry for entry in self.path.iterdir() if entry in pictures}
        return {file for file in files if file.is_file() and not file.is_symlink()}

    def _picture(self, layer: str, name: str) -> Path:
        return self.path / f"routing_{folder_name(layer)}_{name}.png"

    def write(self, analyses: Sequence[RoutingAnalysis], overwrite: bool = False) -> None:
        """Write table, pictures and event files of analyses of one network; remove what is left of an older one."""
        self.check_free(overwrite)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            left = self._files_of(self._older() or [])
        write_csv(self.table, analyses)  # first: it is the mark that the folder is ours
        with writing(self.path), open_event_file(self.path) as writer:
            for layer in layers_of(analyses):
                for name, plot in _PLOTS.items():
                    picture = self._picture(layer, name)
                    left.discard(picture)
                    with replacing(picture) as file:
                        plot(analyses, layer).savefig(file)
                    writer.add_image(f"{layer}/{name}", imread(picture), dataformats="HWC")
        for analysis in analyses:
            folder = self.path / analysis.checkpoint
            with writing(folder):
                make_folder(folder)
                with open_event_file(folder) as writer:
                    write_iterations(writer, analysis)
        with writing(self.path):
            for file in left:
                file.unlink()
                if file.parent != self.path and not any(file.parent.iterdir()):
                    file.parent.rmdir()
