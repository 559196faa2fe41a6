"""What can be built but is surely a slip gives a warning; what may be meant gives none."""

import numpy as np
import pytest
from support.tiny_spec import tiny_spec

from encapkeras import check_spec, load_spec
from encapkeras.data import DataSettings, describe, load
from encapkeras.spec.bundled import bundled_specs

CAPSULES = {
    "spec": "encapkeras/1",
    "data": {"dataset": "digits", "image_size": 8},
    "model": {
        "nodes": {
            "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 4, "strides": 2},
            "stage": {"layer": "capsule_stage", "inputs": "stem", "types": 2, "dim": 4},
            "digits": {"layer": "capsule_dense", "inputs": "stage", "capsules": "$classes", "dim": 4},
            "lengths": {"layer": "capsule_length", "inputs": "digits"},
        },
        "outputs": {"classes": "lengths"},
    },
    "losses": {"classes": {"loss": "margin"}},
}

# Weights of 20, the authors' for 600 epochs, in shorter trainings.
HEAVY_TRANSPORT = {f"encapnet_{end}" for end in ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "ot_digits")}


def warnings(spec, *overrides, check=check_spec):
    """The path and the text of each warning."""
    return {warning.path: warning.message for warning in check(spec, list(overrides)).warnings}


def only(found, path):
    """The text of the one warning, which is at this path."""
    assert list(found) == [path], found
    return found[path]


@pytest.mark.parametrize("file", sorted(bundled_specs().glob("*.yaml")), ids=lambda file: file.stem)
def test_no_spec_that_comes_with_encapkeras_has_a_warning_but_of_heavy_transport(file):
    found = load_spec(file).warnings
    assert [problem.path for problem in found] == ["losses.align3.weight"] * (file.stem in HEAVY_TRANSPORT)


@pytest.mark.parametrize("spec", [CAPSULES, tiny_spec(), "encapnet_ot", "resnet14", "capnet_em"], ids=str)
def test_nor_are_their_shapes(spec):
    assert not warnings(spec)


