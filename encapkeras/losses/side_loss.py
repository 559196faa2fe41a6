"""The base class of losses on tensors inside a network."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, ClassVar

import keras
import torch

from encapkeras.errors import ArgumentError
from encapkeras.layers import CapsuleLayer
from encapkeras.registry import argument_docs

LABELS = "labels"


class SideLoss(CapsuleLayer):
    """Base class of losses on tensors inside a network, which may have weights.

    A subclass is a Keras layer whose `call` takes tensors and returns the loss of each sample `(B,)`, whose mean
    counts, or one of the whole batch `()`. A spec connects the names of those tensors with nodes (`capsules: digits`);
    one that is called `labels` receives the labels, as the training has them. The docstring describes each under `Call
    arguments:`. Weights are made in `build`, which may take `<name>_shape` of each tensor but the labels; a `call` that
    takes `training` receives whether the network trains.

    The network counts, trains and saves its weights. The loss is computed in `fit` and `evaluate`, never in `predict`
    or when the network is called; one that is `training_only` not in evaluation either: neither `val_loss` nor the loss
    of `evaluate` has it, and they are 0 in a network without other losses.

    Weights and results are float32, or float64 where the dtype policy says so: half precision would round labels above
    256 that come as floats, and sums over many numbers.

    `per_class` may name a tensor `(B, J, ...)` that must have one entry for each class: a spec where J differs from the
    scores in the output whose labels it takes is refused. `metric_names` names numbers that each call gives to
    `report`; training and evaluation show their means over the batches as `<name of the loss>_<metric>`. With
    `several_classes`, labels may also be `(B, K)`, 1 for each of several classes of an image (`data.overlap`).

    Args:
        dtype: Keras' dtype policy; its global one if not given.
        **kwargs: `name`, `trainable`, as for every Keras layer.

    Examples:
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
    metric_names: ClassVar[tuple[str, ...]] = ()
    training_only: ClassVar[bool] = False
    several_classes: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "figures" in vars(cls):
            warnings.warn(
                f"{cls.__name__}: 'figures' is deprecated; call it 'metric_names'", DeprecationWarning, stacklevel=2
            )
            cls.metric_names = vars(cls)["figures"]
        if "loss" in cls.metric_names:
            raise TypeError(f"{cls.__name__}: a metric cannot be called 'loss', which is the loss itself")

    def __init__(self, *, dtype: Any = None, **kwargs: Any) -> None:
        policy = keras.dtype_policies.get(keras.config.dtype_policy() if dtype is None else dtype)
        super().__init__(dtype="float64" if policy.variable_dtype == "float64" else "float32", **kwargs)

    @classmethod
    def tensors(cls) -> dict[str, str]:
        """Return the tensors that `call` takes, `labels` among them, with their descriptions."""
        docs = argument_docs(inspect.getdoc(cls) or "", "Call arguments")
        names = [name for name in inspect.signature(cls.call).parameters if name not in ("self", "training")]
        return {name: docs.get(name, "") for name in names}

    def report(self, **metrics: torch.Tensor) -> None:
        """Report the metrics of a call, from within it.

        Args:
            **metrics: A number `()` for each of `metric_names`; gradients are not kept.

        Raises:
            ArgumentError: The names are not those in `metric_names`.
        """
        if set(metrics) != set(self.metric_names):
            raise ArgumentError(
                f"{self.name} must report the metrics {sorted(self.metric_names)}; it reported {sorted(metrics)}"
            )
        # Not an attribute that Keras or torch would track.
        self.__dict__["_reported"] = {name: value.detach() for name, value in metrics.items()}

    def take_metrics(self) -> dict[str, torch.Tensor]:
        """Return the metrics of the last call, once; none before a call."""
        metrics: dict[str, torch.Tensor] = self.__dict__.pop("_reported", {})
        return metrics

    def take_figures(self) -> dict[str, torch.Tensor]:
        """Return `take_metrics()`; deprecated."""
        warnings.warn("take_figures is deprecated; call take_metrics", DeprecationWarning, stacklevel=2)
        return self.take_metrics()
