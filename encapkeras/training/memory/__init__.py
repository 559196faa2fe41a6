"""Memory of a training: `out_of_memory` (the error message), `advice` (which batch would fit), `peak_memory`.

`kept_memory`: freed memory stays with the process, for speed.
"""

from encapkeras.training.memory.kept_memory import freed_memory_is_kept, keep_freed_memory

__all__ = ["freed_memory_is_kept", "keep_freed_memory"]
