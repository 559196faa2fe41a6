"""The model card of a packed folder: Markdown below a head of YAML, as the Hugging Face hub reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encapkeras import __version__
from encapkeras.comparison.statistics import Spread
from encapkeras.comparison.tables import markdown_table
from encapkeras.data import DatasetInfo
from encapkeras.spec.write import as_yaml
from encapkeras.text import in_markdown, listed, quoted, shape_text

MOST_CLASSES = 20  # in a table with a column for each
MOST_CONFUSED = 20  # pairs of classes, of more classes than that

SCORES = {
    "length": "the lengths of the class capsules",
    "activation": "the activations of the class capsules",
    "probability": "scores that its loss turns into probabilities",
    "score": "one score for each class",
}


@dataclass(frozen=True)
class Packed:
    """What is known of a packed model.

    Args:
        name: Its name: that of its folder.
        spec: The resolved spec, without the places of the images.
        results: What is in `results.json` of each run, with its `seed`; the first is the run that was packed.
        test: Number of test images, `accuracy`, `loss` and `confusion` of the packed network.
        images: How many images each part has.
        info: The images and the classes.
        scores: What the network returns, as `Probabilities.kind` says it, whether it is calibrated or not.
        license: The identifier of the licence.
        environment: Versions and device of the training.
        calibration: The `temperature` that the network has, and the expected calibration error of its probabilities on
            the test images `before` and `after`; None if it is not calibrated.
    """

    name: str
    spec: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    test: Mapping[str, Any]
    images: Mapping[str, int]
    info: DatasetInfo
    scores: str
    license: str
    environment: Mapping[str, Any]
    calibration: Mapping[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the content of the folder's `results.json`."""
        return {
            "spec": self.spec["name"],
            "runs": [dict(results) for results in self.results],
            "packed": {"encapkeras": __version__, **self.test},
            "images": dict(self.images),
            "environment": dict(self.environment),
            **({"calibration": dict(self.calibration)} if self.calibration else {}),
        }


def model_card(packed: Packed, with_safetensors: bool) -> str:
    """Return the text of README.md."""
    parts = [*_about(packed), *_use(packed, with_safetensors), *_data(packed), *_results(packed), *_training(packed)]
    return f"---\n{as_yaml(_head(packed))}---\n\n" + "\n\n".join(parts) + "\n"


def _head(packed: Packed) -> dict[str, Any]:
    """Return what the hub sorts and finds models by."""
    of_images = packed.info.samples == "images"
    task = "image-classification" if of_images else "other"
    dataset = str(packed.spec["data"]["dataset"])
    accuracy = {"type": "accuracy", "name": "test accuracy", "value": round(packed.test["accuracy"], 6)}
    result = {
        "task": {"type": task},
        "dataset": {"name": dataset, "type": dataset, "split": "test"},
        "metrics": [accuracy],
    }
    return {
        "license": packed.license,
        **({"license_name": "see-license-file", "license_link": "LICENSE"} if packed.license == "other" else {}),
        "library_name": "keras",
        **({"pipeline_tag": task} if of_images else {}),
        "tags": ["capsule-network", "encapkeras"],
        "model-index": [{"name": packed.name, "results": [result]}],
    }


def _about(packed: Packed) -> Iterator[str]:
    yield f"# {in_markdown(packed.name)}"
    parameters = packed.results[0].get("parameters")
    count = f" of {parameters:,} parameters" if isinstance(parameters, int) else ""
    yield (
        f"A network{count} for {packed.info.classes:,} classes, made from the spec {in_markdown(packed.spec['name'])} "
        f"with encapkeras {packed.environment.get('encapkeras', __version__)}: capsule networks for Keras 3 on PyTorch."
    )
    if packed.spec.get("source"):
        yield f"Published as: {in_markdown(packed.spec['source'])}"


def _use(packed: Packed, with_safetensors: bool) -> Iterator[str]:
    yield "## Use it"
    name = packed.name
    yield f"```python\nimport encapkeras\n\nmodel = encapkeras.load({json.dumps(name)})\nprint(model.class_names)\n```"
    if packed.info.samples == "images":
        yield f"    encapkeras predict {quoted(name)} photo.png"
    probabilities = ""
    if packed.info.samples == "images" and (packed.calibration or packed.scores == "probability"):
        probabilities = "; `encapkeras predict` and `encapkeras.analysis.classify` give probabilities"
    yield (
        f"It takes {packed.info.samples} of shape {shape_text(packed.info.input_shape)}"
        + (" (height, width, channels), from 0 to 1" if packed.info.samples == "images" else "")
        + f", in a batch of any size, and returns {SCORES[packed.scores]}{probabilities}. "
        f"The classes, in the order of the scores: {in_markdown(listed(packed.info.class_names))}."
    )
    second = " `model.safetensors` has the weights alone, each by Keras' path of it." if with_safetensors else ""
    yield (
        "Loading reads `model.keras`, in Keras' safe mode: it needs no spec file and runs no code of this folder."
        f"{second} `sha256sum --check SHA256SUMS` says whether all files are as they were packed; `encapkeras.load` "
        "checks that first. [`spec.yaml`](spec.yaml) trains the same network again."
    )
    yield f"Licence: {packed.license}, see [LICENSE](LICENSE)."


