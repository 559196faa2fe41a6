"""From a `Spec` to a `keras.Model`.

Read `build` (a Keras layer for each node), `examine` (the same without weights, which checks the shapes),
`spec_model` (the model), `side_losses`, then `precision` and `moving_statistics`, which each forward pass uses.
"""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.model.examine import Examined, check_spec, examine_spec
from encapkeras.model.spec_model import SpecModel, build_model, load_model

__all__ = ["Examined", "SpecModel", "build_model", "check_spec", "examine_spec", "load_model"]
