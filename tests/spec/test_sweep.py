"""The section `sweep`: the networks that it makes, and its mistakes, each told once and at its place."""

import itertools

import pytest

from encapkeras import SpecError, check_spec, load_spec
from encapkeras.model.examine import examine_spec
from encapkeras.spec.sweep import LARGEST, short_paths, value_text

SPEC = """\
name: small
vars: {units: 4, rate: 0.5}
model:
  inputs: {image: [4, 4, 1]}
  nodes:
    pool: {layer: keras.MaxPooling2D, inputs: image, pool_size: 2}
    flat: {layer: keras.Flatten, inputs: pool}
    scores: {layer: keras.Dense, inputs: flat, units: $units}
  outputs: {scores: scores}
train: {epochs: 3, optimizer: {kind: sgd, learning_rate: 0.1}}
"""
LINES = len(SPEC.splitlines())


def write(folder, sweep="", name="small.yaml"):
    file = folder / name
    file.write_text(SPEC + sweep)
    return file


@pytest.fixture
def variants(tmp_path):
    """Reads the sweep; gives each network as its label and spec."""

    def read(sweep, overrides=()):
        return {v.label: v for v in examine_spec(write(tmp_path, sweep), overrides).variants}

    return read


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """What is wrong: line below the spec, column, path, message, note."""
    monkeypatch.chdir(tmp_path)

    def read(sweep, overrides=()):
        write(tmp_path, sweep)
        with pytest.raises(SpecError) as caught:
            check_spec("small.yaml", overrides)
        found = caught.value.problems
        return [(p.line - LINES if p.line > LINES else p.line, p.column, p.path, p.message, p.note) for p in found]

    return read


def units_and_rate(variant):
    resolved = variant.spec.resolved
    return resolved["model"]["nodes"]["scores"]["units"], resolved["train"]["optimizer"]["learning_rate"]


def test_a_grid_makes_every_combination_and_its_last_path_changes_fastest(variants):
    found = variants("sweep: {grid: {vars.units: [8, 16], train.optimizer.learning_rate: [1e-3, 2e-3]}}\n")
    assert {label: units_and_rate(variant) for label, variant in found.items()} == {
        f"units={units} learning_rate={rate}": (units, rate)
        for units, rate in itertools.product((8, 16), (0.001, 0.002))
    }
    assert list(found) == sorted(found, key=lambda label: (len(label.split()[0]), label))
    assert found["units=8 learning_rate=0.002"].values == {"vars.units": 8, "train.optimizer.learning_rate": 0.002}


def test_a_list_makes_a_network_of_each_row(variants):
    found = variants("sweep: {list: [{}, {vars.units: 8}, {train.epochs: 20, x-why: it learns on}]}\n")
    assert list(found) == ["", "units=8", "epochs=20"]
    # What a row does not set is what the spec has.
    assert [list(variant.values.values()) for variant in found.values()] == [[4, 3], [8, 3], [4, 20]]
    assert found[""].spec == load_spec(found[""].spec.resolved)
    assert found["units=8"].spec.train.epochs == 3


def test_a_list_with_a_grid_makes_every_row_with_every_combination(variants):
    found = variants("sweep:\n  list: [{vars.units: 8}, {vars.units: 16}]\n  grid: {train.epochs: [1, 2]}\n")
    assert list(found) == ["units=8 epochs=1", "units=8 epochs=2", "units=16 epochs=1", "units=16 epochs=2"]


def test_values_may_be_null_lists_maps_and_variables(variants):
    found = variants(
        "sweep:\n"
        "  grid:\n"
        "    model.nodes.scores.units: [$(units * 2), $units]\n"
        "    model.nodes.pool.pool_size: [2, [4, 1]]\n"
        "    train.optimizer: [{kind: rmsprop}, null]\n"
    )
    assert "units=$units pool_size=[4, 1] optimizer=null" in found
    nodes = [variant.spec.resolved["model"]["nodes"] for variant in found.values()]
    assert {n["scores"]["units"] for n in nodes} == {4, 8}
    assert [n["pool"]["pool_size"] for n in nodes[:4]] == [2, 2, [4, 1], [4, 1]]
    assert [v.spec.train.optimizer.kind for v in found.values()] == ["rmsprop", "adam"] * 4  # adam is the default


