"""A trained network as a file for other programs, which need neither encapkeras nor Keras to predict with it."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from pathlib import Path
from typing import Any

import keras
import torch

from encapkeras.errors import ArgumentError, ExportError
from encapkeras.files import replacing

FORMS = ("keras", "torch", "onnx")
CLASS_NAMES = "class_names"


def export_model(model: keras.Model, output: str | Path, form: str) -> None:
    """Writes a network as it predicts; the file takes any number of images.

    - `keras`: for `encapkeras.load_model`, to go on with it in Keras.
    - `torch`: a `torch.export` program, for `torch.export.load`, without Keras and encapkeras. Class names are the JSON
      in the extra file `class_names`. Its tensors are on the device of the model.
    - `onnx`: for onnxruntime and others, with the input `images`, the output `scores` (or those that the model names)
      and the class names as JSON in the metadata property `class_names`.

    Programs for torch and ONNX compute in float32 also where `train.precision` is another.

    Args:
        model: A built model of one input.
        output: The file, replaced if it exists; whole or not at all.
        form: `keras`, `torch` or `onnx`.

    Raises:
        ArgumentError: There is no such form, or the model has several inputs.
        ExportError: torch cannot trace the model, or a package is missing.
        RunFolderError: The file cannot be written.

    Example:
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
        _check_onnx()
    if form != "keras" and len(model.inputs) != 1:
        raise ArgumentError(
            f"model '{model.name}' has {len(model.inputs)} inputs; only models of one can be exported as {form}"
        )
    names = json.dumps(list(getattr(model, "class_names", ())), ensure_ascii=False)
    with replacing(Path(output)) as file, warnings.catch_warnings():
        # Of torch and onnx about their own ways; what matters to a user is an error.
        warnings.simplefilter("ignore")
        if form == "keras":
            model.save(file)
        elif form == "torch":
            content = io.BytesIO()  # torch itself raises all sorts of errors where a disk is full
            torch.export.save(_program(model), content, extra_files={CLASS_NAMES: names})
            file.write_bytes(content.getvalue())
        else:
            network: Any = torch.onnx.export(
                _program(model), dynamo=True, verbose=False, input_names=["images"], output_names=_outputs(model)
            )
            network.model.metadata_props[CLASS_NAMES] = names
            network.save(file)


def _program(model: keras.Model) -> torch.export.ExportedProgram:
    images = keras.ops.zeros((3, *model.input_shape[1:]))  # 0 and 1 are sizes that torch takes for fixed
    try:
        with torch.no_grad():
            return torch.export.export(
                _Predicting(model).eval(), (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
    except Exception as error:  # whatever a layer's operations end in when they are traced
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"model '{model.name}' cannot be traced: {reason}. Layers must not look at values, or at the size of the "
            "batch, with Python's own if. As .keras it can be exported all the same."
        ) from error


class _Predicting(torch.nn.Module):
    """The model in prediction; its layers are told so with each call."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        return self.model(images, training=False)


def _outputs(model: keras.Model) -> list[str]:
    names: list[str] = list(model.output_names)
    return names if len(names) > 1 else ["scores"]


def _check_onnx() -> None:
    missing = [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError(f"to write ONNX, {' and '.join(missing)} must be installed: pip install 'encapkeras[onnx]'")
