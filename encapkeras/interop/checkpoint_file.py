"""State dicts in files, as `torch.save` writes them; and named arrays in other files."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from encapkeras.errors import CheckpointError, TrainingError
from encapkeras.files import open_regular, replacing
from encapkeras.interop.array_files import SUFFIXES, read_arrays
from encapkeras.text import cut, listed
from encapkeras.torch_internals import DamagedFile, load_saved
from encapkeras.training.memory.out_of_memory import explain_out_of_memory


def read_checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read the state dict in a file of `torch.save`, to the CPU, or named arrays; no code in the file is run.

    Checkpoints often keep the state dict next to other things, such as the epoch and the optimizer's state. It is found
    under any name, if it is the only map with arrays of floating-point numbers. If the top level has such arrays, it is
    the state dict itself.

    Files with other suffixes hold weights of Keras 2: `.npz` arrays by name, `.h5` or `.hdf5` those that `save_weights`
    wrote, which get names such as `conv1.kernel` by the order of the layers.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file cannot be read, is damaged or not a checkpoint, needs code to load, or has no state
            dict or several.
        TrainingError: Out of memory.

    Examples:
        >>> path = getfixture("tmp_path") / "checkpoint.pth"
        >>> torch.save({"epoch": 3, "state_dict": {"weight": torch.ones(2)}}, path)
        >>> read_checkpoint(path)
        {'weight': tensor([1., 1.])}
    """
    if Path(path).suffix.lower() in SUFFIXES:
        with explain_out_of_memory("Free memory to read the file."):
            return read_arrays(Path(path))
    content = _loaded(Path(path))
    if isinstance(content, Mapping):
        if _has_weights(content):
            return content
        held = {key: value for key, value in content.items() if _has_weights(value)}
        if len(held) > 1:
            raise CheckpointError(
                f"'{path}' holds several maps of tensors, under {listed(map(repr, held))}. Save the one you mean "
                "alone: torch.save(torch.load(file)[key], other_file)."
            )
        if held:
            state_dict: Mapping[str, Any] = next(iter(held.values()))
            return state_dict
    raise CheckpointError(
        f"'{path}' holds no state dict (a map of floating-point tensors by name), but {_described(content)}"
    )


def write_checkpoint(state_dict: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Write a state dict, whole or not at all, from any device, so that it loads on the CPU.

    Args:
        state_dict: Tensors by name.
        path: The file, which is replaced.

    Raises:
        RunFolderError: The file cannot be written.

    Examples:
        >>> path = getfixture("tmp_path") / "checkpoint.pth"
        >>> write_checkpoint({"weight": torch.ones(2)}, path)
        >>> torch.load(path)
        {'weight': tensor([1., 1.])}
    """
    content = io.BytesIO()  # torch itself raises all sorts of errors where a disk is full
    torch.save({name: tensor.cpu() for name, tensor in state_dict.items()}, content)
    with replacing(Path(path)) as file:
        file.write_bytes(content.getvalue())


def _loaded(path: Path) -> Any:
    try:
        with explain_out_of_memory("Free memory to read the checkpoint."), open_regular(path) as file:
            return load_saved(file)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except TrainingError:
        raise
    except DamagedFile as error:
        raise CheckpointError(f"'{path}' is damaged: {error}. Get the file again.") from error
    except Exception as error:  # torch raises whatever its reading of damaged bytes ends in
        needed = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if needed:
            raise CheckpointError(
                f"'{path}' holds more than numbers: it needs {cut(needed[1], 100)}, and loading that could run "
                "code from the file, so it is refused. Where the file comes from, save the weights alone: "
                "torch.save(model.state_dict(), file)."
            ) from error
        raise CheckpointError(f"'{path}' is not a file of torch.save, or is damaged") from error


def _has_weights(value: Any) -> bool:
    """Return whether it is a map with arrays; single numbers and random states in checkpoints are not weights."""
    entries = value.values() if isinstance(value, Mapping) else ()
    return any(isinstance(entry, torch.Tensor) and entry.is_floating_point() and entry.dim() > 0 for entry in entries)


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a map of {listed(map(repr, content), most=20) or 'nothing'}"
    return f"a {type(content).__name__}"