def _data(packed: Packed) -> Iterator[str]:
    yield "## Data"
    parts = [f"{count:,} for {'testing' if part == 'test' else part}" for part, count in packed.images.items() if count]
    seed = packed.results[0]["seed"]
    held_out = packed.spec["data"].get("validation")
    how = ""
    if packed.images["validation"]:
        how = " Those for validation are a part of the data set's own."
        if held_out != "own":
            share = f"{100 * float(held_out):g} %"
            how = f" Those for validation are {share} of the training images, drawn at random with seed {seed}."
    yield f"{packed.info.samples.capitalize()}: {', '.join(parts)}.{how} Those for testing were not used to train it."
    yield _yaml({"data": packed.spec["data"]})


def _results(packed: Packed) -> Iterator[str]:
    yield "## Results"
    yield markdown_table(_metrics(packed)).rstrip()
    seeds = [results["seed"] for results in packed.results]
    best = (
        "The epoch with the best validation accuracy counts" if packed.images["validation"] else "The last epoch counts"
    )
    yield (
        f"Of the training with seed {seeds[0]}, which is the one that is packed."
        if len(seeds) == 1
        else f"Mean ± standard deviation, lowest to highest, over {len(seeds)} trainings that differ in their seed "
        f"alone: {listed(seeds)}. The one with seed {seeds[0]} is packed."
    ) + f" {best}; the test {packed.info.samples} were used once for each training."
    test = packed.test
    yield (
        f"Tested again when it was packed: accuracy {test['accuracy']:.4f}, loss {test['loss']:.4f} on "
        f"{test['images']:,} test {packed.info.samples}."
    )
    if packed.calibration:
        yield "## Calibration"
        yield (
            "The network has a temperature, {temperature:.4f}, that was fitted on the validation images. The expected "
            "calibration error of its probabilities on the test images is {after:.4f}; without the temperature it was "
            "{before:.4f}."
        ).format(**packed.calibration)
    if "confusion" in test:
        yield "## Confusion"
        yield from _confusion(test["confusion"], packed.info.class_names)


def _metrics(packed: Packed) -> list[dict[str, str]]:
    """Return a row for each result of test and validation that all runs have."""
    several = len(packed.results) > 1
    rows = []
    for name in sorted(packed.results[0]):
        values = [results.get(name) for results in packed.results]
        if not name.startswith(("test_", "validation_")) or not all(type(value) in (int, float) for value in values):
            continue
        spread = Spread.of([float(value) for value in values if value is not None])
        row = {"metric": name.replace("_", " "), "value": f"{spread.mean:.4f}"}
        if several:
            ends = {"from": f"{spread.lowest:.4f}", "to": f"{spread.highest:.4f}"}
            row = {**row, "±": f"{spread.standard_deviation:.4f}", **ends}
        rows.append(row)
    return rows


def _confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Iterator[str]:
    if len(names) <= MOST_CLASSES:
        yield "Rows are the classes of the test images, columns what is predicted for them."
        rows = [
            {"": name, **{other: f"{count:,}" if count else "" for other, count in zip(names, row, strict=True)}}
            for name, row in zip(names, counts, strict=True)
        ]
        yield markdown_table(rows).rstrip()
        return
    pairs = [
        (count, names[label], names[other])
        for label, row in enumerate(counts)
        for other, count in enumerate(row)
        if label != other and count
    ]
    most = sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSED]
    yield f"The {len(most)} pairs of classes that are confused most often, of {len(pairs):,}."
    rows = [{"class": name, "predicted as": other, "images": f"{count:,}"} for count, name, other in most]
    yield markdown_table(rows).rstrip() if rows else "None is confused with another."


def _training(packed: Packed) -> Iterator[str]:
    yield "## Training"
    noted = ", ".join(f"{key} {value}" for key, value in packed.environment.items())
    yield f"{in_markdown(noted)}."
    yield _yaml({"train": packed.spec["train"]})


def _yaml(section: dict[str, Any]) -> str:
    return f"```yaml\n{as_yaml(section)}```"
