"""All that encapkeras uses of Keras beyond its documented interface: one function for each, with the versions read.

A new version of Keras may change any of it without notice. `tests/package/test_keras_internals.py` tests each function
against what it says, so that a change is found there, and not in the results of a training.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import keras
import torch
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.utils.naming import to_snake_case

import encapkeras.backend  # noqa: F401  # before Keras
from encapkeras.torch_internals import mix_all, multiply_all, square_all

CALLBACK_ATTRIBUTES = ("params", "_model")
"""What Keras itself keeps in each callback (`Callback.set_params`, `set_model`; Keras 3.15)."""


def layers_within(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """List a layer or model and all layers inside it, at any depth (`_flatten_layers`; Keras 3.15)."""
    return list(layer._flatten_layers())


def statistics_within(layer: keras.layers.Layer, *, frozen: bool = True) -> list[keras.Variable]:
    """List moving statistics, neither frozen weights nor seeds (`_non_trainable_variables`; Keras 3.15).

    With `frozen=False` without those of frozen layers, which do not move.
    """
    layers = [each for each in layers_within(layer) if frozen or each.trainable]
    made = [variable for each in layers for variable in each._non_trainable_variables]
    return [variable for variable in made if keras.backend.is_float_dtype(variable.dtype)]


def seed_states(model: keras.Model) -> list[torch.Tensor]:
    """List the states `[seed, draws]` of the seed generators of all layers (`_seed_generators`; Keras 3.15)."""
    return [seeds.state.value for layer in layers_within(model) for seeds in layer._seed_generators]


class LayerPlace(NamedTuple):
    """Where a `.weights.h5` file has the weights of a layer of a model, the layer's name, and the weights' shapes."""

    path: str
    layer: str
    shapes: tuple[tuple[int, ...], ...]


def places_in_weights_file(model: keras.Model) -> list[LayerPlace]:
    """List the places of a model's layers with weights of their own (`saving_lib`, `to_snake_case`; Keras 3.15)."""
    counts: Counter[str] = Counter()
    places = []
    for layer in model.layers:
        kind = to_snake_case(type(layer).__name__)
        path = f"layers/{kind}_{counts[kind]}" if counts[kind] else f"layers/{kind}"
        counts[kind] += 1
        if layer.weights:
            places.append(LayerPlace(path, layer.name, tuple(tuple(weight.shape) for weight in layer.weights)))
    return places


@contextlib.contextmanager
def names_counted_anew() -> Iterator[None]:
    """Name layers in the block as if there had been none before (`object_name_uids`; Keras 3.15)."""
    before = global_state.get_global_attribute("object_name_uids", default=defaultdict(int))
    global_state.set_global_attribute("object_name_uids", defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", before)


def mask_of(tensor: Any) -> Any:
    """Get the mask that Keras' layers hand on with a tensor; None without one (`_keras_mask`; Keras 3.15)."""
    return getattr(tensor, "_keras_mask", None)


def global_seed_state() -> torch.Tensor | None:
    """Get the state of the generator behind random functions without a seed; None at first (Keras 3.15)."""
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if generator is None else generator.state.value


def set_global_seed_state(state: torch.Tensor) -> None:
    """Set that state; make the generator, as the first such call does, if there is none yet (Keras 3.15)."""
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if generator is None:
        generator = keras.random.SeedGenerator()
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)
    generator.state.assign(state)


@contextlib.contextmanager
def replace_moments(
    layers: Sequence[keras.layers.BatchNormalization], moments_of: Callable[[keras.layers.BatchNormalization], Any]
) -> Iterator[None]:
    """Have batch norms take mean and variance from `moments_of(layer)(inputs, mask)` (`_moments`; Keras 3.15)."""
    for layer in layers:
        layer._moments = moments_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer._moments


