"""From finished runs to a packed folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch

import encapkeras.backend  # noqa: F401  # before Keras
from encapkeras.analysis import Probabilities, calibration_error, confusion
from encapkeras.data import DataSplits
from encapkeras.errors import ArgumentError, PackedModelError, printable
from encapkeras.files import read_json, reading
from encapkeras.keras_internals import not_compiled
from encapkeras.model.load_model import load_model
from encapkeras.model.spec_model import SpecModel
from encapkeras.packing.card import Packed, model_card
from encapkeras.packing.packed_folder import (
    CARD,
    CLASS_NAMES,
    LICENSE,
    MODEL,
    RESULTS,
    SPEC,
    WEIGHTS,
    check_free,
    write_folder,
)
from encapkeras.plugins import used_plugins
from encapkeras.spec.spec import Spec
from encapkeras.spec.write import as_json, as_yaml
from encapkeras.text import listed
from encapkeras.training.measure import check_fits, compile_with_losses, data_of, measure_metrics
from encapkeras.training.run.identity import changed_images, check_checkpoint, first_difference, without_places
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.training.score_metrics import EvaluationScores

OWN_LICENSE = "apache-2.0"
_NOTED = ("encapkeras", "keras", "torch", "device", "threads", "processes", "dtype")  # of the training


class Run(NamedTuple):
    """A run and its spec, as `spec_of_run` reads it."""

    folder: RunFolder
    spec: Spec


@dataclass(frozen=True)
class License:
    """A licence: how the Hugging Face hub calls it, such as `cc-by-4.0`, or `other`; and its text."""

    identifier: str
    text: str

    @classmethod
    def read(cls, identifier: str = OWN_LICENSE, file: Path | None = None) -> License:
        """Return a licence of that text; without a file, only that of encapkeras itself has one."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,49}", identifier):
            raise ArgumentError(
                "--license must be an identifier of small letters, digits, points and hyphens, such as cc-by-4.0 or "
                f"other; received '{printable(identifier)}'"
            )
        if file is None and identifier != OWN_LICENSE:
            raise ArgumentError(f"--license {identifier} needs the text of that licence: --license-file FILE")
        file = file or _own_license()
        with reading(file, "the text of a licence", ArgumentError):
            text = file.read_text(encoding="utf-8")
        if not text.strip():
            raise ArgumentError(f"{file} cannot be used as the text of a licence: it is empty")
        return cls(identifier, text)


def _own_license() -> Path:
    package = Path(__file__).resolve().parents[1]
    inside = package / "LICENSE"  # of a wheel; in a checkout it is next to the package
    return inside if inside.is_file() else package.parent / "LICENSE"


def pack(
    runs: Sequence[Run],
    splits: DataSplits,
    output: Path,
    own_license: License,
    *,
    with_safetensors: bool = True,
    overwrite: bool = False,
) -> Packed:
    """Write the network that the first run chose, with all that its users need, into a folder.

    The network is tested once more, so that the card can say what it takes for what.

    Args:
        runs: Finished runs. Others than the first must be of the same spec with other seeds; the card then has the mean
            and the spread of the results of all.
        splits: The images of the first run.
        output: The folder, new or empty; it appears whole or not at all.
        own_license: The licence of the packed model.
        with_safetensors: Whether to write the weights a second time, as `model.safetensors`.
        overwrite: Whether a packed folder in its place may be replaced.

    Returns:
        What the card says.

    Raises:
        PackedModelError: A run is unfinished, needs a plugin, or is of another spec; its images have a class for each
            pixel; or the folder is not free.
        RunFolderError: A run is damaged, or the folder cannot be written.
    """
    check_free(output, overwrite)
    first = runs[0]
    _check_has_classes(first, splits)
    results = [_results(run) for run in runs]
    _check_same_spec(runs)
    others = changed_images(first.folder, splits.fingerprint)
    if others:
        raise PackedModelError(
            f"run {first.folder.path} was trained with other images (there) than these (here): {others}. Put back the "
            "images that it had, or give their place with --data-root."
        )
    model = _chosen_model(first)
    check_fits(model, splits.info)
    packed = Packed(
        name=Path(os.path.abspath(output)).name,
        spec=model.spec,
        results=[{"seed": run.spec.train.seed, **found} for run, found in zip(runs, results, strict=True)],
        test=_tested(model, splits),
        calibration=_calibration(model),
        images={
            "training": splits.train.num_images,
            "validation": splits.validation.num_images if splits.validation else 0,
            "test": splits.test.num_images,
        },
        info=splits.info,
        scores=Probabilities(model, splits.info.classes_per_image).kind,
        license=own_license.identifier,
        environment={key: value for key, value in first.folder.read_environment().items() if key in _NOTED},
    )
    _write(packed, model, own_license, output, with_safetensors)
    return packed


