"""The base class of losses that look into the network."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import keras
import torch

from encapkeras.errors import ArgumentError
from encapkeras.layers import CapsuleLayer
from encapkeras.registry import argument_docs

LABELS = "labels"


class SideLoss(CapsuleLayer):
    """Base class of losses on tensors inside a network, which may have weights of their own.

    A subclass is a Keras layer whose `call` takes tensors and gives the loss of each sample `(B,)`, whose mean counts,
    or one of the whole batch `()`. The names of those tensors are what a spec connects with nodes of the network
    (`capsules: digits`); one that is called `labels` receives the labels, as the training has them. The docstring
    describes each under `Call arguments:`. Weights are made in `build`, which may ask for `<name>_shape` of each tensor
    but the labels; a `call` that takes `training` is told whether the network trains.

    The network it belongs to counts, trains and saves its weights. It is computed in `fit` and `evaluate`, and never in
    `predict` or when the network is called. One that is `training_only` is not computed in evaluation either: neither
    `val_loss` nor the loss of `evaluate` has it, and they are 0 in a network without other losses.

    Its weights and all that it computes are float32, or float64 where the dtype policy says so: in half precision
    labels above 256, if they come as floats, would be rounded, and sums over many numbers be wrong.

    A subclass may set `per_class` to the name of a tensor `(B, J, ...)` that must have one entry for each class: a spec
    where J is another number than that of the scores in the output whose labels it takes is refused.

    A subclass that wants more than its loss to be seen names such numbers in `figures`, and gives them to `report` in
    each call. Training and evaluation show their means over the batches as `<name of the loss>_<figure>`.

    Args:
        dtype: Keras' dtype policy; its global one if not given.
        **kwargs: `name`, `trainable`, as for every Keras layer.

    Example:
        >>> import torch
        >>> class Activity(SideLoss):
        ...     '''Mean square of a tensor.
        ...
        ...     Call arguments:
        ...         features: Any tensor `(B, ...)`.
        ...     '''
        ...     def call(self, features: torch.Tensor) -> torch.Tensor:
        ...         return features.square().flatten(1).mean(1)
        >>> Activity.tensors()
        {'features': 'Any tensor `(B, ...)`.'}
        >>> Activity()(features=torch.ones(2, 3))
        tensor([1., 1.])
    """

    per_class: ClassVar[str] = ""
    figures: ClassVar[tuple[str, ...]] = ()
    training_only: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "loss" in cls.figures:
            raise TypeError(f"{cls.__name__}: a figure cannot be called 'loss', which is the loss itself")

    def __init__(self, *, dtype: Any = None, **kwargs: Any) -> None:
        policy = keras.dtype_policies.get(keras.config.dtype_policy() if dtype is None else dtype)
        super().__init__(dtype="float64" if policy.variable_dtype == "float64" else "float32", **kwargs)

    @classmethod
    def tensors(cls) -> dict[str, str]:
        """The tensors that `call` takes, `labels` among them, with what the docstring says of each."""
        docs = argument_docs(inspect.getdoc(cls) or "", "Call arguments")
        names = [name for name in inspect.signature(cls.call).parameters if name not in ("self", "training")]
        return {name: docs.get(name, "") for name in names}

    def report(self, **figures: torch.Tensor) -> None:
        """Tells the figures of a call, from within it.

        Args:
            **figures: A number `()` for each name in `figures`; gradients are not kept.

        Raises:
            ArgumentError: The names are not those in `figures`.
        """
        if set(figures) != set(self.figures):
            raise ArgumentError(
                f"{self.name} must report the figures {sorted(self.figures)}; it reported {sorted(figures)}"
            )
        # Not an attribute that Keras or torch would track.
        self.__dict__["_reported"] = {name: value.detach() for name, value in figures.items()}

    def take_figures(self) -> dict[str, torch.Tensor]:
        """The figures of the last call, once; none before a call."""
        figures: dict[str, torch.Tensor] = self.__dict__.pop("_reported", {})
        return figures
