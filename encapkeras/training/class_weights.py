"""What the losses of the images of each class are multiplied by: `train.class_weights`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from encapkeras.data import DataSplits


def with_class_weights(splits: DataSplits, setting: Literal["balanced"] | Mapping[str, float] | None) -> DataSplits:
    """Return data whose training batches have the weights that `train.class_weights` asks for."""
    if setting is None:
        return splits
    return replace(splits, train=splits.train.weighted(_weights(splits, setting)))


def _weights(splits: DataSplits, setting: Literal["balanced"] | Mapping[str, float]) -> Tensor:
    """Return the weight of each class `(K,)`."""
    names = splits.info.class_names
    if setting != "balanced":
        return torch.tensor([float(setting.get(name, 1.0)) for name in names])
    from sklearn.utils.class_weight import compute_class_weight

    labels = splits.train.classes
    weights = torch.ones(len(names))
    present = labels.unique()  # the held-out images may be the only ones of a class
    balanced = compute_class_weight("balanced", classes=present.numpy(), y=labels.numpy())
    weights[present] = torch.from_numpy(balanced).float()
    return weights
