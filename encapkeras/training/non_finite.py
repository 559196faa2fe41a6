"""Where a loss or a gradient that is not finite comes from."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import torch

from encapkeras.errors import TrainingError
from encapkeras.functional.torch_support.shared_batch import share_batch
from encapkeras.model.origin import TrainingLoss
from encapkeras.model.precision import use_precision
from encapkeras.model.spec_model import SpecModel

ADVICE = "Try a smaller learning rate, a warm-up (train.schedule.warmup_epochs) or train.clip_norm."


class NonFiniteTrainingError(TrainingError):
    """A loss, gradient or weight is not finite: the same training, resumed, comes to the same."""


class Origin(enum.IntEnum):
    """Where a loss that is not finite was first seen; of several processes the one with the least knows best."""

    DATA = 0
    NETWORK = 1
    LOSS = 2
    ELSEWHERE = 3


def cause_of(model: SpecModel, step: TrainingLoss) -> tuple[Origin, str]:
    """Find the first thing that is not finite: the data, a weight, the output of a node, or the loss itself."""
    found = in_data(model, step)
    if found:
        return Origin.DATA, f"{found}. Look for such values in the data, and in what your own code makes of them."
    # The batch is run again as in training, but for the random numbers of layers such as dropout. Moving statistics,
    # which the step itself has changed and training does not use, are named last, beside the loss.
    try:
        with share_batch(None):  # each process checks its own part of the batch
            found = _in_network(model, step.x)
    except torch.OutOfMemoryError:
        found = "there is not enough memory to run the batch again and to name the layer"
    if found:
        return Origin.NETWORK, f"{found}. {ADVICE}"
    return Origin.LOSS, f"{_in_losses(model, step)}. {ADVICE}"


def cause_in_gradients(grads: Sequence[Any], weights: Sequence[keras.Variable]) -> str:
    """Name the weight whose gradient is the first that is not finite in the backward pass; one of them is not.

    Examples:
        >>> weights = [keras.Variable([1.0], name="first"), keras.Variable([1.0, 2.0], name="second")]
        >>> cause_in_gradients([torch.tensor([torch.nan]), torch.tensor([torch.inf, 0.0])], weights).split(";")[0]
        "that of weight 'second' is the first on the way back from the loss, in 1 of 2 numbers, with 1 other"
    """
    bad = [
        (weight, gradient)
        for gradient, weight in zip(grads, weights, strict=True)
        if gradient is not None and not torch.isfinite(gradient).all()
    ]
    weight, gradient = bad[-1]  # weights are in the order in which the network was built
    count = int((~torch.isfinite(gradient)).sum())
    others = f", with {len(bad) - 1} other{'s' if len(bad) > 2 else ''}" if len(bad) > 1 else ""
    return (
        f"that of weight '{weight.path}' is the first on the way back from the loss, in {count:,} of "
        f"{gradient.numel():,} numbers{others}; the loss itself is finite. {ADVICE}"
    )


def in_data(model: SpecModel, step: TrainingLoss) -> str:
    """Say which of inputs, labels and weights of samples is not finite; empty if all are."""
    for name, values in _data(model, step):
        wrong = ~torch.isfinite(values.flatten(1) if values.dim() > 1 else values[:, None]).all(1)
        if wrong.any():
            first = int(wrong.nonzero()[0])
            return f"{name} of {int(wrong.sum())} of {len(values)} samples is not finite, first that of sample {first}"
    return ""


def _data(model: SpecModel, step: TrainingLoss) -> Iterator[tuple[str, torch.Tensor]]:
    inputs = keras.tree.flatten(model.input)
    given = [step.x[i.name] for i in inputs] if isinstance(step.x, Mapping) else keras.tree.flatten(step.x)
    for tensor, x in zip(inputs, given, strict=True):
        yield f"the input '{tensor.name}'", keras.ops.convert_to_tensor(x, tensor.dtype)
    for name, values in (("the label", step.y), ("the weight", step.sample_weight)):
        yield from ((name, keras.ops.convert_to_tensor(v)) for v in keras.tree.flatten(values) if v is not None)


def _in_network(model: SpecModel, x: Any) -> str:
    nodes = [(node.name, layer, node.kind.ports) for node, layer in model.nodes()]
    ports = {(name, port): model.port(f"{name}/{port}") for name, _, kinds in nodes for port in kinds}
    with torch.no_grad(), _restore_state_after(model):
        network = keras.Model(model.input, list(ports.values()))
        images = keras.tree.map_structure(keras.ops.convert_to_tensor, x)  # which are on the device then
        with use_precision(model.precision, images) as widened:
            outputs = widened(network(images, training=True))
    values = dict(zip(ports, keras.tree.flatten(outputs), strict=True))
    for name, layer, kinds in nodes:
        in_weights = _in_weights(model, layer)
        if in_weights:
            return in_weights
        for port in kinds:
            wrong = ~torch.isfinite(values[name, port])
            if wrong.any():
                shown = f"output of node '{name}'" if len(kinds) == 1 else f"port '{port}' of node '{name}'"
                return (
                    f"the {shown} is the first that is not finite, in {int(wrong.sum()):,} of {wrong.numel():,} numbers"
                )
    return next(filter(None, (_in_weights(model, loss) for loss in model.side_losses.values())), "")


@contextlib.contextmanager
def _restore_state_after(model: SpecModel) -> Iterator[None]:
    before = [(variable, variable.value.clone()) for variable in model.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _in_weights(model: SpecModel, layer: keras.layers.Layer) -> str:
    bad = _not_finite(_unchanged_by_the_step(layer))
    if not bad:
        return ""
    others = sum(len(_not_finite(_unchanged_by_the_step(each))) for each in model.layers) - 1
    which = f"weight '{bad[0]}'{f', with {others} others,' if others else ''}"
    return f"{which} was already not finite before this step; gradients can be so while the loss is still finite"


def _unchanged_by_the_step(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that a step has not changed when its loss is known: all but moving statistics."""
    return list(layer.trainable_weights if layer.trainable else layer.weights)


def _not_finite(weights: list[keras.Variable]) -> list[str]:
    return [weight.path for weight in weights if not torch.isfinite(weight.value).all()]


def _in_losses(model: SpecModel, step: TrainingLoss) -> str:
    bad = [name for name, value in step.parts.items() if not torch.isfinite(value)]
    if not all(torch.isfinite(loss) for loss in model.losses):  # Keras adds them to that on the outputs
        bad = ["the regularization", *(name for name in bad if name.startswith("'"))]
    which = " and ".join(bad) or "their sum"
    statistics = _not_finite(model.non_trainable_weights)
    beside = f" (nor are moving statistics: {', '.join(statistics)})" if statistics else ""
    return f"the outputs of all nodes are finite; what is not is the loss itself: {which}{beside}"
