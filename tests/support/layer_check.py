"""What every layer must do, checked at once: `check_layer`."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import torch


def with_batch(shape, batch=2):
    """An input's shape, or the list of those of several inputs, with the batch before it."""
    return [(batch, *each) for each in shape] if isinstance(shape, list) else (batch, *shape)


def for_each(shape, make, batch=2):
    """What `make` makes of an input's shape, or a list for several inputs."""
    shapes = with_batch(shape, batch)
    return list(map(make, shapes)) if isinstance(shape, list) else make(shapes)


def check_layer(layer_class, arguments, input_shape, *, trainable_weights, moving_weights=0):
    """Checks a layer on inputs of a shape (without the batch).

    Configuration and `.keras` round trip, symbolic shape = eager shape, batches of 1 and more, half and double
    precision, weight counts, finite outputs and gradients on random, zero and constant inputs, a step of `fit`.
    """
    layer = layer_class(**arguments)
    check_config(layer)
    inputs = for_each(input_shape, lambda shape: keras.Input(shape[1:]))
    outputs = layer(inputs)
    assert len(layer.trainable_weights) == trainable_weights
    assert len(layer.non_trainable_weights) == moving_weights
    check_shapes(layer, outputs.shape, input_shape)
    check_gradients(layer, input_shape)
    check_precisions(layer_class, arguments, input_shape)
    model = keras.Model(inputs, outputs)
    check_fit(model, input_shape)
    check_save_and_load(model, input_shape)
    if not isinstance(input_shape, list):
        check_sequential(layer_class, arguments, input_shape)
    return layer


def check_config(layer):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    restored = keras.layers.deserialize(keras.layers.serialize(layer))
    assert restored.get_config() == config


def check_shapes(layer, symbolic_shape, input_shape):
    for batch in (1, 3):
        for training in (False, True):
            result = layer(for_each(input_shape, torch.rand, batch), training=training)
            assert tuple(result.shape) == (batch, *symbolic_shape[1:])
            assert torch.isfinite(result).all()
    assert layer.compute_output_shape(with_batch(input_shape, None)) == symbolic_shape


def check_gradients(layer, input_shape):
    for make, batch in ((torch.rand, 2), (torch.zeros, 2), (torch.ones, 1)):
        for training in (False, True):
            for weight in layer.trainable_weights:
                weight.value.grad = None
            x = for_each(input_shape, lambda shape: make(shape).requires_grad_(), batch)  # noqa: B023  # called here
            layer(x, training=training).square().sum().backward()
            gradients = [
                *(each.grad for each in keras.tree.flatten(x)),
                *(weight.value.grad for weight in layer.trainable_weights),
            ]
            assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def check_precisions(layer_class, arguments, input_shape):
    for policy, dtype in (("float64", torch.float64), ("mixed_bfloat16", torch.bfloat16)):
        layer = layer_class(**arguments, dtype=policy)
        result = layer(for_each(input_shape, lambda shape: torch.rand(shape, requires_grad=True)), training=True)
        assert result.dtype == dtype
        assert torch.isfinite(result).all()
        result.sum().backward()


def check_fit(model, input_shape):
    if not model.trainable_weights:
        return
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    x = for_each(input_shape, lambda shape: np.random.default_rng(0).uniform(size=shape).astype("float32"), 5)
    y = np.ones((5, *model.output_shape[1:]), "float32")
    history = model.fit(x, y, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    changed = [not np.array_equal(old, new.numpy()) for old, new in zip(before, model.trainable_weights, strict=True)]
    assert any(changed)


def check_save_and_load(model, input_shape):
    x = for_each(input_shape, torch.rand)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
    assert torch.equal(model(x, training=False), loaded(x, training=False))


def check_sequential(layer_class, arguments, input_shape):
    model = keras.Sequential([layer_class(**arguments)])
    result = model.predict(np.zeros((3, *input_shape), "float32"), batch_size=2, verbose=0)
    assert len(result) == 3