def test_seeds_and_lists_of_values_may_be_variables(tmp_path):
    text = SPEC.replace("rate: 0.5", "n: 2, sizes: [8, 16]")
    (tmp_path / "small.yaml").write_text(f"{text}sweep: {{grid: {{vars.units: $sizes}}, seeds: $n}}\n")
    examined = examine_spec(tmp_path / "small.yaml")
    assert [variant.label for variant in examined.variants] == ["units=8", "units=16"]
    assert examined.spec.sweep.seeds == 2


def test_values_lie_upon_each_other_in_their_order(variants):
    sweep = "sweep: {list: [{train.optimizer: {kind: adam}}], grid: {train.optimizer.learning_rate: [0.2, 0.3]}}\n"
    optimizers = [variant.spec.train.optimizer for variant in variants(sweep).values()]
    assert [(o.kind, o.learning_rate) for o in optimizers] == [("adam", 0.2), ("adam", 0.3)]


def test_set_is_for_all_networks_and_for_the_sweep_itself(variants):
    sweep = "sweep: {grid: {vars.units: [8, 16]}, seeds: [0, 7]}\n"
    found = variants(sweep, ["train.epochs=9", "vars.units=5"])
    assert [(v.spec.train.epochs, units_and_rate(v)[0]) for v in found.values()] == [(9, 8), (9, 16)]
    assert list(variants(sweep, ["sweep.grid.vars.units=[1]"])) == ["units=1"]
    assert list(variants(sweep, ["sweep.grid={train.epochs: [1, 2]}"])) == ["epochs=1", "epochs=2"]
    assert variants(sweep, ["sweep=null"]) == {}


def test_the_spec_itself_is_without_its_sweep(tmp_path):
    file = write(tmp_path, "sweep: {grid: {vars.units: [8, 16]}, seeds: 2}\n")
    spec = load_spec(file)
    assert (spec.sweep.grid, spec.sweep.seeds) == ({"vars.units": [8, 16]}, 2)
    assert "sweep" not in spec.resolved
    assert spec == load_spec(file, ["sweep=null"])
    assert load_spec(file, ["sweep=null"]).sweep is None
    assert all(variant.spec.sweep is None for variant in examine_spec(file).variants)


def test_a_loaded_spec_keeps_its_sweep_also_when_it_is_changed(tmp_path):
    spec = load_spec(write(tmp_path, "sweep: {grid: {vars.units: [8, 16]}}\n"))
    changed = load_spec(spec, ["train.epochs=5"])
    assert changed.sweep == spec.sweep
    assert changed.name == "small"
    assert [v.spec.resolved["train"]["epochs"] for v in examine_spec(changed).variants] == [5, 5]
    assert [v.label for v in examine_spec(spec).variants] == ["units=8", "units=16"]


def test_a_sweep_is_inherited_merged_and_deleted(tmp_path):
    write(tmp_path, "sweep: {grid: {vars.units: [8, 16], train.epochs: [1]}, seeds: 2}\n", "base.yaml")

    def labels(text):
        (tmp_path / "mine.yaml").write_text(f"extends: base.yaml\n{text}")
        return [variant.label for variant in examine_spec(tmp_path / "mine.yaml").variants]

    assert labels("") == ["units=8 epochs=1", "units=16 epochs=1"]
    assert labels("sweep: {grid: {vars.units: [2], train.epochs: null}}\n") == ["units=2"]
    assert labels("sweep: {list: [{vars.rate: 1}]}\n") == ["rate=1 units=8 epochs=1", "rate=1 units=16 epochs=1"]
    assert labels("sweep: null\n") == []


