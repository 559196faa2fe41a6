import importlib
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import keras
import pytest
import yaml
from support.tiny_spec import tiny_spec, write_spec
from support.warm import warm_python

from encapkeras.cli.main import main
from encapkeras.comparison.compare import compare
from encapkeras.errors import ArgumentError, EncapkerasError, RunFolderError, SpecError, TrainingError
from encapkeras.spec.load import load_spec
from encapkeras.training.run.run_folder import RunFolder
from encapkeras.training.run.start import on_device

MODULE = importlib.import_module("encapkeras.comparison.compare")  # the package has the function under this name


def spec(name, units=32, **train):
    """A tiny spec whose runs use every kind of random number: first weights, order, augmentation, dropout."""
    content = tiny_spec(**{"epochs": 1, **train})
    content["name"] = name
    content["data"]["augment"] = {"resize": 34, "crop": True, "brightness": 0.2}
    content["model"]["nodes"]["hidden"]["units"] = units
    return content


ONE, TWO = spec("one"), spec("two", units=16)
BROKEN = spec("broken", optimizer={"kind": "sgd", "learning_rate": 1e30}, epochs=2)


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory):
    path = tmp_path_factory.mktemp("compared") / "comparison"
    return compare([ONE, TWO], [0, 1], run_dir=path), path


@pytest.fixture
def copy(two_by_two, tmp_path):
    """A copy of its folder."""
    return Path(shutil.copytree(two_by_two[1], tmp_path / "comparison"))


@pytest.fixture
def trainings(monkeypatch):
    """What is trained, in order: spec, seed; nothing is."""
    done = []

    def record(spec, run_dir, overwrite, resume):
        done.append((spec.name, spec.train.seed))
        raise TrainingError("not trained")

    monkeypatch.setattr(MODULE, "train", record)
    return done


def results(path, seed, name):
    return json.loads((path / f"seed_{seed}" / name / "results.json").read_text())


def figures(results):
    """Without those that are measured in seconds, and the memory."""
    return {name: value for name, value in results.items() if "second" not in name and "memory" not in name}


def test_every_spec_is_trained_with_every_seed(two_by_two):
    comparison, path = two_by_two
    assert {entry.name for entry in path.iterdir()} == {
        "comparison.csv",
        "comparison.json",
        "comparison.md",
        "comparison.pdf",
        "comparison.png",
        "comparison.svg",
        "comparison.tex",
        "seed_0",
        "seed_1",
    }
    for seed in (0, 1):
        for name in ("one", "two"):
            assert load_spec(path / f"seed_{seed}" / name / "spec.yaml").train.seed == seed
    assert [run.results["test_accuracy"] for run in comparison.runs] == [
        results(path, seed, name)["test_accuracy"] for seed in (0, 1) for name in ("one", "two")
    ]
    assert comparison.failed == []
    assert {run.device for run in comparison.runs} == {comparison.runs[0].device} != {""}
    assert [row.parameters for row in comparison.rows()] == [2410, 1210]


def test_what_is_written_is_what_is_returned(two_by_two):
    comparison, path = two_by_two
    assert (path / "comparison.md").read_text() == comparison.as_markdown()
    assert (path / "comparison.tex").read_text() == comparison.as_latex()
    assert (path / "comparison.csv").read_text() == comparison.as_csv()
    assert (path / "comparison.json").read_text() == comparison.as_json()


def test_the_figure_is_there_for_the_web_and_for_a_paper(two_by_two):
    _, path = two_by_two
    for name, content in {"png": b"\x89PNG", "pdf": b"/FontFile2", "svg": b"<svg "}.items():
        assert content in (path / f"comparison.{name}").read_bytes()


def test_a_run_is_the_same_as_if_it_were_trained_alone(two_by_two, tmp_path):
    """The last of the comparison, against a process of its own."""
    _, path = two_by_two
    words = ["train", str(write_spec(tmp_path, TWO)), "--set", "train.seed=1", "--run-dir", str(tmp_path / "alone")]
    subprocess.run([*warm_python(), "-m", "encapkeras", *words], check=True, capture_output=True)
    alone, compared = tmp_path / "alone", path / "seed_1" / "two"
    assert (compared / "metrics.csv").read_bytes() == (alone / "metrics.csv").read_bytes()
    assert (compared / "spec.yaml").read_bytes() == (alone / "spec.yaml").read_bytes()
    assert figures(results(path, 1, "two")) == figures(json.loads((alone / "results.json").read_text()))


def test_the_seeds_come_one_after_the_other(trainings, tmp_path):
    compare([ONE, TWO], [3, 0], run_dir=tmp_path / "new")
    assert trainings == [("one", 3), ("two", 3), ("one", 0), ("two", 0)]


