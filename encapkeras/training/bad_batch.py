"""A batch as a file, for a bug report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from encapkeras.files import replacing, writing


def write_batch(path: Path, x: Any, y: Any = None, sample_weight: Any = None) -> None:
    """Writes a batch as `.npz`: `x`, `y` and `sample_weight`; of several inputs `x_image`, `x_mask` and so on.

    Args:
        path: The file; its folder is made.
        x: What the model got: a tensor, or a list or map of tensors.
        y: Labels; None for none.
        sample_weight: Weights of the samples; None for none.

    Raises:
        RunFolderError: It cannot be written.

    Example:
        >>> path = getfixture("tmp_path") / "batch.npz"
        >>> write_batch(path, {"image": np.zeros((2, 4, 4, 1))}, np.array([3, 1]))
        >>> {name: array.shape for name, array in np.load(path).items()}
        {'x_image': (2, 4, 4, 1), 'y': (2,)}
    """
    named = {"x": x, "y": y, "sample_weight": sample_weight}
    arrays = dict(pair for name, value in named.items() for pair in _arrays(name, value))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _arrays(name: str, value: Any) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    else:
        yield name, keras.ops.convert_to_numpy(value)
        return
    for key, part in parts:
        yield from _arrays(f"{name}_{key}", part)
