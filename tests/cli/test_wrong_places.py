"""A file, a folder or a name where a command takes another kind: what it is, and what to give instead."""

import pytest
from support.commands import refused


@pytest.fixture
def here(tiny_run, tmp_path, monkeypatch):
    """A folder with runs/first, specs and photos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(tiny_run)
    for name in ("specs/mine.yaml", "photos/1.png", "mine.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("runs", "spec.yaml and environment.json are missing. It holds 1 run; the newest is runs/first\n"),
        ("rusn/firts", "Did you mean runs/first?"),
        ("runs/first/checkpoints", "Did you mean runs/first?"),
        ("runs/first/checkpoints/best.keras", "Did you mean runs/first?"),
        ("quickstart", "'quickstart' is a spec: a run is what 'encapkeras train' makes of it."),
        ("specs/mine.yaml", "'specs/mine.yaml' is a spec: a run is what"),
        ("photos", "'encapkeras runs' lists the runs here."),
    ],
)
def test_what_is_no_run(given, hint, here, capsys):
    assert hint in refused(capsys, "evaluate", given)


def test_no_run_at_all(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "There are no runs in the folder runs here." in refused(capsys, "evaluate", "photos")


def test_predict_in_the_wrong_order(here, capsys):
    assert "takes the run first, then the images" in refused(capsys, "predict", "photos/1.png", "runs/first")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("specs", "this is a folder; name a spec in it, such as 'specs/mine.yaml'"),
        ("photos", "encapkeras new mine.yaml --dataset image_folder --root photos"),
        ("runs/first", "this is the folder of a run; its spec is 'runs/first/spec.yaml'"),
        ("runs/first/checkpoints/best.keras", "this is a trained network; a spec is a YAML or JSON file"),
        ("mine.py", "Layers of your own are loaded with --plugin"),
        ("quik", "Did you mean 'quickstart'?"),
        ("svhn", "Did you mean 'encapnet_svhn' or 'self_routing_resnet20_svhn'?"),
        ("digits", "Did you mean 'capsnet_dynamic_digits' or "),
        ("wheel", "'encapkeras specs' lists those that there are."),
    ],
)
def test_what_is_no_spec(given, hint, here, capsys):
    assert hint in refused(capsys, "show", given)


def test_export_takes_what_evaluate_takes_and_models(here, capsys):
    assert "Did you mean runs/first?" in refused(capsys, "export", "runs/firts", "--format", "keras")
    assert "is a spec: a run is what" in refused(capsys, "export", "quickstart", "--format", "keras")
