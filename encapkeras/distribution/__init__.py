"""One training in several processes, on many GPUs and machines: torchrun starts them, torch.distributed connects them.

Read `processes` (connect, exchange values, fail together), `attempt` (a name for each start by torchrun),
`data_parallel` (the strategy), `parallel_steps` (a step on a part of the batch), `gradients`, `batch_norm`.
"""

import encapkeras.backend  # noqa: F401  # checks the Keras backend
from encapkeras.distribution.data_parallel import DataParallel
from encapkeras.distribution.processes import Processes, finish, initialize

__all__ = ["DataParallel", "Processes", "finish", "initialize"]
