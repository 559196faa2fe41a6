"""Where in an image a network sees the evidence for a class: the flow of agreement, or gradient times input.

Shape suffixes: B batch, K classes, H W pixels, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import torch
from torch import Tensor

from encapkeras.analysis.classify import Classifier, as_images
from encapkeras.analysis.flow_path import FlowPath
from encapkeras.analysis.probabilities import ScoreKind
from encapkeras.analysis.receptive_fields import upsample, upsampling
from encapkeras.errors import ArgumentError, printable, suggest
from encapkeras.files import replacing
from encapkeras.keras_internals import producer

Method = Literal["flow", "gradient_input"]
METHODS: tuple[Method, ...] = get_args(Method)
TOP = 3


@dataclass(frozen=True)
class Explanation:
    """Maps over images, one for each image and class.

    Attributes:
        method: `flow`: the flow of agreement, at least 0, which sums to 1 over the image; `gradient_input`: gradient
            times input, with sign.
        kind: What the scores are, as in `Classified`.
        class_names: The names of all classes, in the order of the labels.
        labels: The classes that are explained, `(B, K)`.
        scores: Their scores, `(B, K)`.
        images: What the network took, `(B, H, W, C)`.
        maps: `(B, K, H, W)`.
        flows: The flow at the positions of each map of capsules where it ends, `(B, K, P, Q)`, by the name of the
            layer that made it; for each class they sum to 1 together. Empty for `gradient_input`.
        layers: The routing layers through which the flow went, the classes' first.
        reason: Why the network has no flow, where no method was asked for; otherwise empty.
    """

    method: Method
    kind: ScoreKind
    class_names: tuple[str, ...]
    labels: Tensor
    scores: Tensor
    images: Tensor
    maps: Tensor
    flows: Mapping[str, Tensor]
    layers: tuple[str, ...]
    reason: str = ""

    def names_of(self, index: int) -> list[str]:
        """Return the names of the classes that are explained of an image."""
        return [self.class_names[label] for label in self.labels[index].tolist()]

    def save(self, path: str | os.PathLike[str], pictures: Sequence[str] = ()) -> None:
        """Write all arrays to an `.npz` file: one for each attribute, and `flow_LAYER` for each of the flows.

        Args:
            path: The file.
            pictures: The names of the pictures of the images, if there are any: they become the array `pictures`.

        Raises:
            RunFolderError: The file cannot be written; an older one is unchanged.
        """
        arrays: dict[str, Any] = {name: getattr(self, name).numpy() for name in ("labels", "scores", "images", "maps")}
        flows = {f"flow_{name}": flow.numpy() for name, flow in self.flows.items()}
        texts = {name: np.asarray(getattr(self, name), np.str_) for name in ("method", "kind", "class_names", "layers")}
        if pictures:
            texts["pictures"] = np.asarray(pictures, np.str_)
        with replacing(Path(path)) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **{**arrays, **flows, **texts})


class Explainer:
    """A network of which images are explained.

    Args:
        model: A network made from a spec, with one input `(H, W, C)` and one score for each class.
        method: `flow` or `gradient_input`; None: `flow` if the network has one, else `gradient_input`.

    Attributes:
        method: The method that is used.
        reason: Why the network has no flow, where `method` was None and there is none; otherwise empty.

    Raises:
        ArgumentError: The network is of another kind, or has no flow.
    """

    def __init__(self, model: keras.Model, method: Method | None = None) -> None:
        if method not in (None, *METHODS):
            raise ArgumentError(f"method must be one of {', '.join(METHODS)}; received {method!r}")
        self.classifier = Classifier(model)
        self.reason = ""
        self.path: FlowPath | None = None
        if method != "gradient_input":
            try:
                self.path = FlowPath(model)
            except ArgumentError as error:
                if method == "flow":
                    raise ArgumentError(
                        f"{error}. Method gradient_input explains networks without such routing."
                    ) from error
                self.reason = str(error)
        self.method: Method = "flow" if self.path else "gradient_input"
        self._upsampling = [upsampling(model, end) for end in self.path.ends] if self.path else []

    def labels(self, scores: Tensor, classes: Sequence[str] | None, top: int) -> Tensor:
        """Return the classes to explain, `(B, K)`: those that are named, or those with the highest scores."""
        if classes is None:
            if top < 1:
                raise ArgumentError(f"top must be at least 1; received {top}")
            return scores.argsort(dim=1, descending=True, stable=True)[:, :top]
        names = self.classifier.class_names
        unknown = [name for name in classes if name not in names]
        if unknown or not classes:
            what = f"'{printable(unknown[0])}' is not a class of this network" if unknown else "no class was named"
            raise ArgumentError(f"{what}. {suggest(unknown[0] if unknown else '', names)}")
        return torch.tensor([[names.index(name) for name in classes]]).expand(len(scores), -1)

    def maps(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the maps of a batch, `(B, K, H, W)`, and the flows at positions by layer, on the CPU."""
        if self.path is None:
            return gradient_times_input(self.classifier.model, images, labels).float().cpu(), {}
        flows = [flow.float().cpu() for flow in self.path.flows(images, labels)]
        return self.over_image(flows), dict(zip(self.ends, flows, strict=True))

    def over_image(self, flows: Sequence[Tensor]) -> Tensor:
        """Return flows at positions, one for each of the path's ends, as maps over the image, `(B, K, H, W)`."""
        parts = [upsample(flow, *matrices) for flow, matrices in zip(flows, self._upsampling, strict=True)]
        return torch.stack(parts).sum(0)

    @property
    def ends(self) -> list[str]:
        """The names of the layers that made the maps where the flow ends."""
        return [producer(tensor)[0].name for tensor in self.path.ends] if self.path else []


