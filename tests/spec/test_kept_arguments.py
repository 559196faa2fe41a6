"""Arguments that a map keeps from a base, where the spec replaces the layer, loss, data set or optimizer around."""

import pytest

from encapkeras import SpecError, check_spec, load_spec

BASE = """
data: {dataset: image_folder, root: ., grayscale: true}
model:
  inputs: {image: [32, 32, 1]}
  nodes:
    primary: {layer: primary_capsules, inputs: image, types: 2, dim: 4}
    digits: {layer: dynamic_capsules, inputs: primary, capsules: 3, dim: 8, iterations: 2}
    scores: {layer: capsule_length, inputs: digits}
  outputs: {scores: scores}
losses: {scores: {loss: margin, upper: 0.8}}
train: {optimizer: {kind: adam, beta_1: 0.8}, schedule: {kind: step, milestones: [3]}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def problems(folder, text, *changes):
    (folder / "mine.yaml").write_text(f"extends: base.yaml\n{text}")
    with pytest.raises(SpecError) as caught:
        load_spec("mine.yaml", changes)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("text", "removed", "path", "line"),
    [
        ("model: {nodes: {digits: {layer: capsule_dense}}}", "iterations", "model.nodes.digits.iterations", 7),
        ("losses: {scores: {loss: cross_entropy}}", "upper", "losses.scores.upper", 10),
        ("train: {optimizer: {kind: sgd}}", "beta_1", "train.optimizer.beta_1", 11),
        ("train: {schedule: {kind: cosine}}", "milestones", "train.schedule.milestones", 11),
        ("data: {dataset: digits}", "grayscale", "data.grayscale", 2),
    ],
)
def test_an_argument_of_a_replaced_owner_gets_null_as_a_hint(folder, text, removed, path, line):
    problem = problems(folder, text)[path]
    assert (problem.file, problem.line) == ("mine.yaml", 2)
    assert f"It comes from base.yaml:{line}:" in problem.message
    assert f"'{removed}: null'" in problem.message
    assert path not in problems(folder, text.replace("}", f", {removed}: null}}", 1) + "\nx: 1")


def test_by_set_and_in_a_sweep_the_hint_is_for_there(folder):
    change = "model.nodes.digits.layer=capsule_dense"
    problem = problems(folder, "", change)["model.nodes.digits.iterations"]
    assert problem.file == "--set"
    assert problem.message.endswith("to remove it: --set model.nodes.digits.iterations=null.")
    assert "model.nodes.digits.iterations" not in problems(folder, "", change, "model.nodes.digits.iterations=null")
    sweep = "sweep: {list: [{}, {model.nodes.digits.layer: capsule_dense}]}\ndata: null"
    (folder / "mine.yaml").write_text(f"extends: base.yaml\n{sweep}")
    with pytest.raises(SpecError, match=r"give 'model.nodes.digits.iterations: null' beside it"):
        check_spec("mine.yaml")


@pytest.mark.parametrize("text", ["{digits: {iteratoins: 3}}", "{digits: {layer: dynamic_capsules, iteratoins: 3}}"])
def test_a_misspelt_argument_of_the_specs_own_is_told_as_such(folder, text):
    (problem,) = problems(folder, f"model: {{nodes: {text}}}\ndata: null").values()
    assert problem.message.endswith("Did you mean 'iterations'?")
