"""Blocks: parts of a network that nodes use by name."""

import numpy as np
import pytest

from encapkeras import SpecError, build_model, check_spec, load_spec

HEAD = """
  outputs: {classes: scores}
losses: {classes: {loss: cross_entropy}}
"""
RESIDUAL = """
blocks:
  residual:
    parameters: {filters: required, strides: 1, inner: $(2 * filters)}
    nodes:
      first: {layer: conv_bn_relu, inputs: input, filters: $inner, strides: $strides}
      second: {layer: conv_bn_relu, inputs: first, filters: $filters, kernel_size: 1}
      sum: {layer: keras.Add, inputs: [second, input]}
    output: sum
"""
NETWORK = """
model:
  inputs: {image: [8, 8, 4]}
  nodes:
    a: {layer: block.residual, inputs: image, filters: 4}
    b: {layer: block.residual, inputs: a, filters: 4, inner: 3, expect: [8, 8, 4]}
    flat: {layer: keras.Flatten, inputs: b}
    scores: {layer: keras.Dense, inputs: flat, units: 3}
"""


def written(folder, text):
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


def resolved(folder, *parts):
    return load_spec(written(folder, "".join(parts) + HEAD)).resolved["model"]


def errors(folder, *parts):
    with pytest.raises(SpecError) as caught:
        check_spec(written(folder, "".join(parts) + HEAD))
    return [(problem.line, problem.path, problem.message, problem.note) for problem in caught.value.problems]


def test_a_use_becomes_nodes_with_its_parameters(tmp_path):
    nodes = resolved(tmp_path, RESIDUAL, NETWORK)["nodes"]
    assert list(nodes) == ["a.first", "a.second", "a.sum", "b.first", "b.second", "b.sum", "flat", "scores"]
    assert nodes["a.first"] == {"layer": "conv_bn_relu", "inputs": "image", "filters": 8, "strides": 1}
    assert nodes["b.first"] == {"layer": "conv_bn_relu", "inputs": "a.sum", "filters": 3, "strides": 1}
    assert nodes["b.sum"] == {"layer": "keras.Add", "inputs": ["b.second", "a.sum"], "expect": [8, 8, 4]}
    assert nodes["flat"]["inputs"] == "b.sum"


def test_a_network_of_blocks_computes_what_its_nodes_do(tmp_path):
    path = written(tmp_path, RESIDUAL + NETWORK + HEAD)
    model, same = build_model(path), build_model(load_spec(path).resolved)
    same.set_weights(model.get_weights())
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_array_equal(model.predict(images, verbose=0), same.predict(images, verbose=0))
    assert model.port("a.sum").shape == (None, 8, 8, 4)


def test_blocks_in_rows_and_in_blocks(tmp_path):
    blocks = """
  twice:
    nodes:
      part$i: {repeat: [{i: 1}, {i: 2}], layer: block.residual, inputs: $previous, filters: 4}
    output: part2
"""
    network = """
model:
  inputs: {image: [8, 8, 4]}
  nodes:
    stage$n: {repeat: [{n: 1, kind: twice}, {n: 2, kind: twice}], layer: block.$kind, inputs: $previous}
    after: {layer: keras.ReLU, inputs: stage2}
    flat: {layer: keras.Flatten, inputs: after}
    scores: {layer: keras.Dense, inputs: flat, units: 3}
"""
    nodes = resolved(tmp_path, RESIDUAL, blocks, network)["nodes"]
    assert nodes["stage1.part1.first"]["inputs"] == "image"
    assert nodes["stage1.part2.first"]["inputs"] == "stage1.part1.sum"
    assert nodes["stage2.part1.first"]["inputs"] == "stage1.part2.sum"
    assert nodes["after"]["inputs"] == "stage2.part2.sum"


def test_several_inputs_and_ports_of_them(tmp_path):
    blocks = """
blocks:
  joined:
    inputs: [high, low]
    nodes:
      lifted: {layer: capsules_to_image, inputs: high/half}
      lowered: {layer: capsules_to_image, inputs: low}
      join: {layer: keras.Add, inputs: [lifted, lowered]}
    output: join
"""
    network = """
model:
  inputs: {image: [8, 8, 4]}
  nodes:
    stage: {layer: capsule_stage, inputs: image, types: 2, dim: 4, strides: 1}
    both: {layer: block.joined, inputs: [stage, stage/main]}
    flat: {layer: keras.Flatten, inputs: both}
    scores: {layer: keras.Dense, inputs: flat, units: 3}
"""
    nodes = resolved(tmp_path, blocks, network)["nodes"]
    assert nodes["both.lifted"]["inputs"] == "stage/half"
    assert nodes["both.lowered"]["inputs"] == "stage/main"


def test_a_node_of_a_block_may_have_the_name_of_one_outside(tmp_path):
    blocks = """
blocks:
  again:
    nodes:
      image: {layer: keras.ReLU, inputs: input}
      a: {layer: keras.ReLU, inputs: image}
    output: a
"""
    network = """
model:
  inputs: {image: [8, 8, 4]}
  nodes:
    a: {layer: block.again, inputs: image}
    flat: {layer: keras.Flatten, inputs: a}
    scores: {layer: keras.Dense, inputs: flat, units: 3}
"""
    nodes = resolved(tmp_path, blocks, network)["nodes"]
    assert (nodes["a.image"]["inputs"], nodes["a.a"]["inputs"]) == ("image", "a.image")


