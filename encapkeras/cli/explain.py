"""`encapkeras explain`: shows where in images a trained network sees the evidence for classes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from encapkeras.cli.arguments.device import add_device, print_device
from encapkeras.cli.arguments.output_file import add_overwrite, check_free_in
from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.cli.arguments.trained_run import MODEL, NOTE, chosen_checkpoint, named_run
from encapkeras.errors import ArgumentError, DataError, printable
from encapkeras.text import counted, listed

if TYPE_CHECKING:
    import keras
    from torch import Tensor

    from encapkeras.analysis import Explanation

ARRAYS = "explanations.npz"
_EVENTS = ".explain"  # at the end of the name of the event file
EXAMPLES = (
    "encapkeras explain latest photo.png",
    "encapkeras explain runs/first photos/ --class cat --class dog -o explained",
)
PAGE = "explain.md"


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
        "--class",
        action="append",
        dest="classes",
        metavar="NAME",
        help="a class to explain, by its name; may be given several times (those with the highest scores)",
    )
    parser.add_argument(
        "--top", type=int, default=3, metavar="N", help="without --class: how many classes to explain (%(default)s)"
    )
    parser.add_argument(
        "--method",
        choices=("flow", "gradient_input"),
        help="flow: the flow of agreement through the routing; gradient_input: gradient times input (flow if the "
        "network has routing that leads back to a map of capsules, else gradient_input)",
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder for the results (RUN/analysis/explain; other models need one)"
    )
    add_overwrite(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write a picture for each image, all arrays, and an event file for TensorBoard."""
    if any(image.endswith(MODEL) or os.path.isfile(os.path.join(image, NOTE)) for image in arguments.images):
        raise ArgumentError("explain takes the run first, then the images: encapkeras explain latest photo.png")
    from encapkeras.analysis import explain
    from encapkeras.model.load_model import load_model
    from encapkeras.training.memory.out_of_memory import explain_out_of_memory

    path = named_run(arguments.model)
    checkpoint = chosen_checkpoint(path)
    with explain_out_of_memory("Give fewer images or classes, or use other memory with --device."):
        model = load_model(checkpoint)
        output = Path(arguments.output) if arguments.output else _folder_in(path)
        files, images = _read(model, arguments.images)
        pictures = _pictures(output, files)
        check_free_in(output, [output / ARRAYS, *pictures], arguments.overwrite)
        explanation = explain(model, images, arguments.classes, top=arguments.top, method=arguments.method)
        _write(explanation, output, files, pictures)
    _print(explanation, checkpoint, files)
    print(f"written to {printable(str(output))}")
    print_device()
    return 0


def _folder_in(run: Path) -> Path:
    from encapkeras.packing.load import is_packed
    from encapkeras.training.run.run_folder import RunFolder

    if not run.is_dir() or is_packed(run):
        raise ArgumentError(f"'{printable(str(run))}' is not a run folder; name the folder to write to with -o")
    return RunFolder(run).analysis_in("explain")


def _read(model: keras.Model, paths: Sequence[str]) -> tuple[list[Path], Tensor]:
    """Return the files and their images as the network takes them; say on stderr which were changed for that."""
    import torch
    from PIL import Image

    from encapkeras.analysis import image_paths, prepared_image

    files, problems = image_paths(paths)
    read, changed = [], []
    for file in files:
        try:
            image = prepared_image(model, file)
        except DataError as error:
            problems[file] = str(error)
            continue
        read.append(image)
        with Image.open(file) as stored:
            if (*stored.size, stored.mode) != (*image.shape[2:0:-1], "L" if image.shape[3] == 1 else "RGB"):
                changed.append(f"{printable(str(file))} ({stored.width} x {stored.height}, {stored.mode})")
    if problems:
        lines = [printable(problem) for problem in problems.values()]
        raise DataError("\n".join([*lines, f"{counted(len(lines), 'image')} could not be read; nothing was written"]))
    if changed:
        height, width, channels = read[0].shape[1:]
        kind = "gray" if channels == 1 else "color"
        print(
            f"fitted to {width} x {height} pixels in {kind}: {listed(changed, most=5, longest=None)}", file=sys.stderr
        )
    return files, torch.cat(read)


def _pictures(output: Path, files: Sequence[Path]) -> list[Path]:
    """Return the picture of each image: numbered, since images of several folders may have the same name."""
    from encapkeras.training.run.run_folder import folder_name

    digits = len(str(len(files)))
    return [output / f"{number:0{digits}}_{folder_name(file.stem)}.png" for number, file in enumerate(files, 1)]


def _write(explanation: Explanation, output: Path, files: Sequence[Path], pictures: Sequence[Path]) -> None:
    from matplotlib.image import imread

    from encapkeras.analysis import plot_explanation
    from encapkeras.files import replacing, writing
    from encapkeras.training.run.run_folder import check_writable
    from encapkeras.training.tensorboard.event_file import open_event_file

    check_writable(output, str(output), "Choose another folder with --output.")
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        left = _files_of_older(output) - set(pictures)
    explanation.save(output / ARRAYS, [picture.name for picture in pictures])
    with writing(output), open_event_file(output, _EVENTS) as writer:
        for index, (file, picture) in enumerate(zip(files, pictures, strict=True)):
            with replacing(picture) as unfinished:
                plot_explanation(explanation, index, file.name).savefig(unfinished)
            writer.add_image(f"explain/{picture.stem}", imread(picture), dataformats="HWC")
    with writing(output):
        for file in left:
            file.unlink()


def _files_of_older(output: Path) -> set[Path]:
    """Return the pictures and the event file that an earlier explanation wrote into a folder, and nothing else."""
    import numpy as np

    from encapkeras.files import reading

    try:
        with reading(output / ARRAYS, "explanations", DataError), np.load(output / ARRAYS) as arrays:
            names = set(arrays["pictures"].tolist())
    except DataError:  # there is none, or it is damaged
        return set()
    pictures = (entry for entry in output.iterdir() if entry.name in names and entry.suffix == ".png")
    events = output.glob(f"events.out.tfevents.*{_EVENTS}")
    return {file for file in (*pictures, *events) if file.is_file() and not file.is_symlink()}


def _print(explanation: Explanation, checkpoint: Path, files: Sequence[Path]) -> None:
    from encapkeras.analysis.explain_plot import METHOD_NAMES

    way = ""
    if explanation.flows:
        ends = [f"{name} ({flow.shape[2]} x {flow.shape[3]})" for name, flow in explanation.flows.items()]
        way = f", through {', '.join(explanation.layers)} to the positions of {' and '.join(ends)}"
    elif explanation.reason:
        way = f", since {explanation.reason}"
    print(f"{printable(str(checkpoint))}: {METHOD_NAMES[explanation.method]}{way}")
    for index, file in enumerate(files):
        scores = zip(explanation.names_of(index), explanation.scores[index].tolist(), strict=True)
        print(f"{printable(str(file))}: " + ", ".join(f"{printable(name)} {score:.3f}" for name, score in scores))
