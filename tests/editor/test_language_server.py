"""What an editor says while a spec is written, asked of the real yaml-language-server."""

import json
import os
import re

import pytest
from support.language_server import SERVER, LanguageServer, find_server
from support.pages import PROJECT

SPECS = PROJECT / "specs"
HEAD = "# yaml-language-server: $schema=./spec.schema.json\n"
MISSING = f"no {SERVER} on the PATH, or no Node to run it: npm install --global {SERVER}"

# A spec in the middle of being written.
DRAFT = """spec: encapkeras/1
data: {dataset: digits}
model:
  nodes:
    stem:
      layer: conv_bn_relu
      inputs: image
      filters: 16
      use_bias: false
      
    other:
      inputs: stem
      layer: 
    stage:
      layer: capsule_stage
      inputs: stem
      types: 8
      dim: $(2 * 4)
      kind: 
    last:
      layer: keras.Conv2D
      inputs: stem
      padding: same
      
      activation: 
  outputs: {classes: last}
losses:
  classes:
    loss: margin
    
train:
  optimizer: {kind: adam, learning_rate: 1e-3}
  schedule:
    kind: step
    
"""  # spaces at the ends of lines are where completion is asked for

BROKEN = """spec: encapkeras/1
data: {dataset: digit}
model:
  nodes:
    stem: {layer: conv_bn_relu, inputs: image, filters: sixteen, stride: 2}
    rows$i: {repeat: [{i: 1}], layer: squahs, inputs: $previous}
    stage: {layer: capsule_stage, inputs: stem, types: 0, dim: 4, kind: mster}
    dense: {layer: keras.Dense, inputs: stage, unit: 10}
  outputs: {classes: dense}
losses:
  classes: {loss: marign}
train:
  epohcs: 3
  optimizer: adam
"""
MISTAKES = {
    (2, "digit", "no such data set; known: affnist, cifar10, cifar100, csv, digits"),
    (5, "sixteen", "must be a whole number above 0, or a variable such as $name"),
    (5, "stride", "Property stride is not allowed"),
    (6, "squahs", "there is no such layer"),
    (7, "0", "Value is below the exclusive minimum of 0"),
    (7, "mster", 'Value is not accepted. Valid values: "master", "approximate"'),
    (8, "unit", "Property unit is not allowed"),
    (8, "dense", 'Missing property "units"'),
    (11, "marign", "there is no such loss; known: binary_cross_entropy, cross_entropy"),
    (13, "epohcs", "Property epohcs is not allowed"),
    (14, "adam", "must be a map, or a variable such as $name"),
}


@pytest.fixture(scope="module")
def server():
    program = find_server()
    if program is None and os.environ.get("CI") == "true":
        pytest.fail(MISSING)
    if program is None:
        pytest.skip(MISSING)
    with LanguageServer(program, SPECS) as running:
        yield running


@pytest.fixture(scope="module")
def draft(server):
    return server.open(SPECS / "draft.yaml", HEAD + DRAFT)


def test_the_specs_are_without_a_red_line(server):
    opened = [server.open(file) for file in sorted(SPECS.rglob("*.yaml"))]
    assert len(opened) > 50
    assert [one.problems() for one in opened] == [[]] * len(opened)


def test_what_is_wrong_is_underlined(server):
    found = server.open(SPECS / "broken.yaml", HEAD + BROKEN).problems()
    for line, text, message in MISTAKES:
        hits = [one for one in found if one[:2] == (line + 1, text)]
        assert hits, (line, text, found)
        assert message in hits[0][2]
    assert len(found) == len(MISTAKES)


@pytest.mark.parametrize("name", ["spec.json", "spec.yaml"])
def test_a_file_may_name_the_schema_by_a_key(server, tmp_path, name):
    (tmp_path / "spec.schema.json").write_text((SPECS / "spec.schema.json").read_text())
    spec = {"$schema": "./spec.schema.json", "spec": "encapkeras/1", "extends": "quickstart.yaml", "tain": {}}
    problems = server.open(tmp_path / name, json.dumps(spec, indent=1)).problems()
    assert [(line, message) for line, _, message in problems] == [(5, "Property tain is not allowed.")]


def test_arguments_of_another_data_set_are_underlined(server):
    data = "{dataset: digits, path: a.npz, root: images, extra: false, channels: null, pth: 3}"
    text = f"{HEAD}spec: encapkeras/1\nextends: quickstart.yaml\ndata: {data}\n"
    found = server.open(SPECS / "other_data.yaml", text).problems()
    assert [(part, message.rstrip(".")) for _, part, message in found] == [
        ("a.npz", "is not an argument of data set 'digits'"),
        ("pth", "Property pth is not allowed"),
    ]


