"""What the routing layers of a trained network do: statistics, tables and pictures."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.analysis.board import write_epoch, write_iterations
from encapkeras.analysis.measurements import Measurement, RoutingAnalysis, append_csv, layers_of, read_csv, write_csv
from encapkeras.analysis.plots import plot_iterations, plot_votes
from encapkeras.analysis.record import analyse_routing, routing_layers

__all__ = [
    "Measurement",
    "RoutingAnalysis",
    "analyse_routing",
    "append_csv",
    "layers_of",
    "plot_iterations",
    "plot_votes",
    "read_csv",
    "routing_layers",
    "write_csv",
    "write_epoch",
    "write_iterations",
]
