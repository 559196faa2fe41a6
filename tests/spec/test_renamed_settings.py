"""Old names of settings are read wherever new ones are, with a warning."""

import pytest
from support.tiny_spec import tiny_spec

from encapkeras import check_spec, load_spec
from encapkeras.model.examine import examine_spec

WARNING = "'train.checkpoints' is now called 'train.resume_state'. Write 'resume_state'."


def saved(spec):
    settings = spec.train.resume_state
    return settings.epochs, settings.minutes, settings.keep


def test_a_spec_with_the_old_name_means_the_same():
    old, new = (load_spec(tiny_spec(**{name: {"minutes": 3.0}})) for name in ("checkpoints", "resume_state"))
    assert old == new
    assert saved(old) == (1, 3.0, 2)
    assert [(warning.path, warning.message) for warning in old.warnings] == [("train.checkpoints", WARNING)]
    assert not new.warnings
    assert "checkpoints" not in old.resolved["train"]
    assert WARNING in [warning.message for warning in check_spec(tiny_spec(checkpoints={"minutes": 3.0})).warnings]


def test_old_and_new_names_lie_upon_each_other(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: quickstart.yaml\ntrain: {checkpoints: {minutes: 3.0, keep: 5}}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\ntrain: {resume_state: {keep: 4}}\n")
    spec = load_spec(tmp_path / "mine.yaml", ["train.checkpoints.epochs=2"])
    assert saved(spec) == (2, 3.0, 4)
    assert [warning.file for warning in spec.warnings] == ["--set", str(tmp_path / "base.yaml")]


@pytest.mark.parametrize(
    ("value", "expected"), [("{minutes: 3}", (1, 3.0, 2)), ("null", (1, 10.0, 2)), ("{keep: 1}", (1, 10.0, 1))]
)
def test_the_old_name_in_set(value, expected):
    assert saved(load_spec("quickstart", [f"train.checkpoints={value}"])) == expected


def test_the_old_name_in_a_sweep():
    spec = tiny_spec()
    spec["sweep"] = {"grid": {"train.checkpoints.minutes": [1.0, 2.0]}}
    examined = examine_spec(spec)
    assert [saved(variant.spec)[1] for variant in examined.variants] == [1.0, 2.0]
    assert WARNING in [warning.message.partition(" (")[0] for warning in examined.spec.warnings]


def test_what_is_wrong_under_the_old_name_is_an_error_there():
    with pytest.raises(ValueError, match=r"train.checkpoints.minuts\n.*Did you mean 'minutes'"):
        load_spec(tiny_spec(checkpoints={"minuts": 3.0}))
