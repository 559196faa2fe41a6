"""`encapkeras pack`: writes a trained network, with all that its users need, into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from encapkeras.cli.arguments.device import add_device, print_device
from encapkeras.cli.arguments.trained_run import add_places, images_of, open_folder
from encapkeras.errors import printable

EXAMPLES = (
    "encapkeras pack latest -o my_digits",
    "encapkeras pack runs/cmp/seed_0/mine runs/cmp/seed_1/mine runs/cmp/seed_2/mine -o mine",
    "encapkeras pack runs/first -o my_digits --license cc-by-4.0 --license-file cc-by.txt",
)
PAGE = "ready_weights.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folder of a training; others, of the same spec with other seeds, are for the spread of the results",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="the folder to write; its name is the model's"
    )
    add_places(parser)
    parser.add_argument(
        "--license",
        default="apache-2.0",
        metavar="NAME",
        help="the licence of the weights, as the Hugging Face hub calls it (%(default)s, as encapkeras itself)",
    )
    parser.add_argument("--license-file", metavar="FILE", help="the text of that licence")
    parser.add_argument(
        "--no-safetensors", action="store_true", help="leave out model.safetensors, which has the weights once more"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the packed model in that folder")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Pack the network that the first run chose."""
    output = Path(arguments.output)
    from encapkeras.packing.pack import License, Run, pack
    from encapkeras.packing.packed_folder import check_free

    check_free(output, arguments.overwrite)
    own_license = License.read(arguments.license, Path(arguments.license_file) if arguments.license_file else None)
    runs = [Run(*open_folder(run, arguments.data_root, arguments.overrides)) for run in arguments.runs]
    packed = pack(
        runs,
        images_of(*runs[0], changed=True),
        output,
        own_license,
        with_safetensors=not arguments.no_safetensors,
        overwrite=arguments.overwrite,
    )
    size = sum(file.stat().st_size for file in output.iterdir()) / 1e6
    of_test = f"test accuracy {packed.test['accuracy']:.4f}"
    print(f"{printable(str(output))}: '{packed.spec['name']}', {of_test}, {size:.1f} MB, licence {packed.license}")
    print_device()
    return 0
