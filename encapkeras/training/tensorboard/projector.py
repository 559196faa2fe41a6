"""TensorBoard's projector: vectors with labels and small pictures, in files next to the event files.

projector_config.pbtxt          names the others
projector/vectors.tsv           a row for each image
projector/labels.tsv            the classes and the score of each image
projector/thumbnails.png        all images in one picture

They are replaced each time, so that they show the latest epoch and do not grow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from encapkeras.errors import printable
from encapkeras.files import make_folder, replacing, writing
from encapkeras.training.tensorboard.predictions import Predictions

CONFIG = "projector_config.pbtxt"
FOLDER = "projector"


def write_projector(folder: Path, predictions: Predictions, names: Sequence[str], epoch: int) -> None:
    """Write the class capsules of images next to the event files: a vector holds those of all classes in a row."""
    if predictions.capsules is None or predictions.thumbnails is None:
        return
    vectors = predictions.capsules.flatten(1)
    with writing(folder / FOLDER):
        make_folder(folder / FOLDER)
    with replacing(folder / FOLDER / "vectors.tsv") as file:
        file.write_text("".join("\t".join(f"{number:.5g}" for number in row) + "\n" for row in vectors.tolist()))
    with replacing(folder / FOLDER / "labels.tsv") as file:
        file.write_text(_labels(predictions, names, len(vectors)), encoding="utf-8")
    with replacing(folder / FOLDER / "thumbnails.png") as file:
        to_pil_image(_sprite(predictions.thumbnails)).save(file)
    config = ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = f"class capsules, epoch {epoch}"
    embedding.tensor_shape.extend(vectors.shape)
    embedding.tensor_path = f"{FOLDER}/vectors.tsv"
    embedding.metadata_path = f"{FOLDER}/labels.tsv"
    embedding.sprite.image_path = f"{FOLDER}/thumbnails.png"
    height, width = predictions.thumbnails.shape[1:3]
    embedding.sprite.single_image_dim.extend((width, height))
    with replacing(folder / CONFIG) as file:
        file.write_text(str(config))


def _labels(predictions: Predictions, names: Sequence[str], count: int) -> str:
    def plain(name: str) -> str:
        name = printable(" ".join(name.split()))  # a tab or line end would start another column or row
        return f"class {name}" if name.isdecimal() else name  # numbers would be colored by size

    rows = ["class\tpredicted\tright\tscore"]
    for true, taken, scores in zip(predictions.labels[:count], predictions.predicted, predictions.scores, strict=False):
        right = "right" if true == taken else "wrong"
        rows.append(f"{plain(names[int(true)])}\t{plain(names[int(taken)])}\t{right}\t{scores[taken]:.4f}")
    return "\n".join(rows) + "\n"


def _sprite(thumbnails: Tensor) -> Tensor:
    side = math.ceil(math.sqrt(len(thumbnails)))
    images = thumbnails[..., : 3 if thumbnails.shape[-1] == 3 else 1].permute(0, 3, 1, 2)
    missing = images.new_zeros(side * side - len(images), *images.shape[1:])
    grid: Tensor = make_grid(torch.cat([images, missing]), nrow=side, padding=0)
    return grid