def test_freezing_and_number_formats_are_handed_down(tmp_path):
    frozen = NETWORK.replace("filters: 4}", "filters: 4, trainable: false, dtype: float64}")
    nodes = resolved(tmp_path, RESIDUAL, frozen)["nodes"]
    assert all(nodes[name]["trainable"] is False for name in ("a.first", "a.second", "a.sum"))
    assert nodes["a.first"]["dtype"] == "float64"
    assert "trainable" not in nodes["b.first"]


def test_blocks_are_shared_and_changed_through_extends(tmp_path):
    (tmp_path / "base.yaml").write_text(RESIDUAL)
    changed = "extends: base.yaml\nblocks: {residual: {nodes: {first: {kernel_size: 5}}, parameters: {strides: null}}}"
    text = changed + NETWORK
    path = written(tmp_path, text.replace("inner: 3,", "inner: 3, strides: 1,") + HEAD)
    assert [problem.path for problem in problems_of(path)] == [
        "blocks.residual.nodes.first.strides",
        "model.nodes.b.strides",
    ]
    network = NETWORK.replace("inner: 3, ", "")
    path = written(tmp_path, changed.replace(", parameters: {strides: null}", "") + network + HEAD)
    assert load_spec(path).resolved["model"]["nodes"]["b.first"]["kernel_size"] == 5
    nodes = load_spec(path, ["blocks.residual.nodes.first.kernel_size=1"]).resolved["model"]["nodes"]
    assert nodes["a.first"]["kernel_size"] == 1


def problems_of(path, overrides=()):
    with pytest.raises(SpecError) as caught:
        check_spec(path, overrides)
    return caught.value.problems


@pytest.mark.parametrize("override", ["blocks.resdual.output=sum", "blocks.residual.nodes.frist.strides=2"])
def test_overrides_find_no_new_blocks_and_nodes(tmp_path, override):
    (problem,) = problems_of(written(tmp_path, RESIDUAL + NETWORK + HEAD), [override])
    assert (problem.file, problem.path) == ("--set", override.partition("=")[0])
    assert "Did you mean" in problem.message


def test_an_error_in_a_block_is_reported_there_and_names_its_only_use(tmp_path):
    twice = errors(tmp_path, RESIDUAL.replace("kernel_size: 1", "kernel_size: 0"), NETWORK)
    assert [(line, path, note) for line, path, _, note in twice] == [
        (7, "blocks.residual.nodes.second.kernel_size", ""),
    ]
    once = NETWORK.replace(
        "b: {layer: block.residual, inputs: a, filters: 4, inner: 3,", "b: {layer: keras.ReLU, inputs: a,"
    )
    ((_, _, _, note),) = errors(tmp_path, RESIDUAL.replace("kernel_size: 1", "kernel_size: 0"), once)
    assert note == "(in 'a')"


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("block.residual, inputs: image", "block.resdual, inputs: image", "a.layer", "Did you mean 'residual'?"),
        ("filters: 4}", "fliters: 4}", "a.fliters", "not a parameter of block 'residual'. Did you mean 'filters'?"),
        (", filters: 4}", "}", "a", "block 'residual' needs 'filters'"),
        ("inner: 3", "inner: three", "first.filters", "received 'three'"),
        ("inputs: image, filters", "filters", "a", "'inputs' is missing"),
        ("inputs: image, filters", "inputs: [image, image], filters", "a.inputs", "called on 1 (input); received 2"),
        ("inputs: image, filters", "inputs: 3, filters", "a.inputs", "must be a node"),
        ("inputs: image, filters", "inputs: imgae, filters", "a.inputs", "Did you mean 'image'?"),
        ("inputs: b}", "inputs: b/sum}", "flat.inputs", "is a block and has no ports"),
        ("inputs: b}", "inputs: b.smu}", "flat.inputs", "block 'residual' has no node 'smu'. Did you mean 'sum'?"),
        ("inputs: first", "inputs: image", "second.inputs", "nodes see each other and its inputs"),
        ("output: sum", "output: smu", "residual.output", "has no node 'smu'. Did you mean 'sum'?"),
        ("output: sum", "outptu: sum", "residual.outptu", "Did you mean 'output'?"),
        ("      sum:", "      input: {layer: squash, inputs: second}\n      sum:", "nodes.input", "taken by an input"),
        ("strides: 1,", "dtype: 1,", "parameters.dtype", "every node has a key 'dtype'"),
        ("strides: 1,", "strides: 1, 2x: 1,", "parameters.2x", "is not a valid variable name"),
        ("strides: 1,", "strides: $nothing,", "parameters.strides", "no variable is called 'nothing'"),
        ("$(2 * filters)", "$inner", "parameters.inner", "in a cycle"),
        ("expect: [8, 8, 4]", "expect: [8, 8, 5]", "b.expect", "outputs (8, 8, 4), the spec expects (8, 8, 5)"),
        ("expect: [8, 8, 4]", "expect: 8", "b.expect", "must be a list"),
        ("filters: 4}", "filters: 4, trainable: 3}", "a.trainable", "must be"),
        ("filters: 4}", "filters: 4, repeat: 3}", "a.repeat", "must be a list of rows"),
        ("layer: conv_bn_relu, inputs: input", "layer: block.residual, inputs: input", "first.layer", "in a cycle"),
        ("  nodes:\n    a:", "  defaults: {block.a: {}}\n  nodes:\n    a:", "defaults.block.a", "in the block"),
    ],
)  # fmt: skip
def test_every_error_is_reported_once_at_its_place(tmp_path, old, new, path, message):
    text = RESIDUAL + NETWORK
    assert old in text
    found = errors(tmp_path, text.replace(old, new, 1))
    assert [place.endswith(path) for _, place, _, _ in found] == [True], found
    assert message in found[0][2]
    assert found[0][0] > 0


