"""Looking into a trained network: which classes it sees, and what its routing layers do."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.analysis.board import write_epoch, write_iterations
from encapkeras.analysis.classify import Classified, Classifier, classify
from encapkeras.analysis.image_files import ClassifiedFiles, classify_files, prepared_image
from encapkeras.analysis.measurements import Measurement, RoutingAnalysis, append_csv, layers_of, read_csv, write_csv
from encapkeras.analysis.plots import plot_iterations, plot_votes
from encapkeras.analysis.record import analyse_routing, routing_layers

__all__ = [
    "Classified",
    "ClassifiedFiles",
    "Classifier",
    "Measurement",
    "RoutingAnalysis",
    "analyse_routing",
    "append_csv",
    "classify",
    "classify_files",
    "layers_of",
    "plot_iterations",
    "plot_votes",
    "prepared_image",
    "read_csv",
    "routing_layers",
    "write_csv",
    "write_epoch",
    "write_iterations",
]
