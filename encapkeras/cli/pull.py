"""`encapkeras pull`: downloads a packed folder from the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from encapkeras.cli.push import add_endpoint, check_installed
from encapkeras.errors import printable

EXAMPLES = (
    "encapkeras pull user/my_digits -o my_digits",
    "encapkeras pull user/my_digits -o my_digits --revision v1",
)
PAGE = "ready_weights.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("repository", metavar="USER/NAME", help="where it is on the hub")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--revision", metavar="REVISION", help="a branch, tag or commit (the newest)")
    parser.add_argument("--overwrite", action="store_true", help="replace the packed model in that folder")
    add_endpoint(parser)


def run(arguments: argparse.Namespace) -> int:
    """Download, check the hashes, and print where it is."""
    check_installed()
    from encapkeras.packing.hub import pull

    output = pull(
        arguments.repository,
        Path(arguments.output),
        revision=arguments.revision,
        endpoint=arguments.endpoint,
        overwrite=arguments.overwrite,
    )
    print(f"{printable(str(output))}: all files are as they were packed")
    return 0
