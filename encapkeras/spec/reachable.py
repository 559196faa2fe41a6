"""Which nodes of a spec are part of its network: those that lead to an output or a side loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encapkeras.spec.spec import Spec


def reached(spec: Spec) -> set[str]:
    """The names of the nodes that lead to an output or a side loss; the others are checked, and never built."""
    needed = {reference.node for reference in spec.outputs.values()}
    needed.update(reference.node for loss in spec.side_losses for reference in loss.tensors.values())
    for node in reversed(spec.nodes):  # each before those that it needs
        if node.name in needed:
            needed.update(reference.node for reference in node.inputs)
    return needed & {node.name for node in spec.nodes}
