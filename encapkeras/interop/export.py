"""A trained network as a file for programs that predict without encapkeras and Keras."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import torch

from encapkeras.errors import ArgumentError, ExportError
from encapkeras.files import replacing
from encapkeras.keras_internals import layers_within
from encapkeras.model.build import plain_text

FORMS = ("keras", "torch", "onnx")
CLASS_NAMES = "class_names"

_NOT_IN_ONNX = {
    "aten.linalg_cholesky_ex.default",
    "aten.linalg_cholesky.default",
    "aten.linalg_solve_triangular.default",
}
"""Of variational-Bayes routing with a full covariance."""


def export_model(model: keras.Model, output: str | Path, form: str) -> None:
    """Write a network for prediction; the file takes any number of images.

    - `keras`: for `encapkeras.load_model`, to continue with it in Keras.
    - `torch`: a `torch.export` program for `torch.export.load`, without Keras and encapkeras, on the model's device.
      The extra file `class_names` has the class names as JSON.
    - `onnx`: for onnxruntime and others, with the input `images` and the output `scores` (or several, named as in the
      model), whose first axis is called `batch`. The metadata property `class_names` has the class names as JSON.

    Programs for torch and ONNX compute in float32 whatever `train.precision` is. Of a recurrent layer they have the
    operations of each step, so the length of sequences must be known.

    Args:
        model: A built model of one input.
        output: The file, which is replaced; whole or not at all.
        form: `keras`, `torch` or `onnx`.

    Raises:
        ArgumentError: The form is unknown, or the model has several inputs, or one of unknown size.
        ExportError: torch cannot trace the model, ONNX lacks an operator of it, or a package is missing.
        RunFolderError: The file cannot be written.

    Examples:
        >>> import encapkeras
        >>> model = encapkeras.build_model("capsnet_dynamic_digits")
        >>> file = getfixture("tmp_path") / "network.pt2"
        >>> export_model(model, file, "torch")
        >>> program = torch.export.load(file).module()
        >>> program(torch.rand(5, 32, 32, 1)).shape
        torch.Size([5, 10])
    """
    if form not in FORMS:
        raise ArgumentError(f"a network is exported as {', '.join(FORMS)}; received '{form}'")
    if form == "onnx":
        _check_onnx(model)
    if form != "keras" and len(model.inputs) != 1:
        raise ArgumentError(
            f"model '{model.name}' has {len(model.inputs)} inputs; only models of one can be exported as {form}"
        )
    if form != "keras" and None in model.input_shape[1:]:
        raise ArgumentError(
            f"model '{model.name}' takes inputs of shape {model.input_shape}; only models whose input has a known size "
            f"can be exported as {form}: of sequences, that of the longest"
        )
    with replacing(Path(output)) as file, warnings.catch_warnings():
        # Of torch and onnx about their own code; only errors concern the user.
        warnings.simplefilter("ignore")
        if form == "keras":
            model.save(file)
        else:
            _write_program(model, file, form)


def _write_program(model: keras.Model, file: Path, form: str) -> None:
    names = json.dumps(list(getattr(model, "class_names", ())))
    if form == "torch":
        content = io.BytesIO()  # torch itself raises all sorts of errors where a disk is full
        torch.export.save(_program(model), content, extra_files={CLASS_NAMES: names})
        file.write_bytes(content.getvalue())
        return
    program = _program(model)
    try:
        network: Any = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,  # onnxscript takes added numbers of up to 1e-8 for 0: so variances would lose their epsilon
            verbose=False,
            input_names=["images"],
            output_names=_outputs(model),
            dynamic_shapes=({0: "batch"},),
        )
    except torch.onnx.OnnxExporterError as error:
        missing = sorted({str(node.target) for node in program.graph.nodes} & _NOT_IN_ONNX)
        reason = f"ONNX has no {', '.join(missing)}" if missing else str(error).strip().partition("\n")[0]
        raise ExportError(
            f"model '{model.name}' cannot be written as ONNX: {reason}. It can be exported as torch or .keras."
        ) from error
    network.model.metadata_props[CLASS_NAMES] = names
    network.save(file)


def _program(model: keras.Model) -> torch.export.ExportedProgram:
    images = keras.ops.zeros((3, *model.input_shape[1:]))  # not 0 or 1, which torch would make fixed sizes
    try:
        with torch.no_grad(), _changed_for_tracing(model):
            return torch.export.export(
                _Predicting(model).eval(), (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
    except Exception as error:  # whatever a layer's operations end in when they are traced
        reason = plain_text(error).partition("\n")[0].rstrip(".")
        hint = "Layers must not branch on values, or on the size of the batch, with a Python if"
        backward = [layer.name for layer in layers_within(model) if _is_recurrent(layer) and layer.go_backwards]
        if backward:
            hint = f"Keras cannot take a sequence with a mask backwards step by step, as layer '{backward[0]}' does"
        raise ExportError(
            f"model '{model.name}' cannot be traced: {reason}. {hint}. It can still be exported as .keras."
        ) from error


@contextlib.contextmanager
def _changed_for_tracing(model: keras.Model) -> Iterator[None]:
    """Change for a while what a trace would take for a fixed size of the batch: same predictions.

    Activity regularizers, which predictions have none of, and loops of recurrent layers, which Keras writes per sample.
    """
    before = []
    for layer in layers_within(model):
        changes = {"activity_regularizer": None} | ({"unroll": True} if _is_recurrent(layer) else {})
        for name, value in changes.items():
            before.append((layer, name, getattr(layer, name)))
            setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, name, value in before:
            setattr(layer, name, value)


def _is_recurrent(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.RNN)


class _Predicting(torch.nn.Module):
    """The model in prediction: each call passes `training=False`."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        return self.model(images, training=False)


def _outputs(model: keras.Model) -> list[str]:
    names: list[str] = list(model.output_names)
    return names if len(names) > 1 else ["scores"]


def _check_onnx(model: keras.Model) -> None:
    missing = [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError(f"to write ONNX, {' and '.join(missing)} must be installed: pip install 'encapkeras[onnx]'")
    for layer in layers_within(model):
        reason = getattr(layer, "not_in_onnx", "")
        if reason:
            raise ExportError(f"layer '{layer.name}' cannot be written as ONNX: {reason}")
