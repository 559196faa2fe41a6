"""What ties a run together: its images, its checkpoints and its resume states, wherever they are."""

import importlib
import json
import shlex
import shutil
import zipfile
from types import ModuleType

import numpy as np
import pytest
from support.commands import refused
from support.dataset_files import write_image, write_image_folder
from support.tiny_spec import tiny_spec, write_spec

from encapkeras import load_spec
from encapkeras.callbacks import MetricsFile, NonFiniteStop
from encapkeras.cli.main import main
from encapkeras.comparison.compare import compare
from encapkeras.errors import DataError, DistributionError, TrainingError
from encapkeras.plugins import Plugin
from encapkeras.training import train
from encapkeras.training.run.run_folder import RunFolder

TRAIN = importlib.import_module("encapkeras.training.train")  # the package has the function under this name


class Killed(Exception):
    """The process ends here."""


def spec_of(root, **train):
    """A tiny spec of image files, or of an .npz file."""
    spec = tiny_spec(**{"epochs": 2, "resume_state": {"minutes": 1e-9}, **train})
    own = {"dataset": "npz", "path": str(root)} if root.suffix else {"dataset": "image_folder", "root": str(root)}
    spec["data"] = {**own, "batch_size": 8, "validation": 0.25, "workers": 0}
    spec["data"] |= {} if root.suffix else {"image_size": 8, "channels": 1}
    return spec


def photos(root):
    return write_image_folder(root, {"": 10})


def npz(path, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {f"{part}_images": rng.integers(256, size=(24, 8, 8), dtype=np.uint8) for part in ("train", "test")}
    np.savez(path, **arrays, train_labels=np.arange(24) % 3, test_labels=np.arange(24) % 3)
    return path


def cut_short(spec, run, monkeypatch, in_epoch=1):
    """A run whose process ended after it had saved the weights of an epoch."""

    def end(self, epoch, logs=None):
        if epoch + 1 == in_epoch:
            raise Killed
        return writes(self, epoch, logs)

    writes = MetricsFile.on_epoch_end
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MetricsFile, "on_epoch_end", end)
        train(load_spec(spec), run)
    return run


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def renamed(root):
    (root / "dog").rename(root / "doggy")


def swapped(path):
    npz(path, seed=1)


@pytest.mark.parametrize(
    ("make", "change", "said"),
    [
        (photos, lambda root: write_image(root / "cat/00.png"), "24 training images there, 25 here (of 'cat' 8 there"),
        (photos, renamed, "class 1 is 'dog' there and 'doggy' here"),
        (npz, swapped, "training images of '0', '1', '2' are others; test images of '0', '1', '2' are others"),
    ],
)
def test_a_run_is_not_continued_with_other_images(tmp_path, monkeypatch, capsys, make, change, said):
    data = make(tmp_path / ("photos.npz" if make is npz else "photos"))
    run = cut_short(spec_of(data), tmp_path / "run", monkeypatch)
    before = files(run)
    change(data)
    capsys.readouterr()
    message = refused(capsys, "train", "--resume", run)
    assert f"run {run} was started with other images: {said}" in message
    assert files(run) == before


