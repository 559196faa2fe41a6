"""The registry of losses, and the base class that gives every loss its configuration."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, ClassVar, TypeVar

import keras
import torch

from encapkeras.errors import ArgumentError, RegistrationError
from encapkeras.keras_internals import called_by_keras
from encapkeras.layers.registry import register_for_loading
from encapkeras.losses.side_loss import SideLoss
from encapkeras.losses.targets import sample_weights
from encapkeras.registry import Registry

LossClass = TypeVar("LossClass", bound=type[keras.losses.Loss] | type[keras.layers.Layer])
LossFunction = TypeVar("LossFunction", bound=Callable[..., torch.Tensor])

LOSSES = Registry("loss", skip=frozenset({"name", "reduction", "dtype"}), reserved=frozenset({"loss", "weight"}))


def register_loss(name: str, *, formerly: Collection[str] = ()) -> Callable[[LossClass], LossClass]:
    """Make a loss class known to specs, one on an output or a `SideLoss`, and to Keras' loading under the same name.

    Args:
        name: The name that specs use.
        formerly: Deprecated names, which specs and saved models may still have.

    Raises:
        RegistrationError: The class is neither a Keras loss nor a `SideLoss`; a parameter has no annotation or no line
            in the docstring's `Args:`; or the name is taken or not valid.
    """
    register = LOSSES.register(name, formerly=formerly)

    def decorate(cls: LossClass) -> LossClass:
        if not inspect.isclass(cls) or not issubclass(cls, keras.losses.Loss | SideLoss):
            raise RegistrationError(
                f"loss '{name}': {getattr(cls, '__name__', cls)} is not a loss; derive it from CapsuleLoss or SideLoss "
                "of encapkeras.losses, or from keras.losses.Loss"
            )
        both = set(cls.tensors()) & set(inspect.signature(cls).parameters) if issubclass(cls, SideLoss) else set()
        if both:
            raise RegistrationError(
                f"loss '{name}': its tensors and its arguments share the names {sorted(both)}, which a spec could not "
                "distinguish"
            )
        return register_for_loading(register(cls), "encapkeras.losses", name, formerly)

    return decorate


def scores_first(use: str) -> Callable[[LossFunction], LossFunction]:
    """Decorate a function of scores and targets: Keras, which would give it them the other way round, may not call it.

    Args:
        use: What to give `compile` instead.
    """

    def decorate(function: LossFunction) -> LossFunction:
        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> torch.Tensor:
            if not torch.compiler.is_compiling() and called_by_keras():
                raise ArgumentError(
                    f"{function.__name__} takes scores, then targets; Keras gives labels, then scores, so that it "
                    f"would minimize something else. Give compile {use} instead."
                )
            return function(*args, **kwargs)

        return checked  # type: ignore[return-value]

    return decorate


class CapsuleLoss(keras.losses.Loss):  # type: ignore[misc]
    """Base class of our losses: arguments of a registered one are checked (`ArgumentError`), and are its config.

    Args:
        **kwargs: `name`, `reduction`, `dtype`, as for every Keras loss.
    """

    _arguments: dict[str, Any]

    several_classes: ClassVar[bool] = False
    """Whether samples may have several classes: targets `(B, K)` with a 1 for each of them."""

    of_lengths: ClassVar[bool] = False
    """Whether scores, 0 to 1, say how probable it is that each class is present, as lengths do."""

    pixels: ClassVar[bool] = False
    """Whether each pixel may have a class: scores `(B, H, W, K)` with masks `(B, H, W)`."""

    by_pixel: ClassVar[bool] = True
    """Whether there is then a loss of each pixel, `(B, H, W)`, not one of each image, `(B,)`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> torch.Tensor:
        """Return the loss of a batch, of samples with weights `(B,)`, or of pixels `(B, H, W)` if each has a loss."""
        if sample_weight is not None and self.pixels:
            sample_weight = sample_weights(sample_weight, y_pred, by_pixel=self.by_pixel)
        loss: torch.Tensor = super().__call__(y_true, y_pred, sample_weight)
        return loss

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this loss again."""
        return {**super().get_config(), **copy.deepcopy(self._arguments)}

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Return the classes' probabilities `(B, K)` where the loss takes scores for their logits, otherwise None."""
        return None
