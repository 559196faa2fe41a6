"""`encapkeras evaluate`: accuracy and loss of a run, measured again."""

from __future__ import annotations

import argparse
import json
import sys

from encapkeras.cli.spec_arguments import add_plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `encapkeras evaluate`."""
    parser.add_argument("run_dir", metavar="RUN", help="run folder of a training")
    add_plugins(parser)
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="images to use (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measures with the weights that training chose."""
    from encapkeras.data import load
    from encapkeras.errors import DataError
    from encapkeras.graph import load_spec
    from encapkeras.training import RunFolder, measure
    from encapkeras.training.measure import data_of
    from encapkeras.training.memory import saying_how_to_save_memory

    folder = RunFolder(arguments.run_dir)
    folder.check_run()
    folder.check_plugins()
    spec = load_spec(folder.spec)
    data = data_of(spec)
    checkpoint = folder.chosen(data.validation > 0)
    if not folder.results.is_file():
        print(f"run {folder.path} is unfinished: it has no results.json. This is {checkpoint}.", file=sys.stderr)
    with saying_how_to_save_memory():
        splits = load(data, seed=spec.train.seed)
        batches = splits.test if arguments.split == "test" else splits.validation
        if batches is None:
            raise DataError(f"run {folder.path} has no validation part (data.validation is 0); use --split test")
        figures = {"split": arguments.split, **measure(checkpoint, batches, splits.info), "images": batches.num_images}
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print("{split} accuracy {accuracy:.4f}, loss {loss:.4f}, {images:,} images".format(**figures))
    return 0
