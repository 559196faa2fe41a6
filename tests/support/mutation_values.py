"""Values that may take the place of others in a spec: near ones of the same kind, and anything."""

import copy
import random
from typing import Any

from support.spec_starts import as_map

from encapkeras.layers import LAYERS
from encapkeras.losses import LOSSES

SIZES = (1, 2, 3, 4, 5, 8, 16, 32, 64)
ODD_SIZES = (0, -1, 7, 1000, 10**9)
TEXTS = ("same", "valid", "none", "a b", "", "$types", "$(types * 2)", "$(types / 3)", "$nothing", "$(1 +", "é", "x\ny")
SCALARS = (None, True, False, 0.5, -1.5, 1e-9, float("inf"), float("nan"), 1e300, *SIZES, *ODD_SIZES, *TEXTS)

KERAS_ARGUMENTS = {
    "keras.Conv2D": {"filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu", "groups": 2},
    "keras.Dense": {"units": 8, "activation": "relu"},
    "keras.MaxPooling2D": {"pool_size": 2},
    "keras.AveragePooling2D": {"pool_size": 2, "strides": 1},
    "keras.GlobalAveragePooling2D": {"keepdims": True},
    "keras.BatchNormalization": {"axis": -1},
    "keras.LayerNormalization": {"axis": -1},
    "keras.Dropout": {"rate": 0.5},
    "keras.Reshape": {"target_shape": [-1, 4]},
    "keras.Permute": {"dims": [2, 1, 3]},
    "keras.Flatten": {},
    "keras.ReLU": {"max_value": 6},
    "keras.Add": {},
    "keras.Multiply": {},
    "keras.Concatenate": {"axis": -1},
    "keras.UpSampling2D": {"size": 2},
    "keras.ZeroPadding2D": {"padding": 1},
    "keras.Identity": {},
    "keras.Embedding": {"input_dim": 4, "output_dim": 3},
    "keras.LSTM": {"units": 4},
    "keras.MultiHeadAttention": {"num_heads": 2, "key_dim": 4},
    "keras.Lambda": {"function": "print"},
}

SIMILAR = (
    ("conv_bn_relu", "capsule_stage", "capsule_convolution", "primary_capsules", "keras.Conv2D"),
    ("capsule_dense", "dynamic_capsules", "em_capsules"),
    ("keras.Add", "keras.Concatenate", "keras.Multiply"),
    ("keras.ReLU", "keras.Flatten", "keras.GlobalAveragePooling2D", "keras.BatchNormalization", "squash"),
    ("squash", "capsule_length", "capsules_to_image", "image_to_capsules"),
    ("master", "approximate"),
    ("none", "last", "every"),
    ("same", "valid"),
    ("margin", "spread", "cross_entropy"),
    ("per_dim", "dense", "factored"),
    ("adam", "sgd", "rmsprop"),
    ("constant", "step", "cosine", "one_cycle"),
    ("coupled", "decoupled"),
    ("glorot_normal", "he_uniform", "zeros", "orthogonal"),
    ("unrolled", "envelope", "l2", "cosine", "skip", "adversarial"),
    ("digits", "mnist", "cifar10", "svhn", "cifar100", "fashion_mnist", "npz"),
)


def near_value(chance: random.Random, value: Any, spec: dict[str, Any]) -> Any:
    """Another value of the same kind, which mostly passes the first checks and changes the shapes."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([*SIZES, value + 1, value - 1, value * 2, value // 2, *ODD_SIZES[:2]])
    if isinstance(value, float):
        return chance.choice([value * 2, value / 2, value + 1, -value, 0.0, 1.0, 1e-12])
    if isinstance(value, list):
        return [*value[:-1]] if value and chance.random() < 0.5 else [*value, chance.choice(value or [1])]
    for group in SIMILAR:
        if value in group:
            return chance.choice([other for other in group if other != value])
    if isinstance(value, str) and value.startswith("$"):
        names = [f"${name}" for name in as_map(spec.get("vars"))]
        return chance.choice([*names, *map(str, SIZES), "$classes", "$(height // 2)", chance.choice(SIZES)])
    return value


def anything(chance: random.Random) -> Any:
    few = [chance.choice(SCALARS) for _ in range(chance.randrange(4))]
    keys = ["i", "layer", "inputs", "types", "filters", "dim", "x-y", "a b"]
    return chance.choice([*few, few, {chance.choice(keys): value for value in few}, chance.choice(SCALARS)])


def sample_arguments(layer: Any) -> dict[str, Any]:
    """Arguments that a layer, or a loss, takes, each with a value that it may have."""
    if layer in KERAS_ARGUMENTS:
        return KERAS_ARGUMENTS[layer]
    entry = LAYERS[layer] if layer in LAYERS else LOSSES[layer] if layer in LOSSES else None
    if entry is None:
        return {}
    return {a.name: 4 if a.required else copy.deepcopy(a.default) for a in entry.arguments.values()}
