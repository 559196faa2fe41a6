"""`encapkeras export-weights`: from a `.keras` file to a checkpoint for the method's released PyTorch code."""

from __future__ import annotations

import argparse

from encapkeras.cli.arguments.output_file import add_output_arguments, check_output
from encapkeras.cli.arguments.spec_arguments import add_plugins

EXAMPLES = (
    "encapkeras export-weights network.keras -o original.pth",
    "encapkeras export-weights runs/first/checkpoints/best.keras -o first.pth",
)
PAGE = "interop.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL.keras", help="a saved model that was built from a spec")
    add_plugins(parser)
    add_output_arguments(parser, "CHECKPOINT.pth")


def run(arguments: argparse.Namespace) -> int:
    """Write the model's weights in the original's names and layouts."""
    from encapkeras.interop import original_state_dict, write_checkpoint
    from encapkeras.model.load_model import load_model
    from encapkeras.summary.node_table import parameters

    output = check_output(arguments, arguments.model, ".pth", ".pt")
    model = load_model(arguments.model)
    state_dict = original_state_dict(model)
    write_checkpoint(state_dict, output)
    print(f"{output}: '{model.name}' with {len(model.weights)} tensors, {parameters(model):,} parameters")
    return 0
