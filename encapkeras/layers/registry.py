"""The registry of layers, and the base class that gives every layer its checks and its configuration."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import keras
import numpy as np
import torch

from encapkeras.errors import RegistrationError, ShapeError
from encapkeras.functional.torch_support.precision import as_floats
from encapkeras.layers.keras_layout import InKerasLayout
from encapkeras.layers.keras_objects import KERAS_OBJECTS, ConstraintConfig, RegularizerConfig
from encapkeras.registry import Registry
from encapkeras.validation import Argument, shown

LayerClass = TypeVar("LayerClass", bound=type[keras.layers.Layer])
Registered = TypeVar("Registered", bound=type)

# Keras' own, which a spec gives to every node or to none; and the keys of every node.
_SKIP = frozenset({"name", "dtype", "trainable", "autocast", "activity_regularizer"})
_KEYS = frozenset({"layer", "inputs", "repeat", "expect", "doc"})

_DECLARED = {
    "squashes": (False, True),
    "drawn_as": ("", "convolution", "capsules", "routing"),
    "scores_are": ("", "length", "activation"),
}


def regularizing_arguments(cls: object) -> Iterator[Argument]:
    """Yield the arguments that a layer has besides those of its signature: see `CapsuleLayer.regularizable`."""
    if not (inspect.isclass(cls) and issubclass(cls, CapsuleLayer) and cls.regularizable):
        return
    for weight in cls.regularizable:
        yield Argument(f"{weight}_regularizer", RegularizerConfig, None, f"Keras regularizer of each {weight}.")
    yield Argument("activity_regularizer", RegularizerConfig, None, "Keras regularizer of the output.")
    for weight in cls.regularizable:
        yield Argument(f"{weight}_constraint", ConstraintConfig, None, f"Keras constraint of each {weight}.")


LAYERS = Registry("layer", skip=_SKIP, reserved=_KEYS, more=regularizing_arguments)

Shape = tuple[int | None, ...]
Sides = int | tuple[int, int]


def register_layer(name: str, *, formerly: Collection[str] = ()) -> Callable[[LayerClass], LayerClass]:
    """Make a layer class known to specs, and to Keras' loading under the same name.

    Args:
        name: The name that specs use.
        formerly: Deprecated names, which specs and saved models may still have.

    Raises:
        RegistrationError: The class is not a Keras layer, or takes no `**kwargs`; a parameter has no annotation or no
            line in the docstring's `Args:`; `ports` are not names; or the name is taken or not valid.

    Examples:
        >>> @register_layer("capsule_length")
        ... class Length(CapsuleLayer):
        ...     '''The length of capsules.'''
        Traceback (most recent call last):
        encapkeras.errors.RegistrationError: layer 'capsule_length' is already registered, by encapkeras itself. ...
    """
    register = LAYERS.register(name, formerly=formerly)

    def decorate(cls: LayerClass) -> LayerClass:
        problem = _problem(cls)
        if problem:
            raise RegistrationError(f"layer '{name}': {problem}")
        return register_for_loading(register(cls), "encapkeras.layers", name, formerly)

    return decorate


def register_for_loading(cls: Registered, package: str, name: str, formerly: Collection[str]) -> Registered:
    """Let Keras save models with a class under its name, and load those that have it under a former one."""
    keras.saving.get_custom_objects().update({f"{package}>{old}": cls for old in formerly})
    return keras.saving.register_keras_serializable(package, name)(cls)  # type: ignore[no-any-return]


def _problem(cls: object) -> str:
    """Return what keeps a class from being a layer of specs; empty if nothing does."""
    if not inspect.isclass(cls) or not issubclass(cls, keras.layers.Layer):
        what = f"class {cls.__name__}" if inspect.isclass(cls) else shown(cls)
        return f"{what} is not a Keras layer; derive it from encapkeras.layers.CapsuleLayer, or keras.layers.Layer"
    parameters = inspect.signature(cls.__init__).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not {"name", "dtype"} <= set(parameters):
        return (
            f"__init__ of class {cls.__name__} must take **kwargs and hand them on, super().__init__(**kwargs): by "
            "them a layer gets its name and dtype"
        )
    ports = getattr(cls, "ports", ("out",))
    if not isinstance(ports, tuple) or not all(isinstance(p, str) and p.isidentifier() for p in ports):
        return f"'ports' of class {cls.__name__} must be a tuple of names; received {shown(ports)}"
    if "out" not in ports:
        return f"'ports' of class {cls.__name__} must hold 'out', which a reference without a port means"
    weights = getattr(cls, "regularizable", ())
    if not isinstance(weights, tuple) or not all(isinstance(w, str) and w.isidentifier() for w in weights):
        return f"'regularizable' of class {cls.__name__} must be a tuple of names of weights; received {shown(weights)}"
    for name, allowed in _DECLARED.items() if issubclass(cls, CapsuleLayer) else ():
        if getattr(cls, name) not in allowed:
            known = ", ".join(map(repr, allowed))
            return (
                f"'{name}' of class {cls.__name__} must be one of these: {known}; received {shown(getattr(cls, name))}"
            )
    return ""


class CapsuleLayer(keras.layers.Layer):  # type: ignore[misc]
    """Base class of our layers.

    The arguments of a registered layer are checked when it is made (`ArgumentError`) and are its configuration. A layer
    with `ports` returns a map of all of them when called with `return_ports=True`.

    Class attributes declare what other parts of the package must know of a layer:

    - `ports`: the names of its outputs; a reference without a port means `out`.
    - `squashes`: whether the lengths of its output capsules are below 1; if so, `dim` 1 gets a warning.
    - `drawn_as`: its color in pictures: `convolution`, `capsules` or `routing`; empty for that of your own layers.
    - `scores_are`: what its output is if that is the network's: the `length` or the `activation` of class capsules.
    - `regularizable`: its weights that take a Keras regularizer and a constraint. `("kernel",)` gives the layer the
      arguments `kernel_regularizer`, `kernel_constraint` and `activity_regularizer`, in specs too; `build` hands the
      first two on: `self.add_weight(..., **self.regularizing("kernel"))`.

    A layer that routes derives from `VotingLayer`; its `routing_record` describes to the analysis how it routes.

    Args:
        **kwargs: `name`, `dtype`, `trainable`, `activity_regularizer`, as for every Keras layer, and a regularizer and
            a constraint of each of the `regularizable` weights.
    """

    ports: ClassVar[tuple[str, ...]] = ("out",)
    squashes: ClassVar[bool] = False
    drawn_as: ClassVar[Literal["", "convolution", "capsules", "routing"]] = ""
    scores_are: ClassVar[Literal["", "length", "activation"]] = ""
    regularizable: ClassVar[tuple[str, ...]] = ()
    activity_regularizer: Any
    _arguments: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        names = [(f"{weight}_{kind}", kind) for weight in self.regularizable for kind in ("regularizer", "constraint")]
        given = {name: kwargs.pop(name, None) for name, _ in names}
        super().__init__(**kwargs)
        for name, kind in names:
            setattr(self, name, KERAS_OBJECTS[kind].get(given[name]))

    def regularizing(self, weight: str, inputs: Sequence[int] | None = None) -> dict[str, Any]:
        """Return the regularizer and the constraint of one of the `regularizable` weights, for `add_weight`.

        Args:
            weight: Its name.
            inputs: The axes that come first in Keras' layout of such a weight, for example those of height, width and
                inputs of a kernel in torch's layout, (2, 3, 1); all others, in their order, are its last axis, the
                outputs. None: the weight is in Keras' layout.
        """
        kinds = ("regularizer", "constraint")
        made = {kind: getattr(self, f"{weight}_{kind}", None) for kind in kinds}
        return {kind: InKerasLayout(each, inputs) if each else None for kind, each in made.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer; encapkeras' own take whole numbers as the same numbers in floating point."""
        if self.activity_regularizer and kwargs.get("return_ports"):
            return self._call_for_ports(*args, **kwargs)
        is_own = type(self).__module__.startswith("encapkeras.")
        if not is_own or (len(args) == 1 and _is_plain(args[0], kwargs)):
            return super().__call__(*args, **kwargs)
        as_they_are = {name: kwargs.pop(name) for name in ("labels", "mask") if name in kwargs}
        args, kwargs = keras.tree.map_structure(self._as_floats, (args, kwargs))
        return super().__call__(*args, **kwargs, **as_they_are)

    def _call_for_ports(self, *args: Any, **kwargs: Any) -> Any:
        """Regularize the output alone: Keras would regularize every port, and a spec always asks for all of them."""
        regularizer, self.activity_regularizer = self.activity_regularizer, None
        try:
            ports = self(*args, **kwargs)
        finally:
            self.activity_regularizer = regularizer
        out = ports["out"]
        if isinstance(out, torch.Tensor):
            penalty = regularizer(out)
            samples = keras.ops.cast(keras.ops.shape(out)[0], penalty.dtype)
            self.add_loss(keras.ops.divide_no_nan(penalty, samples))  # as Keras does
        return ports

    def _as_floats(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = keras.ops.convert_to_tensor(value)
        return as_floats(value, getattr(torch, self.compute_dtype)) if isinstance(value, torch.Tensor) else value

    @property
    def not_in_onnx(self) -> str:
        """Why the layer cannot be exported as ONNX, and what can be done; empty if it can."""
        return ""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        return {**super().get_config(), **copy.deepcopy(self._arguments)}

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return symbolic outputs: by `compute_output_shape`; of all ports by tracing `call`."""
        if kwargs.get("return_ports"):
            return keras.Operation.compute_output_spec(self, *args, **kwargs)
        return super().compute_output_spec(*args, **kwargs)


def _is_plain(inputs: Any, options: dict[str, Any]) -> bool:
    """Whether a call needs no look at each tensor, as those of a training step: quick to tell."""
    return isinstance(inputs, torch.Tensor) and inputs.is_floating_point() and options.keys() <= {"training"}


def warn_of_other_axes(layer: keras.layers.Layer, shape: Sequence[int | None]) -> None:
    """Warn where an image very likely has its channels first, or capsules are a volume or a video; call it in `build`.

    Channels first: one or three, before two sides of at least 8, which are equal if there is one channel. A volume or
    a video: one or three channels, behind two equal sides.
    """
    sizes = [size or 0 for size in shape]
    last, sides = sizes[-1], sizes[-3:-1]
    advice = ""
    if len(sizes) == 4 and min(sizes[2:]) >= 8 and (sizes[1] == 3 or (sizes[1] == 1 and sizes[2] == sizes[3])):
        advice = (
            "takes images (batch, height, width, channels); these look like (batch, channels, height, width). If so: "
            "images.permute(0, 2, 3, 1) of a tensor, images.transpose(0, 2, 3, 1) of an array"
        )
    elif len(sizes) == 5 and last in (1, 3) and sides[0] == sides[1] >= 8:
        advice = (
            "takes capsules (batch, height, width, types, dim); these look like volumes or videos (batch, depth, "
            "height, width, channels). If so: make capsules of their channels first, each slice by itself: "
            "PrimaryCapsules()(volumes.flatten(0, 1))"
        )
    if advice:
        warnings.warn(f"{layer.name} {advice}. Received shape {tuple(shape)}", stacklevel=2)


def input_capsule_shape(layer: keras.layers.Layer, shape: Sequence[int | None], types: int) -> tuple[int, ...]:
    """Return height, width, types and dimension of capsules, or of an image whose channels divide by `types`."""
    known = all(size is not None for size in shape[1:])
    if known and len(shape) == 5 and shape[3] == types:
        return tuple(int(size) for size in shape[1:] if size is not None)
    if known and len(shape) == 4 and shape[3] is not None and shape[3] % types == 0:
        height, width, channels = (int(size) for size in shape[1:] if size is not None)
        return height, width, types, channels // types
    raise ShapeError(
        f"{layer.name} takes capsules (batch, height, width, types, dim) with types={types}, or an image (batch, "
        f"height, width, channels) whose channels divide by {types}; received shape {tuple(shape)}"
    )


def check_own_weights(layer: keras.layers.Layer, received: int | None, built: int, remedy: str = "") -> None:
    """Raise `ShapeError` where each input capsule has own weights, and there are not as many as when they were made."""
    if received is not None and received != built:
        raise ShapeError(
            f"{layer.name} was built for {built} input capsules, each with own weights; received {received}. Pad or "
            f"cut all inputs to one size{remedy}"
        )


def strided_size(layer: keras.layers.Layer, size: int, strides: int) -> int:
    """Return a map's side after a convolution that pads half its kernel: `ceil(size / strides)`."""
    if strides > size or (strides > 2 and size % strides):
        fitting = ", ".join(str(s) for s in range(1, size + 1) if s == 2 or size % s == 0)
        raise ShapeError(f"{layer.name}: strides={strides} does not fit a map with sides of {size}; allowed: {fitting}")
    return -(-size // strides)


def strided_capsule_shape(layer: Any, input_shape: Shape, *, flat: bool = False) -> Shape:
    """Return the output shape `(B, H', W', N, D)` of a layer with `types`, `dim` and `strides`; flat: without H'."""
    height, width, _, _ = input_capsule_shape(layer, input_shape, layer.types)
    sides = (strided_size(layer, size, layer.strides) for size in ((width,) if flat else (height, width)))
    return (input_shape[0], *sides, layer.types, layer.dim)


def convolved_size(
    layer: keras.layers.Layer, image_shape: Shape, *, kernel_size: Sides, strides: Sides, padding: Sides
) -> tuple[int | None, int | None]:
    """Return height and width after a convolution: `(size + 2 * padding - kernel_size) // strides + 1`, or None."""
    if len(image_shape) != 4 or image_shape[3] is None:
        raise ShapeError(
            f"{layer.name} takes an image (batch, height, width, channels); received shape {tuple(image_shape)}"
        )
    sides = [value if isinstance(value, tuple) else (value, value) for value in (kernel_size, strides, padding)]
    axes = list(zip(image_shape[1:3], *sides, strict=True))
    if any(size is not None and size + 2 * border < side for size, side, _, border in axes):
        kernel, border = (" x ".join(map(str, dict.fromkeys(sides[place]))) for place in (0, 2))
        raise ShapeError(
            f"{layer.name}: a kernel of {kernel} does not fit an image of shape {tuple(image_shape)} with padding "
            f"{border}"
        )

    height, width = (
        None if size is None else (size + 2 * border - side) // step + 1 for size, side, step, border in axes
    )
    return height, width