def explain(
    model: keras.Model,
    images: Any,
    classes: Sequence[str] | None = None,
    *,
    top: int = TOP,
    method: Method | None = None,
    batch_size: int = 32,
) -> Explanation:
    """Return for each class where in the images the network sees the evidence for it.

    The flow of agreement starts with 1 at the capsule of the class and goes back through the routing layers. With
    `w_ij`, what the vote of child i counts in parent j in the last iteration (`c_ij` of dynamic routing; `R_ij a_i` of
    EM and others with activations; Heinsen's credit `phi_ij`), child i receives from parent j the part

        f_ij = max(0, g_ij) / sum_i max(0, g_ij),   g_ij = w_ij (vote_ij . v_j / |v_j|)

    of what j has; where parents have activations apart from their vectors, `g_ij = w_ij`. Without routing, each pixel
    has its value times the gradient of the class's output, summed over channels.

    Args:
        model: A network made by `build_model` or `load_model` with one image as input and one score for each class.
        images: `(B, H, W, C)` as the network takes them: uint8, or floats in [0, 1]; tensor or array.
            `prepared_image` makes them from files.
        classes: Names of the classes to explain; None: of each image those with the highest scores.
        top: How many these are.
        method: `flow` or `gradient_input`; None: `flow` if the network has routing that can be followed back to a map
            of capsules, else `gradient_input`.
        batch_size: How many images go through the network at once.

    Returns:
        The maps, on the CPU.

    Raises:
        ArgumentError: The network is of another kind or does not take such images, a class is unknown, or there is
            no flow.

    Examples:
        >>> import encapkeras
        >>> model = encapkeras.build_model("capsnet_dynamic_digits")
        >>> explanation = explain(model, torch.rand(2, 32, 32, 1), ["3", "8"])
        >>> explanation.method, explanation.maps.shape, explanation.flows["capsules"].shape
        ('flow', torch.Size([2, 2, 32, 32]), torch.Size([2, 2, 6, 6]))
    """
    explainer = Explainer(model, method)
    batch = as_images(images, explainer.classifier.image_shape)
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1; received {batch_size}")
    scores = torch.cat([explainer.classifier.scores(part) for part in batch.split(batch_size)])
    labels = explainer.labels(scores, classes, top)
    parts = [explainer.maps(*part) for part in zip(batch.split(batch_size), labels.split(batch_size), strict=True)]
    return Explanation(
        method=explainer.method,
        kind=explainer.classifier.kind,
        class_names=explainer.classifier.class_names,
        labels=labels,
        scores=scores.gather(1, labels),
        images=batch.float().cpu(),
        maps=torch.cat([maps for maps, _ in parts]),
        flows={name: torch.cat([flows[name] for _, flows in parts]) for name in explainer.ends},
        layers=explainer.path.layers if explainer.path else (),
        reason=explainer.reason,
    )


def gradient_times_input(model: keras.Model, images: Tensor, labels: Tensor) -> Tensor:
    """Return `sum_c x_c dy_k / dx_c` of each pixel, `(B, K, H, W)`, y being the network's outputs.

    Shrikumar et al. 2016, arXiv:1605.01713.

    Args:
        model: A network with one input and one output.
        images: `(B, H, W, C)`.
        labels: The classes k of each image, `(B, K)`.
    """
    pixels = keras.ops.convert_to_tensor(images).detach().requires_grad_()
    with torch.enable_grad():
        outputs = model(pixels, training=False).gather(1, labels.to(pixels.device))
        gradients = [torch.autograd.grad(each.sum(), pixels, retain_graph=True)[0] for each in outputs.unbind(1)]
    return torch.stack([(pixels.detach() * gradient).sum(3) for gradient in gradients], 1)
