"""The line that says why validation is at chance."""

import io

import keras
import numpy as np
import pytest
from rich.console import Console

from encapkeras.callbacks import Progress, Resume
from encapkeras.layers import ConvBnRelu
from encapkeras.training.callbacks.young_statistics import why_at_chance

IMAGES = np.random.default_rng(0).random((64, 4, 4, 1), dtype=np.float32)
LABELS = np.arange(64) % 4
CHANCE = "val_accuracy is at chance, accuracy is not: the moving statistics of batch norms"


def norm_model(norm=None, classes=4, **compiled):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    features = keras.layers.Flatten()((norm or ConvBnRelu(4))(inputs))
    model = keras.Model(inputs, keras.layers.Dense(classes)(features))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": "sgd", "loss": loss, "metrics": ["accuracy"], **compiled})
    return model


class Scores(keras.callbacks.Callback):
    """Puts scores into the logs, since a real training at chance would be slow and not sure."""

    KEPT = ()

    def __init__(self, trained=0.93, validated=0.25):
        super().__init__()
        self.scores = {"accuracy": trained, "val_accuracy": validated}

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self.scores)


def said(model, *before, scores=None, batch_size=8, epochs=2, **options):
    output = io.StringIO()
    shown = [*before, scores or Scores(), Progress(console=Console(file=output))]
    if before:
        before[0].also = shown[1:]
    options = {"validation_data": (IMAGES, LABELS), **options}
    model.fit(IMAGES, LABELS, batch_size=batch_size, epochs=epochs, callbacks=shown, verbose=0, **options)
    return [line for line in output.getvalue().splitlines() if not line.startswith("epoch ")]


def test_it_is_said_once_and_below_the_epoch():
    [line] = said(norm_model())
    assert line.startswith(CHANCE) and "have seen 8 of the about 50 steps" in line


@pytest.mark.parametrize(
    ("scores", "classes", "is_said"),
    [
        ((0.93, 0.0), 4, True),
        ((0.93, 0.32), 4, True),  # 1/4 + 0.1 * 3/4
        ((0.93, 0.33), 4, False),
        ((0.62, 0.25), 4, False),  # less than half of the way from chance
        ((0.80, 0.50), 2, True),
        ((0.99, 0.56), 2, False),
        ((0.99, 0.02), 100, True),
        ((0.99, 0.021), 100, False),
    ],
)
def test_what_counts_as_chance(scores, classes, is_said):
    model = norm_model(classes=classes)
    model.fit(IMAGES, LABELS % 2, verbose=0)
    logs = dict(zip(("accuracy", "val_accuracy"), scores, strict=True))
    assert bool(why_at_chance(model, 2, logs)) == is_said
    assert not why_at_chance(model, 50, logs)


class Nothing(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def trained_before():
    model = norm_model()
    model.fit(IMAGES, LABELS, verbose=0)
    return model


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: norm_model(Nothing()), {}),
        (trained_before, {}),
        (lambda: norm_model(keras.layers.BatchNormalization(trainable=False)), {}),
        (lambda: norm_model(optimizer=keras.optimizers.SGD(use_ema=True)), {}),
        (norm_model, {"batch_size": 1, "epochs": 1}),  # 64 steps
    ],
)
def test_it_is_not_said_where_that_is_not_the_reason(make, options):
    assert said(make(), **options) == []


def test_a_batch_norm_of_keras_takes_longer():
    [line] = said(norm_model(keras.layers.BatchNormalization()), batch_size=1, epochs=1)
    assert "have seen 64 of the about 500 steps" in line and "warm" not in line


def test_a_resumed_training_counts_on(tmp_path):
    fine = Scores(validated=0.9)
    assert said(norm_model(), Resume(tmp_path / "run"), scores=fine, epochs=1) == []
    [line] = said(norm_model(), Resume(tmp_path / "run"), epochs=2)
    assert "have seen 16 of" in line
