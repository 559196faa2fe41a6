"""Trains a tiny network in several processes, in one of which something goes wrong.

    torchrun --nproc-per-node=2 tests/distribution/failing_together.py OUT --nan-in 1 --left-out

Every process writes `OUT/rank_0.npz`, `OUT/rank_1.npz` ... with its weights and the batches that it left out.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from support.tiny_spec import tiny_spec

import encapkeras
from encapkeras import distribution
from encapkeras.callbacks import NonFiniteStop
from encapkeras.distribution.processes import propagate_errors, report_lost_processes
from encapkeras.errors import DataError, EncapkerasError

BATCH = 10
IMAGES = 45


class EndsAt(keras.callbacks.Callback):
    """Ends the last process without a word, as one that the system kills."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2 and distribution.initialize().rank == 1:
            os._exit(9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--nan-in", type=int, choices=(0, 1), help="whose part of the third batch")
    parser.add_argument("--left-out", action="store_true", help="one bad batch is left out")
    parser.add_argument("--killed", action="store_true", help="the second process ends in the third step")
    parser.add_argument("--refuses", action="store_true", help="the second process finds no data")
    arguments = parser.parse_args()

    strategy = distribution.DataParallel()
    rank = strategy.processes.rank
    try:
        with propagate_errors():  # around all of it, as train has it
            with propagate_errors():
                if arguments.refuses and rank == 1:
                    raise DataError("this machine has no data")
            model = fitted(strategy, arguments)
    except EncapkerasError as error:
        print(f"process {rank} says: {error}", file=sys.stderr)
        return error.exit_code
    arguments.out.mkdir(exist_ok=True)
    np.savez(arguments.out / f"rank_{rank}.npz", *model.get_weights(), left_out=model.left_out)
    distribution.finish()
    return 0


def fitted(strategy: distribution.DataParallel, arguments: argparse.Namespace) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = encapkeras.build_model(tiny_spec())
    model.compile(keras.optimizers.Adam(0.01), loss=model.make_losses(), metrics=["accuracy"])
    strategy.attach(model)
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(IMAGES, *model.input_shape[1:])).astype("float32")
    if arguments.nan_in is not None:
        images[23 + 4 * arguments.nan_in] = np.nan
    stop = NonFiniteStop(max_bad_batches=int(arguments.left_out), folder=arguments.out / "bad")
    callbacks = [stop, *([EndsAt()] if arguments.killed else [])]
    with report_lost_processes():
        model.fit(images, np.arange(IMAGES) % 10, BATCH, callbacks=callbacks, shuffle=False, verbose=0)
    model.left_out = stop.bad_batches
    return model


if __name__ == "__main__":
    sys.exit(main())
