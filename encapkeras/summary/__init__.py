"""What is known of a network without training it.

Read `node_table` (shapes and parameters of each node), `cost` (multiply-adds and memory), `difference` (between two
specs), `main_settings`, then the pictures: `diagram` (what they show), `mermaid` (flowcharts), `drawing/` (SVG) and
`in_notebooks`.
"""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.summary.cost import Cost, MemoryEstimate, memory_estimate, node_costs
from encapkeras.summary.diagram import Diagram, diagram_of
from encapkeras.summary.drawing.svg import as_svg
from encapkeras.summary.in_notebooks import as_html
from encapkeras.summary.main_settings import main_settings
from encapkeras.summary.mermaid import as_mermaid
from encapkeras.summary.node_table import NodeRow, node_table, parameters, unused_nodes

__all__ = [
    "Cost",
    "Diagram",
    "MemoryEstimate",
    "NodeRow",
    "as_html",
    "as_mermaid",
    "as_svg",
    "diagram_of",
    "main_settings",
    "memory_estimate",
    "node_costs",
    "node_table",
    "parameters",
    "unused_nodes",
]
