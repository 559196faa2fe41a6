import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from encapkeras.callbacks import MetricsFile, NonFiniteStop, Resume, TensorBoard
from encapkeras.errors import ArgumentError, RunFolderError, TrainingError
from encapkeras.training.run.resume_state import checksum

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((40, 4, 4, 1), dtype=np.float32)
LABELS = (IMAGES.mean((1, 2, 3)) > 0.5).astype("int64")


class Killed(Exception):
    """The process ends here."""


class Kill(keras.callbacks.Callback):
    """Ends the process in a step, counted from 0 over all epochs, or with the validation of an epoch."""

    KEPT = ()

    def __init__(self, step=None, validation=None):
        super().__init__()
        self.step = step
        self.validation = validation
        self.steps = 0
        self.validations = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == self.step:
            raise Killed

    def on_test_end(self, logs=None):
        self.validations += 1
        if self.validations == self.validation:
            raise Killed


class Reversing(keras.utils.PyDataset):
    """Batches whose order is turned around after each epoch."""

    def __init__(self):
        super().__init__()
        self.order = list(range(4))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        part = slice(10 * self.order[index], 10 * self.order[index] + 10)
        return IMAGES[part], LABELS[part]


def arrays():
    return {"x": IMAGES, "y": LABELS, "batch_size": 10, "shuffle": True}


def loader():
    data = TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    return {"x": DataLoader(data, batch_size=10, shuffle=True)}


def dataset():
    return {"x": Reversing(), "shuffle": True}


def small_model(optimizer="adam"):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4, 4, 1)),
        keras.layers.Flatten(),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def trained(folder, data=arrays, kill=(), epochs=4, optimizer=lambda: "adam", **options):
    """What a script that is run again after each kill ends with: metrics, weights, what early stopping remembers."""
    for at in [*kill, None]:
        model = small_model(optimizer())
        stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=3)
        metrics = MetricsFile(folder / "metrics.csv")
        resume = Resume(folder / "states", also=[stopping, metrics], **{"minutes": 1e-9, **options})
        callbacks = [resume, stopping, metrics, *([at] if at else [])]
        try:
            given = {"shuffle": False, **data()}
            model.fit(**given, validation_data=(IMAGES, LABELS), epochs=epochs, callbacks=callbacks, verbose=0)
        except Killed:
            assert at
    weights = [weight.numpy().tobytes() for weight in [*model.weights, *model.optimizer.variables]]
    return (folder / "metrics.csv").read_text(), weights, stopping.wait, stopping.best


@pytest.fixture
def folders(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    return whole, parts


@pytest.mark.parametrize(
    ("data", "steps"),
    [(arrays, [1]), (arrays, [3]), (arrays, [4]), (arrays, [5, 2, 2]), (loader, [6]), (dataset, [6]), (dataset, [4])],
)
def test_a_training_that_was_killed_in_a_step_ends_as_if_it_was_not(folders, data, steps):
    whole, parts = folders
    assert trained(parts, data, [Kill(step) for step in steps]) == trained(whole, data)


@pytest.mark.parametrize("validation", [1, 3, 4])
def test_a_training_that_was_killed_in_a_validation_ends_as_if_it_was_not(folders, validation):
    whole, parts = folders
    assert trained(parts, kill=[Kill(validation=validation)]) == trained(whole)


@pytest.mark.parametrize("options", [{"minutes": None}, {"minutes": None, "epochs": 3}, {"keep": 1}])
def test_a_training_goes_on_from_what_was_saved_last(folders, options):
    whole, parts = folders
    options = {f"every_{key}" if key == "epochs" else key: value for key, value in options.items()}
    every = options.pop("every_epochs", 1)

    def resumed(folder, kill=()):
        for at in [*kill, None]:
            model = small_model()
            metrics = MetricsFile(folder / "metrics.csv")
            resume = Resume(folder / "states", also=[metrics], epochs=every, **options)
            try:
                model.fit(**arrays(), epochs=5, callbacks=[resume, metrics, *([at] if at else [])], verbose=0)
            except Killed:
                continue
        return (folder / "metrics.csv").read_text(), [weight.numpy().tobytes() for weight in model.weights]

    assert resumed(parts, [Kill(18), Kill(3)]) == resumed(whole)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, 16), use_ema=True),
        lambda: keras.optimizers.Adam(gradient_accumulation_steps=3),
    ],
)
def test_optimizers_go_on(folders, optimizer):
    whole, parts = folders
    assert trained(parts, kill=[Kill(6)], optimizer=optimizer) == trained(whole, optimizer=optimizer)


