"""`encapkeras show SPEC`: the nodes of a network, their sizes and costs, as a table or a picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encapkeras.cli.arguments.output_file import add_overwrite, check_free, file_format, write_text
from encapkeras.cli.arguments.spec_arguments import add_spec_arguments
from encapkeras.cli.terminal.difference_table import difference_data, print_difference
from encapkeras.cli.terminal.node_table import print_nodes
from encapkeras.errors import ArgumentError, printable
from encapkeras.text import count_text, memory_text

if TYPE_CHECKING:
    from encapkeras.model.examine import Examined
    from encapkeras.summary.cost import Cost, MemoryEstimate
    from encapkeras.summary.node_table import NodeRow

MOST_BOXES = 1000  # in a picture
TABLE = "table"
PICTURES = ("svg", "mermaid")
ENDINGS = {"json": ".json", "svg": ".svg", "mermaid": ".mmd"}
EXAMPLES = (
    "encapkeras show quickstart",
    "encapkeras show mine.yaml -o mine.svg",
    "encapkeras show mine.yaml --diff quickstart",
)
PAGE = "show.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_spec_arguments(parser)
    parser.add_argument("--batch", type=int, metavar="N", help="batch size for the memory estimate (data.batch_size)")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where the network is to be trained, for the memory estimate (where this machine would train it)",
    )
    parser.add_argument(
        "--diff", metavar="OTHER", help="show what changes from this spec to SPEC; --set changes only SPEC"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--mermaid", action="store_true", help="print a Mermaid flowchart, which GitHub draws")
    picture.add_argument("--svg", metavar="FILE.svg", help="write a picture, as -o does")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the file to write: a picture (.svg), a Mermaid flowchart (.mmd), or all that is known (.json)",
    )
    add_overwrite(parser)


def specs_of(arguments: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The spec with its overrides."""
    return [(arguments.spec, arguments.overrides)]


def run(arguments: argparse.Namespace) -> int:
    """Show the network, without creating weights."""
    form = _format(arguments)
    from encapkeras.model.examine import examine_spec

    network = examine_spec(arguments.spec, arguments.overrides)
    if form in PICTURES and len(network.spec.nodes) > MOST_BOXES:
        raise ArgumentError(f"a picture shows up to {MOST_BOXES} nodes; the spec has {len(network.spec.nodes)}")
    if arguments.diff is not None:
        text = _difference(network, arguments, form)
    else:
        text = _text(_shown(network, arguments), form)
    if arguments.output is None:
        print(text, end="")
    else:
        write_text(Path(arguments.output), text)
        print(f"{printable(arguments.output)}: written")
    return 0


def _format(arguments: argparse.Namespace) -> str:
    """Return what is asked for, after the checks that need no network."""
    if arguments.batch is not None and arguments.batch < 1:
        raise ArgumentError(f"--batch must be a number of images, at least 1; received {arguments.batch}")
    asked = [form for form in ENDINGS if getattr(arguments, form) not in (None, False)]
    if len(asked) > 1:
        raise ArgumentError("--json, --svg and --mermaid are different formats; choose one")
    form, option = asked[0] if asked else None, " with -o"
    if arguments.svg is not None:
        if arguments.output is not None:
            raise ArgumentError("-o and --svg both name the file to write; leave out one of them")
        if not arguments.svg.endswith(".svg"):
            raise ArgumentError(f"--svg must name a .svg file; received '{printable(arguments.svg)}'")
        arguments.output, option = arguments.svg, " with --svg"
    elif arguments.output is not None:
        form = file_format(arguments.output, ENDINGS, form, option="--{}")
    if arguments.diff is not None and form in PICTURES:
        raise ArgumentError("--diff prints a table or, with --json, data, and draws nothing; leave out the picture")
    if arguments.output is not None:
        check_free(Path(arguments.output), arguments.overwrite, option=option)
    return form or TABLE


@dataclass(frozen=True)
class _Shown:
    """What is known of a network."""

    network: Examined
    rows: list[NodeRow]
    costs: Mapping[str, Cost]
    memory: MemoryEstimate
    unused: list[str]
    batch_size: int
    batch_from: str

    @property
    def notes(self) -> dict[str, str]:
        """Why something is unknown, by the name of the node."""
        return {name: cost.note for name, cost in self.costs.items() if cost.note}

    @property
    def multiply_adds(self) -> int:
        """The sum of those that are known."""
        return sum(cost.multiply_adds or 0 for cost in self.costs.values())

    @property
    def votes_bytes(self) -> int:
        """The memory that all votes together would take."""
        return sum(cost.votes_bytes or 0 for cost in self.costs.values())