def test_the_dtype_policy_of_the_user_stays(trainings, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        compare([ONE], [0], run_dir=tmp_path / "new")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_specs_of_the_same_name_have_their_own_folders(trainings, tmp_path):
    comparison = compare([ONE, {**TWO, "name": "one"}, {**TWO, "name": "One"}], [0], run_dir=tmp_path / "new")
    assert [network.label for network in comparison.networks] == ["one", "one-2", "One-3"]
    assert len({run.folder for run in comparison.runs}) == 3
    assert "one-2 is &lt;dict&gt;" in comparison.as_markdown()


def test_overrides_are_for_all(trainings, tmp_path):
    compare([ONE, TWO], [0], overrides=["train.epochs=7", "name=other"], run_dir=tmp_path / "new")
    assert trainings == [("other", 0), ("other", 0)]


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    comparison = compare([ONE, BROKEN], [0, 1], run_dir=tmp_path / "new")
    assert [(run.network, run.seed) for run in comparison.failed] == [("broken", 0), ("broken", 1)]
    assert "FAILED: the loss became" in capsys.readouterr().out
    text = (tmp_path / "new" / "comparison.md").read_text()
    assert "| one | 2/2 |" in text
    assert "| broken | 0/2 2 FAILED | - |" in text
    assert "- FAILED: broken, seed 1: the loss became" in text
    assert "compared with" not in text


def test_resuming_takes_over_what_is_finished_and_trains_the_rest(two_by_two, copy, capsys):
    before, _ = two_by_two
    kept = (copy / "seed_0" / "two" / "results.json").read_bytes()
    (copy / "seed_1" / "one" / "results.json").unlink()  # as if it were killed
    (copy / "seed_1" / "two" / "results.json").write_text('{"test_accuracy": 0.5')
    comparison = compare([ONE, TWO], [0, 1], run_dir=copy, resume=True)
    assert [run.reused for run in comparison.runs] == [True, True, False, False]
    assert [figures(run.results) for run in comparison.runs] == [figures(run.results) for run in before.runs]
    assert (copy / "seed_0" / "two" / "results.json").read_bytes() == kept
    printed = capsys.readouterr().out
    assert f"reused: two, seed 0, from {copy / 'seed_0' / 'two'}" in printed
    assert "reused: two, seed 1" not in printed


def test_runs_of_different_machines_are_told_apart(copy, trainings):
    environment = copy / "seed_0" / "one" / "environment.json"
    content = json.loads(environment.read_text())
    own = on_device(content)
    environment.write_text(json.dumps({**content, "device": "cuda:7", "threads": 64}))
    compare([ONE, TWO], [0, 1], run_dir=copy, resume=True)
    text = (copy / "comparison.md").read_text()
    assert f"over the seeds, on cuda:7, 64 threads, on {own}: different ones, which are not comparable." in text


def test_resuming_can_add_specs_and_seeds(copy, trainings):
    compare([ONE, TWO, spec("three")], [0, 1, 2], run_dir=copy, resume=True)
    assert trainings == [("three", 0), ("three", 1), ("one", 2), ("two", 2), ("three", 2)]


def test_a_finished_run_of_another_spec_is_not_lost(copy, trainings):
    before = (copy / "comparison.json").read_bytes()
    with pytest.raises(RunFolderError, match="finished runs of other specs") as refused:
        compare([ONE, spec("two", units=8)], [0, 1], run_dir=copy, resume=True)
    assert str(refused.value).splitlines()[1:] == [
        f"    {copy / 'seed_0' / 'two'}: model.nodes.hidden.units is 16 there and 8 here",
        f"    {copy / 'seed_1' / 'two'}: model.nodes.hidden.units is 16 there and 8 here",
    ]
    assert trainings == []
    assert (copy / "comparison.json").read_bytes() == before


@pytest.mark.parametrize(
    ("specs", "seeds", "lost"),
    [([ONE], [0, 1], "two"), ([ONE, TWO], [1], "seed 0"), ([TWO], [3], "one, seed 0, seed 1")],
)
def test_resuming_never_makes_the_table_smaller(specs, seeds, lost, copy, trainings):
    before = (copy / "comparison.json").read_bytes()
    with pytest.raises(RunFolderError, match=f"has runs of {lost}, which .* Give the same specs and seeds, or more"):
        compare(specs, seeds, run_dir=copy, resume=True)
    assert trainings == []
    assert (copy / "comparison.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"runs": [3]}'])
def test_a_damaged_table_is_not_resumed(content, copy, trainings):
    (copy / "comparison.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"comparison\.json is damaged"):
        compare([ONE, TWO], [0, 1], run_dir=copy, resume=True)
    assert trainings == []


def test_a_run_whose_figures_are_none_is_unfinished(copy, trainings):
    path = copy / "seed_0" / "two" / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "test_accuracy": "x"}))
    compare([ONE, TWO], [0, 1], run_dir=copy, resume=True)
    assert trainings == [("two", 0)]


