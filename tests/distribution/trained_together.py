"""Trains a small network with all that a step has, alone or as one of several processes, and keeps its weights.

    torchrun --nproc-per-node=2 tests/distribution/trained_together.py OUT [--dtype float64] [--precision bfloat16]
        [--resume DIR] [--spec routing_em --set vars.types=4]

Every process writes `OUT/rank_0.npz`, `OUT/rank_1.npz` ...: weights, statistics, optimizer, metrics, predictions.
"""

import argparse
import os
import signal
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

import encapkeras
from encapkeras import distribution
from encapkeras.callbacks import Resume

BATCH = 16
IMAGES = 2 * BATCH + 7  # an epoch of three steps, the last one uneven


class EndAt(keras.callbacks.Callback):
    """Has the last process told to end, as a scheduler does."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.steps_left = step

    def on_train_batch_end(self, batch, logs=None):
        self.steps_left -= 1
        processes = distribution.initialize()
        if self.steps_left == 0 and processes.rank == processes.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--spec", default="encapnet_ot_digits")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the spec")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--without-sync", action="store_true")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--every-step", action="store_true", help="save after every step")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="(%(default)s)")
    parser.add_argument("--end-at", type=int, metavar="STEP", help="the last process is then told to end")
    arguments = parser.parse_args()

    keras.config.set_floatx(arguments.dtype)
    strategy = distribution.DataParallel(sync_batch_norm=not arguments.without_sync, timeout=arguments.timeout)
    keras.utils.set_random_seed(strategy.processes.rank)  # attach has to make the processes alike
    changes = [*arguments.set, f"train.precision={arguments.precision}"]
    if arguments.spec == "encapnet_ot_digits":
        changes += ["vars.types=4", "vars.sub_layers=1"]
        changes += ["model.defaults.capsule_stage.moving_average=warm"]  # the others: momentum
        changes += [f"model.nodes.stem.{name}=l2" for name in ("kernel_regularizer", "activity_regularizer")]
        largest = "{class_name: max_norm, config: {max_value: 0.5, axis: [0, 1, 2]}}"
        changes += [f"model.nodes.stem.kernel_constraint={largest}"]
    model = encapkeras.build_model(encapkeras.load_spec(arguments.spec, changes))
    optimizer = keras.optimizers.SGD(
        0.01,
        momentum=0.9,
        global_clipnorm=1.0,
        use_ema=True,
        ema_momentum=0.9,
        gradient_accumulation_steps=arguments.accumulate,
    )
    if arguments.precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, loss=model.make_losses(), loss_weights=model.loss_weights, metrics=["accuracy"])
    strategy.attach(model)

    generator = np.random.default_rng(0)
    images = generator.uniform(size=(IMAGES, *model.input_shape[1:])).astype(arguments.dtype)
    labels = generator.integers(0, len(model.class_names), IMAGES)
    callbacks = [Resume(arguments.resume, minutes=0 if arguments.every_step else 10)] if arguments.resume else []
    callbacks += [EndAt(arguments.end_at)] if arguments.end_at else []
    history = model.fit(
        images, labels, batch_size=BATCH, epochs=arguments.epochs, callbacks=callbacks, shuffle=True, verbose=0
    )
    found = {f"weight {weight.path}": weight.value.numpy(force=True) for weight in model.trainable_weights}
    found |= {f"statistic {weight.path}": weight.value.numpy(force=True) for weight in model.non_trainable_weights}
    found |= {f"optimizer {variable.path}": variable.value.numpy(force=True) for variable in optimizer.variables}
    found |= {f"history {name}": np.array(values) for name, values in history.history.items()}
    found |= {f"seen {each.path}": each.value.numpy(force=True) for each in model.metrics_variables}  # last epoch
    evaluated = model.evaluate(images, labels, batch_size=BATCH, verbose=0, return_dict=True)
    found |= {f"evaluated {name}": np.array(value) for name, value in evaluated.items()}
    found["predicted"] = model.predict(images, batch_size=BATCH, verbose=0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.out / f"rank_{strategy.processes.rank}.npz", **found)
    distribution.finish()


if __name__ == "__main__":
    main()
