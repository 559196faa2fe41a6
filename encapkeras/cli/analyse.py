"""`encapkeras analyse`: shows what the routing layers of a run do with images, or what its class capsules mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

from encapkeras.cli import analyse_perturb
from encapkeras.cli.arguments.device import add_device, print_device
from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.cli.arguments.trained_run import add_places, images_of, open_folder
from encapkeras.cli.terminal.table import print_table
from encapkeras.errors import ArgumentError, RunFolderError

if TYPE_CHECKING:
    from pathlib import Path

    from encapkeras.analysis import RoutingAnalysis
    from encapkeras.training.run.run_folder import RunFolder

IMAGES = 256
SPLITS = ("test", "validation", "train")
STATISTICS = {
    "entropy": "coupling_entropy_relative",
    "agreement": "agreement",
    "weighted": "agreement_by_coupling",
    "activation": "activation",
}
EXAMPLES = (
    "encapkeras analyse latest",
    "encapkeras analyse runs/first --checkpoint best last --images 512",
    "encapkeras analyse runs/first --perturb",
)
PAGE = "analysis.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_dir", metavar="RUN", help="run folder of a training")
    add_plugins(parser)
    add_places(parser)
    parser.add_argument(
        "--perturb",
        action="store_true",
        help="instead of the routing: show what the decoder draws when one dimension of a class capsule changes",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        nargs="+",
        help="the weights to show side by side: best, last, or the number of an epoch that train.analysis has analysed "
        "(best and last; only last without validation)",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="images to use (%(default)s)")
    parser.add_argument("--images", type=int, metavar="N", help=f"use N images, balanced over classes ({IMAGES})")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder for the results (RUN/analysis/SPLIT; RUN/analysis/perturbed)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an analysis that is already in the folder")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Analyse, write the results, and print the metrics after each iteration."""
    if arguments.perturb:
        analyse_perturb.run(arguments)
        print_device()
        return 0
    from encapkeras.analysis import analyse_routing
    from encapkeras.model.load_model import load_model
    from encapkeras.training.analysis_images import sample_images
    from encapkeras.training.measure import check_fits, data_of
    from encapkeras.training.memory.out_of_memory import explain_out_of_memory
    from encapkeras.training.run.analysis_folder import AnalysisFolder
    from encapkeras.training.run.identity import check_checkpoint

    count = IMAGES if arguments.images is None else arguments.images
    if count < 1:
        raise ArgumentError(f"--images must be at least 1; received {count}")
    folder, spec = open_folder(arguments.run_dir, arguments.data_root, arguments.overrides)
    names = arguments.checkpoint or (["best", "last"] if data_of(spec).has_validation else ["last"])
    files = _checkpoints(folder, list(dict.fromkeys(names)))
    for checkpoint in filter(None, files.values()):
        check_checkpoint(folder, checkpoint)
    output = AnalysisFolder(arguments.output or folder.analysis_in(arguments.split))
    output.check_free(arguments.overwrite)
    analyses = []
    with explain_out_of_memory():
        splits = images_of(folder, spec)
        sample = sample_images(splits, arguments.split, count)
        images, labels, used = sample.images, sample.labels, sample.name
        if not any(files.values()):  # epochs alone, which an older version may have analysed with the first images
            used = _read_epoch(folder, next(iter(files)), {sample.name, arguments.split}, len(images)).split
        for name, file in files.items():
            if file is None:
                analyses.append(_read_epoch(folder, name, {used}, len(images)))
                continue
            model = load_model(file)
            check_fits(model, splits.info)
            analyses.append(analyse_routing(model, images, labels, checkpoint=name, split=used))
        output.write(analyses, arguments.overwrite)
    print(sample.text if used == sample.name else f"the first {len(images):,} {used} images")
    _print_tables(analyses)
    print(f"written to {output.path}")
    print_device()
    return 0


def _checkpoints(folder: RunFolder, names: Sequence[str]) -> dict[str, Path | None]:
    """Return the file of each checkpoint; None for an epoch that was analysed during training."""
    files: dict[str, Path | None] = {}
    known = {"best": folder.best, "last": folder.last}
    epochs = [analysis.checkpoint.removeprefix("epoch ") for analysis in _read_epochs(folder)]
    for name in names:
        there = known[name].is_file() if name in known else name in epochs
        if not there:
            have = ", ".join([*(other for other, file in known.items() if file.is_file()), *epochs]) or "none"
            raise RunFolderError(
                f"run {folder.path} has no checkpoint '{name}'; it has: {have}. Epochs are those that train.analysis "
                "has analysed."
            )
        files[name] = known.get(name)
    return files


def _read_epochs(folder: RunFolder) -> list[RoutingAnalysis]:
    from encapkeras.analysis import read_csv

    table = folder.analysis / "epochs.csv"
    return read_csv(table) if table.is_file() else []


def _read_epoch(folder: RunFolder, epoch: str, samples: Set[str], images: int) -> RoutingAnalysis:
    """Return the analysis of an epoch during training, if it is of the same images."""
    found = next(analysis for analysis in _read_epochs(folder) if analysis.checkpoint == f"epoch {epoch}")
    if found.split in samples and found.images == images:
        return found
    split = found.split.split()[-1]  # without "balanced"
    text = f"epoch {epoch} was analysed with {found.images} {found.split} images, and its weights are not kept"
    if found.images == images and split in {sample.split()[-1] for sample in samples}:
        raise RunFolderError(
            f"{text}. Older versions took the first {images} images, now the choice is balanced over the classes: the "
            "two cannot be compared. Name only epochs that were analysed by an older version, or none of them"
        )
    raise RunFolderError(
        f"{text}: analyse the other weights with the same images. Add --split {split} --images {found.images}"
    )


def _print_tables(analyses: Sequence[RoutingAnalysis]) -> None:
    from encapkeras.analysis import layers_of
    from encapkeras.analysis.plots import KINDS

    for layer in layers_of(analyses):
        activations = analyses[0].select(layer, "activation")
        of_classes = "; the image's class / other classes" if len({m.capsules for m in activations}) > 1 else ""
        title = f"{layer}: {KINDS[activations[0].routing]}{of_classes}"
        iterations = sorted({m.iteration for m in activations})
        rows = [(analysis, iteration) for analysis in analyses for iteration in iterations]
        columns = {
            "checkpoint": [analysis.checkpoint for analysis, _ in rows],
            "iter.": [str(iteration) for _, iteration in rows],
        }
        for heading, statistic in STATISTICS.items():
            columns[heading] = [_cell(analysis, layer, statistic, iteration) for analysis, iteration in rows]
        print_table(columns, title=f"{title}\n", right=list(columns)[1:])
        print()


def _cell(analysis: RoutingAnalysis, layer: str, statistic: str, iteration: int) -> str:
    found = [m.value for m in analysis.select(layer, statistic) if m.iteration == iteration]
    return " / ".join("-" if value is None else f"{value:.2f}" for value in found)
