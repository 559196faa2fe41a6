"""Weights in the names and layouts of the method's released PyTorch code, to read its checkpoints and to write them."""

import encapkeras.backend  # noqa: F401  # refuses another Keras backend
from encapkeras.interop.checkpoint_file import read_checkpoint, write_checkpoint
from encapkeras.interop.state_dict import load_original_state_dict, original_state_dict

__all__ = ["load_original_state_dict", "original_state_dict", "read_checkpoint", "write_checkpoint"]
