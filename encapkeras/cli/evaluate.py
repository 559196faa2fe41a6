"""`encapkeras evaluate`: measures a run again, as training did or in more detail."""

from __future__ import annotations

import argparse
import json
from typing import Any

from encapkeras.cli import evaluate_affine, evaluate_classes, evaluate_explain
from encapkeras.cli.arguments.device import add_device, print_device
from encapkeras.cli.arguments.output_file import add_overwrite
from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.cli.arguments.trained_run import TrainedRun, add_places
from encapkeras.errors import ArgumentError, printable

EXAMPLES = (
    "encapkeras evaluate latest",
    "encapkeras evaluate runs/first --per-class -o classes.csv",
    "encapkeras evaluate runs/first --change data.affine={}",
    "encapkeras evaluate runs/first --data-root /data/photos",
)
PAGE = "evaluate.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folder of a training; --affine takes several")
    add_plugins(parser)
    add_places(parser)
    parser.add_argument(
        "--change",
        action="append",
        default=[],
        metavar="data.KEY=VALUE",
        dest="changes",
        help="measure on other images: change a setting of the run's data, such as data.affine={}; may be given "
        "several times",
    )
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="images to use (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    closer = parser.add_mutually_exclusive_group()
    closer.add_argument(
        "--ten-crop",
        action="store_true",
        help="also crop every image at its corners and its center, and mirror these; the mean of the ten scores counts",
    )
    closer.add_argument(
        "--per-class", action="store_true", help="print the errors of each class; -o writes them to a .csv file too"
    )
    closer.add_argument(
        "--hardest",
        type=int,
        metavar="N",
        help="write the names of the N classes with the most errors to the file -o, one per line",
    )
    closer.add_argument(
        "--affine",
        action="store_true",
        help="measure the accuracy on rotated, shifted and scaled images, as a plot and a table",
    )
    closer.add_argument(
        "--explain",
        action="store_true",
        help="measure what explanations of the classes are worth, by deletion and insertion, as a plot and a table",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="K",
        help="with --per-class and --hardest: an image counts as an error if its class is not among the K best (1)",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="with --affine and --explain: use N images, balanced over classes (1000; 500)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="the file to write; with --affine and --explain the folder (RUN/analysis/affine, ../faithfulness)",
    )
    add_overwrite(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure with the best weights."""
    _check(arguments)
    from encapkeras.training.memory import keep_freed_memory
    from encapkeras.training.memory.out_of_memory import explain_out_of_memory

    keep_freed_memory()
    with explain_out_of_memory():
        if arguments.affine:
            evaluate_affine.run(arguments)
        elif arguments.explain:
            evaluate_explain.run(arguments)
        elif arguments.per_class or arguments.hardest is not None:
            evaluate_classes.run(arguments)
        else:
            _print(_measured(arguments), arguments.json)
    print_device()
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options without the ones that they belong to."""
    by_class = arguments.per_class or arguments.hardest is not None
    if len(arguments.runs) > 1 and not arguments.affine:
        raise ArgumentError(
            f"only --affine takes several runs; received {len(arguments.runs)}. 'encapkeras compare' trains and "
            "compares several networks."
        )
    if arguments.changes and arguments.split != "test":
        raise ArgumentError(
            f"--change is for the test images; received --split {arguments.split}, whose images it would leave alone "
            "or hold out anew"
        )
    if arguments.top is not None and not by_class:
        raise ArgumentError("--top belongs to --per-class and --hardest")
    into_folder = arguments.affine or arguments.explain
    if arguments.images is not None and not into_folder:
        raise ArgumentError("--images belongs to --affine and --explain")
    if arguments.output is not None and not (by_class or into_folder):
        raise ArgumentError(
            "-o belongs to --per-class, --hardest, --affine and --explain; --json prints the results for programs"
        )
    if arguments.hardest is not None and arguments.output is None:
        raise ArgumentError("--hardest needs the file to write: -o hardest.txt")
    if arguments.hardest is not None and arguments.json:
        raise ArgumentError(
            "--hardest writes names, one per line; --per-class prints the errors of all classes with --json"
        )


def _measured(arguments: argparse.Namespace) -> dict[str, Any]:
    from encapkeras.analysis import ten_crop_accuracy
    from encapkeras.training import measure

    trained = TrainedRun.open(arguments.runs[0], arguments.data_root, arguments.overrides, arguments.changes)
    if arguments.ten_crop:
        trained.check_one_class("--ten-crop", arguments.changes)
    splits = trained.splits()
    batches = trained.chosen(splits, arguments.split)
    ten_crop = {}
    if arguments.ten_crop:  # first, since it fails early
        ten_crop["ten_crop_accuracy"] = ten_crop_accuracy(trained.classifier(splits), batches)
    metrics = measure(trained.checkpoint, batches, splits.info)
    changes = {"changes": arguments.changes} if arguments.changes else {}
    return {"split": arguments.split, **changes, **metrics, **ten_crop, "images": batches.num_images}


def _print(metrics: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(metrics, indent=2))
        return
    changed = "".join(f", {printable(change)}" for change in metrics.get("changes", ()))
    mean_iou = ", mean IoU {mean_iou:.4f}" if "mean_iou" in metrics else ""
    line = "{split} accuracy {accuracy:.4f}, loss {loss:.4f}" + mean_iou + ", {images:,} images"
    print(line.format(**metrics) + changed)
    if "ten_crop_accuracy" in metrics:
        print("{split} accuracy {ten_crop_accuracy:.4f} with ten crops of each image".format(**metrics))
