"""Keys in the wrong section, words of other libraries, and scalars in place of maps get a hint at what was meant."""

import pytest

from encapkeras import SpecError, load_spec


def message(*changes):
    with pytest.raises(SpecError) as caught:
        load_spec("quickstart", changes)
    (problem,) = caught.value.problems
    return problem.message


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ("epochs=1", "train.epochs"),
        ("n_epochs=1", "train.epochs"),
        ("lr=0.1", "train.optimizer.learning_rate"),
        ("train.lr=0.1", "train.optimizer.learning_rate"),
        ("learning_rate=0.1", "train.optimizer.learning_rate"),
        ("optimizer.lr=0.1", "train.optimizer"),
        ("train.batch_size=3", "data.batch_size"),
        ("batch_size=3", "data.batch_size"),
        ("data.seed=3", "train.seed"),
        ("train.mirror=true", "data.augment.mirror"),
        ("data.random_state=3", "train.seed"),
        ("layers={}", "model.nodes"),
        ("model.loss={}", "losses"),
        ("train.momentum=0.9", "train.optimizer.momentum' or 'train.ema.momentum"),
        ("epochs=null", "train.epochs"),
    ],
)
def test_a_key_of_another_section_is_named_with_its_path(change, meant):
    assert message(change).endswith(f"Did you mean '{meant}'?")


def test_null_deletes_what_a_base_has_though_the_rest_does_not_know_it(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {optimizer: {kind: sgd, momentum: 0.5}}\nextends: quickstart.yaml\n")
    (tmp_path / "b.yaml").write_text(
        "spec: encapkeras/1\nname: b\nextends: a.yaml\ntrain: {optimizer: {kind: adam, momentum: null}, x-note: null}\n"
    )
    spec = load_spec(tmp_path / "b.yaml", ["train.schedule=null", "data.augment=null"])
    assert spec.train.optimizer.kind == "adam"


@pytest.mark.parametrize("change", ["train={epochs:3}", "data.augment={epochs:3, mirror: true}"])
def test_a_colon_without_a_space_is_not_taken_for_a_key_without_a_value(change):
    assert message(change).startswith("'epochs:3' has no value. Write a space after the colon: 'epochs: 3'")


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ("train.n_epochs=1", "epochs"),
        ("data.validation_split=0.1", "validation"),
        ("data.augment.hflip=true", "mirror"),
        ("train.optimizer.lr=0.1", "learning_rate"),
        ("model.nodes.digits.capsule_dim=3", "dim"),
        ("train.epoch=null", "epochs"),
        ("train.optimizer.lr=null", "learning_rate"),
        ("data.batchsize=null", "batch_size"),
        ("model.node=null", "nodes"),
        ("losess=null", "losses"),
    ],
)
def test_a_slip_or_a_word_of_another_library_is_named_as_ours_also_if_it_is_null(change, meant):
    assert message(change).endswith(f"Did you mean '{meant}'?")


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ("train.optimizer=SGD", "train.optimizer.kind=sgd"),
        ("train.schedule=cosine", "train.schedule.kind=cosine"),
        ("train.weight_decay=1e-4", "train.weight_decay.rate=0.0001"),
        ("train.early_stopping=5", "train.early_stopping.patience=5"),
        ("train.ema=0.9", "train.ema.momentum=0.9"),
    ],
)
def test_a_scalar_in_place_of_a_map_is_given_its_key(change, meant):
    assert message(change).endswith(f"Did you mean --set {meant}?")
    load_spec("quickstart", [meant])


def test_in_a_file_the_map_is_written_out():
    with pytest.raises(SpecError) as caught:
        load_spec({"extends": "quickstart.yaml", "train": {"optimizer": "sgd"}})
    assert caught.value.problems[0].message.endswith("Did you mean 'optimizer: {kind: sgd}'?")


@pytest.mark.parametrize("change", ["train.optimizer=nadam", "train.ema=3", "data.augment=3", "nothing_like_it=1"])
def test_without_a_good_guess_there_is_no_hint(change):
    assert "Did you mean" not in message(change)


def test_what_specs_do_not_say_has_its_own_hint():
    assert "$classes" in message("data.num_classes=10")
    assert "keras.Activation" in message("model.nodes.stem.activation=relu")
