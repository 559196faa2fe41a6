"""One training in many processes, on many GPUs and machines: torchrun starts them, torch.distributed connects them."""

import encapkeras.backend  # noqa: F401  # checks the Keras backend
from encapkeras.distribution.data_parallel import DataParallel
from encapkeras.distribution.processes import Processes, finish, initialize

__all__ = ["DataParallel", "Processes", "finish", "initialize"]
