"""The batches in Keras' own fit, evaluate and predict: what a model sees in each epoch."""

from itertools import chain

import keras
import numpy as np
import pytest
import torch

from encapkeras.data import AugmentSettings, Batches

IMAGES = 14


class Recorder(keras.Model):
    """Notes the number of every image that it sees, which is the value of all its pixels, batch by batch."""

    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3)
        self.seen = {True: [], False: []}

    def build(self, shape):
        self.head.build((shape[0], shape[-1]))

    def call(self, images, training=False):
        if images.device.type != "meta":
            self.seen[bool(training)].append((images[:, 0, 0, 0] * 255).round().long().tolist())
        return self.head(keras.ops.mean(images, axis=(1, 2)))


def batches_of(count, **training):
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 4, 4, 1).contiguous()
    return Batches(images, torch.arange(count) % 3, height=4, width=4, batch_size=4, **training)


def training_batches(seed):
    return batches_of(IMAGES, seed=seed, settings=AugmentSettings(mirror=True))


def fitted(train, *, build_first=True, **options):
    model = Recorder()
    if build_first:
        model.build((None, 4, 4, 1))
    model.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(train, validation_data=batches_of(6), verbose=0, shuffle=False, **options)
    return model


def epochs_seen(model):
    in_order = list(chain.from_iterable(model.seen[True]))
    return [in_order[start : start + IMAGES] for start in range(0, len(in_order), IMAGES)]


@pytest.mark.parametrize("build_first", [True, False])  # fit looks at one batch more if it has to build the model
def test_every_epoch_sees_every_image_once_in_a_new_order(build_first):
    train = training_batches(seed=0)
    model = fitted(train, build_first=build_first, epochs=3)
    assert [len(batch) for batch in model.seen[True]] == [4, 4, 4, 2] * 3
    epochs = epochs_seen(model)
    assert [sorted(epoch) for epoch in epochs] == [list(range(IMAGES))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert train.epoch == 3


def test_the_epochs_of_fit_are_those_of_the_batches():
    separate = training_batches(seed=0)
    for number, epoch in enumerate(epochs_seen(fitted(training_batches(seed=0), epochs=3))):
        images = torch.cat([separate.batch(index, number)[0] for index in range(len(separate))])
        assert epoch == (images[:, 0, 0, 0] * 255).round().long().tolist()


def test_validation_is_seen_in_its_own_order_each_epoch():
    model = fitted(training_batches(seed=0), epochs=3)
    assert model.seen[False] == [[0, 1, 2, 3], [4, 5]] * 3


def test_another_seed_gives_another_order():
    orders = [epochs_seen(fitted(training_batches(seed), epochs=2)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_callback_can_choose_the_epoch():
    chosen = training_batches(seed=0)
    tell = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: chosen.set_epoch(epoch))
    [resumed] = epochs_seen(fitted(chosen, initial_epoch=2, epochs=3, callbacks=[tell]))
    assert resumed == epochs_seen(fitted(training_batches(seed=0), epochs=3))[2]


def test_evaluate_and_predict_take_all_images():
    model, test = fitted(training_batches(seed=0)), batches_of(6)
    logits = model.predict(test, verbose=0)
    assert logits.shape == (6, 3)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), np.arange(6) % 3]
    assert np.isclose(model.evaluate(test, verbose=0), losses.mean(), atol=1e-6)
