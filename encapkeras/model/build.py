"""Step 7: every node becomes a Keras layer that is called on symbolic tensors, so that every shape is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

import keras

from encapkeras.errors import ArgumentError, EncapkerasError
from encapkeras.layers.keras_layout import InKerasLayout
from encapkeras.losses import SideLoss
from encapkeras.losses.side_loss import LABELS
from encapkeras.model.make_layer import make_layer
from encapkeras.plugins import line_in_plugin
from encapkeras.spec.keras_layers import FIT_FOR_CAPSULES
from encapkeras.spec.losses import NamedSideLoss
from encapkeras.spec.nodes import Node, Reference
from encapkeras.spec.report import Report

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PREAMBLE = re.compile(r"^Exception encountered when calling [^\n]*\n+")
_INFERRING = re.compile(r"^Could not automatically infer .*?Error encountered:\s+", re.DOTALL)
_TAIL = re.compile(r"\n+Arguments received by .*", re.DOTALL)

LONGEST_TRACE = 5  # shapes in a row

CAPSULE_AXES = 5  # batch, height, width, types, dim


@dataclass(frozen=True)
class BuiltGraph:
    """Layers, symbolic tensors and side losses of a spec; `called_on` has the tensors that each node takes."""

    inputs: dict[str, keras.KerasTensor]
    layers: dict[str, keras.layers.Layer]
    tensors: dict[Reference, keras.KerasTensor]
    called_on: dict[str, tuple[Reference, ...]] = field(default_factory=dict)
    side_losses: dict[str, SideLoss] = field(default_factory=dict)

    def trace(self, references: Iterable[Reference]) -> str:
        """How the shapes of tensors came about: each with what is before it, the nearest last."""
        chains = [" -> ".join(self._chain(reference)) for reference in dict.fromkeys(references)]
        return f"shapes: {'; '.join(chains)}"

    def _chain(self, reference: Reference) -> list[str]:
        chain: list[str] = []
        current: Reference | None = reference
        while current and len(chain) < LONGEST_TRACE:
            chain.append(f"{current} {tuple(self.tensors[current].shape[1:])}")
            before = self.called_on.get(current.node, ())
            current = before[0] if before else None
        return [*(["..."] if current else []), *reversed(chain)]


def build_nodes(
    nodes: Sequence[Node],
    inputs: Mapping[str, Sequence[int | None]],
    report: Report,
    policies: Mapping[str, Any],  # by node; they overrule those of the spec
    *,
    share: bool = False,  # one layer for equal nodes: enough to know shapes and sizes, and much quicker
) -> BuiltGraph:
    """Make and call each node's layer; errors go to the report, and what depends on such a node is left out."""
    builder = _Builder(inputs, report, policies, share)
    for node in nodes:
        builder.add(node)
    return builder.graph


def build_side_losses(
    graph: BuiltGraph,
    side_losses: Sequence[NamedSideLoss],
    outputs: Mapping[str, Reference],
    report: Report,
    policies: Mapping[str, Any],
) -> None:
    """Make each side loss, add it to the graph, and call it on the tensors that it names, to check their shapes."""
    for loss in side_losses:
        if not all(reference in graph.tensors for reference in loss.tensors.values()):
            continue
        tensors = {name: graph.tensors[reference] for name, reference in loss.tensors.items()}
        if loss.labels:
            tensors[LABELS] = keras.KerasTensor((None,), dtype="int64", name=LABELS)
        try:
            layer = loss.make(policies.get(loss.name))
            value = layer(**tensors)
        except Exception as error:  # whatever a loss's own code or Keras raises is about this loss
            trace = graph.trace(loss.tensors.values())
            report.add(loss.tree, _plain_message(error, loss.loss, loss.name), trace=trace)
            continue
        if value.shape not in ((), (None,)):
            text = f"loss '{loss.loss}' gives shape {tuple(value.shape)}, not one number for each sample or for all"
            report.add(loss.tree, text)
            continue
        problem = _classes_problem(loss, layer.per_class, graph, outputs)
        if problem:
            trace = graph.trace([loss.tensors[layer.per_class]])
            report.add(loss.tree.value[layer.per_class], problem, trace=trace)
            continue
        graph.side_losses[loss.name] = layer


