import os
import subprocess
import sys
import time

import pytest

import encapkeras


@pytest.mark.parametrize("name", encapkeras.__all__)
def test_public_names_are_there(name):
    assert getattr(encapkeras, name) is not None
    assert name in dir(encapkeras)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        encapkeras.nonsense  # noqa: B018


def modules_after(statement):
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_is_light():
    assert not modules_after("import encapkeras") & {"keras", "torch", "numpy", "pydantic"}


def test_some_packages_do_without_keras():
    loaded = modules_after("import encapkeras.functional, encapkeras.data")
    assert "torch" in loaded
    assert "keras" not in loaded


@pytest.mark.slow
def test_help_answers_in_half_a_second():
    command = [sys.executable, "-c", "from encapkeras.cli.main import main; main(['--help'])"]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


@pytest.mark.parametrize("name", ["build_model", "layers", "losses", "training"])
def test_another_keras_backend_is_refused_even_if_it_is_not_installed(name):
    command = [sys.executable, "-c", f"import encapkeras; encapkeras.{name}"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "encapkeras.errors.EncapkerasError: encapkeras needs Keras on PyTorch, but Keras is set to 'jax'"
    )


def test_the_command_line_refuses_another_backend_in_one_message():
    command = [sys.executable, "-m", "encapkeras", "check", "quickstart"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("encapkeras needs Keras on PyTorch")


WITHOUT_DOCSTRINGS = """
from encapkeras.registry import Registry

layers = Registry("layer")

@layers.register("stripped")
class Stripped:
    "A layer."
    def __init__(self, dim: int = 2):
        self.dim = dim

print(Stripped.__doc__, Stripped(dim=3).dim, layers["stripped"].arguments["dim"].default)
"""


def stripped(code):
    """What the code prints where Python keeps no docstrings."""
    return subprocess.run([sys.executable, "-OO", "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_registry_does_without_docstrings():
    assert stripped(WITHOUT_DOCSTRINGS) == "None 3 2\n"


@pytest.mark.slow  # Python compiles Keras and torch anew for this
def test_layers_do_without_docstrings():
    stripped("import encapkeras.layers as layers; layers.CapsuleStage(types=4, dim=2)")
