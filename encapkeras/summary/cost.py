"""What a network costs: multiply-adds, and memory in training. Found by running each layer on tensors without numbers.

torch's fake tensors have a shape, a type, a device and a storage without memory. A layer does on them all that it does
in training, so that every matrix product and every tensor kept for the backward pass can be counted.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras
import torch
from torch.utils.flop_counter import FlopCounterMode

from encapkeras.data import DataSettings
from encapkeras.layers.convolution_dynamic_capsules import ConvolutionDynamicCapsules
from encapkeras.layers.inverted_attention_stack import InvertedAttentionStack
from encapkeras.layers.transposed_convolution_dynamic_capsules import TransposedConvolutionDynamicCapsules
from encapkeras.layers.voting_layer import VotingLayer
from encapkeras.layers.window_layer import WindowLayer
from encapkeras.losses.side_loss import LABELS
from encapkeras.model.build import call_layer
from encapkeras.model.examine import Examined
from encapkeras.spec.losses import NamedSideLoss
from encapkeras.spec.nodes import Node, Reference
from encapkeras.spec.spec import Spec
from encapkeras.spec.train_settings import SGD, Adam, RMSprop
from encapkeras.summary.node_table import SIDE_LOSS, reached_nodes
from encapkeras.torch_internals import CDIST_FORWARD, storage_key, without_values

Device = Literal["cpu", "cuda"]
BY_VOTES = VotingLayer | WindowLayer | ConvolutionDynamicCapsules | TransposedConvolutionDynamicCapsules


@dataclass(frozen=True)
class Cost:
    """What one node, or side loss, costs; None for what is unknown.

    Args:
        multiply_adds: Of one image in a forward pass, in matrix products and convolutions; element-wise operations are
            not counted.
        kept_bytes: Memory of the batch in training that is still in use after the forward pass: the node's outputs, and
            what it keeps for the backward pass. Memory is counted once, at the node that fills it.
        votes_bytes: What the tensor of votes of the batch would take, in the layer's own type; None also for a layer
            without votes.
        note: Why something is unknown; empty otherwise.
    """

    multiply_adds: int | None
    kept_bytes: int | None
    votes_bytes: int | None = None
    note: str = ""


class MemoryEstimate(NamedTuple):
    """Memory in use at the end of the forward pass of a training step, in bytes.

    For short times, training needs more: temporary tensors of a layer, gradients on their way through the network, and
    the work space of convolutions.

    Attributes:
        parameters: All weights, non-trainable ones included.
        gradients: One number for each trainable parameter.
        optimizer: Its moments; Adam has two for each trainable parameter.
        activations: The sum of the `kept_bytes` of all nodes and side losses.
        images: The batch itself.
        unknown: The nodes and side losses that are missing in `activations`.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    images: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """The sum, which training needs at least."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.images


def batch_size_of(spec: Spec) -> int:
    """Return the batch size that a spec trains with; without a data set, the default."""
    settings: int = spec.data.batch_size if spec.data else DataSettings.model_fields["batch_size"].default
    return settings


def node_costs(network: Examined, batch_size: int | None = None, device: Device | None = None) -> dict[str, Cost]:
    """Return what each node and side loss of a network costs, by its name in `node_table`.

    Args:
        network: The result of `examine_spec`, or `SpecModel.examined`.
        batch_size: Images in a batch; that of the spec if not given.
        device: Where the network is to be trained, since some layers keep less on a CPU; where Keras would train it
            here, if not given.

    Examples:
        >>> from encapkeras.model.examine import examine_spec
        >>> node_costs(examine_spec("quickstart"), batch_size=64)["stem"].multiply_adds == 16 * 16 * 16 * 9
        True
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    walk = _Walk(network, batch_size or batch_size_of(network.spec), device)
    costs = {node.name: walk.node(node) for node in reached_nodes(network)}
    return costs | {SIDE_LOSS + loss.name: walk.side_loss(loss) for loss in network.spec.side_losses}


