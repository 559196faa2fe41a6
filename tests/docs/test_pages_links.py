"""The pages hold together: links resolve, the table of contents is complete, named code and tests exist."""

import importlib
import inspect
import re

import pytest
import yaml
from support.pages import PAGES, PROJECT, anchors, links, name_of

from encapkeras import functional
from encapkeras.layers import LAYERS
from encapkeras.losses import LOSSES

PAPERS = PROJECT / "docs" / "papers.md"
NAVIGATION = PROJECT / ".mkdocs.yml"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{link}: there is no {file}"
        if anchor:
            assert anchor in anchors(file), f"{link}: {file.name} has no such heading"


def pages_of(entry):
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in pages_of(value)]


def test_the_table_of_contents_names_every_page_once():
    navigation = yaml.safe_load(NAVIGATION.read_text())["nav"]
    pages = sorted(str(page.relative_to(PROJECT / "docs")) for page in PAGES if page.parent != PROJECT)
    assert sorted(pages_of(navigation)) == pages


def resolve(name):
    """The object behind a dotted name."""
    module, rest = name, []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            assert module, f"{name} does not exist"
            rest.insert(0, last)
    for part in rest:
        assert hasattr(found, part), f"{name} does not exist"
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_code_exists(page):
    text = page.read_text()
    for name in re.findall(r"`(encapkeras(?:\.\w+)+)(?:\(.*?\))?`|^::: (encapkeras(?:\.\w+)*)", text, re.MULTILINE):
        resolve("".join(name))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_tests_exist(page):
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        assert (PROJECT / file).is_file(), file
        if name:
            assert re.search(rf"^def {name}\(", (PROJECT / file).read_text(), re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_specs_exist(page):
    for pattern in re.findall(r"`(specs/[\w/*]+\.yaml)`", page.read_text()):
        assert list(PROJECT.glob(pattern)), pattern


def test_every_formula_has_its_row():
    text = PAPERS.read_text()
    functions = [name for name in functional.__all__ if inspect.isfunction(getattr(functional, name))]
    missing = [name for name in functions if f"`encapkeras.functional.{name}`" not in text]
    missing += [LOSSES[name].target.__name__ for name in LOSSES if f".{LOSSES[name].target.__name__}`" not in text]
    assert not missing


REFERENCE = {"spec": "read_spec"}  # reference/spec.md is that of the language
PACKAGES = ("functional", "layers", "losses", "spec", "model", "summary", "data", "analysis", "training", "comparison")


@pytest.mark.parametrize("package", [*PACKAGES, "callbacks", "interop"])
def test_the_reference_has_every_public_name(package):
    text = (PROJECT / "docs" / "reference" / f"{REFERENCE.get(package, package)}.md").read_text()
    module = importlib.import_module(f"encapkeras.{package}")
    public = [(name, getattr(module, name)) for name in module.__all__]
    documented = [name for name, value in public if inspect.isclass(value) or inspect.isfunction(value)]
    assert not [name for name in documented if not re.search(rf"^::: encapkeras\..*\b{name}$", text, re.MULTILINE)]


def test_every_layer_is_on_the_page_about_layers():
    text = (PROJECT / "docs" / "use_layers.md").read_text()
    assert not [name for name in LAYERS if f"`{LAYERS[name].target.__name__}`" not in text]
