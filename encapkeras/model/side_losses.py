"""Side losses at work: they see tensors inside the network in training and evaluation, and nothing in prediction."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import torch

from encapkeras.errors import TrainingError
from encapkeras.losses.side_loss import LABELS
from encapkeras.model.build import BuiltGraph
from encapkeras.spec.losses import NamedSideLoss

# Tensors for the side losses travel on the prediction that was made with them, as Keras' masks do: no step can see
# those of another, and they are gone when the prediction is.
_TAPS = "_encapkeras_taps"

_wanted = contextvars.ContextVar("wanted", default=False)


@contextlib.contextmanager
def taps_wanted() -> Iterator[None]:
    """Has models keep tensors for their side losses although they are not training."""
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


class SideLosses:
    """The side losses of one model, with the part of the graph that they need.

    Args:
        inputs: The model's inputs, as Keras takes them.
        outputs: The model's outputs, as Keras takes them.
        output_names: The names of the outputs, in the order in which Keras takes lists of labels.
        graph: The layers and tensors of the model's nodes.
        side_losses: The losses, as the spec has them.
    """

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
        self._trackers = {loss.name: keras.metrics.Mean(name=f"{loss.name}_loss") for loss in side_losses}
        self._figures = {
            loss.name: {
                figure: keras.metrics.Mean(name=f"{loss.name}_{figure}")
                for figure in self._layers[loss.name].metric_names
            }
            for loss in side_losses
        }
        references = dict.fromkeys(reference for loss in side_losses for reference in loss.tensors.values())
        self._references = list(references)
        taps = [graph.tensors[reference] for reference in references]
        self._graph: Any = keras.Model(inputs, [outputs, taps]) if side_losses else None

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """All layers that the model needs because of its side losses, those it has anyway among them."""
        return [*(self._graph.layers if self._graph else []), *self._layers.values()]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The mean of each loss, without its weight, and of each figure that the losses report.

        While the model is evaluated, only of those that count there; these are the first ones, so that the numbers that
        `evaluate` gives have the first names of `metrics_names`.
        """
        counted = sorted(self._counted(training=not _wanted.get()), key=self._is_training_only)
        return [
            metric for loss in counted for metric in (self._trackers[loss.name], *self._figures[loss.name].values())
        ]

    @property
    def figures(self) -> list[str]:
        """The names of the metrics that are figures."""
        return [metric.name for figures in self._figures.values() for metric in figures.values()]

    def wanted(self, training: bool | None) -> bool:
        """Whether the losses count in what the model does now: there are some, and it trains or is evaluated."""
        return bool(self._counted(training=True)) if training else _wanted.get() and bool(self._counted(training=False))

    def _counted(self, training: bool) -> list[NamedSideLoss]:
        """The losses that count in training, or in evaluation."""
        return [loss for loss in self._losses if training or not self._is_training_only(loss)]

    def _is_training_only(self, loss: NamedSideLoss) -> bool:
        return self._layers[loss.name].training_only

    def call(self, inputs: Any, training: bool | None, mask: Any) -> tuple[Any, list[torch.Tensor]]:
        """The model's outputs, and the tensors for the losses."""
        outputs, taps = self._graph.call(inputs, training=training, mask=mask)
        return outputs, taps

    def keep(self, taps: list[torch.Tensor], outputs: Any) -> None:
        """Puts the tensors for the losses on the outputs."""
        setattr(keras.tree.flatten(outputs)[0], _TAPS, taps)

    def check_labels(self, y: Any) -> None:
        """Makes sure that there are labels at all, which Keras' own losses would miss in unclear words.

        Args:
            y: The labels of the batch, as `fit` got them.

        Raises:
            TrainingError: There are none, and a side loss takes some.
        """
        for loss in self._counted(training=not _wanted.get()):
            if y is None and loss.labels:
                raise _lacks_labels(loss)

    def values(self, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> dict[str, torch.Tensor]:
        """Each loss, multiplied by its weight; its mean is kept, and those of its figures.

        None outside of training and evaluation.

        Args:
            y: The labels of the batch, as `fit` got them.
            y_pred: The model's prediction.
            sample_weight: The weights of samples, as `fit` got them; they count in losses of single samples.
            training: Whether the model trains.

        Raises:
            TrainingError: The prediction was not made in this training or evaluation, there are no labels, or a loss
                does not report its figures.
        """
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
            self._trackers[loss.name].update_state(value.detach(), sample_weight=len(first))
            self._keep_figures(loss, len(first))
            values[loss.name] = loss.weight * value
        return values

    def _keep_figures(self, loss: NamedSideLoss, samples: int) -> None:
        figures = self._layers[loss.name].take_metrics()
        if set(figures) != set(self._figures[loss.name]):
            raise TrainingError(f"loss '{loss.name}' has figures {sorted(self._figures[loss.name])} and reports none")
        for name, figure in figures.items():
            self._figures[loss.name][name].update_state(figure, sample_weight=samples)

    def _taken_taps(self, prediction: torch.Tensor) -> list[torch.Tensor]:
        taps: list[torch.Tensor] | None = prediction.__dict__.pop(_TAPS, None)
        if taps is None:
            names = ", ".join(loss.name for loss in self._losses)
            raise TrainingError(
                f"the side losses of the model ({names}) need what lies inside the network: give compute_loss the "
                "prediction that model(x, training=True) just made, once"
            )
        return taps

    def _labels(self, loss: NamedSideLoss, y: Any) -> torch.Tensor:
        labels = _of_output(y, loss.labels_of, self._output_names)
        if labels is None:
            raise _lacks_labels(loss)
        tensor: torch.Tensor = keras.ops.convert_to_tensor(labels)
        return tensor


def _lacks_labels(loss: NamedSideLoss) -> TrainingError:
    return TrainingError(f"loss '{loss.name}' needs the labels of '{loss.labels_of}'; none were given")


def _of_output(values: Any, output: str, output_names: Sequence[str]) -> Any:
    """What labels, or weights of samples, hold for an output, in any form that Keras takes; None for nothing."""
    if isinstance(values, Mapping):
        return values.get(output)
    if isinstance(values, list | tuple):
        return values[output_names.index(output)] if output else None
    return values


def _mean(value: torch.Tensor, sample_weight: Any) -> torch.Tensor:
    """The mean over the batch, each sample times its weight, as Keras' losses have it."""
    if value.dim() and sample_weight is not None:
        weight: torch.Tensor = keras.ops.convert_to_tensor(sample_weight, dtype=value.dtype)
        value = value * weight.reshape(-1)
    return value.mean()
