"""`encapkeras predict`: classifies image files with a trained network."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encapkeras.cli.arguments.device import add_device, print_device
from encapkeras.cli.arguments.output_file import add_overwrite, check_free, csv_text, write_text
from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.cli.arguments.trained_run import MODEL, NOTE, chosen_checkpoint
from encapkeras.errors import ArgumentError, DataError, printable
from encapkeras.text import counted

if TYPE_CHECKING:
    from encapkeras.analysis import ClassifiedFiles

SCORES = {
    "length": "lengths of the class capsules",
    "activation": "activations of the class capsules",
    "probability": "probabilities",
    "score": "outputs of the network as they are",
}
EXAMPLES = (
    "encapkeras predict latest photo.png",
    "encapkeras predict digits_dynamic photo.png",
    "encapkeras predict runs/first photos/ --csv predictions.csv",
)
PAGE = "evaluate.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "model",
        metavar="RUN_OR_MODEL",
        help="run folder of a training, a .keras file, a packed folder, or a packed model such as digits_dynamic",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    add_plugins(parser)
    parser.add_argument(
        "--top", type=int, default=3, metavar="N", help="how many classes to show for each image (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--csv", metavar="FILE", help="also write them to a .csv file")
    add_overwrite(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the best classes of each image; name files that cannot be read at the end."""
    if arguments.top < 1:
        raise ArgumentError(f"--top must be at least 1; received {arguments.top}")
    table = Path(arguments.csv) if arguments.csv else None
    if table and table.suffix != ".csv":
        raise ArgumentError(f"--csv must name a .csv file; received '{printable(str(table))}'")
    if table:
        check_free(table, arguments.overwrite, option=" with --csv")
    if any(image.endswith(MODEL) or os.path.isfile(os.path.join(image, NOTE)) for image in arguments.images):
        raise ArgumentError("predict takes the run first, then the images: encapkeras predict latest photo.png")
    from encapkeras.analysis import classify_files
    from encapkeras.model.load_model import load_model
    from encapkeras.training.memory.out_of_memory import explain_out_of_memory

    checkpoint = chosen_checkpoint(Path(arguments.model))
    with explain_out_of_memory("Free memory, or use other memory with --device."):
        found = classify_files(load_model(checkpoint), arguments.images)
    if table:
        write_text(table, _as_csv(found, arguments.top))
    if arguments.json:
        print(json.dumps(_as_json(found, checkpoint, arguments.top), indent=2))
    elif found.files:
        _print(found, checkpoint, arguments.top)
    print_device()
    if found.problems:
        raise DataError(_unreadable(found))
    return 0


def _print(found: ClassifiedFiles, checkpoint: Path, top: int) -> None:
    temperature = found.classified.temperature
    scores = f"probabilities (temperature {temperature:.4g})" if temperature else SCORES[found.classified.kind]
    print(f"{printable(str(checkpoint))}: {scores}")
    of_files = iter(found.classified.labels())
    for file, classes in zip(found.files, found.classified.best(top), strict=True):
        shown = ", ".join(f"{printable(name)} {score:.3f}" for name, score in classes)
        labels = next(of_files, None)
        named = "" if labels is None else f"{printable(', '.join(labels)) or 'no label'} ("
        print(f"{printable(str(file))}: {named}{shown}{')' if named else ''}")


def _as_json(found: ClassifiedFiles, checkpoint: Path, top: int) -> dict[str, Any]:
    kind = found.classified.kind
    images = [
        {"file": str(file), "classes": [{"class": name, kind: score} for name, score in classes]}
        for file, classes in zip(found.files, found.classified.best(top), strict=True)
    ]
    for image, labels in zip(images, found.classified.labels(), strict=False):
        image["labels"] = labels
    problems = [{"file": str(file), "problem": problem} for file, problem in found.problems.items()]
    return {"model": str(checkpoint), "scores": kind, "images": images, "not_read": problems}


def _as_csv(found: ClassifiedFiles, top: int) -> str:
    ranked = zip(found.files, found.classified.best(top), strict=True)
    rows = [
        {"file": file, "rank": rank, "class": name, found.classified.kind: score}
        for file, classes in ranked
        for rank, (name, score) in enumerate(classes, 1)
    ]
    return csv_text(rows, ["file", "rank", "class", found.classified.kind])


def _unreadable(found: ClassifiedFiles) -> str:
    lines = [printable(problem) for problem in found.problems.values()]
    total = len(lines) + len(found.files)
    return "\n".join([*lines, f"{len(lines)} of {counted(total, 'image')} could not be read"])
