"""`encapkeras new FILE --dataset NAME`: writes a spec with comments to begin with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from encapkeras.cli.arguments.output_file import add_overwrite, check_free, write_text
from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.errors import ArgumentError, printable, suggest
from encapkeras.text import quoted

ENDINGS = (".yaml", ".yml")
STANDARD_OUTPUT = "-"
EXAMPLES = (
    "encapkeras new mine.yaml --dataset cifar10",
    "encapkeras new mine.yaml --dataset image_folder --root photos/",
    "encapkeras new - --dataset digits --routing dynamic",
    "encapkeras new mine.yaml --dataset digits --backbone mobilenet_v3_small",
)
PAGE = "spec_files.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", help="the .yaml file to write, or - to print")
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help="the data set: digits, fashion_mnist, cifar10, npz with --path ...",
    )
    parser.add_argument("--path", metavar="FILE.npz", help="your own images, for --dataset npz")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="folder of the data set; of image_folder, the one with a folder of images for each class",
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="height and width to which images are resized")
    parser.add_argument(
        "--routing",
        choices=("none", "master", "approximate", "dynamic", "em"),
        default="approximate",
        help="how capsules are routed; none: a plain network on the same convolutions, to compare with (%(default)s)",
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="a network of keras.applications in the place of the convolutions, such as mobilenet_v3_small",
    )
    parser.add_argument("--ot", action="store_true", help="add optimal-transport losses")
    parser.add_argument(
        "--size",
        choices=("small", "medium", "large"),
        default="small",
        help="small trains in about a minute on a laptop, large needs a GPU (%(default)s)",
    )
    add_overwrite(parser)
    add_plugins(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write or print the spec."""
    prints = arguments.file == STANDARD_OUTPUT
    file, shown = Path(arguments.file), printable(arguments.file)
    if not prints:
        if file.suffix not in ENDINGS:
            raise ArgumentError(
                f"a starter spec must be a {' or '.join(ENDINGS)} file, since it has comments; received '{shown}'. "
                "'encapkeras format' converts it to .json."
            )
        check_free(file, arguments.overwrite)
    text = _text(arguments, None if prints else file)
    if prints:
        sys.stdout.write(text)
        return 0
    write_text(file, text)
    print(f"wrote {shown}: its comments say what to change; to train it: encapkeras train {quoted(shown)}")
    return 0


def _text(arguments: argparse.Namespace, file: Path | None) -> str:
    from encapkeras.data import DataSettings
    from encapkeras.editor.starter import starter_spec
    from encapkeras.spec.sections import NOT_IN_NAMES
    from encapkeras.validation import Checker

    given = {key: getattr(arguments, key) for key in ("dataset", "path", "root", "image_size")}
    settings = {key: value for key, value in given.items() if value is not None}
    problems = Checker(DataSettings).problems(settings)
    if problems:
        raise ArgumentError(
            "\n".join(f"--{'.'.join(map(str, p.path)).replace('_', '-') or 'dataset'}: {p.text}" for p in problems)
        )
    data, backbone = DataSettings(**settings), _backbone(arguments)
    parts = (arguments.dataset, arguments.backbone, arguments.routing)
    name = NOT_IN_NAMES.sub("-", file.stem if file else "-".join(filter(None, parts)))
    return starter_spec(
        name,
        data,
        file.name if file else "FILE",
        folder=file.parent if file else None,
        routing=arguments.routing,
        size=arguments.size,
        ot=arguments.ot,
        backbone=backbone,
    )


def _backbone(arguments: argparse.Namespace) -> str | None:
    """Return the name in Keras of the network that was asked for, with or without capitals and underscores."""
    if arguments.backbone is None:
        return None
    if arguments.ot:
        raise ArgumentError("--ot aligns two convolutions, and --backbone replaces these. Leave out one of them")
    from encapkeras.spec.keras_names import applications_in_source

    names = {name.lower(): name for name in applications_in_source()}
    found = names.get(arguments.backbone.replace("_", "").lower())
    if found is None:
        text = f"keras.applications has no network '{printable(arguments.backbone)}'"
        raise ArgumentError(f"--backbone: {text}. {suggest(arguments.backbone, names.values())}")
    return found
