"""What a classifier makes of its validation images, without any change to it or to a random generator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from encapkeras.data import Batches
from encapkeras.data.splits import balanced_order
from encapkeras.errors import ArgumentError, NotFiniteError
from encapkeras.keras_internals import producer
from encapkeras.losses import OptimalTransport, ReconstructionLoss
from encapkeras.losses.targets import sum_to_1
from encapkeras.model.spec_model import SpecModel
from encapkeras.training.random_state import RandomState, random_state, set_random_state
from encapkeras.validation import shown

BATCH = 128  # images at once, of arrays
SHOWN = 64  # images that side losses are computed for, and that pictures show at most
EMBEDDED = 1000  # images in the projector, at most,
EMBEDDED_NUMBERS = 2**20  # and numbers in their capsules
THUMBNAIL = 32  # pixels, the longer side


@dataclass(frozen=True)
class Predictions:
    """What a classifier makes of N images, in an order whose beginnings are balanced over the classes; on the CPU."""

    images: Tensor  # the first, `(F, H, W, C)`, 0 to 1
    labels: Tensor  # the class of each of all images, `(N,)`
    scores: Tensor  # lengths of class capsules, or probabilities, `(N, K)`
    capsules: Tensor | None  # class capsules of the first images, `(M, J, E)`; None if the model has none
    thumbnails: Tensor | None  # these images, small, `(M, h, w, C)`
    reconstructions: Mapping[str, Tensor]  # what each loss decodes of the first images, `(F, H, W, C)`
    plans: Mapping[str, Tensor]  # the plan of each optimal-transport loss for the first images, `(F, F)`

    @property
    def predicted(self) -> Tensor:
        """The class with the highest score, `(N,)`."""
        return self.scores.argmax(1)

    @property
    def confusion(self) -> Tensor:
        """How many images of each class (row) were predicted as each class (column), `(K, K)`."""
        classes = self.scores.shape[1]
        counts = torch.bincount(self.labels * classes + self.predicted, minlength=classes**2)
        return counts.view(classes, classes)


class Predictor:
    """Predicts with a classifier of images by calling it, so that weights, metrics and generators stay as they are."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._outputs: keras.Model | None = None  # a subclassed model has no tensors inside that could be named
        self._has_lengths = False
        self._ranks: Tensor | None = None  # of the images, as they were the last time
        self._start: RandomState = {}  # of random generators, when data are gone through
        if getattr(model, "inputs", None):
            _check_classifier(model)
            capsules = _measured_by_length(model.outputs[0])
            self._has_lengths = capsules is not None
            inner = {} if capsules is None else {"capsules": capsules}
            self._outputs = keras.Model(model.inputs, {"scores": model.outputs[0], **inner})

    @torch.no_grad()
    def check(self, data: Any) -> int:
        """Predict the first batch, so that what is wrong with data or model is said; return the number of classes."""
        with _restore_generators_after():
            for images, labels in _batches_of(data):
                scores, _ = self._call(keras.ops.convert_to_tensor(images))
                if _classes_of([(images, labels)]) is not None:
                    _classes(labels, scores)
                return scores.shape[1]
        raise _no_images()

    @torch.no_grad()
    def predict(self, data: Any) -> Predictions | None:
        """Predict all images of validation data in any form that `fit` takes; None if some have not just one class."""
        with _restore_generators_after():
            if self._ranks is None:
                start = random_state()
                everything = _classes_of(data)
                if everything is None:
                    return None
                self._start, self._ranks = start, _ranks(everything)
            for _ in range(2):  # once more if they are not as many as the choice was made from
                expected = len(self._ranks)
                set_random_state(self._start)  # data that are shuffled come in the same order
                predictions = self._predict_once(data, self._ranks)
                if len(self._ranks) == expected:
                    break
        return predictions

    def _predict_once(self, data: Any, ranks: Tensor) -> Predictions:
        images, labels, scores, capsules, thumbnails = ([] for _ in range(5))
        count, few = 0, EMBEDDED
        for given, classes in _batches_of(data):
            batch = keras.ops.convert_to_tensor(given)
            lengths, inner = self._call(batch)
            scores.append(lengths)
            labels.append(_classes(classes, lengths))
            if count + len(lengths) > len(ranks):
                ranks = torch.cat([ranks, torch.arange(len(ranks), count + len(lengths))])
            places = ranks[count : count + len(lengths)]
            images.append(batch[places < SHOWN].float().cpu())
            if inner is not None:
                few = min(EMBEDDED, EMBEDDED_NUMBERS // inner[0].numel())
                capsules.append(inner[places < few].float().cpu())
                thumbnails.append(_small(batch[places < few].float().cpu()))
            count += len(lengths)
        if not count:
            raise _no_images()
        self._ranks = _ranks(torch.cat(labels))
        ranks = ranks[:count]
        order = ranks.argsort()
        first, embedded = (ranks[ranks < most].argsort() for most in (SHOWN, few))
        shown_images = torch.cat(images)[first]
        return Predictions(
            _unit_range(shown_images),
            torch.cat(labels)[order],
            self._as_scores(torch.cat(scores))[order],
            torch.cat(capsules)[embedded] if capsules else None,
            _unit_range(torch.cat(thumbnails)[embedded]) if thumbnails else None,
            *self._side_losses(shown_images),
        )

    def _call(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute outputs, on the CPU, and class capsules."""
        if images.dim() != 4:
            raise ArgumentError(
                f"data must hold images (batch, height, width, channels); received {tuple(images.shape)}"
            )
        if self._outputs is None:
            outputs = {"scores": self._model(images, training=False)}
        else:
            outputs = self._outputs(images, training=False)
        scores = outputs["scores"]
        if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < 2:
            raise _not_a_classifier(self._model)
        return scores.float().cpu(), outputs.get("capsules")

    def _as_scores(self, outputs: Tensor) -> Tensor:
        """Return lengths and probabilities as they are; logits as probabilities."""
        logits = not self._has_lengths and bool(((outputs < 0) | (outputs > 1)).any())
        return outputs.softmax(1) if logits else outputs

    def _side_losses(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        decoded: dict[str, Tensor] = {}
        plans: dict[str, Tensor] = {}
        if not isinstance(self._model, SpecModel):
            return decoded, plans
        for named in self._model.examined.spec.side_losses:
            loss = self._model.side_losses[named.name]
            if not isinstance(loss, ReconstructionLoss | OptimalTransport):
                continue
            ports = {name: self._model.port(str(reference)) for name, reference in named.tensors.items()}
            tensors = keras.Model(self._model.inputs, ports)(keras.ops.convert_to_tensor(images), training=False)
            if isinstance(loss, OptimalTransport):
                with contextlib.suppress(NotFiniteError):  # a network that has diverged has no plan
                    plans[named.name] = loss.plan(**tensors).float().cpu()
            elif tensors["image"].dim() == 4:
                decoded[named.name] = loss.reconstruct(tensors["capsules"]).float().cpu()
        return decoded, plans


def _check_classifier(model: keras.Model) -> None:
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if len(shapes) != 2 or len(shapes[0]) != 4 or len(shapes[1]) != 2 or shapes[1][1] in (None, 1):
        raise _not_a_classifier(model)


def _not_a_classifier(model: keras.Model) -> ArgumentError:
    return ArgumentError(
        "TensorBoard(data=...) shows predictions of a network with one input, images (batch, height, width, channels), "
        f"and one output, scores (batch, classes) of at least two classes; '{model.name}' is of another kind. Leave "
        "data out to see everything else"
    )


def _measured_by_length(output: keras.KerasTensor) -> keras.KerasTensor | None:
    """Return the class capsules `(B, J, E)` whose lengths an output is; None if it is something else."""
    layer, inputs = producer(output)
    if getattr(layer, "scores_are", "") != "length":
        return None
    (capsules,) = inputs
    return capsules if len(capsules.shape) == 3 else None


def _classes_of(data: Any) -> Tensor | None:
    """Return the classes of all images; None if some have several classes, or none."""
    given = [data.labels] if isinstance(data, Batches) else [labels for _, labels in _batches_of(data)]
    if not given:
        raise _no_images()
    labels = torch.cat([_as_tensor(part) for part in given])
    if labels.dim() != 2 or labels.shape[1] == 1:
        return labels.reshape(-1)
    best, second = labels.float().topk(2).values.T
    return labels.argmax(1) if (sum_to_1(labels) & (best > second)).all() else None


def _ranks(labels: Tensor) -> Tensor:
    """Return the place of each image in the balanced order, `(N,)`."""
    return torch.from_numpy(balanced_order(labels.numpy())).argsort()


def _no_images() -> ArgumentError:
    return ArgumentError("data holds no images, so there is nothing to show in TensorBoard")


def _as_tensor(labels: Any) -> Tensor:
    return torch.as_tensor(np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels))


def _classes(labels: Any, scores: Tensor) -> Tensor:
    """Return labels in any form that a loss takes as classes `(B,)`."""
    tensor = _as_tensor(labels)
    classes = tensor.argmax(1) if tensor.shape == scores.shape else tensor.reshape(-1).long()
    if len(classes) != len(scores) or not ((classes >= 0) & (classes < scores.shape[1])).all():
        raise ArgumentError(
            f"labels must be one whole number from 0 to {scores.shape[1] - 1} for each image, or one-hot; received "
            f"shape {tuple(tensor.shape)}"
            + (f" with values from {tensor.min()} to {tensor.max()}" if len(tensor) else "")
        )
    return classes


def _small(images: Tensor) -> Tensor:
    height, width = images.shape[1:3]
    factor = THUMBNAIL / max(height, width)
    if factor >= 1:
        return images
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if not len(images):
        return images.new_empty(0, *size, images.shape[3])
    return F.interpolate(images.permute(0, 3, 1, 2), size, mode="area").permute(0, 2, 3, 1)


def _unit_range(images: Tensor) -> Tensor:
    """Return images from 0 to 1 as they are; of others, lowest and highest become 0 and 1."""
    low, high = images.amin().clamp(max=0), images.amax().clamp(min=1)
    return (images - low) / (high - low)


def _batches_of(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield images and labels of arrays, a `keras.utils.PyDataset`, or other batches that can be read again."""
    for batch in _batches(data):
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise _not_data(f"it gives {shown(type(batch))}")
        yield batch[0], batch[1]


def _batches(data: Any) -> Iterable[Any]:
    if isinstance(data, tuple):
        if len(data) < 2 or not all(hasattr(part, "__len__") for part in data[:2]) or len(data[0]) != len(data[1]):
            raise _not_data("the tuple does not hold as many labels as images")
        starts = range(0, len(data[0]), BATCH)
        return ((data[0][start : start + BATCH], data[1][start : start + BATCH]) for start in starts)
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(len(data)))
    if isinstance(data, Iterator) or not isinstance(data, Iterable) or isinstance(data, np.ndarray):
        raise _not_data(f"received {shown(type(data))}")
    return data


def _not_data(reason: str) -> ArgumentError:
    return ArgumentError(
        "data must be arrays (images, labels), a torch DataLoader, a keras.utils.PyDataset, or something else that "
        f"gives such pairs each time that it is iterated over: {reason}"
    )


@contextlib.contextmanager
def _restore_generators_after() -> Iterator[None]:
    """Restore the random generators: a DataLoader draws from them, even if it does not shuffle."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
