import dataclasses
import errno
import os
import shutil

import pytest
from support.commands import refused
from support.routing_spec import routing_spec
from support.tiny_spec import tiny_spec, write_spec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras.analysis import read_csv
from encapkeras.cli.main import main
from encapkeras.errors import RunFolderError
from encapkeras.training.run import analysis_folder
from encapkeras.training.run.analysis_folder import AnalysisFolder

PICTURES = {f"routing_{layer}_{name}.png" for layer in ("middle", "digits") for name in ("iterations", "votes")}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyse")
    spec = write_spec(folder, routing_spec(epochs=2, analysis={"every": 1, "images": 20}))
    assert main(["train", str(spec), "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(run_folder, tmp_path, capsys):
    """A copy of the run, whose training has printed its lines."""
    shutil.copytree(run_folder, tmp_path / "run")
    capsys.readouterr()
    return tmp_path / "run"


def analyse(*words):
    return main(["analyse", *map(str, words)])


def test_the_best_and_the_last_weights_stand_side_by_side(run, capsys):
    assert analyse(run, "--images", 30) == 0
    output = run / "analysis" / "test"
    (events,) = output.glob("events.out.tfevents.*")
    assert {file.name for file in output.iterdir()} == {"routing.csv", "best", "last", events.name, *PICTURES}
    pictures = EventAccumulator(str(events))
    pictures.Reload()
    assert len(pictures.Tags()["images"]) == len(PICTURES)
    analyses = read_csv(output / "routing.csv")
    assert [(a.checkpoint, a.split, a.images) for a in analyses] == [
        ("best", "balanced test", 30),
        ("last", "balanced test", 30),
    ]
    for name in ("best", "last"):
        board = EventAccumulator(str(output / name))
        board.Reload()
        assert [point.step for point in board.Scalars("digits/activation/target")] == [1, 2, 3]
    printed = capsys.readouterr().out
    assert printed.startswith("30 of 360 test images, balanced over 10 classes\n")
    assert "digits: EM routing; the image's class / other classes" in printed
    assert "middle: dynamic routing\n" in printed
    assert printed.endswith(f"written to {output}\n")


def test_epochs_that_were_analysed_while_training(run):
    assert analyse(run, "--checkpoint", 1, "last", 2, "--split", "validation", "--images", 20) == 0
    first, last, second = read_csv(run / "analysis" / "validation" / "routing.csv")
    assert [a.checkpoint for a in (first, last, second)] == ["epoch 1", "last", "epoch 2"]
    assert second.measurements == last.measurements
    assert first.measurements != last.measurements


def test_epochs_that_were_analysed_with_other_images(run, capsys):
    message = refused(capsys, "analyse", run, "--checkpoint", 1, "last")
    assert message.startswith("epoch 1 was analysed with 20 balanced validation images")
    assert message.endswith("Add --split validation --images 20\n")


def test_epochs_that_an_older_version_analysed_with_the_first_images(run, capsys):
    """They are shown, but not beside others."""
    words = ["--split", "validation", "--images", 20, "--overwrite"]
    table = run / "analysis" / "epochs.csv"
    newer = table.read_text()
    table.write_text(newer.replace("balanced validation", "validation"))
    message = refused(capsys, "analyse", run, "--checkpoint", 1, "last", *words)
    assert message.startswith(
        "epoch 1 was analysed with 20 validation images, and its weights are not kept. Older versi"
    )
    assert analyse(run, "--checkpoint", 1, 2, *words) == 0
    assert capsys.readouterr().out.startswith("the first 20 validation images\n")
    table.write_text(newer.replace("epoch 1,balanced validation", "epoch 1,validation"))
    for epochs in ((1, 2), (2, 1)):
        assert "cannot be compared" in refused(capsys, "analyse", run, "--checkpoint", *epochs, *words)


def test_training_images_in_a_folder_of_ones_own(run, tmp_path):
    assert analyse(run, "--split", "train", "--images", 10, "--checkpoint", "best", "--output", tmp_path / "out") == 0
    (analysis,) = read_csv(tmp_path / "out" / "routing.csv")
    assert (analysis.checkpoint, analysis.split, analysis.images) == ("best", "balanced train", 10)
    assert not (run / "analysis" / "train").exists()


def test_an_analysis_is_not_overwritten_unless_told_to(run, tmp_path, capsys):
    output = tmp_path / "out"
    words = [run, "--checkpoint", "last", "--images", 5, "--output", output]
    assert analyse(*words) == 0
    with (output / "routing.csv").open("a") as table:
        table.write("best,test,5,gone,em,1,activation,all,,0.5,5\n")
    (output / "routing_gone_votes.png").write_text("of a layer that is no more")
    (output / "best").mkdir()
    (output / "best" / "events.out.tfevents.1").write_text("of a checkpoint that is no more")
    mine = [output / "notes.txt", output / "routing_mine.png", output / "validation" / "events.out.tfevents.1"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    before = (output / "routing.csv").read_bytes()
    capsys.readouterr()
    assert "already holds an analysis. Choose another folder with --output" in refused(capsys, "analyse", *words)
    assert (output / "routing.csv").read_bytes() == before
    assert analyse(*words, "--overwrite") == 0
    assert not (output / "routing_gone_votes.png").exists()
    assert not (output / "best").exists()
    assert [file.read_text() for file in mine] == ["mine"] * 3
    assert len(list((output / "last").iterdir())) == 1
    assert len(list(output.glob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize("content", [b"epoch,route\n1,north\n", b"\xff\xfe\x00"], ids=["other columns", "no text"])
def test_a_table_of_the_same_name_is_no_analysis(content, run, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "routing.csv").write_bytes(content)
    (mine / "events.out.tfevents.1").write_text("mine")
    for words in ([], ["--overwrite"]):
        assert "not belong to an analysis, so nothing is written" in refused(
            capsys, "analyse", run, "--output", mine, *words
        )
    assert (mine / "routing.csv").read_bytes() == content
    assert {file.name for file in mine.iterdir()} == {"routing.csv", "events.out.tfevents.1"}


def test_two_figures_of_a_cell_stay_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    spec = routing_spec(epochs=1)
    spec["model"]["nodes"]["digits"]["layer"] = "dynamic_capsules"
    assert main(["train", str(write_spec(tmp_path, spec)), "--run-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert analyse(tmp_path / "run", "--checkpoint", "last", "--images", 5) == 0
    table = capsys.readouterr().out.split("digits: ")[1].splitlines()
    rows = [line.split() for line in table if line.strip().startswith("last")]
    assert [row[:2] for row in rows] == [["last", "1"], ["last", "2"], ["last", "3"]]
    assert all(row[3::3] == ["/"] * 4 and len(row) == 14 for row in rows)
    assert max(map(len, table[:-1])) <= 80


def test_folders_that_are_in_the_way(run, tmp_path, capsys):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    assert "not belong to an analysis" in refused(
        capsys, "analyse", run, "--output", tmp_path / "foreign", "--overwrite"
    )
    assert "is a file" in refused(capsys, "analyse", run, "--output", tmp_path / "foreign" / "notes.txt")
    assert "notes.txt is a file" in refused(
        capsys, "analyse", run, "--output", tmp_path / "foreign" / "notes.txt" / "out"
    )


def test_checkpoints_that_are_not_there(run, capsys):
    assert "has no checkpoint 'beste'; it has: best, last, 1, 2." in refused(
        capsys, "analyse", run, "--checkpoint", "beste"
    )
    (run / "checkpoints" / "best.keras").unlink()
    assert "has no checkpoint 'best'; it has: last, 1, 2." in refused(capsys, "analyse", run)


def test_runs_that_cannot_be_analysed(run, tmp_path, capsys):
    assert "is not a folder" in refused(capsys, "analyse", tmp_path / "none")
    assert "is not a run folder" in refused(capsys, "analyse", tmp_path)
    assert "--images must be at least 1; received 0" in refused(capsys, "analyse", run, "--images", 0)
    assert "invalid choice: 'valid'" in refused(capsys, "analyse", run, "--split", "valid")
    assert main(["train", str(write_spec(tmp_path, tiny_spec(epochs=1))), "--run-dir", str(tmp_path / "plain")]) == 0
    capsys.readouterr()
    assert refused(capsys, "analyse", tmp_path / "plain") == (
        "network 'tiny' has no routing layer; layers that can be analysed: convolution_dynamic_capsules, "
        "dynamic_capsules, em_capsules, heinsen_2019_capsules, heinsen_2022_capsules, inverted_attention_capsules, "
        "inverted_attention_stack, self_attention_capsules, self_routing_capsules, variational_bayes_capsules, "
        "window_dynamic_capsules, window_em_capsules\n"
    )


def test_stacks_and_heinsens_routings(tmp_path, capsys):
    spec = routing_spec(epochs=1, analysis={"every": 1, "images": 10})
    nodes = spec["model"]["nodes"]
    stacked = [{"capsules": 4, "dim": 4, "kernel_size": 2}, {"capsules": 8, "dim": 4}]
    nodes["middle"] = {"layer": "inverted_attention_stack", "inputs": "capsules", "layers": stacked}
    nodes["vectors"] = {"layer": "heinsen_2022_capsules", "inputs": "middle", "capsules": 6, "dim": 4}
    nodes["lengths"] = {"layer": "capsule_length", "inputs": "vectors"}
    nodes["digits"] = {
        "layer": "heinsen_2019_capsules",
        "inputs": ["vectors", "lengths"],
        "capsules": "$classes",
        "dim": 4,
    }
    spec["model"]["outputs"] = {"classes": "digits/activations"}
    run = tmp_path / "run"
    assert main(["train", str(write_spec(tmp_path, spec)), "--run-dir", str(run)]) == 0
    assert analyse(run, "--checkpoint", 1, "last", "--split", "validation", "--images", 10) == 0
    printed = capsys.readouterr().out
    assert "digits: heinsen_2019 routing; the image's class / other classes" in printed
    assert "middle/layer_1: inverted_attention routing\n" in printed
    (analysis, _) = read_csv(run / "analysis" / "validation" / "routing.csv")
    assert analysis.layers == ("middle/layer_0", "middle/layer_1", "vectors", "digits")
    assert (run / "analysis" / "validation" / "routing_middle_layer_0_votes.png").is_file()


def test_a_run_without_validation_has_its_last_weights(tmp_path, capsys):
    spec = routing_spec(epochs=1)
    spec["data"]["validation"] = 0
    assert main(["train", str(write_spec(tmp_path, spec)), "--run-dir", str(tmp_path / "run")]) == 0
    assert analyse(tmp_path / "run", "--images", 5) == 0
    assert [a.checkpoint for a in read_csv(tmp_path / "run" / "analysis" / "test" / "routing.csv")] == ["last"]
    capsys.readouterr()
    assert "no validation part" in refused(capsys, "analyse", tmp_path / "run", "--split", "validation")


def test_damaged_files_of_a_run(run, capsys):
    (run / "analysis" / "epochs.csv").write_text("a,b\n")
    assert "epochs.csv is not a table of a routing analysis" in refused(capsys, "analyse", run)
    (run / "analysis" / "epochs.csv").unlink()
    (run / "checkpoints" / "last.keras").write_text("")
    assert "last.keras' cannot be loaded" in refused(capsys, "analyse", run, "--checkpoint", "last")


@pytest.mark.parametrize("name", ["analysis", "analysis/test"])
def test_a_link_in_a_run_leads_nothing_elsewhere(run, tmp_path, capsys, name):
    (tmp_path / "mine").mkdir()
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(tmp_path / "mine")
    assert f"{name} is a symbolic link" in refused(capsys, "analyse", run, "--checkpoint", "last", "--images", 5)
    assert list((tmp_path / "mine").iterdir()) == []


def test_an_analysis_that_cannot_be_written_removes_nothing_of_the_older_one(run, tmp_path, monkeypatch):
    analyses = read_csv(run / "analysis" / "epochs.csv")
    folder = AnalysisFolder(tmp_path / "out")
    folder.write(analyses)
    before = {file for file in folder.path.rglob("*") if file.is_file()}

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(analysis_folder, "open_event_file", full)
    with pytest.raises(RunFolderError, match="No space left"):
        folder.write(analyses[:1], overwrite=True)
    assert {file for file in folder.path.rglob("*") if file.is_file()} == before


def test_names_in_a_table_lead_no_picture_elsewhere(run, tmp_path):
    [analysis, *_] = read_csv(run / "analysis" / "epochs.csv")
    named = [dataclasses.replace(m, layer="x/../../victim") for m in analysis.measurements if m.layer == "digits"]
    (tmp_path / "out" / "routing_x").mkdir(parents=True)
    folder = AnalysisFolder(tmp_path / "out" / "routing")
    (tmp_path / "out" / "routing").mkdir()
    folder.write([dataclasses.replace(analysis, measurements=tuple(named))])
    assert not list(tmp_path.glob("victim*")) and not list((tmp_path / "out").glob("victim*"))
    assert (folder.path / "routing_x_.._.._victim_votes.png").is_file()


def test_what_a_killed_analysis_left_is_in_the_way_of_none(tmp_path):
    folder = AnalysisFolder(tmp_path)
    for name in (".routing.0123456789abcdef.partial.csv", ".routing_stage_votes.0123456789abcdef.partial.png"):
        (tmp_path / name).touch()
    folder.check_free()
    folder.write([])
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    (tmp_path / "routing.csv").unlink()
    (tmp_path / ".mine.partial.csv").touch()
    with pytest.raises(RunFolderError, match="not belong to an analysis"):
        folder.check_free(overwrite=True)
