"""A small capsule network with a reconstruction loss, and what tests of side losses do with it."""

import copy

import keras
import numpy as np
import torch

from encapkeras import build_model

IMAGES = np.random.default_rng(0).uniform(size=(6, 8, 8, 1)).astype("float32")
LABELS = np.arange(6)

SPEC = {
    "name": "decoded",
    "data": {"dataset": "digits", "image_size": 8},
    "model": {
        "nodes": {
            "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 4, "strides": 2},
            "stage": {"layer": "capsule_stage", "inputs": "stem", "types": 2, "dim": 4},
            "digits": {"layer": "capsule_dense", "inputs": "stage", "capsules": "$classes", "dim": 4},
            "lengths": {"layer": "capsule_length", "inputs": "digits"},
        },
        "outputs": {"classes": "lengths"},
    },
    "losses": {
        "classes": {"loss": "margin"},
        "reconstruction": {
            "loss": "reconstruction",
            "capsules": "digits",
            "image": "image",
            "hidden": [8],
            "weight": 0.01,
        },
    },
}


def spec_with(losses=None, nodes=None):
    spec = copy.deepcopy(SPEC)
    spec["losses"].update(losses or {})
    spec["model"]["nodes"].update(nodes or {})
    return spec


def compiled(spec=SPEC, optimizer="sgd"):
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    model.compile(optimizer=optimizer, loss=model.make_losses(), loss_weights=model.loss_weights, metrics=["accuracy"])
    return model


def parts(model, images=IMAGES, labels=LABELS):
    """Margin and reconstruction loss of every image, computed from the outside."""
    capsules, lengths = keras.Model(model.input, [model.port("digits"), model.output])(images)
    margin = model.make_losses()["classes"].call(torch.tensor(labels), lengths)
    return margin, model.side_losses["reconstruction"](capsules=capsules, image=torch.tensor(images), labels=labels)


# A node that reaches no output, only a loss.
SIDE = {"side": {"layer": "capsule_dense", "inputs": "stage", "capsules": 10, "dim": 4}}


def without_output_loss():
    spec = spec_with()
    del spec["losses"]["classes"]
    return spec
