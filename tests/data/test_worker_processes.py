"""Batches of image files: the same with any number of processes; these end with the epoch, an error or a stop."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import keras
import pytest
import torch
from support.commands import started
from support.dataset_files import write_image_folder

from encapkeras.data import AugmentSettings, DataSettings, load
from encapkeras.data.worker_processes import default_workers, in_workers
from encapkeras.errors import DataError

EVERYTHING = AugmentSettings(resize=12, crop=True, pad=1, mirror=True, brightness=0.2, hue=0.1, cutout=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_image_folder(tmp_path_factory.mktemp("images"), {"train": 6, "val": 2, "test": 2})


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    if multiprocessing.active_children():
        gc.collect()  # an error may hold on to the iterator, in a circle
    assert multiprocessing.active_children() == []


def parts(root, workers, monkeypatch, **settings):
    monkeypatch.setattr("encapkeras.data.splits.IN_MEMORY", 0)
    given = {"batch_size": 4, "augment": EVERYTHING, "validation": "own", **settings}
    return load(DataSettings(dataset="image_folder", root=str(root), image_size=8, workers=workers, **given), seed=5)


def count_starts(monkeypatch):
    starts = []
    start = multiprocessing.process.BaseProcess.start
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", lambda self: (starts.append(self), start(self)))
    return starts


def epochs(batches, count):
    return [[(images.clone(), labels.clone()) for images, labels in batches] for _ in range(count)]


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_processes(root, workers, monkeypatch):
    alone, shared = (epochs(parts(root, number, monkeypatch).train, 2) for number in (0, workers))
    for one, other in zip(alone, shared, strict=True):
        assert [len(labels) for _, labels in one] == [4, 4, 4, 4, 2]
        for (images, labels), (same, too) in zip(one, other, strict=True):
            assert torch.equal(images, same)
            assert torch.equal(labels, too)
    assert not torch.equal(alone[0][0][0], alone[1][0][0])


def test_a_batch_of_its_own_and_a_skipped_start_are_those_of_the_epoch(root, monkeypatch):
    train = parts(root, 2, monkeypatch).train
    [whole] = epochs(train, 1)
    train.set_epoch(0, skipped=2)
    [resumed] = epochs(train, 1)
    for index in range(5):
        assert torch.equal(train.batch(index, epoch=0)[0], whole[index][0])
        assert torch.equal(resumed[index][0], whole[max(index, 2)][0])


def test_global_random_states_are_not_touched(root, monkeypatch):
    before = torch.get_rng_state()
    epochs(parts(root, 2, monkeypatch).train, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_whoever_looks_at_one_batch_starts_no_process(root, monkeypatch):
    starts = count_starts(monkeypatch)
    train = parts(root, 2, monkeypatch).train
    next(iter(train))
    train.batch(3)
    assert starts == []


def test_processes_end_when_an_epoch_is_broken_off(root, monkeypatch):
    starts = count_starts(monkeypatch)
    iterator = iter(parts(root, 2, monkeypatch).train)
    next(iterator), next(iterator)
    assert len(starts) == 2
    del iterator
    assert multiprocessing.active_children() == []


def test_processes_have_ended_when_the_last_batch_comes(root, monkeypatch):
    iterator = iter(parts(root, 2, monkeypatch).train)
    for _ in range(5):
        next(iterator)
    assert multiprocessing.active_children() == []  # although the iterator is still there


def test_fit_starts_processes_once_an_epoch(root, monkeypatch):
    starts = count_starts(monkeypatch)
    splits = parts(root, 2, monkeypatch)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(splits.train, validation_data=splits.validation, epochs=2, verbose=0, shuffle=False)
    assert len(starts) == 2 * (2 + 1)  # the two batches of the validation need one process more than this one
    assert splits.train.epoch == 2


def test_fit_stops_in_the_middle_of_an_epoch(root, monkeypatch):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    splits = parts(root, 2, monkeypatch)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(KeyboardInterrupt):
        model.fit(splits.train, epochs=1, verbose=0, shuffle=False, callbacks=[Stop()])


def test_a_damaged_file_is_named_by_one_plain_error(tmp_path, monkeypatch):
    write_image_folder(tmp_path, {"train": 6, "test": 1})
    wrong = tmp_path / "train" / "owl" / "5.png"
    wrong.write_bytes(b"no image")
    train = parts(tmp_path, 2, monkeypatch, validation=0.0).train
    with pytest.raises(DataError) as caught:
        epochs(train, 1)
    assert str(caught.value) == (
        f"{wrong} cannot be read as an image: it is not in an image format that is read: JPEG, PNG, BMP, GIF, "
        "WEBP, TIFF, PPM. "
        "Replace or remove the file"
    )


def kill_a_worker(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.tensor(number)


def test_a_killed_process_is_told(monkeypatch):
    with pytest.raises(DataError, match=r"a process that decodes images ended: .*set data\.workers to fewer"):
        list(in_workers(kill_a_worker, range(8), workers=2))


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_process_killed_while_it_hands_over_is_told(monkeypatch, error):
    """The moment cannot be chosen: what torch raises then is put in its place."""

    def lost(self):
        raise error

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._next_data", lost)
    with pytest.raises(DataError, match=r"a process that decodes images ended: .*set data\.workers to fewer"):
        list(in_workers(torch.tensor, range(8), workers=1))


def fail(number):
    if number == 2:
        raise ZeroDivisionError("a mistake of ours")
    return torch.tensor(number)


def test_other_errors_keep_their_kind():
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        list(in_workers(fail, range(4), workers=1))


def slow_at_first(number):
    time.sleep(0.05 if number == 1 else 0)
    return torch.tensor(number)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_results_come_in_order(count):
    assert [int(made) for made in in_workers(slow_at_first, range(count), workers=3)] == list(range(count))


def test_processes_leave_ctrl_c_to_the_main_one():
    results = in_workers(torch.tensor, range(20), workers=1)
    next(results), next(results)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)
    assert [int(made) for made in results] == list(range(2, 20))


def test_there_are_a_few_by_default():
    assert 1 <= default_workers() <= 8


SCRIPT = """
import torch
from encapkeras.data.worker_processes import in_workers

results = in_workers(torch.tensor, range(1000), workers=2)
next(results), next(results)
{end}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("raise SystemExit(3)", 3), ("raise KeyboardInterrupt", -signal.SIGINT)]
)
def test_a_program_that_ends_in_the_middle_ends_at_once(end, code):
    words = [sys.executable, "-c", SCRIPT.format(end=end)]
    # No pipes: processes left behind would hold them open.
    with started(words, stderr=subprocess.DEVNULL, start_new_session=True) as program:
        assert program.wait(timeout=30) == code
    with pytest.raises(ProcessLookupError):
        os.killpg(program.pid, 0)
