"""`encapkeras export`: writes a trained network as a file for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from encapkeras.cli.arguments.device import add_device, print_device
from encapkeras.cli.arguments.output_file import add_overwrite, check_output, file_format
from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.cli.arguments.trained_run import chosen_checkpoint
from encapkeras.errors import ArgumentError

ENDINGS = {"keras": ".keras", "torch": ".pt2", "onnx": ".onnx"}
EXAMPLES = (
    "encapkeras export latest -o network.onnx",
    "encapkeras export runs/first --format torch",
    "encapkeras export runs/first/checkpoints/last.keras -o network.pt2 --device cpu",
)
PAGE = "export.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "model",
        metavar="RUN_OR_MODEL",
        help="run folder of a training, a .keras file, a packed folder, or a packed model such as digits_dynamic",
    )
    parser.add_argument("--format", choices=ENDINGS, help="what to write (what -o names: .keras, .pt2 or .onnx)")
    add_plugins(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the file to write; its ending says the format (NAME.pt2, NAME.onnx ...)"
    )
    add_overwrite(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the network that training chose."""
    form = _format(arguments)
    ending = ENDINGS[form]
    if arguments.output is not None:
        check_output(arguments, arguments.model, ending)
    from encapkeras.interop import export_model
    from encapkeras.model.load_model import load_model
    from encapkeras.summary.node_table import parameters

    checkpoint = chosen_checkpoint(Path(arguments.model))
    model = load_model(checkpoint)
    arguments.output = arguments.output or f"{model.name}{ending}"
    output = check_output(arguments, checkpoint, ending)
    export_model(model, output, form)
    print(f"{output}: '{model.name}', {parameters(model):,} parameters, {len(model.class_names)} class names")
    print_device()
    return 0


def _format(arguments: argparse.Namespace) -> str:
    if arguments.output is not None:
        return file_format(arguments.output, ENDINGS, arguments.format)
    if arguments.format is None:
        raise ArgumentError("export needs the file to write, such as -o network.onnx, or --format keras, torch or onnx")
    return str(arguments.format)
