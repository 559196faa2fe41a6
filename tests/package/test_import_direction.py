"""Imports go one way, from the top floor down, as docs/architecture.md says."""

import ast
import graphlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

import encapkeras

PACKAGE = Path(encapkeras.__file__).parent

PAGE = PACKAGE.parent / "docs" / "architecture.md"
FRONT_DOORS = {"__init__", "graph"}  # these load what is asked for, by name


def floors():
    """The floor of each part of the package, counted from the top, as the page says."""
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {part: int(floor) for floor, parts in rows for part in re.findall(r"`(\w+)`", parts)}


FLOOR = floors()
WITHOUT_KERAS = {"errors", "text", "files", "backend", "validation", "registry", "declared", "functional", "data"}
WITHOUT_KERAS |= {"reference"}
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
    assert {part_of(module) for module in MODULES} == set(FLOOR) | FRONT_DOORS


def test_imports_go_down():
    wrong = []
    for module in MODULES:
        own = part_of(module)
        for line, name in imports(module):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top == "keras" and own in WITHOUT_KERAS:
                wrong.append(f"{module}:{line}: {own} does without Keras")
            if top != "encapkeras" or other in ("", "__version__", own):
                continue  # the package itself is its front door, which loads by name
            if other not in FLOOR:
                wrong.append(f"{module}:{line}: import from the module that has it, not from encapkeras")
            elif own not in FRONT_DOORS and FLOOR[other] <= FLOOR[own]:
                wrong.append(f"{module}:{line}: {own} may not import {other}")
    assert not wrong, "\n".join(wrong)


def test_no_file_imports_itself_through_others():
    """Circles between files, those among imports for types alone included."""
    names = {module: ".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts) for module in MODULES}
    files = {name.removesuffix(".__init__"): module for module, name in names.items()}
    graph = {
        module: {
            files.get(name) or files.get(name.rpartition(".")[0])
            for _, name in imports(module)
            if name.startswith("encapkeras.")
        }
        - {None, module}
        for module in MODULES
    }
    graph = {module: {other for other in others if other.name != "__init__.py"} for module, others in graph.items()}
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()  # raises CycleError, which names the files


def test_training_settings_are_plain():
    """Specs are read without Keras: the settings must not bring it in."""
    for module in ("train_settings", "sections"):
        names = {name.partition(".")[0] for _, name in imports(PACKAGE / "spec" / f"{module}.py")}
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
                assert rest.partition(".")[0] in {"__version__", "cli", "errors", "text"}


def test_whatever_is_imported_is_declared():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    requirements = [
        *project["dependencies"],
        *optional["bench"],
        *optional["fast"],
        *optional["hub"],
        *optional["search"],
        "triton",
    ]  # torch brings Triton
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