def test_rows_can_name_their_networks(variants):
    found = list(variants("sweep: {list: [{name: wide, vars.units: 64}, {name: narrow, vars.units: 2}]}\n").values())
    assert [(variant.spec.name, variant.label) for variant in found] == [("wide", "units=64"), ("narrow", "units=2")]
    assert list(found[0].values) == ["vars.units"]


def check_told(found, places, texts):
    """Each problem is at its place, each text is told, and no note names a network."""
    assert [(line, column, path) for line, column, path, _, _ in found] == places
    told = " | ".join(message for *_, message, _ in found)
    assert [text for text in texts if text not in told] == []
    assert {note for *_, note in found} == {""}


def test_mistakes_in_a_sweep_are_told_once_at_their_place_with_all_others(problems):
    sweep = """\
sweep:
  grid:
    vars.unit: [8, 16]
    train.optimizer.learning_rat: [1, 2]
    train.epochs: [0, 5, many]
    train.seed: [1, 2]
    model.nodes.pool.pool_size: [1, 2]
  list:
    - {train: {epochs: 3, seed: 1}}
    - {model.nodes.score.units: 3, train.epochs: 1}
  seeds: [1, 1]
  sedes: 3
x-remark: fine
losses: {scores: {loss: margn}}
"""
    places = [
        (3, 5, "sweep.grid.vars.unit"),
        (4, 5, "sweep.grid.train.optimizer.learning_rat"),
        (5, 5, "sweep.grid.train.epochs"),
        (6, 5, "sweep.grid.train.seed"),
        (9, 8, "sweep.list.0.train"),
        (10, 8, "sweep.list.1.model.nodes.score.units"),
        (11, 3, "sweep.seeds"),
        (12, 3, "sweep.sedes"),
        (14, 19, "losses.scores.loss"),
    ]
    texts = [
        "'vars' has no 'unit'. Did you mean 'units'?",
        "Did you mean 'learning_rate'?",
        "'train.epochs' is in the 'list' too",
        "'train.seed' is not for a sweep: the seeds are in 'sweep.seeds'",
        "'model.nodes' has no 'score'. Did you mean 'scores'?",
        "a list of distinct seeds from 0 to 4294967295; received [1, 1]",
        "Did you mean 'seeds'?",
    ]
    check_told(problems(sweep), places, texts)


def test_each_wrong_value_is_told(problems):
    found = problems("sweep: {grid: {train.epochs: [0, 3, many], vars.units: [1, 2]}}\n")
    assert [(line, column, path) for line, column, path, _, _ in found] == [(1, 16, "sweep.grid.train.epochs")] * 2
    assert [message.rpartition("received ")[2] for *_, message, _ in found] == ["0", "'many'"]


def test_a_mistake_that_comes_of_a_value_names_the_network(problems):
    ((line, _, path, message, note),) = problems(
        "sweep: {grid: {model.nodes.pool.pool_size: [2, 100, 200], train.epochs: [1, 2]}}\n"
    )
    assert (line, path) == (6, "model.nodes.pool")
    assert "zero or negative" in message
    assert note == "(with pool_size=100 epochs=1 and 3 others)"


def test_a_mistake_of_the_spec_itself_is_not_told_again(tmp_path):
    file = write(tmp_path, "sweep: {grid: {vars.units: [1, 2], train.epochs: [0]}}\n")
    file.write_text(file.read_text().replace("pool_size: 2", "pool_size: 100"))
    with pytest.raises(SpecError) as caught:
        check_spec(file)
    assert [(p.path, p.note) for p in caught.value.problems] == [
        ("model.nodes.pool", ""),
        ("sweep.grid.train.epochs", ""),
    ]


