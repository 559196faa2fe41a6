"""`extends` and `--set`."""

import itertools
import shlex

import pytest
import yaml

from encapkeras import SpecError, check_spec, load_spec
from encapkeras.comparison import compare
from encapkeras.spec.bundled import bundled_specs


def write(folder, **specs):
    for name, spec in specs.items():
        file = folder / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(spec if isinstance(spec, str) else yaml.safe_dump(spec, sort_keys=False))


BASE = """\
vars: {types: 2, rows: [{i: 1}, {i: 2}]}
model:
  inputs: {image: [4, 4, 6]}
  nodes:
    flat: {layer: keras.Flatten, inputs: image, doc: from the base}
    scores: {layer: keras.Dense, inputs: flat, units: $types, activation: relu}
  outputs: {scores: scores}
train: {epochs: 3, optimizer: {kind: sgd, momentum: 0.5}}
"""


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, base=BASE)
    return tmp_path


def problems(source, overrides=()):
    with pytest.raises(SpecError) as caught:
        check_spec(source, overrides)
    return caught.value.problems


def test_maps_merge_lists_are_replaced_and_null_deletes(folder):
    write(
        folder,
        mine="""\
extends: base.yaml
vars: {types: 3, rows: [{i: 9}]}
model:
  nodes:
    scores: {activation: null, use_bias: false}
    row$i: {repeat: $rows, layer: keras.Dense, inputs: flat, units: $i}
train: {optimizer: {momentum: 0.9}}
""",
    )
    spec = load_spec(folder / "mine.yaml")
    nodes = spec.resolved["model"]["nodes"]
    assert nodes["scores"] == {"layer": "keras.Dense", "inputs": "flat", "units": 3, "use_bias": False}
    assert nodes["row9"]["units"] == 9
    assert list(nodes) == ["flat", "scores", "row9"]
    assert (spec.train.epochs, spec.train.optimizer.momentum) == (3, 0.9)


def test_later_files_go_before_earlier_ones(folder):
    write(folder, other={"train": {"epochs": 5}}, third={"extends": "other.yaml", "train": {"seed": 2}})
    write(folder, mine={"extends": ["base.yaml", "third.yaml"]})
    train = load_spec(folder / "mine.yaml").train
    assert (train.epochs, train.seed, train.optimizer.momentum) == (5, 2, 0.5)


def test_bases_are_found_below_and_among_the_bundled_specs(folder):
    write(folder, below__mine={"extends": "two.yaml"}, below__two={"train": {"epochs": 4}})
    write(folder, mine={"extends": ["base.yaml", "below/mine.yaml"]}, known={"extends": "quickstart.yaml"})
    assert load_spec(folder / "mine.yaml").train.epochs == 4
    assert load_spec(folder / "known.yaml").resolved == load_spec("quickstart").resolved


def test_plain_data_extends_bundled_specs():
    assert load_spec({"extends": "quickstart.yaml", "train": {"epochs": 1}}).train.epochs == 1


def test_a_ladder_of_bases_is_read_once_each(folder):
    names = [f"step{i}" for i in range(60)]
    write(folder, step0=BASE)
    for below, name in itertools.pairwise(names):
        write(folder, **{name: {"extends": [f"{below}.yaml", f"{below}.yaml"]}})
    assert check_spec(folder / "step59.yaml").train.epochs == 3


def test_errors_are_reported_in_the_file_that_has_them(folder):
    write(folder, mine={"extends": "base.yaml", "vars": {"types": -1}})
    (problem,) = problems(folder / "mine.yaml")
    assert (problem.file, problem.line, problem.path) == (str(folder / "base.yaml"), 6, "model.nodes.scores")


def test_a_broken_base_does_not_hide_other_errors(folder):
    write(folder, broken="a: [", mine="extends: [base.yaml, broken.yaml]\nvars: {types: x}\n")
    assert [problem.file for problem in problems(folder / "mine.yaml")] == [
        str(folder / "base.yaml"),
        str(folder / "broken.yaml"),
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quikstart.yaml", "Did you mean 'quickstart.yaml'?"),
        ("quickstart", "Did you mean 'quickstart.yaml'?"),
        ("bsae.yaml", "Did you mean 'base.yaml'?"),
        ("below/on.yaml", "Did you mean 'below/one.yaml'?"),
        ("resnet20.yaml", "Did you mean 'base/resnet20.yaml'?"),
        ("../base", "'encapkeras specs' lists the bundled ones."),
        ("nine.yaml", "'encapkeras specs' lists the bundled ones."),  # and not the file itself, mine.yaml
    ],
)
def test_a_base_that_is_meant_is_suggested_by_the_name_that_finds_it(folder, name, hint):
    write(folder, mine={"extends": name}, below__one={})
    (problem,) = problems(folder / "mine.yaml")
    assert problem.message == f"file '{name}' not found, neither here nor among the bundled specs. {hint}"


