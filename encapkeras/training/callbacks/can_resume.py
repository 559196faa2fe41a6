"""What a resumed training could not repeat, said before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import FrameType

import keras

from encapkeras.errors import ArgumentError
from encapkeras.keras_internals import argument_of_fit, steps_per_epoch


def check_can_resume(
    resume: keras.callbacks.Callback,
    callbacks: Sequence[keras.callbacks.Callback],
    frame: FrameType | None,
    epochs: int,
) -> None:
    """Refuse a `fit` of which `Resume`, among its callbacks, does not save all that it depends on."""
    model = resume.model
    for name, steps in (
        ("steps_per_epoch", steps_per_epoch(model, frame)),
        ("validation_steps", argument_of_fit(model, frame, "validation_steps")),
    ):
        if steps is not None:
            raise ArgumentError(
                f"Resume does not work with {name} of fit, here {steps}: an epoch then begins where in the data the "
                "one before ended, and that place is not saved. Leave it out, and give data that is one epoch long."
            )
    left = epochs - (argument_of_fit(model, frame, "initial_epoch") or 0)
    for name in ("x", "validation_data"):
        if isinstance(argument_of_fit(model, frame, name), Iterator) and left > 1:
            raise ArgumentError(
                f"Resume does not work with a generator for several epochs, here {left}, as {name} of fit: it is not "
                "known where in it an epoch begins. Give data that begins anew in each epoch: arrays, a torch "
                "DataLoader (of an IterableDataset, for example), or a keras.utils.PyDataset."
            )
    if sum(type(each) is type(resume) for each in callbacks) > 1:
        raise ArgumentError("fit has more than one Resume among its callbacks; give it one, with all of 'also' in it.")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ArgumentError(f"Resume needs the model's optimizer, and '{model.name}' has none. Give compile one.")
    others = [
        name
        for name, value in vars(model).items()
        if isinstance(value, keras.optimizers.Optimizer)
        and value not in (optimizer, getattr(optimizer, "inner_optimizer", None))
    ]
    if others:
        raise ArgumentError(
            f"Resume saves the optimizer that compile was given; the model '{model.name}' also has "
            f"{', '.join(others)}, whose state would be lost. Train it without Resume."
        )
