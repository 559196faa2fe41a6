"""A real TensorBoard reads a finished training, and has something to show on every page."""

import struct
import urllib.parse

import pytest
from support.tensorboard_server import tensorboard

from encapkeras.spec.load import load_spec
from encapkeras.training import train

DRAWS = True  # see conftest.py
pytestmark = pytest.mark.slow

SPEC = {
    "spec": "encapkeras/1",
    "name": "everything",
    "data": {"dataset": "digits", "batch_size": 128},
    "model": {
        "nodes": {
            "stem": {"layer": "conv_bn_relu", "inputs": "image", "filters": 16, "strides": 2},
            "stage1": {"layer": "capsule_stage", "inputs": "stem", "types": 4, "dim": 4, "strides": 2},
            "stage2": {"layer": "capsule_stage", "inputs": "stage1", "types": 4, "dim": 8, "strides": 2},
            "digits": {"layer": "dynamic_capsules", "inputs": "stage2", "capsules": "$classes", "dim": 8},
            "lengths": {"layer": "capsule_length", "inputs": "digits"},
        },
        "outputs": {"classes": "lengths"},
    },
    "losses": {
        "classes": {"loss": "margin"},
        "decoder": {"loss": "reconstruction", "capsules": "digits", "image": "image", "hidden": [32], "weight": 5e-4},
        "align": {"loss": "optimal_transport", "latent": "stage2", "target": "stage2/input"},
    },
    "train": {"epochs": 2, "analysis": {"every": 1, "images": 32}},
}
BOARD, ROUTING = "run/tensorboard", "run/analysis/epochs"


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(load_spec(SPEC), run_dir=folder / "run")
    with tensorboard(folder) as server:
        server.wait_for(lambda: server.json("plugin/scalars/tags").get(ROUTING))
        yield server


def test_every_plugin_that_is_used_is_active(board):
    used = {"scalars", "images", "text", "histograms", "distributions", "graphs", "projector", "hparams"}

    def active():
        return used <= {name for name, plugin in board.json("plugins_listing").items() if plugin["enabled"]}

    assert board.wait_for(active)  # it looks for embeddings when it is first asked


def test_scalars(board):
    tags = board.json("plugin/scalars/tags")
    parts = ("loss", "accuracy", "decoder_loss")
    wanted = {f"{part}/{when}" for part in parts for when in ("training", "validation")}
    wanted |= {"align_loss/training", "align_mean_cost/training", "learning_rate", "images_per_second"}
    wanted |= {"gradient_norm/mean", "gradient_norm/last", "memory/process_peak_GB"}
    assert wanted <= set(tags[BOARD])
    for tag in wanted:
        points = board.json("plugin/scalars/scalars", run=BOARD, tag=tag)
        assert [step for _, step, _ in points] == [1, 2]
    assert "digits/activation/target/iteration 3" in tags[ROUTING]


def test_images(board):
    tags = board.json("plugin/images/tags")
    wanted = {
        "training images",
        "predictions",
        "confusion",
        "reconstructions/decoder",
        "transport_plan/align",
    }
    assert set(tags[BOARD]) == wanted
    assert {"digits/votes", "digits/iterations"} <= set(tags[ROUTING])
    for tag in wanted:
        newest = board.json("plugin/images/images", run=BOARD, tag=tag, sample=0)[-1]
        picture = board.raw("plugin/images/individualImage", **dict(urllib.parse.parse_qsl(newest["query"])))
        assert picture.startswith(b"\x89PNG")
        assert min(struct.unpack(">II", picture[16:24])) > 250  # width and height


def test_histograms_and_distributions(board):
    for plugin in ("histograms", "distributions"):
        tags = board.json(f"plugin/{plugin}/tags")
        wanted = {f"capsule_length_for_{of}/{digit}" for of in ("own_class", "other_classes") for digit in range(10)}
        assert set(tags[BOARD]) == wanted
        assert "digits/cosine/target" in tags[ROUTING]
        points = board.json(f"plugin/{plugin}/{plugin}", run=BOARD, tag="capsule_length_for_own_class/3")
        assert [point[1] for point in points] == [1, 2]


def test_text(board):
    assert {"spec/text_summary", "confusion/text_summary"} <= set(board.json("plugin/text/tags")[BOARD])
    (spec,) = board.json("plugin/text/text", run=BOARD, tag="spec/text_summary")
    assert "name: everything" in spec["text"]
    assert len(board.json("plugin/text/text", run=BOARD, tag="confusion/text_summary")) == 2


def test_graph(board):
    assert board.json("plugin/graphs/info")[BOARD]["run_graph"]
    text = board.text("plugin/graphs/graph", run=BOARD, conceptual="false")
    assert 'name: "stage2"' in text
    assert 'input: "stage2:' in text


def test_projector(board):
    assert BOARD in board.json("plugin/projector/runs")
    (embedding,) = board.json("plugin/projector/info", run=BOARD)["embeddings"]
    assert embedding["tensorShape"] == [144, 10 * 8]
    name = embedding["tensorName"]
    assert name == "class capsules, epoch 2"
    assert len(board.raw("plugin/projector/tensor", run=BOARD, name=name)) == 144 * 80 * 4
    labels = board.text("plugin/projector/metadata", run=BOARD, name=name).splitlines()
    assert labels[0].split("\t") == ["class", "predicted", "right", "score"]
    assert len(labels) == 145
    assert board.raw("plugin/projector/sprite_image", run=BOARD, name=name).startswith(b"\x89PNG")


def test_hyperparameters_and_what_came_of_them(board):
    experiment = board.post("plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True})
    columns = {info["name"] for info in experiment["hparamInfos"]}
    assert {"spec", "seed", "optimizer", "learning_rate", "batch_size", "epochs"} <= columns
    metric = {"group": "", "tag": "accuracy/validation"}
    assert metric in [info["name"] for info in experiment["metricInfos"]]
    question = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": metric}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    (group,) = board.post("plugin/hparams/session_groups", question)["sessionGroups"]
    assert group["hparams"]["optimizer"] == "adam"
    assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
    last = board.json("plugin/scalars/scalars", run=BOARD, tag="accuracy/validation")[-1][2]
    (value,) = (each["value"] for each in group["metricValues"] if each["name"] == metric)
    assert value == pytest.approx(last)