@pytest.mark.parametrize("name", ["../base.yaml", "../../base.yaml"])
def test_extends_stays_in_the_folder(folder, name):
    write(folder, below__deep__x={}, below__mine={"extends": name})
    assert len(problems(folder / "below" / "mine.yaml")) >= 1


def test_set_replaces_adds_and_deletes(folder):
    overrides = [
        "vars.types=$(2 + 2)",
        "train.epochs=7",
        "train.schedule={kind: cosine}",
        "train.optimizer.learning_rate=1e-2",
        "model.nodes.scores.activation=null",
        "vars.rows.1.i=5",
        "name=changed",
    ]
    spec = load_spec(folder / "base.yaml", overrides)
    assert spec.resolved["model"]["nodes"]["scores"] == {"layer": "keras.Dense", "inputs": "flat", "units": 4}
    assert (spec.train.epochs, spec.train.schedule.kind, spec.name) == (7, "cosine", "changed")
    assert spec.train.optimizer.learning_rate == 0.01


def test_set_sees_variables_and_rows_before_expansion():
    spec = load_spec("quickstart", ["vars.types=4", "model.nodes.stage$i.repeat.1.dim=2", "model.nodes.digits.dim=2"])
    assert spec.resolved["model"]["nodes"]["stage2"]["dim"] == 2
    assert spec.resolved["model"]["nodes"]["stage1"]["types"] == 4


def test_names_with_dots_can_be_set():
    data = {
        "model": {
            "inputs": {"i": [3]},
            "nodes": {"a.b": {"layer": "keras.Dense", "inputs": "i", "units": 2}},
            "outputs": {"o": "a.b"},
        }
    }
    assert load_spec(data, ["model.nodes.a.b.units=5"]).resolved["model"]["nodes"]["a.b"]["units"] == 5


@pytest.mark.parametrize(
    ("override", "path", "words"),
    [
        ("train.epohcs=3", "train.epohcs", "'epochs'"),
        ("trian.epochs=3", "trian", "'train'"),
        ("vars.typs=3", "vars.typs", "'types'"),
        ("model.nodes.score.units=3", "model.nodes.score.units", "'scores'"),
        ("model.nodes.scores.unit=3", "model.nodes.scores.unit", "'units'"),
        ("model.nodes.scores.units.x=3", "model.nodes.scores.units.x", "not a map"),
        ("vars.rows.2.i=3", "vars.rows.2.i", "0 to 1"),
        ("vars.rows.x=3", "vars.rows.x", "0 to 1"),
        ("train.epochs=many", "train.epochs", "integer"),
        ("train.epochs=[", "train.epochs", "invalid YAML"),
        ("train.epochs=*x", "train.epochs", "aliases"),
        ("train.epochs", "train.epochs", "path.to.key=value"),
        ("=3", "", "path.to.key=value"),
        ("a" + ".a" * 5000 + "=3", "a" + ".a" * 5000, "path.to.key=value"),
        ("losses.scores.loss=margin", "losses.scores.loss", "'losses'"),
    ],
)
def test_wrong_overrides_name_themselves(folder, override, path, words):
    (problem,) = problems(folder / "base.yaml", [override])
    assert (problem.file, problem.line, problem.path) == ("--set", 0, path)
    assert words in problem.message


def test_bundled_specs_lie_beside_the_package():
    assert (bundled_specs() / "quickstart.yaml").is_file()


@pytest.mark.parametrize(
    ("base", "error"),
    [
        (None, "file 'base.yaml' not found"),
        ("extends: mine.yaml\n", "cycle"),
        ("model: {nodes: [}\n", "invalid YAML"),
        ("- a list\n", "holds a list"),
        ("model: {nodes: {flat: {layer: keras.Flatten, inputs: image}}}\nmodel: {}\n", "'model' occurs twice"),
    ],
)
@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"losses": {"classes": {"loss": "margin"}}, "data": {"batch_size": 3}},
        {"model": {"nodes": {"flat": {"doc": "mine"}, "more": {"layer": "squash", "inputs": "capsules"}}}},
        {"model": {"nodes": {"d": {"layer": "keras.Dense", "inputs": "$previous"}}, "outputs": {"a": "b"}}},
        {"model": {"inputs": {"b": [3]}, "nodes": {"d": {"layer": "keras.Dense", "inputs": "a", "units": "$(n*2)"}}}},
        {"train": {"weight_decay": {"kind": "coupled"}, "schedule": {"milestones": [3]}}},
    ],
)
def test_a_base_that_cannot_be_read_is_the_only_error(base, error, spec, tmp_path):
    if base:
        write(tmp_path, base=base)
    write(tmp_path, mine={"extends": "base.yaml", **spec})
    (problem,) = problems(tmp_path / "mine.yaml", ["model.nodes.stem.filters=3"])
    assert error in problem.message


