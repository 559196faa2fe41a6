"""What a strategy has to do for any Keras model, alone or as one of several processes.

    torchrun --nproc-per-node=2 tests/distribution/keras_model_together.py OUT

Every process writes `OUT/rank_0.npz`, `OUT/rank_1.npz` ...
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

from encapkeras import distribution
from encapkeras.errors import DistributionError

X = np.random.default_rng(0).normal(size=(9, 6))
Y = X.sum(1, keepdims=True)
BATCH = 4  # the last batch has one sample: fewer than processes


class Kept(keras.layers.Layer):
    """Keeps what passes through it in training."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = []

    def call(self, x, training=False):
        if training:
            self.passed.append(x.detach().numpy().copy())
        return x


def masks(strategy, seed):
    """Where dropout is, in each step, for samples that are all alike."""
    keras.utils.set_random_seed(7)
    kept = Kept()
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5, seed=seed), kept, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    strategy.attach(model)
    model.fit(np.ones((9, 64)), np.ones((9, 1)), batch_size=3, verbose=0)
    return np.array([row > 0 for step in kept.passed for row in step])


def compiled(strategy, dropout=0.0):
    keras.utils.set_random_seed(7)
    first, last = keras.layers.Dense(5, use_bias=False, name="first"), keras.layers.Dense(1, name="last")
    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((6,)), first, norm, keras.layers.Dropout(dropout), last])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", metrics=["mae"])
    return strategy.attach(model)


def fit(model, x=X, y=Y, batch_size=BATCH, **options):
    return model.fit(x, y, batch_size=batch_size, epochs=2, shuffle=False, verbose=0, **options).history


def found_in(name, model, history):
    found = {f"{name} {weight.path}": weight.value.numpy(force=True) for weight in model.weights}
    return found | {f"{name} {metric}": np.array(values) for metric, values in history.items()}


def main() -> None:
    keras.config.set_floatx("float64")  # of weights and statistics; Keras' Dense computes in float32 all the same
    strategy = distribution.DataParallel(sync_batch_norm=True)
    rank, count = strategy.processes.rank, strategy.processes.count

    model = compiled(strategy)
    found = found_in("synchronised", model, fit(model, validation_data=(X[:5], Y[:5])))
    model.get_layer("first").trainable = False
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    found |= found_in("frozen", model, fit(model))
    model.get_layer("first").trainable = True
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    found |= found_in("thawed", model, fit(model, sample_weight=np.linspace(0, 1, len(X))))
    found["predicted"] = model.predict(X, batch_size=BATCH, verbose=0)

    # Every process has its own samples: of each batch of three, the first has one and the second has two.
    strategy.auto_shard_dataset = False
    own = {1: [0, 1, 2], 2: [[0], [1, 2]][rank]}[count]
    mine = np.array([3 * batch + each for batch in range(3) for each in own])
    model = compiled(strategy)
    found |= found_in("own data", model, fit(model, X[mine], Y[mine], batch_size=len(own)))

    strategy.auto_shard_dataset = True
    model = compiled(strategy, dropout=0.5)
    found |= found_in("dropout", model, fit(model))  # differs from one process; not between processes
    found["masks"] = np.concatenate([masks(strategy, seed=None), masks(strategy, seed=5)])
    model = compiled(strategy)
    try:
        fit(model, X[: 9 - rank], Y[: 9 - rank])
    except DistributionError as error:
        found["refused"] = np.array(str(error))
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / f"rank_{rank}.npz", **found)
    distribution.finish()


if __name__ == "__main__":
    main()
