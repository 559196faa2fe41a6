"""`encapkeras import-weights`: from a checkpoint of the method's released PyTorch code to a `.keras` file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from encapkeras.cli.arguments.output_file import add_output_arguments, check_output
from encapkeras.cli.arguments.spec_arguments import add_spec_arguments
from encapkeras.errors import ArgumentError

EXAMPLES = ("encapkeras import-weights encapnet_master original.pth -o network.keras",)
PAGE = "interop.md"
NO_SPECS = (".keras", ".pth", ".pt", ".npz", ".h5")  # how files end that are not the spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_spec_arguments(parser)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a file that torch.save wrote, or a .npz or .h5 file of Keras 2"
    )
    add_output_arguments(parser, "MODEL.keras")


def specs_of(arguments: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The spec with its overrides."""
    return [] if arguments.spec.endswith(NO_SPECS) else [(arguments.spec, arguments.overrides)]


def run(arguments: argparse.Namespace) -> int:
    """Write the network of the spec with the checkpoint's weights."""
    from encapkeras.files import replacing
    from encapkeras.interop import load_original_state_dict, read_checkpoint
    from encapkeras.model.spec_model import build_model
    from encapkeras.summary.node_table import parameters

    if arguments.spec.endswith(NO_SPECS):
        raise ArgumentError(
            f"import-weights takes a spec first, a YAML file or the name of a bundled spec, then the checkpoint; "
            f"received '{arguments.spec}' as the spec"
        )
    output = check_output(arguments, arguments.checkpoint, ".keras")
    state_dict = read_checkpoint(arguments.checkpoint)
    model = build_model(arguments.spec, arguments.overrides)
    load_original_state_dict(model, state_dict)
    with replacing(output) as file:
        model.save(file)
    print(f"{output}: '{model.name}' with {len(model.weights)} tensors, {parameters(model):,} parameters")
    return 0