def _write(packed: Packed, model: SpecModel, own_license: License, output: Path, with_safetensors: bool) -> None:
    def write(folder: Path) -> None:
        with not_compiled(model):  # only to be measured
            model.save(folder / MODEL)
        if with_safetensors:
            _write_safetensors(model, folder / WEIGHTS)
        texts = {
            SPEC: as_yaml(model.spec),
            CLASS_NAMES: json.dumps(list(model.class_names)) + "\n",
            RESULTS: as_json(packed.as_json()),
            LICENSE: own_license.text,
            CARD: model_card(packed, with_safetensors),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")

    write_folder(output, write)


def _results(run: Run) -> dict[str, Any]:
    folder = run.folder
    if not folder.results.is_file():
        raise PackedModelError(
            f"run {folder.path} is unfinished: it has no results.json, so nothing is known of its test. Finish it "
            f"first: {folder.resume_command}"
        )
    needed = listed(plugin.path.name for plugin in used_plugins(run.spec.resolved))
    if needed:
        raise PackedModelError(
            f"run {folder.path} cannot be packed: its network needs the plugin {needed}, and a packed folder holds no "
            "code. 'encapkeras export' writes it for programs that need no plugin: --format torch or onnx."
        )
    with reading(folder.results, "the results of a training", PackedModelError):
        return read_json(folder.results)


def _check_has_classes(run: Run, splits: DataSplits) -> None:
    if splits.info.task == "segments":
        checkpoint = run.folder.chosen(data_of(run.spec).has_validation)
        raise PackedModelError(
            f"run {run.folder.path} cannot be packed: each pixel of its images has a class, and a packed network gives "
            f"each image classes. In Python, encapkeras.load_model reads {checkpoint}."
        )


def _check_same_spec(runs: Sequence[Run]) -> None:
    """Check that all runs are of one spec, each with a seed of its own."""
    specs = [without_places(run.spec.resolved) for run in runs]
    without_seeds = [{**spec, "train": {**spec["train"], "seed": 0}} for spec in specs]
    for run, spec in zip(runs, without_seeds, strict=True):
        difference = first_difference(without_seeds[0], spec)
        if difference:
            raise PackedModelError(
                f"the runs {runs[0].folder.path} (there) and {run.folder.path} (here) are not of the same spec: "
                f"{difference}. All but the first may differ from it in train.seed alone."
            )
    seeds = [run.spec.train.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise PackedModelError(
            f"two runs have the same seed: {listed(seeds)}. Equal seeds give equal numbers, which show no spread."
        )


def _chosen_model(run: Run) -> SpecModel:
    """Load what training chose; the spec in it says no longer where on this machine the images are."""
    checkpoint = run.folder.chosen(data_of(run.spec).has_validation)
    check_checkpoint(run.folder, checkpoint)
    trained = load_model(checkpoint)
    model = SpecModel.from_config({**trained.get_config(), "spec": without_places(run.spec.resolved)})
    model.set_weights(trained.get_weights())
    return model


def _tested(model: SpecModel, splits: DataSplits) -> dict[str, Any]:
    compile_with_losses(model, classes_per_image=splits.info.classes_per_image)
    tested: dict[str, Any] = {"images": splits.test.num_images, **measure_metrics(model, splits.test)}
    if splits.info.classes_per_image == 1:
        tested["confusion"] = confusion(model, splits.test)
    return tested


def _calibration(model: SpecModel) -> dict[str, float] | None:
    """Measure what the temperature of a calibrated network does to its probabilities, by the scores of its test."""
    measured = model.score_metrics
    if not isinstance(measured, EvaluationScores) or model.temperature is None:
        return None
    factors = {"before": 1.0, "after": model.temperature}
    shares = {when: measured.probabilities(measured.scores, factor).numpy() for when, factor in factors.items()}
    errors = {when: calibration_error(share, measured.labels.numpy()) for when, share in shares.items()}
    return {"temperature": model.temperature, **errors}


def _write_safetensors(model: SpecModel, file: Path) -> None:
    tensors = {weight.path: weight.value.detach().cpu().contiguous() for weight in model.weights}
    if len(tensors) < len(model.weights):
        raise PackedModelError(
            f"two weights of '{model.name}' have the same path, so that safetensors cannot hold both; pack it with "
            "--no-safetensors"
        )
    file.write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