def test_what_is_expected_of_a_block_must_be_what_its_output_expects(tmp_path):
    text = RESIDUAL.replace("[second, input]}", "[second, input], expect: [8, 8, 5]}") + NETWORK
    found = errors(tmp_path, text)
    assert ("model.nodes.b.expect", "expects [8, 8, 4], while 'sum' in the block expects [8, 8, 5]") in [
        (path, message) for _, path, message, _ in found
    ]


def test_equal_nodes_are_examined_once(tmp_path):
    from encapkeras.model.examine import examine_spec

    rows = ", ".join(f"{{i: {i}}}" for i in range(200))
    network = f"""
model:
  inputs: {{image: [8, 8, 4]}}
  nodes:
    a$i: {{repeat: [{rows}], layer: block.residual, inputs: $previous, filters: 4}}
    flat: {{layer: keras.Flatten, inputs: a0}}
    scores: {{layer: keras.Dense, inputs: flat, units: 3}}
"""
    graph = examine_spec(written(tmp_path, RESIDUAL + network + HEAD)).graph
    assert len(graph.layers) == 3 * 200 + 2
    assert len({id(layer) for layer in graph.layers.values()}) == 3 + 2


def test_no_node_of_a_block_takes_the_name_of_an_input(tmp_path):
    text = NETWORK.replace("{image: [8, 8, 4]}", "{image: [8, 8, 4], a.first: [8, 8, 4]}")
    found = errors(tmp_path, RESIDUAL, text)
    assert ("blocks.residual.nodes.first", "the name 'a.first' is taken by an input") in [f[1:3] for f in found]


def test_what_a_block_is_called_on_is_looked_at_also_if_its_nodes_do_not(tmp_path):
    blocks = "blocks: {b: {inputs: [p, q], nodes: {x: {layer: keras.ReLU, inputs: p}}, output: x}}\n"
    network = """
model:
  inputs: {image: [8, 8, 4], other: [3]}
  nodes:
    a: {layer: block.b, inputs: [image, $REFERENCE]}
    flat: {layer: keras.Flatten, inputs: a}
    scores: {layer: keras.Dense, inputs: flat, units: 3}
"""
    assert resolved(tmp_path, blocks, network.replace("$REFERENCE", "other"))
    ((_, path, message, _),) = errors(tmp_path, blocks, network.replace("$REFERENCE", "othr"))
    assert (path, message) == ("model.nodes.a.inputs.1", "no node or input is called 'othr'. Did you mean 'other'?")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("block.residual, inputs: image", "block.resdual, inputs: image"),
        ("inputs: image, filters", "filters"),
        ("inputs: image, filters", "inputs: [image, image], filters"),
        ("inputs: image, filters", "input: image, filters"),
    ],
)
def test_a_use_that_cannot_be_is_one_error(tmp_path, old, new):
    text = NETWORK.replace("inputs: b}", "inputs: a.sum}").replace(old, new, 1)
    assert len(errors(tmp_path, RESIDUAL, text)) == 1


def test_values_of_parameters_are_computed_once(tmp_path):
    blocks = """
blocks:
  act: {parameters: {how: required}, nodes: {x: {layer: keras.Activation, inputs: input, activation: $how}}, output: x}
"""
    network = """
vars: {dollar: $}
model:
  inputs: {image: [8, 8, 4]}
  nodes:
    a: {layer: block.act, inputs: image, how: $dollar(1+1)}
    flat: {layer: keras.Flatten, inputs: a}
    scores: {layer: keras.Dense, inputs: flat, units: 3}
"""
    (found,) = errors(tmp_path, blocks, network)
    assert "'$(1+1)'" in found[2]


def test_a_variable_that_is_wrong_for_several_is_one_error(tmp_path):
    network = "vars: {n: three, m: $n}\n" + NETWORK.replace("inner: 3", "inner: $m").replace("units: 3", "units: $n")
    (found,) = errors(tmp_path, RESIDUAL, network)
    assert "received 'three'" in found[2]
