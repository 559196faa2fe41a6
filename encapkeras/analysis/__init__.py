"""What the routing layers of a trained network do: statistics, tables and pictures."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.analysis.measurements import Measurement, RoutingAnalysis, read_csv, write_csv
from encapkeras.analysis.record import analyse_routing, routing_layers

__all__ = ["Measurement", "RoutingAnalysis", "analyse_routing", "read_csv", "routing_layers", "write_csv"]