@pytest.mark.parametrize(
    ("sweep", "path", "message"),
    [
        ("{}", "sweep", "a sweep needs a 'grid', a 'list' or 'ranges' of what it changes"),
        ("{seeds: 3}", "sweep", "a sweep needs a 'grid', a 'list' or 'ranges' of what it changes"),
        ("3", "sweep", "must be a map; received 3"),
        ("{gird: {vars.units: [1]}}", "sweep.gird", "'gird' is not allowed here. Did you mean 'grid'?"),
        ("{grid: {}}", "sweep.grid", "must not be empty"),
        ("{list: []}", "sweep.list", "must not be empty"),
        ("{list: [3]}", "sweep.list.0", "must be a map; received 3"),
        ("{grid: {vars.units: []}}", "sweep.grid.vars.units", "must not be empty"),
        ("{grid: {vars.units: $unit}}", "sweep.grid.vars.units", "no variable is called 'unit'. Did you mean 'units'?"),
        ("{grid: {vars.units: 3}}", "sweep.grid.vars.units", "must be a list; received 3"),
        ("{grid: {vars.units: [1]}, seeds: [-1]}", "sweep.seeds", "distinct seeds from 0 to 4294967295; received [-1]"),
        ("{grid: {vars.units: [1]}, seeds: 1001}", "sweep.seeds", "must be how many, from 1 to 1000, or a list of dis"),
        ("{grid: {sweep.seeds: [1]}}", "sweep.grid.sweep.seeds", "a sweep cannot change itself"),
        ("{grid: {extends: [a.yaml]}}", "sweep.grid.extends", "it is read before the sweep"),
        ("{grid: {source: [a, b]}}", "sweep.grid.source", "it changes nothing in the network"),
        ("{grid: {vars.units: [1, 2, 1]}}", "sweep", "the same network twice, by 'units=1' and by 'units=1'"),
        ("{grid: {x-my: [1], vars.units: null}}", "sweep.grid", "must not be empty"),
        ("{ranges: {x-my: [1], vars.units: null}}", "sweep.ranges", "must not be empty"),
        ("{list: [{vars.rate: 1}, {}]}", "sweep", "the same network twice, by 'rate=1' and by ''"),
    ],
)
def test_sweeps_that_are_none(sweep, path, message, problems):
    ((_, _, where, text, _),) = problems(f"sweep: {sweep}\n")
    assert where == path
    assert message in text


def test_warnings_of_the_networks_are_those_of_the_spec_and_told_once(tmp_path):
    text = SPEC.replace("vars: {units: 4, rate: 0.5}", "vars: {units: 4, many: 9}").replace(
        "  inputs: {image: [4, 4, 1]}\n", ""
    )
    sweep = "sweep: {grid: {data.batch_size: [64, 9999], vars.units: [$many, 2], train.epochs: [1, 2]}}\n"
    (tmp_path / "small.yaml").write_text(f"{text}data: {{dataset: digits}}\n{sweep}")
    examined = examine_spec(tmp_path / "small.yaml")
    (warning,) = examined.spec.warnings  # 'many' is read by the sweep alone, and not by all of its networks
    assert (warning.path, warning.note) == ("sweep.grid.data.batch_size", "")
    assert all(not variant.spec.warnings for variant in examined.variants)


def test_a_sweep_has_at_most_so_many_networks(problems):
    rows = ", ".join(map(str, range(1, 102)))
    ((_, _, path, message, _),) = problems(f"sweep: {{grid: {{vars.units: [{rows}], train.epochs: [{rows}]}}}}\n")
    assert (path, message) == ("sweep", f"makes 10,201 networks; at most {LARGEST:,} are trained side by side")


def test_plain_data_has_no_lines():
    content = {"model": {"inputs": {"x": [3]}, "nodes": {}, "outputs": {}}, "sweep": {"grid": {"train.epoch": [1, 2]}}}
    content["model"]["nodes"] = {"y": {"layer": "keras.Dense", "inputs": "x", "units": 2}}
    content["model"]["outputs"] = {"y": "y"}
    with pytest.raises(SpecError) as caught:
        check_spec(content)
    (problem,) = caught.value.problems
    assert (problem.place, problem.path) == ("<dict>", "sweep.grid.train.epoch")
    content["sweep"] = {"list": [{"model.nodes.y.units": 3}, {"model.nodes.y.units": 4}]}
    assert [v.label for v in examine_spec(content).variants] == ["units=3", "units=4"]


