"""Side losses at work: they see tensors inside the network in training and evaluation, and nothing in prediction."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import torch

from encapkeras.errors import TrainingError
from encapkeras.losses.side_loss import LABELS
from encapkeras.model.build import BuiltGraph
from encapkeras.spec.losses import NamedSideLoss
from encapkeras.spec.sections import Ramp

# Tensors for the side losses travel on the prediction that was made with them, as Keras' masks do: no step can see
# those of another, and they are gone when the prediction is.
_TAPS = "_encapkeras_taps"

_wanted = contextvars.ContextVar("wanted", default=False)


@contextlib.contextmanager
def taps_wanted() -> Iterator[None]:
    """Let models keep tensors for their side losses although they are not training."""
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


class SideLosses:
    """The side losses of one model, with the part of the graph that they need; outputs in Keras' order."""

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        output_names: Sequence[str],
        graph: BuiltGraph,
        side_losses: Sequence[NamedSideLoss],
    ) -> None:
        self._losses = side_losses
        self._layers = graph.side_losses
        self._output_names = list(output_names)
        self.ramps = {loss.name: loss.weight for loss in side_losses if isinstance(loss.weight, Ramp)}
        self.set_epoch(None)
        self._trackers = {loss.name: keras.metrics.Mean(name=f"{loss.name}_loss") for loss in side_losses}
        self._reported = {
            loss.name: {
                name: keras.metrics.Mean(name=f"{loss.name}_{name}") for name in self._layers[loss.name].metric_names
            }
            for loss in side_losses
        }
        references = dict.fromkeys(reference for loss in side_losses for reference in loss.tensors.values())
        self._references = list(references)
        taps = [graph.tensors[reference] for reference in references]
        self._graph: Any = keras.Model(inputs, [outputs, taps]) if side_losses else None

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """All layers that the side losses need, shared ones included."""
        return [*(self._graph.layers if self._graph else []), *self._layers.values()]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The mean of each loss, without its weight, and of each metric that the losses report."""
        # Those of evaluation first, so that the numbers of `evaluate` have the first names of `metrics_names`.
        counted = sorted(self._counted(training=not _wanted.get()), key=self._is_training_only)
        return [
            metric for loss in counted for metric in (self._trackers[loss.name], *self._reported[loss.name].values())
        ]

    @property
    def reported_names(self) -> list[str]:
        """The names of the metrics that losses report, and of the weights that change, in the logs of `fit`."""
        names = [metric.name for metrics in self._reported.values() for metric in metrics.values()]
        return [*names, *(_weight_name(name) for name in self.ramps)]

    def fit(self, fit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call Keras' `fit` with weights that follow their ramps."""
        if not self.ramps:
            return fit(*args, **kwargs)
        given = inspect.signature(fit).bind(*args, **kwargs).arguments
        others = keras.tree.flatten(given.get("callbacks") or [])
        try:
            return fit(**{**given, "callbacks": [_FollowRamps(self), *others]})
        finally:
            self.set_epoch(None)

    def set_epoch(self, epoch: int | None) -> None:
        """Set the weights to those of an epoch, from 0; None: to the last ones."""
        self.weights = {loss.name: loss.weight_in(epoch) for loss in self._losses}

    def wanted(self, training: bool | None) -> bool:
        """Whether side losses count in what the model does now: training, or evaluation."""
        return bool(self._counted(training=True)) if training else _wanted.get() and bool(self._counted(training=False))

    def _counted(self, training: bool) -> list[NamedSideLoss]:
        return [loss for loss in self._losses if training or not self._is_training_only(loss)]

    def _is_training_only(self, loss: NamedSideLoss) -> bool:
        return self._layers[loss.name].training_only

    def call(self, inputs: Any, training: bool | None, mask: Any) -> tuple[Any, list[torch.Tensor]]:
        """The model's outputs, and the tensors for the losses."""
        outputs, taps = self._graph.call(inputs, training=training, mask=mask)
        return outputs, taps

    def keep(self, taps: list[torch.Tensor], outputs: Any) -> None:
        """Attach the tensors for the losses to the outputs."""
        setattr(keras.tree.flatten(outputs)[0], _TAPS, taps)

    def check_labels(self, y: Any) -> None:
        """Raise `TrainingError` if a side loss needs labels and there are none; Keras' own message is unclear."""
        for loss in self._counted(training=not _wanted.get()):
            if y is None and loss.labels:
                raise _lacks_labels(loss)

    def values(self, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> dict[str, torch.Tensor]:
        """Each loss times its weight; its mean and those of its metrics are updated."""
        if not self.wanted(training):  # Keras also asks for the loss to learn its shape
            return {}
        first = keras.tree.flatten(y_pred)[0]
        taps = dict(zip(self._references, self._taken_taps(first), strict=True))
        values = {}
        for loss in self._counted(training):
            tensors = {name: taps[reference] for name, reference in loss.tensors.items()}
            if loss.labels:
                tensors[LABELS] = self._labels(loss, y)
            value = self._layers[loss.name](**tensors, training=training)
            value = _mean(value, _of_output(sample_weight, loss.labels_of, self._output_names))
            # Keras would copy a number to the device, and wait for it.
            samples = torch.full((), len(first), dtype=torch.float32, device=first.device)
            self._trackers[loss.name].update_state(value.detach(), sample_weight=samples)
            self._update_reported(loss, samples)
            values[loss.name] = self.weights[loss.name] * value
        return values

    def _update_reported(self, loss: NamedSideLoss, samples: torch.Tensor) -> None:
        metrics = self._layers[loss.name].take_metrics()
        if set(metrics) != set(self._reported[loss.name]):
            raise TrainingError(
                f"loss '{loss.name}' has metrics {sorted(self._reported[loss.name])} but reports none of them"
            )
        for name, value in metrics.items():
            self._reported[loss.name][name].update_state(value, sample_weight=samples)

    def _taken_taps(self, prediction: torch.Tensor) -> list[torch.Tensor]:
        taps: list[torch.Tensor] | None = prediction.__dict__.pop(_TAPS, None)
        if taps is None:
            names = ", ".join(loss.name for loss in self._losses)
            raise TrainingError(
                f"the side losses of the model ({names}) need tensors inside the network: give compute_loss the "
                "prediction that model(x, training=True) just made, once"
            )
        return taps

    def _labels(self, loss: NamedSideLoss, y: Any) -> torch.Tensor:
        labels = _of_output(y, loss.labels_of, self._output_names)
        if labels is None:
            raise _lacks_labels(loss)
        tensor: torch.Tensor = keras.ops.convert_to_tensor(labels)
        return tensor


class _FollowRamps(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the weights of each epoch, and puts those that change into its logs; `fit` calls it before all others."""

    def __init__(self, side: SideLosses) -> None:
        super().__init__()
        self._side = side

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the weights."""
        self._side.set_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add to the logs."""
        if logs is not None:
            logs.update({_weight_name(name): self._side.weights[name] for name in self._side.ramps})


def _weight_name(loss: str) -> str:
    return f"{loss}_weight"


def _lacks_labels(loss: NamedSideLoss) -> TrainingError:
    return TrainingError(f"loss '{loss.name}' needs the labels of '{loss.labels_of}'; none were given")


def _of_output(values: Any, output: str, output_names: Sequence[str]) -> Any:
    """The labels, or weights of samples, of an output, in any form that Keras takes; None if there are none."""
    if isinstance(values, Mapping):
        return values.get(output)
    if isinstance(values, list | tuple):
        return values[output_names.index(output)] if output else None
    return values


def _mean(value: torch.Tensor, sample_weight: Any) -> torch.Tensor:
    """The mean over the batch, each sample times its weight, as in Keras' losses."""
    if value.dim() and sample_weight is not None:
        weight: torch.Tensor = keras.ops.convert_to_tensor(sample_weight, dtype=value.dtype)
        value = value * weight.reshape(-1)
    return value.mean()