def memory_estimate(
    network: Examined,
    batch_size: int | None = None,
    device: Device | None = None,
    *,
    costs: Mapping[str, Cost] | None = None,
) -> MemoryEstimate:
    """Return the memory that a training step needs at least.

    Args:
        network: The result of `examine_spec`, or `SpecModel.examined`.
        batch_size: As for `node_costs`.
        device: As for `node_costs`.
        costs: The result of `node_costs` for the same arguments, if known.

    Examples:
        >>> from encapkeras.model.examine import examine_spec
        >>> memory = memory_estimate(examine_spec("quickstart"))
        >>> memory.optimizer == 2 * memory.gradients
        True
    """
    spec, graph = network.spec, network.graph
    batch_size = batch_size or batch_size_of(spec)
    costs = node_costs(network, batch_size, device) if costs is None else costs
    layers = [graph.layers[node.name] for node in reached_nodes(network)]
    layers += [graph.side_losses[loss.name] for loss in spec.side_losses]
    trained = sum(_bytes(layer.trainable_weights) for layer in layers)
    return MemoryEstimate(
        parameters=trained + sum(_bytes(layer.non_trainable_weights) for layer in layers),
        gradients=trained,
        optimizer=trained * _moments(spec.train.optimizer),
        activations=sum(cost.kept_bytes or 0 for cost in costs.values()),
        images=sum(batch_size * _bytes_of_one(image) for image in graph.inputs.values()),
        unknown=tuple(name for name, cost in costs.items() if cost.kept_bytes is None),
    )


def _moments(optimizer: Adam | SGD | RMSprop) -> int:
    """Return how many numbers an optimizer keeps for each parameter."""
    if isinstance(optimizer, Adam):
        return 2
    if isinstance(optimizer, RMSprop):
        return 1 + bool(optimizer.momentum) + optimizer.centered
    return int(bool(optimizer.momentum))


def _bytes(variables: Iterable[keras.Variable]) -> int:
    return sum(math.prod(variable.shape) * _type(variable.dtype).itemsize for variable in variables)


def _bytes_of_one(image: keras.KerasTensor) -> int:
    """Return the bytes of one sample; an unknown size counts as 1."""
    numbers: int = math.prod(size or 1 for size in image.shape[1:])
    return numbers * _type(image.dtype).itemsize


