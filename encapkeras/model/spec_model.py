"""Step 8: the layers become a `SpecModel`, a Keras model that knows its spec."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import torch

from encapkeras.errors import ArgumentError, EncapkerasError, suggest
from encapkeras.keras_internals import cloned_by_keras, name_outputs
from encapkeras.losses import SideLoss
from encapkeras.model.build import build_nodes, build_side_losses
from encapkeras.model.copied_weights import copy_layers
from encapkeras.model.examine import Examined, examine_spec
from encapkeras.model.image_range import IMAGE_RANGE, ImageRange
from encapkeras.model.moving_statistics import MovingStatistics
from encapkeras.model.origin import ModelOrigin, ScoreMetrics, TrainingLoss, saved_classes_and_temperature
from encapkeras.model.precision import tf32, use_precision
from encapkeras.model.pretrained import load_pretrained
from encapkeras.model.side_losses import SideLosses, taps_wanted
from encapkeras.plugins import check_loaded, used_plugins
from encapkeras.spec.load import Source, load_spec
from encapkeras.spec.nodes import Node
from encapkeras.spec.report import Report
from encapkeras.spec.spec import Spec


@keras.saving.register_keras_serializable(package="encapkeras")
class SpecModel(keras.Model):  # type: ignore[misc]
    """A Keras model made from a spec; `build_model` makes one.

    With one input and one output it takes and gives plain tensors, otherwise maps of tensors by name. Its
    configuration is the resolved spec, so that a saved `.keras` file needs no spec file to load.

    Images have values from 0 to 1; bytes (uint8) are divided by 255.

    Args:
        inputs: Ignored, as `outputs` and `name` are: what Keras' `clone_model` makes a model of.
        outputs: See `inputs`.
        name: See `inputs`.
        origin: What it is made from; None: the model that `clone_model` clones.

    Attributes:
        loss_watcher: What is called with the loss of each training step before the weights change; None for nothing.
        score_metrics: What adds metrics of all scores to those of `evaluate`, and so of validation; None for nothing.
        temperature: By which the logits are divided that become probabilities; None if the network is not calibrated.
            `fit` and `copy_weights` set it to None, since it belongs to the weights that it was fitted to.
    """

    def __init__(
        self, inputs: Any = None, outputs: Any = None, name: str | None = None, *, origin: ModelOrigin | None = None
    ) -> None:
        origin = origin or _clone_of(*cloned_by_keras())
        tensors = origin.graph.tensors
        inputs = _plain_if_single(origin.graph.inputs)
        named = {name: tensors[reference] for name, reference in origin.spec.outputs.items()}
        outputs = _plain_if_single(named)
        output_names = keras.tree.flatten({name: name for name in named})  # in the order of Keras' outputs
        # Keras asks for the layers while it makes the model.
        self.__dict__["_side"] = SideLosses(inputs, outputs, output_names, origin.graph, origin.spec.side_losses)
        super().__init__(inputs=inputs, outputs=outputs, name=origin.spec.name)
        name_outputs(self, output_names)
        self._origin = origin
        self._statistics = MovingStatistics(self)
        self._images = ImageRange(self.name, self.inputs, origin.graph)
        self.loss_watcher: Callable[[TrainingLoss], None] | None = None
        self.score_metrics: ScoreMetrics | None = None
        self.temperature: float | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The resolved spec: plain data, and itself a spec."""
        return self._origin.resolved

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the labels; empty if not known."""
        return self._origin.class_names

    @property
    def classes_per_image(self) -> int | None:
        """How many classes each image has; None for any number."""
        return self._origin.classes_per_image

    def make_losses(self) -> dict[str, keras.losses.Loss]:
        """A new Keras loss for each output that has one, for `compile(loss=...)`."""
        return self._origin.spec.make_losses()

    @property
    def loss_weights(self) -> dict[str, float]:
        """What the loss of each output is multiplied by, for `compile(loss_weights=...)`."""
        return self._origin.spec.loss_weights

    @property
    def side_losses(self) -> dict[str, SideLoss]:
        """The losses on tensors inside the network, by name: Keras layers, whose weights are the model's.

        `fit` and `evaluate` add each, times its weight in the spec, to the compiled loss, and show it as
        `<name>_loss`, without that weight; `evaluate` without those that are `training_only`.
        """
        return dict(self._origin.graph.side_losses)

    @property
    def side_loss_weights(self) -> dict[str, float]:
        """What each side loss is multiplied by now: in `fit` by the epoch's weight, otherwise by the last one."""
        return dict(self._side.weights)

    def set_epoch(self, epoch: int | None) -> None:
        """Set the side losses' weights to those of an epoch, from 0, or, for None, of the end; `fit` does so itself."""
        self._side.set_epoch(epoch)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """All layers, those that only side losses need included."""
        layers = [*super().layers, *self._side.layers]
        return list({id(layer): layer for layer in layers}.values())

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras' metrics, the mean of each side loss, and the means of the metrics that side losses report."""
        return [*super().metrics, *self._side.metrics]

    @property
    def side_figures(self) -> list[str]:
        """The names, `<loss>_<name>`, of the metrics that side losses report, and of weights that change."""
        names: list[str] = self._side.reported_names
        return names

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        """Return the outputs; in training, also keep what the side losses need."""
        inputs = self._images.applied(inputs)
        outputs: Any
        with (
            tf32(self._tf32),
            use_precision(self.precision, inputs) as widened,
            self._statistics.kept_if_not_finite() if training else contextlib.nullcontext(),
        ):
            if not self._side.wanted(training):
                return widened(super().call(inputs, training=training, mask=mask, **kwargs))
            outputs, taps = widened(self._side.call(inputs, training, mask))
        self._side.keep(taps, outputs)
        return outputs

    @property
    def precision(self) -> str:
        """`train.precision` of its spec, also of a saved model: the type of products of matrices and convolutions."""
        precision: str = (self.spec.get("train") or {}).get("precision", "float32")
        return precision

    @property
    def _tf32(self) -> bool | None:
        allowed: bool | None = (self.spec.get("train") or {}).get("tf32")
        return allowed

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as Keras does; raises `ArgumentError` if there are no images."""
        self.temperature = None
        return self._side.fit(super().fit, self._some(x), *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as Keras does, with `score_metrics` in a map; raises `ArgumentError` if there are no images."""
        if self.score_metrics is None or not kwargs.get("return_dict"):
            return super().evaluate(self._some(x), *args, **kwargs)
        with self.score_metrics.collecting():
            found = super().evaluate(self._some(x), *args, **kwargs)
        return {**found, **self.score_metrics.result()}

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict as Keras does; for 0 images the outputs have 0 rows."""
        self._images.unseen = True
        return self.predict_on_batch(x) if _is_empty(x) else super().predict(x, *args, **kwargs)

    def _some(self, x: Any) -> Any:
        self._images.unseen = True
        if _is_empty(x):
            raise ArgumentError(f"model '{self.name}' was given 0 images; at least 1 is needed")
        return x

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train on a batch as Keras does; the backward pass may use TF32 as the forward pass may."""
        with tf32(self._tf32):
            return super().train_step(data)  # type: ignore[no-any-return]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> torch.Tensor:
        """The compiled losses of a batch and, in training and in `evaluate`, the side losses, each times its weight.

        Those that are for training only do not count in `evaluate`. Regularization counts in both, as in Keras.

        Raises:
            TrainingError: There are side losses, and `y_pred` is not what this model just gave in training, or they
                need labels and there are none.
        """
        self._side.check_labels(y)
        parts = {}
        if self.loss or not self.side_losses:  # Keras requires a loss on an output
            parts["that on the outputs"] = super().compute_loss(x, y, y_pred, sample_weight, training)
        else:
            parts["the regularization"] = sum(self.losses, torch.zeros(()))
        with self._statistics.kept_if_not_finite() if training and self.side_losses else contextlib.nullcontext():
            side = self._side.values(y, y_pred, sample_weight, training)
        parts.update({f"'{name}'": value for name, value in side.items()})
        total: torch.Tensor = sum(parts.values(), torch.zeros(()))
        if training and self.loss_watcher:
            self.loss_watcher(TrainingLoss(x, y, sample_weight, total, parts))
        return total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The metrics of a batch; raises `TrainingError` if a side loss needs labels and there are none."""
        self._side.check_labels(y)
        if self.score_metrics is not None:
            self.score_metrics.add(y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)  # type: ignore[no-any-return]

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate a batch, with the side losses that are not for training only."""
        with taps_wanted():
            return super().test_step(data)  # type: ignore[no-any-return]

    def port(self, name: str) -> keras.KerasTensor:
        """Return a symbolic tensor of the graph, from which other models can be made.

        Args:
            name: `node`, `node/port`, or an input.

        Raises:
            EncapkerasError: The graph has no such tensor.

        Examples:
            >>> import encapkeras
            >>> model = encapkeras.build_model("quickstart")
            >>> model.port("image").shape
            (None, 32, 32, 1)
        """
        tensors = {str(reference): tensor for reference, tensor in self._origin.graph.tensors.items()}
        tensor = tensors.get(name.removesuffix("/out"))
        if tensor is None:
            raise EncapkerasError(f"the model has no tensor '{name}'. {suggest(name, tensors)}")
        return tensor

    def copy_weights(self, source: keras.Model, leave: Sequence[str] = ()) -> None:
        """Copy the weights of another model, node by node, for example of one that was trained on other classes.

        Args:
            source: A model with a layer for each node and side loss here that has weights, of the same name and with
                weights of the same shapes. What else it has does not matter.
            leave: Nodes and side losses that keep the weights that they have.

        Raises:
            EncapkerasError: The source has no layer for a node that is not left, or one with other weights, or there is
                no node to leave of that name. No weight is changed then.

        Examples:
            >>> import encapkeras
            >>> trained = encapkeras.build_model("quickstart")
            >>> three = ["data=null", "model.nodes.digits.capsules=3", "model.nodes.lengths.expect=null"]
            >>> model = encapkeras.build_model(trained.spec, three)
            >>> model.copy_weights(trained, leave=["digits"])
            >>> stem, same = model.get_layer("stem").weights[0], trained.get_layer("stem").weights[0]
            >>> bool((stem.value == same.value).all())
            True
        """
        reached = {id(layer) for layer in self.layers}
        own = {name: layer for name, layer in self._origin.layers.items() if id(layer) in reached and layer.weights}
        copy_layers(self.name, own, source, leave)
        self.temperature = None

    @property
    def examined(self) -> Examined:
        """The spec, and the layers and tensors of its nodes."""
        return Examined(self._origin.spec, self._origin.graph, ())

    def nodes(self) -> list[tuple[Node, keras.layers.Layer]]:
        """The spec's nodes that reach an output or a side loss, each after those that it needs, with their layers."""
        reached = {id(layer) for layer in self.layers}
        layers = self._origin.graph.layers
        return [(n, layers[n.name]) for n in self._origin.spec.nodes if id(layers[n.name]) in reached]

    def get_config(self) -> dict[str, Any]:
        """Return the resolved spec, its plugins, and what may have changed since: frozen layers and dtype policies."""
        layers = self._origin.layers
        return {
            "spec": self.spec,
            "plugins": {plugin.path.name: dict(plugin.registers) for plugin in used_plugins(self.spec)},
            "class_names": list(self.class_names),
            "classes_per_image": self.classes_per_image,
            "temperature": self.temperature,
            "image_range": list(IMAGE_RANGE),
            "trainable": self.trainable,
            "frozen": [name for name, layer in layers.items() if not layer.trainable],
            "policy": keras.dtype_policies.serialize(self.dtype_policy),
            "policies": {name: keras.dtype_policies.serialize(layer.dtype_policy) for name, layer in layers.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SpecModel:
        """Return the model that a configuration describes, with new weights.

        Raises:
            PluginError: It needs a plugin that is not loaded.
        """
        for file, registers in config.get("plugins", {}).items():
            check_loaded(registers, f"model '{config['spec']['name']}'", file)
        spec = config["spec"]
        data = spec.get("data") or {}
        entries = [*spec["model"]["nodes"].values(), *(spec.get("losses") or {}).values()]
        maps = [data, data.get("augment") or {}, data.get("affine") or {}, spec.get("train") or {}, *entries]
        if "extends" in spec or any(type(part) is not dict for part in maps):
            raise ArgumentError("a saved model has a complete spec: no 'extends', and no node or section that is null")
        structure = {key: part for key, part in config["spec"].items() if key not in ("data", "train")}
        deserialize = keras.dtype_policies.deserialize
        policies = {name: deserialize(policy) for name, policy in config["policies"].items()}
        around = keras.config.dtype_policy()
        keras.config.set_dtype_policy(deserialize(config["policy"]))
        try:
            per_image, temperature = saved_classes_and_temperature(config)
            model = _made(load_spec(structure), config["spec"], config["class_names"], per_image, policies)
        finally:
            keras.config.set_dtype_policy(around)
        model.trainable = config["trainable"]
        model.temperature = temperature
        for name, layer in model._origin.layers.items():
            layer.trainable = name not in config["frozen"]
        return model


def build_model(source: Source, overrides: Sequence[str] = (), *, pretrained: bool = True) -> SpecModel:
    """Make the Keras model that a spec describes, with new weights.

    Args:
        source: A YAML or JSON file, the name of a bundled spec (`quickstart`), plain data, or a spec.
        overrides: Texts `path.to.key=value`, as `--set` takes them.
        pretrained: Whether backbones get the weights that the spec names. Without, these are neither read nor checked:
            for a model that gets all its weights from elsewhere.

    Returns:
        A Functional model for `compile` and `fit`. Layers without a `dtype` follow Keras' global policy.

    Raises:
        ArgumentError: `source` or `overrides` has another type.
        SpecError: The spec has errors: all of them, with their places.

    Examples:
        >>> import encapkeras
        >>> model = encapkeras.build_model("quickstart")
        >>> model.compile(loss=model.make_losses(), optimizer="adam")
        >>> model.output_shape
        (None, 10)
    """
    spec = examine_spec(source, overrides, pretrained=pretrained).spec  # no weights yet: an error costs no memory
    class_names, per_image = (spec.info.class_names, spec.info.classes_per_image) if spec.info else ((), 1)
    model = _made(spec, spec.resolved, class_names, per_image, {})
    if pretrained:
        report = Report()
        load_pretrained(spec, model.examined.graph, report)
        report.raise_if_any()
    return model


def _made(
    spec: Spec,
    resolved: dict[str, Any],
    class_names: Sequence[str],
    classes_per_image: int | None,
    policies: dict[str, Any],
) -> SpecModel:
    report = Report()
    graph = build_nodes(spec.nodes, spec.inputs, report, policies)
    build_side_losses(graph, spec.side_losses, spec.outputs, report, policies)
    report.raise_if_any()
    return SpecModel(origin=ModelOrigin(spec, resolved, graph, tuple(class_names), classes_per_image))


def _clone_of(model: SpecModel | None, as_it_is: bool) -> ModelOrigin:
    """Clone a model with side losses and all: Keras would make a plain model of the layers before its outputs."""
    if model is None:
        raise ArgumentError("a SpecModel is made from a spec: use build_model. For a part of one, use keras.Model.")
    if not as_it_is:
        raise ArgumentError(
            f"clone_model with functions or tensors of your own would lose the side losses, class names and precision "
            f"of '{model.name}'. Build another spec: build_model(model.spec, overrides); or clone only the layers "
            "before the outputs: clone_model(keras.Model(model.inputs, model.outputs), ...)."
        )
    origin: ModelOrigin = SpecModel.from_config(model.get_config())._origin
    return origin


def _is_empty(x: Any) -> bool:
    arrays = [part for part in keras.tree.flatten(x) if getattr(part, "shape", ())]
    return any(len(array) == 0 for array in arrays)


def _plain_if_single(tensors: Mapping[str, keras.KerasTensor]) -> Any:
    return next(iter(tensors.values())) if len(tensors) == 1 else dict(tensors)
