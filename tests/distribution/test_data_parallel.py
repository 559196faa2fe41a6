"""Several processes do what one does with the whole batch."""

import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from support.pages import blocks
from support.small_networks import INTERESTS, SMALL_NETWORKS, named
from support.warm import warm_python, warm_torchrun

from encapkeras.distribution import DataParallel, Processes, finish, initialize, parallel_steps
from encapkeras.errors import ArgumentError

SCRIPT = Path(__file__).with_name("trained_together.py")
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "KERAS_TORCH_DEVICE": "cpu"}
FLOAT64 = ("--dtype", "float64")


def trained(out, *options, script=SCRIPT, processes=1, code=0):
    """What each process found."""
    launcher = warm_torchrun(processes) if processes > 1 else warm_python()
    done = subprocess.run(
        [*launcher, str(script), str(out), *options], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert bool(done.returncode) == bool(code), done.stderr[-4000:]
    return [dict(np.load(path)) for path in sorted(out.glob("rank_*.npz"))]


def largest_difference(one, other, kind):
    names = [name for name in one if name.startswith(kind)]
    assert names
    assert one.keys() == other.keys()
    return max(np.abs(one[name].astype("float64") - other[name].astype("float64")).max() for name in names)


def assert_identical(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module")
def float32(tmp_path_factory):
    folder = tmp_path_factory.mktemp("float32")
    return trained(folder / "one"), trained(folder / "two", processes=2)


def test_two_processes_train_as_one_on_the_joined_batch(float32):
    [alone], (first, second) = float32
    assert largest_difference(alone, first, "weight") < 1e-5
    assert_identical(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 1e-3), ("float16", 1e-5)])
def test_two_processes_train_as_one_in_half_precision(tmp_path, precision, tolerance):
    """On CPUs float16 is the scaling of losses alone."""
    [alone] = trained(tmp_path / "one", "--precision", precision)
    first, second = trained(tmp_path / "two", "--precision", precision, processes=2)
    assert largest_difference(alone, first, "weight") < tolerance
    assert_identical(first, second)


@pytest.fixture(scope="module")
def keras_models(tmp_path_factory):
    folder, script = tmp_path_factory.mktemp("keras_models"), SCRIPT.with_name("keras_model_together.py")
    [alone] = trained(folder / "one", script=script)
    return alone, *trained(folder / "two", script=script, processes=2)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["synchronised", "frozen", "thawed", "own data", "predicted"])
def test_any_keras_model_is_trained_as_by_one_process(what, keras_models):
    alone, first, second = keras_models
    names = [name for name in alone if name.startswith(what)]
    assert names
    for name in names:
        np.testing.assert_allclose(first[name], alone[name], rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)


@pytest.mark.slow
def test_dropout_draws_other_numbers_in_each_process(keras_models):
    alone, first, second = keras_models
    names = [name for name in alone if name.startswith("dropout")]
    assert names
    for name in names:
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)
    assert np.abs(first["dropout loss"] - alone["dropout loss"]).max() > 1e-3
    masks = np.concatenate([first["masks"], second["masks"]])
    assert len(masks) == len(alone["masks"]) == 18
    assert len(np.unique(masks, axis=0)) == 18  # no sample has the mask of another, in any process


@pytest.mark.slow
def test_processes_that_do_not_do_the_same_are_told_so(keras_models):
    _, first, second = keras_models
    assert "process 0: training, 1; process 1: training, 4" in str(first["refused"])
    assert str(first["refused"]) == str(second["refused"])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_differ_from_one_by_rounding_alone(tmp_path, processes):
    [alone] = trained(tmp_path / "one", *FLOAT64)
    each = trained(tmp_path / "more", *FLOAT64, processes=processes)
    assert len(each) == processes
    for kind in ("weight", "statistic", "optimizer", "history acc", "evaluated acc", "predicted"):
        assert largest_difference(alone, each[0], kind) < 1e-12, kind
    for kind in ("history loss", "evaluated loss"):  # Keras' divide_no_nan rounds the mean loss of a batch to float32
        assert largest_difference(alone, each[0], kind) < 1e-6, kind
    for other in each[1:]:
        assert_identical(each[0], other)


ROUTINGS = ["attention", "dynamic", "em", "heinsen_2019", "heinsen_2022", "self", "variational_bayes"]
NETWORKS = {f"routing_{routing}": ["vars.types=4"] for routing in ROUTINGS} | SMALL_NETWORKS
for name in ("efficient_capsnet_small_norb", "routing_self_attention"):  # as efficient_capsnet
    del NETWORKS[name]