def _shown(network: Examined, arguments: argparse.Namespace) -> _Shown:
    from encapkeras.summary.cost import batch_size_of, memory_estimate, node_costs
    from encapkeras.summary.node_table import node_table, unused_nodes

    batch_size = arguments.batch or batch_size_of(network.spec)
    given = "--batch" if arguments.batch else "data.batch_size" if network.spec.data else "the default"
    costs = node_costs(network, batch_size, arguments.device)
    memory = memory_estimate(network, batch_size, costs=costs)
    return _Shown(network, node_table(network), costs, memory, unused_nodes(network), batch_size, given)


def _text(shown: _Shown, form: str) -> str:
    """Return what is printed or written; a table is printed at once, in what the terminal takes."""
    from encapkeras.summary.diagram import diagram_of
    from encapkeras.summary.drawing.svg import as_svg
    from encapkeras.summary.mermaid import as_mermaid

    if form == TABLE:
        _print(shown)
        return ""
    if form == "json":
        return f"{json.dumps(_as_data(shown), indent=2)}\n"
    diagram = diagram_of(shown.network, shown.costs, shown.batch_size)
    return as_svg(diagram) if form == "svg" else f"{as_mermaid(diagram)}\n"


def _as_data(shown: _Shown) -> dict[str, Any]:
    memory = shown.memory._asdict()
    return {
        "name": shown.network.spec.name,
        "batch_size": shown.batch_size,
        "nodes": [_row_data(row, shown.costs[row.name]) for row in shown.rows],
        "parameters": sum(row.weights for row in shown.rows),
        "fixed_parameters": sum(row.fixed_weights for row in shown.rows),
        "multiply_adds": shown.multiply_adds,
        "votes_bytes": shown.votes_bytes,
        "memory_bytes": {**memory, "unknown": list(shown.memory.unknown), "total": shown.memory.total},
        "unused": shown.unused,
    }


def _row_data(row: NodeRow, cost: Cost) -> dict[str, Any]:
    from encapkeras.summary.difference import measures

    return {
        "name": row.name,
        "block": row.block,
        "layer": row.layer,
        "inputs": list(row.inputs),
        "roles": list(row.roles),
        "arguments": dict(row.arguments),
        **measures(row, cost),
        "note": cost.note,
    }


def _print(shown: _Shown) -> None:
    spec, memory = shown.network.spec, shown.memory
    at_least = "at least " if shown.notes else ""
    print_nodes(spec.name, [(row, shown.costs[row.name]) for row in shown.rows])
    print(f"batch: {shown.batch_size} images ({shown.batch_from})")
    print(f"parameters: {sum(row.weights for row in shown.rows):,}")
    print(
        f"non-trainable parameters (moving statistics, frozen nodes): {sum(row.fixed_weights for row in shown.rows):,}"
    )
    print(f"multiply-adds of an image: {at_least}{count_text(shown.multiply_adds)}")
    if shown.votes_bytes:
        print(f"votes, not created all at once unless few: {memory_text(shown.votes_bytes)}")
    parts = {
        "weights": memory.parameters,
        "gradients": memory.gradients,
        spec.train.optimizer.kind: memory.optimizer,
        "nodes": memory.activations,
        "images": memory.images,
    }
    print(f"memory of a training step, at least: {memory_text(memory.total)}")
    print(f"    {', '.join(f'{name} {memory_text(size)}' for name, size in parts.items())}")
    for name, note in shown.notes.items():
        print(f"? {name}: {note}")
    if shown.network.variants:
        print(f"sweep: {len(shown.network.variants)} networks; this is the spec without it")
    if shown.unused:
        print(f"unused: {', '.join(shown.unused)} (reach no output)")


def _difference(network: Examined, arguments: argparse.Namespace, form: str) -> str:
    """As `_text`, of what changes from another network."""
    from encapkeras.model.examine import examine_spec
    from encapkeras.summary.cost import batch_size_of
    from encapkeras.summary.difference import difference, side_of

    other = examine_spec(arguments.diff)
    before, after = (
        side_of(each, arguments.batch or batch_size_of(each.spec), arguments.device) for each in (other, network)
    )
    found = difference(before, after)
    if form == "json":
        return f"{json.dumps(difference_data(before, after, found), indent=2)}\n"
    names = [printable(arguments.diff), " ".join([printable(arguments.spec), *arguments.overrides])]
    print_difference(names, before, after, found)
    return ""
