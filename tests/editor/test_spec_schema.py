"""The editors' schema: current, correct, patient with parts of specs, and strict with mistakes."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import keras
import pytest
from support.pages import PROJECT, blocks

from encapkeras import SpecError, load_spec
from encapkeras.data import DATASETS
from encapkeras.editor.json_schema import schema_text, spec_schema
from encapkeras.editor.reference_page import KERAS_PART, reference_page
from encapkeras.layers import LAYERS, register_layer
from encapkeras.layers.backbone import application_names
from encapkeras.losses import LOSSES
from encapkeras.spec.keras_layers import keras_layer_names
from encapkeras.spec.parse import load_value
from encapkeras.spec.write import as_yaml

SPECS = PROJECT / "specs"
COMMITTED = SPECS / "spec.schema.json"
PAGE = PROJECT / "docs" / "reference" / "spec.md"
FILES = sorted(SPECS.rglob("*.yaml"))

WHOLE = """
spec: encapkeras/1
name: mine
vars: {types: 8, rows: [{i: 1}, {i: 2}]}
data: {dataset: digits, batch_size: 64, augment: {resize: 34, crop: true}}
blocks:
  residual:
    parameters: {filters: required, strides: 1}
    nodes:
      first: {layer: keras.Conv2D, inputs: input, filters: $filters, kernel_size: 3, padding: same}
      sum: {layer: keras.Add, inputs: [first, input]}
    output: sum
model:
  nodes:
    stem: {layer: conv_bn_relu, inputs: image, filters: $(2 * types), expect: [32, 32, 16]}
    block$i: {repeat: $rows, layer: block.residual, inputs: $previous, filters: 16}
    stage: {layer: capsule_stage, inputs: block2, types: 8, dim: 4, kernel_size: [5, 3, 1], kernel_initializer: zeros}
    digits: {layer: capsule_dense, inputs: stage, capsules: $classes, dim: 4, trainable: false, x-note: [mine]}
    lengths: {layer: capsule_length, inputs: digits}
  outputs: {classes: lengths}
losses:
  classes: {loss: margin, upper: 0.8}
  align: {loss: optimal_transport, latent: stage, target: stage/main, weight: 20}
train:
  optimizer: {kind: adam, learning_rate: 1e-3}
  schedule: {kind: step, milestones: [2, 3]}
  weight_decay: null
