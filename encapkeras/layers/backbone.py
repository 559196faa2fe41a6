"""A network of `keras.applications`, without its classifier, as one layer."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any

import keras
import pydantic
import torch

from encapkeras.errors import ArgumentError, ShapeError, suggest
from encapkeras.files import reading
from encapkeras.keras_internals import names_counted_anew, places_in_weights_file
from encapkeras.layers.backbone_weights import check_weights_file
from encapkeras.layers.registry import Shape, register_for_loading
from encapkeras.registry import Registry
from encapkeras.text import cut
from encapkeras.validation import Argument

PREFIX = "keras.applications."
IMAGENET = "imagenet"
CHANNELS = 3
_LONGEST_REASON = 300
# Networks whose preprocessing has weights, or other layers with ImageNet's: it is left out, and is that of this mode.
_OWN_MODE = {"efficientnet": "torch"}
_OF_PREPROCESSING = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)

BACKBONES = Registry("backbone", skip=frozenset({"application", "name", "dtype", "trainable", "autocast"}))
"""Declares the arguments that specs give to `keras.applications.NAME`; not a registry of layers."""


def application(name: str) -> Callable[..., keras.Model]:
    """Return the function of `keras.applications` that makes a network; raise `LookupError` if there is none."""
    found = getattr(keras.applications, name, None)
    if not inspect.isfunction(found):
        raise LookupError(f"keras.applications has no network '{name}'. {suggest(name, application_names())}")
    return found


def application_names() -> list[str]:
    """Return the names of the networks of `keras.applications`."""
    return [name for name, found in vars(keras.applications).items() if inspect.isfunction(found)]


@BACKBONES.register("backbone")
class Backbone(keras.layers.Layer):  # type: ignore[misc]
    """A network of `keras.applications`, without its classifier: specs name it `keras.applications.NAME`.

    It takes images from 0 to 1, as all networks here. Gray ones are repeated for three channels; then the values are
    multiplied by 255 and preprocessed as the network's own `preprocess_input` does (EfficientNet: ImageNet's mean and
    deviation, which Keras has in weights). All this is part of the layer, and of a saved model.

    Batch norms that are not trained predict as in inference, with their moving statistics, which stay as they are.

    Args:
        application: The network's name, such as `MobileNetV3Small`.
        weights: Initial weights: `imagenet`, which Keras downloads once; the path of a file that Keras wrote for the
            same network without its classifier (`.weights.h5`, or `.h5` of its downloads); null for random ones. A
            model made from a spec has them; a layer made in Python gets them by `load_weights()`, once it is built.
        until: The layer of the network whose output is this layer's; null for the last one.
        alpha: Factor of all numbers of filters, of MobileNets alone.
        minimalistic: Without squeeze-and-excite, hard swish and 5x5 kernels, of MobileNetV3 alone.
        train_only: Patterns (`*`, `?`) of the names of the layers that are trained; None for all. In specs this is
            `trainable: [...]`.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Images `(B, H, W, 1 or 3)`, with values from 0 to 1.
        training: Whether trained batch norms use the batch's statistics.

    Returns:
        Its last map, `(B, H', W', C)`.

    Raises:
        ArgumentError: An argument has an invalid value, or names no layer.
        ShapeError: The input is not such an image, or is smaller than the network takes.

    Examples:
        >>> import torch
        >>> Backbone("MobileNetV3Small", weights=None, minimalistic=True)(torch.rand(2, 64, 64, 1)).shape
        torch.Size([2, 2, 2, 576])
    """

    def __init__(
        self,
        application: str,
        *,
        weights: str | None = None,
        until: str | None = None,
        alpha: Annotated[float, pydantic.Field(gt=0)] = 1.0,
        minimalistic: bool = False,
        train_only: Annotated[list[str], pydantic.Field(min_length=1)] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.application = application
        self.pretrained = weights
        self.until = until
        self.train_only = None if train_only is None else tuple(train_only)
        given, known = {"alpha": alpha, "minimalistic": minimalistic}, options_of(application)
        self._options = {name: value for name, value in given.items() if name in known}
        for name, plain in (("alpha", 1), ("minimalistic", False)):
            if given[name] != plain and name not in known:
                raise ArgumentError(f"{PREFIX}{application} takes no '{name}'", argument=name)

    def build(self, input_shape: Shape) -> None:
        """Make the network, with random weights."""
        if len(input_shape) != 4 or input_shape[3] not in (1, CHANNELS):
            raise ShapeError(
                f"{PREFIX}{self.application} takes images (batch, height, width, 1 or 3 channels); received shape "
                f"{tuple(input_shape)}"
            )
        whole = self._whole(input_shape, None)
        self._places = tuple(places_in_weights_file(whole))
        self.network = self._part(whole)
        self._preprocess = _preprocessing(self.application)
        self._check_patterns()
        self.trainable = bool(self.trainable)  # of the network, too

    def _whole(self, input_shape: Shape, weights: str | None) -> keras.Model:
        """Make the network without its classifier; raises `ShapeError` with the least size."""
        make = application(self.application)
        sides = (input_shape[1], input_shape[2], CHANNELS)
        try:
            with _defaults(self.dtype_policy), names_counted_anew():
                return make(include_top=False, weights=weights, input_shape=sides, **self._options)
        except ValueError as error:
            least = re.search(r"at least (\d+) ?x ?(\d+)", str(error))
            if least is None:
                raise
            raise ShapeError(
                f"{PREFIX}{self.application} takes images of at least {least[1]} x {least[2]}; received "
                f"{input_shape[1]} x {input_shape[2]}. Set data.image_size to {least[1]} or more"
            ) from None

    def _part(self, whole: keras.Model) -> keras.Model:
        """Return the layers behind preprocessing with weights, up to the one that is wanted."""
        names = [layer.name for layer in whole.layers]
        if self.until is not None and self.until not in names:
            text = f"{PREFIX}{self.application} has no layer '{self.until}'. {suggest(self.until, names)}"
            raise ArgumentError(text, argument="until")
        start, end = whole.input, whole.get_layer(self.until).output if self.until else whole.output
        if _module(self.application) in _OWN_MODE:
            before = next(i for i, layer in enumerate(whole.layers) if not isinstance(layer, _OF_PREPROCESSING))
            start = whole.layers[before - 1].output
        elif self.until is None:
            return whole
        return keras.Model(start, end, name=whole.name)

    def _check_patterns(self) -> None:
        names = [layer.name for layer in self.network.layers if layer.weights]
        for pattern in self.train_only or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ArgumentError(
                    f"no layer of {PREFIX}{self.application} with weights matches '{pattern}'. "
                    f"{suggest(pattern.strip('*'), names)}",
                    argument="trainable",
                )

    @property
    def trainable(self) -> bool:
        """Whether the layers that match `train_only` are trained, or all without it."""
        return bool(super().trainable)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        keras.layers.Layer.trainable.fset(self, trainable)
        patterns = getattr(self, "train_only", None)
        if trainable and patterns is not None and hasattr(self, "network"):
            for layer in self.network.layers:
                layer.trainable = any(fnmatchcase(layer.name, pattern) for pattern in patterns)

    def check_weights(self) -> None:
        """Check the file of weights, without values; raises `ArgumentError` if it is not of this network."""
        if self.pretrained not in (None, IMAGENET):
            with _about("weights"):
                check_weights_file(self.pretrained, PREFIX + self.application, self._places)

    def load_weights(self) -> None:
        """Load the weights that the built layer was asked for; a saved model brings its own, and never calls this.

        Raises:
            ArgumentError: The layer is not built, the file is not one of this network, or the download fails.
        """
        if not self.built:
            raise ArgumentError(f"{self.name}: load_weights needs a built layer: call it on images first")
        if self.pretrained is None:
            return
        self.check_weights()
        shape = (None, *self.network.input_shape[1:])
        if self.pretrained == IMAGENET:
            whole = self._downloaded(shape)
        else:
            whole = self._whole(shape, None)
            with _about("weights"), reading(self.pretrained, "a file of weights of Keras", ArgumentError):
                whole.load_weights(self.pretrained)
        self.network.set_weights(self._part(whole).get_weights())

    def _downloaded(self, input_shape: Shape) -> keras.Model:
        try:
            return self._whole(input_shape, IMAGENET)
        except Exception as error:  # Keras' downloads raise whatever happens
            reason = cut(" ".join(str(error).split()) or type(error).__name__, _LONGEST_REASON).removesuffix(".")
            raise ArgumentError(
                f"Keras cannot load the weights 'imagenet' of {PREFIX}{self.application}: {reason}. Without a network "
                "connection, give the path of their file; null is for random weights",
                argument="weights",
            ) from error

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the map."""
        if not self.built:
            self.build(input_shape)
        return (input_shape[0], *self.network.output_shape[1:])

    def call(self, inputs: torch.Tensor, training: bool | None = None) -> torch.Tensor:
        """See the class."""
        images = inputs.expand(-1, -1, -1, CHANNELS) * 255  # a new tensor: preprocessing changes it in place
        return self.network(self._preprocess(images), training=training)  # type: ignore[no-any-return]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        own = {"application": self.application, "weights": self.pretrained, "until": self.until}
        patterns = None if self.train_only is None else list(self.train_only)
        return {**super().get_config(), **own, **self._options, "train_only": patterns}