def _classes_problem(loss: NamedSideLoss, per_class: str, graph: BuiltGraph, outputs: Mapping[str, Reference]) -> str:
    """What is wrong with the number of class capsules: labels would fail to fit them only in training."""
    if not per_class or loss.labels_of not in outputs or outputs[loss.labels_of] not in graph.tensors:
        return ""
    scores = graph.tensors[outputs[loss.labels_of]]
    if len(scores.shape) != 2 or scores.shape[1] in (None, 1):  # one number may separate two classes
        return ""
    made = graph.tensors[loss.tensors[per_class]].shape[1]
    if made == scores.shape[1]:
        return ""
    return (
        f"must be one for each of the {scores.shape[1]} classes that output '{loss.labels_of}' has scores for; "
        f"'{loss.tensors[per_class]}' has {made}"
    )


class _Builder:
    def __init__(
        self, inputs: Mapping[str, Sequence[int | None]], report: Report, policies: Mapping[str, Any], share: bool
    ) -> None:
        self._report = report
        self._policies = policies
        self._twins: dict[str, str] | None = {} if share else None
        dtype = keras.config.dtype_policy().variable_dtype
        tensors = {name: keras.Input(tuple(shape), name=name, dtype=dtype) for name, shape in inputs.items()}
        self.graph = BuiltGraph(tensors, {}, {Reference(name): tensor for name, tensor in tensors.items()})
        self._capsules: set[Reference] = set()  # five axes may also be a volume
        self._volumes: set[Reference] = set()  # and are, behind Keras' layers for volumes

    def add(self, node: Node) -> None:
        if not all(reference in self.graph.tensors for reference in node.inputs):
            return
        on_capsules = any(reference in self._capsules for reference in node.inputs)
        if on_capsules and not node.kind.takes_capsules:
            self._report.add(node.tree, _not_for_capsules(node, self.graph), trace=self.graph.trace(node.inputs))
            return
        if not node.kind.is_keras and any(reference in self._volumes for reference in node.inputs):
            self._report.warn(node.tree, _takes_no_volumes(node, self.graph))
        layer = None
        try:
            twin = self._twin(node)
            layer = self.graph.layers[twin] if twin else self._made(node)
            given = [self.graph.tensors[reference] for reference in node.inputs]
            outputs = self._like(node, twin) if twin else call_layer(node, layer, given)
            _try_regularizing(layer)
        except Exception as error:  # whatever a layer's own code or Keras raises is about this node
            at = node.tree.entries().get(getattr(error, "argument", ""), node.tree)
            trace = "" if layer is None or at is not node.tree else self.graph.trace(node.inputs)
            self._report.add(at, _plain_message(error, node.layer, node.layer_name), trace=trace)
            return
        problem = _outputs_problem(node, outputs)
        if problem:
            self._report.add(node.tree, problem)
            return
        expected = node.settings.expect
        made = tuple(outputs["out"].shape[1:])
        if expected is not None and made != tuple(expected):
            text = f"outputs {made}, the spec expects {tuple(expected)}"
            trace = f"{self.graph.trace(node.inputs)} -> {node.name} {made}"
            self._report.add(node.tree.value["expect"], text, trace=trace)
            return
        self.graph.layers[node.name] = layer
        self.graph.called_on[node.name] = node.inputs
        for port, tensor in outputs.items():
            reference = Reference(node.name, port)
            self.graph.tensors[reference] = tensor
            if len(tensor.shape) == CAPSULE_AXES and (not node.kind.is_keras or on_capsules):
                self._capsules.add(reference)
            elif len(tensor.shape) == CAPSULE_AXES and type(layer).__name__.endswith("3D"):
                self._volumes.add(reference)

    def _twin(self, node: Node) -> str | None:
        """An earlier node that makes the same of equal tensors; None if there is none, or nodes share nothing."""
        if self._twins is None:
            return None
        tensors = [self.graph.tensors[reference] for reference in node.inputs]
        shapes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]
        settings = node.settings.model_dump(include={"dtype", "trainable"})
        key = repr((node.layer, node.arguments, settings, node.listed, shapes))
        twin = self._twins.get(key)
        if twin not in self.graph.layers:  # the first one, or only ones with an error before
            self._twins[key] = node.name
            return None
        return twin

    def _like(self, node: Node, twin: str) -> dict[str, Any]:
        made = {port: self.graph.tensors[Reference(twin, port)] for port in node.kind.ports}
        return {port: keras.KerasTensor(tensor.shape, dtype=tensor.dtype) for port, tensor in made.items()}

    def _made(self, node: Node) -> keras.layers.Layer:
        policy = self._policies.get(node.name, node.settings.dtype)
        trained = node.settings.trainable
        patterns = {"train_only": trained} if isinstance(trained, list) else {}
        if patterns and not node.kind.is_backbone:
            text = f"is true or false for '{node.layer}'; only networks of keras.applications are trained in parts"
            raise ArgumentError(f"'trainable' {text}", argument="trainable")
        layer = make_layer(node.kind, node.layer_name, {**node.arguments, **patterns}, policy)
        layer.trainable = bool(trained)  # not every layer of Keras takes it as an argument
        return layer