def test_a_training_that_has_ended_is_not_trained_again(tmp_path):
    first = trained(tmp_path)
    model = small_model()
    resume = Resume(tmp_path / "states", also=[keras.callbacks.EarlyStopping(), MetricsFile(tmp_path / "metrics.csv")])
    history = model.fit(**arrays(), epochs=4, callbacks=[resume], verbose=0)
    assert (resume.resumed_at.epoch, history.history) == (4, {})
    assert [weight.numpy().tobytes() for weight in model.weights] == first[1][: len(model.weights)]


def test_a_training_that_early_stopping_has_ended_is_not_trained_again(tmp_path):
    def fit():
        model = small_model(keras.optimizers.SGD(0.0))
        stopping = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=100)
        resume = Resume(tmp_path, also=[stopping])
        return model.fit(**arrays(), epochs=9, callbacks=[resume, stopping], verbose=0).epoch

    assert fit() == [0, 1]
    assert fit() == []


def test_only_the_newest_states_are_kept(tmp_path):
    trained(tmp_path, kill=[Kill(7)], keep=3)
    names = {path.name for path in (tmp_path / "states").glob("*.pt")}
    assert names == {"epoch_4_step_3.pt", "epoch_4_step_4.pt", "epoch_5_step_0.pt"}


def test_another_model_is_refused(tmp_path):
    trained(tmp_path)
    inputs = keras.Input((4, 4, 1))
    other = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    other.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(TrainingError, match="variables of its weights; this one has"):
        other.fit(**arrays(), callbacks=[Resume(tmp_path / "states")], verbose=0)


def test_a_damaged_state_is_told(tmp_path):
    trained(tmp_path)
    newest = tmp_path / "states" / "epoch_5_step_0.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.raises(TrainingError, match=r"epoch_5_step_0\.pt.*Move it away"):
        trained(tmp_path)


def test_a_file_that_has_become_shorter_is_told(tmp_path):
    trained(tmp_path)
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(TrainingError, match=r"metrics\.csv has 0 bytes"):
        trained(tmp_path)


def test_other_callbacks_are_told(tmp_path):
    trained(tmp_path)
    with pytest.raises(TrainingError, match="has the callbacks EarlyStopping, MetricsFile; now it has none"):
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path / "states")], verbose=0)


def test_weights_that_are_not_finite_replace_no_state(tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.weights[0].assign(np.full(16, np.nan))

    resume = Resume(tmp_path, minutes=1e-9, keep=1)
    with pytest.raises(TrainingError, match="is not finite at epoch 1, step 3"):
        small_model().fit(**arrays(), callbacks=[resume, Spoil()], verbose=0)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["epoch_1_step_2.pt"]


def test_a_folder_that_cannot_be_written_is_found_before_the_training(tmp_path):
    (tmp_path / "states").write_text("")
    with pytest.raises(RunFolderError, match="could not be written"):
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path / "states")], verbose=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_after_its_step(folders, number, capfd):
    whole, parts = folders
    before = signal.getsignal(number)

    class Send(Kill):
        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == self.step:
                signal.raise_signal(number)

    with pytest.raises((KeyboardInterrupt, SystemExit)) as stop:
        trained(parts, kill=[Send(6)], minutes=None)
    if number == signal.SIGINT:
        assert "ended by SIGINT at epoch 2, step 3" in str(stop.value)
    else:
        assert stop.value.code == 143
        assert "ended by SIGTERM at epoch 2, step 3" in capfd.readouterr().err
    assert signal.getsignal(number) is before
    assert (parts / "states" / "epoch_2_step_3.pt").is_file()
    assert trained(parts) == trained(whole)


@pytest.mark.parametrize("exchange", range(1, 22))
def test_a_signal_that_comes_while_processes_exchange_theirs_is_not_lost(folders, exchange, monkeypatch):
    """Which of them have received one is asked between steps, and the answer takes a while."""
    calls = []

    def exchanging(number):
        calls.append(number)
        if len(calls) == exchange:
            signal.raise_signal(signal.SIGTERM)
        return number

    monkeypatch.setattr("encapkeras.training.callbacks.resume.all_reduce_max", exchanging)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # hears the last one
    try:
        with pytest.raises(SystemExit) as stop:
            trained(folders[1], minutes=None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 143


def test_a_signal_that_another_process_received_is_a_reason_to_save(tmp_path, monkeypatch):
    calls = []

    def exchanging(number):
        calls.append(number)
        return signal.SIGTERM if len(calls) == 6 else number  # as the second epoch begins

    monkeypatch.setattr("encapkeras.training.callbacks.resume.all_reduce_max", exchanging)
    resume = Resume(tmp_path, minutes=None, epochs=3)
    with pytest.raises(SystemExit):
        small_model().fit(**arrays(), epochs=4, callbacks=[resume], verbose=0)
    assert (tmp_path / "epoch_2_step_0.pt").is_file()
    assert len(small_model().fit(**arrays(), epochs=4, callbacks=[resume], verbose=0).epoch) == 3  # the signal is over


def test_steps_of_another_length_are_refused(tmp_path):
    with pytest.raises(Killed):
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path, minutes=1e-9), Kill(3)], verbose=0)
    larger = {**arrays(), "batch_size": 20}
    with pytest.raises(TrainingError, match="has epochs of 4 steps; now they have 2"):
        small_model().fit(**larger, callbacks=[Resume(tmp_path)], verbose=0)


