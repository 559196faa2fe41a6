"""Whatever is done to a spec, the answer is a SpecError or a model."""

import copy
import dataclasses
import functools

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from encapkeras import SpecError, check_spec
from encapkeras.graph import spec as steps
from encapkeras.graph.inherit import bundled_specs
from encapkeras.layers import LAYERS

STARTS = ("quickstart", "encapnet_master_wide", "encapnet_table_approximate", "resnet14", "capsnet_sabour")


@functools.cache
def start(name):
    """A bundled spec as its author wrote it, with what it extends."""
    spec = {}
    written = yaml.safe_load((bundled_specs() / f"{name}.yaml").read_text())
    bases = written.pop("extends", [])
    for base in [bases] if isinstance(bases, str) else bases:
        merge(spec, yaml.safe_load((bundled_specs() / base).read_text()))
    return merge(spec, written)


def merge(spec, over):
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(spec.get(key), dict)
        spec[key] = merge(spec[key], value) if both else copy.deepcopy(value)
    return spec


def places(value, path=()):
    """The paths to all values inside a value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def at(spec, path):
    for key in path:
        spec = spec[key]
    return spec


sizes = st.one_of(st.sampled_from([1, 2, 3, 4, 8, 16, 32]), st.integers(-1, 40))
names = st.sampled_from(
    ["image", "stem", "stage1", "stage2/main", "stage1/half", "digits", "lengths", "$previous", "labels", "classes"]
)
texts = st.sampled_from(
    ["$types", "$(types * 2)", "$(types / 3)", "$nothing", "master", "approximate", "every", "none", "same", "a b", ""]
)
layers = st.sampled_from([*LAYERS, "keras.Dense", "keras.Conv2D", "keras.Flatten", "keras.Add", "keras.Lambda", "nil"])
scalars = st.one_of(sizes, names, texts, layers, st.floats(-2, 2), st.booleans(), st.none())
lists = st.lists(scalars, max_size=4)
maps = st.dictionaries(st.sampled_from(["i", "layer", "inputs", "types", "filters", "dim", "x-y"]), scalars, max_size=3)
values = st.one_of(scalars, lists, maps)


ALTERNATIVES = [
    ["master", "approximate"],
    ["none", "last", "every"],
    ["conv_bn_relu", "capsule_stage", "capsule_convolution", "keras.Conv2D"],
    ["keras.Add", "keras.Concatenate", "keras.Multiply"],
    ["keras.ReLU", "keras.Flatten", "keras.GlobalAveragePooling2D", "keras.BatchNormalization"],
    ["same", "valid"],
    ["margin", "spread", "reconstruction"],
]


def near(draw, spec, path):
    """Another value of the same kind, which mostly passes the first checks and changes the shapes."""
    value = at(spec, path)
    if isinstance(value, bool):
        return draw(st.booleans())
    if isinstance(value, int):
        return draw(sizes)
    if ("inputs" in path or path[-1] in ("image", "capsules")) and isinstance(value, str) and value[0] != "$":
        return draw(st.sampled_from(["image", *spec["model"]["nodes"], value]))
    for alternatives in ALTERNATIVES:
        if value in alternatives:
            return draw(st.sampled_from(alternatives))
    return value


@st.composite
def mutated(draw):
    """A real spec with one to three changes: values replaced, entries taken away, added, copied or renamed."""
    spec = copy.deepcopy(start(draw(st.sampled_from(STARTS))))
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(spec))
        inside = [
            path
            for path in paths
            if path[0] in ("model", "vars", "losses") and not isinstance(at(spec, path), dict | list)
        ]
        how = draw(st.sampled_from([*["near"] * 12, "replace", "remove", "add", "copy", "rename"]))
        path = draw(st.sampled_from(inside if how == "near" and inside else paths))
        parent, key = at(spec, path[:-1]), path[-1]
        if how == "near":
            parent[key] = near(draw, spec, path)
        elif how == "remove":
            del parent[key]
        elif how == "copy":
            parent[key] = copy.deepcopy(at(spec, draw(st.sampled_from(paths))))
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.one_of(names, st.sampled_from(["types", "inputs", "layer", "strides"])))] = parent.pop(key)
        elif how == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["strides", "kernel_size", "expect", "doc", "skip", "repeat"]))] = draw(values)
        else:
            parent[key] = draw(values)
        if not list(places(spec)):
            break
    return spec


@dataclasses.dataclass
class Tally:
    """How far the specs came."""

    all: int = 0
    shapes: int = 0
    sound: int = 0


@pytest.mark.parametrize("examples", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_mutation_is_a_model_or_a_spec_error(examples, monkeypatch, tmp_path):
    tally = Tally()
    build_nodes = steps.build_nodes

    def counted(nodes, inputs, report, policies):
        """Counts a spec that has passed all checks before its shapes."""
        tally.shapes += not report.problems()
        return build_nodes(nodes, inputs, report, policies)

    monkeypatch.setattr(steps, "build_nodes", counted)
    file = tmp_path / "mutated.yaml"

    @seed(examples)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutated())
    def run(spec):
        tally.all += 1
        file.write_text(yaml.safe_dump(spec, sort_keys=False))
        try:
            check_spec(file)
            tally.sound += 1
        except SpecError as error:
            assert all(problem.line and problem.message for problem in error.problems), error

    run()
    assert tally.all >= examples
    assert tally.shapes >= tally.all / 3, tally
    assert 0 < tally.sound < tally.shapes, tally


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.binary(max_size=200), st.text(alphabet="ab:-[]{}#&*!|>'\"%@`,? \n\t$()1.e", max_size=80).map(str.encode)
    )
)
def test_any_file_is_a_spec_error(tmp_path, content):
    for name in ("any.yaml", "any.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SpecError):
            check_spec(tmp_path / name)
