"""The accuracy of a trained network that sees ten crops of every image."""

from __future__ import annotations

import torch

from encapkeras.analysis.classify import Classifier
from encapkeras.data import Batches


def ten_crop_accuracy(classifier: Classifier, batches: Batches) -> float:
    """Return the accuracy, 0 to 1, of the mean score over ten crops of each image.

    They are its four corners, its center, and the mirror images of these five, in the size that the network takes, cut
    from the image as `data.augment.resize` makes it.

    Args:
        classifier: A network.
        batches: Images and labels.

    Raises:
        ArgumentError: The images are no larger than the crops, or have several labels.
    """
    right, images = 0, len(batches.classes)
    for crops, labels in batches.corner_crops():
        scores = [classifier.scores(part) for crop in crops for part in (crop, crop.flip(2))]
        right += int((torch.stack(scores).mean(0).argmax(1) == labels).sum())
    return right / images
