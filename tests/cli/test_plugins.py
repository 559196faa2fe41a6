"""What `--plugin` loads, what it refuses in one message, and what a run keeps of it."""

import json
import pickle
import shutil

import keras
import pytest
import yaml
from support.commands import refused
from support.plugins import plugins_forgotten, without_plugins
from support.tiny_spec import tiny_spec, write_spec

import encapkeras
from encapkeras import load_plugin
from encapkeras.cli.main import main
from encapkeras.errors import ArgumentError, PluginError
from encapkeras.layers import LAYERS

HEAD = """\
from typing import Any
import encapkeras, keras, torch
from encapkeras.layers import CapsuleLayer
"""
SCALE = '''
@encapkeras.register_layer("scale")
class Scale(CapsuleLayer):
    """Multiplies.

    Args:
        factor: By what.
        **kwargs: As for every layer.
    """

    def __init__(self, factor: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor
'''


@pytest.fixture(autouse=True)
def no_plugin_outlives_its_test():
    with plugins_forgotten():
        yield


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A spec with the layer `scale`; its folder is the current one."""
    monkeypatch.chdir(tmp_path)
    content = tiny_spec(epochs=1)
    content["model"]["nodes"]["pool"] = {"layer": "scale", "inputs": "image", "factor": 2}
    content["data"]["validation"] = 0.8
    return write_spec(tmp_path, content).name


def plugin(text=SCALE, name="my_layers.py"):
    with open(name, "w") as file:
        file.write(HEAD + text)
    return name


def changed(*replacements):
    text = SCALE
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("base", ["CapsuleLayer", "keras.layers.Layer"])
def test_a_layer_of_the_user_is_checked_shown_saved_and_loaded(base, spec, capsys):
    file = plugin(changed(("(CapsuleLayer)", f"({base})")))
    assert main(["check", spec, "--plugin", file]) == 0
    assert main(["show", spec, "--plugin", file]) == 0
    assert "scale" in capsys.readouterr().out
    model = encapkeras.build_model(spec)
    model.save("model.keras")
    assert encapkeras.load_model("model.keras").get_layer("pool").factor == 2
    assert "must be an integer; received 2.5" in refused(capsys, "check", spec, "--set", "model.nodes.pool.factor=2.5")


def test_a_file_is_loaded_once_and_those_of_the_same_name_are_two(spec, tmp_path):
    module = load_plugin(plugin())
    assert load_plugin(tmp_path / "my_layers.py") is module
    (tmp_path / "other").mkdir()
    other = load_plugin(plugin(changed(('"scale"', '"other_scale"')), "other/my_layers.py"))
    assert other is not module
    assert other.__name__ != module.__name__
    layer = pickle.loads(pickle.dumps(other.Scale(factor=4)))  # noqa: S301
    assert type(layer) is other.Scale
    for scale in (module.Scale, other.Scale):
        restored = keras.layers.deserialize(keras.layers.serialize(scale(factor=5)))
        assert type(restored) is scale


def test_a_changed_file_is_not_loaded_silently_as_it_was(spec):
    load_plugin(plugin())
    plugin(changed(("= 3", "= 4")))
    with pytest.raises(PluginError, match="has changed since it was loaded"):
        load_plugin("my_layers.py")


def test_after_a_mistake_is_mended_the_file_is_loaded(spec):
    plugin(SCALE + "\nraise ValueError('later')")
    with pytest.raises(PluginError, match="ValueError: later"):
        load_plugin("my_layers.py")
    assert "scale" not in LAYERS
    load_plugin(plugin())
    assert "scale" in LAYERS


def test_files_beside_it_can_be_imported(spec):
    plugin("FACTOR = 7\n", "my_factors.py")
    module = load_plugin(plugin("from my_factors import FACTOR\n" + SCALE))
    assert module.FACTOR == 7


def test_a_file_beside_it_takes_no_modules_place(spec, capsys):
    plugin("", "json.py")
    message = refused(capsys, "check", spec, "--plugin", plugin("import json\n" + SCALE))
    assert message.startswith("my_layers.py:4: 'import json' would not give the file json.py next to it")


REFUSED = {
    "bare decorator": (changed(('("scale")', "")), "my_layers.py:5: a layer is registered under the name"),
    "no name": (changed(('"scale"', '"my scale"')), "'my scale' is not a valid name for a layer"),
    "name taken": (changed(('"scale"', '"squash"')), "layer 'squash' is already registered, by encapkeras itself"),
    "name taken twice": (SCALE + SCALE, "layer 'scale' is already registered, by "),
    "no annotation": (changed((": int", "")), "(class Scale): parameter 'factor' has no annotation: write its type"),
    "no doc": (changed(("factor: By", "By")), "parameter 'factor' has no line in the docstring's 'Args:'"),
    "two mistakes": (changed((": int", ""), ("self, ", "self, *more, ")), "which '*more' does not take; parameter 'f"),
    "unknown annotation": (changed((": int", ": 'Nothing'")), "its annotations cannot be read: name 'Nothing'"),
    "no type": (changed((": int", ": 3")), "the annotation of 'factor' is not a type"),
    "wrong default": (changed(("= 3", "= 2.5")), "the default of 'factor' must be an integer; received 2.5"),
    "reserved": (changed(("factor", "inputs")), "parameter 'inputs' needs another name"),
    "no kwargs": (changed((", **kwargs: Any", "")), "__init__ of class Scale must take **kwargs"),
    "no layer": (changed(("(CapsuleLayer)", "")), "class Scale is not a Keras layer"),
    "ports": (SCALE + "    ports = ('inner',)\n", "must hold 'out'"),
    "no ports": (SCALE + "    ports = 'out'\n", "'ports' of class Scale must be a tuple of names; received 'out'"),
    "nothing": ("x = 1", "my_layers.py registers nothing. Put @encapkeras.register_layer"),
    "syntax": ("def x(:\n", "my_layers.py:4:7: invalid Python: invalid syntax\n    def x(:"),
    "exception": ("def f():\n    return {}['k']\nf()", "my_layers.py:5: KeyError: 'k'"),
    "exit": ("import sys\nsys.exit(3)", "my_layers.py:5: the plugin ended the program"),
    "import": ("import no_such_module", "my_layers.py:4: ModuleNotFoundError: No module named 'no_such_module'"),
    "no bytes": ("x = '\0'", "my_layers.py: invalid Python: source code string cannot contain null bytes"),
    "no data set": (
        "@__import__('encapkeras.data').data.register_dataset('mine')\nclass Mine: pass",
        "data set 'mine': Mine must be a DatasetReader",
    ),
    "no loss": (
        "@__import__('encapkeras.losses').losses.register_loss('mine')\nclass Mine(CapsuleLayer): pass",
        "loss 'mine': Mine is not a loss",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_one_message(case, spec, capsys):
    text, part = REFUSED[case]
    assert part in refused(capsys, "check", spec, "--plugin", plugin(text))
    assert "scale" not in LAYERS


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("my_layer.py", "there is no plugin 'my_layer.py'. Did you mean 'my_layers.py'?"),
        ("none/my_layers.py", "The folder 'none' does not exist either."),
        (".", "'.' is a folder; a plugin is the Python file"),
        ("tiny.yaml", "'tiny.yaml' is not a plugin: a plugin is a Python file"),
    ],
)
def test_what_is_no_file_is_one_message(file, text, spec, capsys):
    plugin()
    assert text in refused(capsys, "check", spec, "--plugin", file)


@pytest.mark.parametrize("file", [None, 3, b"my_layers.py"])
def test_what_is_no_name_of_a_file(file):
    with pytest.raises(ArgumentError, match="a plugin is the name of a Python file; received"):
        load_plugin(file)


AT_THE_NODE = {
    "call": (changed(("inputs * self.factor", "inputs.nothing()")), "has no attribute 'nothing' (AttributeError) (my_"),
    "shape": (
        SCALE + "    def compute_output_shape(self, s):\n        return s[9]\n",
        "(IndexError) (my_layers.py:21)",
    ),
    "build": (SCALE + "    def build(self, s):\n        raise ValueError('odd')\n", "odd (my_layers.py:21)"),
    "kwargs": (changed(("__init__(**kwargs)", "__init__()")), "__init__ of class Scale must hand **kwargs on"),
    "super": (changed(("super().__init__(**kwargs)", "pass")), "__init__ of class Scale must hand **kwargs on"),
    "config": (SCALE + "    def get_config(self):\n        return {}\n", "get_config of class Scale lacks 'factor'"),
    "config again": (
        SCALE + "    def get_config(self):\n        return {**super().get_config(), 'more': 1}\n",
        "does not make it again: Unrecognized keyword arguments passed to Scale: {'more': 1}; derive it from",
    ),
    "ports": (SCALE + "    ports = ('out', 'in')\n", "unexpected keyword argument 'return_ports'"),
    "other ports": (
        changed(("inputs):", "inputs, return_ports=False):"), ("return inputs", "return {'out': inputs} or inputs"))
        + "    ports = ('out', 'half')\n",
        "must return a map of its ports out, half; it returns a map of out.",
    ),
}


@pytest.mark.parametrize("case", AT_THE_NODE)
def test_mistakes_in_a_layer_are_placed_at_the_node(case, spec, capsys):
    text, part = AT_THE_NODE[case]
    message = refused(capsys, "check", spec, "--plugin", plugin(text))
    assert part in message
    assert "tiny.yaml:9:5  model.nodes.pool" in message
    assert message.endswith("1 error found\n")


def test_ports_of_a_layer_can_be_named(spec, capsys):
    text = changed(
        ("inputs):", "inputs, return_ports=False):"),
        ("return inputs * self.factor", "return {'out': inputs, 'half': inputs[:, :16]} if return_ports else inputs"),
    )
    file = plugin(
        text + "    ports = ('out', 'half')\n    def compute_output_shape(self, shape):\n        return shape\n"
    )
    assert main(["check", spec, "--plugin", file, "--set", "model.nodes.flat.inputs=pool/half"]) == 0
    capsys.readouterr()
    assert "has no port 'haf'; ports: out, half" in refused(
        capsys, "check", spec, "--set", "model.nodes.flat.inputs=pool/haf"
    )


@pytest.fixture
def run(spec):
    """The folder of a training with a plugin that is loaded no longer."""
    with plugins_forgotten():
        assert main(["train", spec, "--plugin", plugin(), "--run-dir", "run"]) == 0
    return "run"


def test_a_run_keeps_its_plugins_and_says_which_it_needs(run, spec, capsys, tmp_path):
    (record,) = json.loads((tmp_path / run / "environment.json").read_text())["plugins"]
    assert record == {
        "path": str(tmp_path / "my_layers.py"),
        "copy": "plugins/my_layers.py",
        "registers": {"layer": ["scale"]},
    }
    capsys.readouterr()
    needed = f"run run needs layer 'scale' of the plugin my_layers.py. Load it: add --plugin {tmp_path}/my_layers.py"
    assert refused(capsys, "evaluate", run).startswith(needed)
    assert refused(capsys, "analyse", run).startswith(needed)
    with pytest.raises(PluginError, match=r"^model 'tiny' needs layer 'scale' of the plugin my_layers\.py\. Load it"):
        encapkeras.load_model("run/checkpoints/last.keras")
    shutil.move("my_layers.py", "gone.py")
    assert "--plugin run/plugins/my_layers.py to" in refused(capsys, "evaluate", run)
    assert main(["evaluate", run, "--plugin", "run/plugins/my_layers.py"]) == 0
    assert main(["train", spec, "--run-dir", run, "--overwrite", "--set", "model.nodes.pool.factor=1"]) == 0


def test_an_error_while_training_is_one_message(spec, capsys):
    """Not found by a check: there, nothing has numbers."""
    text = changed(("return inputs *", "return self.later(inputs) *"))
    text += "    def later(self, inputs):\n        return inputs if inputs.device.type == 'meta' else inputs.nothing\n"
    assert main(["check", spec, "--plugin", plugin(text)]) == 0
    capsys.readouterr()
    assert main(["train", spec, "--run-dir", "run"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("my_layers.py:21: AttributeError: ")
    assert "Traceback" not in message
    assert "Arguments received" not in message


def test_a_run_without_plugins_keeps_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_plugin(plugin())
    assert main(["train", str(write_spec(tmp_path, tiny_spec(epochs=1))), "--run-dir", "run"]) == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["plugins"] == []
    assert not (tmp_path / "run" / "plugins").exists()


def test_another_model_with_a_layer_of_the_user_says_which_plugin_it_needs(spec, tmp_path):
    scale = load_plugin(plugin()).Scale
    keras.Sequential([keras.Input((2,)), scale(factor=2)]).save("other.keras")
    assert encapkeras.load_model("other.keras").layers[0].factor == 2
    with without_plugins():
        keras.saving.get_custom_objects().pop("encapkeras.layers>scale")
        with pytest.raises(PluginError, match=r"it has a class of the plugin my_layers\.py\. Load that first"):
            encapkeras.load_model("other.keras")


def test_a_spec_never_loads_code(spec, capsys, tmp_path):
    plugin()
    content = yaml.safe_load((tmp_path / spec).read_text())
    for key in ("plugin", "plugins"):
        (tmp_path / spec).write_text(yaml.safe_dump({**content, key: ["my_layers.py"]}))
        message = refused(capsys, "check", spec)
        assert f"'{key}' is not allowed here" in message
        assert "no layer is called 'scale'" in message
        assert "Your own come from a plugin: --plugin FILE." in message
