"""Looking into a trained network: which classes it sees, and what its routing layers do."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.analysis.affine import AffineAccuracy, affine_accuracy, transformed
from encapkeras.analysis.affine_plot import plot_affine
from encapkeras.analysis.board import write_epoch, write_iterations
from encapkeras.analysis.class_errors import ClassErrors, class_errors, hardest
from encapkeras.analysis.classify import Classified, Classifier, classify
from encapkeras.analysis.classify_files import ClassifiedFiles, classify_files, prepared_image
from encapkeras.analysis.measurements import Measurement, RoutingAnalysis, append_csv, layers_of, read_csv, write_csv
from encapkeras.analysis.perturb import Decoder, Perturbed, decoders, one_of_each_class, plot_perturbed
from encapkeras.analysis.plots import plot_iterations, plot_votes
from encapkeras.analysis.record import analyse_routing, routing_layers
from encapkeras.analysis.ten_crop import ten_crop_accuracy

__all__ = [
    "AffineAccuracy",
    "ClassErrors",
    "Classified",
    "ClassifiedFiles",
    "Classifier",
    "Decoder",
    "Measurement",
    "Perturbed",
    "RoutingAnalysis",
    "affine_accuracy",
    "analyse_routing",
    "append_csv",
    "class_errors",
    "classify",
    "classify_files",
    "decoders",
    "hardest",
    "layers_of",
    "one_of_each_class",
    "plot_affine",
    "plot_iterations",
    "plot_perturbed",
    "plot_votes",
    "prepared_image",
    "read_csv",
    "routing_layers",
    "ten_crop_accuracy",
    "transformed",
    "write_csv",
    "write_epoch",
    "write_iterations",
]
