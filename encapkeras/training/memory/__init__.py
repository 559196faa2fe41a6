"""Memory of a training: `out_of_memory` (the error message), `advice` (which batch would fit), `peak_memory`."""