def test_suggestions_follow_the_named_kind():
    spec = ["train.optimizer.kind=sgd", "train.optimizer.beta_1=.5"]
    (problem,) = problems("quickstart", ["train.optimizer=null", *spec])
    assert problem.message == "'beta_1' is not allowed here. Allowed: kind, learning_rate, momentum, nesterov."


def test_a_setting_without_its_kind_tells_the_kinds():
    (problem,) = problems("quickstart", ["train.optimizer=null", "train.optimizer.learning_rate=1e-3"])
    assert (problem.file, problem.path) == ("--set", "train.optimizer")
    assert problem.message == "must name its 'kind', one of these: 'adam', 'sgd', 'rmsprop'"


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize(
    "path",
    [
        "losses.classes.upper",
        "train.clip_norm",
        "train.schedule.warmup_epochs",
        "data.validation",
        "model.nodes.stem.kernel_initializer.config.stddev",
        "model.nodes.drop.rate",
    ],
)
def test_numbers_that_are_not_finite_are_refused(path, number):
    spec = {
        "extends": "quickstart.yaml",
        "model": {
            "nodes": {
                "stem": {"kernel_initializer": {"class_name": "RandomNormal", "config": {"stddev": 1.0}}},
                "drop": {"layer": "keras.Dropout", "inputs": "image", "rate": 0.1},
            }
        },
        "train": {"schedule": {"kind": "constant", "warmup_epochs": 0}},
    }
    (problem,) = problems(spec, [f"{path}={number}"])
    assert path.startswith(problem.path)
    assert "received" in problem.message


def test_a_warm_up_must_end_before_the_training_does():
    schedule = "train.schedule={kind: cosine, warmup_epochs: 5}"
    (problem,) = problems("quickstart", [schedule, "train.epochs=5"])
    assert problem.path == "train.schedule"
    assert problem.message == "warmup_epochs must be below train.epochs, 5; received 5"
    assert check_spec("quickstart", [schedule, "train.epochs=1"]).train.epochs == 1
    assert check_spec("quickstart", [schedule, "train.epochs=6"]).train.epochs == 6


NOT_AS_WRITTEN = [
    "photos #2",
    "#1",
    "photos ",
    "a\nb",
    "---",
    "[old] photos",
    "@home",
    "%d",
    "*best*",
    "`x`",
    "!x",
    "{a: b",
]


def digits_below(root):
    nodes = {
        "f": {"layer": "keras.Flatten", "inputs": "image"},
        "d": {"layer": "keras.Dense", "inputs": "f", "units": "$classes"},
    }
    data = {"dataset": "digits", "root": "given"}
    return load_spec({"data": data, "model": {"nodes": nodes, "outputs": {"s": "d"}}}, [root]).data.root


@pytest.mark.parametrize("text", NOT_AS_WRITTEN)
def test_a_text_that_yaml_reads_in_another_way_is_refused_with_the_text_that_works(text):
    with pytest.raises(SpecError) as caught:
        digits_below(f"data.root={text}")
    (problem,) = caught.value.problems
    assert problem.file == "--set"
    advice = problem.message.partition("quote it: --set ")[2].replace("\\\\", "\\")
    (argument,) = shlex.split(advice)
    assert digits_below(argument).endswith(text)


@pytest.mark.parametrize("text", ["010", "x: y", "true", "[x]"])
def test_a_text_that_is_something_else_in_yaml_needs_quotes(text):
    with pytest.raises(SpecError, match=r"must be a string; received [^/]*needs quotes: --set 'data.root=\"...\"'"):
        digits_below(f"data.root={text}")
    assert digits_below(f'data.root="{text}"').endswith(text)


@pytest.mark.parametrize("text", ["photos#2", "it's", "'it''s'", " photos", "a b", '"a # b"'])
def test_other_texts_need_no_quotes(text):
    assert digits_below(f"data.root={text}").endswith(yaml.safe_load(text))


def test_a_comment_is_refused_in_numbers_lists_and_a_comparison_too(tmp_path):
    for text in ("train.epochs=3 # few", "train={epochs: 3} # few", "vars.types=2 #2"):
        assert "in YAML it is a comment" in problems("quickstart", [text])[0].message
    with pytest.raises(SpecError, match="in YAML it is a comment"):
        compare(["quickstart", "capsnet_dynamic_digits"], overrides=["train={epochs: 1} # one"], run_dir=tmp_path / "c")
