import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from PIL import Image
from support.commands import interrupted, refused
from support.dataset_files import cycling_labels, random_images, write_image_folder, write_npz
from support.tiny_spec import tiny_spec, write_spec
from support.trained import trained
from support.warm import warm_python

from encapkeras import __version__
from encapkeras.analysis.scores import METRICS
from encapkeras.cli.main import COMMANDS, main
from encapkeras.data import Batches

PROGRAM = "import sys; from encapkeras.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    spec = write_spec(folder, tiny_spec())
    words = ["--set", "train.epochs=3", "--set", "data.batch_size=100", "--run-dir", str(folder / "run")]
    assert main(["train", str(spec), *words]) == 0
    return folder / "run"


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_train_writes_the_run_and_applies_set(run_folder):
    assert results(run_folder)["test_accuracy"] > 0.5
    resolved = yaml.safe_load((run_folder / "spec.yaml").read_text())
    assert (resolved["train"]["epochs"], resolved["data"]["batch_size"]) == (3, 100)
    assert json.loads((run_folder / "environment.json").read_text())["seed"] == 0


def test_train_makes_a_run_folder_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(write_spec(tmp_path, tiny_spec(epochs=1)))]) == 0
    (made,) = (tmp_path / "runs" / "tiny").iterdir()
    assert results(made)["best_epoch"] == 1
    assert f"runs/tiny/{made.name}" in capsys.readouterr().out


