"""Which settings are of images with one class each, where those of the data set have others."""

from __future__ import annotations

from typing import get_args

from encapkeras.data import DatasetInfo, DataSettings
from encapkeras.spec.train_settings import TrainSettings


def unfit_settings(data: DataSettings, train: TrainSettings, info: DatasetInfo) -> dict[str, str]:
    """Return by their paths the settings that images of this kind cannot have, each with why and what to do.

    What `data` cannot have, such as `data.balance`, `describe` refuses.
    """
    masks = info.task == "segments"
    if info.classes_per_image == 1 and not masks:
        return {}
    several = "data.overlap gives each two" if data.overlap else "these have several labels each"
    why = "these have a class for each pixel" if masks else several
    found = {}
    if train.class_weights:
        hint = "; the loss margin has class_weights for pixels" if masks else ""
        found["train.class_weights"] = f"weighs images by their class, and {why}. Remove it{hint}."
    choices = [name for name in get_args(TrainSettings.model_fields["select"].annotation) if "balanced" not in name]
    hint = f"Choose one of {', '.join(choices)}."
    if masks:
        choices = ["val_accuracy", "val_loss"]
        hint = "Choose val_loss, or remove it: the mean IoU then chooses the best epoch."
    if train.select not in choices:
        found["train.select"] = f"is {train.select}, which is of images with one class each, and {why}. {hint}"
    if train.analysis:
        found["train.analysis"] = f"needs images of one class each, and {why}. Remove it."
    return found
