"""A network as TensorBoard's Graphs tab shows it: its nodes by name, blocks folded, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef

from encapkeras.losses.side_loss import LABELS
from encapkeras.model.examine import Examined
from encapkeras.spec.nodes import Reference
from encapkeras.summary.diagram import arguments_text
from encapkeras.summary.node_table import NodeRow, node_table

PRODUCER = 22  # a version of the format that TensorBoard takes

Shape = Sequence[int | None]


def graph_definition(network: Examined) -> GraphDef:
    """Return the graph of a network; dots in names become slashes, by which TensorBoard folds."""
    return GraphDef(node=_nodes(network), versions=VersionDef(producer=PRODUCER))


def _nodes(network: Examined) -> Iterator[NodeDef]:
    ports = {node.name: ("out", *(p for p in node.kind.ports if p != "out")) for node in network.spec.nodes}
    for name, shape in network.spec.inputs.items():
        yield _node(name, "input", [], [[None, *shape]])
    for labels in sorted({loss.labels for loss in network.spec.side_losses if loss.labels}):
        yield _node(labels, LABELS, [], [[None]])
    for row in node_table(network):
        names = [Reference(row.name, port) for port in ports.get(row.name, ())]
        shapes = [network.graph.tensors[reference].shape for reference in names] or [[]]
        yield _node(_path(row.name), row.layer, [_input(name, ports) for name in row.inputs], shapes, row)
    for name, reference in network.spec.outputs.items():
        loss = network.spec.losses.get(name)
        shapes = [network.graph.tensors[reference].shape]
        yield _node(f"outputs/{name}", loss.loss if loss else "output", [_input(str(reference), ports)], shapes)


def _node(name: str, layer: str, inputs: Sequence[str], shapes: Sequence[Shape], row: NodeRow | None = None) -> NodeDef:
    attributes = {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=map(_dimensions, shapes)))}
    if row:
        attributes["weights"] = AttrValue(i=row.weights)
        for argument, value in row.arguments.items():
            text = arguments_text({argument: value}).removeprefix(f"{argument}: ")
            attributes[argument] = AttrValue(s=text.encode())
    return NodeDef(name=name, op=layer, input=inputs, attr=attributes)


def _dimensions(shape: Shape) -> TensorShapeProto:
    """Return a shape in TensorBoard's form, where -1 is the batch and other unknown sizes."""
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1 if size is None else size) for size in shape])


def _input(text: str, ports: dict[str, tuple[str, ...]]) -> str:
    """Return a reference as TensorBoard writes it: with the number of the port."""
    name, _, port = text.partition("/")
    if name not in ports:  # an input of the model, or labels
        return text
    number = ports[name].index(port or "out")
    return f"{_path(name)}:{number}" if number else _path(name)


def _path(name: str) -> str:
    return name.replace(".", "/")
