"""Several networks, several seeds each, side by side: `encapkeras compare`.

Read `plan` (which trainings), `compare` (runs them), `folder` (what an earlier comparison left), `result` with `rows`
and `statistics` (means, spreads and differences), then `tables`, `latex`, `plot` and `hparams`, which show them.
"""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.comparison.compare import compare

__all__ = ["compare"]