@pytest.mark.parametrize("make", [photos, npz])
def test_the_data_of_a_run_may_move(tmp_path, monkeypatch, capsys, make):
    data = make(tmp_path / ("photos.npz" if make is npz else "photos"))
    run = cut_short(spec_of(data), tmp_path / "run", monkeypatch)
    moved = tmp_path / "elsewhere" / data.name
    moved.parent.mkdir()
    data.rename(moved)
    capsys.readouterr()
    for command in (["train", "--resume", run], ["evaluate", run], ["analyse", run]):
        message = refused(capsys, *command)
        assert f"the images of run {run} cannot be used: {data}" in message
        assert "give their place with --data-root." in message
        assert "damaged" not in message
    assert main(["evaluate", str(run), "--data-root", str(moved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"]
    shutil.copytree(run, tmp_path / "other")
    key = "path" if make is npz else "root"
    assert main(["train", "--resume", str(run), "--set", f"data.{key}={moved}"]) == 0
    assert f"changed since the run was started: data.{key} is '{data}' there" in capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0
    monkeypatch.chdir(moved.parent)
    assert main(["train", "--resume", str(tmp_path / "other"), "--data-root", "." if make is npz else data.name]) == 0
    assert main(["train", "--resume", str(run), "--data-root", str(moved)]) == 0  # finished already


def test_what_lies_below_the_folder_of_the_data_moves_with_it(tmp_path, capsys):
    for wnid in ("n00000001", "n00000002"):
        write_image_folder(tmp_path / "here", {"train": 4, "val": 2}, (wnid,))
    (tmp_path / "here" / "classes.txt").write_text("n00000001\nn00000002\n")
    spec = spec_of(tmp_path / "here", epochs=1)
    spec["data"] |= {"dataset": "h_imagenet", "class_list": str(tmp_path / "here" / "classes.txt")}
    train(load_spec(spec), tmp_path / "run")
    (tmp_path / "here").rename(tmp_path / "there")
    assert main(["evaluate", str(tmp_path / "run"), "--data-root", str(tmp_path / "there")]) == 0
    assert "other images" not in capsys.readouterr().err


def test_each_path_of_the_data_may_move(tmp_path, capsys):
    for wnid in ("n00000001", "n00000002"):
        write_image_folder(tmp_path / "here", {"train": 4, "val": 2}, (wnid,))
    (tmp_path / "list.txt").write_text("n00000001\nn00000002\n")
    spec = spec_of(tmp_path / "here", epochs=1)
    spec["data"] |= {"dataset": "h_imagenet", "class_list": str(tmp_path / "list.txt")}
    run = tmp_path / "run"
    train(load_spec(spec), run)
    (tmp_path / "list.txt").rename(tmp_path / "names.txt")
    advice = "If data.class_list is elsewhere now, give its place with --set data.class_list=PATH."
    capsys.readouterr()
    message = refused(capsys, "evaluate", run)
    assert advice in message and "--data-root" not in message
    moved = ["--set", f"data.class_list={tmp_path / 'names.txt'}"]
    assert main(["evaluate", str(run), *moved]) == 0
    capsys.readouterr()
    assert "has no routing layer" in refused(capsys, "analyse", run, *moved)
    (tmp_path / "here").rename(tmp_path / "there")
    capsys.readouterr()
    assert f"with --data-root. {advice}" in refused(capsys, "evaluate", run)
    message = refused(capsys, "evaluate", run, "--data-root", tmp_path / "there")
    assert advice in message and "--data-root" not in message
    message = refused(capsys, "evaluate", run, *moved)
    assert message.count("give ") == 1 and "give their place with --data-root." in message
    assert main(["evaluate", str(run), "--data-root", str(tmp_path / "there"), *moved]) == 0
    capsys.readouterr()
    for other in ("train.epochs=2", "data.validation=0.5", "model"):
        message = refused(capsys, "evaluate", run, "--set", other)
        assert f"--set '{other}': of a trained run, only the paths of its data set can be set: data.root, " in message


@pytest.mark.parametrize("name", ["config.json", "encapkeras.json"])
def test_a_small_checkpoint_that_unpacks_to_much_is_refused_at_once(tmp_path, capsys, name):
    run = tmp_path / "run"
    train(load_spec(tiny_spec(epochs=1)), run)
    content = {"config.json": '{"config": {}}', "encapkeras.json": "{}", name: "[" + "1," * 10**7 + "1]"}
    with zipfile.ZipFile(run / "checkpoints" / "best.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in content.items():
            archive.writestr(member, text)
    capsys.readouterr()
    assert f"best.keras cannot be read as a checkpoint: its {name} has more than" in refused(capsys, "evaluate", run)


def test_a_run_without_files_has_no_other_place(tmp_path, capsys):
    train(load_spec(tiny_spec(epochs=1)), tmp_path / "run")
    capsys.readouterr()
    assert "data set 'digits' has no folder or file" in refused(
        capsys, "evaluate", tmp_path / "run", "--data-root", tmp_path
    )
    path = write_spec(tmp_path, tiny_spec())
    assert "--data-root belongs to --resume without a spec" in refused(capsys, "train", path, "--data-root", tmp_path)


def test_a_spec_that_is_damaged_is_called_so(tmp_path, monkeypatch, capsys):
    run = cut_short(spec_of(photos(tmp_path / "photos")), tmp_path / "run", monkeypatch)
    whole = (run / "spec.yaml").read_text()
    capsys.readouterr()
    for text in (whole.replace("epochs: 2", "epochs: many"), "{", whole.replace("image_folder", "no_such")):
        (run / "spec.yaml").write_text(text)
        for command in (["train", "--resume", run], ["evaluate", run]):
            message = refused(capsys, *command)
            assert "its spec.yaml is damaged. Put back the one that the training wrote." in message
            assert "remove" not in message


def test_runs_of_earlier_versions_know_no_images(tmp_path, monkeypatch, capsys):
    run = cut_short(spec_of(photos(tmp_path / "photos")), tmp_path / "run", monkeypatch)
    forget(run, "data", "run")
    write_image(tmp_path / "photos/cat/00.png")
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert "other images" not in capsys.readouterr().err
    assert main(["train", "--resume", str(run)]) == 0
    assert "the run has no note of its images" in capsys.readouterr().out


def forget(run, *keys):
    environment = json.loads((run / "environment.json").read_text())
    kept = {key: value for key, value in environment.items() if key not in keys}
    (run / "environment.json").write_text(json.dumps(kept))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train(load_spec(spec_of(photos(folder / "photos"), epochs=1)), folder / "run")
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """The folder of its images and of its run; the run does not know that the images were copied."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    spec = tmp_path / "run" / "spec.yaml"
    spec.write_text(spec.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path


def test_other_images_are_said_when_a_run_is_measured(copied, capsys):
    write_image(copied / "photos/cat/00.png")
    said = "run with other images (there) than these (here): 24 training images there, 25 here"
    for command in (["evaluate"], ["evaluate", "--per-class"], ["evaluate", "--affine", "--images", "3"]):
        capsys.readouterr()
        assert main([*command, str(copied / "run")]) == 0
        assert said.removeprefix("run with ") in capsys.readouterr().err


def test_runs_with_other_test_images_do_not_stand_side_by_side(tmp_path, capsys):
    for seed in (0, 1):  # with equal labels
        train(load_spec(spec_of(npz(tmp_path / f"{seed}.npz", seed), epochs=1)), tmp_path / f"run_{seed}")
    capsys.readouterr()
    message = refused(capsys, "evaluate", tmp_path / "run_0", tmp_path / "run_1", "--affine", "--images", 3)
    assert "the test images of" in message
    assert "are not those of" in message


def test_a_class_that_was_renamed_is_seen(copied, capsys):
    (copied / "photos/dog").rename(copied / "photos/doggy")
    assert main(["evaluate", str(copied / "run")]) == 0
    assert "class 1 is 'dog' there and 'doggy' here" in capsys.readouterr().err
    (copied / "photos/doggy").rename(copied / "photos/bird")
    message = refused(capsys, "evaluate", copied / "run")
    assert "the classes of 'tiny' (there) are not those of the data set (here)" in message
    assert "class 0 is 'cat' there and 'bird' here, class 1 is 'dog' there and 'cat' here" in message
    forget(copied / "run", "data")
    assert "class 0 is 'cat' there and 'bird' here" in refused(capsys, "evaluate", copied / "run")


def test_a_checkpoint_of_another_run_is_refused(copied, capsys):
    best = copied / "run/checkpoints/best.keras"
    train(load_spec(spec_of(copied / "photos", epochs=1, seed=1)), copied / "other")
    shutil.copy(copied / "other/checkpoints/best.keras", best)
    capsys.readouterr()
    image = str(copied / "photos/cat/1.png")
    for command in (
        ["evaluate"],
        ["predict", image],
        ["explain", image],
        ["export", "--format", "keras"],
        ["analyse", "--checkpoint", "best"],
    ):
        message = refused(capsys, command[0], copied / "run", *command[1:])
        assert f"{best} is not a checkpoint of run {copied / 'run'}: it is of another run" in message


def test_a_checkpoint_of_another_network_is_refused_in_runs_of_earlier_versions(copied, capsys):
    spec = spec_of(copied / "photos", epochs=1)
    spec["model"]["nodes"]["hidden"]["units"] = 16
    train(load_spec(spec), copied / "other")
    shutil.copy(copied / "other/checkpoints/best.keras", copied / "run/checkpoints/best.keras")
    forget(copied / "run", "run")
    capsys.readouterr()
    assert "model.nodes.hidden.units is 16 there and 32 here" in refused(capsys, "evaluate", copied / "run")


def damage(best):
    content = bytearray(best.read_bytes())
    with zipfile.ZipFile(best) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.compress_size)
    content[largest.header_offset + largest.compress_size // 2] ^= 0xFF
    best.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda best: best.unlink(), "best.keras is missing"),
        (damage, "best.keras is damaged"),
        (lambda best: best.write_bytes(best.with_name("last.keras").read_bytes()), "is not the file that the training"),
    ],
)
def test_a_run_is_not_continued_without_its_best_weights(tmp_path, monkeypatch, capsys, change, said):
    spec = spec_of(photos(tmp_path / "photos"), epochs=4, resume_state={"minutes": None})
    run = cut_short(spec, tmp_path / "run", monkeypatch, in_epoch=3)  # the newest state is of its start
    best = run / "checkpoints/best.keras"
    mark_as(best.with_name("last.keras"), epoch=2)
    change(best)
    capsys.readouterr()
    message = refused(capsys, "train", "--resume", run)
    assert said in message
    assert "cannot be resumed without the weights of its best epoch so far" in message


def mark_as(checkpoint, epoch):
    """Let a checkpoint be that of another epoch of its run."""
    with zipfile.ZipFile(checkpoint) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["encapkeras.json"] = json.dumps({**json.loads(content["encapkeras.json"]), "epoch": epoch}).encode()
    with zipfile.ZipFile(checkpoint, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_best_weights_of_an_epoch_that_comes_again_are_no_damage(tmp_path, monkeypatch):
    spec = spec_of(photos(tmp_path / "photos"), epochs=3, resume_state={"minutes": None, "epochs": 5})
    run = cut_short(spec, tmp_path / "run", monkeypatch, in_epoch=3)
    assert train(load_spec(spec), run, resume=True)["best_epoch"]


def test_a_state_of_another_run_or_under_another_name_is_refused(tmp_path, monkeypatch, capsys):
    spec = spec_of(photos(tmp_path / "photos"), epochs=3)
    run, other = (cut_short(spec, tmp_path / name, monkeypatch, in_epoch=2) for name in ("run", "other"))
    states = sorted((run / "checkpoints/resume").glob("*.pt"))
    shutil.copytree(run, tmp_path / "renamed")
    for state in states:
        shutil.copy(other / "checkpoints/resume" / state.name, state)
    capsys.readouterr()
    assert "is of another run" in refused(capsys, "train", "--resume", run)
    folder = tmp_path / "renamed/checkpoints/resume"
    (folder / states[-1].name).rename(folder / "epoch_3_step_1.pt")
    assert "it was renamed" in refused(capsys, "train", "--resume", tmp_path / "renamed")


def test_a_comparison_does_not_mix_images(tmp_path, capsys):
    root = photos(tmp_path / "photos")
    spec = spec_of(root, epochs=1)
    compare([spec], [0], run_dir=tmp_path / "compared")
    root.rename(tmp_path / "moved")
    spec["data"]["root"] = str(tmp_path / "moved")
    reused = compare([spec], [0, 1], run_dir=tmp_path / "compared", resume=True)
    assert [run.reused for run in reused.runs] == [True, False]
    write_image(tmp_path / "moved/cat/00.png")
    with pytest.raises(TrainingError, match="was started with other images: 24 training images there, 25 here"):
        compare([spec], [0, 1, 2], run_dir=tmp_path / "compared", resume=True)


def test_trainings_that_start_in_the_same_second_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = load_spec(tiny_spec(epochs=1))
    free, first = RunFolder.default, RunFolder.default("tiny")
    names = [first, first]  # what both see before one of them makes it
    monkeypatch.setattr(RunFolder, "default", lambda name: names.pop() if names else free(name))
    first.path.mkdir(parents=True)
    train(spec)
    assert list(first.path.iterdir()) == []
    [other] = {path.parent for path in tmp_path.glob("runs/tiny/*/results.json")}
    assert other != tmp_path / first.path


@pytest.mark.parametrize("error", [TrainingError("refused"), KeyboardInterrupt()])
def test_a_training_that_is_refused_leaves_no_folder(tmp_path, monkeypatch, error):
    def refuse(*arguments, **options):
        assert len(list(tmp_path.glob("runs/*/*"))) == 1  # it is claimed
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TRAIN, "check_fits" if isinstance(error, TrainingError) else "build_model", refuse)
    with pytest.raises(type(error)):
        train(load_spec(tiny_spec(epochs=1)))
    assert list(tmp_path.iterdir()) == []


def test_what_ends_a_training_names_the_command_that_continues_it(tmp_path, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    path, run = write_spec(tmp_path, tiny_spec()), tmp_path / "my run"
    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "on_epoch_end", interrupt)
        assert main(["train", str(path), "--run-dir", str(run)]) == 130
    command = f"encapkeras train --resume '{run}'"
    assert capsys.readouterr().err.endswith(f" Continue with: {command}\n")
    assert refused(capsys, "train", path, "--run-dir", run).endswith(
        f"continue the unfinished run in it with: {command}\n"
    )
    assert main(["evaluate", str(run)]) == 0
    assert f"Continue the run with: {command}\n" in capsys.readouterr().err
    (run / "checkpoints/best.keras").unlink()
    (run / "checkpoints/last.keras").unlink()
    assert refused(capsys, "evaluate", run).endswith(f"Continue it with: {command}\n")


@pytest.mark.parametrize(
    ("clip_norm", "change"), [(None, "train.clip_norm=1"), (0.5, "train.optimizer.learning_rate=1e-06")]
)
def test_a_training_that_is_not_finite_is_continued_with_other_settings(
    tmp_path, monkeypatch, capsys, clip_norm, change
):
    def stop(self, epoch, logs=None):
        self._leave("the loss became nan.")

    spec, run = tiny_spec(clip_norm=clip_norm, optimizer={"kind": "adam", "learning_rate": 1e-5}), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(NonFiniteStop, "on_epoch_end", stop)
        assert main(["train", str(write_spec(tmp_path, spec)), "--run-dir", str(run)]) == 2
    command = f"encapkeras train --resume {run} --set {change}"
    assert capsys.readouterr().err.endswith(f" Continue with other settings: {command}\n")
    assert main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize("error", [DataError, DistributionError])
def test_errors_of_data_and_processes_say_how_to_continue(tmp_path, monkeypatch, error):
    def fail(self, epoch, logs=None):
        raise error("it is gone.")

    monkeypatch.setattr(MetricsFile, "on_epoch_end", fail)
    with pytest.raises(
        error, match=r"^it is gone\. The weights after epoch 1 .* Continue with: encapkeras train --resume"
    ):
        train(load_spec(tiny_spec()), tmp_path / "run")


def test_the_command_that_continues_a_run_has_its_plugins(tmp_path):
    file, path = tmp_path / "my layers.py", tmp_path / "run"
    file.touch()
    plugins = [
        Plugin(name, tmp_path / name, b"", ModuleType("mine"), {"layer": ["mine"]}) for name in (file.name, "gone.py")
    ]
    run = RunFolder(path)
    run.create({"name": "tiny"}, {"encapkeras": "1"}, False, 0, plugins)
    run.lock.close()
    assert run.resume_command == f"encapkeras train --resume {path} --plugin '{file}'"