def test_evaluate_reproduces_the_test_figures(run_folder, capsys):
    assert main(["evaluate", str(run_folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = results(run_folder)
    assert figures == {
        "split": "test",
        "accuracy": expected["test_accuracy"],
        "loss": expected["test_loss"],
        **{name: expected[f"test_{name}"] for name in METRICS},
        "images": 360,
    }


def test_evaluate_reproduces_the_validation_accuracy(run_folder, capsys):
    assert main(["evaluate", str(run_folder), "--split", "validation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == results(run_folder)["validation_accuracy"]


def test_evaluate_on_changed_images(run_folder, capsys):
    assert main(["evaluate", str(run_folder), "--change", "data.affine={}", "--json"]) == 0
    streams = capsys.readouterr()
    figures = json.loads(streams.out)
    assert figures["changes"] == ["data.affine={}"]
    assert figures["images"] == 360
    assert figures["accuracy"] < results(run_folder)["test_accuracy"]
    assert "other images" not in streams.err
    still = [f"data.affine.{name}=0" for name in ("rotation", "shear", "scale", "shift")]
    assert main(["evaluate", str(run_folder), *(f"--change={change}" for change in still)]) == 0
    line, others = capsys.readouterr().out.splitlines()
    assert others.startswith("balanced accuracy 0.")
    assert line.startswith(f"test accuracy {results(run_folder)['test_accuracy']:.4f}, loss ")
    assert line.endswith(f", 360 images, {', '.join(still)}")


def test_evaluate_on_pairs_of_images(run_folder, capsys):
    changes = ["--change", "data.overlap=2", "--change", "data.image_size=24"]
    assert main(["evaluate", str(run_folder), *changes]) == 0
    line, others = capsys.readouterr().out.splitlines()
    assert line.endswith(", 360 images, data.overlap=2, data.image_size=24")
    assert others.startswith("macro F1 0.")


@pytest.mark.parametrize("closer", [["--per-class"], ["--affine", "--images", "20"]])
def test_evaluate_more_closely_on_changed_images(run_folder, capsys, tmp_path, closer):
    output = ["-o", str(tmp_path / "out.csv")]
    assert main(["evaluate", str(run_folder), "--change", "data.affine={}", *closer, *output]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("data.subset=100", "--change 'data.subset=100': give data.KEY=VALUE, such as data.affine={}"),
        ("data.validation=0", "KEY may be any setting of the data but validation and subset"),
        ("train.seed=1", "--change 'train.seed=1': give data.KEY=VALUE"),
        ("data", "--change 'data': give data.KEY=VALUE"),
        ("data.affine", "--change 'data.affine': give data.KEY=VALUE"),
        ("data.affine.=3", "--change 'data.affine.=3': give data.KEY=VALUE"),
        ("data.affine.turn=3", "--change  data.affine.turn"),
        ("data.afine={}", "'afine' is not an argument of data set 'digits'. Did you mean 'affine'?"),
        ("data.affine={", "If it is a text, quote it: --change 'data.affine=\"{\"'"),
        ("data.batch_size=9 # few", "would be dropped: in YAML it is a comment"),
        ("data.dataset=npz", "--change  data\n    data set 'npz' needs 'path'"),
        (
            "data.affine.border=2",
            "'tiny' takes inputs of shape (32, 32, 1); the images of the data set are (36, 36, 1)",
        ),
    ],
)
def test_evaluate_on_images_that_cannot_be(run_folder, capsys, change, text):
    message = refused(capsys, "evaluate", str(run_folder), "--change", change)
    assert text in message
    assert "--set" not in message
    assert "--data-root" not in message
    assert "--change is for the test images; received --split validation" in refused(
        capsys, "evaluate", str(run_folder), "--split", "validation", "--change", "data.affine={}"
    )


def test_a_change_of_the_data_set_names_its_place_too(run_folder, tmp_path, capsys):
    words = ["evaluate", str(run_folder), "--change", "data.dataset=npz"]
    missing = refused(capsys, *words, "--change", f"data.path={tmp_path / 'none.npz'}")
    assert missing.startswith("--change  data.path\n")
    assert "none.npz: there is no such file" in missing
    assert "--change data.root=FOLDER" in refused(capsys, *words, "--data-root", str(tmp_path))


def test_what_a_run_has_and_a_change_does_not_go_with(tmp_path, capsys):
    path = write_npz(tmp_path / "a.npz", train_images=random_images(12, 8, 8), test_images=random_images(6, 8, 8))
    run = trained(tmp_path, {**tiny_spec(epochs=1), "data": {"dataset": "npz", "path": str(path), "batch_size": 9}})
    capsys.readouterr()
    message = " ".join(refused(capsys, "evaluate", run, "--change", "data.dataset=digits").split())
    assert message.startswith("--change data.path 'path' is an argument of data set 'csv' or 'npz', not of 'digits'")
    assert "to remove it: --change data.path=null." in message
    path.unlink()
    assert "give their place with --data-root" in refused(capsys, "evaluate", run, "--change", "data.affine={}")


def test_evaluate_prints_two_lines(run_folder, capsys):
    assert main(["evaluate", str(run_folder)]) == 0
    found = {name.removeprefix("test_"): value for name, value in results(run_folder).items()}
    assert capsys.readouterr().out == (
        "test accuracy {accuracy:.4f}, loss {loss:.4f}, 360 images\n"
        "balanced accuracy {balanced_accuracy:.4f}, macro F1 {macro_f1:.4f}, AUC {auc:.4f}, "
        "calibration error {calibration_error:.4f}\n".format(**found)
    )


def test_a_mistake_is_its_message_alone(run_folder, tmp_path, capsys):
    spec = write_spec(tmp_path, tiny_spec())
    message = refused(capsys, "train", spec, "--run-dir", run_folder)
    assert message.startswith(f"run folder {run_folder} already exists.")
    assert "not belong to a run" in refused(capsys, "train", spec, "--run-dir", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tiny.yaml"]


def test_folders_that_are_no_runs(tmp_path, capsys):
    assert "is not a folder" in refused(capsys, "evaluate", tmp_path / "none")
    assert "is not a run folder" in refused(capsys, "evaluate", tmp_path)


def test_a_run_without_validation_says_so(tmp_path, capsys):
    spec = tiny_spec(epochs=1)
    spec["data"]["validation"] = 0
    assert main(["train", str(write_spec(tmp_path, spec)), "--run-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert "use another with --split" in refused(capsys, "evaluate", tmp_path / "run", "--split", "validation")
    assert main(["evaluate", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trian"], "'trian' is not a command. Did you mean 'train'?"),
        (["xyz"], f"Allowed: {', '.join(sorted([*COMMANDS, 'help']))}."),
        (["train"], "train needs a spec: a file, or the name of one"),
        (["evaluate", "run", "--split", "train"], "invalid choice: 'train'"),
    ],
)
def test_wrong_words(words, text, capsys):
    assert text in refused(capsys, *words)


def test_a_set_that_is_not_in_the_language(tmp_path, capsys):
    spec = write_spec(tmp_path, tiny_spec())
    message = refused(capsys, "train", spec, "--set", "train.epoch=3", "--run-dir", tmp_path / "run")
    assert "epochs" in message
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_read_are_told_in_one_line_where_they_were_named(tmp_path, capsys):
    spec = tiny_spec()
    spec["data"] = {"dataset": "image_folder", "image_size": 32, "validation": "own"}
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            Image.new("L", (32, 32)).save(folder / "1.png")
    told = refused(capsys, "check", write_spec(tmp_path, spec), "--set", f"data.root={tmp_path / 'nowhere'}")
    assert told.startswith("--set  data.root\n")
    assert "\\n" not in told
    told = refused(capsys, "check", write_spec(tmp_path, spec), "--set", f"data.root={tmp_path / 'images'}")
    assert "data.validation" in told
    assert "\\n" not in told


def test_a_spec_that_is_not_there(tmp_path, capsys):
    assert "none.yaml" in refused(capsys, "train", tmp_path / "none.yaml")


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"encapkeras {__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    for name in COMMANDS:
        assert main([name, "--help"]) == 0


def test_help_has_no_colors(monkeypatch, capsys):
    """Python 3.14 has some, where there is a terminal or FORCE_COLOR."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for words in ([], ["train"], ["bench", "step"]):
        assert main([*words, "--help"]) == 0
        assert "\\x1b" not in capsys.readouterr().out


def in_a_process(*words, **options):
    return subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    "words", [["--help"], ["bench", "step", "--help"], ["-V"], ["trian"], ["train", "--epochs", "3"], ["quickstart"]]
)
def test_help_imports_nothing_heavy(words):
    code = "import sys; from encapkeras.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"keras", "torch", "numpy", "pydantic", "yaml", "rich", "torchvision", "sklearn"}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(writing, "wb") as pipe:
        command = [sys.executable, "-c", PROGRAM, "--help"]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.stderr == ""
    assert done.returncode == 1


def test_exit_code_of_the_process():
    done = in_a_process("trian")
    assert done.returncode == 2
    assert done.stderr.endswith("'trian' is not a command. Did you mean 'train'?\n")


def test_ctrl_c_keeps_the_last_checkpoint(tmp_path, capsys):
    spec = write_spec(tmp_path, tiny_spec(epochs=100_000))
    command = [*warm_python(), "-c", PROGRAM, "train", str(spec), "--run-dir", str(tmp_path / "run")]
    returncode, _, message = interrupted(command, "epoch")
    assert returncode == 130
    first, told = message.split("\n", 2)[1:]
    assert first == "ending after this step or validation; Ctrl-C once more ends at once"
    assert re.fullmatch(
        r"ended by SIGINT at .*epoch \d+.*; .* has all that is needed to resume\. The weights after epoch .*\n", told
    )
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    note, device = capsys.readouterr().err.splitlines()
    assert "is unfinished" in note
    assert device.startswith("computed on ")


def test_a_best_checkpoint_that_is_gone_is_not_replaced_by_the_last(run_folder, tmp_path, capsys):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best.keras").unlink()
    assert "best.keras is missing" in refused(capsys, "evaluate", tmp_path / "run")


def test_a_disk_error_is_a_message_and_loses_nothing(tmp_path):
    """The operating system refuses files above 300 kB: the spec fits, a checkpoint does not."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); {PROGRAM}"
    wide = tiny_spec()
    wide["model"]["nodes"]["hidden"]["units"] = 2000
    spec, run = write_spec(tmp_path, wide), tmp_path / "run"
    command = [*warm_python(), "-c", limited, "train", str(spec), "--run-dir", str(run)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "epoch_1_step_0.pt could not be written: File too large." in done.stderr
    assert "epoch 1/" not in done.stdout  # told before the training
    assert "Traceback" not in done.stderr
    assert [path for path in (run / "checkpoints").rglob("*.*") if path.is_file() and path.name != ".lock"] == []


def test_a_damaged_checkpoint_is_a_message(run_folder, tmp_path, capsys):
    damaged = tmp_path / "run"
    shutil.copytree(run_folder, damaged)
    best = damaged / "checkpoints" / "best.keras"
    best.write_bytes(best.read_bytes()[:1000])
    message = refused(capsys, "evaluate", damaged)
    assert "best.keras' cannot be loaded: it is not a .keras file, or is damaged" in message
    assert "not found" not in message


def trained_on_arrays(folder, capsys):
    """A run on a .npz file of 24 images of 8x8 in three classes, and that file."""
    arrays = write_npz(folder / "a.npz", **arrays_of(24))
    spec = tiny_spec(epochs=1)
    spec["data"] = {"dataset": "npz", "path": str(arrays), "batch_size": 8}
    spec["model"]["nodes"]["pool"]["pool_size"] = 2
    assert main(["train", str(write_spec(folder, spec)), "--run-dir", str(folder / "run")]) == 0
    capsys.readouterr()
    return folder / "run", arrays


def arrays_of(count, size=8, classes=3):
    images, labels = random_images(count, size, size), cycling_labels(count, classes)
    return {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"classes": 5}, "has shape (3,); it must be (5,), one score per class of the data set"),
        ({"size": 16}, "takes inputs of shape (8, 8, 1); the images of the data set are (16, 16, 1)"),
    ],
)
def test_evaluate_on_arrays_that_no_longer_fit(tmp_path, capsys, change, text):
    run, arrays = trained_on_arrays(tmp_path, capsys)
    write_npz(arrays, **arrays_of(25, **change))
    assert text in refused(capsys, "evaluate", run)


def test_evaluate_on_a_spec_that_has_lost_its_data(run_folder, tmp_path, capsys):
    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / "spec.yaml"
    spec = yaml.safe_load(path.read_text())
    del spec["data"]
    spec["model"]["inputs"] = {"image": [32, 32, 1]}
    path.write_text(yaml.safe_dump(spec))
    assert "names no data" in refused(capsys, "evaluate", tmp_path / "run")


def test_evaluate_without_enough_memory(run_folder, capsys, monkeypatch):
    def fail(self):
        raise MemoryError

    monkeypatch.setattr(Batches, "__iter__", fail)
    assert refused(capsys, "evaluate", run_folder).startswith("out of memory. By the estimate")


def test_commands_but_train_are_refused_where_torchrun_has_started_several(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["specs"]) == 2
    assert "torchrun has started 2 processes; only the command train works in several" in capsys.readouterr().err


def test_train_says_once_which_folders_are_not_used(tmp_path, capsys):
    """Warnings are errors here: the second one, of the images that are loaded, would end the training."""
    write_image_folder(tmp_path / "photos", {"train": 6, "valid": 1, "test": 2})
    spec = tiny_spec(epochs=1)
    spec["data"] = {"dataset": "image_folder", "root": str(tmp_path / "photos"), "image_size": 8, "channels": 1}
    words = ["train", str(write_spec(tmp_path, spec)), "--run-dir", str(tmp_path / "run")]
    assert main(words) == 0
    assert capsys.readouterr().err.count("folders that are not used: 'valid'") == 1
