"""The network in TensorBoard's Graphs tab."""

import re

import keras
import numpy as np
from support.side_loss_spec import spec_with
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encapkeras import build_model
from encapkeras.model.examine import examine_spec
from encapkeras.training.callbacks import TensorBoard
from encapkeras.training.tensorboard.graph_tab import graph_definition


def nodes_of(source, overrides=()):
    return {node.name: node for node in graph_definition(examine_spec(source, overrides)).node}


def shapes(node):
    return [[dim.size for dim in shape.dim] for shape in node.attr["_output_shapes"].list.shape]


def test_layers_are_operations_with_inputs_shapes_weights_and_arguments():
    nodes = nodes_of("encapnet_ot")
    stage = nodes["stage3"]
    assert (stage.op, list(stage.input)) == ("capsule_stage", ["stage2"])
    # Ports: out, input, main, half.
    assert shapes(stage) == [[-1, 8, 8, 32, 8], [-1, 16, 16, 32, 4], [-1, 8, 8, 32, 8], [-1, 8, 8, 32, 8]]
    assert stage.attr["weights"].i == 310784
    assert (stage.attr["dim"].s, stage.attr["kind"].s) == (b"8", b"master")
    assert list(nodes["losses/align4"].input) == ["stage4:3", "stage4:1"]
    assert shapes(nodes["losses/align4"]) == [[]]
    assert (nodes["image"].op, shapes(nodes["image"])) == ("input", [[-1, 32, 32, 3]])
    assert (nodes["outputs/classes"].op, list(nodes["outputs/classes"].input)) == ("margin", ["lengths"])


def test_blocks_are_paths_so_that_they_fold():
    nodes = nodes_of("resnet14")
    assert list(nodes["block3/convolutions/second"].input) == ["block3/convolutions/first"]
    assert list(nodes["block3/sum"].input) == ["block3/convolutions/normal", "block3/projected"]


def test_every_input_is_a_node():
    nodes = nodes_of(spec_with())
    assert list(nodes["losses/reconstruction"].input) == ["digits", "image", "labels"]
    for node in nodes.values():
        assert {re.sub(r":\d+$", "", name) for name in node.input} <= set(nodes)


def test_training_writes_it(tmp_path):
    model = build_model(spec_with())
    board = TensorBoard(tmp_path)
    board.set_model(model)
    board.on_epoch_begin(0)
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Graph() == graph_definition(model.examined)


def test_a_model_that_no_spec_made_has_none(tmp_path):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), callbacks=[TensorBoard(tmp_path)], verbose=0)
    assert not EventAccumulator(str(tmp_path)).Reload().Tags()["graph"]
