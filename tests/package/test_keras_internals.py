"""Each function of `keras_internals` does what it says: one test for each, which fails when Keras changes."""

import sys

import keras
import numpy as np
import pytest
import torch

from encapkeras import keras_internals as internals

pytestmark = pytest.mark.smoke

X, Y = np.ones((4, 1), "float32"), np.zeros((4, 1), "float32")


def one_weight(optimizer="sgd", start=1.0):
    """A model `y = w * x`, whose loss is `w ** 2`."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse")
    model.layers[0].kernel.assign([[start]])
    return model


def weight(model):
    return model.layers[0].kernel.value.item()


def test_mask_of_gives_what_a_masking_layer_hands_on():
    steps = np.array([[[1.0], [0.0]]], "float32")
    masked = keras.layers.Masking()(steps)
    assert internals.mask_of(masked).tolist() == [[True, False]]
    assert internals.mask_of(torch.ones(2)) is None


def test_called_by_keras_knows_who_calls_a_loss():
    asked = []

    def loss(y, y_pred):
        asked.append(internals.called_by_keras())
        return keras.ops.mean(y_pred)

    def ask():
        return internals.called_by_keras()

    model = one_weight()
    model.compile("sgd", loss)
    model.evaluate(X, Y, verbose=0)
    assert set(asked) == {True}
    assert not ask()


def test_cloned_by_keras_finds_the_model_and_what_was_given():
    found = []

    class Asking(keras.layers.Layer):
        def __init__(self, **kwargs):
            found.append(internals.cloned_by_keras())
            super().__init__(**kwargs)

        def call(self, inputs):
            return inputs

    inputs = keras.Input((1,))
    model = keras.Model(inputs, Asking()(inputs))
    keras.models.clone_model(model)
    keras.models.clone_model(model, clone_function=lambda layer: type(layer).from_config(layer.get_config()))
    keras.models.clone_model(model, input_tensors=keras.Input((1,)))
    keras.models.clone_model(model, call_function=lambda layer, *args, **kwargs: layer(*args, **kwargs))
    assert found == [(None, False), (model, True), *[(model, False)] * 3]


class Calling(keras.callbacks.Callback):
    """Does something at the moments that its arguments name."""

    def __init__(self, **moments):
        super().__init__()
        for name, function in moments.items():
            setattr(self, name, function)


def nested():
    norm, frozen, dropout = keras.layers.BatchNormalization(), keras.layers.Dense(2), keras.layers.Dropout(0.5, seed=1)
    inner = keras.Sequential([keras.Input((2,)), norm, keras.layers.TimeDistributed(frozen), dropout][:2])
    inputs = keras.Input((2,))
    model = keras.Model(inputs, dropout(frozen(inner(inputs))))
    frozen.trainable = False
    return model, inner, norm, frozen, dropout


def test_layers_within_finds_layers_at_any_depth():
    model, inner, norm, frozen, dropout = nested()
    around = keras.layers.TimeDistributed(keras.layers.Dense(1))
    outer = keras.Sequential([keras.Input((3, 2)), around])
    found = internals.layers_within(model)
    assert found[0] is model
    assert {id(each) for each in (model, inner, norm, frozen, dropout)} <= {id(each) for each in found}
    assert any(each is around.layer for each in internals.layers_within(outer))


def test_statistics_within_are_what_training_moves_beside_weights():
    model, _, norm, *_ = nested()
    statistics = internals.statistics_within(model)
    assert {id(each) for each in statistics} == {id(norm.moving_mean), id(norm.moving_variance)}
    before = [each.value.clone() for each in statistics]
    model(torch.rand(8, 2), training=True)
    assert all((each.value != value).all() for each, value in zip(statistics, before, strict=True))
    norm.trainable = False
    assert len(internals.statistics_within(model)) == 2


def test_seed_states_decide_what_layers_draw():
    model, *_ = nested()
    [state] = internals.seed_states(model)
    before, ones = state.clone(), torch.ones(64, 2)

    def drawn():
        return model.layers[-1](ones, training=True)

    first = drawn()
    assert (state - before).tolist() == [0, 1]  # the number of the draw, beside the seed
    second = drawn()
    assert not torch.equal(first, second)
    state.copy_(before)
    assert torch.equal(drawn(), first)
    state[0], state[1] = before[0] + 1, before[1]
    assert not torch.equal(drawn(), first)


def test_global_seed_state_decides_what_functions_draw():
    keras.utils.clear_session()
    assert internals.global_seed_state() is None
    internals.set_global_seed_state(torch.tensor([7, 0]))
    first = keras.random.normal((3,))
    middle = internals.global_seed_state().clone()
    second = keras.random.normal((3,))
    assert not torch.equal(first, second)
    for state, drawn in ((middle, second), (torch.tensor([7, 0]), first)):
        internals.set_global_seed_state(state)
        assert torch.equal(keras.random.normal((3,)), drawn)


def test_replaced_moments_are_those_that_a_batch_norm_uses_and_keeps():
    norm = keras.layers.BatchNormalization(momentum=0.5, epsilon=1e-9)
    norm.build((None, 2))
    seen = []

    def moments_of(layer):
        def moments(inputs, mask):
            seen.append((layer, inputs, mask))
            return torch.tensor([1.0, 3.0]), torch.tensor([4.0, 1.0])

        return moments

    x = torch.tensor([[3.0, 5.0], [1.0, 2.0]])
    own = norm(x, training=True)
    statistics = norm.moving_mean.value.clone()
    with internals.replace_moments([norm], moments_of):
        assert torch.allclose(norm(x, training=True), torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
    assert torch.allclose(norm.moving_mean.value, (statistics + torch.tensor([1.0, 3.0])) / 2)
    assert [(layer is norm, inputs is x, mask) for layer, inputs, mask in seen] == [(True, True, None)]
    assert torch.equal(norm(x, training=True), own)


def test_own_moments_and_reduction_axes_are_those_of_numpy():
    norm = keras.layers.BatchNormalization(axis=2)
    norm.build((None, 3, 2, 4))
    x = torch.rand(5, 3, 2, 4, dtype=torch.float32)
    assert internals.reduction_axes(norm) == [0, 1, 3]
    with internals.replace_moments([norm], lambda layer: None):
        mean, variance = internals.own_moments(norm, x, None)
    np.testing.assert_allclose(mean.flatten(), x.numpy().mean((0, 1, 3)), rtol=1e-5)
    np.testing.assert_allclose(variance.flatten(), x.numpy().var((0, 1, 3)), rtol=1e-5)


def test_inputs_of_calls_are_those_of_one_model():
    layer, inputs = keras.layers.Dense(2), keras.Input((2,))
    first = layer(inputs)
    model = keras.Model(inputs, layer(first))
    other = keras.Input((2,))
    layer(other)
    found = internals.inputs_of_calls(model, layer)
    assert sorted(id(each) for (each,) in found) == sorted((id(inputs), id(first)))
    assert [[each] for [each] in internals.inputs_of_calls(keras.Model(other, layer(other)), layer)] == [[other]]


def test_producer_is_the_last_layer_and_what_it_was_called_with():
    first, second = keras.Input((2,)), keras.Input((2,))
    layer = keras.layers.Add()
    layer([first, first])
    tensor = layer([first, second])
    operation, inputs = internals.producer(tensor)
    assert operation is layer and [id(each) for each in inputs] == [id(first), id(second)]


@pytest.mark.parametrize(("epoch", "epochs"), [(2, [2, 3]), (4, []), (None, [1, 2, 3])])
def test_begin_fit_at_decides_which_epochs_follow(epoch, epochs):
    model, begun = one_weight(), []
    fitting = Calling(
        on_train_begin=lambda logs=None: internals.begin_fit_at(model, epoch),
        on_epoch_begin=lambda epoch, logs=None: begun.append(epoch),
    )
    model.fit(X, Y, initial_epoch=1, epochs=4, callbacks=[fitting], verbose=0)
    assert begun == epochs


def test_set_training_function_takes_the_place_of_single_steps():
    model, given, weights = one_weight(), [], []
    functions = []

    def begin(batch, logs=None):
        weights.append(weight(model))
        functions.append(internals.training_function(model))
        if batch == 1:
            internals.set_training_function(model, lambda data: given.append(data) or {})

    def end(batch, logs=None):
        internals.set_training_function(model, functions[0])

    model.fit(X, Y, batch_size=1, shuffle=False, callbacks=[Calling(on_train_batch_begin=begin)], verbose=0, epochs=1)
    assert len(given) == 3 and weights[1] == weights[2] == weights[3] == weight(model) != weights[0]
    [x, y] = keras.tree.map_structure(np.asarray, next(iter(given[0])) if len(given[0]) == 1 else given[0])
    assert (x.tolist(), y.tolist()) == ([[1.0]], [[0.0]])

    given.clear(), functions.clear(), weights.clear()
    calling = Calling(on_train_batch_begin=begin, on_train_batch_end=end)
    internals.set_training_function(model, None)  # as before the first fit
    model.fit(X, Y, batch_size=1, shuffle=False, callbacks=[calling], verbose=0)
    assert len(given) == 1 and weights[1] == weights[2] != weights[3] != weight(model)


def test_is_fitting_tells_the_fit_of_this_model_alone():
    model, other, told = one_weight(), one_weight(), []

    def tell(batch, logs=None):
        frame = sys._getframe()
        told.append((internals.is_fitting(model, frame), internals.is_fitting(other, frame)))

    model.fit(X, Y, callbacks=[Calling(on_train_batch_end=tell)], verbose=0)
    model.evaluate(X, Y, callbacks=[Calling(on_test_batch_end=tell)], verbose=0)
    assert told == [(True, False), (False, False)]


@pytest.mark.parametrize("steps", [None, 1])
def test_steps_per_epoch_is_the_argument_of_fit(steps):
    model, found = one_weight(), []
    begin = Calling(on_train_begin=lambda logs=None: found.append(internals.steps_per_epoch(model, sys._getframe())))
    model.fit(X, Y, steps_per_epoch=steps, callbacks=[begin], verbose=0)
    assert found == [steps] and internals.steps_per_epoch(model, sys._getframe()) is None


@pytest.mark.parametrize(
    ("rows", "options", "size"),
    [(3, {"batch_size": 2}, 1.5), (4, {"batch_size": 2}, 2.0), (3, {"batch_size": 2, "steps_per_epoch": 1}, 2.0)],
)
def test_mean_batch_size_counts_a_smaller_last_batch(rows, options, size):
    model, found, x = one_weight(), [], np.ones((rows, 1), "float32")
    begin = Calling(on_train_begin=lambda logs=None: found.append(internals.mean_batch_size(model, sys._getframe())))
    model.fit(x, x, callbacks=[begin], verbose=0, **options)
    assert found == [size] and internals.mean_batch_size(model, sys._getframe()) is None


def test_mean_batch_size_of_a_generator_is_not_known():
    model, found = one_weight(), []
    begin = Calling(on_train_begin=lambda logs=None: found.append(internals.mean_batch_size(model, sys._getframe())))
    model.fit(((X, Y) for _ in range(9)), steps_per_epoch=1, shuffle=False, callbacks=[begin], verbose=0)
    assert found == [None]


def test_callbacks_and_arguments_are_those_of_fit():
    model, found = one_weight(), []

    def note(logs=None):
        frame = sys._getframe()
        found.append(internals.callbacks_of_fit(model, frame)[:2])
        found.append([internals.argument_of_fit(model, frame, name) for name in ("x", "initial_epoch")])

    given = [Calling(), Calling(on_train_begin=note)]
    model.fit(X, Y, initial_epoch=1, epochs=2, callbacks=given, verbose=0)
    assert found == [given, [X, 1]]
    assert internals.callbacks_of_fit(model, sys._getframe()) == []
    assert internals.argument_of_fit(model, sys._getframe(), "x") is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"validation_split": 0.5}, True),
        ({"validation_data": (X, Y)}, True),
        ({"validation_data": (X, Y), "validation_freq": 2}, False),
        ({"validation_data": (X, Y), "validation_freq": [1]}, True),
    ],
)
def test_whether_fit_validates_and_the_size_of_this_batch(options, expected):
    model, found = one_weight(), []

    def note(batch, logs=None):
        frame = sys._getframe()
        found.append((internals.validates(model, frame), internals.size_of_this_batch(model, frame)))

    model.fit(X, Y, callbacks=[Calling(on_train_batch_end=note)], verbose=0, **options)
    assert found[0] == (expected, len(X) // (2 if "validation_split" in options else 1))
    assert not internals.validates(model, sys._getframe()) and internals.size_of_this_batch(model, sys._getframe()) == 0


def test_the_metrics_that_keras_minimizes_are_known_by_their_logs():
    model = one_weight()
    model.compile("sgd", "mse", metrics=["mae", "accuracy"])
    model.fit(X, Y, verbose=0)
    assert [internals.lowest_is_best(model, name) for name in ("val_mae", "mae", "a_mae", "val_accuracy")] == [
        True,
        True,
        True,
        False,
    ]


def scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0)


@pytest.mark.parametrize("make", [lambda: keras.optimizers.SGD(0.1), lambda: keras.optimizers.Adam(0.1), scaled])
def test_a_step_that_is_refused_changes_nothing(make):
    model, seen = one_weight(make()), []

    def may_step(gradients, weights):
        seen.append((gradients[0].item(), weights[0] is model.layers[0].kernel))
        return not np.isnan(gradients[0].item())

    spoilt = np.full_like(Y, np.nan)
    internals.ask_before_steps(model.optimizer, may_step)
    model.fit(X, spoilt, verbose=0)
    state = [each.value.tolist() for each in model.optimizer.variables]
    assert weight(model) == 1.0 and int(model.optimizer.iterations) == 0
    assert len(seen) == 1 and np.isnan(seen[0][0]) and seen[0][1]
    internals.ask_no_longer(model.optimizer)
    internals.ask_no_longer(model.optimizer)
    assert [each.value.tolist() for each in model.optimizer.variables] == state
    model.fit(X, Y, verbose=0)
    assert len(seen) == 1 and weight(model) < 1.0 and int(model.optimizer.iterations) == 1
    internals.ask_before_steps(model.optimizer, may_step)
    model.fit(X, Y, verbose=0)
    assert len(seen) == 2 and int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("clip", [{"global_clipnorm": 0.5}, {"clipnorm": 0.5}, {"clipvalue": 0.5}, {}])
@pytest.mark.parametrize("ema", [True, False])
def test_updates_at_once_have_the_bits_of_those_one_by_one(clip, ema):
    found = []
    for treat in (internals.update_at_once, lambda optimizer: None):
        optimizer = keras.optimizers.Adam(0.1, use_ema=ema, ema_momentum=0.9, **clip)
        treat(optimizer)
        weights = [keras.Variable([1.0, 2.0]), keras.Variable([[3.0]])]
        for step in range(3):
            optimizer.apply([torch.tensor([0.7, step - 1.0]), torch.tensor([[2.0]])], weights)
        found.append([each.value.tolist() for each in (*weights, *optimizer.variables)])
    assert found[0] == found[1]


@pytest.mark.parametrize("make", [lambda: keras.optimizers.SGD(0.1), scaled])
def test_scaled_gradients_change_the_step_and_not_what_is_shown(make):
    model = one_weight(make())
    with internals.scale_gradients(model.optimizer, 0.25):
        shown = model.train_on_batch(X, Y)
    assert shown == pytest.approx(1.0)
    assert weight(model) == pytest.approx(1.0 - 0.1 * 0.25 * 2.0)
    model.layers[0].kernel.assign([[1.0]])
    model.train_on_batch(X, Y)
    assert weight(model) == pytest.approx(1.0 - 0.1 * 2.0)


def test_replaced_steps_are_made_by_fit_evaluate_and_predict():
    model, made = one_weight(), []
    assert internals.replace_train_step(model) is None

    def step(name):
        def made_step(data):
            made.append(name)
            return getattr(type(model), name)(model, data)

        return made_step

    steps = [step(name) for name in ("train_step", "test_step", "predict_step")]
    model.fit(X, Y, verbose=0)
    internals.replace_steps(model, *steps)
    assert internals.replace_train_step(model) is steps[0]
    for compiled_again in (False, True):
        made.clear()
        if compiled_again:
            model.compile("sgd", "mse")
        before = weight(model)
        model.fit(X, Y, verbose=0)
        model.evaluate(X, Y, verbose=0)
        model.predict(X, verbose=0)
        assert made == ["train_step", "test_step", "predict_step"] and weight(model) < before


def test_losses_and_labels_are_matched_by_the_names_of_outputs():
    inputs = keras.Input((1,))
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Model(inputs, {"b": dense(inputs), "a": keras.layers.ReLU()(inputs)})
    internals.name_outputs(model, ["a", "b"])
    assert model.output_names == ["a", "b"]
    model.compile("sgd", loss={"a": "mse", "b": "mae"})
    results = model.evaluate(X, {"a": Y, "b": 3 * X}, verbose=0, return_dict=True)
    assert (results["a_loss"], results["b_loss"]) == (1.0, 2.0)


def test_a_model_saved_as_not_compiled_has_no_optimizer(tmp_path):
    model = one_weight()
    optimizer = model.optimizer
    model.fit(X, Y, verbose=0)
    with internals.not_compiled(model):
        model.save(tmp_path / "model.keras")
    assert model.optimizer is optimizer and model.compiled
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.compiled and getattr(loaded, "optimizer", None) is None
    model.fit(X, Y, verbose=0)


def test_callback_attributes_are_all_that_keras_keeps_in_one():
    callback = keras.callbacks.Callback()
    one_weight().fit(X, Y, callbacks=[callback], verbose=0)
    assert set(vars(callback)) == set(internals.CALLBACK_ATTRIBUTES)


def test_callbacks_see_what_those_before_them_add_to_the_logs():
    """No function of the room, but the way in which the speed, and sums over processes, reach files and the screen."""
    seen = []
    adding = Calling(
        on_train_batch_end=lambda batch, logs=None: logs.update(added=batch),
        on_epoch_end=lambda epoch, logs=None: logs.update(added=10.0),
    )
    looking = Calling(
        on_train_batch_end=lambda batch, logs=None: seen.append(logs["added"]),
        on_epoch_end=lambda epoch, logs=None: seen.append(logs["added"]),
    )
    one_weight().fit(X, Y, batch_size=2, callbacks=[adding, looking], verbose=0)
    assert seen == [0, 1, 10.0]


def network():
    """Layers of several kinds, some twice, some without weights, one frozen."""
    image = keras.Input((8, 8, 3))
    layers = [
        keras.layers.Conv2D(2, 3),
        keras.layers.ReLU(),
        keras.layers.BatchNormalization(),
        keras.layers.Conv2D(4, 3),
    ]
    layers += [keras.layers.SeparableConv2D(2, 3), keras.layers.Dropout(0.5), keras.layers.BatchNormalization()]
    outputs = image
    for layer in layers:
        outputs = layer(outputs)
    layers[2].trainable = False
    return keras.Model(image, outputs)


def test_places_in_weights_file_are_those_that_keras_writes(tmp_path):
    import h5py

    model = network()
    model.save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5") as file:
        for place in (places := internals.places_in_weights_file(model)):
            variables = file[place.path]["vars"]
            assert tuple(tuple(variables[str(i)].shape) for i in range(len(variables))) == place.shapes
        assert {place.path for place in places} == {
            f"layers/{name}" for name, group in file["layers"].items() if len(group.get("vars", {}))
        }
    assert [place.layer for place in places] == [layer.name for layer in model.layers if layer.weights]


def test_names_are_counted_anew_and_then_go_on():
    before = keras.layers.ReLU().name
    with internals.names_counted_anew():
        assert [keras.layers.ReLU().name for _ in range(2)] == ["re_lu", "re_lu_1"]
    assert keras.layers.ReLU().name == f"re_lu_{int(before.removeprefix('re_lu').strip('_') or 0) + 1}"


def test_statistics_of_frozen_layers_can_be_left_out():
    model = network()
    assert len(internals.statistics_within(model)) == 4
    moving = internals.statistics_within(model, frozen=False)
    assert {id(each) for each in moving} == {id(each) for each in model.layers[-1].non_trainable_weights}


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.RMSprop])
def test_scaled_rates_are_those_of_the_step_and_of_decay(optimizer):
    def stepped(rate, factor):
        weights = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
        made = optimizer(rate, weight_decay=0.25)
        if factor != 1:
            internals.scale_rates(made, {id(weights[1]): factor})
        made.apply([torch.ones(2), torch.ones(1)], weights)
        return [weight.value.tolist() for weight in weights], made.weight_decay

    (first, scaled), decay = stepped(0.5, 0.5)
    assert decay == 0.25
    assert first == stepped(0.5, 1)[0][0] and scaled == stepped(0.25, 1)[0][1]