def own_moments(
    layer: keras.layers.BatchNormalization, inputs: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and variance as the batch norm itself does (`_moments`; Keras 3.15)."""
    return type(layer)._moments(layer, inputs, mask)  # type: ignore[no-any-return]


def reduction_axes(layer: keras.layers.BatchNormalization) -> list[int]:
    """List the axes over which a batch norm takes its statistics (`_reduction_axes`; Keras 3.15)."""
    return list(layer._reduction_axes)


def inputs_of_calls(model: keras.Model, layer: keras.layers.Layer) -> list[list[keras.KerasTensor]]:
    """List the inputs of each call of a layer in this model, but not in others (`_nodes_by_depth`; Keras 3.15)."""
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    return [node.input_tensors for node in nodes if node.operation is layer]


def producer(tensor: keras.KerasTensor) -> tuple[keras.Operation, list[keras.KerasTensor]]:
    """Get the layer that made a symbolic tensor, and that call's inputs (`_keras_history`; Keras 3.15)."""
    history = tensor._keras_history
    return history.operation, history.operation._inbound_nodes[history.node_index].input_tensors


def begin_fit_at(model: keras.Model, epoch: int | None) -> None:
    """Have `fit`, in `on_train_begin`, begin at an epoch; None: at its argument's (`_initial_epoch`; Keras 3.15)."""
    model._initial_epoch = epoch


def training_function(model: keras.Model) -> Any:
    """Get what `fit` calls with the data of each step (`train_function`; Keras 3.15)."""
    return model.train_function


def set_training_function(model: keras.Model, function: Any) -> None:
    """Set what `fit` calls with the data of each step, from the next on (`train_function`; Keras 3.15)."""
    model.train_function = function


def is_fitting(model: keras.Model, frame: FrameType | None) -> bool:
    """Return whether a frame is inside of `fit` of this model, by the names `fit` and `self` (Keras 3.15)."""
    return _frame_of_fit(model, frame) is not None


def steps_per_epoch(model: keras.Model, frame: FrameType | None) -> int | None:
    """Get the argument of the `fit` of this model that a frame is inside of (its `epoch_iterator`; Keras 3.15)."""
    fit = _frame_of_fit(model, frame)
    return fit.f_locals["epoch_iterator"].steps_per_epoch if fit else None


def mean_batch_size(model: keras.Model, frame: FrameType | None) -> float | None:
    """Get the mean size of the batches of the `fit` that a frame is inside of (its `epoch_iterator`; Keras 3.15)."""
    fit = _frame_of_fit(model, frame)
    iterator = fit.f_locals["epoch_iterator"] if fit else None
    if iterator is None or iterator.data_adapter.batch_size is None:
        return None
    size, steps = iterator.data_adapter.batch_size, iterator.num_batches
    if iterator.steps_per_epoch or not steps:
        return float(size)
    last = iterator.data_adapter.partial_batch_size or size
    return float(size - (size - last) / steps)


def argument_of_fit(model: keras.Model, frame: FrameType | None, name: str) -> Any:
    """Get an argument of the `fit` of this model that a frame is inside of, None outside (Keras 3.15)."""
    fit = _frame_of_fit(model, frame)
    return fit.f_locals[name] if fit else None


def validates(model: keras.Model, frame: FrameType | None) -> bool:
    """Return whether the `fit` that a frame is inside of validates, in any epoch (`_should_eval`; Keras 3.15)."""
    fit = _frame_of_fit(model, frame)
    if fit is None or fit.f_locals["validation_data"] is None:
        return False
    epochs = range(fit.f_locals["initial_epoch"], fit.f_locals["epochs"])
    return any(model._should_eval(epoch, fit.f_locals["validation_freq"]) for epoch in epochs)


def size_of_this_batch(model: keras.Model, frame: FrameType | None) -> int:
    """Count the images of the batch that `fit` trains on now, 0 outside of `fit` (its `data`; Keras 3.15)."""
    fit = _frame_of_fit(model, frame)
    return len(keras.tree.flatten(fit.f_locals["data"])[0]) if fit else 0


def lowest_is_best(model: keras.Model, log: str) -> bool:
    """Return whether Keras minimizes the metric that a log is of (`_direction`; Keras 3.15)."""
    metrics = [each for metric in model.metrics for each in getattr(metric, "metrics", [metric])]
    falling = [each.name for each in metrics if getattr(each, "_direction", "") == "down"]
    return any(log == name or log.endswith(f"_{name}") for name in falling)


def callbacks_of_fit(model: keras.Model, frame: FrameType | None) -> list[keras.callbacks.Callback]:
    """List what the `fit` that a frame is inside of calls, in its order (its `callbacks`; Keras 3.15)."""
    fit = _frame_of_fit(model, frame)
    return list(fit.f_locals["callbacks"].callbacks) if fit else []


def _frame_of_fit(model: keras.Model, frame: FrameType | None) -> FrameType | None:
    while frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return frame
        frame = frame.f_back
    return None


def called_by_keras() -> bool:
    """Return whether Keras called the function that asks, such as a loss in `compile`, by its modules (Keras 3.15)."""
    caller = sys._getframe(2)  # of the function that asks
    return str(caller.f_globals.get("__name__")).startswith("keras.src.")


def cloned_by_keras() -> tuple[Any, bool]:
    """Get the model that `clone_model` copies by the call that asks, or None, and whether as it is (Keras 3.15)."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not keras.models.clone_model.__code__:
        frame = frame.f_back
    if frame is None:
        return None, False
    given = frame.f_locals
    function = inspect.getclosurevars(given["clone_function"]).nonlocals["clone_function"]
    own = function.__module__ == keras.models.clone_model.__module__
    return given["model"], own and given["input_tensors"] is None and given["call_function"] is None


def ask_before_steps(
    optimizer: keras.optimizers.Optimizer, may_step: Callable[[Sequence[Any], Sequence[keras.Variable]], bool]
) -> None:
    """Have training steps ask `may_step(gradients, weights)` before `Optimizer.apply` (in the object; Keras 3.15)."""
    make_step = optimizer.apply

    def apply(grads: Sequence[Any], trainable_variables: Sequence[keras.Variable]) -> None:
        if may_step(grads, trainable_variables):
            make_step(grads, trainable_variables)

    optimizer.apply = apply


def ask_no_longer(optimizer: keras.optimizers.Optimizer) -> None:
    """Undo `ask_before_steps`, also a repeated one."""
    vars(optimizer).pop("apply", None)


def update_at_once(optimizer: keras.optimizers.Optimizer) -> None:
    """Have an optimizer clip by the norm, and move its average, for all weights at once (in the object; Keras 3.15).

    Keras does so weight by weight, in ten operations for each. The results have the same bits.
    """
    move_by_weight = optimizer._update_model_variables_moving_average
    clip_by_gradient = optimizer._clip_gradients

    def move_average(trainable_variables: Sequence[keras.Variable]) -> None:
        averages = optimizer._model_variables_moving_average if optimizer.use_ema else []
        dtypes = {weight.dtype for weight in trainable_variables}
        if len(dtypes) != 1 or not averages or any(average is None for average in averages):
            move_by_weight(trainable_variables)
            return
        is_later = keras.ops.convert_to_tensor(optimizer.iterations) != 0  # the average begins with the first weights
        kept = keras.ops.multiply(keras.ops.cast(is_later, *dtypes), _number_on(is_later, optimizer.ema_momentum))
        with torch.no_grad():
            mix_all([each.value for each in averages], [w.value for w in trainable_variables], kept, 1 - kept)

    def clip(gradients: Sequence[torch.Tensor]) -> Any:
        limit = optimizer.global_clipnorm
        others = (optimizer.clipnorm, optimizer.clipvalue)
        if not limit or any(others) or len({gradient.dtype for gradient in gradients}) != 1:
            return clip_by_gradient(gradients)
        norm = torch.stack([square.sum() for square in square_all(gradients)]).sum().sqrt()
        scale = limit * keras.ops.minimum(1.0 / norm, _number_on(norm, 1.0 / limit))
        return multiply_all(gradients, scale + (norm - norm))  # NaN if the norm is not finite

    optimizer._update_model_variables_moving_average = move_average
    optimizer._clip_gradients = clip


def scale_rates(optimizer: keras.optimizers.Optimizer, factors: Mapping[int, float]) -> None:
    """Multiply the learning rate, and with it decoupled decay, of some weights, by `id(weight)` (in the object).

    Weights with the same factor are updated at once (`_backend_update_step`, `_apply_weight_decay`; Keras 3.15).
    """
    update, decay = optimizer._backend_update_step, optimizer._apply_weight_decay

    def groups(weights: Sequence[keras.Variable]) -> dict[float, list[int]]:
        found: dict[float, list[int]] = {}
        for place, weight in enumerate(weights):
            found.setdefault(factors.get(id(weight), 1.0), []).append(place)
        return found

    def update_groups(gradients: Sequence[Any], weights: Sequence[keras.Variable], learning_rate: Any) -> None:
        for factor, places in groups(weights).items():
            rate = learning_rate if factor == 1.0 else keras.ops.convert_to_tensor(learning_rate) * factor
            update([gradients[place] for place in places], [weights[place] for place in places], rate)

    def decay_groups(weights: Sequence[keras.Variable]) -> None:
        rate = optimizer.weight_decay
        try:
            for factor, places in groups(weights).items() if rate is not None else ():
                optimizer.weight_decay = rate * factor
                decay([weights[place] for place in places])
        finally:
            optimizer.weight_decay = rate

    optimizer._backend_update_step = update_groups
    optimizer._apply_weight_decay = decay_groups


def _number_on(like: torch.Tensor, number: float) -> torch.Tensor:
    """What Keras makes of a number; filled by the device, since a copy from the host would wait for it."""
    return torch.full((), number, dtype=getattr(torch, keras.config.floatx()), device=like.device)


@contextlib.contextmanager
def scale_gradients(optimizer: keras.optimizers.Optimizer, factor: float) -> Iterator[None]:
    """Multiply losses before their backward pass, not where they are shown (`Optimizer.scale_loss`; Keras 3.15)."""
    scale_loss = optimizer.scale_loss
    optimizer.scale_loss = lambda loss: scale_loss(loss) * factor
    try:
        yield
    finally:
        del optimizer.scale_loss


def replace_steps(model: keras.Model, train_step: Any, test_step: Any, predict_step: Any) -> None:
    """Have `fit`, `evaluate` and `predict` of one model make these steps (in the object; Keras 3.15)."""
    model.train_step, model.test_step, model.predict_step = train_step, test_step, predict_step


def replace_train_step(model: keras.Model) -> Any:
    """Get the training step that `replace_steps` has set; None if there is none."""
    return vars(model).get("train_step")


def name_outputs(model: keras.Model, names: list[str]) -> None:
    """Set the names by which `compile` matches losses and `fit` labels (`output_names`; Keras 3.15)."""
    model.output_names = names


@contextlib.contextmanager
def not_compiled(model: keras.Model) -> Iterator[None]:
    """Have `save` leave out what `compile` added (`optimizer` and `compiled`; Keras 3.15)."""
    optimizer, model.optimizer, model.compiled = model.optimizer, None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = optimizer, True
