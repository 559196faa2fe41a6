"""Single training steps of bundled specs, with the optimizer of the spec."""

import keras
import torch

from encapkeras import build_model, load_spec
from encapkeras.training.optimizer.make_optimizer import make_optimizer


def compiled_model(name, changes=()):
    """The network of a spec, ready to train."""
    spec = load_spec(name, changes)
    model = build_model(spec)
    model.compile(
        make_optimizer(spec.train, steps_per_epoch=10),
        loss=model.make_losses(),
        loss_weights=model.loss_weights,
        metrics=["accuracy"],
    )
    return model


def batch_of(model, device, samples=4):
    """Images and one-hot labels on a device: the same in each call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(samples, *model.inputs[0].shape[1:], generator=generator)
    labels = torch.eye(len(model.class_names) or 10)[:samples]
    return images.to(device), labels.to(device)


def steps(model, device, count):
    """The loss before each of some steps on one batch."""
    with keras.device(str(device)):
        batch = batch_of(model, device)
        return [float(model.train_step(batch)["loss"]) for _ in range(count)]