def test_a_fit_that_ended_with_an_error_leaves_nothing_behind(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Killed):
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path, minutes=1e-9), Kill(3)], verbose=0)
    model = small_model()
    with pytest.raises(Killed):  # while batches are thrown away
        model.fit(**arrays(), callbacks=[Resume(tmp_path), NonFiniteStop(), Kill(1)], verbose=0)
    weights = model.get_weights()
    assert len(model.fit(**arrays(), epochs=2, verbose=0).epoch) == 2
    assert any((now != then).any() for now, then in zip(model.get_weights(), weights, strict=True))
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(Killed):
            small_model().fit(**arrays(), callbacks=[Resume(tmp_path), Kill(1)], verbose=0)
        signal.raise_signal(signal.SIGTERM)  # goes to whom it would without us
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_the_average_of_weights_is_not_taken_for_weights_when_there_are_more_epochs(folders):
    def weights(folder, *epochs):
        for number in epochs:
            model = small_model(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5))
            model.fit(**arrays(), epochs=number, callbacks=[Resume(folder)], verbose=0)
        return [weight.tobytes() for weight in model.get_weights()]

    whole, parts = folders
    assert weights(parts, 2, 4) == weights(whole, 4)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    holding = f"import fcntl, time; f = open({str(tmp_path / '.lock')!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
    command = [sys.executable, "-c", f"{holding}print('held', flush=True); time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(TrainingError, match="another process is training"):
            small_model().fit(**arrays(), callbacks=[Resume(tmp_path)], verbose=0)
        other.kill()
    small_model().fit(**arrays(), callbacks=[Resume(tmp_path)], verbose=0)


def test_event_files_of_other_runs_stay(tmp_path):
    def fit():
        board = TensorBoard(tmp_path / "logs")
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path / "states", also=[board]), board], verbose=0)

    fit()
    other = tmp_path / "logs" / "other" / "events.out.tfevents.1"
    other.parent.mkdir()
    other.write_bytes(b"of another run")
    fit()
    assert other.read_bytes() == b"of another run"


def test_what_a_callback_was_made_with_counts(tmp_path):
    def fit(patience):
        stopping = keras.callbacks.EarlyStopping("loss", patience=patience)
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path, also=[stopping]), stopping], verbose=0)
        return stopping

    assert fit(3).patience == 3
    again = fit(7)
    assert again.patience == 7
    assert again.best is not None


@pytest.mark.parametrize("options", [{"keep": 0}, {"epochs": 0}, {"minutes": -1}])
def test_numbers_that_save_nothing_are_refused(tmp_path, options):
    with pytest.raises(ArgumentError, match="must be at least 1"):
        Resume(tmp_path, **options)


@pytest.mark.parametrize("validation", [{}, {"validation_data": (IMAGES, LABELS)}])
def test_more_epochs_have_the_metrics_of_one_go(folders, validation):
    def fit(folder, *epochs):
        for number in epochs:
            table = MetricsFile(folder / "metrics.csv")
            callbacks = [Resume(folder / "states", also=[table]), table]
            history = small_model().fit(**arrays(), **validation, epochs=number, callbacks=callbacks, verbose=0).history
        return {name: values[-1] for name, values in history.items()}, (folder / "metrics.csv").read_text()

    whole, parts = folders
    assert fit(parts, 1, 2) == fit(whole, 2)


@pytest.mark.parametrize("step", [5, 8, 9, 13, 16])
def test_a_table_with_later_columns_is_cut_back_to_its_rows(folders, step):
    def fit(folder, kill):
        for at in [*kill, None]:
            table = MetricsFile(folder / "metrics.csv")
            callbacks = [Resume(folder / "states", also=[table], epochs=2, minutes=None), table, *([at] if at else [])]
            try:
                options = {"validation_data": (IMAGES, LABELS), "validation_freq": 2, "epochs": 5, "verbose": 0}
                small_model().fit(**arrays(), **options, callbacks=callbacks)
            except Killed:
                continue
        return (folder / "metrics.csv").read_text()

    whole, parts = folders
    assert fit(parts, [Kill(step), Kill(3)]) == fit(whole, [])


def test_columns_that_are_not_those_of_the_training_are_refused(tmp_path):
    trained(tmp_path)
    text = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(text.replace("val_loss", "other"))
    with pytest.raises(TrainingError, match=r"has the columns .*other; when the training was saved it had"):
        trained(tmp_path)


