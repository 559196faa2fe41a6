"""What a trained network does: the classes it sees, how robust they are, and how its routing layers come to them.

For classes read `probabilities` first (what scores mean), then `scores` (metrics of all of them), `calibrate`,
`classify` (`Classifier` gives the scores of images), `classify_files`, `class_errors`, `confusion`, `ten_crop`,
`affine` with `affine_plot`, and `perturb`. For routing read `analyse_routing` first, then
`routing_statistics` (sums over all votes, which come in `vote_chunks`), `window_statistics` and `stack_statistics`
(the same of windows, from all votes at once), `measurements` (the results, as CSV too),
`plots` and `tensorboard`. A routing layer can be analysed if it has a `routing_record`. For single images read
`explain` first, then `flow_path` (through the network), `agreement_flow` (through one layer), `receptive_fields` (from
a map of capsules to the image), `deletion` (what such maps are worth) and `explain_plot`.
"""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.analysis.affine import AffineAccuracy, affine_accuracy, transformed
from encapkeras.analysis.affine_plot import plot_affine
from encapkeras.analysis.analyse_routing import analyse_routing, routing_layers
from encapkeras.analysis.calibrate import Calibration, calibrate, plot_reliability
from encapkeras.analysis.class_errors import ClassErrors, class_errors, hardest
from encapkeras.analysis.classify import Classified, Classifier, classify
from encapkeras.analysis.classify_files import ClassifiedFiles, classify_files, image_paths, prepared_image
from encapkeras.analysis.confusion import confusion
from encapkeras.analysis.deletion import Curves, deletion_and_insertion, measure_explanations
from encapkeras.analysis.explain import Explainer, Explanation, explain
from encapkeras.analysis.explain_plot import plot_curves, plot_explanation
from encapkeras.analysis.measurements import Measurement, RoutingAnalysis, append_csv, layers_of, read_csv, write_csv
from encapkeras.analysis.perturb import Decoder, Perturbed, decoders, one_of_each_class, plot_perturbed
from encapkeras.analysis.plots import plot_iterations, plot_votes
from encapkeras.analysis.probabilities import Probabilities, calibration_bins, calibration_error, fit_temperature
from encapkeras.analysis.scores import ClassScores, Scores
from encapkeras.analysis.ten_crop import ten_crop_accuracy
from encapkeras.analysis.tensorboard import write_epoch, write_iterations

__all__ = [
    "AffineAccuracy",
    "Calibration",
    "ClassErrors",
    "ClassScores",
    "Classified",
    "ClassifiedFiles",
    "Classifier",
    "Curves",
    "Decoder",
    "Explainer",
    "Explanation",
    "Measurement",
    "Perturbed",
    "Probabilities",
    "RoutingAnalysis",
    "Scores",
    "affine_accuracy",
    "analyse_routing",
    "append_csv",
    "calibrate",
    "calibration_bins",
    "calibration_error",
    "class_errors",
    "classify",
    "classify_files",
    "confusion",
    "decoders",
    "deletion_and_insertion",
    "explain",
    "fit_temperature",
    "hardest",
    "image_paths",
    "layers_of",
    "measure_explanations",
    "one_of_each_class",
    "plot_affine",
    "plot_curves",
    "plot_explanation",
    "plot_iterations",
    "plot_perturbed",
    "plot_reliability",
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