def test_a_finished_run_with_a_damaged_spec(copy, trainings):
    folder = copy / "seed_0" / "two"
    (folder / "spec.yaml").write_text("model: [")
    with pytest.raises(RunFolderError, match=r"cannot be used, as its spec\.yaml is damaged") as refused:
        compare([ONE, TWO], [0, 1], run_dir=copy, resume=True)
    assert str(refused.value).startswith(f"run {folder} ")
    assert trainings == []


def test_what_a_kill_while_a_file_was_written_leaves(copy, trainings, tmp_path):
    killed = copy / "seed_2" / "one"
    for name in ("checkpoints", "tensorboard"):
        (killed / name).mkdir(parents=True)
    (killed / ".environment.partial.json").write_text("{")
    compare([ONE, TWO], [0, 1, 2], run_dir=copy, resume=True)
    assert trainings == [("one", 2), ("two", 2)]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".comparison.partial.json").write_text("{")
    compare([ONE], [0], run_dir=tmp_path / "new")
    assert (tmp_path / "new" / "comparison.json").is_file()


@pytest.mark.parametrize("columns", ["20", "80"])
def test_the_printed_table_holds_all_in_full(columns, trainings, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    name = "a network with a name of more than forty letters"
    compare([ONE, spec(name, units=8)], [0], run_dir=tmp_path / "new")
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith(f" {name} ")]
    assert line.split()[10:] == ["0/1", "1", "FAILED", "-", "-", "-", "-", "-", "-", "-"]


