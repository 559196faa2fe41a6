"""A spec with both kinds of routing whose training takes a moment."""

from typing import Any


def routing_spec(**train: Any) -> dict[str, Any]:
    """The spec, with the given settings in its `train:` section: a map by dynamic routing, then the classes by EM."""
    return {
        "spec": "encapkeras/1",
        "name": "routed",
        "data": {"dataset": "digits", "batch_size": 128},
        "model": {
            "nodes": {
                "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 16, "kernel_size": 5, "strides": 4},
                "capsules": {"layer": "primary_capsules", "inputs": "stem", "types": 4, "dim": 4, "kernel_size": 3},
                "middle": {
                    "layer": "dynamic_capsules",
                    "inputs": "capsules",
                    "capsules": 16,
                    "dim": 6,
                    "map_types": 4,
                    "iterations": 2,
                },
                "digits": {"layer": "em_capsules", "inputs": "middle", "capsules": "$classes", "dim": 8},
                "lengths": {"layer": "capsule_length", "inputs": "digits"},
            },
            "outputs": {"classes": "lengths"},
        },
        "losses": {"classes": {"loss": "cross_entropy"}},
        "train": {"epochs": 2, "optimizer": {"kind": "adam", "learning_rate": 0.01}, **train},
    }
