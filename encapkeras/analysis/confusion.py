"""Which classes a network takes for which."""

from __future__ import annotations

import keras
import torch

from encapkeras.data import Batches


@torch.no_grad()
def confusion(model: keras.Model, batches: Batches) -> list[list[int]]:
    """Count how often the images of each class have the highest score for each class.

    Args:
        model: A network with one output, one score for each class.
        batches: Images and labels.

    Returns:
        `(K, K)`: row c, column p is how many images of class c are predicted as class p. The sum of its diagonal is the
        number of right predictions.

    Raises:
        ArgumentError: The images have several labels.
    """
    classes = int(model.outputs[0].shape[-1])
    counts = batches.classes.new_zeros(classes * classes, dtype=torch.long)  # refuses images with several labels
    for images, labels in batches:
        predicted = model(images, training=False).argmax(1).cpu()
        counts += torch.bincount(labels.long() * classes + predicted, minlength=classes * classes)
    return [list(map(int, row)) for row in counts.reshape(classes, classes)]
