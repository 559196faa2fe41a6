"""Networks for other programs: files that predict, and weights in the format of the method's released PyTorch code.

Read `export`; then `checkpoint_file` and `array_files`, `state_dict` (both directions), `original_tensor` (one weight),
`layer_names`, `window_names`, `attention_names` and `bayes_names` (names in a layer), `network_names`, `residual_names`
and `efficient_names` (names in a network) and `module_names` (by the names of its nodes), which walk its `connections`.
"""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.interop.checkpoint_file import read_checkpoint, write_checkpoint
from encapkeras.interop.export import export_model
from encapkeras.interop.state_dict import load_original_state_dict, original_state_dict

__all__ = ["export_model", "load_original_state_dict", "original_state_dict", "read_checkpoint", "write_checkpoint"]
