"""`encapkeras push`: uploads a packed folder to the Hugging Face hub."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from encapkeras.errors import ArgumentError

EXAMPLES = (
    "encapkeras push my_digits user/my_digits",
    "encapkeras push my_digits user/my_digits --private",
)
PAGE = "ready_weights.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="DIR", help="a packed folder, as 'encapkeras pack' writes it")
    parser.add_argument("repository", metavar="USER/NAME", help="where to; it is made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make it private, if it is made")
    add_endpoint(parser)


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """Declare `--endpoint URL`."""
    parser.add_argument("--endpoint", metavar="URL", help="another hub than https://huggingface.co")


def check_installed() -> None:
    """Check that the package for the hub is installed."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ArgumentError("the Hugging Face hub needs the package huggingface_hub: pip install 'encapkeras[hub]'")


def run(arguments: argparse.Namespace) -> int:
    """Upload, and print the address."""
    check_installed()
    from encapkeras.packing.hub import push

    where = Path(arguments.folder)
    print(push(where, arguments.repository, private=arguments.private, endpoint=arguments.endpoint))
    return 0