def test_former_names_are_marked_as_deprecated(server):
    node = "{layer: normalise, inputs: image, mean: 0, deviation: 1, axi: 3}"
    text = f"{HEAD}extends: quickstart.yaml\nmodel: {{nodes: {{a: {node}}}}}\ntrain: {{checkpoints: {{kee: 2}}}}\n"
    found = {(part, message) for _, part, message in server.open(SPECS / "former.yaml", text).problems()}
    assert found == {
        ("layer: normalise", "Deprecated: now called 'normalize'."),
        ("axi", "Property axi is not allowed."),
        ("checkpoints: {kee: 2}", "Deprecated: now called 'resume_state'."),
        ("kee", "Property kee is not allowed."),
    }


def test_the_arguments_of_a_data_set_are_completed(server):
    opened = server.open(SPECS / "svhn.yaml", f"{HEAD}spec: encapkeras/1\ndata:\n  dataset: svhn\n  \n")
    keys = opened.completions("dataset: svhn\n  ")
    assert {"extra", "root", "batch_size"} <= set(keys)
    assert not {"path", "boxes"} & set(keys)


@pytest.mark.slow
def test_a_large_spec_is_no_trouble(server):
    nodes = "".join(f"    n{i + 1}: {{layer: keras.Dense, inputs: n{i}, units: 8}}\n" for i in range(2000))
    text = f"{HEAD}spec: encapkeras/1\nmodel:\n  inputs: {{n0: [8]}}\n  nodes:\n{nodes}  outputs: {{o: n2000}}\n"
    opened = server.open(SPECS / "large.yaml", text)
    assert opened.problems() == []
    assert "Just your regular densely-connected NN layer." in opened.hover("    n1000:", "n1000")


def test_layers_are_completed(draft):
    layers = draft.completions("inputs: stem\n      layer: ")
    assert {"capsule_stage", "conv_bn_relu", "keras.Conv2D", "keras.Dense"} <= set(layers)
    assert "keras.Lambda" not in layers
    assert "Two capsule convolution blocks" in layers["capsule_stage"]


def test_the_arguments_of_a_layer_are_completed(draft):
    keys = draft.completions("use_bias: false\n      ")
    assert {"kernel_size", "strides", "padding", "kernel_initializer", "expect", "repeat"} <= set(keys)
    assert not {"types", "filters", "units"} & set(keys)  # of other layers, or there already
    assert keys["kernel_size"] == (
        "Height and width of the kernel, or [rows, columns]; of a sequence one number.\n\n"
        "A whole number, or a list of whole numbers. Default: 3."
    )


def test_the_arguments_of_a_layer_of_keras_are_completed(draft):
    keys = draft.completions("padding: same\n      ")
    assert {"filters", "kernel_size", "dilation_rate"} <= set(keys)
    assert "output_padding" not in keys  # of Conv2DTranspose, whose name begins alike
    assert "the dimension of the output space" in keys["filters"]


@pytest.mark.parametrize(
    ("after", "values"),
    [
        ("dim: $(2 * 4)\n      kind: ", {"master", "approximate"}),
        ("activation: ", {"relu", "sigmoid", "softmax"}),
    ],
)
def test_values_are_completed(draft, after, values):
    assert values <= set(draft.completions(after))


def test_the_settings_of_a_kind_are_completed(draft):
    keys = draft.completions("kind: step\n    ")
    assert {"milestones", "factor", "warmup_epochs"} <= set(keys)
    assert "final_factor" not in keys


def test_the_arguments_of_a_loss_are_completed(draft):
    assert {"upper", "lower", "absent_weight", "weight"} <= set(draft.completions("loss: margin\n    "))


@pytest.mark.parametrize(
    ("text", "part", "explained"),
    [
        ("filters: 16", "filters", "Number of output channels. A whole number above 0. Required."),
        ("use_bias: false", "use_bias", "Whether the convolution has a bias. True or false. Default: true."),
        ("dim: $(2 * 4)", "dim", "Dimension D of the output capsules. A whole number above 0. Required."),
        ("layer: capsule_stage", "capsule_stage", "Two capsule convolution blocks: `main` raises"),
        ("    stage:", "stage", "Two capsule convolution blocks: `main` raises"),
        ("layer: keras.Conv2D", "keras", "2D convolution layer."),
        ("padding: same", "padding", 'string, either "valid" or "same" (case-insensitive).'),
        ("padding: same", "padding", "Default: valid."),
        ("dataset: digits", "digits", "1,797 handwritten digits of 8x8 grayscale pixels"),
        ("loss: margin", "margin", "Margin loss on the lengths of class capsules"),
        ("kind: adam", "adam", "Adam (Kingma and Ba"),
        ("learning_rate: 1e-3", "learning_rate", "Step size, before the schedule. A number above 0. Default: 0.001."),
        ("train:", "train", "How the network is trained."),
    ],
)
def test_what_is_under_the_pointer_is_explained(draft, text, part, explained):
    assert explained in re.sub(r"\s+", " ", draft.hover(text, part))