def test_a_link_that_appears_between_two_runs_is_not_written_through(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()

    def put_link(spec, run_dir, overwrite, resume):
        (tmp_path / "new" / "seed_1").symlink_to(tmp_path / "mine")
        raise TrainingError("not trained")

    monkeypatch.setattr(MODULE, "train", put_link)
    comparison = compare([ONE], [0, 1], run_dir=tmp_path / "new")
    assert "seed_1 is a symbolic link" in comparison.failed[1].error
    assert not list((tmp_path / "mine").iterdir())


def test_ctrl_c_gives_the_command_that_continues_the_comparison(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt("interrupted. No epoch was complete. Continue with: encapkeras train --resume x")

    path, file = tmp_path / "a folder", tmp_path / "my spec.yaml"
    file.write_text(yaml.safe_dump(ONE))
    monkeypatch.setattr(MODULE, "train", interrupted)
    with pytest.raises(KeyboardInterrupt) as stop:
        compare([str(file)], [3], overrides=["train.epochs=1"], run_dir=path)
    assert str(stop.value) == (
        "interrupted. No epoch was complete. 0 of 1 runs finished. Continue with:\n"
        f"encapkeras compare '{file}' --set train.epochs=1 --seeds 3, --resume '{path}'"
    )
    assert main(shlex.split(str(stop.value).partition("\nencapkeras ")[2])) == 130


@pytest.mark.parametrize("name", ["seed_1", "seed_1/two", "seed_1/two/tensorboard"])
def test_a_link_to_a_run_elsewhere_is_not_continued(copy, trainings, tmp_path, name):
    (copy / name).rename(tmp_path / "mine")
    (copy / name).symlink_to(tmp_path / "mine")
    for results in (tmp_path / "mine").rglob("results.json"):
        results.unlink()
    with pytest.raises(RunFolderError, match=f"{name} is a symbolic link"):
        compare([ONE, TWO], [0, 1], run_dir=copy, resume=True)
    assert trainings == []


def test_foreign_files_where_a_run_would_go(copy, trainings):
    (copy / "seed_2" / "one").mkdir(parents=True)
    (copy / "seed_2" / "one" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not belong to a run"):
        compare([ONE, TWO], [0, 1, 2], run_dir=copy, resume=True)
    assert trainings == []


def test_ctrl_c_leaves_the_table_of_what_is_finished(tmp_path, monkeypatch, capsys):
    train, calls = MODULE.train, []

    def interrupted(spec, *arguments, **options):
        calls.append(spec.name)
        if len(calls) == 3:
            raise KeyboardInterrupt("interrupted. No epoch was complete. Continue with: encapkeras train --resume x")
        return train(spec, *arguments, **options)

    monkeypatch.setattr(MODULE, "train", interrupted)
    path = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt) as stop:
        compare([ONE, TWO], [0, 1], run_dir=path)
    assert str(stop.value) == (
        "interrupted. No epoch was complete. 2 of 4 runs finished. "
        f"Continue with the same call, run_dir={str(path)!r} and resume=True"
    )
    printed = capsys.readouterr().out
    assert "vs one" in printed
    assert "| two | 1/2 |" in (path / "comparison.md").read_text()
    monkeypatch.setattr(MODULE, "train", train)
    comparison = compare([ONE, TWO], [0, 1], run_dir=path, resume=True)
    assert [run.reused for run in comparison.runs] == [True, True, False, False]


def wrong(name, value):
    content = spec(name)
    content["train"]["epochs"] = value
    return content


def test_all_mistakes_of_all_specs_are_told_at_once(trainings, tmp_path):
    with pytest.raises(SpecError) as mistakes:
        compare([wrong("a", 0), ONE, wrong("b", "many")], [0], run_dir=tmp_path / "new")
    assert len(mistakes.value.problems) == 2
    assert trainings == []
    assert not (tmp_path / "new").exists()


def test_a_mistake_in_set_is_told_once(tmp_path):
    with pytest.raises(SpecError, match="1 error found"):
        compare([ONE, TWO], [0], overrides=["train.epoch=3"], run_dir=tmp_path / "new")


def test_specs_that_cannot_be_trained_are_told_with_the_mistakes(tmp_path):
    no_data = spec("nothing")
    no_data["model"]["inputs"] = {"image": [32, 32, 1]}
    no_data["model"]["nodes"]["lengths"]["units"] = 10
    del no_data["data"]
    unvalidated = spec("unvalidated", early_stopping={"patience": 2})
    unvalidated["data"]["validation"] = 0
    five = spec("five")
    five["model"]["nodes"]["lengths"]["units"] = 5
    with pytest.raises(EncapkerasError) as told:
        compare([no_data, unvalidated, five, wrong("a", 0), ONE], [0], run_dir=tmp_path / "new")
    for text in ("'nothing' names no data", "early_stopping", "of 'five' has shape (5,)", "train.epochs"):
        assert text in str(told.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [2**32], [0.5], [True], ["1"], 3, "1", {0}])
def test_seeds_that_are_none(seeds, tmp_path):
    with pytest.raises(ArgumentError, match="distinct whole numbers from 0"):
        compare([ONE], seeds, run_dir=tmp_path / "new")


@pytest.mark.parametrize("sources", [[], "quickstart", 3, {"model": {}}])
def test_specs_must_be_a_list(sources):
    with pytest.raises(ArgumentError, match="a comparison needs a list of specs"):
        compare(sources)


@pytest.mark.parametrize("override", ["train.seed=3", "train={seed: 3, epochs: 1}"])
def test_the_seed_is_not_for_set(override):
    with pytest.raises(ArgumentError, match=rf"'{override}': .*--seeds"):
        compare([ONE], overrides=[override])


def test_the_same_spec_twice_shows_nothing(trainings, tmp_path):
    for other in (ONE, spec("one", seed=5)):  # the seeds of specs do not count
        with pytest.raises(ArgumentError, match="<dict> and <dict> are the same spec, 'one': equal seeds give equal"):
            compare([ONE, TWO, other], [0, 1], run_dir=tmp_path / "new")
    assert trainings == []
    assert not (tmp_path / "new").exists()


def test_folders_that_cannot_be_taken(two_by_two, tmp_path, trainings):
    _, path = two_by_two
    (tmp_path / "file").write_text("mine")
    refusals = {
        path: "already holds a comparison. Resume it with --resume",
        path / "seed_0" / "one": "is a run folder",
        tmp_path: "holds files that do not belong to a run",
        tmp_path / "file": "is a file",
        tmp_path / "file" / "below": "cannot be",
    }
    for folder, text in refusals.items():
        with pytest.raises(RunFolderError, match=text):
            compare([ONE], [0], run_dir=folder)
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunFolderError, match=r"is not a comparison folder: it has no comparison\.json"):
            compare([ONE], [0], run_dir=folder, resume=True)
    assert trainings == []


def test_the_default_folder(tmp_path, monkeypatch, trainings):
    monkeypatch.chdir(tmp_path)
    compare([ONE], [0])
    (made,) = (tmp_path / "runs" / "compare").iterdir()
    assert (made / "comparison.md").is_file()


def test_comparisons_that_start_in_the_same_second_have_a_folder_each(tmp_path, monkeypatch, trainings):
    monkeypatch.chdir(tmp_path)
    free, first = RunFolder.default, RunFolder.default("compare")
    names = [first]  # what both see before one of them makes it
    monkeypatch.setattr(RunFolder, "default", lambda name: names.pop() if names else free(name))
    first.path.mkdir(parents=True)
    compare([ONE], [0])
    assert list(first.path.iterdir()) == []
    [table] = tmp_path.glob("runs/compare/*/comparison.json")
    assert table.parent != tmp_path / first.path


def test_a_comparison_that_is_refused_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError):
        compare([{**ONE, "losses": {"no": {"loss": "margin"}}}])
    assert list(tmp_path.iterdir()) == []