def call_layer(node: Node, layer: keras.layers.Layer, tensors: Sequence[Any], **options: Any) -> dict[str, Any]:
    """Call the layer of a node on tensors one by one or on a list, whichever it takes; return its outputs by port."""
    one_by_one = not node.listed or _positional_tensors(layer) > 1 or (len(tensors) == 1 and _takes_one(layer))
    arguments = tensors if one_by_one else [list(tensors)]
    if len(node.kind.ports) > 1:
        return layer(*arguments, return_ports=True, **options)  # type: ignore[no-any-return]
    return {"out": layer(*arguments, **options)}


def _try_regularizing(layer: keras.layers.Layer) -> None:
    """Apply regularizers and constraints once: training would be the first to fail for one that fits no such weight."""
    for weight in layer.trainable_weights:
        for function in filter(None, (weight.regularizer, weight.constraint)):
            (function if isinstance(function, InKerasLayout) else InKerasLayout(function))(weight)


def _positional_tensors(layer: keras.layers.Layer) -> int:
    """How many arguments `call` needs; Keras' attention takes its tensors one by one, most layers take a list."""
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in signature(layer.call).parameters.values())


def _takes_one(layer: keras.layers.Layer) -> bool:
    """Whether the layer is called on a tensor and not on a list, as far as its class shows."""
    if type(layer).__module__.startswith("keras."):
        return not isinstance(layer, keras.layers.Add.__base__)  # what merges tensors has one base class
    first = next(iter(signature(layer.call).parameters.values()))
    return str(first.annotation) in ("torch.Tensor", "<class 'torch.Tensor'>")


def _outputs_problem(node: Node, outputs: Any) -> str:
    """Why a layer's outputs do not fit its ports; empty if they do."""
    ports = node.kind.ports
    if len(ports) > 1 and not (isinstance(outputs, dict) and set(outputs) == set(ports)):
        gives = f"a map of {', '.join(map(str, outputs))}" if isinstance(outputs, dict) else f"{type(outputs).__name__}"
        return (
            f"layer '{node.layer}', called with return_ports=True, must return a map of its ports {', '.join(ports)}; "
            f"it returns {gives}. Its compute_output_spec, if it has one, must do the same."
        )
    if not all(hasattr(tensor, "shape") for tensor in outputs.values()):
        return f"layer '{node.layer}' returns several tensors; a node has one"
    return ""


def _takes_no_volumes(node: Node, graph: BuiltGraph) -> str:
    return (
        f"'{node.layer}' takes this volume (batch, depth, height, width, channels) for capsules (batch, height, width, "
        f"types, dim). Put a keras.Reshape before it that makes capsules. {graph.trace(node.inputs)}"
    )


def _not_for_capsules(node: Node, graph: BuiltGraph) -> str:
    shape = next(tuple(tensor.shape) for r in node.inputs if len((tensor := graph.tensors[r]).shape) == CAPSULE_AXES)
    return (
        f"'{node.layer}' would not treat capsules (batch, height, width, types, dim) as such; received {shape}. "
        "Put a capsules_to_image before it, or use a capsule layer. Of Keras' layers these fit: "
        f"{', '.join(sorted(FIT_FOR_CAPSULES))}."
    )


def plain_text(error: Exception) -> str:
    """An exception's message without what Keras wraps around it."""
    text = _ANSI.sub("", str(error)).strip()
    return _TAIL.sub("", _INFERRING.sub("", _PREAMBLE.sub("", text))).strip()


def _plain_message(error: Exception, kind: str, name: str) -> str:
    """An exception's message, with its type and its line in a plugin where these help."""
    text = plain_text(error)
    text = text.removeprefix(f"{kind}: ").removeprefix(f"{name}: ")
    known = isinstance(error, EncapkerasError | ValueError)
    plain = text if known and text else f"{kind}: {text or 'failed'} ({type(error).__name__})"
    place = line_in_plugin(error)
    return f"{plain} ({place})" if place else plain
