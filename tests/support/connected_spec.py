"""A spec with every kind of connection that the original has, under any names, and models made without weights."""

import keras

from encapkeras import build_model

NAMES = ["stem", "stage1", "stage2", "seen", "first", "second", "lengths"]


def routing_spec(names=NAMES, reverse=False):
    """Stages, then two layers of EM routing with activations: all kinds of connections in one network."""
    stem, one, two, seen, first, second, lengths = names
    stage = {"layer": "capsule_stage", "types": 4, "dim": 4}
    routing = {"layer": "em_capsules", "dim": 4}
    nodes = {
        stem: {"layer": "conv_bn_relu", "inputs": "image", "filters": 8},
        one: {**stage, "inputs": stem, "normalization": "capsule", "kernel_size": [3, 5], "kind": "approximate"},
        two: {**stage, "inputs": one, "relu": False, "skip": "none", "sub_layers": 3},
        "flat": {"layer": "capsules_to_image", "inputs": two},
        seen: {"layer": "conv_bn_relu", "inputs": "flat", "filters": 4},
        first: {**routing, "inputs": [two, seen], "capsules": 16, "map_types": 4},
        second: {**routing, "inputs": [first, f"{first}/activations"], "capsules": 10},
        lengths: {"layer": "capsule_length", "inputs": second},
    }
    return {
        "spec": "encapkeras/1",
        "name": "named",
        "model": {
            "inputs": {"image": [8, 8, 3]},
            "nodes": dict(reversed(nodes.items())) if reverse else nodes,
            "outputs": {"classes": lengths},
        },
        "losses": {
            "classes": {"loss": "margin"},
            "agree": {"loss": "optimal_transport", "latent": f"{two}/half", "target": f"{two}/input"},
        },
    }


def without_weights(*arguments):
    with keras.device("meta"):
        return build_model(*arguments)
