"""What a picture of a network shows: boxes, arrows and blocks, without places. `mermaid` and `drawing` draw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras

from encapkeras.errors import printable
from encapkeras.layers import LAYERS
from encapkeras.losses.side_loss import LABELS
from encapkeras.model.examine import Examined
from encapkeras.summary.cost import Cost
from encapkeras.summary.node_table import SIDE_LOSS, NodeRow, node_table
from encapkeras.text import count_text, memory_text, shape_text

Kind = Literal["input", "convolution", "capsules", "routing", "keras", "own", "loss", "output"]

KINDS: dict[Kind, str] = {
    "input": "input, output",
    "convolution": "convolution",
    "capsules": "capsules",
    "routing": "routing",
    "keras": "Keras",
    "own": "your own layer",
    "loss": "side loss, in training",
}
"""What the colors mean; an output has that of an input."""


@dataclass(frozen=True)
class Box:
    """A node, an input, an output or a side loss."""

    key: str  # unique
    title: str  # its name, within its block
    kind: Kind  # its color
    layer: str = ""  # its `layer` or `loss`; empty for an input
    arguments: str = ""  # the layer's own, without initializers, regularizers and constraints
    shape: str = ""  # of its output
    size: str = ""  # its weights, and multiply-adds of an image; empty if it has none
    block: str = ""  # the instance of a block that it is in; empty for none
    remark: str = ""  # everything about it


@dataclass(frozen=True)
class Arrow:
    """A tensor from one box to another."""

    source: str
    target: str
    port: str = ""  # of the source, if it is not `out`
    role: str = ""  # what it is to a side loss

    @property
    def label(self) -> str:
        """What is written on it."""
        return ": ".join(text for text in (self.role, self.port) if text)


@dataclass(frozen=True)
class Diagram:
    """A network as boxes, each after those that its arrows come from, and arrows; `subtitle` says how large it is."""

    title: str
    subtitle: str
    boxes: Sequence[Box]
    arrows: Sequence[Arrow]


@dataclass(frozen=True)
class Block:
    """The instance of a block, or the whole network."""

    path: str  # its name with those around it, such as `block3.convolutions`; empty for the network
    members: list[Box | Block]  # each after those that its arrows come from

    @property
    def title(self) -> str:
        """Its name, within the block around it."""
        return self.path.rpartition(".")[2]


def blocks_of(diagram: Diagram) -> Block:
    """Return the boxes of a diagram, within their blocks."""
    blocks = {"": Block("", [])}

    def block(path: str) -> Block:
        if path not in blocks:
            blocks[path] = Block(path, [])
            block(path.rpartition(".")[0]).members.append(blocks[path])
        return blocks[path]

    for box in diagram.boxes:
        block(box.block).members.append(box)
    return blocks[""]


def diagram_of(network: Examined, costs: Mapping[str, Cost], batch_size: int) -> Diagram:
    """Return the picture of a network: its nodes that reach an output, and its side losses.

    Args:
        network: The result of `examine_spec`.
        costs: The result of `node_costs` for it.
        batch_size: The batch size of the costs.

    Examples:
        >>> from encapkeras.model.examine import examine_spec
        >>> from encapkeras.summary.cost import node_costs
        >>> network = examine_spec("quickstart")
        >>> [box.title for box in diagram_of(network, node_costs(network), 64).boxes]
        ['image', 'stem', 'stage1', 'stage2', 'digits', 'lengths', 'classes']
    """
    spec = network.spec
    rows = node_table(network)
    boxes = [Box(name, name, "input", shape=shape_text(shape)) for name, shape in spec.inputs.items()]
    arrows = []
    for row in rows:
        layer = None if row.is_loss else network.graph.layers[row.name]
        boxes.append(_box(row, _kind(row, layer), costs[row.name]))
        roles = row.roles or ("",) * len(row.inputs)
        arrows += [
            _arrow(reference, row.name, role)
            for reference, role in zip(row.inputs, roles, strict=True)
            if role != LABELS
        ]
    for name, reference in spec.outputs.items():
        loss = f"{spec.losses[name].loss} loss" if name in spec.losses else ""
        shape = shape_text(tuple(network.graph.tensors[reference].shape[1:]))
        boxes.append(Box(f"outputs/{name}", name, "output", layer=loss, shape=shape))
        arrows.append(_arrow(str(reference), f"outputs/{name}"))
    return Diagram(spec.name, _subtitle(rows, costs, batch_size), boxes, arrows)


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Return arguments on one line, much as a spec has them."""
    return ", ".join(f"{printable(name)}: {_plain(value)}" for name, value in arguments.items())


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{arguments_text(value)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return printable(str(value))


def _box(row: NodeRow, kind: Kind, cost: Cost) -> Box:
    of_weights = ("_initializer", "_regularizer", "_constraint")
    shown = {name: row.arguments[name] for name in _in_order(row) if not name.endswith(of_weights)}
    name = row.name.removeprefix(SIDE_LOSS) if row.is_loss else row.name.removeprefix(f"{row.block}.")
    size = f"{count_text(row.weights)} · {count_text(cost.multiply_adds)}"
    remark = [
        f"{row.name}: {row.layer}",
        arguments_text(row.arguments),
        printable(row.doc),
        f"{row.weights:,} weights, {count_text(cost.multiply_adds)} multiply-adds an image, "
        f"{memory_text(cost.kept_bytes)} kept for the backward pass",
        f"votes would take {memory_text(cost.votes_bytes)}" if cost.votes_bytes else "",
        cost.note,
    ]
    return Box(
        key=row.name,
        title=name,
        kind=kind,
        layer=row.layer,
        arguments=arguments_text(shown),
        shape="one number" if row.is_loss else shape_text(row.output_shape),
        size=size if row.weights or cost.multiply_adds != 0 else "",
        block=row.block,
        remark="\n".join(line for line in remark if line),
    )


def _in_order(row: NodeRow) -> list[str]:
    """Return the names of the arguments, in the order of the layer's own signature if it is registered."""
    known = list(LAYERS[row.layer].arguments) if row.layer in LAYERS else []
    return sorted(row.arguments, key=lambda name: known.index(name) if name in known else len(known))


def _kind(row: NodeRow, layer: keras.layers.Layer | None) -> Kind:
    if layer is None:
        return "loss"
    if row.layer.startswith("keras."):
        return "convolution" if "Conv" in row.layer else "keras"
    declared: Kind | Literal[""] = getattr(layer, "drawn_as", "")
    return declared or ("capsules" if type(layer).__module__.startswith("encapkeras.") else "own")


def _arrow(reference: str, target: str, role: str = "") -> Arrow:
    source, _, port = reference.partition("/")
    return Arrow(source, target, "" if port == "out" else port, role)


def _subtitle(rows: Sequence[NodeRow], costs: Mapping[str, Cost], batch_size: int) -> str:
    work = sum(cost.multiply_adds or 0 for cost in costs.values())
    kept = sum(cost.kept_bytes or 0 for cost in costs.values())
    unknown = any(cost.kept_bytes is None for cost in costs.values())
    least = "at least " if unknown else ""
    return (
        f"{sum(row.weights for row in rows):,} parameters, {least}{count_text(work)} multiply-adds an image, "
        f"{least}{memory_text(kept)} of activations at batch {batch_size}"
    )
