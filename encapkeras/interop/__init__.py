"""Networks for other programs: files that predict, and weights as the method's released PyTorch code has them."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.interop.checkpoint_file import read_checkpoint, write_checkpoint
from encapkeras.interop.export import export_model
from encapkeras.interop.state_dict import load_original_state_dict, original_state_dict

__all__ = ["export_model", "load_original_state_dict", "original_state_dict", "read_checkpoint", "write_checkpoint"]