@pytest.mark.slow
@pytest.mark.parametrize("spec", **named(NETWORKS))
def test_two_processes_train_each_network_as_one_and_resume_exactly(tmp_path, spec):
    options = ["--spec", spec, *FLOAT64, *(word for change in NETWORKS[spec] for word in ("--set", change))]
    whole, _ = trained(tmp_path / "two", *options, processes=2)
    kinds = [kind for kind in ("weight", "statistic") if any(name.startswith(kind) for name in whole)]
    if spec != INTERESTS:  # its processes draw other numbers
        [alone] = trained(tmp_path / "one", *options)
        tolerance = 1e-6 if spec in SMALL_NETWORKS else 1e-9  # Keras' normalizations compute in float32
        for kind in kinds:
            assert largest_difference(alone, whole, kind) < tolerance, kind
        assert largest_difference(alone, whole, "predicted") < 1e-6
    options += ["--resume", str(tmp_path / "state")]
    assert trained(tmp_path / "parts", *options, "--end-at", "4", processes=2, code=1) == []
    first, second = trained(tmp_path / "parts", *options, processes=2)
    for kind in (*kinds, "optimizer", "evaluated", "predicted"):
        assert largest_difference(whole, first, kind) == 0, kind
    assert_identical(first, second)


@pytest.mark.slow
def test_a_training_that_one_process_is_told_to_end_goes_on_to_the_same_weights(tmp_path, float32):
    whole = float32[1][0]
    state = ["--resume", str(tmp_path / "state")]
    assert trained(tmp_path / "parts", *state, "--end-at", "4", processes=2, code=1) == []
    assert (tmp_path / "state" / "epoch_2_step_2.pt").is_file()  # the step after the signal is made, by both
    first, second = trained(tmp_path / "parts", *state, processes=2)
    for kind in ("weight", "statistic", "optimizer", "evaluated", "predicted"):
        assert largest_difference(whole, first, kind) == 0, kind
    assert_identical(first, second)


@pytest.mark.slow
def test_without_sync_each_has_its_own_statistics_and_all_have_the_same_weights(tmp_path, float32):
    first, second = trained(tmp_path, "--without-sync", processes=2)
    assert_identical(first, second)
    assert largest_difference(first, float32[1][0], "weight") > 1e-5
    assert np.isfinite(first["history loss"]).all()


def test_a_process_that_is_alone_trains_as_without():
    def trained_weights(attach):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        if attach:
            assert DataParallel().attach(model) is model
        model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=4, verbose=0)
        return model.get_weights()

    for with_strategy, without in zip(trained_weights(True), trained_weights(False), strict=True):
        np.testing.assert_array_equal(with_strategy, without)
    assert initialize() == Processes(rank=0, count=1)
    assert initialize().is_first
    finish()


class Counted(keras.metrics.Metric):
    """Adds up whole numbers."""

    def __init__(self):
        super().__init__(name="counted")
        self.total = self.add_variable((), "zeros", dtype="int32")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(keras.ops.cast(keras.ops.sum(y_true), "int32"))

    def result(self):
        return self.total


@pytest.mark.parametrize("counted", [13, 1024])
def test_a_metric_of_whole_numbers_counts_all_of_a_batch_that_cannot_be_divided(counted, monkeypatch):
    """Six processes count the same sample, each a sixth of it."""

    def sum_of_equal(tensors):
        for tensor in tensors:
            tensor.copy_(sum(tensor.clone() for _ in range(6)))

    monkeypatch.setattr(parallel_steps, "all_gather", lambda numbers: [numbers] * 6)
    monkeypatch.setattr(parallel_steps, "all_reduce_sum", sum_of_equal)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", metrics=[Counted()])
    steps = parallel_steps.ParallelSteps(model, Processes(rank=0, count=6), shard=True, sync_batch_norm=False)
    found = steps.test_step((torch.ones(1, 1), torch.full((1, 1), float(counted))))
    assert int(found["counted"]) == counted


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_no_process_can_wait_is_refused(timeout):
    with pytest.raises(ArgumentError, match=f"timeout must be a finite number of seconds above 0; received {timeout}"):
        DataParallel(timeout=timeout)


@pytest.mark.parametrize("what", ["compiled", "built"])
def test_a_model_that_is_not_ready_is_refused(what):
    model = keras.Sequential([keras.layers.Dense(1)] if what == "built" else [keras.Input((2,)), keras.layers.Dense(1)])
    if what == "built":
        model.compile("sgd", "mse")
    with pytest.raises(ArgumentError, match=f"is not {what}"):
        DataParallel().attach(model)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_script_of_the_page_trains(tmp_path, processes):
    page = Path(__file__).parents[2] / "docs" / "scaling.md"
    [script] = [block.text for block in blocks(page, "python")]
    (tmp_path / "many.py").write_text(script)
    command = [*warm_torchrun(processes), "many.py"]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("test accuracy") == 1
    assert keras.saving.load_model(tmp_path / "runs" / "many" / "model.keras").count_params() > 0


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.slow
def test_two_gpus_train_as_one(tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "KERAS_TORCH_DEVICE", "cuda")
    [alone], (first, second) = trained(tmp_path / "one"), trained(tmp_path / "two", processes=2)
    assert largest_difference(alone, first, "weight") < 1e-4
    assert_identical(first, second)
