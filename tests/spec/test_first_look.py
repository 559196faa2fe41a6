"""Mistakes in the text of a spec are reported before Keras and torch are imported."""

import gc
import subprocess
import sys
import textwrap

import pytest

from encapkeras.cli.main import main
from encapkeras.declared import Declared
from encapkeras.layers import LAYERS
from encapkeras.losses import LOSSES, SideLoss
from encapkeras.spec.first_look import first_look
from encapkeras.spec.keras_layers import keras_layer_names
from encapkeras.spec.keras_names import names_in_source

BROKEN = """
spec: encapkeras/1
data: {dataset: digitz, batchsize: 3}
model:
  nodes:
    stem: {layer: conv_bn_relu, inputs: image, fliters: 3}
    primary: {layer: primary_capsule, inputs: stem}
    flat: {layer: Flatten, inputs: primary}
    digits: {layer: capsule_stage, inputs: imag, types: 3, dim: many, kernel_size: 4, steps: 2}
  outputs: {scores: digits}
losses: {scores: {loss: margn}}
train: {epochs: [3]}
"""


def main_in_new_process(code, *words):
    code = f"import sys\nfrom encapkeras.cli import main as entry\n{textwrap.dedent(code)}"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


@pytest.fixture
def broken(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    return str(file)


@pytest.mark.parametrize(
    ("registry", "found"),
    [(LAYERS, Declared("layers", "register_layer", list)), (LOSSES, Declared("losses", "register_loss", list))],
    ids=["layers", "losses"],
)
def test_the_source_declares_what_is_registered(registry, found):
    own = {name: entry for name, entry in registry.items() if entry.target.__module__.startswith("encapkeras.")}
    assert list(found) == list(own)
    for old, new in registry.former_names().items():
        assert found[old] is found[new]
    for name, entry in own.items():
        declared = found[name]
        assert declared.summary == entry.summary
        assert list(declared.arguments) == list(entry.arguments)
        for key, argument in entry.arguments.items():
            assert declared.arguments[key].default == argument.default
            assert declared.arguments[key].doc == argument.doc
        assert getattr(declared.target, "ports", None) == getattr(entry.target, "ports", None)
        if issubclass(entry.target, SideLoss):
            assert declared.target.tensors() == entry.target.tensors()


def test_the_layers_of_keras_are_known_by_name():
    assert {f"keras.{name}" for name in names_in_source()} == set(keras_layer_names())


def test_what_only_keras_can_judge_is_left_to_it(broken):
    change = ["model.nodes={stem: {layer: conv_bn_relu, inputs: image, filters: 3, kernel_initializer: no}}"]
    look = first_look(broken, [*change, "model.outputs={scores: stem}"], shapes=False)
    assert not look.is_all
    assert "kernel_initializer" not in str(look.error)


def test_mistakes_in_the_text_end_a_training_without_keras(broken):
    ran = main_in_new_process(
        """
        code = entry.main(sys.argv[1:])
        assert not {"keras", "torch"} & set(sys.modules)
        sys.exit(code)
        """,
        "train",
        broken,
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.count("broken.yaml:") == 11, ran.stderr
    assert "Did you mean 'keras.Flatten'?" in ran.stderr
    assert "must be an odd whole number" in ran.stderr
    assert ran.stderr.endswith("11 errors found\n")


@pytest.mark.parametrize("command", ["check", "show", "compare"])
def test_mistakes_in_the_text_are_printed_before_shapes_are_checked(command, broken, monkeypatch, capsys):
    """The node `stem` is sound but for its misspelt argument: what Keras says of it comes later."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("encapkeras.spec.first_look.can_look_first", lambda: True)
    monkeypatch.setattr("encapkeras.model.examine.examine_spec", interrupted)
    monkeypatch.setattr("encapkeras.comparison.plan.examine_spec", interrupted)
    assert main([command, broken]) == 130
    assert capsys.readouterr().err.count("broken.yaml:") == 11


def test_what_needs_keras_is_printed_after_it_and_nothing_twice(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(
        """
        data: {dataset: digits}
        model:
          nodes:
            flat: {layer: keras.Flatten, inputs: image, expect: [3]}
            scores: {layer: keras.Dense, inputs: flat, units: 3}
          outputs: {scores: scores}
        trian: {}
        """
    )
    ran = main_in_new_process(
        """
        from encapkeras.cli.terminal import spec_errors
        show = spec_errors._Printer.show
        def noting(self, problem, remark):
            show(self, problem, remark)
            print("with Keras" if "keras" in sys.modules else "without Keras", file=sys.stderr)
        spec_errors._Printer.show = noting
        sys.exit(entry.main(sys.argv[1:]))
        """,
        "check",
        str(file),
    )
    assert ran.returncode == 2
    lines = [line for line in ran.stderr.splitlines() if "^" not in line and " | " not in line]
    assert "trian" in lines[0] and lines[2] == "without Keras", ran.stderr
    assert "expect" in lines[3] and lines[-2:] == ["with Keras", "2 errors found"], ran.stderr


def test_the_sources_that_were_read_are_let_go():
    """They are a few megabytes for each look; Python's own caches keep the last ones."""

    def kept_after(looks):
        for _ in range(looks):
            assert first_look("encapnet_ot_digits", ["train.epochs=none"], shapes=True).error
        gc.collect()
        return sum(type(thing) is Declared for thing in gc.get_objects())

    assert kept_after(2) == kept_after(6)