sweep: {grid: {train.optimizer.learning_rate: [1e-3, 1e-2]}, seeds: 3}
x-mine: {anything: [1, null]}
"""


def name_of(file):
    return str(file.relative_to(SPECS))


def read(text):
    """A spec as our own reader understands it: YAML 1.2."""
    return load_value(text, "test", "").plain()


@pytest.fixture(scope="module", autouse=True)
def without_layers_of_other_tests():
    with pytest.MonkeyPatch.context() as patch:
        for registry in (LAYERS, LOSSES, DATASETS):
            entries = registry._entries.items()
            own = {name: entry for name, entry in entries if entry.target.__module__.startswith("encapkeras.")}
            patch.setattr(registry, "_entries", own)
        yield


@pytest.fixture(scope="module")
def schema():
    return spec_schema()


@pytest.fixture(scope="module")
def mistakes(schema):
    """What the schema finds wrong: the path of each place, with the message."""
    validator = jsonschema.Draft7Validator(schema)

    def find(spec):
        return [(".".join(map(str, error.absolute_path)), error.message) for error in validator.iter_errors(spec)]

    return find


def test_it_is_a_schema(schema):
    jsonschema.Draft7Validator.check_schema(schema)


def of_this_keras(text):
    return f"Keras {keras.__version__}" in text


def without_keras(schema):
    """What does not depend on the release of Keras."""
    return {name: part for name, part in schema["definitions"].items() if re.match(r"layer\.(?!keras)|loss", name)}


def test_the_committed_schema_is_current(schema):
    text = COMMITTED.read_text()
    if of_this_keras(text):
        assert text == schema_text(), "regenerate with: encapkeras schema"
    else:
        assert without_keras(json.loads(text)) == without_keras(schema), "regenerate with: encapkeras schema"


def test_the_committed_page_is_current():
    text, now = PAGE.read_text(), reference_page()
    if not of_this_keras(text):
        text, now = text.partition(KERAS_PART)[0], now.partition(KERAS_PART)[0]
    assert text == now, "regenerate with: encapkeras schema --format markdown -o docs/reference/spec.md"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_specs_name_the_schema_in_their_first_line(file):
    place = "../" * (len(file.relative_to(SPECS).parts) - 1) or "./"
    assert file.read_text().splitlines()[0] == f"# yaml-language-server: $schema={place}spec.schema.json"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_specs_are_right(file, mistakes):
    assert mistakes(read(file.read_text())) == []


@pytest.mark.parametrize("page", ["write_a_spec.md", "data.md", "train.md"])
def test_specs_of_the_pages_are_right(page, mistakes):
    texts = [block.text for block in blocks(PROJECT / "docs" / page, "yaml")]
    right = [text for text in texts if not re.search(r"#.*\bwrong\b", text)]
    assert right
    for text in right:
        assert mistakes(read(text)) == [], text


@pytest.mark.parametrize("name", ["quickstart", "resnet14", "encapnet_ot", "capsnet_sabour"])
def test_resolved_specs_are_right(name, mistakes):
    assert mistakes(load_spec(name).resolved) == []


def test_everything_that_the_language_has_is_right(mistakes):
    assert mistakes(read(WHOLE)) == []
    assert mistakes({"$schema": "./spec.schema.json", **read(WHOLE)}) == []


RIGHT = {
    "a part of a spec, to be extended": "model: {nodes: {stem: {filters: 3}}}",
    "a part of a node": "{spec: encapkeras/1, extends: quickstart.yaml, model: {nodes: {stage$i: {sub_layers: 3}}}}",
    "several bases": "{spec: encapkeras/1, extends: [a.yaml, b.yaml]}",
    "null for a key": "{extends: a.yaml, train: {schedule: null}, losses: {classes: {upper: null}}}",
    "null for a section": "{extends: a.yaml, train: null, losses: null, blocks: null, vars: null}",
    "null for a node": "{extends: a.yaml, model: {nodes: {digits: null}}}",
    "a part of an optimizer": "{extends: a.yaml, train: {optimizer: {learning_rate: 0.1}}}",
    "a part of a loss": "{extends: a.yaml, losses: {classes: {upper: 0.8, weight: 2}}}",
    "an argument of a data set that is named elsewhere": "{extends: a.yaml, data: {extra: true, path: a.npz}}",
    "null for an argument of another data set": "{extends: a.yaml, data: {dataset: digits, extra: null}}",
    "a folder that the data set does not need": "{data: {dataset: digits, root: a}}",
    "a name in place of a number": "{extends: a.yaml, data: {validation: own}}",
    "a variable for a map": "{vars: {o: {kind: sgd}}, train: {optimizer: $o}}",
    "a variable for a layer": "{model: {nodes: {a: {layer: $kind, inputs: image, whatever: 3}}}}",
    "a variable in a name": "{model: {nodes: {'a$(i + 1)': {layer: squash, inputs: image}}}}",
    "an initialiser with numbers": "{model: {nodes: {a: {layer: keras.Dense, inputs: i, kernel_initializer: "
    "{class_name: RandomNormal, config: {stddev: 0.1}}}}}}",
    "a second name of a layer": "{model: {nodes: {a: {layer: keras.Convolution2D, inputs: i, filters: 3}}}}",
    "defaults in place of arguments": "{spec: encapkeras/1, model: {defaults: {keras.Dense: {units: 3}}, nodes: "
    "{a: {layer: keras.Dense, inputs: i}}, outputs: {o: a}}}",
    "another data set than that of the base": "{extends: a.yaml, data: {dataset: digits, path: null, extra: false}}",
    "former names": "{extends: a.yaml, model: {nodes: {a: {layer: normalise, inputs: i, mean: 0, deviation: 1}}}, "
    "train: {checkpoints: {keep: 3}}}",
    "keys of the user": "{x-a: 1, data: {x-b: 1}, train: {optimizer: {kind: sgd, x-c: 1}}, model: {x-d: 1, nodes: "
    "{x-e: 1, a: {layer: squash, inputs: i, x-f: 1}}}}",
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_what_may_be_written_is_right(text, mistakes):
    assert mistakes(read(text)) == []


# What is changed in the spec above: the path, the value, and where the mistake is then found.
WRONG = {
    "an unknown key at the top": ("nmae", "x", ""),
    "another version": ("spec", "encapkeras/2", "spec"),
    "a base that is no text": ("extends", 3, "extends"),
    "an unknown key of data": ("data.bach_size", 3, "data"),
    "an unknown data set": ("data.dataset", "digit", "data.dataset"),
    "a file for a data set that reads none": ("data.path", "a.npz", "data.path"),
    "an argument of another data set": ("data.extra", True, "data.extra"),
    "an ill-typed argument of a data set": ("data", {"dataset": "svhn", "extra": 1}, "data.extra"),
    "a missing argument of a data set": ("data", {"dataset": "npz"}, "data"),
    "a batch of none": ("data.batch_size", 0, "data.batch_size"),
    "a text for a number": ("data.batch_size", "64", "data.batch_size"),
    "a number for a switch": ("data.augment.crop", 1, "data.augment.crop"),
    "a part above 1": ("data.validation", 1.5, "data.validation"),
    "neither a part nor its name": ("data.validation", "mine", "data.validation"),
    "a misnamed variable": ("vars.1x", 3, "vars"),
    "a reserved variable": ("vars.previous", 3, "vars"),
    "an unknown section of the model": ("model.node", {}, "model"),
    "no outputs": ("model.outputs", ..., "model"),
    "an unknown layer": ("model.nodes.stem.layer", "conv_bn_rleu", "model.nodes.stem.layer"),
    "a layer without its prefix": ("model.nodes.stem.layer", "Dense", "model.nodes.stem.layer"),
    "a layer that holds code": ("model.nodes.stem.layer", "keras.Lambda", "model.nodes.stem.layer"),
    "no layer": ("model.nodes.stem.layer", ..., "model.nodes.stem"),
    "no inputs": ("model.nodes.stem.inputs", ..., "model.nodes.stem"),
    "inputs that are numbers": ("model.nodes.stem.inputs", [3], "model.nodes.stem.inputs.0"),
    "an unknown argument": ("model.nodes.stage.sub_layer", 2, "model.nodes.stage"),
    "an unknown argument of Keras": ("blocks.residual.nodes.first.filtres", 3, "blocks.residual.nodes.first"),
    "an argument of another layer": ("model.nodes.lengths.dim", 3, "model.nodes.lengths"),
    "an argument below its limit": ("model.nodes.stage.dim", 0, "model.nodes.stage.dim"),
    "a broken number": ("model.nodes.stage.dim", 2.5, "model.nodes.stage.dim"),
    "a value that is not allowed": ("model.nodes.stage.kind", "mster", "model.nodes.stage.kind"),
    "a list with a text": ("model.nodes.stage.kernel_size", [3, "five"], "model.nodes.stage.kernel_size.1"),
    "an unknown initialiser": ("model.nodes.stage.kernel_initializer", "zero", "model.nodes.stage.kernel_initializer"),
    "a missing argument": ("model.nodes.stage.dim", ..., "model.nodes.stage"),
    "a missing argument of Keras": ("blocks.residual.nodes.first.kernel_size", ..., "blocks.residual.nodes.first"),
    "an unknown number format": ("model.nodes.stem.dtype", "int8", "model.nodes.stem.dtype"),
    "an expectation that is no list": ("model.nodes.stem.expect", 3, "model.nodes.stem.expect"),
    "rows that are no list": ("model.nodes.block$i.repeat", 3, "model.nodes.block$i.repeat"),
    "a node with a reserved name": ("model.nodes.labels", {"layer": "squash", "inputs": "image"}, "model.nodes"),
    "a node with a slash in its name": ("model.nodes.a/b", {"layer": "squash", "inputs": "image"}, "model.nodes"),
    "defaults of an unknown layer": ("model.defaults", {"conv": {}}, "model.defaults"),
    "inputs among defaults": ("model.defaults", {"squash": {"inputs": "a"}}, "model.defaults.squash"),
    "an unknown argument among defaults": ("model.defaults", {"squash": {"varint": "a"}}, "model.defaults.squash"),
    "a block without output": ("blocks.residual.output", ..., "blocks.residual"),
    "an unknown key of a block": ("blocks.residual.input", "x", "blocks.residual"),
    "an unknown loss": ("losses.classes.loss", "marign", "losses.classes.loss"),
    "no loss": ("losses.classes.loss", ..., "losses.classes"),
    "an unknown argument of a loss": ("losses.classes.uper", 0.9, "losses.classes"),
    "a negative weight": ("losses.align.weight", -1, "losses.align.weight"),
    "a ramp to no number": ("losses.align.weight", {"from": 0, "to": "a", "epochs": 3}, "losses.align.weight"),
    "a missing tensor": ("losses.align.target", ..., "losses.align"),
    "an unknown key of train": ("train.epohcs", 3, "train"),
    "an unknown optimizer": ("train.optimizer.kind", "adm", "train.optimizer.kind"),
    "an optimizer without its kind": ("train.optimizer", "adam", "train.optimizer"),
    "an optimizer of no kind": ("train.optimizer.kind", ..., "train.optimizer"),
    "an argument of another optimizer": ("train.optimizer.momentum", 0.9, "train.optimizer"),
    "a missing setting of a schedule": ("train.schedule.milestones", ..., "train.schedule"),
    "a schedule below its limit": ("train.schedule.milestones", [0], "train.schedule.milestones.0"),
    "an unknown key of a sweep": ("sweep.grids", {}, "sweep"),
}


def changed(spec, path, value):
    """The spec with one value replaced, or removed for `...`; names of nodes have no dots here."""
    spec = copy.deepcopy(spec)
    *way, last = path.split(".")
    inner = spec
    for step in way:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return spec


@pytest.mark.parametrize(("path", "value", "place"), WRONG.values(), ids=WRONG)
def test_mistakes_are_found_at_their_place(path, value, place, mistakes):
    found = mistakes(changed(read(WHOLE), path, value))
    assert place in [where for where, _ in found], found


def test_whatever_is_registered_may_be_named(schema):
    definitions = schema["definitions"]
    layers = {one["const"] for one in definitions["node"]["properties"]["layer"]["anyOf"] if "const" in one}
    networks = {f"keras.applications.{name}" for name in application_names()}
    assert layers == {*LAYERS, *LAYERS.former_names(), *keras_layer_names(), *networks}
    losses = {one["const"] for one in definitions["loss"]["properties"]["loss"]["anyOf"] if "const" in one}
    assert losses == set(LOSSES)
    datasets = {
        one["const"] for one in schema["properties"]["data"]["properties"]["dataset"]["anyOf"] if "const" in one
    }
    assert datasets == set(DATASETS)


def maps_of_properties(schema):
    """Every map of properties in a schema, conditions apart: they explain nothing."""
    if isinstance(schema, list):
        return [found for element in schema for found in maps_of_properties(element)]
    if not isinstance(schema, dict):
        return []
    inner = [found for key, part in schema.items() if key != "if" for found in maps_of_properties(part)]
    return [*inner, *([schema["properties"]] if "properties" in schema else [])]


def test_every_key_of_ours_is_explained(schema):
    parts = [schema["properties"], *without_keras(schema).values(), schema["definitions"]["node"]["properties"]]
    for properties in maps_of_properties(parts):
        for name, part in properties.items():
            explained = part.get("description") or "$ref" in part
            assert explained or part.get("type") == "null" or name in ("class_name", "config"), name


def test_defaults_are_right(schema):
    for name, layer in schema["definitions"].items():
        if name.startswith("layer."):
            for argument, part in layer["properties"].items():
                validator = jsonschema.Draft7Validator({**part, "definitions": schema["definitions"]})
                assert validator.is_valid(part.get("default")), f"{name}.{argument}"


def test_layers_of_the_user_join(monkeypatch):
    monkeypatch.setattr(LAYERS, "_entries", dict(LAYERS._entries))

    @register_layer("tripled")
    class Tripled(keras.layers.Layer):
        """Three times the input.

        Args:
            times: How often | more.
            folder: Where it looks.
            judge: Whatever only its own code understands.
        """

        def __init__(
            self, times: int = 3, folder: Path = Path("here"), judge: Callable[[int], int] | None = None, **kwargs
        ):
            super().__init__(**kwargs)

    schema = spec_schema()
    arguments = schema["definitions"]["layer.tripled"]["properties"]
    assert arguments["times"]["default"] == 3
    assert "default" not in arguments["folder"]  # JSON has no folders
    assert arguments["judge"] == {"description": "Whatever only its own code understands.\n\nDefault: null."}
    right = {"model": {"nodes": {"a": {"layer": "tripled", "inputs": "image", "times": 4}}}}
    assert jsonschema.Draft7Validator(schema).is_valid(right)
    assert "| `times` | a whole number | `3` | How often \\| more. |" in reference_page()


@pytest.mark.slow
def test_what_the_checks_accept_is_never_underlined(mistakes, tmp_path):
    """Bundled specs with changes by chance: whatever can still be loaded has no mistake for an editor either."""
    from support.spec_mutations import mutation

    file, loaded = tmp_path / "mutated.yaml", 0
    for number in range(150):
        text = as_yaml(mutation(0, number).spec)
        file.write_text(text)
        try:
            load_spec(file)
        except SpecError:
            continue
        loaded += 1
        assert mistakes(read(text)) == [], f"mutation(0, {number})"
    assert loaded > 50
