"""From a `Spec` to a `keras.Model`.

Read `build` (a Keras layer for each node, with `make_layer`), `examine` (the same without weights, which checks the
shapes, and `shape_warnings`), `spec_model` (the model), `side_losses`, then `precision` and `moving_statistics`, which
each forward pass uses; `load_model` reads saved models.
"""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.model.examine import Examined, check_spec, examine_spec
from encapkeras.model.load_model import load_model
from encapkeras.model.spec_model import SpecModel, build_model

__all__ = ["Examined", "SpecModel", "build_model", "check_spec", "examine_spec", "load_model"]