def _type(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


class _Ledger:
    def __init__(self) -> None:
        self._held: dict[int, torch.Tensor] = {}  # keeps tensors alive, so that no address is used twice

    def count(self, tensor: torch.Tensor) -> int:
        key = storage_key(tensor)
        if key in self._held:
            return 0
        self._held[key] = tensor
        return int(tensor.untyped_storage().nbytes())


class _Walk:
    """Runs the nodes of a network one after the other, each on the outputs of those before it."""

    def __init__(self, network: Examined, batch_size: int, device: Device) -> None:
        self._graph = network.graph
        self._batch_size = batch_size
        self._device = device
        self._fake = without_values()
        self._ledger = _Ledger()
        self._tensors: dict[Reference, torch.Tensor] = {}
        for name in network.graph.inputs:
            self._make(Reference(name), trained=False)

    def node(self, node: Node) -> Cost:
        layer = self._graph.layers[node.name]
        options = _training_option(layer)
        cost, outputs = self._cost(
            layer, node.inputs, lambda tensors: call_layer(node, layer, list(tensors), **options)
        )
        for port in node.kind.ports:
            reference = Reference(node.name, port)
            if outputs is None:
                self._make(reference, trained=True)
            else:
                self._tensors[reference] = outputs[port]
        return cost

    def side_loss(self, loss: NamedSideLoss) -> Cost:
        layer = self._graph.side_losses[loss.name]
        options = _training_option(layer)

        def call(tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
            named = dict(zip(loss.tensors, tensors, strict=True))
            if loss.labels:
                some = next(iter(named.values()))
                named[LABELS] = torch.empty(self._batch_size, dtype=torch.int64, device=some.device)
            value = {"out": layer(**named, **options)}
            layer.take_metrics()
            return value

        return self._cost(layer, loss.tensors.values(), call)[0]

    def _make(self, reference: Reference, trained: bool) -> None:
        """Create a tensor of the shape that Keras knows, if it knows one."""
        symbol = self._graph.tensors[reference]
        if None not in symbol.shape[1:]:
            dtype = _type(symbol.dtype)
            with self._fake:
                tensor = torch.empty(
                    (self._batch_size, *symbol.shape[1:]),
                    dtype=dtype,
                    device=self._device,
                    requires_grad=trained and dtype.is_floating_point,
                )
            self._ledger.count(tensor)
            self._tensors[reference] = tensor

    def _cost(
        self,
        layer: keras.layers.Layer,
        inputs: Iterable[Reference],
        call: Callable[[Iterable[torch.Tensor]], dict[str, torch.Tensor]],
    ) -> tuple[Cost, dict[str, torch.Tensor] | None]:
        """Return the cost of a call, and its outputs, if they could be found."""
        unknown = [str(reference) for reference in inputs if reference not in self._tensors]
        if unknown:
            note = f"the size of {', '.join(unknown)} is unknown before there are images"
            return Cost(None, None, None, note), None
        tensors = [self._tensors[reference] for reference in inputs]
        votes = self._votes(layer, tensors)
        try:
            operations, kept, outputs = _measured(layer, self._device, self._fake, self._ledger, tensors, call)
        except Exception:  # a layer's own code, which may need numbers
            return self._cost_without_device(layer, tensors, votes, call), None
        return Cost(round(operations / 2 / self._batch_size), kept, votes), outputs

    def _cost_without_device(
        self,
        layer: keras.layers.Layer,
        tensors: list[torch.Tensor],
        votes: int | None,
        call: Callable[[Iterable[torch.Tensor]], dict[str, torch.Tensor]],
    ) -> Cost:
        """Do the same on the meta device, as Keras infers shapes: layers know that there are no numbers."""
        ledger = _Ledger()
        twins = [
            torch.empty(tensor.shape, dtype=tensor.dtype, device="meta", requires_grad=tensor.requires_grad)
            for tensor in tensors
        ]
        for twin in twins:
            ledger.count(twin)
        try:
            operations, kept, _ = _measured(layer, "meta", contextlib.nullcontext(), ledger, twins, call)
        except Exception as error:  # the same: its inputs are right, or the spec would be refused
            return Cost(None, None, votes, f"unknown without images: its code needs values ({type(error).__name__})")
        return Cost(round(operations / 2 / self._batch_size), kept, votes)

    def _votes(self, layer: keras.layers.Layer, tensors: list[torch.Tensor]) -> int | None:
        children = tuple(tensors[0].shape)
        if isinstance(layer, InvertedAttentionStack):
            shapes = layer.votes_shapes(children)
        elif isinstance(layer, BY_VOTES):
            shapes = [layer.votes_shape(children)]
        else:
            return None
        count = sum(math.prod(size or 0 for size in shape) for shape in shapes)
        return count * _type(layer.compute_dtype).itemsize


def _measured(
    layer: keras.layers.Layer,
    device: str,
    mode: contextlib.AbstractContextManager[Any],
    ledger: _Ledger,
    tensors: list[torch.Tensor],
    call: Callable[[Iterable[torch.Tensor]], dict[str, torch.Tensor]],
) -> tuple[int, int, dict[str, torch.Tensor]]:
    """Return the floating-point operations of a call, the bytes that it keeps, and its outputs."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += ledger.count(tensor)
        return tensor

    with keras.device(device), mode, _without_numbers(layer, device, ledger), torch.enable_grad():
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            FlopCounterMode(display=False, custom_mapping=_OPERATIONS) as counter,
        ):
            outputs = call(tensors)
    keep(outputs["out"])  # other ports are gone unless somebody reads them, and keeps them then
    return counter.get_total_flops(), kept, outputs


@contextlib.contextmanager
def _without_numbers(layer: keras.layers.Layer, device: str, ledger: _Ledger) -> Iterator[None]:
    """Give a layer weights of the right shapes for the time of a call; they do not count as activations."""
    trained = {id(variable) for variable in layer.trainable_variables}
    weights = []
    for variable in layer.variables:
        weight = torch.empty(
            tuple(variable.shape), dtype=_type(variable.dtype), device=device, requires_grad=id(variable) in trained
        )
        ledger.count(weight)
        weights.append((variable, weight))
    with keras.StatelessScope(state_mapping=weights, collect_losses=True):
        yield


def _training_option(layer: keras.layers.Layer) -> dict[str, bool]:
    return {"training": True} if "training" in inspect.signature(layer.call).parameters else {}


# Operations that torch's counter leaves out, by the shapes of their arguments.
_OPERATIONS = {
    torch.ops.aten.mv: lambda matrix, vector, **_: 2 * math.prod(matrix),
    torch.ops.aten.addmv: lambda bias, matrix, vector, **_: 2 * math.prod(matrix),
    torch.ops.aten.dot: lambda left, right, **_: 2 * math.prod(left),
    CDIST_FORWARD: lambda left, right, *_, **__: 2 * math.prod(left) * right[-2],
}
