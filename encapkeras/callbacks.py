"""Keras callbacks; each works in any `model.fit`."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.training.callbacks import *  # noqa: F403  # all that it declares public
from encapkeras.training.callbacks import __all__ as __all__