def test_paths_are_as_short_as_they_can_be():
    paths = ["vars.types", "model.nodes.a.units", "model.nodes.b.units", "units", "data.augment.0", "train"]
    assert list(short_paths(paths).values()) == ["types", "a.units", "b.units", "units", "augment.0", "train"]


def test_values_are_shown_on_one_line_and_not_too_long():
    assert value_text([True, None, 1e-5, "a\nb\x1b"]) == "[true, null, 1e-05, a\\nb\\x1b]"
    assert len(value_text("x" * 1000)) == 40


RANGES = "sweep: {ranges: {vars.units: {low: 2, high: 8}, vars.rate: {low: 0.1, high: 1, log: true}}}\n"


def test_ranges_are_checked_at_both_ends(variants):
    found = variants(RANGES, ["model.nodes.scores.units=$units"])
    assert list(found) == ["units=2 rate=0.1", "units=8 rate=1"]
    assert [units_and_rate(variant)[0] for variant in found.values()] == [2, 8]


def test_every_network_of_the_grid_has_both_ends(variants):
    sweep = "sweep: {grid: {train.epochs: [1, 2]}, ranges: {vars.units: {low: 2, high: 8}}}\n"
    assert list(variants(sweep)) == [f"units={units} epochs={epochs}" for units in (2, 8) for epochs in (1, 2)]


def test_a_base_s_ranges_are_taken_out_by_null(tmp_path):
    write(tmp_path, RANGES, "base.yaml")
    own = "sweep: {ranges: {vars.units: null, vars.rate: {log: null}, x-my: why, train.epochs: {low: 1, high: 2}}}\n"
    (tmp_path / "mine.yaml").write_text(f"extends: base.yaml\n{own}")
    ranges = examine_spec(tmp_path / "mine.yaml").spec.sweep.ranges
    assert {path: (each.low, each.high, each.log) for path, each in ranges.items()} == {
        "vars.rate": (0.1, 1, False),
        "train.epochs": (1, 2, False),
    }


def test_each_mistake_in_ranges_is_told_at_its_place(problems):
    sweep = """\
sweep:
  ranges:
    vars.unit: {low: 1, high: 2}
    train.epochs: {low: 0, high: 5}
    train.seed: {low: 0, high: 5}
    vars.rate: {low: 1, high: 0.1}
    train.optimizer.learning_rate: {low: 0, high: 1, log: true}
    model.nodes.pool.pool_size: {low: 1, hihg: 2}
    vars.units: {low: many, high: .inf}
    train.optimizer.momentum: [0.1, 0.9]
  grid:
    train.epochs: [1, 2]
"""
    places = [
        (3, 5, "sweep.ranges.vars.unit"),
        (4, 5, "sweep.ranges.train.epochs"),
        (5, 5, "sweep.ranges.train.seed"),
        (6, 5, "sweep.ranges.vars.rate"),
        (7, 5, "sweep.ranges.train.optimizer.learning_rate"),
        (8, 42, "sweep.ranges.model.nodes.pool.pool_size.hihg"),
        (9, 18, "sweep.ranges.vars.units.low"),
        (9, 29, "sweep.ranges.vars.units.high"),
        (10, 5, "sweep.ranges.train.optimizer.momentum"),
        (12, 5, "sweep.grid.train.epochs"),
    ]
    texts = [
        "must be greater than 0; received 0",
        "low must be below high",
        "low must be above 0 for a logarithmic scale",
        "Did you mean 'high'?",
        "must be a map; received [0.1, 0.9]",
        "'train.epochs' is in 'ranges' too",
    ]
    check_told(problems(sweep), places, texts)