def test_steps_per_epoch_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ArgumentError, match="does not work with steps_per_epoch of fit, here 3"):
        small_model().fit(**arrays(), steps_per_epoch=3, callbacks=[Resume(tmp_path / "states")], verbose=0)
    assert list(tmp_path.iterdir()) == []


def test_resume_after_a_callback_that_it_restores_is_warned_of(tmp_path):
    stopping = keras.callbacks.EarlyStopping("loss")
    with pytest.warns(UserWarning, match="Resume comes after EarlyStopping in the callbacks of fit") as warned:
        small_model().fit(**arrays(), callbacks=[stopping, Resume(tmp_path, also=[stopping])], verbose=0)
    assert len([each for each in warned if "Resume" in str(each.message)]) == 1


def changed(folder, change, more=None):
    """Changes the newest state of a training and gives it the right checksum, but for `more`."""
    path = max(folder.glob("*.pt"))
    state = torch.load(path, weights_only=True)
    del state["checksum"]
    change(state)
    state = {**state, "checksum": checksum(state)}
    torch.save(state if more is None else {**state, "more": more}, path)


@pytest.mark.parametrize("outside", ["absolute", "../victim", "events.out.tfevents.1/../../victim", "victim"])
def test_a_state_that_names_files_outside_changes_nothing(tmp_path, outside):
    trained(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    name = str(victim) if outside == "absolute" else outside
    changed(tmp_path / "states", lambda state: state["callbacks"][1]["lengths"][0].update({name: 0}))
    before = (tmp_path / "metrics.csv").read_text()
    with pytest.raises(TrainingError, match="resume state is damaged: it names"):
        trained(tmp_path)
    assert victim.read_text() == "mine" and (tmp_path / "metrics.csv").read_text() == before


@pytest.mark.parametrize(
    ("callback", "kept"),
    [(1, {"path": "/elsewhere"}), (1, {"columns": "x"}), (0, {"monitor": "x"}), (0, {"on_epoch_end": 1}), (0, {1: 2})],
)
def test_a_state_sets_no_other_attributes_of_callbacks(tmp_path, callback, kept):
    trained(tmp_path)
    changed(tmp_path / "states", lambda state: state["callbacks"][callback]["kept"].update(kept))
    with pytest.raises(TrainingError, match="resume state"):
        trained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "4"},
        {"model": []},
        {"random": {"epoch": 1, "step": 2}},
        {"callbacks": [None, None]},
        {"position": [2, 0]},
        {"format": 3},
    ],
)
def test_a_state_with_a_changed_field_is_one_clear_error(tmp_path, change):
    with pytest.raises(Killed):
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path, minutes=1e-9), Kill(3)], verbose=0)
    changed(tmp_path, lambda state: state.update(change))
    with pytest.raises(TrainingError, match="resume state"):
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path)], verbose=0)


def test_a_small_state_of_endless_content_is_damaged_at_once(tmp_path):
    small_model().fit(**arrays(), callbacks=[Resume(tmp_path)], verbose=0)
    endless = [0] * 1000
    for _ in range(5):
        endless = [endless] * 1000
    changed(tmp_path, lambda state: None, endless)
    with pytest.raises(TrainingError, match="damaged: it holds more than its file could"):
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path)], verbose=0)


@pytest.mark.parametrize("keep_table", [True, False])
def test_a_state_whose_tensors_would_be_left_unread_is_damaged(tmp_path, keep_table):
    small_model().fit(**arrays(), callbacks=[Resume(tmp_path)], verbose=0)
    path = max(tmp_path.glob("*.pt"))
    if keep_table:  # a bit of the weights, with the checksum of the archive
        state = torch.load(path, weights_only=True)
        state["model"]["weights"][0][1].view(torch.int32)[0] ^= 1
        torch.save(state, path)
    else:  # the mark of a directory
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as file:
            entry = content.index(b"PK\x01\x02", file.start_dir + 1)
        content[entry + 38] |= 0x10
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"its content has another checksum|an entry in it is .* a folder"):
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path)], verbose=0)


def test_event_files_that_are_links_are_neither_cut_nor_removed(tmp_path):
    def fit():
        board = TensorBoard(tmp_path / "logs")
        small_model().fit(**arrays(), callbacks=[Resume(tmp_path / "states", also=[board]), board], verbose=0)

    fit()
    (tmp_path / "victim").write_bytes(b"mine")
    link = tmp_path / "logs" / "events.out.tfevents.2"
    link.symlink_to(tmp_path / "victim")
    changed(tmp_path / "states", lambda state: state["callbacks"][0]["lengths"][0].update({link.name: 0}))
    fit()
    assert link.is_symlink() and (tmp_path / "victim").read_bytes() == b"mine"
