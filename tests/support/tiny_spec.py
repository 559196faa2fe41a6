"""A spec whose training takes a moment: a small dense network on the digits."""

from pathlib import Path
from typing import Any

import yaml


def tiny_spec(**train: Any) -> dict[str, Any]:
    """The spec, with the given settings in its `train:` section."""
    return {
        "spec": "encapkeras/1",
        "name": "tiny",
        "data": {"dataset": "digits", "batch_size": 128},
        "model": {
            "nodes": {
                "pool": {"layer": "keras.MaxPooling2D", "inputs": "image", "pool_size": 4},
                "flat": {"layer": "keras.Flatten", "inputs": "pool"},
                "hidden": {"layer": "keras.Dense", "inputs": "flat", "units": 32, "activation": "relu"},
                "drop": {"layer": "keras.Dropout", "inputs": "hidden", "rate": 0.1},
                "lengths": {"layer": "keras.Dense", "inputs": "drop", "units": "$classes", "activation": "sigmoid"},
            },
            "outputs": {"classes": "lengths"},
        },
        "losses": {"classes": {"loss": "margin"}},
        "train": {"epochs": 2, "optimizer": {"kind": "adam", "learning_rate": 0.01}, **train},
    }


def write_spec(folder: Path, spec: dict[str, Any]) -> Path:
    """Writes the spec into a file of that folder."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path
