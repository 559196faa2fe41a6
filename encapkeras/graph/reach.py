"""Which nodes of a spec are part of its network: those that lead to an output or a side loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encapkeras.graph.check import Node
    from encapkeras.graph.spec import Spec


def reached(spec: Spec) -> set[str]:
    """The names of the nodes that lead to an output or a side loss; the others are checked, and never built.

    Args:
        spec: A spec without mistakes.

    Example:
        >>> from encapkeras import load_spec
        >>> sorted(reached(load_spec("quickstart", ["model.outputs.classes=stage1"])))
        ['stage1', 'stem']
    """
    ends = [reference.node for reference in spec.outputs.values()]
    ends += [reference.node for loss in spec.side_losses for reference in loss.tensors.values()]
    return leading_to(ends, spec.nodes)


def leading_to(ends: Iterable[str], nodes: Sequence[Node]) -> set[str]:
    """The names of the nodes that some need, directly or not, and their own.

    Args:
        ends: The names of nodes; those of inputs do no harm.
        nodes: All nodes, each after those that it needs.
    """
    found = set(ends)
    for node in reversed(nodes):
        if node.name in found:
            found.update(reference.node for reference in node.inputs)
    return found & {node.name for node in nodes}
