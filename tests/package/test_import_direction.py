"""Imports go one way; who may import whom is written down here once."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import encapkeras

PACKAGE = Path(encapkeras.__file__).parent

GROUND = {"errors", "backend", "validation", "registry"}
MAY_IMPORT = {
    "errors": set(),
    "backend": {"errors"},
    "validation": {"errors"},
    "registry": {"errors", "validation"},
    "functional": {"errors"},
    "reference": set(),
    "data": GROUND | {"functional"},
    "layers": GROUND | {"functional"},
    "losses": GROUND | {"functional", "layers"},
    "distribution": {"errors", "backend", "functional"},
    "plugins": GROUND | {"data", "layers", "losses"},
    "graph": GROUND | {"data", "functional", "layers", "losses", "plugins"},
    "analysis": GROUND | {"data", "functional", "layers", "losses", "graph"},
    "training": GROUND | {"data", "functional", "layers", "losses", "distribution", "plugins", "graph", "analysis"},
    "callbacks": {"backend", "training"},
    "interop": GROUND | {"data", "functional", "layers", "losses", "graph", "analysis", "training"},
    "cli": GROUND
    | {"data", "functional", "layers", "losses", "distribution", "plugins", "graph", "analysis", "training", "interop"}
    | {"reference"},
    "__main__": {"cli"},
    "__init__": set(),  # loads everything when it is asked for, by name
}
WITHOUT_KERAS = {"errors", "backend", "validation", "registry", "functional", "reference", "data"}
LIGHT = {"encapkeras", *sys.stdlib_module_names}

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module):
    """The package, or the module on the top floor, that a file belongs to."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(node, module):
    """The dotted names that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imports(module, tree=None):
    tree = tree or ast.parse(module.read_text())
    return [(node.lineno, name) for node in ast.walk(tree) for name in imported(node, module)]


def test_every_part_has_its_place():
    assert {part_of(module) for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_imports_go_one_way(module):
    own = part_of(module)
    for line, name in imports(module):
        top, _, rest = name.partition(".")
        if top == "keras":
            assert own not in WITHOUT_KERAS, f"{module}:{line}: {own} does without Keras"
        if top == "encapkeras" and rest != "__version__":
            other = rest.partition(".")[0]
            assert other in MAY_IMPORT, f"{module}:{line}: import from the module that has it, not from encapkeras"
            assert other in MAY_IMPORT[own] | {own}, f"{module}:{line}: {own} may not import {other}"


def test_training_settings_are_plain():
    """Specs are read without Keras: the settings must not bring it in."""
    for module in ("train_settings", "sections"):
        names = {name.partition(".")[0] for _, name in imports(PACKAGE / "graph" / f"{module}.py")}
        assert not names & {"keras", "torch"}


@pytest.mark.parametrize("module", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda module: module.name)
def test_commands_import_heavy_modules_only_when_they_run(module):
    tree = ast.parse(module.read_text())
    at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in at_the_top:
        for name in imported(node, module):
            top, _, rest = name.partition(".")
            assert top in LIGHT, f"{module}:{node.lineno}: import {top} inside the command"
            if top == "encapkeras":
                assert rest.partition(".")[0] in {"__version__", "cli", "errors"}


def test_whatever_is_imported_is_declared():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    declared = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}
    distributions = {
        "yaml": "pyyaml",
        "PIL": "pillow",
        "ot": "pot",
        "sklearn": "scikit-learn",
        "pydantic_core": "pydantic",
    }
    used = {name.partition(".")[0] for module in MODULES for _, name in imports(module)} - LIGHT
    assert {distributions.get(name, name) for name in used} <= declared