def test_warnings_are_sorted_and_no_mistakes(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("extends: quickstart.yaml\nvars: {typs: 4}\ndata: {batch_size: 5000}\n")
    found = check_spec(file).warnings
    assert [(warning.line, warning.column, warning.severity) for warning in found] == [
        (2, 8, "warning"),
        (3, 8, "warning"),
    ]


class TestNodes:
    def test_a_node_that_reaches_nothing_is_named_with_those_that_serve_it_alone(self):
        text = only(warnings(CAPSULES, "model.outputs.classes=stem", "losses=null"), "model.nodes.lengths")
        assert text.startswith("reaches no output and no side loss, and is not part of the network; nor do ")
        assert "; nor do stage, digits, which nothing else needs. " in text

    def test_a_node_that_serves_two_unused_ones_is_named_once(self):
        spec = tiny_spec()
        for name, below in (("a", "pool"), ("b", "a"), ("c", "a")):
            spec["model"]["nodes"][name] = {"layer": "keras.ReLU", "inputs": below}
        found = warnings(spec)
        assert list(found) == ["model.nodes.b", "model.nodes.c"]
        assert "nor does a, " in found["model.nodes.b"]
        assert "nor" not in found["model.nodes.c"]

    def test_a_node_that_a_side_loss_needs_is_used(self):
        decoded = {"loss": "reconstruction", "capsules": "digits", "image": "image", "hidden": [4]}
        spec = {**CAPSULES, "losses": {"decoded": decoded}}
        spec["model"] = {**CAPSULES["model"], "outputs": {"classes": "stem"}}
        assert list(warnings(spec)) == ["model.nodes.lengths"]

    @pytest.mark.parametrize("rate", [0, 0.5])
    def test_a_dropout_may_drop_nothing(self, rate):
        assert not warnings(tiny_spec(), f"model.nodes.drop.rate={rate}")

    def test_a_dropout_of_everything(self):
        found = warnings(tiny_spec(), "model.nodes.drop.rate=1")
        assert only(found, "model.nodes.drop.rate").startswith("drops everything in training")


class TestShapes:
    def test_squash_of_capsules_of_one_dimension(self):
        found = warnings(CAPSULES, "model.nodes.stage.dim=1", "model.nodes.digits.dim=1")
        assert set(found) == {"model.nodes.stage.dim", "model.nodes.digits.dim"}
        assert "have dimension 1: squash leaves one number" in found["model.nodes.stage.dim"]
        assert not load_spec(CAPSULES, ["model.nodes.stage.dim=1", "model.nodes.digits.dim=1"]).warnings

    @pytest.mark.parametrize(("squash", "count"), [("true", 1), ("false", 0)])
    def test_primary_capsules_need_not_squash(self, squash, count):
        spec = {**CAPSULES, "model": {"nodes": {}, "outputs": {"classes": "stage"}}, "losses": {}}
        node = {"layer": "primary_capsules", "inputs": "image", "types": 2, "dim": 1, "kernel_size": 3}
        spec["model"]["nodes"]["stage"] = node
        assert len(warnings(spec, f"model.nodes.stage.squash={squash}")) == count

    def test_scores_that_are_not_one_for_each_class(self):
        found = warnings(CAPSULES, "model.nodes.digits.capsules=11")
        assert only(found, "model.outputs.classes").startswith("outputs (11,), and the data set has 10 classes")


class TestVariablesAndBlocks:
    def test_a_variable_that_nothing_reads(self):
        found = warnings({**tiny_spec(), "vars": {"a": 1, "b": "$a", "units": 32}}, "model.nodes.hidden.units=$units")
        assert only(found, "vars.b") == "nothing reads the variable 'b'. Write '$b' somewhere, or remove it."

    def test_a_slip_in_the_name_of_a_variable_of_the_base(self):
        found = warnings({"extends": "quickstart.yaml", "vars": {"typs": 4}})
        assert only(found, "vars.typs") == "nothing reads the variable 'typs'. Did you mean 'types'?"

    def test_what_a_base_gives_may_stay_unread(self, tmp_path):
        block = "{nodes: {a: {layer: keras.ReLU, inputs: input}}, output: a}"
        (tmp_path / "base.yaml").write_text(
            f"extends: quickstart.yaml\nvars: {{spare: 1}}\nblocks: {{spare: {block}}}\n"
        )
        (tmp_path / "a.yaml").write_text("extends: base.yaml\n")
        assert not warnings(tmp_path / "a.yaml")
        (tmp_path / "b.yaml").write_text("extends: base.yaml\nvars: {spare: 2}\n")
        assert list(warnings(tmp_path / "b.yaml")) == ["vars.spare"]
        (found,) = check_spec(tmp_path / "a.yaml", ["vars.spare=3"]).warnings
        assert (found.file, found.path) == ("--set", "vars.spare")

    def test_a_block_that_no_node_uses(self):
        block = {"nodes": {"a": {"layer": "keras.ReLU", "inputs": "input"}}, "output": "a"}
        spec = {**tiny_spec(), "blocks": {"used": block, "idle": block}}
        spec["model"]["nodes"]["hidden2"] = {"layer": "block.used", "inputs": "hidden"}
        found = warnings(spec, "model.nodes.drop.inputs=hidden2")
        assert only(found, "blocks.idle").startswith("no node uses the block 'idle'.")


class TestData:
    @pytest.mark.parametrize(("batch", "validation", "left"), [(1437, 0, 0), (1438, 0, 1437), (1294, 0.1, 1293)])
    def test_a_batch_larger_than_the_data(self, batch, validation, left):
        found = warnings(tiny_spec(), f"data.batch_size={batch}", f"data.validation={validation}")
        if left:
            text = only(found, "data.batch_size")
            assert text.startswith(f"a batch of {batch:,} is more than the {left:,} images to train with")
        else:
            assert not found

    def test_the_place_is_the_section_where_the_size_is_not_written(self, tmp_path):
        images, labels = np.zeros((40, 4, 4), "uint8"), np.arange(40) % 2
        arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        np.savez(tmp_path / "a.npz", **arrays)
        spec = tiny_spec() | {"data": {"dataset": "npz", "path": str(tmp_path / "a.npz")}}
        assert only(warnings(spec, "model.nodes.pool.pool_size=2"), "data").startswith(
            "a batch of 64 is more than the 36"
        )

    @pytest.mark.parametrize(("validation", "count"), [(0, 0), (0.007, 0), (0.006, 1), (1e-4, 1)])
    def test_a_validation_part_smaller_than_the_classes(self, validation, count):
        found = warnings(tiny_spec(), f"data.validation={validation}")
        assert len(found) == count
        if count:
            assert f"holds out {round(1437 * validation)} of 1,437 images" in only(found, "data.validation")

    @pytest.mark.parametrize("setting", ["early_stopping={patience: 1}", "analysis={every: 1}"])
    def test_what_needs_validation_images(self, setting):
        found = warnings(tiny_spec(), f"train.{setting}", "data.validation=0")
        assert only(found, f"train.{setting.partition('=')[0]}").startswith("needs validation images")

    def test_optimal_transport_with_one_image(self):
        align = {"loss": "optimal_transport", "latent": "stage", "target": "stage/main", "critic": "none"}
        spec = {**CAPSULES, "losses": {**CAPSULES["losses"], "align": align}}
        assert not warnings(spec)
        assert "with one image 'align' is always 0" in only(warnings(spec, "data.batch_size=1"), "data.batch_size")
        assert not warnings(CAPSULES, "data.batch_size=1")

    def test_a_data_set_says_how_many_images_it_has(self):
        settings = DataSettings(dataset="digits", validation=0)
        assert describe(settings).train_images == load(settings, seed=0).train.num_images


STEPS = {"kind": "step", "milestones": [3, 5]}


class TestTraining:
    @pytest.mark.parametrize(("epochs", "count"), [(1, 0), (2, 1), (3, 1), (4, 0)])
    def test_milestones_behind_the_end(self, epochs, count):
        found = warnings(tiny_spec(epochs=epochs, schedule=STEPS), check=load_spec)
        assert list(found) == ["train.schedule.milestones"] * count

    @pytest.mark.parametrize(("patience", "count"), [(1, 0), (2, 1)])
    def test_a_patience_that_outlasts_the_training(self, patience, count):
        found = warnings(tiny_spec(early_stopping={"patience": patience}), check=load_spec)
        assert list(found) == ["train.early_stopping.patience"] * count

    def test_a_short_trial_of_a_long_recipe_is_no_slip(self):
        assert not warnings("resnet14", "train.epochs=3", check=load_spec)


def test_many_warnings_are_no_mistake():
    spec = tiny_spec() | {"vars": {f"v{i}": i for i in range(300)}}
    spec["model"]["nodes"]["idle$i"] = {
        "repeat": [{"i": i} for i in range(300)],
        "layer": "keras.ReLU",
        "inputs": "hidden",
    }
    found = load_spec(spec).warnings
    assert len(found) == 301
    assert [warning.note for warning in found if warning.path == "model.nodes.idle$i"] == [""]  # all rows


def test_many_nodes_that_serve_an_unused_one_are_not_all_named():
    spec = tiny_spec()
    spec["model"]["nodes"]["idle$i"] = {
        "repeat": [{"i": i} for i in range(20)],
        "layer": "keras.ReLU",
        "inputs": "$previous",
    }
    text = only(warnings(spec, "model.nodes.idle$i.repeat.0={i: 0}", check=load_spec), "model.nodes.idle$i")
    assert "; nor do idle0, idle1, idle2, idle3, idle4, 14 more, which nothing else needs" in text


class TestTransport:
    def test_a_heavy_one_is_named_with_a_weight_that_rises(self):
        text = only(warnings("encapnet_svhn", check=load_spec), "losses.align3.weight")
        assert text.startswith("with a weight of 20 (all together 40), ")
        ramp = text.partition("'weight: ")[2].partition("'")[0]
        assert ramp == "{from: 0, to: 20, epochs: 10}"
        assert not warnings("encapnet_svhn", f"losses.align3.weight={ramp}", "losses.align4.weight=1", check=load_spec)

    @pytest.mark.parametrize("epochs", [1, 99])
    def test_one_that_is_heavy_in_a_short_training_is_named(self, epochs):
        text = only(warnings("encapnet_ot", f"train.epochs={epochs}", check=load_spec), "losses.align3.weight")
        assert ("let it rise" in text) == (epochs > 1)

    @pytest.mark.parametrize("weight", [1, 5, {"from": 0, "to": 20, "epochs": 2}])
    def test_a_light_one_and_one_that_rises_are_not(self, weight):
        weights = [f"losses.{name}.weight={weight}" for name in ("align3", "align4")]
        assert not warnings("encapnet_svhn", *weights, check=load_spec)

    def test_it_is_compared_with_the_losses_on_the_classes(self):
        assert not warnings("encapnet_svhn", "losses.classes.weight=4", check=load_spec)
        assert not warnings("encapnet_svhn", "losses.classes.weight=0", check=load_spec)

    def test_a_ramp_that_training_ends_within(self, tmp_path):
        file = tmp_path / "a.yaml"
        ramp = "{weight: {from: 0, to: 20, epochs: 12}}"
        file.write_text(f"extends: encapnet_ot_digits.yaml\nlosses: {{align3: {ramp}, align4: {{weight: 1}}}}\n")
        text = only(warnings(file, check=load_spec), "losses.align3.weight.epochs")
        assert text.startswith("the training ends, after 12 epochs, before the weight is 20. ")