register_for_loading(Backbone, "encapkeras.layers", "backbone", ())


@contextlib.contextmanager
def _about(argument: str) -> Iterator[None]:
    """Let errors in the block be about an argument."""
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(str(error), argument=argument) from error.__cause__


@contextlib.contextmanager
def _defaults(policy: Any) -> Iterator[None]:
    """Set what `keras.applications` takes from Keras' configuration, for the block."""
    before = keras.config.image_data_format(), keras.config.dtype_policy()
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy(policy)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`input_shape` is undefined")  # ImageNet's weights fit other sizes
            yield
    finally:
        keras.config.set_image_data_format(before[0])
        keras.config.set_dtype_policy(before[1])


def options_of(name: str) -> set[str]:
    """Return which arguments besides `weights` and `until` a network has."""
    own: set[str] = {"alpha", "minimalistic"}
    return own & set(inspect.signature(application(name)).parameters)


def backbone_arguments(name: str) -> list[Argument]:
    """Return the arguments that specs give to a network; raises `LookupError` if there is none of this name."""
    allowed = {"weights", "until", *options_of(name)}
    return [argument for argument in BACKBONES["backbone"].arguments.values() if argument.name in allowed]


def _module(name: str) -> str:
    return application(name).__module__.rpartition(".")[2]


def _preprocessing(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a network does first with images from 0 to 255."""
    utilities = keras.applications.imagenet_utils
    mode = _OWN_MODE.get(_module(name))

    def preprocess(images: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {"data_format": "channels_last"}
        if mode:
            return utilities.preprocess_input(images, mode=mode, **options)  # type: ignore[no-any-return]
        module: Any = sys.modules[application(name).__module__]
        return module.preprocess_input(images, **options)  # type: ignore[no-any-return]

    return preprocess
