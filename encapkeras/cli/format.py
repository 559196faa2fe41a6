"""`encapkeras format SPEC`: the same spec as JSON or as YAML, in our layout."""

from __future__ import annotations

import argparse
import sys

from encapkeras.cli.arguments.output_file import add_overwrite, check_output, write_text
from encapkeras.cli.arguments.spec_arguments import add_plugins
from encapkeras.text import counted

EXAMPLES = (
    "encapkeras format mine.yaml",
    "encapkeras format mine.yaml -o mine.json",
)
PAGE = "spec_files.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("spec", metavar="SPEC", help="a YAML or JSON file, or the name of a bundled spec")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", metavar="FILE", help="write a .json, .yaml or .yml file instead of printing")
    where.add_argument("--to", choices=("json", "yaml"), help="what to print (the format that SPEC is not in)")
    add_overwrite(parser)
    add_plugins(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write or print the spec, and say how many comments are lost."""
    from encapkeras.spec.formatting import formatted
    from encapkeras.spec.parse import ENDINGS, is_json
    from encapkeras.spec.spec_files import find_spec

    source = find_spec(arguments.spec)
    if arguments.output is None:
        to_json = arguments.to == "json" if arguments.to else not is_json(source.path)
        result = formatted(source, to_json=to_json)
        print(result.text, end="")
    else:
        output = check_output(arguments, source.path, *ENDINGS)
        to_json = is_json(output)
        result = formatted(source, to_json=to_json, folder=output.parent)
        write_text(output, result.text)
    if result.lost_comments:
        comments = counted(result.lost_comments, "comment")
        why = "JSON has no comments" if to_json else "only the values are converted"
        print(f"{arguments.spec}: {comments} dropped: {why}", file=sys.stderr)
    return 0
